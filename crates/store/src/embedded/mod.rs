//! The embedded store: Raft (openraft) over one redb file per voter.
//!
//! Guarantees: as [`Store`]; what was answered is on the disks of a majority (fsync). A voter whose disk fails stops
//! with an error and answers nothing more; if it only lacked room, it can be opened again. Memory, file, queue and every wait are bounded.
//! Deliberately absent: addresses and HTTP ([`Transport`] brings them), forwarding (a follower names the leader,
//! the caller goes there), and leases' clocks.

mod disk;
mod found;
mod hand_over;
mod lead;
mod log;
mod machine;
mod network;
mod propose;
mod recover;
mod room;
mod serve;
#[cfg(test)]
mod suite;
mod types;
mod voters;

pub use disk::Error as DiskError;
pub use found::{Formation, Refused, Waiting};
pub use hand_over::HandOverError;
pub use network::{MESSAGE_BYTES, Transport, TransportError};
pub use recover::{Recovered, recover_lost_quorum};
pub use serve::HandleError;
pub use types::{ProbeAnswer, RpcKind, StoreId, Voter};
pub use voters::{ChangeError, Mismatch};

use crate::state::{CodecError, Outcome, State, Txn, Value};
use crate::view::View;
use crate::{Error as StoreError, Leadership, Store};
use disk::{Disk, Identity};
use openraft::error::{CheckIsLeaderError, RaftError};
use openraft::{Config, Raft, SnapshotPolicy};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Voters of one store. More would only slow down every commit.
pub const VOTERS: usize = 7;
/// A clean shutdown takes no longer.
const SHUTDOWN_MS: u64 = 5_000;
/// Bytes of one piece of a snapshot on its way to a follower.
const SNAPSHOT_PIECE_BYTES: u64 = 1 << 20;
/// How long one piece, or installing the whole, may take.
const SNAPSHOT_PIECE_MS: u64 = 5_000;
/// Entries of one replication message; its bytes are bounded by the log.
const APPEND_ENTRIES: u64 = 300;

/// How patient voters are with each other.
///
/// A follower stands for election when it has heard nothing from its leader for `election_max_ms` (while it still
/// protects the leader) plus a time between `election_min_ms` and `election_max_ms` of its own. A leader beats
/// every 1.5 `heartbeat_ms`. With the defaults a new leader stands 0.6 to 0.9 s after the old one died.
/// The leader cannot beat while it waits for its own fsync: on a disk whose fsync can take longer than
/// about 400 ms (a cheap disk under another load), raise all three, or the leadership moves for no reason (which
/// loses nothing, but delays decisions).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// How long [`Store::commit`] and [`Store::get`] wait for a majority.
    pub commit_ms: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { heartbeat_ms: 100, election_min_ms: 200, election_max_ms: 350, commit_ms: 3_000 }
    }
}

/// What a voter needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of this voter alone.
    pub dir: PathBuf,
    /// Begin with nothing if there is nothing in it. Otherwise that is an error: a voter that has been one must not
    /// forget its vote.
    pub create: bool,
    /// This voter's id. Never reused.
    pub id: u64,
    /// Name of the deployment: a directory of another one is refused.
    pub cluster: String,
    /// Every voter of the topology file with its address.
    pub voters: BTreeMap<u64, String>,
    pub timing: Timing,
    /// Entries after which a snapshot is taken.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, so that a follower that was away briefly needs no snapshot.
    pub keep_entries: u64,
}

impl Options {
    /// Options with the default limits.
    pub fn new(dir: impl Into<PathBuf>, id: u64, cluster: &str, voters: BTreeMap<u64, String>) -> Options {
        Options {
            dir: dir.into(),
            create: true,
            id,
            cluster: cluster.to_owned(),
            voters,
            timing: Timing::default(),
            snapshot_every: 5_000,
            keep_entries: 1_000,
        }
    }

    fn check(&self) -> Result<(), Error> {
        if !self.voters.contains_key(&self.id) {
            return Err(Error::NotAVoter { id: self.id });
        }
        if self.voters.len() > VOTERS {
            return Err(Error::TooManyVoters { voters: self.voters.len() });
        }
        Ok(())
    }

