//! The small, strongly consistent store: who is primary since which epoch, which replicas count, which plan runs.
//!
//! Guarantees: [`Store::commit`] and [`Store::get`] are linearizable; what `commit` answered survives the crash of
//! every process and the loss of any minority of voters. Deliberately absent: what the keys mean, HTTP, the
//! topology file, and the length of a lease (S2: holders and the controller count it on their own clocks).

pub mod embedded;
pub mod memory;
pub mod state;
mod view;

pub use embedded::Embedded;
pub use memory::Memory;
pub use state::{Expect, Lease, LeaseOp, Outcome, Refusal, Revision, State, Txn, Value, Write};

use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// A strongly consistent store.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// Commits a transaction. Linearizable. An `Err` says by [`Error::is_unknown`] whether it may yet happen.
    async fn commit(&self, txn: Txn) -> Result<Outcome, Error>;

    /// Reads a key. Linearizable: sees every commit answered before the call.
    async fn get(&self, key: &str) -> Result<Option<Value>, Error>;

    /// What this process has applied. Costs no I/O, may be behind; on the leader (`is_me`) it contains
    /// everything committed under its predecessors.
    fn local(&self) -> Arc<State>;

    /// Wakes whenever this process has applied something; the value is the index in the log.
    fn watch(&self) -> watch::Receiver<u64>;

    /// Who leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// When a lease was last granted to somebody or renewed, at the latest, on this process's clock (S2):
    /// the moment this process applied it, which is never before the holder sent it, and the moment of
    /// the start where the process had only its disk. On anyone but the established leader `Some(now)`, so
    /// that nobody else can find a lease expired: committed renewals may be missing there. `None`: nobody was
    /// ever entitled to this lease.
    fn renewed_at(&self, lease: &str) -> Option<Instant>;
}

/// Who leads, as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// This process leads, has applied everything committed before its term, and heard from a majority just now.
    pub is_me: bool,
    /// Raft's term. Not an epoch: a database lease is never inferred from it.
    pub term: u64,
    /// The store of this process has stopped for good, and why (a full or broken disk, or a shutdown).
    pub stopped: Option<Arc<str>>,
}

/// Why the store did not answer. Says what became of the transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("this node does not lead the store{}; nothing was written", leader_hint(*.leader))]
    NotLeader { leader: Option<u64> },
    #[error("the store's leader has no contact to a majority of the voters; nothing was written")]
    NoQuorum,
    #[error("the store's queue is full; nothing was written, try again")]
    Busy,
    #[error(
        "the store did not answer within {waited_ms} ms; the transaction may or may not happen, read before trying again"
    )]
    Unavailable { waited_ms: u64 },
    #[error(
        "the store's leader changed or stopped meanwhile; the transaction may or may not happen, read before trying again"
    )]
    Interrupted,
    #[error("the transaction was refused, nothing was written")]
    Refused(#[source] Refusal),
    #[error(
        "the store of this node has stopped: {reason}; nothing was written here, restart the node when the cause is gone"
    )]
    Stopped { reason: Arc<str> },
}

impl Error {
    /// The outcome is unknown: the transaction may have happened or may still happen.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Interrupted)
    }
}

fn leader_hint(leader: Option<u64>) -> String {
    leader.map_or_else(|| ", and none is known".into(), |id| format!(", node {id} does"))
}
