//! What a verification found: that a backup was restored and its engine was content with it.

use crate::Error;
use crate::id::BackupId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Filed with the backup that it is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub service: String,
    pub id: BackupId,
    pub at_unix_ms: u64,
    pub took_ms: u64,
    pub good: bool,
    /// What was found, by name: rows and checksums of each table, the position, or what was wrong.
    pub found: BTreeMap<String, String>,
}

/// What there is of proofs, readable or not.
#[derive(Debug, Default)]
pub struct Proofs {
    /// Of each backup, oldest first.
    pub found: BTreeMap<BackupId, Vec<Proof>>,
    /// Proofs that cannot be read: object and reason.
    pub unreadable: Vec<(String, Error)>,
}

impl Proofs {
    /// Those of one backup, oldest first.
    pub fn of(&self, id: &BackupId) -> &[Proof] {
        self.found.get(id).map_or(&[], Vec::as_slice)
    }
    /// Whether the last proof of a backup was good.
    pub fn proven(&self, id: &BackupId) -> bool {
        self.of(id).last().is_some_and(|p| p.good)
    }
}
