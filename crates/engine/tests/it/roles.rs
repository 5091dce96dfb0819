//! Closing, promoting, following (S3, S7).

use crate::rig::{BOUNDED, PATIENCE, account, applied, ids, insert, level, now, received, rig, seen, until};
use holdfast_core::topology::Durability::{Async, Sync};
use holdfast_core::topology::Engine;
use holdfast_engine::{Engine as _, Error, Observation, ProcessState, ThreadState};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, Row};
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

on_both! {
    what_was_received_is_applied_before_promotion,
    what_was_received_survives_a_restart_of_the_replica,
    a_replica_that_lost_a_part_of_its_relay_log_does_not_pass_for_intact,
    who_is_logging_in_at_a_promotion_stays_if_it_is_a_replica,
    closing_cuts_every_client_and_lasts,
    a_planned_closing_answers_every_statement,
    a_handover_waits_for_what_is_under_way_and_not_for_what_begins_meanwhile,
    a_commit_that_waits_for_an_acknowledgement_fails_the_closing_within_its_bound,
    roles_change_back_and_forth_without_a_diverging_history,
    a_silent_upstream_shows_within_a_second_and_can_be_left_at_once,
    an_unreachable_upstream_can_be_left_at_once,
    who_does_not_answer_is_not_followed,
    a_replica_gives_up_and_is_started_again_without_losing_its_relay_log,
    a_stand_in_acknowledges_what_it_has_received_before,
    a_new_follower_acknowledges_what_it_had_from_elsewhere,
}

const FENCE: Duration = Duration::from_millis(holdfast_core::limits::FENCE_MS);

async fn what_was_received_is_applied_before_promotion(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, true).await;
    seen(&one, "an acker", |o| o.ackers.count == 1).await;
    one.set_wait_for_ack(true).await.unwrap();
    level(&one, &two).await;
    // The applying thread is held up while the receiving one goes on.
    let mut root = r.root_conn(2).await;
    root.query_drop("LOCK TABLES shop.t READ").await.unwrap();
    let mut app = r.app(1).await;
    insert(&mut app, 1..=50).await;
    one.kill().await.unwrap();
    two.stop_receiving().await.unwrap();
    let o = now(&two).await;
    assert!(!o.drained && o.received > o.applied, "{o:?}");
    assert!(matches!(o.upstream.unwrap().io, ThreadState::Stopped | ThreadState::Failed { .. }));
    let refused = two.promote(false, 0).await.unwrap_err();
    assert!(matches!(refused, Error::Precondition(_)), "{refused}");
    root.query_drop("UNLOCK TABLES").await.unwrap();
    until("drained", || async { two.drained().await.unwrap() }).await;
    two.promote(false, 0).await.unwrap();
    two.promote(false, 0).await.unwrap();
    assert!(!now(&two).await.writable);
    two.open().await.unwrap();
    assert_eq!(ids(&mut r.app(2).await).await, (1..=50).collect::<Vec<_>>());
}

/// The way to a server that holds the server's greeting back until `go`, as a slow TLS handshake would.
async fn held_login(to: SocketAddr, go: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(to).await.unwrap();
        go.notified().await;
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    at
}

async fn who_is_logging_in_at_a_promotion_stays_if_it_is_a_replica(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, false).await;
    level(&one, &two).await;
    two.stop_receiving().await.unwrap();
    let go = Arc::new(Notify::new());
    let login = |name: &'static str| {
        let (to, go) = (r.addr(2), go.clone());
        tokio::spawn(async move {
            let at = held_login(to, go).await;
            let account = account(name);
            let opts = OptsBuilder::default()
                .ip_or_hostname("127.0.0.1")
                .tcp_port(at.port())
                .prefer_socket(false)
                .user(Some(account.user.as_str()))
                .pass(Some(account.password));
            Conn::new(opts).await
        })
    };
    let (replica, client) = (login("replicator"), login("app"));
    let root = tokio::sync::Mutex::new(r.root_conn(2).await);
    until("two are logging in", || async {
        let all: Vec<Row> = root.lock().await.query("SHOW PROCESSLIST").await.unwrap();
        let unknown = |row: &&Row| row.get::<String, _>("User").as_deref() == Some("unauthenticated user");
        all.iter().filter(unknown).count() == 2
    })
    .await;
    let log_in = async {
        // Promoting has begun by then, and ends it no sooner than they are known.
        sleep(Duration::from_millis(60)).await;
        go.notify_waiters();
    };
    tokio::join!(async { two.promote(false, 0).await.unwrap() }, log_in);
    let mut replica = replica.await.unwrap().unwrap();
    replica.query_drop("DO 0").await.unwrap();
    // Anybody else began under the follower's id.
    if let Ok(mut client) = client.await.unwrap() {
        client.query_drop("DO 0").await.unwrap_err();
    }
    two.open().await.unwrap();

    // Who never ends its login holds up nothing for long.
    let idle = TcpStream::connect(r.addr(1)).await.unwrap();
    one.close(FENCE).await.unwrap();
    one.follow(r.addr(2), false).await.unwrap();
    level(&two, &one).await;
    one.stop_receiving().await.unwrap();
    let _another = TcpStream::connect(r.addr(1)).await.unwrap();
    let begun = Instant::now();
    one.promote(false, 0).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(idle);
}

