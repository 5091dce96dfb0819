//! Starting, whose directory it is, what it says when it will not, and who may log in (S9).

use super::rig::{Client, all, at, level, now, pid, rig, seen, signal};
use crate::rig::{BOUNDED, PATIENCE, node};
use holdfast_core::topology::Durability::{Async, Sync};
use holdfast_core::topology::{Engine, Management};
use holdfast_engine::redis::RedisEngine;
use holdfast_engine::{Engine as _, Error, ProcessState, ThreadState};
use tokio::time::Instant;

on_each! {
    a_first_primary_and_its_replicas,
    it_boots_closed_and_without_any_door_but_its_users,
    a_client_with_every_rule_still_cannot_open_it,
    a_foreign_directory_is_refused_and_left_alone,
    a_refusal_is_told_in_the_servers_own_words,
    what_cannot_be_run_is_refused_at_once,
    an_exit_is_seen_at_once,
    a_hung_server_is_unresponsive_within_the_bound,
    a_server_of_another_user_dies_with_its_agent_and_is_followed_up,
}

async fn a_first_primary_and_its_replicas(flavour: Engine) {
    let r = rig(flavour, Sync);
    let (one, two) = (r.up(1).await, r.up(2).await);
    let fresh = now(&one).await;
    assert!(
        !fresh.writable && fresh.upstream.is_none() && fresh.received.as_ref().unwrap().is_empty(),
        "{fresh:?}"
    );
    assert_eq!(fresh.unsafe_settings, Vec::<String>::new());
    assert!(fresh.free_disk_bytes.is_some() && fresh.admits == Some([].into()) && !fresh.retained);
    let name = if flavour == Engine::Redis { "Redis 7.0." } else { "Valkey 8." };
    assert!(fresh.version.starts_with(name), "{}", fresh.version);
    assert_eq!(one.installed().await.unwrap(), fresh.version);

    super::rig::lead(&one).await;
    let open = now(&one).await;
    assert!(open.writable && open.upstream.is_none() && open.admits == Some(all()), "{open:?}");
    r.follow(&two, 1, &one).await;
    let acked = seen(&one, "a replica that acknowledges", |o| o.ackers.count == 1).await;
    assert!(acked.ackers.exact() && acked.ackers_connected == [node(2)].into(), "{acked:?}");

    let mut app = r.app(1);
    app.set(0..100);
    assert_eq!(app.ask(&["WAIT", "1", "5000"]).unwrap().int(), Some(1));
    let three = r.replica(3, 1, &one).await;
    for replica in [&two, &three] {
        let o = level(&one, replica).await;
        let up = o.upstream.unwrap();
        assert_eq!((up.addr, up.io, up.lag_ms), (Some(r.addr(1)), ThreadState::Running, Some(0)));
    }
    assert_eq!(app.ask(&["WAIT", "2", "5000"]).unwrap().int(), Some(2));
    let o = seen(&one, "both", |o| o.ackers.count == 2).await;
    assert_eq!(
        (o.client_connections, o.foreign_replicas.len()),
        (1, 0),
        "one client, not the replicas and not ourselves"
    );
    let refused = r.app(2).ask(&["SET", "k", "v"]).unwrap_err();
    assert!(refused.starts_with("READONLY"), "{refused}");
    assert_eq!(r.app(2).text(&["GET", "k7"]), "7");
    // Nothing is written, and its place moves on all the same.
    let before = at(&now(&one).await);
    let later = seen(&one, "a heartbeat", |o| o.applied.as_ref() > Some(&before)).await;
    assert!(at(&later).missing_in(&before) < 100, "{later:?}");
}

