//! Real servers in temporary directories, and clients of theirs. Everything ends with its test.

use holdfast_core::topology::{Durability, Engine, Management};
use holdfast_core::{GroupName, NodeName, Position, UserName};
use holdfast_engine::mysql::MySqlEngine;
use holdfast_engine::{Account, Engine as _, Observation, Spec, UserAccount};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Rig {
    pub flavour: Engine,
    pub dir: tempfile::TempDir,
    pub ports: Vec<u16>,
    pub durability: Durability,
}

impl Drop for Rig {
    /// What the servers said, where a test failed.
    fn drop(&mut self) {
        for id in (1..=3).filter(|_| std::thread::panicking()) {
            let log = std::fs::read_to_string(self.root(id).join("log/error.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("db{id}: {}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// In memory where there is room: what is tested is processes that die, not hosts, and syncing to disk is most of
/// what these tests would wait for.
pub fn fast_dir() -> tempfile::TempDir {
    const ROOM: u64 = 4 << 30;
    let shm = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(shm).map_or(0, |s| s.f_bavail * s.f_frsize);
    if free > ROOM { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// The programs of a flavour; `None`: those of this machine.
pub fn programs(flavour: Engine) -> Option<PathBuf> {
    match flavour {
        Engine::MariaDb | Engine::Redis | Engine::Valkey => None,
        Engine::MySql => {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mysql/programs");
            assert!(folder.join("mysqld").exists(), "there is no MySQL here yet: make engines");
            Some(folder.canonicalize().unwrap())
        }
    }
}

/// Programs of a later release of MariaDB than this machine's.
pub fn later() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mariadb/programs");
    assert!(folder.join("mariadbd").exists(), "there is no later MariaDB here yet: make engines");
    folder.canonicalize().unwrap()
}

pub fn rig(flavour: Engine, durability: Durability) -> Rig {
    let held: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    Rig {
        flavour,
        dir: fast_dir(),
        ports: held.iter().map(|l| l.local_addr().unwrap().port()).collect(),
        durability,
    }
}

pub fn readable_by_all(dir: &Path) {
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir, all).unwrap();
}

pub fn node(id: u32) -> NodeName {
    NodeName::new(&format!("db{id}")).unwrap()
}

pub fn account(name: &str) -> Account {
    Account { user: UserName::new(name).unwrap(), password: format!("{name}'s \\secret") }
}

impl Rig {
    /// The module of this flavour's tests.
    pub fn module(&self) -> &'static str {
        self.flavour.word()
    }
    pub fn addr(&self, id: u32) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[id as usize - 1]))
    }
    pub fn root(&self, id: u32) -> PathBuf {
        self.dir.path().join(format!("db{id}"))
    }
    pub fn socket(&self, id: u32) -> PathBuf {
        self.root(id).join("run/db.sock")
    }
    pub fn spec(&self, id: u32) -> Spec {
        let log = match self.flavour {
            Engine::MySql => ("innodb_redo_log_capacity", "16M"),
            _ => ("innodb_log_file_size", "8M"),
        };
        let small = [("innodb_buffer_pool_size", "16M"), ("max_connections", "100"), log];
        Spec {
            engine: self.flavour,
            programs: programs(self.flavour),
            group: GroupName::new("shop").unwrap(),
            node: node(id),
            server_id: id,
            data_dir: self.root(id),
            listen: self.addr(id),
            management: Management::Managed { run_as: None },
            durability: self.durability,
            engine_options: small.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            replication: account("replicator"),
            users: vec![UserAccount {
                account: account("app"),
                grants: vec!["ALL PRIVILEGES ON shop.*".into()],
            }],
            peers: (1..=3).map(|id| (id, node(id))).collect::<BTreeMap<_, _>>(),
            addresses: (1..=3).map(|id| (node(id), self.addr(id))).collect(),
        }
    }
    pub fn engine(&self, id: u32) -> MySqlEngine {
        MySqlEngine::new(self.spec(id)).unwrap()
    }
    /// A server that is not root can get to its directory.
    pub fn readable_by_all(&self) {
        readable_by_all(self.dir.path());
    }
    /// Started.
    pub async fn up(&self, id: u32) -> MySqlEngine {
        let engine = self.engine(id);
        engine.start().await.unwrap();
        engine
    }
    /// Started, made the first primary, with a table.
    pub async fn primary(&self, id: u32) -> MySqlEngine {
        let engine = self.up(id).await;
        engine.promote(false, 0).await.unwrap();
        engine.accounts().await.unwrap();
        engine.open().await.unwrap();
        let mut app = self.app(id).await;
        app.query_drop("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200))").await.unwrap();
        engine
    }
    /// Started, and following.
    pub async fn replica(&self, id: u32, of: u32, acknowledges: bool) -> MySqlEngine {
        let engine = self.up(id).await;
        engine.follow(self.addr(of), acknowledges).await.unwrap();
        engine
    }
    /// A client.
    pub async fn app(&self, id: u32) -> Conn {
        let account = account("app");
        let opts = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.ports[id as usize - 1])
            .prefer_socket(false)
            .user(Some(account.user.as_str()))
            .pass(Some(account.password))
            .db_name(Some("shop"));
        Conn::new(opts).await.unwrap()
    }
    /// A superuser.
    pub async fn root_conn(&self, id: u32) -> Conn {
        root_at(&self.socket(id)).await
    }
}

pub async fn root_at(socket: &Path) -> Conn {
    let opts = OptsBuilder::default().socket(Some(socket.to_string_lossy())).user(Some("root"));
    Conn::new(opts).await.unwrap()
}

pub async fn insert(conn: &mut Conn, ids: impl IntoIterator<Item = u32>) {
    for id in ids {
        conn.query_drop(format!("INSERT INTO shop.t VALUES ({id}, 'x')")).await.unwrap();
    }
}

pub async fn ids(conn: &mut Conn) -> Vec<u32> {
    conn.query("SELECT id FROM shop.t ORDER BY id").await.unwrap()
}

/// Waits for a state, with a deadline.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// What it is now. A starved machine may give up a look, so it is looked again.
pub async fn now(engine: &MySqlEngine) -> Observation {
    seen(engine, "an answer", |_| true).await
}

pub async fn seen(engine: &MySqlEngine, what: &str, holds: impl Fn(&Observation) -> bool) -> Observation {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = engine.observe().await;
        if let Ok(o) = &last
            && holds(o)
        {
            return o.clone();
        }
        assert!(Instant::now() < deadline, "never seen: {what}; last: {last:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// What is bounded in the driver takes no longer than this even where many tests share two cores; a hang takes for
/// ever.
pub const BOUNDED: Duration = Duration::from_secs(10);

/// The replica has all that the primary has.
pub async fn level(primary: &MySqlEngine, replica: &MySqlEngine) -> Observation {
    let at = seen(primary, "an answer", |_| true).await.applied;
    let level = seen(replica, "level with the primary", |o| o.drained && o.applied == at).await;
    // Whichever way it came to acknowledge, what it acknowledges is on its disk.
    assert!(
        !level.unsafe_settings.iter().any(|s| s.contains("sync_relay_log")),
        "{:?}",
        level.unsafe_settings
    );
    level
}

pub fn applied(o: &Observation) -> Position {
    o.applied.clone().unwrap()
}

pub fn received(o: &Observation) -> Position {
    o.received.clone().unwrap()
}