async fn what_was_received_survives_a_restart_of_the_replica(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, true).await;
    one.set_wait_for_ack(true).await.unwrap();
    level(&one, &two).await;
    let mut root = r.root_conn(2).await;
    root.query_drop("LOCK TABLES shop.t READ").await.unwrap();
    let mut app = r.app(1).await;
    insert(&mut app, 1..=50).await;
    let all = applied(&now(&one).await);
    seen(&two, "more than it applied", |o| received(o) == all && !o.drained).await;
    // Everything acknowledged is in the relay log of a replica that now crashes, and the primary is gone for good.
    two.mark_intact().await.unwrap();
    one.kill().await.unwrap();
    two.kill().await.unwrap();
    // It is applied without being asked for: nothing else may begin before (S7).
    two.start().await.unwrap();
    seen(&two, "all it had received", |o| o.drained && applied(o) == all && o.retained).await;
    two.promote(false, 0).await.unwrap();
    two.open().await.unwrap();
    let mut app = r.app(2).await;
    assert_eq!(ids(&mut app).await, (1..=50).collect::<Vec<_>>());
    insert(&mut app, [51]).await;
    // And it is a sound primary: a new replica follows it from the very beginning.
    let three = r.replica(3, 2, false).await;
    level(&two, &three).await;
}

async fn a_replica_that_lost_a_part_of_its_relay_log_does_not_pass_for_intact(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, true).await;
    let unmarked = level(&one, &two).await;
    assert!(!unmarked.retained);
    two.mark_intact().await.unwrap();
    assert!(now(&two).await.retained);
    two.kill().await.unwrap();
    two.start().await.unwrap();
    assert!(now(&two).await.retained);
    // A copy, of whatever time, has the mark too.
    two.kill().await.unwrap();
    let (data, copy) = (r.root(2).join("data"), r.root(2).join("copy"));
    let copied = std::process::Command::new("cp").arg("-a").args([&data, &copy]).status().unwrap();
    assert!(copied.success());
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    two.start().await.unwrap();
    assert!(!now(&two).await.retained);

    two.follow(r.addr(1), true).await.unwrap();
    two.mark_intact().await.unwrap();
    let mut root = r.root_conn(2).await;
    root.query_drop("FLUSH RELAY LOGS").await.unwrap();
    two.kill().await.unwrap();
    // One that is not the last. The kill may have hit MySQL between removing its index and giving the next its name.
    let index = ["relay.index", "relay.index_crash_safe"].map(|f| r.root(2).join("data").join(f));
    let index = index.iter().find_map(|f| std::fs::read_to_string(f).ok()).expect("one of them is there");
    let first = index.lines().next().unwrap();
    std::fs::remove_file(r.root(2).join("data").join(first)).unwrap();
    two.start().await.unwrap();
    assert!(!now(&two).await.retained);
    // Nor does the next start remember otherwise.
    two.kill().await.unwrap();
    two.start().await.unwrap();
    assert!(!now(&two).await.retained);
}

async fn closing_cuts_every_client_and_lasts(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    let mut idle = r.app(1).await;
    let mut open = r.app(1).await;
    open.query_drop("BEGIN").await.unwrap();
    insert(&mut open, [1]).await;
    assert_eq!(one.drain_clients(Duration::from_millis(250)).await.unwrap(), 1);
    let mut busy = r.app(1).await;
    let writer = tokio::spawn(async move {
        let mut done = 0;
        while busy.query_drop(format!("INSERT INTO t VALUES ({}, 'x')", 1_000 + done)).await.is_ok() {
            done += 1;
        }
        done
    });
    until("writes", || async { one.observe().await.is_ok_and(|o| o.client_connections == 3) }).await;
    let asked = Instant::now();
    let last = one.close(FENCE).await.unwrap();
    assert!(asked.elapsed() < BOUNDED);
    let done = writer.await.unwrap();
    assert!(idle.query_drop("SELECT 1").await.is_err());
    assert!(open.query_drop("COMMIT").await.is_err());
    // A cut connection's thread may end a moment later; it cannot write.
    let o = seen(&one, "no client", |o| o.client_connections == 0).await;
    assert!(!o.writable && o.applied == last, "{o:?}");
    let there = ids(&mut r.app(1).await).await.len();
    // The last one may have been cut between its commit and its answer.
    assert!(there == done || there == done + 1, "{there} rows, {done} answered");
    assert_eq!(one.drain_clients(FENCE).await.unwrap(), 0);
}

