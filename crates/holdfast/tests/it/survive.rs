//! Sessions that survive: what clients with prepared statements see of a switchover and of a failover, with reads that
//! stay on the primary and reads that leave it.

use crate::stage::{BOUND, Stage, counted, stage, wait_for};
use holdfast_core::topology::Engine;
use holdfast_drill::drills::account;
use holdfast_drill::sandbox::{DATABASE, USER, signal};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, OptsBuilder};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::process::{Child, Command};
use tokio::time::timeout;

async fn made(engine: Engine, consistency: &str) -> Stage {
    stage(3, |o| {
        o.engine = engine;
        if engine == Engine::MySql {
            let programs =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mysql/programs");
            assert!(programs.join("mysqld").exists(), "there is no MySQL here yet: make mysql");
            o.programs = Some(programs);
        }
        o.service_lines = format!("cool_down_s = 1\nread_consistency = \"{consistency}\"");
    })
    .await
}

fn sysbench(proxy: SocketAddr, command: &str, more: &[&str]) -> Child {
    Command::new("sysbench")
        .args(["oltp_read_write", command, "--db-driver=mysql", "--db-ps-mode=auto", "--tables=2"])
        .args(["--table-size=2000", "--threads=4"])
        .args([format!("--mysql-host={}", proxy.ip()), format!("--mysql-port={}", proxy.port())])
        .args([format!("--mysql-user={USER}"), format!("--mysql-password={}", account().password)])
        .arg(format!("--mysql-db={DATABASE}"))
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn switchovers(engine: Engine) {
    for consistency in ["strong", "session"] {
        let mut stage = made(engine, consistency).await;
        let proxy = stage.sandbox.proxy("b").unwrap();
        assert!(sysbench(proxy, "prepare", &[]).wait().await.unwrap().success());
        // In transactions, and each statement for itself: then reads leave. Two threads may insert the same key.
        for (skip, ignored) in [("off", "1213,1205"), ("on", "1213,1205,1062")] {
            let more =
                ["--time=600", &format!("--skip-trx={skip}"), &format!("--mysql-ignore-errors={ignored}")];
            let mut load = sysbench(proxy, "run", &more);
            let before = counted(proxy, "commands").await;
            wait_for("it is under load", async || counted(proxy, "commands").await > before + 500).await;
            for _ in 0..2 {
                stage.sandbox.holdfast(&["switchover"]).await.unwrap();
                let then = counted(proxy, "commands").await;
                let over = async || counted(proxy, "commands").await > then + 200;
                wait_for("the load goes on, or ends", async || {
                    load.try_wait().unwrap().is_some() || over().await
                })
                .await;
                // It ends at the first error that it was not told to ignore.
                assert!(load.try_wait().unwrap().is_none(), "{}", said(load).await);
                stage.healthy().await;
            }
            assert!(load.try_wait().unwrap().is_none(), "{}", said(load).await);
            load.kill().await.unwrap();
            for errors in ["held", "transaction_lost", "state_lost", "outcome_unknown", "protocol"] {
                let n = counted(proxy, &format!("errors_{errors}")).await;
                assert_eq!(n, 0, "{engine:?}, {consistency}, skip-trx={skip}: {errors}");
            }
        }
        let left = counted(proxy, "reads_at_replicas").await;
        assert!((left > 0) == (consistency == "session"), "{left} reads at replicas under {consistency}");
        stage.end().await;
    }
}

async fn said(load: Child) -> String {
    let out = load.wait_with_output().await.unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_switchover_under_load_costs_no_error() {
    switchovers(Engine::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mysql_switchover_under_load_costs_no_error() {
    switchovers(Engine::MySql).await;
}

async fn connect(proxy: SocketAddr) -> Conn {
    let opts = OptsBuilder::default()
        .ip_or_hostname(proxy.ip().to_string())
        .tcp_port(proxy.port())
        .user(Some(USER))
        .pass(Some(account().password))
        .db_name(Some(DATABASE))
        .prefer_socket(false);
    Conn::new(opts).await.unwrap()
}

/// Reads one row at a time, outside transactions, until told to stop; the first error is its end.
async fn reads(proxy: SocketAddr, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Result<(), Error> {
    let mut conn = connect(proxy).await;
    let read = conn.prep("SELECT v FROM kept WHERE id = ?").await?;
    while !stop.load(Ordering::Relaxed) {
        let v: Option<i64> = conn.exec_first(&read, (1,)).await?;
        assert!(v.is_some());
        let _: Option<i64> = conn.query_first("SELECT COUNT(*) FROM kept").await?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Transactions of its own row; all errors that it gets.
async fn writes(proxy: SocketAddr, id: u64, stop: Arc<AtomicBool>) -> Vec<Error> {
    let mut conn = connect(proxy).await;
    let mut errors = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let transaction = async {
            conn.query_drop("BEGIN").await?;
            conn.exec_drop("UPDATE kept SET v = v + 1 WHERE id = ?", (id,)).await?;
            conn.exec_drop("SELECT v FROM kept WHERE id = ?", (id,)).await?;
            conn.query_drop("COMMIT").await
        };
        if let Err(error) = transaction.await {
            errors.push(error);
        }
    }
    errors
}

async fn failover(engine: Engine, consistency: &str) {
    let mut stage = made(engine, consistency).await;
    let proxy = stage.sandbox.proxy(stage.sandbox.client()).unwrap();
    let mut idle = connect(proxy).await;
    idle.query_drop("CREATE TABLE kept (id INT PRIMARY KEY, v BIGINT)").await.unwrap();
    idle.query_drop("INSERT INTO kept VALUES (1, 0), (2, 0), (3, 0), (4, 0)").await.unwrap();
    idle.query_drop("SET SESSION wait_timeout = 4711").await.unwrap();
    let kept = idle.prep("SELECT @@wait_timeout + ?").await.unwrap();
    let mut inside = connect(proxy).await;
    inside.query_drop("BEGIN").await.unwrap();
    inside.query_drop("UPDATE kept SET v = 1000000 WHERE id = 4").await.unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..2).map(|_| tokio::spawn(reads(proxy, stop.clone(), done.clone()))).collect();
    let writers: Vec<_> = (1..4).map(|id| tokio::spawn(writes(proxy, id, stop.clone()))).collect();
    wait_for("they read", async || done.load(Ordering::Relaxed) > 50).await;
    let primary = stage.sandbox.primary().await.unwrap();
    signal(stage.sandbox.engine_pid(&primary).unwrap(), Signal::KILL);
    wait_for("there is another primary", async || stage.sandbox.primary().await.is_ok_and(|p| p != primary))
        .await;
    let before = done.load(Ordering::Relaxed);
    wait_for("they read on", async || done.load(Ordering::Relaxed) > before + 50).await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        timeout(BOUND, reader).await.unwrap().unwrap().expect("a read outside a transaction has no error");
    }
    for writer in writers {
        let errors = timeout(BOUND, writer).await.unwrap().unwrap();
        assert!(errors.len() <= 1, "one error each: {errors:?}");
        for error in &errors {
            let Error::Server(e) = error else { panic!("the connection is kept: {error}") };
            let text = match (e.code, &*e.state) {
                (1213, "40001") => "run the whole transaction again",
                (1158, "08007") => "outcome is UNKNOWN",
                _ => panic!("not one of the two errors: {e}"),
            };
            assert!(e.message.contains(text), "{e}");
        }
    }
    let lost = inside.query_drop("UPDATE kept SET v = 5 WHERE id = 4").await.unwrap_err();
    assert!(matches!(&lost, Error::Server(e) if e.code == 1213), "{lost}");
    let v: Option<i64> = inside.query_first("SELECT v FROM kept WHERE id = 4 FOR UPDATE").await.unwrap();
    assert_eq!(v, Some(0));
    let kept: Option<i64> = idle.exec_first(&kept, (1,)).await.unwrap();
    assert_eq!(kept, Some(4712));
    stage.healthy().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_failover_costs_transactions_and_nothing_else() {
    failover(Engine::MariaDb, "strong").await;
    failover(Engine::MariaDb, "session").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mysql_failover_costs_transactions_and_nothing_else() {
    failover(Engine::MySql, "session").await;
}
