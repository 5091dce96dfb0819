//! The Redis family: one driver, two flavours ([`flavour`]): Redis and Valkey.
//!
//! A server is closed by making it the replica of nobody ([`settings::NOWHERE`]): from then on it takes no write of any
//! client, its place in its history stands still, and it can still go on from there under any primary. It is opened by
//! making it a primary, which begins a new history. Who is connected as a replica acknowledges; so a primary admits only
//! those it is told to (ADR 0019). Waiting for an acknowledgement is the proxies' part.
//!
//! Guarantees: those of [`Engine`]. Dropping the driver kills a process that it started.
//! Does not know: epochs, leases, why a verb is called.

mod accounts;
mod compare;
mod divergence;
mod fence;
mod flavour;
mod info;
mod lineage;
mod observe;
mod probe;
mod replication;
mod session;
mod settings;
mod start;
mod tail;

pub use accounts::is_rule;
pub use settings::is_own_setting;

use crate::files::{blocking, io, write_whole};
use crate::installed::Installed;
use crate::{CopyByStream, Engine, Error, Observation, ProcessState, Saved, Spec, process};
use async_trait::async_trait;
use holdfast_core::position::RedisPosition;
use holdfast_core::topology::{Durability, Management};
use holdfast_core::{NodeName, Position};
use session::{Batch, Door};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// A verb's single batch takes no longer, or the verb has failed.
const BATCH: Duration = Duration::from_secs(5);

/// Where everything of one instance lies.
#[derive(Debug, Clone)]
struct Layout {
    root: PathBuf,
    data: PathBuf,
    saved: PathBuf,
    run: PathBuf,
    log: PathBuf,
    socket: PathBuf,
    pid_file: PathBuf,
    error_log: PathBuf,
    /// Configuration and accounts of a managed server; both hold secrets.
    settings: PathBuf,
    users: PathBuf,
    /// See [`lineage`].
    histories: PathBuf,
    /// The life of the process that nothing was lost in since it was marked, or where one stood that ended in order.
    intact: PathBuf,
}

/// A unix socket's path, by the kernel.
const SOCKET_PATH_BYTES_MAX: usize = 107;

impl Layout {
    fn new(spec: &Spec) -> Result<Layout, Error> {
        let root = std::path::absolute(&spec.data_dir).map_err(io("resolving", &spec.data_dir))?;
        let (run, log) = (root.join("run"), root.join("log"));
        let (data, socket) = match &spec.management {
            Management::Managed { .. } => (root.join("data"), run.join("db.sock")),
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
        Ok(Layout {
            data,
            socket,
            saved: root.join("saved"),
            pid_file: run.join("db.pid"),
            error_log: log.join("error.log"),
            settings: run.join("server.conf"),
            users: run.join("users.acl"),
            histories: root.join("histories"),
            intact: root.join("intact"),
            run,
            log,
            root,
        })
    }
}

/// What the data was when this process was first told to follow somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Something,
}

/// The last sign of life from upstream.
#[derive(Debug)]
struct Heard {
    offset: u64,
    at: tokio::time::Instant,
}

#[derive(Debug, Default)]
struct State {
    /// The running process has passed everything that [`Engine::start`] promises.
    ready: bool,
    version: String,
    /// See [`Observation::retained`].
    retained: bool,
    followed: Option<Before>,
    heard: Option<Heard>,
    /// Where, in the error log, the words of the present process begin.
    words_from: u64,
    /// The primary that this instance is to be compared with.
    primary: Option<SocketAddr>,
}

/// The driver of one instance.
pub struct RedisEngine {
    spec: Spec,
    flavour: &'static flavour::Flavour,
    at: Layout,
    process: process::Process,
    door: SyncMutex<Door>,
    watching: session::Session,
    acting: session::Session,
    probe: probe::Probe,
    /// `None` until the directory is ours.
    lineage: Arc<SyncMutex<Option<lineage::Lineage>>>,
    /// Held by whatever starts, stops or empties.
    lifecycle: Mutex<()>,
    state: SyncMutex<State>,
    installed: Installed,
    /// Open for as long as we own the directory.
    owned: SyncMutex<Option<std::fs::File>>,
}