/// Clients that have not heard of the handover go on writing; each statement is done or refused, none is cut.
async fn a_planned_closing_answers_every_statement(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    let mut writers = tokio::task::JoinSet::new();
    for first in (0..8).map(|n| n * 10_000) {
        let mut app = r.app(1).await;
        writers.spawn(async move {
            for id in first.. {
                match app.query_drop(format!("INSERT INTO t VALUES ({id}, 'x')")).await {
                    Ok(()) => {}
                    Err(mysql_async::Error::Server(e)) if [1290, 1836].contains(&e.code) => {
                        return (id - first, app);
                    }
                    Err(e) => panic!("cut: {e}"),
                }
            }
            unreachable!()
        });
    }
    // Of each of them, more than it began with.
    let mut looks = r.root_conn(1).await;
    let deadline = Instant::now() + PATIENCE;
    while ids(&mut looks).await.iter().filter(|id| *id % 10_000 == 5).count() < 8 {
        assert!(Instant::now() < deadline, "never happened: writes of all");
    }
    one.refuse_writes(PATIENCE).await.unwrap();
    let mut done = 0;
    let mut clients = Vec::new();
    while let Some(writer) = writers.join_next().await {
        let (n, app) = writer.unwrap();
        done += n;
        clients.push(app);
    }
    assert!(!now(&one).await.writable && clients.len() == 8);
    one.close(FENCE).await.unwrap();
    assert_eq!(ids(&mut r.app(1).await).await.len(), done);
}

#[tokio::test]
async fn a_replica_leaves_a_primary_that_does_not_answer_without_waiting_for_it() {
    let r = rig(Engine::MariaDb, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, true).await;
    seen(&one, "an acker", |o| o.ackers.count == 1).await;
    // By itself it would wait for two seconds: it never waits longer.
    let mut root = r.root_conn(2).await;
    root.query_drop("SET GLOBAL rpl_semi_sync_slave_kill_conn_timeout = 600").await.unwrap();
    let ProcessState::Running { pid } = *one.exits().borrow() else { panic!("it runs") };
    let frozen = Pid::from_raw(pid as i32).unwrap();
    kill_process(frozen, Signal::STOP).unwrap();
    timeout(Duration::from_millis(1_700), two.stop_receiving()).await.expect("woken").unwrap();
    assert_eq!(now(&two).await.upstream.unwrap().io, ThreadState::Stopped);
    kill_process(frozen, Signal::CONT).unwrap();
}