    fn raft_config(&self) -> Result<Config, Error> {
        let config = Config {
            cluster_name: self.cluster.clone(),
            heartbeat_interval: self.timing.heartbeat_ms,
            election_timeout_min: self.timing.election_min_ms,
            election_timeout_max: self.timing.election_max_ms,
            install_snapshot_timeout: SNAPSHOT_PIECE_MS,
            snapshot_max_chunk_size: SNAPSHOT_PIECE_BYTES,
            max_payload_entries: APPEND_ENTRIES,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.keep_entries,
            replication_lag_threshold: self.snapshot_every,
            ..Config::default()
        };
        config.validate().map_err(|e| Error::Timing(e.to_string()))
    }
}

/// Why a voter cannot start or stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("node {id} is not among the voters of the topology file; it needs no store")]
    NotAVoter { id: u64 },
    #[error("{voters} voters, the limit is {VOTERS}; three or five are enough")]
    TooManyVoters { voters: usize },
    #[error("the store's timing does not fit together: {0}")]
    Timing(String),
    #[error("the store's file cannot be used")]
    Disk(#[from] DiskError),
    #[error("the store's snapshot cannot be read; keep the file")]
    Snapshot(#[source] CodecError),
    #[error("the store cannot start: {0}")]
    Raft(String),
    #[error(
        "the store did not stop within {waited_ms} ms; nothing acknowledged is lost, the process can be ended"
    )]
    Shutdown { waited_ms: u64 },
}

/// A voter of the embedded store. Cheap to clone; all clones are the same voter.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    options: Options,
    disk: Arc<Disk>,
    view: Arc<View>,
    raft: Raft<types::Types>,
    sender: network::Sender,
    queue: mpsc::Sender<propose::Proposal>,
    leadership: watch::Receiver<Leadership>,
    formation: watch::Receiver<Formation>,
    /// It leads, and proposes nothing: it is about to hand over.
    silent: AtomicBool,
    /// Aborted with the last clone.
    tasks: Mutex<JoinSet<()>>,
}

impl Embedded {
    /// Opens the directory, or creates it, and takes part from then on. Returns at once; [`Embedded::formation`]
    /// says when the store is founded. [`Embedded::handle`] must be reachable for the other voters by then.
    pub async fn open(options: Options, transport: Arc<dyn Transport>) -> Result<Embedded, Error> {
        options.check()?;
        let config = Arc::new(options.raft_config()?);
        let disk = open_disk(&options).await?;
        let view = Arc::new(View::new(State::default()));
        let machine = machine::Machine::load(disk.clone(), view.clone())?;
        let log = log::Log::new(disk.clone())?;
        let log_bytes = log.bytes();
        let sender = network::Sender {
            transport,
            cluster: options.cluster.as_str().into(),
            from: options.id,
            from_store: disk.store,
            timeout: Duration::from_millis(options.timing.election_min_ms),
        };
        let peers = network::Peers(sender.clone());
        let raft = Raft::new(options.id, config, peers, log, machine).await;
        let raft = raft.map_err(|e| Error::Raft(e.to_string()))?;

        let (queue, proposals) = mpsc::channel(propose::QUEUE);
        let (leadership_sender, leadership) = watch::channel(Leadership::default());
        let (formation_sender, formation) = watch::channel(Formation::Waiting(Waiting::Asking));
        let founder = found::Founder {
            raft: raft.clone(),
            sender: sender.clone(),
            voters: options.voters.clone(),
            formation: formation_sender,
        };
        let quorum_ms = 2 * options.timing.election_max_ms;
        let mut tasks = JoinSet::new();
        tasks.spawn(founder.run());
        tasks.spawn(propose::run(raft.clone(), proposals));
        tasks.spawn(lead::follow(raft.clone(), disk.clone(), log_bytes, quorum_ms, leadership_sender));
        let tasks = Mutex::new(tasks);
        let silent = AtomicBool::new(false);
        let inner = Inner { options, disk, view, raft, sender, queue, leadership, formation, silent, tasks };
        Ok(Embedded(Arc::new(inner)))
    }

