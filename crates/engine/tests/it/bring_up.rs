//! Starting, whose directory it is, what it says when it will not, and how its end is noticed (S9).

use crate::rig::{BOUNDED, PATIENCE, account, applied, insert, level, node, now, received, rig, seen, until};
use holdfast_core::topology::Durability::{Async, Sync};
use holdfast_core::topology::Engine;
use holdfast_core::topology::Management;
use holdfast_engine::mysql::MySqlEngine;
use holdfast_engine::{CopyByStream as _, Engine as _, Error, ProcessState, ThreadState};
use mysql_async::prelude::Queryable as _;
use std::time::Duration;
use tokio::time::Instant;

on_both! {
    a_first_primary_and_its_replicas,
    a_client_with_every_grant_still_cannot_write_past_the_fence,
    a_foreign_directory_is_refused_and_left_alone,
    a_refusal_is_told_in_the_servers_own_words,
    what_cannot_be_run_is_refused_at_once,
    an_exit_is_seen_at_once,
    a_hung_server_is_unresponsive_within_the_bound,
    unsafe_settings_are_said_in_full,
    agent_to_be_killed,
    the_engine_dies_with_its_agent,
}

async fn a_first_primary_and_its_replicas(flavour: Engine) {
    let r = rig(flavour, Sync);
    let (one, two) = (r.up(1).await, r.up(2).await);
    let fresh = now(&one).await;
    assert!(!fresh.writable && fresh.upstream.is_none() && received(&fresh).is_empty(), "{fresh:?}");
    assert_eq!(fresh.unsafe_settings, Vec::<String>::new());
    let version = if flavour == Engine::MySql { "9." } else { "10.11" };
    assert!(fresh.version.starts_with(version) && fresh.free_disk_bytes.is_some());

    one.promote(true, 0).await.unwrap();
    one.accounts().await.unwrap();
    assert!(now(&one).await.waits_for_ack);
    two.follow(r.addr(1), true).await.unwrap();
    let acked = seen(&one, "an acker", |o| o.ackers.count == 1).await;
    assert!(acked.waits_for_ack && acked.ackers.exact(), "{acked:?}");
    assert_eq!(acked.ackers_connected, [node(2)].into());
    let three = r.replica(3, 1, false).await;
    let mixed = seen(&one, "two replicas", |o| o.ackers.connected.len() == 2).await;
    assert!(!mixed.ackers.exact() && mixed.ackers.certain().is_empty(), "{:?}", mixed.ackers);

    let before = applied(&now(&one).await);
    one.accounts().await.unwrap();
    assert_eq!(applied(&now(&one).await), before, "accounts are made once");

    one.open().await.unwrap();
    let mut app = r.app(1).await;
    app.query_drop("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200))").await.unwrap();
    insert(&mut app, 1..=20).await;
    level(&one, &two).await;
    level(&one, &three).await;
    let o = now(&two).await;
    let up = o.upstream.unwrap();
    assert!(o.acknowledges && up.acknowledges && up.addr == Some(r.addr(1)));
    assert_eq!((up.io, up.sql, up.lag_ms), (ThreadState::Running, ThreadState::Running, Some(0)));
    assert!(up.silent_ms.unwrap() < 1_000);
    // The account of the topology reaches the replica, and cannot write there.
    let refused = r.app(2).await.query_drop("INSERT INTO t VALUES (99, 'x')").await.unwrap_err();
    assert!(refused.to_string().contains("read-only"), "{refused}");

    // Following again what is followed already changes nothing; acknowledging less does, and loses nothing.
    two.follow(r.addr(1), true).await.unwrap();
    two.set_acknowledges(false).await.unwrap();
    three.set_acknowledges(true).await.unwrap();
    seen(&three, "acknowledging", |o| o.upstream.as_ref().is_some_and(|u| u.acknowledges)).await;
    seen(&one, "still one acker", |o| o.ackers.count == 1 && o.ackers.connected.len() == 2).await;
    insert(&mut app, 21..=30).await;
    level(&one, &two).await;
    let client = now(&one).await.client_connections;
    assert_eq!(client, 1, "one client, not the replicas and not ourselves");
}

