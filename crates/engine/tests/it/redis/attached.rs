//! Servers that something else starts.

use super::rig::{CLOSE, Rig, account, all, at, lead, level, now, programs, rig, seen};
use crate::rig::{PATIENCE, node, until};
use holdfast_core::topology::Durability::Sync;
use holdfast_core::topology::{Engine, Management};
use holdfast_engine::redis::RedisEngine;
use holdfast_engine::{Engine as _, Error, Spec};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

on_each! {
    a_server_is_closed_as_it_is_found_and_led,
    an_open_one_that_restarted_wipes_nobody,
    one_that_cannot_be_administered_is_refused,
}

/// Ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dir(r: &Rig, id: u32) -> PathBuf {
    r.dir.path().join(format!("own{id}"))
}

/// As an operator would: open, with an account that may do everything.
fn server(r: &Rig, id: u32, more: &str) -> Server {
    let dir = dir(r, id);
    std::fs::create_dir_all(&dir).unwrap();
    let config = format!(
        "bind 127.0.0.1\nport {}\nunixsocket {}\ndir {}\nuser default off\nsave \"\"\nrepl-diskless-sync-delay 0\n\
         repl-backlog-ttl 0\nrepl-diskless-load disabled\n{more}\n",
        r.ports[id as usize - 1],
        dir.join("db.sock").display(),
        dir.display(),
    );
    let file = dir.join("server.conf");
    std::fs::write(&file, config).unwrap();
    let program = programs(r.flavour).map_or("redis-server".into(), |p| p.join("valkey-server"));
    let child = Command::new(program).arg(&file).stdout(Stdio::null()).spawn().unwrap();
    Server(child)
}

fn admin() -> String {
    let secret = account("replicator").password.replace('\\', "\\\\").replace('"', "\\\"");
    format!("user replicator on \">{secret}\" ~* &* +@all")
}

fn spec(r: &Rig, id: u32) -> Spec {
    let dir = dir(r, id);
    let management = Management::Attached {
        socket: dir.join("db.sock"),
        data_dir: dir,
        stop_command: vec!["true".into()],
        start_command: vec!["true".into()],
    };
    Spec { management, engine_options: [].into(), ..r.spec(id) }
}

async fn attached(r: &Rig, id: u32) -> RedisEngine {
    until("the server's socket", || async { dir(r, id).join("db.sock").exists() }).await;
    r.start(spec(r, id)).await
}

async fn a_server_is_closed_as_it_is_found_and_led(flavour: Engine) {
    let r = rig(flavour, Sync);
    let _servers = [server(&r, 1, &admin()), server(&r, 2, &admin())];
    let (one, two) = (attached(&r, 1).await, attached(&r, 2).await);
    let o = now(&one).await;
    assert!(!o.writable && o.upstream.is_none() && o.unsafe_settings.is_empty(), "{o:?}");
    assert!(
        r.app(1).ask(&["SET", "k", "v"]).unwrap_err().starts_with("READONLY"),
        "the topology's users are made"
    );
    lead(&one).await;
    r.app(1).set(0..10);
    r.follow(&two, 1, &one).await;
    level(&one, &two).await;
    let acked = seen(&one, "an acker", |o| o.ackers.count == 1).await;
    assert_eq!(acked.ackers_connected, [node(2)].into());
    two.mark_intact().await.unwrap();
    // Its agent is started again: nothing was lost, and its replication goes on.
    drop(two);
    let two = attached(&r, 2).await;
    let o = now(&two).await;
    assert!(o.retained && o.upstream.is_some_and(|u| u.addr == Some(r.addr(1))));
    let last = one.close(CLOSE).await.unwrap().unwrap();
    seen(&two, "all", |o| o.applied.as_ref().is_some_and(|p| p.contains(&last))).await;
}

async fn an_open_one_that_restarted_wipes_nobody(flavour: Engine) {
    let r = rig(flavour, Sync);
    let (first, _second) = (server(&r, 1, &admin()), server(&r, 2, &admin()));
    let (one, two) = (attached(&r, 1).await, attached(&r, 2).await);
    lead(&one).await;
    r.app(1).set(0..10);
    r.follow(&two, 1, &one).await;
    level(&one, &two).await;
    drop(first);
    let mut exits = one.exits();
    let ended = exits.wait_for(|s| !matches!(s, holdfast_engine::ProcessState::Running { .. }));
    tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap();
    // Back before anybody looks: open, and empty.
    let _first = server(&r, 1, &admin());
    let out = |o: &holdfast_engine::Observation| !o.upstream.as_ref().is_some_and(|u| u.acknowledges);
    seen(&two, "its loss", out).await;
    for _ in 0..30 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert!(!at(&now(&two).await).is_empty());
    }
    let mut admin = super::rig::Client::login(r.addr(2), &account("replicator")).unwrap();
    assert_eq!(admin.keys(), 10, "its replica could not log in, and kept what it had");
    one.start().await.unwrap();
    let o = now(&one).await;
    assert!(!o.writable && !o.retained && o.applied.unwrap().is_empty());
}

async fn one_that_cannot_be_administered_is_refused(flavour: Engine) {
    let r = rig(flavour, Sync);
    let few = admin().replace("+@all", "+@read");
    let _servers = [server(&r, 1, &few), server(&r, 2, ""), server(&r, 3, &admin())];
    for id in [1, 2] {
        until("the server's socket", || async { dir(&r, id).join("db.sock").exists() }).await;
        let refused = RedisEngine::new(spec(&r, id)).unwrap().start().await.unwrap_err();
        assert!(refused.to_string().contains("administer"), "{refused}");
    }
    until("the server's socket", || async { dir(&r, 3).join("db.sock").exists() }).await;
    let mut wrong = spec(&r, 3);
    if let Management::Attached { data_dir, .. } = &mut wrong.management {
        *data_dir = r.dir.path().to_owned();
    }
    let refused = RedisEngine::new(wrong).unwrap().start().await.unwrap_err();
    assert!(matches!(refused, Error::NotOurs { .. }), "{refused}");
    assert_eq!(all().len(), 3);
}
