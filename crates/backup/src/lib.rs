//! The backup repository: synthetic full backups, deduplicated, compressed, encrypted and checked. The format is that of
//! docs/repository-format.md.
//!
//! Guarantees: a backup exists once its manifest does, and then it is whole; nothing that a backup, or a backup or restore
//! under way, needs is ever removed; every flipped bit is found and named; memory is bounded at any size. Everything here
//! blocks: call it from threads that may.
//! Deliberately absent: engines, configuration, terminals. It takes files as bytes and gives them back.

mod check;
mod cut;
mod error;
mod id;
mod key;
mod log;
mod manifest;
mod map;
mod object;
mod parent;
mod pin;
mod pipeline;
mod progress;
mod proof;
mod prune;
mod repository;
mod restore;
mod retention;
pub mod storage;
mod writer;

pub use check::{Checked, Finding};
pub use error::Error;
pub use id::{BackupId, is_service};
pub use key::{KeyId, NotAKey, RepositoryKey};
pub use log::{Kept, Mark, Run, SEGMENT_BYTES_MAX, Segment};
pub use manifest::{Cut, FORMAT, Pack, Summary};
pub use progress::{Progress, Reading as ProgressReading};
pub use proof::{Proof, Proofs};
pub use prune::{Prune, Pruned};
pub use repository::{Listing, Repository};
pub use restore::{Reading, Staged};
pub use retention::{Reason, Retention, keep};
pub use storage::Storage;
pub use writer::{Begin, Completion, FileId, Writer};
