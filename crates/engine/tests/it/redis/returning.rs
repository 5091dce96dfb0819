//! What only a returning instance has is found, counted and kept (S10), and what a process lost is not taken for there
//! (S9).

use super::rig::{CLOSE, at, lead, level, now, pid, rig, seen, signal};
use crate::rig::PATIENCE;
use holdfast_core::topology::Durability::{Async, Sync};
use holdfast_core::topology::Engine;
use holdfast_engine::Engine as _;
use std::process::{Command, Stdio};

on_each! {
    a_tail_is_saved_command_by_command_and_can_be_replayed,
    heartbeats_alone_are_no_loss,
    where_the_log_went_with_the_process_all_data_is_kept,
    a_history_that_nobody_knows_is_kept_whole,
    a_restarted_replica_says_what_it_still_has,
    a_mark_ends_with_a_process_that_does_not_keep_its_data,
    a_copy_that_breaks_off_leaves_the_old_data,
}

/// The second takes over from a first that lives on and writes.
async fn split(
    r: &super::rig::Rig,
    tail: impl FnOnce(&mut super::rig::Client),
) -> (holdfast_engine::redis::RedisEngine, holdfast_engine::redis::RedisEngine) {
    let one = r.primary(1).await;
    let two = r.replica(2, 1, &one).await;
    let mut app = r.app(1);
    app.set(0..10);
    level(&one, &two).await;
    two.stop_receiving().await.unwrap();
    lead(&two).await;
    tail(&mut app);
    one.close(CLOSE).await.unwrap();
    (one, two)
}

async fn a_tail_is_saved_command_by_command_and_can_be_replayed(flavour: Engine) {
    let r = rig(flavour, Async);
    let (one, two) = split(&r, |app| {
        app.ask(&["SET", "only", "here"]).unwrap();
        app.ask(&["RPUSH", "list", "a", "b\r\nc"]).unwrap();
        app.ask(&["MULTI"]).unwrap();
        app.ask(&["INCR", "n"]).unwrap();
        app.ask(&["EXEC"]).unwrap();
        app.ask(&["SELECT", "3"]).unwrap();
        app.ask(&["SET", "elsewhere", "1"]).unwrap();
    })
    .await;
    r.app(2).set(10..20);
    let theirs = at(&now(&two).await);
    assert!(!theirs.contains(&at(&now(&one).await)));
    let saved = one.save_divergence(&theirs).await.unwrap().unwrap();
    assert_eq!((saved.transactions, saved.unit, saved.complete), (4, "commands", true), "{saved:?}");
    assert_eq!(saved.ids, ["SET only", "RPUSH list", "INCR n", "SET elsewhere"]);
    let o = now(&one).await;
    assert!(!o.writable && o.upstream.is_none(), "{o:?}");
    // Thrown away, it is as if new, and gets all by following.
    one.discard().await.unwrap();
    assert!(at(&now(&one).await).is_empty());
    r.follow(&one, 2, &two).await;
    level(&two, &one).await;
    assert_eq!(r.app(1).keys(), 20);
    // What was saved can be had back.
    let replayed = Command::new("redis-cli")
        .args(["-p", &r.ports[1].to_string(), "--user", "app", "--pass", "app's \"\\secret", "--pipe"])
        .stdin(Stdio::from(std::fs::File::open(&saved.path).unwrap()))
        .output()
        .unwrap();
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stdout));
    let mut app = r.app(2);
    assert_eq!(
        (app.text(&["GET", "only"]), app.text(&["LINDEX", "list", "1"])),
        ("here".into(), "b\r\nc".into())
    );
    app.ask(&["SELECT", "3"]).unwrap();
    assert_eq!(app.text(&["GET", "elsewhere"]), "1");
}

async fn heartbeats_alone_are_no_loss(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    let (two, three) = (r.replica(2, 1, &one).await, r.replica(3, 1, &one).await);
    r.app(1).set(0..10);
    level(&one, &two).await;
    two.stop_receiving().await.unwrap();
    let cut = at(&now(&two).await);
    lead(&two).await;
    // The third goes on hearing them.
    let later = |o: &holdfast_engine::Observation| o.applied.as_ref().is_some_and(|p| p.missing_in(&cut) > 0);
    seen(&three, "a heartbeat", later).await;
    one.close(CLOSE).await.unwrap();
    let theirs = at(&now(&two).await);
    let saved = one.save_divergence(&theirs).await.unwrap().unwrap();
    assert_eq!((saved.transactions, saved.complete), (0, true), "{saved:?}");
    three.stop_receiving().await.unwrap();
    let saved = three.save_divergence(&theirs).await.unwrap().unwrap();
    assert_eq!(
        (saved.transactions, saved.complete),
        (0, true),
        "a replica keeps a log of its own: {saved:?}"
    );
    assert!(three.save_divergence(&at(&now(&three).await)).await.unwrap().is_none());
}

async fn where_the_log_went_with_the_process_all_data_is_kept(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.start(r.keeping(1)).await;
    lead(&one).await;
    let two = r.replica(2, 1, &one).await;
    r.app(1).set(0..10);
    level(&one, &two).await;
    two.stop_receiving().await.unwrap();
    lead(&two).await;
    r.app(1).set(10..13);
    // It writes its data to the disk when it is asked to end.
    one.close(CLOSE).await.unwrap();
    one.stop(PATIENCE).await.unwrap();
    one.start().await.unwrap();
    let theirs = at(&now(&two).await);
    one.learn(&theirs, r.addr(2)).await.unwrap();
    assert!(!theirs.contains(&at(&now(&one).await)));
    let saved = one.save_divergence(&theirs).await.unwrap().unwrap();
    assert!(saved.complete && saved.path.extension().unwrap() == "rdb", "{saved:?}");
    assert_eq!((saved.transactions, saved.unit), (3, "keys"), "{saved:?}");
    assert_eq!(&std::fs::read(&saved.path).unwrap()[..5], b"REDIS");
}

