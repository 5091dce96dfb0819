//! The MySQL family: one driver, two flavours ([`flavour`]): MariaDB and MySQL.
//!
//! Guarantees: those of [`Engine`]. Dropping the driver kills a process that it started.
//! Does not know: epochs, leases, why a verb is called.

mod accounts;
pub mod backup;
mod binlog_index;
mod clone;
mod datadir;
mod fence;
mod flavour;
mod late_ack;
mod log;
mod observe;
mod raw;
pub mod replay;
mod replication;
mod rewind;
pub mod scratch;
mod sql;
mod start;
mod version;
mod wake;

use crate::files::{blocking, io};
use crate::installed::Installed;
use crate::{
    CloneProgress, CloneSource, CopyByStream, Engine, Error, LogFrom, Observation, ProcessState, ReadLog,
    START_MS, Saved, Spec, process,
};
use async_trait::async_trait;
use holdfast_core::Position;
use holdfast_core::topology::{Durability, Management};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::{Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

/// A verb's single statement takes no longer, or is ended.
pub const STATEMENT_MS: u64 = 5_000;
/// Bringing data up to date for another release may take this long.
pub const UPGRADE_MS: u64 = 3_600_000;
/// How long following waits for what was received to be applied before it repoints.
pub const FOLLOW_DRAIN_MS: u64 = 1_000;
pub use log::LOG_SILENT_MS;

const STATEMENT: Duration = Duration::from_millis(STATEMENT_MS);

/// Where everything of one instance lies.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) saved: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) log: PathBuf,
    /// Its own: a starting server deletes temporary tables that it finds, another's too.
    pub(crate) tmp: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) pid_file: PathBuf,
    pub(crate) error_log: PathBuf,
}

/// A unix socket's path, by the kernel.
const SOCKET_PATH_BYTES_MAX: usize = 107;

impl Layout {
    fn new(spec: &Spec) -> Result<Layout, Error> {
        let root = std::path::absolute(&spec.data_dir).map_err(|source| Error::Io {
            doing: "resolving",
            path: spec.data_dir.clone(),
            source,
        })?;
        let (data, socket) = match &spec.management {
            Management::Managed { .. } => (root.join("data"), root.join("run/db.sock")),
            Management::Attached { socket, data_dir, .. } => (data_dir.clone(), socket.clone()),
        };
        let bytes = socket.as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            return Err(Error::BadSpec(format!(
                "the unix socket {} would have {bytes} bytes, the kernel takes {SOCKET_PATH_BYTES_MAX}; choose a \
                 data_dir with a shorter path",
                socket.display()
            )));
        }
        let (run, log) = (root.join("run"), root.join("log"));
        Ok(Layout {
            data,
            socket,
            saved: root.join("saved"),
            tmp: root.join("tmp"),
            pid_file: run.join("db.pid"),
            error_log: log.join("error.log"),
            run,
            log,
            root,
        })
    }
    /// Copies of what a truncating start may cut off, until judged.
    fn pending(&self) -> PathBuf {
        self.saved.join("pending")
    }
    /// A sibling of the data directory, on the same file system.
    fn beside(&self, suffix: &str) -> PathBuf {
        datadir::sibling(&self.data, suffix)
    }
}

/// What a restart left in the relay log, received and not applied.
#[derive(Debug, Clone)]
struct Residue {
    position: Position,
    /// Where the first of it starts.
    file: PathBuf,
    offset: u64,
}

/// The last sign of life from upstream.
#[derive(Debug)]
struct Heard {
    /// Changes with everything that comes: heartbeats, how far in the primary's log (file, offset), what was received.
    sign: (u64, String, Option<u32>, Position),
    at: Instant,
}

#[derive(Debug, Default)]
struct State {
    /// The running process has passed everything that [`Engine::start`] promises.
    ready: bool,
    /// The server id that the last promotion gave.
    writer_id: Option<u32>,
    residue: Option<Residue>,
    /// `slave_parallel_threads` as it was before a residue was applied by one thread.
    parallel_threads: Option<u32>,
    unjudged_transactions: u64,
    /// See [`Observation::retained`].
    retained: bool,
    heard: Option<Heard>,
    silence: Option<late_ack::Silence>,
    threads_restarted_at: Option<Instant>,
    logs: Option<Logs>,
    /// Where, in the error log, the words of the present process begin.
    words_from: u64,
}

/// Index files of the engine's logs.
#[derive(Debug, Clone)]
struct Logs {
    binlog: PathBuf,
    relay: PathBuf,
}

/// The driver of one instance.
pub struct MySqlEngine {
    spec: Spec,
    flavour: &'static dyn flavour::Flavour,
    at: Layout,
    /// OS user we are: also our database account, by socket authentication.
    me: String,
    process: process::Process,
    sessions: sql::Sessions,
    /// Held by whatever starts, stops or replaces.
    lifecycle: Mutex<()>,
    /// Held while a copy of the data is made for another member.
    donating: Arc<Mutex<()>>,
    state: SyncMutex<State>,
    installed: Installed,
    /// Open for as long as we own the directory.
    owned: SyncMutex<Option<std::fs::File>>,
}