async fn a_client_with_every_grant_still_cannot_write_past_the_fence(flavour: Engine) {
    let r = rig(flavour, Async);
    let mut spec = r.spec(1);
    spec.users[0].grants = vec!["ALL PRIVILEGES ON *.*".into(), "ALL ON `web_shop`.*".into()];
    let one = MySqlEngine::new(spec).unwrap();
    one.start().await.unwrap();
    one.promote(false, 0).await.unwrap();
    one.accounts().await.unwrap();
    one.open().await.unwrap();
    let mut root = r.root_conn(1).await;
    let grants: Vec<String> = root.query("SHOW GRANTS FOR 'app'@'%'").await.unwrap();
    for taken in ["READ ONLY ADMIN", "SUPER", "CONNECTION_ADMIN", "SYSTEM_VARIABLES_ADMIN"] {
        assert!(!grants.iter().any(|g| g.contains(taken)), "{grants:?}");
    }
    assert!(grants[0].contains("CREATE"), "{grants:?}");
    root.query_drop("CREATE DATABASE shop").await.unwrap();
    let mut app = r.app(1).await;
    app.query_drop("CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
    one.close(Duration::from_millis(400)).await.unwrap();
    let mut app = r.app(1).await;
    assert!(app.query_drop("INSERT INTO t VALUES (1)").await.is_err());
    assert!(app.query_drop("SET GLOBAL read_only=0").await.is_err());
    assert!(app.query_drop("SET sql_log_bin=0").await.is_err());
}

async fn a_foreign_directory_is_refused_and_left_alone(flavour: Engine) {
    let r = rig(flavour, Async);
    std::fs::create_dir_all(r.root(1).join("data")).unwrap();
    std::fs::write(r.root(1).join("data/ibdata1"), b"precious").unwrap();
    let refused = r.engine(1).start().await.unwrap_err();
    assert!(matches!(refused, Error::NotOurs { .. }), "{refused}");
    assert_eq!(std::fs::read(r.root(1).join("data/ibdata1")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(r.root(1)).unwrap().count(), 1, "nothing was added");

    let two = r.up(2).await;
    // The same directory under another identity, and twice at once.
    let mut other = r.spec(2);
    other.server_id = 3;
    let refused = MySqlEngine::new(other).unwrap().start().await.unwrap_err();
    assert!(refused.to_string().contains("server_id=2"), "{refused}");
    let refused = r.engine(2).start().await.unwrap_err();
    assert!(refused.to_string().contains("another holdfast process"), "{refused}");
    assert!(two.observe().await.is_ok());
}

async fn a_refusal_is_told_in_the_servers_own_words(flavour: Engine) {
    let r = rig(flavour, Async);
    let mut spec = r.spec(1);
    spec.engine_options.insert("no_such_option".into(), "1".into());
    let one = MySqlEngine::new(spec).unwrap();
    let refused = one.start().await.unwrap_err();
    assert!(refused.to_string().contains("unknown variable 'no-such-option=1'"), "{refused}");
    assert!(!refused.retryable());
    drop(one);
    // The same directory starts once the option is gone; an address that is taken is told too.
    r.up(1).await.stop(PATIENCE).await.unwrap();
    let taken = std::net::TcpListener::bind(r.addr(1)).unwrap();
    let refused = r.engine(1).start().await.unwrap_err();
    assert!(refused.to_string().contains("Address already in use"), "{refused}");
    drop(taken);
}

async fn what_cannot_be_run_is_refused_at_once(flavour: Engine) {
    let r = rig(flavour, Sync);
    let mut spec = r.spec(1);
    spec.engine_options.insert("read_only".into(), "0".into());
    assert!(matches!(MySqlEngine::new(spec), Err(Error::BadSpec(_))));
    let mut spec = r.spec(1);
    spec.data_dir = r.dir.path().join("x".repeat(120));
    let refused = MySqlEngine::new(spec).err().unwrap();
    assert!(refused.to_string().contains("107"), "{refused}");
    assert_eq!(format!("{:?}", account("app")), "Account(app)");
}

async fn an_exit_is_seen_at_once(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.up(1).await;
    let mut exits = one.exits();
    let ProcessState::Running { pid } = *exits.borrow_and_update() else { panic!("not running") };
    let killed = Instant::now();
    let raw = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
    exits.changed().await.unwrap();
    // The kernel needs a moment to tear the process down.
    assert!(killed.elapsed() < BOUNDED, "{:?}", killed.elapsed());
    assert_eq!(*exits.borrow(), ProcessState::Exited { pid, how: "signal 9 (SIGKILL)".into() });
    assert!(matches!(one.observe().await, Err(Error::NotRunning)));
    one.start().await.unwrap();
    one.start().await.unwrap();
    one.stop(PATIENCE).await.unwrap();
    assert!(matches!(&*exits.borrow(), ProcessState::Exited { how, .. } if how == "exit code 0"));
}

async fn a_hung_server_is_unresponsive_within_the_bound(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.up(1).await;
    now(&one).await;
    let ProcessState::Running { pid } = *one.exits().borrow() else { panic!("not running") };
    let raw = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::STOP).unwrap();
    // The signal is sent, and takes effect when the process is next scheduled.
    let stopped = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") T "));
    until("the server to stand still", || async { stopped() }).await;
    for _ in 0..3 {
        let asked = Instant::now();
        assert!(matches!(one.observe().await, Err(Error::Unresponsive { .. })));
        assert!(asked.elapsed() < BOUNDED, "{:?}", asked.elapsed());
    }
    rustix::process::kill_process(raw, rustix::process::Signal::CONT).unwrap();
    seen(&one, "answering again", |o| !o.writable).await;
}

