//! Database drivers behind one trait: observe, fence, follow, promote, rewind, clone.
//!
//! Guarantees: every verb is idempotent and bounded in time; a verb that returns an error has either done nothing
//! or something that repeating it completes. No verb decides: who leads, when, and whether loss is accepted comes
//! from the caller.
//! Deliberately absent: epochs, leases, other hosts, the store, HTTP, TOML.

mod ending;
mod files;
mod installed;
pub mod links;
pub mod mysql;
mod process;
pub mod redis;
mod spawn;
mod spec;

pub use spec::{Account, Spec, UserAccount};

use async_trait::async_trait;
use holdfast_core::{NodeName, Position};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::watch;

/// A look takes no longer, or is given up.
pub const OBSERVE_MS: u64 = 200;
/// Recovery from a crash, or loading all data into memory, may take this long.
pub const START_MS: u64 = 600_000;
/// Ids listed in a [`Saved`]; the count is always exact.
pub const SAVED_IDS_MAX: usize = 1_000;

/// Why a verb failed. `Display` says what happened and what is safe; the source is in the chain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} is not this instance's: {found}; nothing was touched. Choose another data_dir or move it away", path.display())]
    NotOurs { path: PathBuf, found: String },
    #[error("this instance cannot be run as described: {0}")]
    BadSpec(String),
    #[error("the engine refuses to start and left its data as it is; it says: {words}")]
    RefusesToStart { words: String },
    #[error("the engine is not running")]
    NotRunning,
    #[error("the engine did not answer within {after_ms} ms while {doing}; the outcome is unknown")]
    Unresponsive { doing: &'static str, after_ms: u64 },
    #[error("not done, because {0}")]
    Precondition(String),
    /// It said no, or the conversation with it broke off.
    #[error("the engine failed while {doing}")]
    Failed {
        doing: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{doing} {} failed", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{program} failed; nothing of the running instance was changed. It says: {words}")]
    Program { program: String, words: String },
    #[error("the clone stream is unusable, and the old data is kept: {0}")]
    Stream(String),
    #[error(
        "{} bytes are left on the file system of {}, on which an engine hangs in its next write; it is started again as soon as \
         there is room", free_bytes, dir.display()
    )]
    NoRoom { dir: PathBuf, free_bytes: u64 },
    #[error("the engine's log cannot be read: {0}")]
    Log(String),
    #[error("the engine's log does not have what comes next; it says: {0}")]
    LogLacks(String),
}

impl Error {
    /// True if the same call may succeed later without anybody changing anything.
    pub fn retryable(&self) -> bool {
        !matches!(self, Error::NotOurs { .. } | Error::BadSpec(_) | Error::RefusesToStart { .. })
    }
}

/// The engine's process, as the kernel tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessState {
    /// Not started by, or not yet known to, this driver.
    NotStarted,
    Running {
        pid: u32,
    },
    /// `how` is for people: `signal 9 (SIGKILL)`, `exit code 1`; an attached process's status is not ours to know.
    Exited {
        pid: u32,
        how: String,
    },
}

/// One replication thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThreadState {
    Running,
    /// Trying; the last failure, if there was one.
    Connecting {
        last_error: Option<String>,
    },
    Stopped,
    /// Receives all data anew, to go on from there; 0 where the engine does not tell.
    Copying {
        received_bytes: u64,
        data_bytes: u64,
    },
    /// Not running, and the last thing it met was an error, in the engine's words. Also a thread that was told to stop
    /// while it tried to reconnect.
    Failed {
        code: u32,
        text: String,
    },
}

/// Where an instance replicates from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `None` if it is configured by a host name.
    pub addr: Option<SocketAddr>,
    pub host: String,
    pub port: u16,
    /// Receives the log.
    pub io: ThreadState,
    /// Applies what was received.
    pub sql: ThreadState,
    /// How far applying is behind, in whole seconds as the engine tells; 0 if drained. `None`: not known.
    pub lag_ms: Option<u64>,
    /// How long nothing (event or heartbeat) came from upstream, as far as observations tell: exact to the interval
    /// between two of them. `None` while the receiving thread is not connected.
    pub silent_ms: Option<u64>,
    /// Acknowledges on the present connection.
    pub acknowledges: bool,
}

