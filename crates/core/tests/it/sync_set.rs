//! The recorded sync set is true at every moment (S5).

use crate::scene::{EPOCH, NOW, Scene, at, check, n, sync};
use expect_test::expect;
use holdfast_core::Millis;
use holdfast_core::record::{Acker, Assurance};
use holdfast_core::report::Process;
use holdfast_core::topology::WhenNoSyncReplica;

fn unrecorded() -> Scene {
    let mut s = sync();
    s.record.ackers.clear();
    s.of(2).seen.acknowledges = false;
    s.of(1).seen.ackers.clear();
    s
}

#[test]
fn a_follower_joins_before_it_is_counted() {
    let mut s = unrecorded();
    check(
        &s,
        expect![[r#"
        sync-set-small: sync-set because n2 follows and can acknowledge
          epoch 4 led by n1, ackers [n2 Joining], Held
          n2 follows n1, joins the sync set
    "#]],
    );
    s.acker(3, Acker::Joining);
    check(
        &s,
        expect![[r#"
        acker-ready: sync-set because n3 acknowledges and is caught up
          epoch 4 led by n1, ackers [n3 Member], Held
    "#]],
    );
    s.of(3).seen.received = Some(crate::scene::at("0-1-99"));
    check(
        &s,
        expect![[r#"
            short-of-ackers: waits, writes-wait: no replica acknowledges: writes wait until one does
              hint: bring a replica back; `when_no_sync_replica = "degrade"` would go on without
        "#]],
    );
}

#[test]
fn a_stand_in_joins_for_an_acker_that_is_lost() {
    let mut s = sync();
    s.stream_broken(2);
    check(
        &s,
        expect![[r#"
        acker-lost: sync-set because n3 stands in for n2, which does not follow
          epoch 4 led by n1, ackers [n2 Member, n3 Joining], Held
          n3 follows n1, joins the sync set
    "#]],
    );
    s.acker(3, Acker::Member);
    check(
        &s,
        expect![[r#"
        acker-lost: sync-set because n2 does not follow
          epoch 4 led by n1, ackers [n2 Leaving, n3 Member], Held
          n2 follows n1, leaves the sync set
    "#]],
    );
}

#[test]
fn a_new_connection_is_no_loss() {
    let mut s = sync();
    s.stream_broken(2).unwell_since.insert(n(2), Millis(NOW.0 - 200));
    check(
        &s,
        expect![[r#"
            short-of-ackers: waits, writes-wait: no replica acknowledges: writes wait until one does
              hint: bring a replica back; `when_no_sync_replica = "degrade"` would go on without
        "#]],
    );
}

fn leaving() -> Scene {
    let mut s = sync();
    s.acker(3, Acker::Member).record.ackers.insert(n(2), Acker::Leaving);
    s
}

#[test]
fn who_leaves_is_forgotten_only_when_it_cannot_acknowledge_any_more() {
    let mut s = leaving();
    check(
        &s,
        expect![[r#"
        healthy
    "#]],
    );
    s.disconnected(2, 300);
    check(
        &s,
        expect![[r#"
        healthy
    "#]],
    );
    s.of(2).seen.acknowledges = false;
    check(
        &s,
        expect![[r#"
        acker-gone: sync-set because n2 can no longer acknowledge
          epoch 4 led by n1, ackers [n3 Member], Held
    "#]],
    );
    s.of(2).held = 8;
    check(
        &s,
        expect![[r#"
        healthy
    "#]],
    );
}

#[test]
fn an_engine_that_does_not_answer_has_not_said_that_it_stopped() {
    let mut s = leaving();
    s.disconnected(2, 300).process(2, Process::Unresponsive);
    check(
        &s,
        expect![[r#"
            member-away: waits, member-not-following: n2 does not follow n1
        "#]],
    );
    // Stopped, it does not give up: when it goes on, it acknowledges as before (simulator, seed 2473).
    s.disconnected(2, 60_000);
    check(
        &s,
        expect![[r#"
            member-away: waits, member-not-following: n2 does not follow n1
        "#]],
    );
    s.disconnected(2, 10_000).silent(2);
    check(
        &s,
        expect![[r#"
            acker-gone: sync-set because n2 can no longer acknowledge
              epoch 4 led by n1, ackers [n3 Member], Held
        "#]],
    );
}

#[test]
fn what_it_acknowledged_must_be_elsewhere() {
    let mut s = leaving();
    s.disconnected(2, 300).of(2).seen.acknowledges = false;
    s.of(3).seen.received = Some(crate::scene::at("0-1-99"));
    check(
        &s,
        expect![[r#"
        healthy
    "#]],
    );
    // Later writes are none of its own.
    s.absent_had.insert(n(2), at("0-1-99"));
    assert!(s.decides().starts_with("acker-gone: sync-set because n2 can no longer"), "{}", s.decides());
}

#[test]
fn the_last_one_may_leave_but_leaves_a_mark() {
    let mut s = sync();
    s.record.ackers.insert(n(2), Acker::Leaving);
    s.silent(3).disconnected(2, 300).of(2).seen.acknowledges = false;
    check(
        &s,
        expect![[r#"
        acker-gone: sync-set because n2 can no longer acknowledge
          epoch 4 led by n1, ackers [], Held
    "#]],
    );
}

#[test]
fn whoever_acknowledges_is_recorded() {
    let mut s = sync();
    s.connected(3);
    check(
        &s,
        expect![[r#"
        acker-unrecorded: sync-set because n3 acknowledges without being in the sync set
          epoch 4 led by n1, ackers [n2 Member, n3 Leaving], Held
    "#]],
    );
}

#[test]
fn a_stand_in_is_let_go_when_enough_are_back() {
    let mut s = sync();
    s.acker(3, Acker::Member);
    check(
        &s,
        expect![[r#"
            sync-set-large: sync-set because enough replicas acknowledge without n3
              epoch 4 led by n1, ackers [n2 Member, n3 Leaving], Held
              n3 follows n1, leaves the sync set
        "#]],
    );
}

#[test]
fn without_any_acker_the_policy_decides() {
    let mut s = sync();
    s.silent(3).silent(2).disconnected(2, 3_000);
    check(
        &s,
        expect![[r#"
            short-of-ackers: waits, writes-wait: no replica acknowledges: writes wait until one does
              hint: bring a replica back; `when_no_sync_replica = "degrade"` would go on without
        "#]],
    );
    s.service().when_no_sync_replica = WhenNoSyncReplica::Degrade;
    check(
        &s,
        expect![[r#"
        acker-lost: degrade because no replica is left that could acknowledge, and the policy is to go on without (S5)
          epoch 4 led by n1, ackers [n2 Leaving], Degraded
          n1 opens for writes, waiting for nobody
          n2 follows n1, leaves the sync set
    "#]],
    );
}

#[test]
fn an_acker_without_room_acknowledges_nothing() {
    let mut s = sync();
    s.of(2).seen.free_disk_bytes = Some(1 << 20);
    s.unwell_since.insert(n(2), Millis(NOW.0 - holdfast_core::limits::DEGRADE_AFTER_MS));
    check(
        &s,
        expect![[r#"
        acker-lost: sync-set because n3 stands in for n2, which does not follow
          epoch 4 led by n1, ackers [n2 Member, n3 Joining], Held
          n3 follows n1, joins the sync set
    "#]],
    );
    // Nor does the stand-in: both are connected, as the primary sees them.
    s.service().when_no_sync_replica = WhenNoSyncReplica::Degrade;
    s.of(3).seen.free_disk_bytes = Some(1 << 20);
    s.unwell_since.insert(n(3), Millis(NOW.0 - holdfast_core::limits::DEGRADE_AFTER_MS));
    check(
        &s,
        expect![[r#"
        acker-lost: degrade because no replica is left that could acknowledge, and the policy is to go on without (S5)
          epoch 4 led by n1, ackers [n2 Leaving], Degraded
          n1 opens for writes, waiting for nobody
          n2 follows n1, leaves the sync set
    "#]],
    );
}

#[test]
fn the_way_back_from_degraded() {
    let mut s = unrecorded();
    s.record.assurance = Assurance::Degraded;
    s.of(1).seen.waits_for_ack = false;
    check(
        &s,
        expect![[r#"
        sync-set-small: sync-set because n2 follows and can acknowledge
          epoch 4 led by n1, ackers [n2 Joining], Degraded
          n2 follows n1, joins the sync set
    "#]],
    );
    s.acker(2, Acker::Joining);
    check(
        &s,
        expect![[r#"
        degraded: restore because n2 is caught up and acknowledges: writes wait for it again
          epoch 4 led by n1, ackers [n2 Joining], Restoring
          n1 opens for writes, waiting for acknowledgements
    "#]],
    );
    s.record.assurance = Assurance::Restoring;
    check(
        &s,
        expect![[r#"
            short-of-ackers: waits, degraded: writes do not wait for a replica: a failure of the primary can lose them (S5)
              hint: bring a replica back
        "#]],
    );
    s.of(1).seen.waits_for_ack = true;
    s.of(1).held = 8;
    check(
        &s,
        expect![[r#"
            short-of-ackers: waits, degraded: writes do not wait for a replica: a failure of the primary can lose them (S5)
              hint: bring a replica back
        "#]],
    );
    s.of(1).held = 9;
    check(
        &s,
        expect![[r#"
        degraded: restore because n2 has everything that was written meanwhile
          epoch 4 led by n1, ackers [n2 Member], Held
    "#]],
    );
    assert_eq!(s.record.epoch, EPOCH);
}

/// The primary writes on without waiting: it is at 200 now. n2 acknowledges and has 150.
fn degraded_under_load() -> Scene {
    let mut s = unrecorded();
    s.acker(2, Acker::Joining);
    s.record.assurance = Assurance::Degraded;
    s.record_since = Millis(NOW.0 - 1_500);
    s.of(1).seen.waits_for_ack = false;
    s.of(1).seen.applied = Some(at("0-1-200"));
    s.of(2).seen.received = Some(at("0-1-150"));
    s
}

/// Under load nobody has all that the primary has now. What it had a moment ago is enough to wait again, and not to promise.
#[test]
fn the_way_back_from_degraded_under_load() {
    let mut s = degraded_under_load();
    assert!(s.decides().starts_with("short-of-ackers"));
    s.primary_had = Some(at("0-1-160"));
    assert!(s.decides().starts_with("short-of-ackers"));
    s.primary_had = Some(at("0-1-150"));
    assert!(s.decides().starts_with("degraded: restore because n2 is caught up"), "{}", s.decides());
    s.record.assurance = Assurance::Restoring;
    (s.of(1).seen.waits_for_ack, s.of(1).held) = (true, 9);
    assert!(s.decides().starts_with("short-of-ackers"));
    s.of(2).seen.received = Some(at("0-1-200"));
    assert!(s.decides().starts_with("degraded: restore because n2 has everything"), "{}", s.decides());
    // Two reports of the same moment never say that it has all. What counts is what was written before writes waited again.
    s.of(2).seen.received = Some(at("0-1-190"));
    assert!(s.decides().starts_with("short-of-ackers"));
    s.primary_waited = Some(at("0-1-190"));
    assert!(s.decides().starts_with("degraded: restore because n2 has everything"), "{}", s.decides());
}

/// Who acknowledges syncs what it receives, and may be slower than a primary that does not wait.
#[test]
fn who_falls_behind_while_it_acknowledges_catches_up_first() {
    let mut s = degraded_under_load();
    s.primary_had = Some(at("0-1-160"));
    s.primary_had_lately = Some(at("0-1-180"));
    s.record_since = Millis(NOW.0 - 2_000);
    check(
        &s,
        expect![[r#"
            degraded: sync-set because n2 falls behind while it acknowledges: it catches up first
              epoch 4 led by n1, ackers [n2 Leaving], Degraded
              n2 follows n1, leaves the sync set
        "#]],
    );
    // It joins when it is close behind, and not at once again.
    s.record.ackers.clear();
    s.of(1).seen.ackers.clear();
    s.of(2).seen.acknowledges = false;
    assert!(s.decides().starts_with("short-of-ackers"), "{}", s.decides());
    s.of(2).seen.received = Some(at("0-1-180"));
    assert!(s.decides().starts_with("sync-set-small: sync-set because n2 follows"), "{}", s.decides());
    s.sent_back.insert(n(2), Millis(NOW.0 - 29_000));
    assert!(s.decides().starts_with("short-of-ackers"), "{}", s.decides());
    s.sent_back.insert(n(2), Millis(NOW.0 - 30_000));
    assert!(s.decides().starts_with("sync-set-small: sync-set because n2 follows"), "{}", s.decides());
}

/// The rest of the backlog holds writes up for a bounded time.
#[test]
fn writes_do_not_wait_for_a_slow_replica_on_the_way_back() {
    let mut s = degraded_under_load();
    s.service().when_no_sync_replica = WhenNoSyncReplica::Degrade;
    s.record.assurance = Assurance::Restoring;
    (s.of(1).seen.waits_for_ack, s.of(1).held) = (true, 9);
    s.record_since = Millis(NOW.0 - 2_900);
    assert!(s.decides().starts_with("short-of-ackers"), "{}", s.decides());
    s.record_since = Millis(NOW.0 - 3_000);
    check(
        &s,
        expect![[r#"
            degraded: degrade because no replica caught up in 3000 ms of waiting writes (S5)
              epoch 4 led by n1, ackers [n2 Leaving], Degraded
              n1 opens for writes, waiting for nobody
              n2 follows n1, leaves the sync set
        "#]],
    );
    s.service().when_no_sync_replica = WhenNoSyncReplica::Block;
    assert!(s.decides().starts_with("short-of-ackers"), "{}", s.decides());
}

/// While durability holds, one that joins may lag for good behind others that are as slow: it catches up first as well.
#[test]
fn who_joins_others_and_lags_catches_up_first() {
    let mut s = sync();
    s.acker(3, Acker::Joining);
    s.of(1).seen.applied = Some(at("0-1-200"));
    s.of(3).seen.received = Some(at("0-1-150"));
    s.primary_had = Some(at("0-1-150"));
    assert!(s.decides().starts_with("acker-ready: sync-set because n3 acknowledges"), "{}", s.decides());
    s.primary_had = Some(at("0-1-160"));
    let says = s.decides();
    assert!(
        says.starts_with("acker-ready: sync-set because n3 falls behind while it acknowledges"),
        "{says}"
    );
    s.record_since = Millis(NOW.0 - 1_900);
    assert!(!s.decides().contains("falls behind"), "it has only just joined: {}", s.decides());
    s.record_since = Millis(NOW.0 - 2_000);
    s.record.ackers.remove(&n(2));
    assert!(!s.decides().contains("falls behind"), "writes wait for it alone: {}", s.decides());
}

/// What the leaving one acknowledged on the way back is promised as soon as durability holds.
#[test]
fn on_the_way_back_as_well_what_it_acknowledged_must_be_elsewhere() {
    let mut s = leaving();
    s.record.assurance = Assurance::Restoring;
    s.acker(3, Acker::Joining);
    s.disconnected(2, 300).of(2).seen.acknowledges = false;
    (s.of(1).seen.waits_for_ack, s.of(1).held) = (true, 9);
    s.of(3).seen.received = Some(at("0-1-99"));
    assert!(!s.decides().starts_with("acker-gone"), "{}", s.decides());
    s.primary_waited = Some(at("0-1-99"));
    assert!(s.decides().starts_with("degraded: restore because n3 has everything"), "{}", s.decides());
}