async fn unsafe_settings_are_said_in_full(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.up(1).await;
    let mut root = r.root_conn(1).await;
    root.query_drop(
        "SET GLOBAL sync_binlog=0, innodb_flush_log_at_trx_commit=2, rpl_semi_sync_master_timeout=10000, \
         rpl_semi_sync_master_wait_point=AFTER_COMMIT, sync_relay_log=10000, \
         rpl_semi_sync_slave_enabled=1, binlog_format=MIXED"
            .replace("sync_master", if flavour == Engine::MySql { "sync_source" } else { "sync_master" })
            .replace("sync_slave", if flavour == Engine::MySql { "sync_replica" } else { "sync_slave" }),
    )
    .await
    .unwrap();
    let said = now(&one).await.unsafe_settings.join("\n");
    for what in [
        "sync_binlog is 0",
        "flush_log_at_trx_commit is 2",
        "timeout is 10000 ms",
        "not AFTER_SYNC",
        "sync_relay_log is 10000",
        "binlog_format is MIXED",
    ] {
        assert!(said.contains(what), "{what} is missing in {said}");
    }
}

/// Not on MySQL: another OS user may not get at its folder here, and nothing of this is the flavour's.
#[tokio::test]
async fn an_engine_of_another_os_user_lives_a_whole_life() {
    let r = rig(Engine::MariaDb, Sync);
    r.readable_by_all();
    let engine = |id| {
        let mut spec = r.spec(id);
        spec.management = Management::Managed { run_as: Some("mysql".into()) };
        MySqlEngine::new(spec).unwrap()
    };
    let (one, two) = (engine(1), engine(2));
    one.start().await.unwrap();
    let ProcessState::Running { pid } = *one.exits().borrow() else { panic!("not running") };
    let owner = |path: &str| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap());
    assert_ne!(owner(&format!("/proc/{pid}")), 0, "not root");
    one.promote(true, 0).await.unwrap();
    one.accounts().await.unwrap();
    let source = one.clone_source().await.unwrap();
    two.start().await.unwrap();
    two.clone_into(source.reader, tokio::sync::watch::Sender::default()).await.unwrap();
    two.follow(r.addr(1), true).await.unwrap();
    seen(&one, "an acker", |o| o.ackers.count == 1).await;
    one.kill().await.unwrap();
    one.start().await.unwrap();
    let refused = MySqlEngine::new(holdfast_engine::Spec {
        management: Management::Managed { run_as: Some("no-such-user".into()) },
        ..r.spec(3)
    });
    assert!(refused.unwrap().start().await.unwrap_err().to_string().contains("no OS user"));
}

/// Not a test by itself: the agent of the test below, killed while it holds an engine.
async fn agent_to_be_killed(flavour: Engine) {
    let Ok(dir) = std::env::var("ENGINE_TEST_AGENT_DIR") else { return };
    let mut spec = rig(flavour, Async).spec(1);
    spec.data_dir = dir.into();
    spec.management = other_user(flavour);
    let one = MySqlEngine::new(spec).unwrap();
    one.start().await.unwrap();
    let ProcessState::Running { pid } = *one.exits().borrow() else { panic!("not running") };
    std::fs::write(spec_pid_file(), pid.to_string()).unwrap();
    let mut exits = one.exits();
    let ended = exits.wait_for(|state| !matches!(state, ProcessState::Running { .. }));
    let _ = tokio::time::timeout(PATIENCE, ended).await;
}

/// The signal that ties an engine to its agent must survive a change of user (and, on MySQL, a script in between).
fn other_user(flavour: Engine) -> Management {
    Management::Managed { run_as: (flavour == Engine::MariaDb).then(|| "mysql".into()) }
}

fn spec_pid_file() -> std::path::PathBuf {
    std::env::var("ENGINE_TEST_AGENT_PID").unwrap().into()
}

async fn the_engine_dies_with_its_agent(flavour: Engine) {
    let r = rig(flavour, Async);
    r.readable_by_all();
    let told = r.dir.path().join("pid");
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("bring_up::{}::agent_to_be_killed", r.module())])
        .env("ENGINE_TEST_AGENT_DIR", r.root(1))
        .env("ENGINE_TEST_AGENT_PID", &told)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    crate::rig::until("the agent's engine", || async {
        told.exists() && std::fs::metadata(&told).unwrap().len() > 0
    })
    .await;
    let pid: u32 = std::fs::read_to_string(&told).unwrap().parse().unwrap();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    agent.kill().unwrap();
    agent.wait().unwrap();
    crate::rig::until("the engine's death", || async {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    })
    .await;
    // And the directory can be taken over at once.
    let mut spec = r.spec(1);
    spec.management = other_user(flavour);
    MySqlEngine::new(spec).unwrap().start().await.unwrap();
}

/// Debian's MariaDB has a program that is called `mysqld`.
#[tokio::test]
async fn programs_of_another_engine_are_named_and_make_no_data_directory() {
    let r = rig(Engine::MySql, Async);
    let one = MySqlEngine::new(holdfast_engine::Spec { programs: None, ..r.spec(1) }).unwrap();
    let refused = one.start().await.unwrap_err();
    let says = refused.to_string();
    assert!(matches!(refused, Error::BadSpec(_)), "{refused:?}");
    assert!(says.contains("mysqld is 10.") && says.contains("`programs`"), "{says}");
    assert!(!r.root(1).join("data").exists());
}