fn lock<T>(mutex: &SyncMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RedisEngine {
    /// Checks `spec`. Touches nothing yet.
    pub fn new(spec: Spec) -> Result<RedisEngine, Error> {
        let at = Layout::new(&spec)?;
        let flavour = flavour::of(spec.engine)?;
        let door = accounts::attached_door(&spec, &at);
        settings::file(&spec, &at)?;
        accounts::file(&spec, &door)?;
        Ok(RedisEngine {
            process: process::Process::new(matches!(spec.management, Management::Managed { .. })),
            door: SyncMutex::new(door),
            watching: session::Session::default(),
            acting: session::Session::default(),
            probe: probe::Probe::default(),
            lineage: Arc::default(),
            lifecycle: Mutex::default(),
            state: SyncMutex::default(),
            installed: Installed::default(),
            owned: SyncMutex::default(),
            flavour,
            spec,
            at,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
    fn door(&self) -> Door {
        lock(&self.door).clone()
    }
    fn sync(&self) -> bool {
        self.spec.durability == Durability::Sync
    }
    fn require_running(&self) -> Result<(), Error> {
        if self.process.running().is_none() { Err(Error::NotRunning) } else { Ok(()) }
    }
    async fn act(
        &self,
        doing: &'static str,
        batch: Batch,
    ) -> Result<Vec<holdfast_wire::resp::value::Value>, Error> {
        self.require_running()?;
        self.acting.run(doing, &self.door(), batch, BATCH).await
    }
    /// Remembers what a position says of its past.
    async fn remember(&self, position: &RedisPosition) -> Result<(), Error> {
        let (lineage, position) = (self.lineage.clone(), position.clone());
        blocking(move || lock(&lineage).as_mut().map_or(Ok(()), |l| l.learn(&position))).await
    }
}

fn position(p: &Position) -> Result<&RedisPosition, Error> {
    match p {
        Position::Redis(p) => Ok(p),
        Position::MariaDb(_) | Position::MySql(_) => {
            Err(Error::Precondition(format!("{p} is not a position of Redis")))
        }
    }
}

#[async_trait]
impl Engine for RedisEngine {
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
        let flavour = self.flavour;
        let read = move |says: &str| flavour.program_version(says);
        self.installed.version(self.spec.programs(), flavour.server, &["--version"], read).await
    }
    async fn observe(&self) -> Result<Observation, Error> {
        self.look().await
    }
    async fn close(&self, within: Duration) -> Result<Option<Position>, Error> {
        self.fence(within).await
    }
    async fn drain_clients(&self, within: Duration) -> Result<u32, Error> {
        self.wait_for_waiters(within).await
    }
    async fn refuse_writes(&self, within: Duration) -> Result<(), Error> {
        self.take_no_writes(within).await.map(drop)
    }
    async fn mark_intact(&self) -> Result<(), Error> {
        self.require_running()?;
        let life = self.life().await?;
        let path = self.at.intact.clone();
        blocking(move || write_whole(&path, &life)).await?;
        self.state().retained = true;
        Ok(())
    }
    async fn stop_receiving(&self) -> Result<(), Error> {
        self.follow_nobody().await
    }
    async fn drained(&self) -> Result<bool, Error> {
        Ok(self.look_before("looking whether all is applied").await?.drained)
    }
    async fn promote(&self, _sync: bool, _primacy: u64) -> Result<(), Error> {
        self.fit_to_open().await
    }
    async fn open(&self) -> Result<(), Error> {
        self.begin_history().await
    }
    async fn set_wait_for_ack(&self, _on: bool) -> Result<(), Error> {
        Ok(()) // the proxies' part
    }
    async fn set_acknowledges(&self, _on: bool) -> Result<(), Error> {
        Ok(()) // whoever follows does
    }
    async fn admit(&self, nodes: &BTreeSet<NodeName>) -> Result<(), Error> {
        self.admit_only(nodes).await
    }
    async fn follow(&self, primary: SocketAddr, _acknowledges: bool) -> Result<(), Error> {
        self.replicate_from(primary).await
    }
    async fn accounts(&self) -> Result<(), Error> {
        Ok(()) // each server's own, made at each start
    }
    async fn learn(&self, theirs: &Position, at: SocketAddr) -> Result<(), Error> {
        self.state().primary = Some(at);
        self.remember(position(theirs)?).await
    }
    async fn save_divergence(&self, theirs: &Position) -> Result<Option<Saved>, Error> {
        self.save_what_only_we_have(position(theirs)?).await
    }
    fn copy_by_stream(&self) -> Option<&dyn CopyByStream> {
        None
    }
    async fn discard(&self) -> Result<(), Error> {
        let _lifecycle = self.lifecycle.lock().await;
        self.discard_locked().await
    }
}