    /// If this voter is part of a store yet. On [`Formation::Refused`] the process should end with that error.
    pub fn formation(&self) -> watch::Receiver<Formation> {
        self.0.formation.clone()
    }

    /// Name of this voter's directory.
    pub fn store_id(&self) -> StoreId {
        self.0.disk.store
    }

    /// Whether it stopped because its file could not grow. Once there is room, the directory can be opened again, after
    /// [`Embedded::shutdown`].
    pub fn lacked_room(&self) -> bool {
        self.0.disk.lacked_room()
    }

    /// Stops taking part and closes the file; bounded. Acknowledged transactions are on disk in any case.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let bound = Duration::from_millis(SHUTDOWN_MS);
        let inner = self.0.clone();
        let stopped = timeout(bound, async move {
            // A panic of the core has already been reported as `Leadership::stopped`.
            let _ = inner.raft.shutdown().await;
            let disk = inner.disk.clone();
            tokio::task::spawn_blocking(move || disk.close()).await
        });
        let closed = stopped.await;
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        match closed {
            Ok(Ok(closed)) => Ok(closed?),
            Ok(Err(panicked)) => Err(Error::Raft(panicked.to_string())),
            Err(_) => Err(Error::Shutdown { waited_ms: SHUTDOWN_MS }),
        }
    }

    /// Waits until this voter may propose, as long as it is about to.
    async fn leading(&self) -> Result<(), StoreError> {
        let mut leadership = self.0.leadership.clone();
        let own = Some(self.0.options.id);
        let settled = leadership.wait_for(|l| l.is_me || l.leader != own || l.stopped.is_some());
        let bound = Duration::from_millis(self.0.options.timing.election_max_ms);
        let Ok(now) = timeout(bound, settled).await else {
            return Err(StoreError::NoQuorum);
        };
        let now = now.map_err(|_| shut_down())?;
        match &now.stopped {
            Some(reason) => Err(StoreError::Stopped { reason: reason.clone() }),
            None if now.is_me && self.0.silent.load(Ordering::Acquire) => {
                Err(StoreError::NotLeader { leader: None })
            }
            None if now.is_me => Ok(()),
            None => Err(StoreError::NotLeader { leader: now.leader }),
        }
    }

    fn commit_bound(&self) -> Duration {
        Duration::from_millis(self.0.options.timing.commit_ms)
    }
}

fn shut_down() -> StoreError {
    StoreError::Stopped { reason: "it was shut down".into() }
}

async fn open_disk(options: &Options) -> Result<Arc<Disk>, Error> {
    let identity = Identity { cluster: options.cluster.clone(), id: options.id };
    let (dir, create) = (options.dir.clone(), options.create);
    let open =
        move || if create { Disk::open(&dir, &identity) } else { Disk::open_existing(&dir, &identity) };
    let opened = tokio::task::spawn_blocking(open).await;
    Ok(Arc::new(opened.map_err(|e| Error::Raft(e.to_string()))??))
}

#[async_trait::async_trait]
impl Store for Embedded {
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check().map_err(StoreError::Refused)?;
        self.leading().await?;
        let (answer, answered) = oneshot::channel();
        self.0.queue.try_send(propose::Proposal { txn, answer }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => shut_down(),
        })?;
        match timeout(self.commit_bound(), answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(StoreError::Interrupted),
            Err(_) => Err(StoreError::Unavailable { waited_ms: self.0.options.timing.commit_ms }),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Value>, StoreError> {
        self.leading().await?;
        match timeout(self.commit_bound(), self.0.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(self.0.view.state().get(key).cloned()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
                Err(StoreError::NotLeader { leader: forward.leader_id })
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(StoreError::Stopped { reason: fatal.to_string().into() }),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) | Err(_) => {
                Err(StoreError::NoQuorum)
            }
        }
    }

    fn local(&self) -> Arc<State> {
        self.0.view.state()
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.0.view.watch()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    fn renewed_at(&self, lease: &str) -> Option<Instant> {
        let applied = self.0.view.renewed_at(lease)?;
        let established = self.0.leadership.borrow().is_me;
        Some(if established { applied } else { Instant::now() })
    }
}
