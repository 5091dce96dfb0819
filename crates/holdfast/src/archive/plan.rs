//! Which backup and which part of the kept log lead to what is wanted. Reads only.

use super::history::{self, Reached, Refused, Target};
use super::walk::Walk;
use crate::backup::Error;
use holdfast_backup::{BackupId, Repository, Summary};
use holdfast_core::Position;

/// A restore that was found possible.
pub struct Plan {
    pub backup: Summary,
    pub walk: Walk,
    /// Of the server whose log is replayed.
    pub version: String,
}

/// What a text asks for: `latest`, a moment, or a transaction.
pub fn target(text: &str) -> Option<Target> {
    if text == "latest" {
        return Some(Target::Latest);
    }
    crate::clock::from_utc(text).map(Target::Moment).or_else(|| transaction(text).map(Target::Upto))
}

/// A single transaction's id.
pub fn transaction(text: &str) -> Option<Position> {
    // Only MariaDB's logs are replayed so far.
    let single = !text.contains(',') && !text.is_empty();
    Position::mariadb(text).ok().filter(|_| single)
}

/// The last backup from which the log leads to `target`; `id`: that one or none.
pub fn plan(
    repository: &Repository,
    service: &str,
    id: Option<&BackupId>,
    target: &Target,
) -> Result<Plan, Error> {
    let runs = repository.runs(service)?;
    if runs.is_empty() {
        return Err(Refused::NoLog.into());
    }
    let mut backups = repository.list(Some(service))?.backups;
    backups.retain(|b| id.is_none_or(|id| b.id == *id));
    let mut refused = None;
    for backup in backups.into_iter().rev() {
        let start = match start(&backup, target) {
            Ok(Some(start)) => start,
            Ok(None) => continue,
            Err(why) => {
                refused.get_or_insert(why);
                continue;
            }
        };
        match history::legs(&runs, &start, backup.finished_unix_ms, target) {
            Ok(legs) => {
                let version = legs.last().map_or_else(String::new, |leg| leg.run.last.version.clone());
                let (repository, service) = (repository.clone(), service.to_owned());
                let walk = Walk { repository, service, legs, start, target: target.clone() };
                return Ok(Plan { backup, walk, version });
            }
            Err(why) => _ = refused.get_or_insert(why),
        }
    }
    Err(refused.unwrap_or(Refused::NoBackupBefore).into())
}

/// Where a backup stands. `None` if that is beyond the target.
fn start(backup: &Summary, target: &Target) -> Result<Option<Position>, Refused> {
    if matches!(target, Target::Moment(ms) if backup.finished_unix_ms > *ms) {
        return Ok(None);
    }
    let text = backup.position.as_ref().filter(|_| backup.engine == "mariadb" && backup.method == "hot");
    let start = text.and_then(|text| history::position(&backup.engine, text)).ok_or(Refused::NoPosition)?;
    let beyond = match target {
        Target::Upto(one) | Target::Before(one) => {
            Reached::at(&start).is_some_and(|reached| reached.covers(one))
        }
        Target::Latest | Target::Moment(_) => false,
    };
    Ok((!beyond).then_some(start))
}
