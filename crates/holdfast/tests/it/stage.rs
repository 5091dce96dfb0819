//! A deployment to play on: real processes of the real binary. Its directory goes with it.

use holdfast_drill::judge::Round;
use holdfast_drill::sandbox::{Options, Sandbox};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

pub const BOUND: Duration = Duration::from_secs(120);

/// One deployment at a time: what clients are promised in milliseconds is not promised on half of two cores.
static TURN: Semaphore = Semaphore::const_new(1);

/// Waits for it.
pub async fn turn() -> SemaphorePermit<'static> {
    TURN.acquire().await.unwrap()
}

/// A sandbox whose directory goes with it.
pub struct Stage {
    pub sandbox: Sandbox,
    pub dir: tempfile::TempDir,
    pub _turn: SemaphorePermit<'static>,
}

pub async fn stage(nodes: u8, change: impl FnOnce(&mut Options)) -> Stage {
    let turn = turn().await;
    // To look into afterwards: HOLDFAST_TEST_KEEP=1.
    let keep = std::env::var_os("HOLDFAST_TEST_KEEP").is_some();
    let dir = tempfile::Builder::new().disable_cleanup(keep).tempdir().unwrap();
    let mut options = Options::new(env!("CARGO_BIN_EXE_holdfast"), dir.path().join("s"), nodes);
    change(&mut options);
    let mut sandbox = Sandbox::start(options).await.unwrap();
    sandbox.wait_healthy(BOUND).await.unwrap_or_else(|e| panic!("{e}\n{}", logs(dir.path())));
    Stage { sandbox, dir, _turn: turn }
}

impl Stage {
    pub async fn healthy(&mut self) -> Value {
        let dir = self.dir.path().to_path_buf();
        self.sandbox.wait_healthy(BOUND).await.unwrap_or_else(|e| panic!("{e}\n{}", logs(&dir)))
    }
    pub async fn end(self) {
        self.sandbox.stop().await.unwrap();
    }
}

/// Makes a repository below `dir`; the line of the topology file that names it.
pub fn repository(dir: &std::path::Path, more: &str) -> String {
    let (repository, key) = (dir.join("repo"), dir.join("key"));
    let binary = || std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
    std::fs::write(&key, binary().args(["repo", "key"]).output().unwrap().stdout).unwrap();
    let (repository, key) = (repository.display().to_string(), key.display().to_string());
    let made = binary()
        .args(["repo", "init", "--repository", &repository, "--key-file", &key])
        .env_remove("HOLDFAST_CONFIG")
        .output();
    assert!(made.unwrap().status.success());
    format!("repository = {{ path = \"{repository}\", key_file = \"{key}\", {more} }}")
}

/// The ends of the nodes' logs, for a failure's message.
pub fn logs(dir: &std::path::Path) -> String {
    let mut out = String::new();
    for entry in std::fs::read_dir(dir.join("s")).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "log") {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            out +=
                &format!("--- {}\n{}\n", path.display(), lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
    out
}

/// Where the clients of a loopback sandbox are.
pub fn here(sandbox: &Sandbox) -> holdfast_drill::ground::Vantage {
    sandbox.vantage(sandbox.client()).unwrap()
}

pub fn no_loss(round: &Round) {
    assert_eq!(round.lost, 0, "{round:?}");
    assert!(round.acked > 0, "{round:?}");
}

/// What a proxy counted, by the name without `holdfast_proxy_` and `_total`.
pub async fn counted(proxy: SocketAddr, name: &str) -> u64 {
    let mut stream = tokio::net::TcpStream::connect((proxy.ip(), 7400)).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let line = page.lines().find(|l| l.starts_with(&format!("holdfast_proxy_{name}_total{{")));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).rsplit(' ').next().unwrap().parse().unwrap()
}

pub async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds().await {
        assert!(Instant::now() < end, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