impl MySqlEngine {
    /// Checks `spec`. Touches nothing yet.
    pub fn new(spec: Spec) -> Result<MySqlEngine, Error> {
        let at = Layout::new(&spec)?;
        let me = datadir::user_name_of(rustix::process::getuid().as_raw())?;
        let flavour = flavour::of(spec.engine)?;
        flavour.arguments(&spec, &at, &me, flavour::Recovery::CommitTail)?;
        if spec.server_id == 0 || spec.server_id > flavour::NODE_MAX {
            return Err(Error::BadSpec(format!(
                "server id {} is out of range; give the node a number from 1 to {}",
                spec.server_id,
                flavour::NODE_MAX
            )));
        }
        Ok(MySqlEngine {
            sessions: sql::Sessions::new(&at.socket, &me, flavour),
            process: process::Process::new(matches!(spec.management, Management::Managed { .. })),
            lifecycle: Mutex::default(),
            donating: Arc::default(),
            state: SyncMutex::default(),
            installed: Installed::default(),
            owned: SyncMutex::default(),
            flavour,
            spec,
            at,
            me,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn sync(&self) -> bool {
        self.spec.durability == Durability::Sync
    }
    /// Index files of the logs.
    fn logs(&self) -> Logs {
        self.state().logs.clone().unwrap_or_else(|| Logs {
            binlog: self.at.data.join("binlog.index"),
            relay: self.at.data.join("relay.index"),
        })
    }
    async fn act(&self, doing: &'static str, sql: impl Into<String>) -> Result<Vec<sql::Table>, Error> {
        self.require_running()?;
        self.sessions.act.run(doing, sql, STATEMENT).await
    }
    fn require_running(&self) -> Result<(), Error> {
        if self.process.running().is_none() { Err(Error::NotRunning) } else { Ok(()) }
    }
}

#[async_trait]
impl Engine for MySqlEngine {
    async fn start(&self) -> Result<(), Error> {
        let _lifecycle = self.lifecycle.lock().await;
        self.start_locked().await
    }
    async fn stop(&self, within: Duration) -> Result<(), Error> {
        let _lifecycle = self.lifecycle.lock().await;
        self.stop_locked(within).await
    }
    async fn kill(&self) -> Result<(), Error> {
        // Not behind the lifecycle lock: a kill must not wait for a start that hangs.
        self.kill_now().await
    }
    fn exits(&self) -> watch::Receiver<ProcessState> {
        self.process.watch()
    }
    fn started(&self) -> bool {
        self.process.running().is_some() && self.state().ready
    }
    fn socket(&self) -> &Path {
        &self.at.socket
    }
    async fn installed(&self) -> Result<String, Error> {
        self.installed_version().await
    }
    async fn observe(&self) -> Result<Observation, Error> {
        self.look().await
    }
    async fn close(&self, within: Duration) -> Result<Option<Position>, Error> {
        self.fence(within).await.map(Some)
    }
    async fn drain_clients(&self, within: Duration) -> Result<u32, Error> {
        self.wait_for_clients(within).await
    }
    async fn refuse_writes(&self, within: Duration) -> Result<(), Error> {
        self.close_gently(within).await
    }
    async fn mark_intact(&self) -> Result<(), Error> {
        // A start that is not ours may have purged what was received.
        if matches!(self.spec.management, Management::Attached { .. }) || self.state().retained {
            return Ok(());
        }
        let at = self.at.clone();
        blocking(move || datadir::set_intact(&at, true)).await?;
        self.state().retained = true;
        Ok(())
    }
    async fn stop_receiving(&self) -> Result<(), Error> {
        self.receive_no_more().await
    }
    async fn drained(&self) -> Result<bool, Error> {
        Ok(self.look_before("looking whether all is applied").await?.drained)
    }
    async fn promote(&self, sync: bool, primacy: u64) -> Result<(), Error> {
        self.end_replication(sync, primacy).await
    }
    async fn open(&self) -> Result<(), Error> {
        self.unfence().await
    }
    async fn set_wait_for_ack(&self, on: bool) -> Result<(), Error> {
        self.wait_for_ack(on).await
    }
    async fn set_acknowledges(&self, on: bool) -> Result<(), Error> {
        self.acknowledge(on).await
    }
    async fn follow(&self, primary: SocketAddr, acknowledges: bool) -> Result<(), Error> {
        self.replicate_from(primary, acknowledges).await
    }
    async fn accounts(&self) -> Result<(), Error> {
        self.create_accounts().await
    }
    async fn save_divergence(&self, theirs: &Position) -> Result<Option<Saved>, Error> {
        self.save_what_only_we_have(theirs).await
    }
    fn copy_by_stream(&self) -> Option<&dyn CopyByStream> {
        Some(self)
    }
    fn log(&self) -> Option<&dyn ReadLog> {
        Some(self)
    }
}

#[async_trait]
impl ReadLog for MySqlEngine {
    async fn log_after(&self, have: Option<&Position>) -> Result<LogFrom, Error> {
        self.stream_log(have).await
    }
}

#[async_trait]
impl CopyByStream for MySqlEngine {
    async fn clone_source(&self) -> Result<CloneSource, Error> {
        self.donate().await
    }
    async fn clone_into(
        &self,
        stream: Pin<Box<dyn AsyncRead + Send>>,
        progress: watch::Sender<CloneProgress>,
    ) -> Result<Option<Saved>, Error> {
        let _lifecycle = self.lifecycle.lock().await;
        self.receive_clone(stream, progress).await
    }
}
