//! What people ask for.

use crate::scene::{EPOCH, NOW, asynchronous, check, n, sync};
use expect_test::expect;
use holdfast_core::Millis;
use holdfast_core::record::{Acker, ClaimKind, Session, Wish};
use holdfast_core::report::Process;

#[test]
fn a_switchover_goes_to_the_sync_set() {
    let mut s = sync();
    s.record.wish = Some(Wish::Switchover { to: None });
    check(
        &s,
        expect![[r#"
        switchover-wanted: switchover because an operator asked for a switchover from n1 to n2
          epoch 5 claimed (Handover { to: n2 }), ackers [n2 Member], Held
          n1 lets transactions finish, closes, reports its last position
          n2 follows n1
          n3 follows n1
    "#]],
    );
}

#[test]
fn a_switchover_that_cannot_be_done_is_dropped_with_its_reason() {
    let wish = |to: usize| Some(Wish::Switchover { to: Some(n(to)) });
    let mut s = sync();
    s.record.wish = wish(1);
    check(
        &s,
        expect![[r#"
        switchover-wanted: wish because switchover refused: n1 is the primary already
          epoch 4 led by n1, ackers [n2 Member], Held
    "#]],
    );
    let mut s = sync();
    s.silent(2).record.wish = wish(2);
    check(
        &s,
        expect![[r#"
        switchover-wanted: wish because switchover refused: n2 is not reporting
          epoch 4 led by n1, ackers [n2 Member], Held
    "#]],
    );
    let mut s = sync();
    s.record.wish = wish(3);
    s.of(3).seen.upstream.as_mut().unwrap().lag_ms = Some(9_000);
    check(
        &s,
        expect![[r#"
        switchover-wanted: wish because switchover refused: n3 is 9000 ms behind, more than the 2000 ms allowed
          epoch 4 led by n1, ackers [n2 Member], Held
    "#]],
    );
    let mut s = sync();
    s.stream_broken(2).stream_broken(3).record.wish = Some(Wish::Switchover { to: None });
    check(
        &s,
        expect![[r#"
        switchover-wanted: wish because switchover refused: n2 does not follow n1; n3 does not follow n1
          epoch 4 led by n1, ackers [n2 Member], Held
    "#]],
    );
}

#[test]
fn a_handover_ends_when_the_last_write_has_arrived() {
    let mut s = sync();
    s.claimed(ClaimKind::Handover { to: n(2) });
    check(
        &s,
        expect![[r#"
        no-primary: waits, lease-running: n1 may still hold its lease for 2800 ms
        no-primary: waits, yielding: n1 is finishing its transactions
    "#]],
    );
    s.halted(1, "0-1-110");
    check(
        &s,
        expect![[r#"
        no-primary: waits, catching-up: n2 has not applied all of n1 yet (0-1-110)
    "#]],
    );
    s.following(2, "0-1-110");
    check(
        &s,
        expect![[r#"
        no-primary: promote because n2 has everything that n1 wrote
          epoch 5 led by n2, ackers [n1 Joining], Held
          n1 follows n2, joins the sync set
          n2 opens for writes, waiting for acknowledgements
          n3 follows n2
    "#]],
    );
}

#[test]
fn a_handover_that_fails_becomes_a_takeover() {
    let mut s = sync();
    s.claimed(ClaimKind::Handover { to: n(2) }).process(1, Process::Exited { how: "signal 9".into() });
    check(
        &s,
        expect![[r#"
        no-primary: claim because n1 failed while handing over
          epoch 6 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
    let mut s = sync();
    s.claimed(ClaimKind::Handover { to: n(2) }).restarted(1);
    check(
        &s,
        expect![[r#"
        no-primary: claim because n1 restarted while handing over
          epoch 6 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
    let mut s = sync();
    s.claimed(ClaimKind::Handover { to: n(2) }).silent(2).record_since = Millis(NOW.0 - 1_200);
    check(
        &s,
        expect![[r#"
        no-primary: claim because n2 failed before it could take over
          epoch 6 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
    let mut s = sync();
    s.claimed(ClaimKind::Handover { to: n(2) }).record_since = Millis(NOW.0 - 4_100);
    check(
        &s,
        expect![[r#"
        no-primary: claim because the handover took longer than 4000 ms
          epoch 6 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
}

#[test]
fn a_failover_is_done_when_asked_for() {
    let mut s = asynchronous();
    s.record.wish = Some(Wish::Failover { to: Some(n(3)), accept_loss: false });
    check(
        &s,
        expect![[r#"
        failover-wanted: claim because an operator asked for a failover
          epoch 5 claimed (Takeover { to: Some(n3) }), ackers [], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
    s.taken_over();
    check(
        &s,
        expect![[r#"
        failover-wanted: claim because an operator asked for a failover
          epoch 5 claimed (Takeover { to: Some(n3) }), ackers [], Held
    "#]],
    );
}

#[test]
fn a_named_node_comes_next_if_it_has_everything() {
    let mut s = asynchronous();
    s.claimed(ClaimKind::Takeover { to: Some(n(3)) }).halted(1, "0-1-100");
    s.halted(2, "0-1-100").halted(3, "0-1-100");
    check(
        &s,
        expect![[r#"
        no-primary: promote because n3 has everything the others have (at 0-1-100)
          epoch 5 led by n3, ackers [], Held
          n1 follows n3
          n2 follows n3
          n3 opens for writes, waiting for nobody
    "#]],
    );
    s.halted(3, "0-1-99");
    check(
        &s,
        expect![[r#"
        no-primary: promote because n1 has everything the others have (at 0-1-100)
          epoch 5 led by n1, ackers [], Held
          n1 opens for writes, waiting for nobody
          n2 follows n1
          n3 follows n1
    "#]],
    );
}

#[test]
fn a_rebuilt_member_is_let_go() {
    let mut s = asynchronous();
    s.record.reinit.insert(n(3), Session(1));
    check(
        &s,
        expect![[r#"
        healthy
    "#]],
    );
    s.of(3).rebuilt_for = Some(Session(1));
    check(
        &s,
        expect![[r#"
        reinit-done: wish because n3 was rebuilt
          epoch 4 led by n1, ackers [], Held
          n3 follows n1
    "#]],
    );
}

#[test]
fn the_only_acker_is_not_rebuilt_where_writes_would_stop() {
    let mut s = sync();
    s.silent(3).record.reinit.insert(n(2), Session(1));
    check(
        &s,
        expect![[r#"
        acker-lost: wish because rebuild of n2 refused: it is the only replica that acknowledges, writes would stop
          epoch 4 led by n1, ackers [n2 Member], Held
    "#]],
    );
}

#[test]
fn an_acker_to_be_rebuilt_leaves_the_sync_set_first() {
    let mut s = sync();
    s.record.reinit.insert(n(2), Session(1));
    check(
        &s,
        expect![[r#"
            acker-lost: sync-set because n3 stands in for n2, which is to be rebuilt
              epoch 4 led by n1, ackers [n2 Member, n3 Joining], Held
              n3 follows n1, joins the sync set
        "#]],
    );
    s.acker(3, Acker::Member);
    check(
        &s,
        expect![[r#"
            acker-lost: sync-set because n2 is to be rebuilt
              epoch 4 led by n1, ackers [n2 Leaving, n3 Member], Held
              n2 follows n1, leaves the sync set
        "#]],
    );
}

#[test]
fn the_first_opening_is_recorded() {
    let mut s = asynchronous();
    s.record.founded = false;
    check(
        &s,
        expect![[r#"
        founded: bootstrap because n1 is open for the first time
          epoch 4 led by n1, ackers [], Held
          n1 opens for writes, waiting for nobody
    "#]],
    );
    s.of(1).leads = None;
    s.record_since = Millis(NOW.0 - 500);
    check(
        &s,
        expect![[r#"
        primary-opening: waits, opening: n1 is not open for writes yet: preparing
    "#]],
    );
    assert_eq!(s.record.epoch, EPOCH);
}