/// Which connected replicas acknowledge, as far as the primary can tell.
///
/// Redis lists them by address, and all of them do. MariaDB lists its connected replicas by server id and *counts* those that acknowledge, but does not say which
/// they are. The answer is exact when none or all do; else only the replica's own [`Upstream::acknowledges`] tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ackers {
    /// Server ids of all connected replicas.
    pub connected: BTreeSet<u32>,
    /// How many of them acknowledge. Exact.
    pub count: usize,
}

impl Ackers {
    /// Replicas that certainly acknowledge.
    pub fn certain(&self) -> BTreeSet<u32> {
        if self.exact() && self.count > 0 { self.connected.clone() } else { BTreeSet::new() }
    }
    /// Replicas that may acknowledge: no other one does.
    pub fn possible(&self) -> BTreeSet<u32> {
        if self.count == 0 { BTreeSet::new() } else { self.connected.clone() }
    }
    /// True if `certain` and `possible` are the same.
    pub fn exact(&self) -> bool {
        self.count == 0 || self.count == self.connected.len()
    }
}

/// What one look at the engine shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub version: String,
    pub server_id: u32,
    /// Takes writes of clients.
    pub writable: bool,
    /// Received ∪ applied, including what a restart left unapplied in the relay log. `None`: not known, as while all data
    /// is being replaced.
    pub received: Option<Position>,
    pub applied: Option<Position>,
    /// Everything received is applied.
    pub drained: bool,
    pub upstream: Option<Upstream>,
    /// Set to acknowledge to its upstream (takes effect with a connection: see [`Upstream::acknowledges`]).
    pub acknowledges: bool,
    /// Waits for an acknowledgement before it answers a commit. Of an engine that never does, false.
    pub waits_for_ack: bool,
    /// Commits that wait for one now.
    pub ack_waiters: u32,
    pub ackers: Ackers,
    /// `ackers.certain()` by name. Ids that are no peer's are left out; see `foreign_replicas`.
    pub ackers_connected: BTreeSet<NodeName>,
    /// Connected replicas that are no peer's: server ids, or addresses.
    pub foreign_replicas: BTreeSet<String>,
    /// Connections that are neither replicas nor this driver's own.
    pub client_connections: u32,
    /// Settings with which a promise does not hold, each said in full.
    pub unsafe_settings: Vec<String>,
    /// Of the file system that holds the data; `None` if it does not tell.
    pub free_disk_bytes: Option<u64>,
    /// Transactions that the last start rolled back as never acknowledged, and that wait, in a copy, for
    /// [`Engine::save_divergence`] to judge whether the present history has them (S10).
    pub unjudged_transactions: u64,
    /// It was marked intact ([`Engine::mark_intact`]), and no start since then lost anything that had been received.
    pub retained: bool,
    /// Members that may connect as replicas, by [`Engine::admit`]. `None`: the engine makes no difference.
    pub admits: Option<BTreeSet<NodeName>>,
}

/// What [`Engine::save_divergence`] kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// SQL text that `mariadb` can replay, or a binary log (`.binlog`) where the text could not be made. Commands that
    /// `redis-cli --pipe` can replay (`.resp`), or all data (`.rdb`) where there is no log of them.
    pub path: PathBuf,
    /// Exact, unless `complete` is false: then a lower bound.
    pub transactions: u64,
    /// What is counted, for people.
    pub unit: &'static str,
    /// Their ids, the first [`SAVED_IDS_MAX`] of them.
    pub ids: Vec<String>,
    /// False if the engine had already purged a part of what only it had.
    pub complete: bool,
}

