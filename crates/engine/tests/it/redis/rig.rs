//! Real servers in temporary directories, and clients of theirs. Everything ends with its test.

use crate::rig::{PATIENCE, fast_dir, node};
use holdfast_core::topology::{Durability, Engine, Management};
use holdfast_core::{GroupName, NodeName, Position, UserName};
use holdfast_engine::redis::RedisEngine;
use holdfast_engine::{Account, Engine as _, Observation, ProcessState, Spec, UserAccount};
use holdfast_wire::resp::put_command;
use holdfast_wire::resp::reply::Scanner;
use holdfast_wire::resp::value::Value;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub const CLOSE: Duration = Duration::from_secs(5);

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

pub fn rig(flavour: Engine, durability: Durability) -> Rig {
    let held: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports = held.iter().map(|l| l.local_addr().unwrap().port()).collect();
    Rig { flavour, dir: fast_dir(), ports, durability }
}

/// The programs of a flavour; `None`: those of this machine.
pub fn programs(flavour: Engine) -> Option<PathBuf> {
    (flavour == Engine::Valkey).then(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/valkey/programs");
        assert!(folder.join("valkey-server").exists(), "there is no Valkey here yet: make engines");
        folder.canonicalize().unwrap()
    })
}

pub fn account(name: &str) -> Account {
    Account { user: UserName::new(name).unwrap(), password: format!("{name}'s \"\\secret") }
}

impl Rig {
    pub fn addr(&self, id: u32) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[id as usize - 1]))
    }
    pub fn root(&self, id: u32) -> PathBuf {
        self.dir.path().join(format!("db{id}"))
    }
    pub fn spec(&self, id: u32) -> Spec {
        Spec {
            engine: self.flavour,
            programs: programs(self.flavour),
            group: GroupName::new("cart").unwrap(),
            node: node(id),
            server_id: id,
            data_dir: self.root(id),
            listen: self.addr(id),
            management: Management::Managed { run_as: None },
            durability: self.durability,
            engine_options: [("save".to_owned(), String::new())].into(),
            replication: account("replicator"),
            users: vec![UserAccount { account: account("app"), grants: vec!["~* &* +@all".into()] }],
            peers: (1..=3).map(|id| (id, node(id))).collect(),
            addresses: (1..=3).map(|id| (node(id), self.addr(id))).collect(),
        }
    }
    /// Writes all data to a file whenever something changed.
    pub fn keeping(&self, id: u32) -> Spec {
        let mut spec = self.spec(id);
        spec.engine_options.insert("save".into(), "3600 1".into());
        spec
    }
    pub async fn start(&self, spec: Spec) -> RedisEngine {
        let engine = RedisEngine::new(spec).unwrap();
        engine.start().await.unwrap();
        engine
    }
    /// Started.
    pub async fn up(&self, id: u32) -> RedisEngine {
        self.start(self.spec(id)).await
    }
    /// Started, and open for clients and all others.
    pub async fn primary(&self, id: u32) -> RedisEngine {
        let engine = self.up(id).await;
        lead(&engine).await;
        engine
    }
    /// Started, and following.
    pub async fn replica(&self, id: u32, of: u32, primary: &RedisEngine) -> RedisEngine {
        let engine = self.up(id).await;
        self.follow(&engine, of, primary).await;
        level(primary, &engine).await;
        engine
    }
    pub async fn follow(&self, engine: &RedisEngine, of: u32, primary: &RedisEngine) {
        engine.learn(&at(&now(primary).await), self.addr(of)).await.unwrap();
        engine.follow(self.addr(of), true).await.unwrap();
    }
    /// A client.
    pub fn app(&self, id: u32) -> Client {
        Client::login(self.addr(id), &account("app")).unwrap()
    }
}

pub fn all() -> BTreeSet<NodeName> {
    (1..=3).map(node).collect()
}

pub async fn lead(engine: &RedisEngine) {
    engine.promote(true, 0).await.unwrap();
    engine.admit(&all()).await.unwrap();
    engine.open().await.unwrap();
}

/// A connection that blocks.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub fn open(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, buffer: Vec::new() }
    }
    pub fn login(addr: SocketAddr, account: &Account) -> Result<Client, String> {
        let mut client = Client::open(addr);
        client.ask(&["AUTH", account.user.as_str(), &account.password])?;
        Ok(client)
    }
    pub fn send(&mut self, words: &[&str]) {
        let mut bytes = Vec::new();
        put_command(&mut bytes, &words.iter().map(|w| w.as_bytes()).collect::<Vec<_>>());
        // What was cut is seen when the answer does not come.
        let _ = self.stream.write_all(&bytes);
    }
    /// The next answer; `Err` if it is an error, or if the connection is cut.
    pub fn answer(&mut self) -> Result<Value, String> {
        let (mut scanner, mut seen) = (Scanner::default(), 0);
        loop {
            if let Some((value, end)) = Value::next(&mut scanner, &mut seen, &self.buffer).unwrap() {
                self.buffer.drain(..end);
                return match value {
                    Value::Error(says) => Err(says),
                    value => Ok(value),
                };
            }
            let mut bytes = [0; 65_536];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err("cut".into()),
                Ok(n) => self.buffer.extend_from_slice(&bytes[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Err("cut".into()),
                // A read with a bound is broken off when the whole machine is stopped for a while.
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => panic!("no answer: {e}"),
            }
        }
    }
    pub fn ask(&mut self, words: &[&str]) -> Result<Value, String> {
        self.send(words);
        self.answer()
    }
    pub fn text(&mut self, words: &[&str]) -> String {
        self.ask(words).unwrap().text().unwrap_or_default()
    }
    /// One field of `INFO`.
    pub fn info(&mut self, name: &str) -> String {
        let info = self.text(&["INFO", "everything"]);
        let field = |l: &str| l.split_once(':').filter(|(k, _)| *k == name).map(|(_, v)| v.trim().to_owned());
        info.lines().find_map(field).unwrap_or_default()
    }
    pub fn set(&mut self, keys: std::ops::Range<u32>) {
        for n in keys {
            self.ask(&["SET", &format!("k{n}"), &n.to_string()]).unwrap();
        }
    }
    pub fn keys(&mut self) -> i64 {
        self.ask(&["DBSIZE"]).unwrap().int().unwrap()
    }
}

pub fn at(o: &Observation) -> Position {
    o.applied.clone().unwrap()
}

/// What it is now. A starved machine may give up a look, so it is looked again.
pub async fn now(engine: &RedisEngine) -> Observation {
    seen(engine, "an answer", |_| true).await
}

pub async fn seen(engine: &RedisEngine, what: &str, holds: impl Fn(&Observation) -> bool) -> Observation {
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

/// The replica has all that the primary has now.
pub async fn level(primary: &RedisEngine, replica: &RedisEngine) -> Observation {
    let there = at(&now(primary).await);
    let follows = |o: &Observation| o.upstream.as_ref().is_some_and(|u| u.acknowledges);
    let has = |o: &Observation| o.applied.as_ref().is_some_and(|p| p.contains(&there));
    seen(replica, "level with the primary", |o| follows(o) && has(o)).await
}

pub fn pid(engine: &RedisEngine) -> u32 {
    match *engine.exits().borrow() {
        ProcessState::Running { pid } => pid,
        _ => panic!("not running"),
    }
}

pub fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill").args([name, &pid.to_string()]).status().unwrap();
    assert!(status.success());
}
