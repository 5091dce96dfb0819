//! What has no primary, and what endangers it.

use crate::scene::{EPOCH, NOW, Scene, asynchronous, check, n, sync};
use expect_test::expect;
use holdfast_core::record::{Assurance, Mode, Stage};
use holdfast_core::report::Process;
use holdfast_core::{Epoch, Millis, Seen, limits};

fn exited() -> Process {
    Process::Exited { how: "signal 9".into() }
}

#[test]
fn nothing_to_do() {
    check(
        &sync(),
        expect![[r#"
        healthy
    "#]],
    );
    check(
        &asynchronous(),
        expect![[r#"
        healthy
    "#]],
    );
}

// ---- a group's beginning ----

fn new_group() -> Scene {
    let mut s = sync();
    (s.record.stage, s.record.epoch, s.record.plan) = (Stage::New, Epoch(0), 0);
    (s.record.ackers, s.record.assurance, s.record.founded) =
        (Default::default(), Assurance::Degraded, false);
    for node in 1..=3 {
        s.halted(node, "");
    }
    s
}

#[test]
fn an_empty_group_begins_with_the_first_member() {
    check(
        &new_group(),
        expect![[r#"
        new-group: bootstrap because new group; n1 comes first and all members are empty
          epoch 1 led by n1, ackers [], Degraded
          n1 opens for writes, waiting for nobody
          n2 follows n1
          n3 follows n1
    "#]],
    );
}

#[test]
fn a_new_group_begins_with_the_data_there_is() {
    let mut s = new_group();
    s.halted(3, "0-7-12");
    check(
        &s,
        expect![[r#"
        new-group: bootstrap because new group; n3 comes first and it has all data there is
          epoch 1 led by n3, ackers [], Degraded
          n1 follows n3
          n2 follows n3
          n3 opens for writes, waiting for nobody
    "#]],
    );
}

#[test]
fn a_new_group_with_two_histories_asks() {
    let mut s = new_group();
    s.halted(2, "0-8-3").halted(3, "0-7-12");
    check(
        &s,
        expect![[r#"
        new-group: waits, diverged: members hold data of different histories
          hint: empty the data directories of all but the one to keep
    "#]],
    );
}

#[test]
fn a_new_group_waits_for_whoever_may_hold_data() {
    let mut s = new_group();
    s.members.insert(n(2), Seen::Never);
    check(
        &s,
        expect![[r#"
        new-group: waits, not-seen: n2 has not reported; it may hold data
          hint: start `holdfast run` on n2, or take it out of the topology
    "#]],
    );
}

// ---- signs of a failing primary ----

#[test]
fn a_primary_whose_process_ended_is_replaced_at_once_even_in_a_cool_down() {
    let mut s = sync();
    s.process(1, exited()).cool_down_until = Some(NOW.plus(30_000));
    check(
        &s,
        expect![[r#"
        primary-exited: claim because n1's engine ended: signal 9
          epoch 5 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
}

#[test]
fn a_restarted_agent_does_not_go_on() {
    let mut s = sync();
    s.restarted(1);
    check(
        &s,
        expect![[r#"
        primary-restarted: claim because the agent of n1 was restarted
          epoch 5 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
}

#[test]
fn an_engine_that_does_not_answer_is_replaced() {
    let mut s = sync();
    s.process(1, Process::Unresponsive);
    s.of(1).leads = Some(EPOCH);
    check(
        &s,
        expect![[r#"
        primary-stuck: claim because n1's engine does not answer
          epoch 5 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
}

#[test]
fn a_primary_that_closed_for_its_lease_is_replaced_at_once() {
    let mut s = sync();
    s.of(1).leads = None;
    s.of(1).gave_up = Some(EPOCH);
    s.of(1).seen.writable = false;
    s.cool_down_until = Some(NOW.plus(30_000));
    check(
        &s,
        expect![[r#"
        primary-stuck: claim because n1 closed at the end of its lease and may not open again
          epoch 5 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
}

#[test]
fn a_primary_that_does_not_open_is_given_up_in_the_end() {
    let mut s = sync();
    s.of(1).leads = None;
    s.of(1).trouble = Some("disk full".into());
    check(
        &s,
        expect![[r#"
        primary-stuck: claim because n1 did not open within 15000 ms: disk full
          epoch 5 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
    s.record_since = Millis(NOW.0 - 5_000);
    check(
        &s,
        expect![[r#"
        primary-opening: waits, opening: n1 is not open for writes yet: disk full
    "#]],
    );
}

#[test]
fn a_silent_primary_that_a_replica_still_hears_is_not_dead() {
    let mut s = sync();
    s.silent(1).stream_broken(2);
    check(
        &s,
        expect![[r#"
        primary-silent: waits, primary-silent: n1 is silent but a replica still receives from it; its lease ends in 2800 ms
    "#]],
    );
    s.lease_over();
    check(
        &s,
        expect![[r#"
        primary-unled: claim because the agent of n1 is silent and its lease has run out
          epoch 5 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
}

#[test]
fn a_replica_whose_engine_does_not_answer_hears_nobody() {
    let mut s = sync();
    s.silent(1).stream_broken(2);
    s.of(3).taken = Millis(s.of(3).seen.at.0 + limits::STREAM_SILENT_AFTER_MS);
    check(
        &s,
        expect![[r#"
            primary-lost: claim because n1 is silent and no reachable replica receives from it
              epoch 5 claimed (Takeover { to: None }), ackers [n2 Member], Held
              n1 closes, stops receiving, applies what it has
              n2 closes, stops receiving, applies what it has
              n3 closes, stops receiving, applies what it has
        "#]],
    );
}

#[test]
fn a_silent_primary_that_nobody_hears_is_dead() {
    let mut s = sync();
    s.silent(1).stream_broken(2).stream_broken(3);
    check(
        &s,
        expect![[r#"
        primary-lost: claim because n1 is silent and no reachable replica receives from it
          epoch 5 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
}

#[test]
fn no_failover_in_the_cool_down_while_paused_or_when_everything_fails() {
    let lost = || {
        let mut s = sync();
        s.silent(1).stream_broken(2).stream_broken(3);
        s
    };
    let mut s = lost();
    s.cool_down_until = Some(NOW.plus(30_000));
    check(
        &s,
        expect![[r#"
        primary-lost: waits, cool-down: n1 is silent and no reachable replica receives from it; the last takeover was too recent: 30000 ms left (S12)
          hint: `holdfast failover` does it now
    "#]],
    );
    let mut s = lost();
    s.record.mode = Mode::Paused;
    check(
        &s,
        expect![[r#"
        primary-lost: waits, paused: n1 is silent and no reachable replica receives from it; automatic failover is paused
          hint: `holdfast resume`, or `holdfast failover`
    "#]],
    );
    let mut s = lost();
    (s.groups_failing, s.groups) = (5, 8);
    check(
        &s,
        expect![[r#"
        primary-lost: waits, mass-failure: 5 of 8 groups lost their primary at once: no automatic failover (S12)
          hint: check the network first; `holdfast failover SERVICE` for one group
    "#]],
    );
}

#[test]
fn a_cool_down_that_is_over_leaves_the_record() {
    let mut s = sync();
    s.record.last_takeover = Some(EPOCH);
    s.cool_down_until = Some(NOW.plus(1));
    check(
        &s,
        expect![[r#"
        healthy
    "#]],
    );
    s.cool_down_until = Some(NOW);
    check(
        &s,
        expect![[r#"
        cooled-down: wish because the cool-down after the last takeover is over
          epoch 4 led by n1, ackers [n2 Member], Held
    "#]],
    );
}

// ---- a full disk ----

#[test]
fn a_full_disk_is_left_for_one_with_room() {
    let mut s = sync();
    s.of(1).seen.free_disk_bytes = Some(1 << 20);
    s.of(2).seen.free_disk_bytes = Some(1 << 30);
    check(
        &s,
        expect![[r#"
        primary-full: claim because the disk of n1 is full: 1024 KiB are left
          epoch 5 claimed (Takeover { to: None }), ackers [n2 Member], Held
          n1 closes, stops receiving, applies what it has
          n2 closes, stops receiving, applies what it has
          n3 closes, stops receiving, applies what it has
    "#]],
    );
}

#[test]
fn a_full_primary_hands_over_where_only_it_is_certain_to_have_everything() {
    let mut s = sync();
    s.of(1).seen.free_disk_bytes = Some(1 << 20);
    s.of(2).seen.process = Process::Unresponsive;
    s.of(3).seen.free_disk_bytes = Some(1 << 30);
    check(
        &s,
        expect![[r#"
        primary-full: switchover because the disk of n1 is full: 1024 KiB are left; it hands over to n3, since n2 does not say what it has
          epoch 5 claimed (Handover { to: n3 }), ackers [n2 Member], Held
          n1 lets transactions finish, closes, reports its last position
          n2 follows n1
          n3 follows n1
    "#]],
    );
    s.record.mode = Mode::Paused;
    check(
        &s,
        expect![[r#"
        primary-full: waits, paused: the disk of n1 is full: 1024 KiB are left; it hands over to n3, since n2 does not say what it has; automatic failover is paused
          hint: `holdfast resume`, or `holdfast failover`
    "#]],
    );
}

#[test]
fn a_full_disk_is_no_better_elsewhere() {
    let mut s = sync();
    for node in 1..=3 {
        s.of(node).seen.free_disk_bytes = Some(1 << 20);
    }
    check(
        &s,
        expect![[r#"
        primary-full: waits, disk-full: the disk of n1 is full: 1024 KiB are left, and no replica has more than 64 MiB
          hint: make room; commits that wait for it go on by themselves
    "#]],
    );
}