/// A donor's side of a clone: read to the end and handed, byte for byte, to [`CopyByStream::clone_into`].
pub struct CloneSource {
    /// Framed and self-checking: a cut stream does not pass for a complete one.
    pub reader: Pin<Box<dyn AsyncRead + Send>>,
    /// Size of the donor's data directory; the stream is usually smaller. For progress only.
    pub data_bytes: u64,
}

/// The log of an instance, from [`ReadLog::log_after`].
pub struct LogFrom {
    /// Everything that came before the first event.
    pub from: Position,
    pub version: String,
    /// The id that the instance writes under.
    pub server_id: u32,
    pub stream: Box<dyn LogStream>,
}

/// A log as it grows: events as they are in its files, in order, and signs of life between them. Dropped, it ends.
#[async_trait]
pub trait LogStream: Send {
    /// The next part of an event; of most it is the only one. Returns within [`mysql::LOG_SILENT_MS`].
    /// [`Error::LogLacks`] if the log does not have what was asked for.
    async fn next(&mut self) -> Result<LogPart, Error>;
}

/// See [`LogStream::next`]. At most 16 MiB.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPart {
    pub bytes: Vec<u8>,
    /// It is the first of its event.
    pub begins: bool,
    /// It is the last.
    pub ends: bool,
}

/// What a running clone does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClonePhase {
    #[default]
    Receiving,
    Preparing,
    Swapping,
    Starting,
}

/// Progress of [`CopyByStream::clone_into`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CloneProgress {
    pub phase: ClonePhase,
    /// Bytes taken from the stream so far.
    pub received_bytes: u64,
    /// The donor's estimate of its uncompressed data.
    pub data_bytes: u64,
}

/// One database instance on this host.
#[async_trait]
pub trait Engine: Send + Sync {
    /// S9: ends with a running engine that is read-only and, if this driver started it, with replication stopped. A
    /// managed instance's empty directory is initialised, and data
    /// of an earlier release is upgraded (data of a later one is refused); an attached one is fenced as it is found (its replication
    /// is left alone: stopping it would discard what was received). No-op if it already runs.
    async fn start(&self) -> Result<(), Error>;
    /// Asks the engine to end in order. `Unresponsive` if it has not by then; it is not killed.
    async fn stop(&self, within: Duration) -> Result<(), Error>;
    /// SIGKILL, by pidfd. Returns when the process is gone.
    async fn kill(&self) -> Result<(), Error>;
    /// Changes within milliseconds of the process starting or ending.
    fn exits(&self) -> watch::Receiver<ProcessState>;
    /// What [`Engine::start`] promises holds for the process that runs now. If one runs and it does not, nothing else
    /// may be asked of it: start again.
    fn started(&self) -> bool;
    /// The engine's Unix socket, whether or not it runs.
    fn socket(&self) -> &Path;
    /// The version of the programs that a start would use now.
    async fn installed(&self) -> Result<String, Error>;
    /// One look, one round trip, at most [`OBSERVE_MS`]. `Unresponsive` if the engine hangs.
    async fn observe(&self) -> Result<Observation, Error>;

