//! The replicated state: keys with compare-and-set, and leases with fencing tokens.
//!
//! Guarantees: pure and deterministic. Two states that applied the same transactions in the same order are
//! equal, on every host and in the simulator. A transaction is all or nothing, and no input panics.
//! Deliberately absent: clocks (a lease has no deadline here; its time is counted by the holder and by the
//! leader, S2), Raft, disks, tokio.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// Bytes of a key or of a lease's name or holder.
pub const KEY_BYTES: usize = 512;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 1 << 20;
/// Writes and lease operations of one transaction.
pub const TXN_OPERATIONS: usize = 256;
/// Bytes of one transaction: keys, values, names.
pub const TXN_BYTES: usize = 4 << 20;
/// Keys in the store.
pub const KEYS: usize = 65_536;
/// Leases in the store. They are never deleted, because a token must never go back.
pub const LEASES: usize = 4_096;
/// Bytes of all keys and values together: what a snapshot carries, and what every voter keeps in memory.
pub const STATE_BYTES: usize = 64 << 20;

/// Version of [`State::encode`].
const FORMAT: u32 = 1;

const _: () = assert!(KEY_BYTES + VALUE_BYTES < TXN_BYTES, "the largest value fits into a transaction");
const _: () = assert!(TXN_BYTES < STATE_BYTES, "the largest transaction fits into an empty store");

/// When a key was last written, in the order of the log. Grows over the whole store, so a key that was deleted
/// and written again has a higher revision than before.
pub type Revision = u64;

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Anything.
    Any,
    /// No such key.
    Absent,
    /// The key as it was written at this revision.
    Revision(Revision),
}

/// One key to set (`Some`) or delete (`None`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    pub key: String,
    pub expect: Expect,
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
}

/// One operation on a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseOp {
    /// Moves the lease to a fencing token and a holder (`None`: nobody may renew). A token has at most one holder,
    /// ever: a higher token is always accepted; the current token only with the current holder (no change) or
    /// when nobody holds it yet.
    Grant { lease: String, token: u64, holder: Option<String> },
    /// Accepted only if token and holder are the current ones.
    Renew { lease: String, token: u64, holder: String },
}

impl LeaseOp {
    /// The lease it is about.
    pub fn lease(&self) -> &str {
        match self {
            LeaseOp::Grant { lease, .. } | LeaseOp::Renew { lease, .. } => lease,
        }
    }

    /// If, once accepted, somebody may act on the lease for one more term of it.
    pub fn entitles(&self) -> bool {
        !matches!(self, LeaseOp::Grant { holder: None, .. })
    }
}

/// Writes and lease operations that happen together or not at all. Every key and every lease at most once;
/// all expectations are about the state before the transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    pub writes: Vec<Write>,
    pub leases: Vec<LeaseOp>,
}

/// What became of a transaction. Everything but `Done` left the state as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Applied. `revision` is that of every key it wrote.
    Done { revision: Revision },
    /// A key was not as expected. `actual` is its revision, `None` if there is no such key.
    Conflict { key: String, actual: Option<Revision> },
    /// A lease is somebody else's. Shows the current token and holder.
    LeaseRefused { lease: String, token: u64, holder: Option<String> },
    /// It does not fit.
    Refused(Refusal),
}

/// Why a transaction does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("a key, lease or holder name has 1 to {KEY_BYTES} bytes, this one has {bytes}")]
    Name { bytes: u64 },
    #[error("the value of {key} has {bytes} bytes, the limit is {VALUE_BYTES}")]
    Value { key: String, bytes: u64 },
    #[error("{name} occurs twice in one transaction")]
    Twice { name: String },
    #[error("the transaction has {operations} operations, the limit is {TXN_OPERATIONS}")]
    Operations { operations: u64 },
    #[error("the transaction has {bytes} bytes, the limit is {TXN_BYTES}")]
    Bytes { bytes: u64 },
    #[error("the store is full: {KEYS} keys; delete some first")]
    Keys,
    #[error("the store is full: {LEASES} leases")]
    Leases,
    #[error("the store is full: {STATE_BYTES} bytes of keys and values; delete some first")]
    State,
}

/// A value and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    pub bytes: Arc<[u8]>,
    pub revision: Revision,
}

/// A lease as committed. Who holds it for how long is a matter of clocks, which are not kept here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Only grows.
    pub token: u64,
    /// Who may renew.
    pub holder: Option<String>,
    /// How often it was granted to somebody or renewed, over all tokens. Only grows.
    pub renewals: u64,
}

