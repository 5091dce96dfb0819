//! The log and the vote, as openraft wants them, over [`Disk`].
//!
//! Guarantees: `append` and `save_vote` answer after the fsync. How far the log is committed is written along with
//! the next append, without an fsync of its own: an older value is still true, it only means that a restarted
//! voter waits for its leader before it applies the rest.

use super::disk::Disk;
use super::types::{Entry, LogId, StorageError, Types, Vote};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError};
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    disk: Arc<Disk>,
    committed: Option<LogId>,
    /// Bytes of the entries on disk, about.
    bytes: Arc<AtomicU64>,
}

impl Log {
    pub(crate) fn new(disk: Arc<Disk>) -> Result<Log, super::disk::Error> {
        let (committed, bytes) = (disk.committed()?, disk.log_bytes()?);
        Ok(Log { disk, committed, bytes: Arc::new(AtomicU64::new(bytes)) })
    }

    /// Shared count of the log's bytes.
    pub(crate) fn bytes(&self) -> Arc<AtomicU64> {
        self.bytes.clone()
    }
}

/// Runs a disk operation where blocking is allowed.
pub(crate) async fn on_disk<T: Send + 'static>(
    disk: &Arc<Disk>,
    f: impl FnOnce(&Disk) -> Result<T, super::disk::Error> + Send + 'static,
) -> Result<T, AnyError> {
    let disk = disk.clone();
    let done = tokio::task::spawn_blocking(move || f(&disk)).await;
    done.map_err(|e| AnyError::new(&e))?.map_err(|e| any(&e))
}

/// The error with its causes: openraft keeps only one level.
pub(crate) fn any(e: &super::disk::Error) -> AnyError {
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(c) = cause {
        text = format!("{text}: {c}");
        cause = c.source();
    }
    AnyError::error(text)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let first = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => i.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let last = match range.end_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(0) => return Ok(Vec::new()),
            Bound::Excluded(i) => i - 1,
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.disk.entries(first..=last, false).map_err(|e| StorageIOError::read_logs(any(&e)))?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        if start >= end {
            return Ok(Vec::new());
        }
        Ok(self.disk.entries(start..=end - 1, true).map_err(|e| StorageIOError::read_logs(any(&e)))?)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let state = self.disk.log_state().map_err(|e| StorageIOError::read_logs(any(&e)))?;
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = on_disk(&self.disk, move |disk| disk.save_vote(&vote)).await;
        Ok(saved.map_err(StorageIOError::write_vote)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.disk.vote().map_err(|e| StorageIOError::read_vote(any(&e)))?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let committed = self.committed;
        let appended = on_disk(&self.disk, move |disk| disk.append(&entries, committed)).await;
        self.bytes.fetch_add(appended.map_err(StorageIOError::write_logs)?, Ordering::Relaxed);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let bytes = on_disk(&self.disk, move |disk| {
            disk.truncate(log_id.index)?;
            disk.log_bytes()
        });
        self.bytes.store(bytes.await.map_err(StorageIOError::write_logs)?, Ordering::Relaxed);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let bytes = on_disk(&self.disk, move |disk| {
            disk.purge(&log_id)?;
            disk.log_bytes()
        });
        self.bytes.store(bytes.await.map_err(StorageIOError::write_logs)?, Ordering::Relaxed);
        Ok(())
    }
}
