//! Clients without the proxy: `docs/haproxy.cfg` on a real HAProxy, straight to the engines.

use crate::stage::{here, stage, wait_for};
use holdfast_drill::client::sql;
use holdfast_drill::drills::account;
use holdfast_drill::ledger::{self, Writers};
use holdfast_drill::sandbox::signal;
use mysql_async::prelude::Queryable as _;
use rustix::process::Signal;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command};

/// The page's own configuration on the hosts of a sandbox; ends with the test.
struct HaProxy {
    process: Child,
    write: SocketAddr,
    read: SocketAddr,
}

impl HaProxy {
    fn start(dir: &Path, engines: &[SocketAddr], tls: bool) -> HaProxy {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let [write, read] = [free(), free()].map(|l| l.local_addr().unwrap());
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/haproxy.cfg");
        let mut config = std::fs::read_to_string(page).unwrap();
        config =
            config.replace("127.0.0.1:3316", &write.to_string()).replace("127.0.0.1:3317", &read.to_string());
        if tls {
            // As the page's comment tells.
            let add = config.split_once("With [tls], add: ").and_then(|(_, rest)| rest.lines().next());
            let add = add.unwrap().replace("/etc/holdfast/tls", dir.join("tls").to_str().unwrap());
            config = config.replace("default-server check", &format!("default-server check {add}"));
        }
        for (n, engine) in engines.iter().enumerate() {
            config = config.replace(&format!("10.0.0.1{}:3308", n + 1), &engine.to_string());
        }
        let file = dir.join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let process = Command::new("haproxy").arg("-db").arg("-f").arg(&file).spawn().unwrap();
        HaProxy { process, write, read }
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the server behind says of itself.
async fn read_only(addr: SocketAddr) -> Option<bool> {
    let mut conn = sql::connect(addr, &account()).await.ok()?;
    let says: Option<u8> = conn.query_first("SELECT @@global.read_only").await.ok()?;
    says.map(|v| v == 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_follows_a_failover_and_a_switchover() {
    failover_and_switchover(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_asks_over_tls_too() {
    failover_and_switchover(true).await;
}

async fn failover_and_switchover(tls: bool) {
    let mut stage = stage(3, |o| o.tls = tls).await;
    ledger::prepare(stage.sandbox.proxies()[0], &account()).await.unwrap();
    let engines: Vec<_> = stage.sandbox.members().map(|n| stage.sandbox.engine(n).unwrap()).collect();
    let haproxy = HaProxy::start(stage.sandbox.dir(), &engines, tls);
    wait_for("a primary behind HAProxy", async || read_only(haproxy.write).await == Some(false)).await;
    wait_for("a replica behind HAProxy", async || read_only(haproxy.read).await == Some(true)).await;

    let load = Writers::start(&here(&stage.sandbox), &[haproxy.write], &account(), 1, 0..3);
    wait_for("a write", async || load.acked() > 50).await;
    let first = stage.sandbox.primary().await.unwrap();
    signal(stage.sandbox.engine_pid(&first).unwrap(), Signal::KILL);
    wait_for("another primary", async || stage.sandbox.primary().await.is_ok_and(|p| p != first)).await;
    let acked = load.acked();
    wait_for("writes after the failover", async || load.acked() > acked + 50).await;
    stage.healthy().await;

    let second = stage.sandbox.primary().await.unwrap();
    stage.sandbox.holdfast(&["switchover"]).await.unwrap();
    wait_for("another primary", async || stage.sandbox.primary().await.is_ok_and(|p| p != second)).await;
    let acked = load.acked();
    wait_for("writes after the switchover", async || load.acked() > acked + 50).await;
    let ledger = load.finish().await;
    stage.healthy().await;
    wait_for("a replica behind HAProxy", async || read_only(haproxy.read).await == Some(true)).await;
    for engine in engines {
        wait_for("every acknowledged write on every member", async || {
            let present = ledger::present(engine, &account(), 1).await.unwrap_or_default();
            ledger.acked.iter().all(|(id, _)| present.contains(id))
        })
        .await;
    }
    stage.end().await;
}
