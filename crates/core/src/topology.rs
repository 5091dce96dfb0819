//! The topology: which hosts there are and which services run on them, as the rest of the program sees it.
//! The TOML file, its spans and its error messages belong to the binary; here is only what is already checked.

use crate::schedule::Schedule;
use crate::{GroupName, NodeName, RegionName, UserName, ZoneName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// A checked topology, identical on every host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Names the deployment in outputs, metrics and certificates.
    pub name: String,
    /// TCP port of the HTTP API on every node.
    pub api_port: u16,
    /// Directory of certificates and tokens on every host. `None`: the API is plain and on loopback addresses only.
    #[serde(default)]
    pub tls_dir: Option<PathBuf>,
    /// Where every node answers clients as a Sentinel would. `None`: nowhere.
    #[serde(default)]
    pub sentinel: Option<Sentinel>,
    /// When every service is backed up. `None`: when somebody says so.
    #[serde(default)]
    pub backups: Option<Schedule>,
    /// Nodes in the order of the file.
    pub nodes: Vec<Node>,
    /// Services in the order of the file.
    pub services: Vec<Service>,
}

/// See [`Topology::sentinel`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sentinel {
    /// TCP port on every node.
    pub port: u16,
    /// What clients must give before they are told anything. `None`: nothing.
    pub password: Option<PasswordSource>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: NodeName,
    /// Unique number, 1 to [`crate::limits::NODE_ID_MAX`]: part of the MariaDB `server_id`, and the Raft node id. Never given to another host
    /// (a reused Raft id can forget a vote; a reused server id hides a divergence).
    pub id: u32,
    pub region: RegionName,
    pub zone: ZoneName,
    /// Where the other hosts reach it.
    pub address: IpAddr,
    /// Takes part in the store's quorum.
    pub voter: bool,
    /// Where everything of Holdfast lives on that host: store, engine data, saved histories.
    pub data_dir: PathBuf,
}

/// What clients connect to. Under `hot-standby` it is one group of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: GroupName,
    pub engine: Engine,
    pub strategy: Strategy,
    pub durability: Durability,
    /// Under `sync`: how many replicas are kept able to acknowledge (1 to members − 1).
    pub sync_replicas: usize,
    /// Under `sync`, when no replica is left that could acknowledge.
    pub when_no_sync_replica: WhenNoSyncReplica,
    /// Members in order of preference: the first that can is the first primary. The very first is the service's home.
    pub members: Vec<NodeName>,
    /// When it goes home after a takeover moved it away.
    pub hand_back: HandBack,
    /// Before that, its home has followed well for this long.
    pub hand_back_after_ms: u64,
    /// The engine's own port on each member.
    pub engine_port: u16,
    /// The proxy's read/write port on every node.
    pub port: u16,
    /// The proxy's read port on every node.
    pub read_port: u16,
    pub management: Management,
    /// Directory of the engine's programs on every member; `None`: found through `PATH`.
    #[serde(default)]
    pub programs: Option<PathBuf>,
    pub users: Vec<User>,
    /// The account with which replicas log in at their primary.
    pub replication: ReplicationUser,
    /// Automatic failover across regions (S12: off unless turned on).
    pub cross_region_failover: bool,
    /// After a takeover, another automatic one waits this long unless the new primary certainly ended (S12).
    pub cool_down_ms: u64,
    /// What a read on the read/write port may see; anything but `strong` lets reads go to replicas.
    pub read_consistency: ReadConsistency,
    /// A replica further behind serves no reads, on either port.
    pub read_lag_ms: u64,
    /// Under `session`: how long a read waits on a replica for what its session wrote, before it goes to the primary.
    pub read_wait_ms: u64,
    /// Engine options of the user's own, added to the server's command line (`innodb_buffer_pool_size` …).
    pub engine_options: BTreeMap<String, String>,
}

/// Database family and flavour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    MariaDb,
    MySql,
    Redis,
    Valkey,
}

/// Engines that speak one protocol and replicate in one way: one driver and one proxy each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    MySql,
    Redis,
}

impl Family {
    /// Every replica that is connected acknowledges, recorded or not, and it is the proxies that wait for it. So a
    /// primary admits only those it is told to (ADR 0019).
    pub fn admits_replicas(self) -> bool {
        self == Family::Redis
    }
    /// What a process had executed may be gone once it ended.
    pub fn forgets(self) -> bool {
        self == Family::Redis
    }
}