async fn it_boots_closed_and_without_any_door_but_its_users(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.up(1).await;
    let mut nobody = Client::open(r.addr(1));
    assert!(nobody.ask(&["GET", "x"]).unwrap_err().starts_with("NOAUTH"));
    assert!(nobody.ask(&["AUTH", "replicator:db2", "replicator's \"\\secret"]).is_err());
    assert!(r.app(1).ask(&["SET", "x", "1"]).unwrap_err().starts_with("READONLY"));
    one.admit(&[node(2)].into()).await.unwrap();
    assert_eq!(now(&one).await.admits, Some([node(2)].into()));
    nobody.ask(&["AUTH", "replicator:db2", "replicator's \"\\secret"]).unwrap();
    assert!(nobody.ask(&["SET", "x", "1"]).is_err(), "a replica's account is for replicating");
    assert!(nobody.ask(&["KEYS", "*"]).is_err());
    one.admit(&[node(3)].into()).await.unwrap();
    assert_eq!(nobody.ask(&["PING"]).unwrap_err(), "cut");
    // Secrets are nobody else's to read.
    use std::os::unix::fs::MetadataExt as _;
    for file in ["run/server.conf", "run/users.acl"] {
        assert_eq!(std::fs::metadata(r.root(1).join(file)).unwrap().mode() & 0o077, 0, "{file}");
    }
    // Started again, it admits nobody.
    one.kill().await.unwrap();
    one.start().await.unwrap();
    assert_eq!(now(&one).await.admits, Some([].into()));
}

async fn a_client_with_every_rule_still_cannot_open_it(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let mut app = r.app(1);
    for taken in [
        &["REPLICAOF", "NO", "ONE"][..],
        &["CONFIG", "SET", "replica-read-only", "no"],
        &["ACL", "SETUSER", "x", "on", "nopass", "~*", "+@all"],
        &["PSYNC", "?", "-1"],
        &["FAILOVER"],
        &["SHUTDOWN", "NOSAVE"],
        &["CLIENT", "PAUSE", "10000"],
    ] {
        let refused = app.ask(taken).unwrap_err();
        assert!(refused.starts_with("NOPERM"), "{taken:?}: {refused}");
    }
    assert!(app.ask(&["DEBUG", "SLEEP", "1"]).is_err());
    app.ask(&["EVAL", "return redis.call('SET','k','v')", "0"]).unwrap();
    app.ask(&["FLUSHALL"]).unwrap();
    one.close(super::rig::CLOSE).await.unwrap();
    let mut app = r.app(1);
    assert!(app.ask(&["SET", "k", "v"]).is_err());
    assert!(app.ask(&["EVAL", "return redis.call('SET','k','v')", "0"]).is_err());
}

async fn a_foreign_directory_is_refused_and_left_alone(flavour: Engine) {
    let r = rig(flavour, Async);
    std::fs::create_dir_all(r.root(1).join("data")).unwrap();
    std::fs::write(r.root(1).join("data/dump.rdb"), b"precious").unwrap();
    let refused = RedisEngine::new(r.spec(1)).unwrap().start().await.unwrap_err();
    assert!(matches!(refused, Error::NotOurs { .. }), "{refused}");
    assert_eq!(std::fs::read(r.root(1).join("data/dump.rdb")).unwrap(), b"precious");
    let two = r.up(2).await;
    let refused = RedisEngine::new(r.spec(2)).unwrap().start().await.unwrap_err();
    assert!(refused.to_string().contains("another holdfast process"), "{refused}");
    assert!(two.observe().await.is_ok());
}

async fn a_refusal_is_told_in_the_servers_own_words(flavour: Engine) {
    let r = rig(flavour, Async);
    let mut spec = r.spec(1);
    spec.engine_options.insert("maxmemory".into(), "much".into());
    let one = RedisEngine::new(spec).unwrap();
    let refused = one.start().await.unwrap_err();
    assert!(refused.to_string().contains("argument must be a memory value"), "{refused}");
    assert!(!refused.retryable());
    drop(one);
    let mut spec = r.spec(1);
    spec.users[0].grants = vec!["+nosuchcommand".into()];
    let refused = r_start(spec).await;
    assert!(refused.to_string().contains("nosuchcommand"), "{refused}");
    // The same directory starts once all is right; an address that is taken is told too, and so is data that is damaged.
    r.up(1).await.stop(PATIENCE).await.unwrap();
    let taken = std::net::TcpListener::bind(r.addr(1)).unwrap();
    let refused = r_start(r.spec(1)).await;
    assert!(refused.to_string().contains("Address already in use"), "{refused}");
    drop(taken);
    std::fs::write(r.root(1).join("data/dump.rdb"), b"REDIS0010 but not really").unwrap();
    let refused = r_start(r.spec(1)).await;
    assert!(matches!(refused, Error::RefusesToStart { .. }), "{refused}");
}

