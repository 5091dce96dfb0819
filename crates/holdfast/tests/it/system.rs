//! Whole deployments: real processes of the real binary, real MariaDB, on loopback networks of their own. What a
//! client may lose is asserted; how long it takes is measured elsewhere (`holdfast drill`), never here.

use crate::stage::{BOUND, Stage, here, logs, no_loss, stage, turn, wait_for};
use holdfast_core::topology::Engine;
use holdfast_drill::client::sql;
use holdfast_drill::drills::{self, Drill, account};
use holdfast_drill::ledger::{self, Writers};
use holdfast_drill::sandbox::{Network, Options, Sandbox, signal};
use mysql_async::prelude::Queryable;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn sync_loses_nothing_when_the_primary_is_killed_or_switched() {
    let mut stage = stage(3, |_| {}).await;
    for number in 1..=2 {
        no_loss(&drills::round(&mut stage.sandbox, Drill::KillEngine, number, 4).await.unwrap());
    }
    for number in 3..=4 {
        let round = drills::round(&mut stage.sandbox, Drill::Switchover, number, 4).await.unwrap();
        no_loss(&round);
        assert_eq!(round.client_errors, 0, "{round:?}");
    }
    let history = stage.sandbox.history().await.unwrap();
    for kind in ["bootstrap", "claim", "promote", "switchover", "sync-set"] {
        assert!(history.iter().any(|p| p["kind"] == kind), "{kind} in {history:?}");
    }
    stage.end().await;
}

/// The same on MySQL, with clients that also write to every engine directly.
#[tokio::test(flavor = "multi_thread")]
async fn mysql_loses_nothing_when_the_primary_is_killed_or_switched_and_members_come_back() {
    let programs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mysql/programs");
    let programs = programs.canonicalize().expect("there is no MySQL here yet: make engines");
    assert!(programs.join("mysqld").exists(), "there is no MySQL here yet: make engines");
    let mut stage = stage(3, |o| {
        o.engine = Engine::MySql;
        o.programs = Some(programs);
        o.service_lines = "cool_down_s = 1".into();
    })
    .await;
    let drills = [Drill::KillEngine, Drill::Switchover, Drill::KillHost];
    for (number, drill) in (1..).zip(drills) {
        let round = drills::round(&mut stage.sandbox, drill, number, 4).await.unwrap();
        let broken: Vec<&String> = round.broken.iter().filter(|b| !b.starts_with("outage")).collect();
        assert!(broken.is_empty(), "{round:?}");
        no_loss(&round);
    }
    // Whoever had a write that was never acknowledged has been recloned; all are members again.
    let service = stage.healthy().await;
    assert_eq!(service["engine"], "mysql");
    stage.end().await;
}

/// The same on Redis: clients write through the RESP proxy, which waits for a replica to have each write.
#[tokio::test(flavor = "multi_thread")]
async fn redis_loses_nothing_when_the_primary_is_killed_or_switched_and_members_come_back() {
    let mut stage = stage(3, |o| {
        o.engine = Engine::Redis;
        o.service_lines = "cool_down_s = 1".into();
    })
    .await;
    let drills = [Drill::KillEngine, Drill::Switchover, Drill::KillHost];
    for (number, drill) in (1..).zip(drills) {
        let round = drills::round(&mut stage.sandbox, drill, number, 4).await.unwrap();
        let broken: Vec<&String> = round.broken.iter().filter(|b| !b.starts_with("outage")).collect();
        assert!(broken.is_empty(), "{round:?}");
        no_loss(&round);
        eprintln!("{drill:?}: {round:?}");
    }
    let service = stage.healthy().await;
    assert_eq!(service["engine"], "redis");
    stage.end().await;
}