impl Txn {
    /// Checks what can be checked without the state. [`State::apply`] checks it again.
    pub fn check(&self) -> Result<(), Refusal> {
        let operations = self.writes.len() + self.leases.len();
        if operations > TXN_OPERATIONS {
            return Err(Refusal::Operations { operations: operations as u64 });
        }
        let mut seen = BTreeSet::new();
        for write in &self.writes {
            check_name(&write.key)?;
            let bytes = write.value.as_ref().map_or(0, Vec::len);
            if bytes > VALUE_BYTES {
                return Err(Refusal::Value { key: write.key.clone(), bytes: bytes as u64 });
            }
            if !seen.insert(write.key.as_str()) {
                return Err(Refusal::Twice { name: write.key.clone() });
            }
        }
        seen.clear();
        for op in &self.leases {
            check_name(op.lease())?;
            if let LeaseOp::Grant { holder: Some(holder), .. } | LeaseOp::Renew { holder, .. } = op {
                check_name(holder)?;
            }
            if !seen.insert(op.lease()) {
                return Err(Refusal::Twice { name: op.lease().to_owned() });
            }
        }
        match self.bytes() {
            bytes if bytes > TXN_BYTES => Err(Refusal::Bytes { bytes: bytes as u64 }),
            _ => Ok(()),
        }
    }

    /// Bytes of keys, values and names.
    pub fn bytes(&self) -> usize {
        let writes = self.writes.iter().map(|w| w.key.len() + w.value.as_ref().map_or(0, Vec::len));
        let leases = self.leases.iter().map(|op| match op {
            LeaseOp::Grant { lease, holder, .. } => lease.len() + holder.as_ref().map_or(0, String::len),
            LeaseOp::Renew { lease, holder, .. } => lease.len() + holder.len(),
        });
        writes.sum::<usize>() + leases.sum::<usize>()
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > KEY_BYTES {
        return Err(Refusal::Name { bytes: name.len() as u64 });
    }
    Ok(())
}

/// Keys and leases after some prefix of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    revision: Revision,
    keys: BTreeMap<String, Value>,
    leases: BTreeMap<String, Lease>,
    /// Of all keys and values, kept along to check [`STATE_BYTES`].
    bytes: usize,
}

impl State {
    /// Applies a transaction, or leaves everything as it is and says why.
    pub fn apply(&mut self, txn: &Txn) -> Outcome {
        if let Err(refusal) = txn.check() {
            return Outcome::Refused(refusal);
        }
        for write in &txn.writes {
            let actual = self.keys.get(&write.key).map(|v| v.revision);
            let expected = match write.expect {
                Expect::Any => true,
                Expect::Absent => actual.is_none(),
                Expect::Revision(revision) => actual == Some(revision),
            };
            if !expected {
                return Outcome::Conflict { key: write.key.clone(), actual };
            }
        }
        for op in &txn.leases {
            if let Some(refused) = self.lease_refusal(op) {
                return refused;
            }
        }
        let bytes = match self.size_after(txn) {
            Ok(bytes) => bytes,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        self.bytes = bytes;
        if !txn.writes.is_empty() {
            self.revision += 1;
        }
        for write in &txn.writes {
            match &write.value {
                Some(value) => {
                    let value = Value { bytes: value.as_slice().into(), revision: self.revision };
                    self.keys.insert(write.key.clone(), value);
                }
                None => {
                    self.keys.remove(&write.key);
                }
            }
        }
        for op in &txn.leases {
            self.apply_lease(op);
        }
        Outcome::Done { revision: self.revision }
    }

    /// Why a lease operation is refused, if it is.
    fn lease_refusal(&self, op: &LeaseOp) -> Option<Outcome> {
        let current = self.leases.get(op.lease());
        let accepted = match (op, current) {
            (LeaseOp::Grant { .. }, None) => true,
            (LeaseOp::Grant { token, holder, .. }, Some(now)) => {
                *token > now.token || (*token == now.token && (*holder == now.holder || now.holder.is_none()))
            }
            (LeaseOp::Renew { .. }, None) => false,
            (LeaseOp::Renew { token, holder, .. }, Some(now)) => {
                *token == now.token && Some(holder) == now.holder.as_ref()
            }
        };
        (!accepted).then(|| Outcome::LeaseRefused {
            lease: op.lease().to_owned(),
            token: current.map_or(0, |l| l.token),
            holder: current.and_then(|l| l.holder.clone()),
        })
    }

    fn apply_lease(&mut self, op: &LeaseOp) {
        let lease =
            self.leases.entry(op.lease().to_owned()).or_insert(Lease { token: 0, holder: None, renewals: 0 });
        if let LeaseOp::Grant { token, holder, .. } = op {
            lease.token = *token;
            lease.holder.clone_from(holder);
        }
        lease.renewals += u64::from(op.entitles());
    }

    /// Bytes of keys and values after `txn`, if it fits.
    fn size_after(&self, txn: &Txn) -> Result<usize, Refusal> {
        let (mut bytes, mut keys) = (self.bytes, self.keys.len());
        for write in &txn.writes {
            if let Some(old) = self.keys.get(&write.key) {
                bytes -= write.key.len() + old.bytes.len();
                keys -= 1;
            }
            if let Some(new) = &write.value {
                bytes += write.key.len() + new.len();
                keys += 1;
            }
        }
        // What only shrinks a store must always be possible.
        if keys > KEYS && keys > self.keys.len() {
            return Err(Refusal::Keys);
        }
        if bytes > STATE_BYTES && bytes > self.bytes {
            return Err(Refusal::State);
        }
        let new_leases = txn.leases.iter().filter(|op| !self.leases.contains_key(op.lease())).count();
        if new_leases > 0 && self.leases.len() + new_leases > LEASES {
            return Err(Refusal::Leases);
        }
        Ok(bytes)
    }

    /// A key's value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key)
    }

