//! What Raft carries and what voters say to each other. Encoded with postcard: compact, bytes stay bytes, and its
//! format is specified; the first byte of a message is its version.

use crate::state::{Outcome, Txn};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;

/// Version of the messages between voters.
pub(crate) const PROTOCOL: u8 = 1;

openraft::declare_raft_types!(
    /// openraft's types, as used here.
    pub Types:
        D = Batch,
        R = Outcomes,
        NodeId = u64,
        Node = Voter,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Voter>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, Voter>;
pub(crate) type StorageError = openraft::StorageError<u64>;

/// Transactions that share one log entry and so one fsync per voter. Each is still all or nothing by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch(pub Vec<Txn>);

/// One outcome per transaction of the batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes(pub Vec<Outcome>);

/// Names one store directory, from its creation on. A wiped and recreated directory has another one, and nobody
/// addresses it by mistake.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreId(pub u128);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A voter as the membership records it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voter {
    /// Where it was when it joined; for people. The transport resolves ids itself.
    pub address: String,
    /// The directory that has voted under this id.
    pub store: StoreId,
}

/// Which call of [`super::Embedded::handle`] a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RpcKind {
    Append,
    Vote,
    Snapshot,
    /// Asks for identity and membership; changes nothing.
    Probe,
    /// Asks to stand for election now: the leader has fallen silent for it.
    Stand,
}

/// Goes in front of every message, so that a store never takes part in anything it is not meant to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Envelope<B> {
    pub protocol: u8,
    pub cluster: String,
    pub from: u64,
    pub from_store: StoreId,
    pub to: u64,
    /// `None` only in a probe: the asker does not know yet.
    pub to_store: Option<StoreId>,
    pub body: B,
}

/// What a voter says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    pub id: u64,
    pub store: StoreId,
    /// Voter ids in its topology file.
    pub configured: Vec<u64>,
    /// Voters of the store it is part of; `None` while its store is not founded.
    pub formed: Option<BTreeMap<u64, Voter>>,
}