async fn a_history_that_nobody_knows_is_kept_whole(flavour: Engine) {
    let r = rig(flavour, Async);
    let (one, two) = (r.primary(1).await, r.primary(2).await);
    r.app(1).set(0..5);
    r.app(2).set(3..9);
    one.close(CLOSE).await.unwrap();
    one.learn(&at(&now(&two).await), r.addr(2)).await.unwrap();
    let (ours, theirs) = (at(&now(&one).await), at(&now(&two).await));
    assert_eq!(ours.partial_cmp(&theirs), None, "never compared by offset");
    let saved = one.save_divergence(&theirs).await.unwrap().unwrap();
    assert_eq!((saved.transactions, saved.unit, saved.complete), (3, "keys", true), "{saved:?}");
}

async fn a_restarted_replica_says_what_it_still_has(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let two = r.start(r.keeping(2)).await;
    r.follow(&two, 1, &one).await;
    level(&one, &two).await;
    r.app(1).set(0..10);
    level(&one, &two).await;
    let had = at(&now(&two).await);
    two.stop(PATIENCE).await.unwrap();
    two.start().await.unwrap();
    let back = now(&two).await;
    assert!(at(&back).contains(&had) && back.upstream.is_none() && !back.retained, "{back:?}");
    r.follow(&two, 1, &one).await;
    level(&one, &two).await;
    assert_eq!(r.app(1).info("sync_partial_ok"), "1", "from where it was");
    // A crash leaves what was on the disk, and its place is told as that.
    let had = at(&now(&two).await);
    r.app(1).set(10..20);
    level(&one, &two).await;
    signal(pid(&two), "-KILL");
    seen_ended(&two).await;
    two.start().await.unwrap();
    let back = at(&now(&two).await);
    assert!(!back.contains(&at(&now(&one).await)) && at(&now(&one).await).contains(&back));
    assert!(had.contains(&back) || back.contains(&had));
}

async fn seen_ended(engine: &holdfast_engine::redis::RedisEngine) {
    let mut exits = engine.exits();
    let ended = exits.wait_for(|s| !matches!(s, holdfast_engine::ProcessState::Running { .. }));
    tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap();
}

/// A crash takes what was in memory. Who ends in order writes its data first, if it is told to keep any.
async fn a_mark_ends_with_a_process_that_does_not_keep_its_data(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.start(r.keeping(1)).await;
    lead(&one).await;
    let two = r.start(r.spec(2)).await;
    r.follow(&two, 1, &one).await;
    r.app(1).set(0..10);
    let had = at(&level(&one, &two).await);
    for engine in [&one, &two] {
        engine.mark_intact().await.unwrap();
        assert!(now(engine).await.retained);
    }
    two.stop(PATIENCE).await.unwrap();
    two.start().await.unwrap();
    assert!(!now(&two).await.retained, "it keeps nothing");
    for _ in 0..2 {
        one.stop(PATIENCE).await.unwrap();
        one.start().await.unwrap();
        let back = now(&one).await;
        assert!(back.retained && at(&back).contains(&had), "{back:?}");
    }
    // What was said of an earlier one says nothing of one that crashed, whatever it wrote.
    lead(&one).await;
    r.app(1).set(10..20);
    signal(pid(&one), "-KILL");
    seen_ended(&one).await;
    one.start().await.unwrap();
    assert!(!now(&one).await.retained);
    // Nor of one that was given other data.
    one.mark_intact().await.unwrap();
    one.stop(PATIENCE).await.unwrap();
    std::fs::remove_file(r.root(1).join("data/dump.rdb")).unwrap();
    one.start().await.unwrap();
    assert!(!now(&one).await.retained);
}

/// Its primary dies in the middle of the copy.
async fn a_copy_that_breaks_off_leaves_the_old_data(flavour: Engine) {
    let r = rig(flavour, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, &one).await;
    r.app(1).set(0..10);
    level(&one, &two).await;
    let had = at(&now(&two).await);
    let three = r
        .start({
            let mut slow = r.spec(3);
            slow.engine_options.insert("rdb-key-save-delay".into(), "2000".into());
            slow
        })
        .await;
    lead(&three).await;
    r.app(3).set(0..2_000);
    two.stop_receiving().await.unwrap();
    two.follow(r.addr(3), true).await.unwrap();
    let copying = |o: &holdfast_engine::Observation| {
        o.upstream.as_ref().is_some_and(|u| matches!(u.io, holdfast_engine::ThreadState::Copying { .. }))
    };
    let o = seen(&two, "the copy", copying).await;
    assert!(o.received.as_ref() == Some(&had), "the old data is there until the new is: {o:?}");
    signal(pid(&three), "-KILL");
    two.stop_receiving().await.unwrap();
    let o = now(&two).await;
    assert!(o.applied == Some(had) && o.upstream.is_none(), "{o:?}");
    assert_eq!(r.app(2).keys(), 10);
    // One that had nothing says so.
    drop(three);
    let four = r.up(3).await;
    assert!(at(&now(&four).await).is_empty());
}
