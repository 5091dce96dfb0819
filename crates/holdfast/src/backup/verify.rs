//! Proving a backup: it is restored, a server is started on it, and every table is checked and read through.
//!
//! Guarantees: nobody but this process reaches the server, and nothing of it stays. What was found is filed with the
//! backup, good or bad.

use super::{Error, blocking, facts, restore};
use crate::clock::unix_ms;
use holdfast_backup::{BackupId, Progress, Proof, Repository, Staged, Summary};
use holdfast_engine::mysql::scratch::Scratch;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Complaints that a proof lists.
const COMPLAINTS_MAX: usize = 50;

/// What is to be proven, and where the copy may lie meanwhile.
#[derive(Debug, Clone)]
pub struct Verify {
    pub service: String,
    pub id: BackupId,
    /// A directory with room for the whole copy.
    pub scratch: PathBuf,
}

pub async fn verify(repository: &Repository, what: Verify, progress: Arc<Progress>) -> Result<Proof, Error> {
    let began = unix_ms();
    let (from, wanted) = (repository.clone(), what.clone());
    let (reading, earlier, dir) = blocking(move || {
        let reading = from.read(&wanted.service, &wanted.id, "verify", unix_ms())?;
        let earlier = from.proofs(&wanted.service)?.found.remove(&wanted.id).unwrap_or_default();
        let dir = tempfile::Builder::new().prefix("holdfast-verify-").tempdir_in(&wanted.scratch);
        Ok((reading, earlier, dir.map_err(super::io("creating a directory in", &wanted.scratch))?))
    })
    .await?;
    let summary = reading.summary.clone();
    let root = dir.path().to_owned();
    let staged = blocking(move || Ok(Staged::begin(&root.join("copy"))?)).await?;
    let restored = restore::files(reading, staged, progress, false).await;
    let outcome = match &restored {
        Ok(staged) => match examine(&summary, staged.path(), dir.path()).await {
            Ok(found) => Ok(found),
            Err(e) => Err(broken(&e)?),
        },
        Err(e) => Err(broken(e)?),
    };
    let (mut found, mut complaints) = match outcome {
        Ok(found) => found,
        Err(words) => (BTreeMap::new(), vec![words]),
    };
    complaints.extend(facts::differences(&summary.facts, &found));
    if let Some(before) = earlier.iter().rfind(|p| p.good) {
        let differs = facts::differences(&before.found, &found).into_iter();
        complaints.extend(differs.map(|d| format!("it was another in an earlier proof: {d}")));
    }
    let good = complaints.is_empty();
    found.extend(
        complaints.into_iter().take(COMPLAINTS_MAX).enumerate().map(|(n, c)| (format!("wrong {n:02}"), c)),
    );
    let now = unix_ms();
    let proof = Proof {
        service: what.service,
        id: what.id,
        at_unix_ms: now,
        took_ms: now.saturating_sub(began),
        good,
        found,
    };
    let (to, record) = (repository.clone(), proof.clone());
    blocking(move || {
        drop((restored, dir));
        Ok(to.record_proof(&record)?)
    })
    .await?;
    Ok(proof)
}

/// Whether a failure says something about the backup, or only about this attempt.
fn broken(e: &Error) -> Result<String, Error> {
    use holdfast_backup::Error as Repo;
    match e {
        Error::Repository(
            Repo::Damaged { .. } | Repo::Storage(holdfast_backup::storage::Error::Absent(_)),
        ) => Ok(crate::agent::chain(e)),
        // A program that is missing says nothing about the backup; one that refuses it does.
        Error::Engine(holdfast_engine::Error::Io { .. } | holdfast_engine::Error::BadSpec(_)) => {
            Err(Error::Refused(format!("nothing was proven: {}", crate::agent::chain(e))))
        }
        Error::Engine(_) => Ok(crate::agent::chain(e)),
        Error::Repository(Repo::NoRoom { path, needed_bytes, free_bytes }) => {
            Err(Repo::NoRoom { path: path.clone(), needed_bytes: *needed_bytes, free_bytes: *free_bytes }
                .into())
        }
        e => Err(Error::Refused(format!("nothing was proven: {}", crate::agent::chain(e)))),
    }
}

type Found = (BTreeMap<String, String>, Vec<String>);

/// What a server says of the copy; an error if none starts on it.
async fn examine(summary: &Summary, copy: &Path, work: &Path) -> Result<Found, Error> {
    let mut found = BTreeMap::from([
        ("files".to_owned(), summary.files.to_string()),
        ("bytes".to_owned(), summary.raw_bytes.to_string()),
    ]);
    if summary.engine != "mariadb" {
        return Ok((found, Vec::new()));
    }
    let run = work.join("r");
    std::fs::create_dir(&run).map_err(super::io("creating", &run))?;
    let scratch = Scratch::start(copy, &run).await?;
    let tables = scratch.tables().await?;
    let names: Vec<String> = tables.iter().map(|(s, t)| format!("{s}.{t}")).collect();
    found.extend(facts::tables(&names, &names));
    let (mut counted, mut complaints) = (Vec::new(), Vec::new());
    for (schema, table) in &tables {
        let examined = scratch.examine(schema, table).await?;
        match examined.complaint {
            Some(words) => complaints.push(format!("{schema}.{table}: {words}")),
            None => counted.push(examined.counted),
        }
    }
    found.extend(facts::counts(&counted));
    let sequences = scratch.sequences().await?;
    for (schema, name) in &sequences {
        let complaint = scratch.check(schema, name).await?;
        complaints.extend(complaint.map(|words| format!("{schema}.{name}: {words}")));
    }
    found.insert("sequences".to_owned(), sequences.len().to_string());
    scratch.stop().await?;
    Ok((found, complaints))
}