async fn a_handover_waits_for_what_is_under_way_and_not_for_what_begins_meanwhile(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    // Two clients of short transactions, so that at any time one is open.
    let mut busy = tokio::task::JoinSet::new();
    for first in [1_000, 2_000] {
        let mut app = r.app(1).await;
        busy.spawn(async move {
            for id in first.. {
                let insert = format!("INSERT INTO t VALUES ({id}, 'x')");
                for sql in ["BEGIN", &insert, "DO SLEEP(0.2)", "COMMIT"] {
                    app.query_drop(sql).await.unwrap();
                }
                if first == 1_000 && id == first {
                    sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }
    until("transactions", || async { one.drain_clients(Duration::ZERO).await.unwrap() == 2 }).await;
    assert_eq!(one.drain_clients(PATIENCE).await.unwrap(), 0);
    assert!(busy.try_join_next().is_none(), "the clients are still at it");
    busy.abort_all();
}

async fn a_commit_that_waits_for_an_acknowledgement_fails_the_closing_within_its_bound(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    one.set_wait_for_ack(true).await.unwrap();
    let mut app = r.app(1).await;
    let waiting = tokio::spawn(async move { app.query_drop("INSERT INTO t VALUES (1, 'x')").await });
    seen(&one, "a waiting commit", |o| o.ack_waiters == 1).await;
    let asked = Instant::now();
    let refused = one.close(FENCE).await.unwrap_err();
    assert!(matches!(refused, Error::Unresponsive { .. }), "{refused}");
    assert!(asked.elapsed() < BOUNDED, "{:?}", asked.elapsed());
    assert!(!waiting.is_finished(), "it was neither answered nor cut");
    // Nor may it be answered by following somebody.
    assert!(matches!(one.follow(r.addr(2), true).await, Err(Error::Precondition(_))));
    one.kill().await.unwrap();
    assert!(waiting.await.unwrap().is_err());
}

async fn roles_change_back_and_forth_without_a_diverging_history(flavour: Engine) {
    let r = rig(flavour, Sync);
    let engines = [r.primary(1).await, r.replica(2, 1, true).await];
    engines[0].set_wait_for_ack(true).await.unwrap();
    for round in 0..4_u32 {
        let (a, b) = (round as usize % 2, (round as usize + 1) % 2);
        let (old, new) = (&engines[a], &engines[b]);
        seen(old, "an acker", |o| o.ackers.count == 1).await;
        insert(&mut r.app(a as u32 + 1).await, [round]).await;
        assert_eq!(old.drain_clients(PATIENCE).await.unwrap(), 0);
        let at = old.close(FENCE).await.unwrap();
        seen(new, "everything", |o| o.drained && o.applied == at).await;
        new.stop_receiving().await.unwrap();
        new.promote(true, 0).await.unwrap();
        old.follow(r.addr(b as u32 + 1), true).await.unwrap();
        seen(new, "its acker", |o| o.ackers.count == 1 && o.waits_for_ack).await;
        new.open().await.unwrap();
        assert!(new.save_divergence(&received(&now(old).await)).await.unwrap().is_none());
    }
    insert(&mut r.app(1).await, [4]).await;
    level(&engines[0], &engines[1]).await;
    assert_eq!(ids(&mut r.app(2).await).await, (0..=4).collect::<Vec<_>>());
}

async fn a_silent_upstream_shows_within_a_second_and_can_be_left_at_once(flavour: Engine) {
    for (acknowledges, reconnecting) in [(false, true), (true, false)] {
        let r = rig(flavour, Sync);
        let one = r.primary(1).await;
        let two = r.replica(2, 1, acknowledges).await;
        level(&one, &two).await;
        let ProcessState::Running { pid } = *one.exits().borrow() else { panic!("not running") };
        let raw = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(raw, rustix::process::Signal::STOP).unwrap();
        let stopped = Instant::now();
        let silent =
            |o: &Observation| o.upstream.as_ref().is_some_and(|u| u.silent_ms.is_none_or(|ms| ms > 700));
        seen(&two, "silence", silent).await;
        assert!(stopped.elapsed() < BOUNDED, "{:?}", stopped.elapsed());
        if reconnecting {
            seen(&two, "reconnecting", connecting).await;
        }
        let asked = Instant::now();
        two.stop_receiving().await.unwrap();
        let took = asked.elapsed();
        rustix::process::kill_process(raw, rustix::process::Signal::CONT).unwrap();
        assert!(took < stop_receiving(flavour), "{took:?} {acknowledges} {reconnecting}");
        two.promote(false, 0).await.unwrap();
    }
}

fn stop_receiving(flavour: Engine) -> Duration {
    Duration::from_millis(match flavour {
        // The server wakes a thread that is just connecting, and again after two seconds if it did not hear.
        Engine::MySql => 3_500,
        // A semi-sync replica tries, for up to a second, to tell its primary that it leaves.
        _ => 1_500,
    })
}

#[tokio::test]
async fn flavours_never_mix() {
    let (m, r) = (rig(Engine::MariaDb, Async), rig(Engine::MySql, Async));
    let (one, two) = (m.primary(1).await, r.up(2).await);
    let refused = two.follow(m.addr(1), false).await.unwrap_err();
    assert!(refused.to_string().contains("never mix"), "{refused}");
    let (ours, theirs) = (now(&two).await, now(&one).await);
    assert!(ours.upstream.is_none());
    assert!(two.save_divergence(&applied(&theirs)).await.is_err());
}

fn connecting(o: &Observation) -> bool {
    matches!(o.upstream.as_ref().map(|u| &u.io), Some(ThreadState::Connecting { .. }))
}

/// As behind a cut cable: the primary greets, and from then on packets to it go nowhere.
async fn an_unreachable_upstream_can_be_left_at_once(flavour: Engine) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    let r = rig(flavour, Async);
    let (_one, two) = (r.primary(1).await, r.up(2).await);
    // A listener whose queue is full drops every further connection attempt.
    let hole = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&hole, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&hole, 0).unwrap();
    let addr: SocketAddr = getsockname(&hole).unwrap().try_into().unwrap();
    let (hole, primary) = (TcpListener::from(hole), r.addr(1));
    let greets = std::thread::spawn(move || {
        let (mut asks, _) = hole.accept().unwrap();
        let queued = TcpStream::connect(addr).unwrap();
        let mut greeting = [0; 1024];
        let bytes = TcpStream::connect(primary).unwrap().read(&mut greeting).unwrap();
        asks.write_all(&greeting[..bytes]).unwrap();
        (hole, queued)
    });
    two.follow(addr, false).await.unwrap();
    let _full = greets.join().unwrap();
    seen(&two, "connecting", connecting).await;
    let asked = Instant::now();
    two.stop_receiving().await.unwrap();
    assert!(asked.elapsed() < BOUNDED, "{:?}", asked.elapsed());
}

/// It would be connected to later, by the server itself, whatever is there by then.
async fn who_does_not_answer_is_not_followed(flavour: Engine) {
    let r = rig(flavour, Async);
    let (one, two) = (r.primary(1).await, r.up(2).await);
    one.kill().await.unwrap();
    let refused = two.follow(r.addr(1), false).await.unwrap_err();
    assert!(refused.to_string().contains("does not answer"), "{refused}");
    assert!(two.observe().await.unwrap().upstream.is_none());
}

async fn a_replica_gives_up_and_is_started_again_without_losing_its_relay_log(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, false).await;
    level(&one, &two).await;
    one.kill().await.unwrap();
    let gave_up =
        |o: &Observation| o.upstream.as_ref().is_some_and(|u| matches!(u.io, ThreadState::Failed { .. }));
    let asked = Instant::now();
    seen(&two, "giving up", gave_up).await;
    assert!(asked.elapsed() < Duration::from_millis(holdfast_core::limits::ACKER_GIVES_UP_AFTER_MS));
    one.start().await.unwrap();
    one.promote(false, 0).await.unwrap();
    one.open().await.unwrap();
    two.follow(r.addr(1), false).await.unwrap();
    insert(&mut r.app(1).await, [1]).await;
    level(&one, &two).await;
}

/// The acker dies, and commits wait that the other replica has received already, before it began to acknowledge. Two
/// groups of them fill the log: nothing new can be sent whose acknowledgement would stand for theirs.
async fn a_stand_in_acknowledges_what_it_has_received_before(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, true).await;
    let three = r.replica(3, 1, false).await;
    seen(&one, "an acker", |o| o.ackers.count == 1).await;
    one.set_wait_for_ack(true).await.unwrap();
    insert(&mut r.app(1).await, [0]).await;
    level(&one, &three).await;
    two.kill().await.unwrap();
    let before = applied(&now(&one).await);
    let mut writes = tokio::task::JoinSet::new();
    for id in 1..=6 {
        let mut app = r.app(1).await;
        writes.spawn(async move { insert(&mut app, [id]).await });
    }
    seen(&one, "waiting commits", |o| applied(o).missing_in(&before) > 1).await;
    // Of two groups. What a third has numbered already is not sent before there is room for it.
    seen(&three, "what was sent", |s| received(s).missing_in(&before) > 1).await;
    three.set_acknowledges(true).await.unwrap();
    tokio::time::timeout(PATIENCE, writes.join_all()).await.expect("the waiting commits are acknowledged");
    level(&one, &three).await;
}

/// It received what waits through another replica, which does not acknowledge, and then follows the primary itself: that
/// never sends it again.
async fn a_new_follower_acknowledges_what_it_had_from_elsewhere(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, false).await;
    let three = r.replica(3, 2, false).await;
    one.set_wait_for_ack(true).await.unwrap();
    let before = applied(&now(&one).await);
    let mut app = r.app(1).await;
    let write = tokio::spawn(async move { insert(&mut app, [1]).await });
    let o = seen(&one, "a waiting commit", |o| applied(o) != before).await;
    seen(&three, "what was logged", |s| s.drained && s.applied == o.applied).await;
    assert!(!write.is_finished());
    three.follow(r.addr(1), true).await.unwrap();
    let looked_at = async {
        while !write.is_finished() {
            let _ = three.observe().await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, looked_at).await.expect("the waiting commit is acknowledged");
    level(&one, &three).await;
    level(&one, &two).await;
}