    /// S3: cuts clients and makes the engine read-only; the final position, if it is known. On an error the caller kills. Commits that
    /// wait for an acknowledgement are not cut: if none comes, closing fails, and the kill lets the next start roll
    /// them back, where cutting them would have committed them.
    async fn close(&self, within: Duration) -> Result<Option<Position>, Error>;
    /// Waits until no client transaction is open, and none waits for an acknowledgement; how many are left.
    async fn drain_clients(&self, within: Duration) -> Result<u32, Error>;
    /// Makes the engine read-only without cutting anybody, for a planned [`Engine::close`]: what is under way is answered, and
    /// what a client that has not heard of it sends is refused as a whole, instead of being cut with an unknown outcome. An
    /// error changes nothing about closing, which then cuts.
    async fn refuse_writes(&self, within: Duration) -> Result<(), Error>;
    /// Marks, on the disk, that everything which this instance ever acknowledged is in its logs. The driver takes the mark
    /// back when a start loses some of it. Where somebody else starts the engine, nothing is marked.
    async fn mark_intact(&self) -> Result<(), Error>;
    /// Stops receiving and lets everything received be applied (S7), also what a restart left in the relay log.
    async fn stop_receiving(&self) -> Result<(), Error>;
    /// True if everything received is applied.
    async fn drained(&self) -> Result<bool, Error>;
    /// Fit to be opened: no replica any more, where that does not open it; stays read-only. Refuses unless it no longer receives and is drained (S7).
    ///
    /// `primacy` marks what is written from now on: no other promotion in this group ever had the same, so that the
    /// number of a transaction that was rolled back is never given to another.
    async fn promote(&self, sync: bool, primacy: u64) -> Result<(), Error>;
    /// Takes writes. Refuses while it is somebody's replica.
    async fn open(&self) -> Result<(), Error>;
    /// Primary: from now on commits wait for an acknowledgement, or no longer do. Turning it off releases those that
    /// wait (S5: recorded first).
    async fn set_wait_for_ack(&self, on: bool) -> Result<(), Error>;
    /// Replica: acknowledges, or no longer does. Reconnects the receiving thread if that changes something.
    async fn set_acknowledges(&self, on: bool) -> Result<(), Error>;
    /// Primary: these members, and no others, may connect as replicas. Who may not is cut, and stays cut. For engines
    /// that say in [`Observation::admits`] whom they admit; nothing to do for others.
    async fn admit(&self, _nodes: &BTreeSet<NodeName>) -> Result<(), Error> {
        Ok(())
    }
    /// Replicates from `primary`. Refuses while writable or while commits wait for an acknowledgement. Also restarts
    /// threads that stopped.
    async fn follow(&self, primary: SocketAddr, acknowledges: bool) -> Result<(), Error>;
    /// First primary: creates the accounts and the databases their grants name, through the log, if missing.
    async fn accounts(&self) -> Result<(), Error>;

    /// S10: writes everything that only this instance has, compared with `theirs`, to a file. `None` if there is
    /// nothing. Also judges what the last start rolled back.
    async fn save_divergence(&self, theirs: &Position) -> Result<Option<Saved>, Error>;
    /// The instance is about to follow, or to be compared with, the primary at `at`, which has `theirs`. An engine whose
    /// servers forget their past remembers what that says of it.
    async fn learn(&self, _theirs: &Position, _at: SocketAddr) -> Result<(), Error> {
        Ok(())
    }
    /// The log of everything that happens to the data, for who keeps it. `None`: this engine's is not kept.
    fn log(&self) -> Option<&dyn ReadLog> {
        None
    }
    /// How all data is had anew. `None`: an instance without data ([`Engine::discard`]) gets it by following.
    fn copy_by_stream(&self) -> Option<&dyn CopyByStream>;
    /// Throws all data away; what only this instance had was saved before. Ends running, closed, as if new. Only where
    /// there is no [`Engine::copy_by_stream`].
    async fn discard(&self) -> Result<(), Error> {
        Err(Error::Precondition("this engine gets a copy in place of its data, and throws none away".into()))
    }
}

/// The log of an instance that runs, as it grows.
#[async_trait]
pub trait ReadLog: Send + Sync {
    /// The log after as much of `have` as this instance has; without it, from now on. It is sent before it is
    /// acknowledged, and nobody waits for its reader.
    async fn log_after(&self, have: Option<&Position>) -> Result<LogFrom, Error>;
}

/// A whole copy of one instance becomes another's data.
#[async_trait]
pub trait CopyByStream: Send + Sync {
    /// Donor: streams a consistent copy.
    async fn clone_source(&self) -> Result<CloneSource, Error>;
    /// Receiver: replaces all data by the stream's; saves first what the donor does not have (S10). Ends running,
    /// read-only, replication stopped. The old data is kept until the new has started.
    async fn clone_into(
        &self,
        stream: Pin<Box<dyn AsyncRead + Send>>,
        progress: watch::Sender<CloneProgress>,
    ) -> Result<Option<Saved>, Error>;
}