/// Each host in a network namespace of its own; clients also write to every engine directly (S1).
#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_second_primary_behind_a_partition_or_a_frozen_process() {
    let mut stage = stage(3, |o| {
        o.network = Network::Namespaces;
        o.app = true;
        o.service_lines = "cool_down_s = 1".into();
    })
    .await;
    for (number, drill) in (1..).zip([Drill::PartitionPrimary, Drill::PauseAgent, Drill::PauseEngine]) {
        let round = drills::round(&mut stage.sandbox, drill, number, 4).await.unwrap();
        let broken: Vec<&String> = round.broken.iter().filter(|b| !b.starts_with("outage")).collect();
        assert!(broken.is_empty(), "{round:?}");
        assert_ne!(round.from, round.to, "{round:?}");
        no_loss(&round);
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn async_reports_what_it_lost() {
    let mut stage = stage(2, |o| o.durability = "async".into()).await;
    for number in 1..=2 {
        let round = drills::round(&mut stage.sandbox, Drill::KillEngine, number, 8).await.unwrap();
        let broken: Vec<&String> = round.broken.iter().filter(|b| !b.starts_with("outage")).collect();
        assert!(broken.is_empty(), "{round:?}");
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_dies_and_comes_back() {
    let mut stage = stage(3, |_| {}).await;
    let proxies = stage.sandbox.proxies();
    ledger::prepare(proxies[0], &account()).await.unwrap();
    let from = stage.sandbox.primary().await.unwrap();
    let others: Vec<_> =
        stage.sandbox.node_names().zip(&proxies).filter(|(n, _)| *n != from).map(|(_, p)| *p).collect();
    let load = Writers::start(&here(&stage.sandbox), &others, &account(), 1, 0..4);
    wait_for("a write", async || load.acked() > 20).await;
    stage.sandbox.kill_node(&from).await.unwrap();
    let acked = load.acked();
    wait_for("a write after the host died", async || load.acked() > acked + 20).await;
    stage.sandbox.restart_node(&from).unwrap();
    let service = stage.healthy().await;
    assert_ne!(service["primary"], from.as_str());
    let ledger = load.finish().await;
    for node in ["a", "b", "c"] {
        // Every member, the returned one too, has every acknowledged write.
        let engine = stage.sandbox.engine(node).unwrap();
        wait_for("a replica to catch up", async || {
            let present = ledger::present(engine, &account(), 1).await.unwrap_or_default();
            ledger.acked.iter().all(|(id, _)| present.contains(id))
        })
        .await;
    }
    stage.end().await;
}

/// S14: the store is gone, the primary goes on while every other member vouches for it, and not a lease longer.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_the_primary_goes_on_only_while_all_members_vouch() {
    let mut stage = stage(2, |o| o.witnesses = 3).await;
    let proxies = stage.sandbox.proxies();
    ledger::prepare(proxies[0], &account()).await.unwrap();
    let primary = stage.sandbox.primary().await.unwrap();
    let replica = if primary == "a" { "b" } else { "a" };
    let at = if primary == "a" { 0 } else { 1 };
    let load = Writers::start(&here(&stage.sandbox), &proxies[at..=at], &account(), 1, 0..2);
    wait_for("a write", async || load.acked() > 0).await;
    for witness in ["c", "d", "e"] {
        stage.sandbox.kill_node(witness).await.unwrap();
    }
    // Three leases later it still writes.
    let (gone, leases) = (Instant::now(), Duration::from_millis(3 * holdfast_core::limits::LEASE_MS));
    wait_for("three leases to pass", async || gone.elapsed() >= leases).await;
    let acked = load.acked();
    wait_for("a write without a store", async || load.acked() > acked + 5).await;

    signal(stage.sandbox.pid(replica).unwrap(), Signal::STOP);
    let closed = async || {
        let mut conn = match sql::connect(stage.sandbox.engine(&primary).unwrap(), &account()).await {
            Ok(conn) => conn,
            Err(_) => return true,
        };
        let read_only: Option<u8> = conn.query_first("SELECT @@global.read_only").await.unwrap_or(Some(1));
        read_only == Some(1)
    };
    wait_for("the primary to close when a member no longer vouches", closed).await;
    signal(stage.sandbox.pid(replica).unwrap(), Signal::CONT);
    for witness in ["c", "d", "e"] {
        stage.sandbox.restart_node(witness).unwrap();
    }
    stage.healthy().await;
    let ledger = load.finish().await;
    let now = stage.sandbox.primary().await.unwrap();
    let present = ledger::present(stage.sandbox.engine(&now).unwrap(), &account(), 1).await.unwrap();
    assert!(ledger.acked.iter().all(|(id, _)| present.contains(id)), "an acknowledged write is gone");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_rebuilt_from_the_primary_on_request() {
    let mut stage = stage(3, |_| {}).await;
    let proxies = stage.sandbox.proxies();
    ledger::prepare(proxies[0], &account()).await.unwrap();
    let load = Writers::start(&here(&stage.sandbox), &proxies, &account(), 1, 0..2);
    wait_for("a write", async || load.acked() > 50).await;
    stage.sandbox.holdfast(&["reinit", "c"]).await.unwrap();
    let log = stage.sandbox.dir().join("c.log");
    wait_for("a rebuild", async || std::fs::read_to_string(&log).unwrap_or_default().contains("reclone"))
        .await;
    stage.healthy().await;
    let ledger = load.finish().await;
    let engine = stage.sandbox.engine("c").unwrap();
    wait_for("the rebuilt member to have every write", async || {
        let present = ledger::present(engine, &account(), 1).await.unwrap_or_default();
        ledger.acked.iter().all(|(id, _)| present.contains(id))
    })
    .await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_certificates_hosts_know_each_other_and_people_need_tokens() {
    let mut stage = stage(3, |o| o.tls = true).await;
    let tls = stage.sandbox.dir().join("tls");
    let viewer = tls.join("viewer.token");
    let viewer = viewer.to_str().unwrap();
    stage.sandbox.holdfast(&["--token-file", viewer, "status"]).await.unwrap();
    let refused =
        stage.sandbox.holdfast(&["--token-file", viewer, "switchover"]).await.unwrap_err().to_string();
    assert!(refused.contains("viewer"), "{refused}");
    let wrong = stage.dir.path().join("wrong.token");
    std::fs::write(&wrong, "0".repeat(64)).unwrap();
    let wrong = stage.sandbox.holdfast(&["--token-file", wrong.to_str().unwrap(), "status"]).await;
    assert!(wrong.unwrap_err().to_string().contains("token"));
    let round = drills::round(&mut stage.sandbox, Drill::KillEngine, 1, 2).await.unwrap();
    no_loss(&round);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_means_no_automatic_failover() {
    let mut stage = stage(3, |_| {}).await;
    stage.sandbox.holdfast(&["pause"]).await.unwrap();
    let primary = stage.sandbox.primary().await.unwrap();
    signal(stage.sandbox.engine_pid(&primary).unwrap(), Signal::KILL);
    wait_for("explain to say why nothing happens", async || {
        stage.sandbox.holdfast(&["explain"]).await.is_ok_and(|text| text.contains("paused"))
    })
    .await;
    assert_eq!(stage.sandbox.primary().await.unwrap(), primary);
    stage.sandbox.holdfast(&["resume"]).await.unwrap();
    let service = stage.healthy().await;
    assert!(service["epoch"].as_u64().unwrap() >= 2, "{service}");
    stage.end().await;
}

/// What `status` says of a member, once `holds`.
async fn member_until(sandbox: &Sandbox, node: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    wait_for(what, async || {
        let service = sandbox.service().await.unwrap_or_default();
        let members = service["members"].as_array().cloned().unwrap_or_default();
        last = members.into_iter().find(|m| m["node"] == node).unwrap_or_default();
        holds(&last)
    })
    .await;
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_refuses_to_start_says_why() {
    let _turn = turn().await;
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(env!("CARGO_BIN_EXE_holdfast"), dir.path().join("s"), 3);
    options.engine_lines = "innodb_page_size = \"12345\"".into();
    let sandbox = Sandbox::start(options).await.unwrap();
    let member = member_until(&sandbox, "b", "the refusal", |m| m["state"] == "refuses").await;
    let words = member["trouble"].as_str().unwrap();
    assert!(words.contains("InnoDB") && words.contains("12345"), "{member}");
    let explained = sandbox.holdfast(&["explain"]).await.unwrap();
    assert!(explained.contains("12345"), "{explained}");
    sandbox.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_somebody_else_is_left_alone() {
    let _turn = turn().await;
    let dir = tempfile::tempdir().unwrap();
    let theirs = dir.path().join("s/b/shop/data");
    std::fs::create_dir_all(&theirs).unwrap();
    std::fs::write(theirs.join("precious"), "not yours").unwrap();
    let sandbox =
        Sandbox::start(Options::new(env!("CARGO_BIN_EXE_holdfast"), dir.path().join("s"), 3)).await.unwrap();
    let member = member_until(&sandbox, "b", "the refusal", |m| m["state"] == "refuses").await;
    assert!(member["trouble"].as_str().unwrap().contains("not this instance's"), "{member}");
    // Without knowing what b has, nobody is made primary of a new group.
    wait_for("the group to wait", async || {
        sandbox.service().await.is_ok_and(|s| s["state"] == "new-group" && s["epoch"] == 0)
    })
    .await;
    sandbox.stop().await.unwrap();
    assert_eq!(std::fs::read_to_string(theirs.join("precious")).unwrap(), "not yours");
    assert_eq!(std::fs::read_dir(&theirs).unwrap().count(), 1);
}

/// A small file system of its own, unmounted with the test.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: std::path::PathBuf, size: &str) -> SmallDisk {
        std::fs::create_dir_all(&at).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "tmpfs"])
            .arg(&at)
            .status()
            .unwrap();
        assert!(mounted.success(), "this test needs root, to mount a tmpfs");
        SmallDisk(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_whose_disk_is_full_hands_over_to_one_with_room() {
    let turn = turn().await;
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(dir.path().join("s/a"), "size=400m");
    let mut sandbox =
        Sandbox::start(Options::new(env!("CARGO_BIN_EXE_holdfast"), dir.path().join("s"), 3)).await.unwrap();
    let mut stage = {
        sandbox.wait_healthy(BOUND).await.unwrap_or_else(|e| panic!("{e}\n{}", logs(dir.path())));
        Stage { sandbox, dir, _turn: turn }
    };
    assert_eq!(stage.sandbox.primary().await.unwrap(), "a");
    let proxies = stage.sandbox.proxies();
    ledger::prepare(proxies[1], &account()).await.unwrap();
    let load = Writers::start(&here(&stage.sandbox), &proxies[1..], &account(), 1, 0..4);
    wait_for("a write", async || load.acked() > 20).await;
    let filler = disk.0.join("filler");
    // Until nothing fits any more.
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 1 << 16]).is_ok() {}
    wait_for("another primary", async || stage.sandbox.primary().await.is_ok_and(|p| p != "a")).await;
    let acked = load.acked();
    wait_for("writes to go on", async || load.acked() > acked + 20).await;
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    stage.healthy().await;
    let ledger = load.finish().await;
    let now = stage.sandbox.primary().await.unwrap();
    let present = ledger::present(stage.sandbox.engine(&now).unwrap(), &account(), 1).await.unwrap();
    assert!(ledger.acked.iter().all(|(id, _)| present.contains(id)), "an acknowledged write is gone");
    stage.end().await;
    drop(disk);
}

/// A limit on the size of files is, to who writes them, a full disk.
#[tokio::test(flavor = "multi_thread")]
async fn voters_whose_disks_were_full_vote_again_when_there_is_room() {
    let mut stage = stage(3, |_| {}).await;
    let limit = |node: &str, bytes: Option<u64>| {
        let pid = Pid::from_raw(stage.sandbox.pid(node).unwrap() as i32);
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    };
    for node in ["b", "c"] {
        limit(node, Some(4_096));
    }
    wait_for("a store without a quorum", async || stage.sandbox.service().await.is_err()).await;
    for node in ["b", "c"] {
        limit(node, None);
    }
    stage.healthy().await;
    stage.sandbox.holdfast(&["switchover", "shop"]).await.unwrap();
    stage.healthy().await;
    stage.end().await;
}
