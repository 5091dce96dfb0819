//! Closing, following, promoting: what is written stays, and who may not write does not (S3, S7).

use super::rig::{CLOSE, all, at, lead, level, now, pid, rig, seen, signal};
use crate::rig::{BOUNDED, PATIENCE, node};
use holdfast_core::topology::Durability::{Async, Sync};
use holdfast_core::topology::Engine;
use holdfast_engine::{Engine as _, Error, ThreadState};
use std::time::Duration;
use tokio::time::Instant;

on_each! {
    closing_cuts_clients_and_nothing_is_written_afterwards,
    a_client_that_waits_for_a_replica_gets_no_success_when_it_closes,
    a_planned_switch_loses_nothing_and_resyncs_in_part,
    a_takeover_goes_on_where_the_replica_was,
    who_is_not_admitted_is_cut_and_stays_out,
    a_replica_that_missed_too_much_is_copied_anew,
    a_primary_that_is_silent_is_noticed_in_time,
    a_primary_that_never_had_a_replica_counts_its_writes,
    draining_waits_for_acknowledgements_and_holds_writes_back,
    a_verb_that_does_not_fit_is_refused,
}

async fn closing_cuts_clients_and_nothing_is_written_afterwards(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, &one).await;
    let (mut app, mut listener, mut blocked) = (r.app(1), r.app(1), r.app(1));
    app.set(0..10);
    listener.ask(&["SUBSCRIBE", "news"]).unwrap();
    blocked.send(&["BLPOP", "nothing", "0"]);
    app.ask(&["MULTI"]).unwrap();
    app.ask(&["SET", "late", "1"]).unwrap();
    seen(&one, "three clients", |o| o.client_connections == 3).await;
    let last = one.close(CLOSE).await.unwrap().unwrap();
    let o = now(&one).await;
    assert!(!o.writable && o.upstream.is_none() && o.applied == Some(last.clone()), "{o:?}");
    assert!(app.ask(&["EXEC"]).is_err() && listener.answer().is_err() && blocked.answer().is_err());
    seen(&one, "no clients", |o| o.client_connections == 0).await;
    assert!(r.app(1).ask(&["SET", "late", "1"]).unwrap_err().starts_with("READONLY"));
    // Its replica gets all of it, and no heartbeat moves its place on.
    level_with(&two, &last).await;
    assert_eq!(at(&now(&one).await), last);
    // Closing what is closed changes nothing.
    assert_eq!(one.close(CLOSE).await.unwrap(), Some(last));
}

async fn level_with(engine: &holdfast_engine::redis::RedisEngine, there: &holdfast_core::Position) {
    seen(engine, "all of it", |o| o.applied.as_ref().is_some_and(|p| p.contains(there))).await;
}

async fn a_client_that_waits_for_a_replica_gets_no_success_when_it_closes(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let mut app = r.app(1);
    app.send(&["SET", "k", "v"]);
    app.send(&["WAIT", "1", "0"]);
    app.answer().unwrap();
    seen(&one, "the waiting client", |o| o.client_connections == 1).await;
    one.close(CLOSE).await.unwrap();
    let told = app.answer().unwrap_err();
    assert!(told.starts_with("UNBLOCKED") || told == "cut", "{told}");
}

async fn a_planned_switch_loses_nothing_and_resyncs_in_part(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let (two, three) = (r.replica(2, 1, &one).await, r.replica(3, 1, &one).await);
    let mut app = r.app(1);
    app.set(0..500);
    let last = one.close(CLOSE).await.unwrap().unwrap();
    level_with(&two, &last).await;
    two.stop_receiving().await.unwrap();
    lead(&two).await;
    r.app(2).set(500..600);
    for (engine, old) in [(&one, "the old primary"), (&three, "the other replica")] {
        if old == "the other replica" {
            engine.stop_receiving().await.unwrap();
        }
        let (ours, theirs) = (at(&now(engine).await), at(&now(&two).await));
        assert!(theirs.contains(&ours), "{old}: {ours} in {theirs}");
        r.follow(engine, 2, &two).await;
        level(&two, engine).await;
    }
    assert_eq!(r.app(2).info("sync_partial_ok"), "2");
    assert_eq!((r.app(1).keys(), r.app(3).keys()), (600, 600));
    // And back again, to where it was.
    let last = two.close(CLOSE).await.unwrap().unwrap();
    level_with(&one, &last).await;
    one.stop_receiving().await.unwrap();
    lead(&one).await;
    r.app(1).set(600..610);
    r.follow(&two, 1, &one).await;
    three.stop_receiving().await.unwrap();
    // Whoever was last told of a history two promotions ago knows what became of it.
    r.follow(&three, 1, &one).await;
    level(&one, &two).await;
    assert!(!level(&one, &three).await.writable);
    assert_eq!((r.app(2).keys(), r.app(3).keys()), (610, 610));
}

async fn a_takeover_goes_on_where_the_replica_was(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let (two, three) = (r.replica(2, 1, &one).await, r.replica(3, 1, &one).await);
    let mut app = r.app(1);
    app.set(0..100);
    assert_eq!(app.ask(&["WAIT", "2", "5000"]).unwrap().int(), Some(2));
    signal(pid(&one), "-KILL");
    let o = seen(&two, "its loss", |o| {
        o.upstream.as_ref().is_some_and(|u| matches!(u.io, ThreadState::Connecting { .. }))
    })
    .await;
    assert!(o.received.is_some());
    two.stop_receiving().await.unwrap();
    three.stop_receiving().await.unwrap();
    let (second, third) = (now(&two).await, now(&three).await);
    assert!(
        second.upstream.is_none() && second.drained && second.applied == third.applied,
        "{second:?} {third:?}"
    );
    lead(&two).await;
    r.follow(&three, 2, &two).await;
    level(&two, &three).await;
    assert_eq!((r.app(3).keys(), r.app(2).info("sync_partial_ok")), (100, "1".into()));
    // The one that died comes back with nothing, and gets everything.
    one.start().await.unwrap();
    assert!(at(&now(&one).await).is_empty());
    r.follow(&one, 2, &two).await;
    level(&two, &one).await;
    assert_eq!(r.app(1).keys(), 100);
}

