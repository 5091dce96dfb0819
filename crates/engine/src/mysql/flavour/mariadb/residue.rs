//! What a restart of MariaDB left in the relay log, received and not applied.
//!
//! Guarantees: it is known before anything can purge it, and applied from the very byte where it begins.
//! Does not know: what the instance is to be next; whatever that is, it has to have applied what it received.

use super::{POSITIONS, Replication, binlog, position};
use crate::Error;
use crate::mysql::flavour::Flavour as _;
use crate::mysql::sql::quote;
use crate::mysql::{MySqlEngine, Residue, STATEMENT, binlog_index, blocking, io};
use holdfast_core::Position;
use holdfast_core::position::MariaDbPosition;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Remembers what a restart left in the relay log, since starting a replication thread would purge it, and begins to
/// apply it. `false`: something is missing, of the relay log or of what the crash recovery `cut` off the binary log and
/// the relay log does not give back.
pub(super) async fn settle(engine: &MySqlEngine, mut cut: BTreeSet<String>) -> Result<bool, Error> {
    let tables = engine.sessions.act.run("reading positions", POSITIONS, STATEMENT).await?;
    let applied = super::MariaDb.read_positions(&tables)?;
    let replicates = engine.replication().await?.is_some();
    let index = engine.logs().relay;
    let (residue, lost_nothing) = blocking(move || {
        let (files, whole) = binlog_index::unbroken(&index).map_err(io("reading", &index))?;
        let (residue, follows) = residue(&files, position(&applied)?, &mut cut)?;
        Ok((residue, whole && follows && cut.is_empty() && !(replicates && files.is_empty())))
    })
    .await?;
    let left = residue.is_some();
    engine.state().residue = residue;
    if left {
        engine.receive_no_more().await?;
    }
    Ok(lost_nothing)
}

/// In GTID mode starting a thread would purge the log, so the server is pointed at the very file and byte instead.
pub(super) async fn apply(engine: &MySqlEngine, r: Option<&Replication>) -> Result<(), Error> {
    let Some(residue) = engine.state().residue.clone() else { return Ok(()) };
    let file = residue.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Whom it came from does not matter any more, but the server wants a name.
    let host = match r {
        Some(r) if !r.host.is_empty() => String::new(),
        _ => "MASTER_HOST='127.0.0.1', ".into(),
    };
    let threads =
        engine.act("looking at replication", "SELECT @@global.slave_parallel_threads AS threads").await?;
    let threads = threads.first().and_then(|t| t.number::<u32>(0, "threads")).filter(|n| *n > 0);
    {
        let mut state = engine.state();
        state.parallel_threads = state.parallel_threads.or(threads);
    }
    // One thread: several would crash the server here (10.11.19), which then looks for a primary's log name that
    // this position does not have.
    let sql = format!(
        "STOP SLAVE; SET GLOBAL slave_parallel_threads=0; SET GLOBAL rpl_semi_sync_master_enabled=0; CHANGE MASTER TO {host}MASTER_USE_GTID=no, RELAY_LOG_FILE={}, RELAY_LOG_POS={}; \
         START SLAVE SQL_THREAD",
        quote(&file),
        residue.offset
    );
    engine.act("applying what was received before the restart", sql).await?;
    Ok(())
}

/// Undoes what [`apply`] changed. With replication stopped.
pub(super) async fn restore_threads(engine: &MySqlEngine) -> Result<(), Error> {
    let threads = engine.state().parallel_threads;
    if let Some(n) = threads {
        engine
            .act(
                "restoring parallel replication",
                format!("STOP ALL SLAVES; SET GLOBAL slave_parallel_threads={n}"),
            )
            .await?;
        engine.state().parallel_threads = None;
    }
    Ok(())
}

/// What the relay log holds beyond `applied`, up to the first gap, and whether there is none. Removes from `cut` what it
/// finds of that.
fn residue(
    files: &[PathBuf],
    applied: &MariaDbPosition,
    cut: &mut BTreeSet<String>,
) -> Result<(Option<Residue>, bool), Error> {
    let (mut position, mut first) = (MariaDbPosition::default(), None);
    let mut last: BTreeMap<u32, u64> = applied.last_per_domain().map(|(d, _, n)| (d, n)).collect();
    let mut follows = true;
    for file in files {
        let scan = binlog::scan(file, |t| !t.within(applied)).map_err(|e| Error::Log(e.to_string()))?;
        for t in &scan.transactions {
            let before = last.entry(t.domain).or_insert(t.sequence);
            // What comes after a gap would pass for having what is in the gap.
            follows &= t.sequence <= before.saturating_add(1);
            if !follows {
                break;
            }
            *before = t.sequence.max(*before);
            cut.remove(&t.gtid());
            position.add(t.domain, t.server, t.sequence);
            first.get_or_insert_with(|| (file.clone(), t.start));
        }
        if !follows {
            break;
        }
    }
    let residue = first.map(|(file, offset)| Residue { position: Position::MariaDb(position), file, offset });
    Ok((residue, follows))
}
