//! What a verification found: that a backup was restored and its engine was content with it.

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