async fn r_start(spec: holdfast_engine::Spec) -> Error {
    RedisEngine::new(spec).unwrap().start().await.unwrap_err()
}

async fn what_cannot_be_run_is_refused_at_once(flavour: Engine) {
    let r = rig(flavour, Sync);
    let mut spec = r.spec(1);
    spec.engine_options.insert("replicaof".into(), "10.0.0.1 6379".into());
    assert!(matches!(RedisEngine::new(spec), Err(Error::BadSpec(_))));
    let mut spec = r.spec(1);
    spec.users[0].grants = vec!["nopass".into()];
    assert!(matches!(RedisEngine::new(spec), Err(Error::BadSpec(_))));
    let mut spec = r.spec(1);
    spec.data_dir = r.dir.path().join("x".repeat(120));
    assert!(RedisEngine::new(spec).err().unwrap().to_string().contains("shorter path"));
    let other = if flavour == Engine::Redis { Engine::Valkey } else { Engine::Redis };
    let mut spec = r.spec(1);
    spec.programs = super::rig::programs(other);
    spec.engine = flavour;
    // Under the name of the one, the other's program.
    let folder = r.dir.path().join("programs");
    std::fs::create_dir(&folder).unwrap();
    let (named, real) = match flavour {
        Engine::Redis => ("redis-server", super::rig::programs(other).unwrap().join("valkey-server")),
        _ => ("valkey-server", "/usr/bin/redis-server".into()),
    };
    std::os::unix::fs::symlink(real, folder.join(named)).unwrap();
    spec.programs = Some(folder);
    let refused = r_start(spec).await;
    assert!(refused.to_string().contains("choose the right `engine`"), "{refused}");
}

async fn an_exit_is_seen_at_once(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    r.app(1).set(0..10);
    let mut exits = one.exits();
    signal(pid(&one), "-KILL");
    let ended = exits.wait_for(|s| matches!(s, ProcessState::Exited { .. }));
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().clone();
    assert!(matches!(&ended, ProcessState::Exited { how, .. } if how.contains("SIGKILL")), "{ended:?}");
    assert!(matches!(one.observe().await, Err(Error::NotRunning)));
    // Back, it is closed, and has forgotten all: nothing was on the disk.
    one.start().await.unwrap();
    let back = now(&one).await;
    assert!(!back.writable && back.applied.unwrap().is_empty() && !back.retained);
}

async fn a_hung_server_is_unresponsive_within_the_bound(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    signal(pid(&one), "-STOP");
    let begun = Instant::now();
    assert!(matches!(one.observe().await, Err(Error::Unresponsive { .. })));
    let closed = one.close(std::time::Duration::from_millis(400)).await;
    assert!(matches!(closed, Err(Error::Unresponsive { .. })), "{closed:?}");
    assert!(begun.elapsed() < BOUNDED);
    signal(pid(&one), "-CONT");
    // What was asked before is answered first, and nothing of it comes behind the back of what is asked now.
    let o = seen(&one, "an answer", |_| true).await;
    assert!(o.upstream.is_none());
    one.close(super::rig::CLOSE).await.unwrap();
    assert!(!now(&one).await.writable);
}

async fn a_server_of_another_user_dies_with_its_agent_and_is_followed_up(flavour: Engine) {
    let r = rig(flavour, Async);
    crate::rig::readable_by_all(r.dir.path());
    let mut spec = r.keeping(1);
    spec.management = Management::Managed { run_as: Some("redis".into()) };
    let one = r.start(spec.clone()).await;
    super::rig::lead(&one).await;
    r.app(1).set(0..10);
    let server = pid(&one);
    let status = std::fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    assert!(!status.contains("Uid:\t0\t"), "it runs as redis");
    drop(one);
    crate::rig::until("the engine's death", || async {
        let stat = std::fs::read_to_string(format!("/proc/{server}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    })
    .await;
    let again = r.start(spec).await;
    assert!(!now(&again).await.writable);
}
