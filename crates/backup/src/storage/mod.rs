//! Where objects are kept.
//!
//! Guarantees, of any [`Storage`]: an object appears whole or not at all, is durable when a call returns, and is seen by
//! every later call of anybody. Does not know: what is in an object.

mod bucket;
mod directory;

pub use bucket::{Bucket, Credentials, Place as BucketPlace};
pub use directory::Directory;

/// Why an object could not be had or put.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} does not exist")]
    Absent(String),
    #[error("{0} exists already")]
    Exists(String),
    #[error("{doing} {name} failed")]
    Failed {
        doing: &'static str,
        name: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub bytes: u64,
    /// By the storage's own clock; comparable with no other.
    pub modified_unix_ms: i64,
}

/// Objects by name. Calls block.
pub trait Storage: Send + Sync {
    /// Fails with [`Error::Exists`] if the name is taken.
    fn create(&self, name: &str, object: Vec<u8>) -> Result<(), Error>;
    fn replace(&self, name: &str, object: Vec<u8>) -> Result<(), Error>;
    fn read(&self, name: &str) -> Result<Vec<u8>, Error>;
    /// Shorter where the object ends before.
    fn read_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, Error>;
    /// All objects whose name is `prefix` followed by `/`, sorted.
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, Error>;
    fn stat(&self, name: &str) -> Result<Listed, Error>;
    /// No error if it does not exist.
    fn remove(&self, name: &str) -> Result<(), Error>;
    /// Removes what writes that were interrupted before a time (by the storage's own clock) left below a prefix.
    fn sweep(&self, prefix: &str, before_unix_ms: i64) -> Result<(), Error>;
    /// Whether it keeps what is promised above, as far as that can be found out. Called once, when a repository is made.
    fn prove(&self) -> Result<(), Error> {
        Ok(())
    }
    /// For people.
    fn location(&self) -> String;
}

fn listed(meta: &object_store::ObjectMeta) -> Listed {
    Listed {
        name: meta.location.to_string(),
        bytes: meta.size,
        modified_unix_ms: meta.last_modified.timestamp_millis(),
    }
}

fn failure(doing: &'static str, name: &str, e: object_store::Error) -> Error {
    match e {
        object_store::Error::NotFound { .. } => Error::Absent(name.to_owned()),
        object_store::Error::AlreadyExists { .. } => Error::Exists(name.to_owned()),
        e => Error::Failed { doing, name: name.to_owned(), source: Box::new(e) },
    }
}
