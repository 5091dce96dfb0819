//! Certificates between hosts, tokens for people: what `holdfast init` makes and what a host loads.
//!
//! One directory. On the machine where `init` runs: `ca.pem`, `ca.key`, and for each node `NODE.pem`, `NODE.key`;
//! `viewer.token` and `operator.token` for people, and their hashes `*.token.sha256`. A host needs `ca.pem`, its own
//! two files and the two hashes, and should have nothing else: `ca.key` can make itself any node.
//!
//! Guarantees: keys and tokens are readable by their owner only, and nothing that exists is overwritten unless
//! renewal is asked for. The time is handed in. Not here: revocation. A host leaves by leaving the topology, which
//! the API checks beside the certificate.

mod identity;
mod init;
mod tokens;

pub use identity::{HostTls, authority_tls, common_name, host_tls, trust_nobody};
pub use init::{Made, init};
pub use tokens::Tokens;

use std::path::PathBuf;

/// Certificates with less left are renewed by `init --renew` and warned about, in days.
pub const WARN_DAYS: i64 = 30;
const DAY_S: i64 = 86_400;
/// Bytes of one file of the directory.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What is wrong with the directory. Whatever it is, no existing file was changed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    #[error("{path} cannot be read")]
    #[diagnostic(help(
        "run `holdfast init` once, and copy to each host `ca.pem`, its own two files and `*.sha256`"
    ))]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} cannot be written")]
    Unwritable { path: PathBuf, source: std::io::Error },
    #[error("{path} is not {what}")]
    #[diagnostic(help("restore it from a copy, or move it away and run `holdfast init` again"))]
    Malformed { path: PathBuf, what: &'static str },
    #[error("{path} exists without {missing}")]
    #[diagnostic(help(
        "restore that from a copy, or start over for all hosts: move the directory away, run `holdfast init`"
    ))]
    HalfAuthority { path: PathBuf, missing: PathBuf },
    #[error("{path} expired {days} days ago, if this host's clock is right")]
    #[diagnostic(help("run `holdfast init --renew` where `ca.key` is, and copy this host's files to it"))]
    Expired { path: PathBuf, days: i64 },
    #[error("{path} becomes valid in {days} days")]
    #[diagnostic(help("is this host's clock right?"))]
    NotYetValid { path: PathBuf, days: i64 },
    #[error("{path} is the certificate of {found:?}, not of {expected}")]
    #[diagnostic(help("copy the files of this host to it"))]
    SomebodyElse { path: PathBuf, expected: String, found: String },
    #[error("{path} does not fit to its key or to the authority")]
    #[diagnostic(help("copy `ca.pem` and the files of this host to it again"))]
    Mismatch { path: PathBuf, source: rustls::Error },
    #[error("a certificate cannot be made")]
    Making(#[source] rcgen::Error),
    #[error("the system gives no random numbers")]
    Random,
}