    /// Keys that start with `prefix`, in order.
    pub fn range<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.as_str(), value))
    }

    /// A lease, if it was ever granted.
    pub fn lease(&self, name: &str) -> Option<&Lease> {
        self.leases.get(name)
    }

    /// Every lease, by name.
    pub fn leases(&self) -> impl Iterator<Item = (&str, &Lease)> {
        self.leases.iter().map(|(name, lease)| (name.as_str(), lease))
    }

    /// Revision of the last transaction that wrote a key; 0 if none did.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The whole state as bytes, for a snapshot. Starts with the version of the format.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let frozen = Frozen {
            revision: self.revision,
            keys: self
                .keys
                .iter()
                .map(|(key, value)| Kept {
                    key: key.as_str().into(),
                    revision: value.revision,
                    value: std::borrow::Cow::Borrowed(serde_bytes::Bytes::new(&value.bytes)),
                })
                .collect(),
            leases: self.leases.clone(),
        };
        let mut bytes = postcard::to_stdvec(&FORMAT).map_err(CodecError::Malformed)?;
        bytes.extend(postcard::to_stdvec(&frozen).map_err(CodecError::Malformed)?);
        Ok(bytes)
    }

    /// The state that [`State::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<State, CodecError> {
        let (format, rest) = postcard::take_from_bytes::<u32>(bytes).map_err(CodecError::Malformed)?;
        if format != FORMAT {
            return Err(CodecError::Version { found: format });
        }
        let (frozen, rest) = postcard::take_from_bytes::<Frozen<'_>>(rest).map_err(CodecError::Malformed)?;
        if !rest.is_empty() {
            return Err(CodecError::Trailing { bytes: rest.len() });
        }
        let mut state = State { revision: frozen.revision, leases: frozen.leases, ..State::default() };
        for kept in frozen.keys {
            state.bytes += kept.key.len() + kept.value.len();
            let value = Value { bytes: Arc::from(&kept.value[..]), revision: kept.revision };
            state.keys.insert(kept.key.into_owned(), value);
        }
        Ok(state)
    }
}

/// Why bytes are not a state.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("the state has format {found}, this version reads {FORMAT}; use the version that wrote it")]
    Version { found: u32 },
    #[error("the state is damaged")]
    Malformed(#[source] postcard::Error),
    #[error("the state is damaged: {bytes} bytes too many")]
    Trailing { bytes: usize },
}

/// [`State`] on the wire.
#[derive(Serialize, Deserialize)]
struct Frozen<'a> {
    revision: Revision,
    #[serde(borrow)]
    keys: Vec<Kept<'a>>,
    leases: BTreeMap<String, Lease>,
}

#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    #[serde(borrow)]
    key: std::borrow::Cow<'a, str>,
    revision: Revision,
    #[serde(borrow)]
    value: std::borrow::Cow<'a, serde_bytes::Bytes>,
}