impl Service {
    /// Where its primary is when nothing has failed.
    pub fn home(&self) -> Option<&NodeName> {
        self.members.first()
    }
    /// See [`Family::admits_replicas`].
    pub fn admits_replicas(&self) -> bool {
        self.engine.family().admits_replicas()
    }
    /// Under `sync`: how many replicas are to acknowledge. Where all do that follow, all members but the primary.
    pub fn wanted_ackers(&self) -> usize {
        if self.admits_replicas() { self.members.len() - 1 } else { self.sync_replicas }
    }
}

impl Engine {
    pub fn family(self) -> Family {
        match self {
            Engine::MariaDb | Engine::MySql => Family::MySql,
            Engine::Redis | Engine::Valkey => Family::Redis,
        }
    }
    /// The word of the topology file.
    pub fn word(self) -> &'static str {
        match self {
            Engine::MariaDb => "mariadb",
            Engine::MySql => "mysql",
            Engine::Redis => "redis",
            Engine::Valkey => "valkey",
        }
    }
}

/// How a service is made available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    HotStandby,
    /// Two machines, each the standby of what the other serves; services go home by themselves.
    MutualStandby,
}

/// When a service whose home failed, and came back, is handed back to it: by a switchover, which loses nothing. What a
/// person moved away stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandBack {
    /// Only `holdfast switchover --home` does.
    Manual,
    /// As soon as its home is well.
    Auto,
    /// In the [`crate::limits::HAND_BACK_MINUTES`] from this minute of the day (UTC) on.
    At(u16),
}

impl HandBack {
    /// Whether it may be now. `minute`: of the day, UTC; `None` where nobody knows.
    pub fn is_due(self, minute: Option<u16>) -> bool {
        let day = 24 * 60;
        match self {
            HandBack::Manual => false,
            HandBack::Auto => true,
            HandBack::At(at) => {
                minute.is_some_and(|now| (now + day - at) % day < crate::limits::HAND_BACK_MINUTES)
            }
        }
    }
}

/// What an acknowledged write has survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It is on the primary and on at least one recorded replica.
    Sync,
    /// It is on the primary; loss at a failover is bounded and reported.
    Async,
}

/// See [`Service::when_no_sync_replica`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenNoSyncReplica {
    /// Writes wait until a replica is back.
    Block,
    /// Writes go on without; recorded first, and automatic failover is off meanwhile (S5).
    Degrade,
}

/// See [`Service::read_consistency`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadConsistency {
    /// Everything acknowledged before: all reads are the primary's.
    #[default]
    Strong,
    /// What the same session wrote before, and others' writes up to `read_lag_ms` late.
    Session,
    /// Anything up to `read_lag_ms` late.
    Eventual,
}

/// Who starts the engine's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Management {
    /// The agent initialises the data directory, starts and supervises the process.
    Managed {
        /// OS user to run the engine as when the agent is root.
        run_as: Option<String>,
    },
    /// Something else (systemd) does; the agent watches it.
    Attached {
        /// Unix socket of the running engine.
        socket: PathBuf,
        /// Its data directory.
        data_dir: PathBuf,
        /// Commands the agent uses to stop and start it (for a reclone, or to fence past the bound).
        stop_command: Vec<String>,
        start_command: Vec<String>,
    },
}

/// A database user that the proxy knows: it logs clients in and opens their sessions on the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: UserName,
    pub password: PasswordSource,
    /// Privileges given when the group is bootstrapped, as in SQL: `ALL PRIVILEGES ON shop.*`.
    pub grants: Vec<String>,
}

/// See [`Service::replication`]. Its privileges are fixed, so it carries none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationUser {
    pub name: UserName,
    pub password: PasswordSource,
}

/// Where a password comes from. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordSource {
    /// First line of a file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// In the topology file itself; only accepted with `allow_plaintext_passwords = true`.
    Plain(String),
}

impl std::fmt::Debug for PasswordSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PasswordSource::File(path) => f.debug_tuple("File").field(path).finish(),
            PasswordSource::Env(name) => f.debug_tuple("Env").field(name).finish(),
            PasswordSource::Plain(_) => f.write_str("Plain(…)"),
        }
    }
}

impl Topology {
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == *name)
    }
    pub fn service(&self, name: &GroupName) -> Option<&Service> {
        self.services.iter().find(|s| s.name == *name)
    }
    /// Where the API of a node listens.
    pub fn api_addr(&self, node: &Node) -> SocketAddr {
        SocketAddr::new(node.address, self.api_port)
    }
}
