//! The state machine, as openraft wants it: the [`View`] in memory, snapshots on [`Disk`].
//!
//! Guarantees: a snapshot is on disk before anything it covers may be purged. The applied state itself is never
//! written: after a crash it is the snapshot plus the committed entries after it, which are all on disk (that is
//! what committed means), so an fsync per apply would buy nothing.

use super::disk::Disk;
use super::log::on_disk;
use super::types::{Entry, LogId, Outcomes, SnapshotMeta, StorageError, StoredMembership, Types, Voter};
use crate::state::State;
use crate::view::View;
use openraft::storage::{RaftStateMachine, Snapshot, SnapshotSignature};
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use std::io::Cursor;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    view: Arc<View>,
    disk: Arc<Disk>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Machine {
    /// Loads the snapshot, if there is one, into the view.
    pub(crate) fn load(disk: Arc<Disk>, view: Arc<View>) -> Result<Machine, super::Error> {
        let mut machine = Machine { view, disk, applied: None, membership: StoredMembership::default() };
        if let Some((meta, data)) = machine.disk.snapshot()? {
            machine.view.replace(State::decode(&data).map_err(super::Error::Snapshot)?);
            machine.stand_at(&meta);
        }
        Ok(machine)
    }

    fn stand_at(&mut self, meta: &SnapshotMeta) {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.view.announce(meta.last_log_id.map_or(0, |id| id.index));
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, openraft::StoredMembership<u64, Voter>), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Outcomes::default(),
                EntryPayload::Normal(batch) => Outcomes(self.view.apply(&batch.0)),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Outcomes::default()
                }
            });
        }
        if let Some(applied) = self.applied {
            self.view.announce(applied.index);
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.view.state(),
            disk: self.disk.clone(),
            applied: self.applied,
            membership: self.membership.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let data = snapshot.into_inner();
        let io_error = |e| StorageIOError::write_snapshot(Some(meta.signature()), e);
        let state = State::decode(&data).map_err(|e| io_error(AnyError::new(&e)))?;
        let owned = meta.clone();
        on_disk(&self.disk, move |disk| disk.save_snapshot(&owned, &data)).await.map_err(io_error)?;
        self.view.replace(state);
        self.stand_at(meta);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let snapshot = on_disk(&self.disk, Disk::snapshot).await;
        let snapshot = snapshot.map_err(|e| StorageIOError::read_snapshot(None, e))?;
        Ok(snapshot.map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
    }
}

/// A consistent copy of the state, to be written as a snapshot.
#[derive(Debug)]
pub(crate) struct Builder {
    state: Arc<State>,
    disk: Arc<Disk>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: self.applied.map_or_else(|| "empty".to_owned(), |id| id.to_string()),
        };
        let signature: SnapshotSignature<u64> = meta.signature();
        let (state, owned) = (self.state.clone(), meta.clone());
        let data = on_disk(&self.disk, move |disk| {
            let data = state.encode().map_err(super::disk::Error::State)?;
            disk.save_snapshot(&owned, &data)?;
            Ok(data)
        });
        let data = data.await.map_err(|e| StorageIOError::write_snapshot(Some(signature), e))?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}