async fn who_is_not_admitted_is_cut_and_stays_out(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let (two, _three) = (r.replica(2, 1, &one).await, r.replica(3, 1, &one).await);
    seen(&one, "two replicas", |o| o.ackers.count == 2).await;
    one.admit(&[node(3)].into()).await.unwrap();
    let o = now(&one).await;
    assert_eq!((o.admits, o.ackers_connected), (Some([node(3)].into()), [node(3)].into()));
    let cut = |o: &holdfast_engine::Observation| match o.upstream.as_ref().map(|u| &u.io) {
        Some(ThreadState::Connecting { last_error }) => {
            last_error.as_ref().is_some_and(|e| e.contains("AUTH"))
        }
        _ => false,
    };
    seen(&two, "why it is out", cut).await;
    let mut app = r.app(1);
    app.set(0..1);
    assert_eq!(app.ask(&["WAIT", "2", "1500"]).unwrap().int(), Some(1), "it does not count any more");
    // Admitted again, it goes on by itself.
    one.admit(&all()).await.unwrap();
    level(&one, &two).await;
}

async fn a_replica_that_missed_too_much_is_copied_anew(flavour: Engine) {
    let r = rig(flavour, Sync);
    let mut small = r.spec(1);
    small.engine_options.insert("repl-backlog-size".into(), "16kb".into());
    let one = r.start(small).await;
    lead(&one).await;
    let two = r.replica(2, 1, &one).await;
    let mut app = r.app(1);
    app.set(0..10);
    level(&one, &two).await;
    two.stop_receiving().await.unwrap();
    let behind = at(&now(&two).await);
    let much = "x".repeat(100_000);
    for n in 0..20 {
        app.ask(&["SET", &format!("big{n}"), &much]).unwrap();
    }
    assert!(at(&now(&one).await).contains(&behind), "it is behind, and nothing else");
    r.follow(&two, 1, &one).await;
    let o = level(&one, &two).await;
    assert!(o.applied.unwrap().contains(&behind), "the past is remembered");
    assert_eq!(r.app(2).keys(), 30);
}

async fn a_primary_that_is_silent_is_noticed_in_time(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, &one).await;
    // By questions of its own: the primary itself speaks once a second.
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let silent = now(&two).await.upstream.unwrap().silent_ms.unwrap();
        assert!(silent < 1_500, "{silent}");
    }
    signal(pid(&one), "-STOP");
    let begun = Instant::now();
    seen(&two, "silence", |o| o.upstream.as_ref().unwrap().silent_ms >= Some(700)).await;
    assert!(begun.elapsed() < BOUNDED);
    signal(pid(&one), "-CONT");
    seen(&two, "life", |o| o.upstream.as_ref().unwrap().silent_ms < Some(700)).await;
}

async fn a_primary_that_never_had_a_replica_counts_its_writes(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    let opened = at(&now(&one).await);
    r.app(1).set(0..10);
    let written = at(&now(&one).await);
    assert!(written.missing_in(&opened) > 200, "{opened} {written}");
    assert_eq!(now(&one).await.foreign_replicas, [].into());
    let two = r.up(2).await;
    r.follow(&two, 1, &one).await;
    let o = level(&one, &two).await;
    assert!(o.applied.unwrap().contains(&written) && at(&now(&one).await).contains(&opened));
}

async fn draining_waits_for_acknowledgements_and_holds_writes_back(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, &one).await;
    let (mut app, mut other) = (r.app(1), r.app(1));
    app.send(&["SET", "k", "v"]);
    app.send(&["WAIT", "1", "0"]);
    app.answer().unwrap();
    assert_eq!(app.answer().unwrap().int(), Some(1), "it is sent what is written");
    signal(pid(&two), "-STOP");
    app.send(&["SET", "k", "w"]);
    app.send(&["WAIT", "1", "0"]);
    app.answer().unwrap();
    assert_eq!(one.drain_clients(Duration::from_millis(200)).await.unwrap(), 1);
    other.send(&["SET", "held", "1"]);
    signal(pid(&two), "-CONT");
    assert_eq!(one.drain_clients(PATIENCE).await.unwrap(), 0);
    assert_eq!(app.answer().unwrap().int(), Some(1), "the acknowledgement came");
    assert_eq!(r.app(1).keys(), 1, "nothing was written meanwhile");
    one.close(CLOSE).await.unwrap();
    assert!(other.answer().is_err(), "what was held was not done");
    lead(&one).await;
    assert_eq!(r.app(1).keys(), 1);
}

async fn a_verb_that_does_not_fit_is_refused(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, &one).await;
    assert!(matches!(one.follow(r.addr(2), true).await, Err(Error::Precondition(_))));
    assert!(matches!(two.promote(true, 1).await, Err(Error::Precondition(_))));
    assert!(matches!(two.open().await, Err(Error::Precondition(_))));
    assert!(matches!(one.discard().await, Err(Error::Precondition(_))));
    assert!(one.save_divergence(&at(&now(&two).await)).await.is_err());
    assert!(one.copy_by_stream().is_none());
    // Repeating changes nothing.
    let before = r.app(1).info("master_replid");
    one.open().await.unwrap();
    assert_eq!(r.app(1).info("master_replid"), before);
    r.follow(&two, 1, &one).await;
    level(&one, &two).await;
}
