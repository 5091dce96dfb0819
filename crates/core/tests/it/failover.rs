//! What has no primary, and what endangers it.

use crate::scene::{EPOCH, NOW, Scene, asynchronous, at, check, n, sync};
use expect_test::expect;
use holdfast_core::record::{Acker, Assurance, ClaimKind, Mode, Session, Stage};
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

// ---- who comes next, under sync ----

#[test]
fn with_all_ackers_halted_the_lease_need_not_run_out() {
    let mut s = sync();
    s.silent(1).taken_over().halted(2, "0-1-101").halted(3, "0-1-99");
    check(
        &s,
        expect![[r#"
        no-primary: promote because n2 has everything the others have (at 0-1-101)
          epoch 5 led by n2, ackers [n3 Joining], Held
          n1 follows n2
          n2 opens for writes, waiting for acknowledgements
          n3 follows n2, joins the sync set
    "#]],
    );
}

#[test]
fn the_lease_is_waited_for_while_an_acker_still_receives() {
    let mut s = sync();
    s.silent(1).taken_over().halted(3, "0-1-99");
    check(
        &s,
        expect![[r#"
        no-primary: waits, lease-running: n1 may still hold its lease for 2800 ms
        no-primary: waits, acker-unknown: n2 may hold acknowledged writes that no one else has, and has not said what it has
          hint: bring n2 back; if those writes may be lost: `holdfast failover --accept-loss`
    "#]],
    );
}

#[test]
fn an_acker_out_of_reach_blocks() {
    let mut s = sync();
    s.silent(1).silent(2).lease_over().taken_over().halted(3, "0-1-100");
    check(
        &s,
        expect![[r#"
        no-primary: waits, acker-unknown: n2 may hold acknowledged writes that no one else has, and has not said what it has
          hint: bring n2 back; if those writes may be lost: `holdfast failover --accept-loss`
    "#]],
    );
}

#[test]
fn an_acker_that_restarted_may_have_forgotten() {
    let mut s = sync();
    s.silent(1).lease_over().taken_over().halted(2, "0-1-90").halted(3, "0-1-90");
    s.of(2).intact = false;
    check(
        &s,
        expect![[r#"
        no-primary: waits, acker-forgot: n2 restarted and may have forgotten writes that it acknowledged and had not applied
          hint: bring the old primary back; if those writes may be lost: `holdfast failover --accept-loss`
    "#]],
    );
}

#[test]
fn a_candidate_applies_what_it_received_first() {
    let mut s = sync();
    s.silent(1).lease_over().taken_over().halted(2, "0-1-100").halted(3, "0-1-100");
    s.of(2).seen.drained = false;
    check(
        &s,
        expect![[r#"
        no-primary: waits, draining: n2 is still applying what it received (S7)
    "#]],
    );
}

#[test]
fn the_old_primary_itself_is_proof_when_the_acker_is_away() {
    let mut s = sync();
    s.restarted(1).silent(2).taken_over().halted(1, "0-1-100").halted(3, "0-1-80");
    s.of(1).session = Session(2);
    check(
        &s,
        expect![[r#"
        no-primary: promote because n1 has everything the others have (at 0-1-100)
          epoch 5 led by n1, ackers [n2 Leaving, n3 Joining], Held
          n1 opens for writes, waiting for acknowledgements
          n2 follows n1, leaves the sync set
          n3 follows n1, joins the sync set
    "#]],
    );
}

#[test]
fn an_emptied_old_primary_proves_nothing() {
    let mut s = sync();
    s.silent(2).taken_over().halted(1, "").halted(3, "0-1-100");
    s.of(1).session = Session(2);
    check(
        &s,
        expect![[r#"
        no-primary: waits, acker-unknown: n2 may hold acknowledged writes that no one else has, and has not said what it has
          hint: bring n2 back; if those writes may be lost: `holdfast failover --accept-loss`
    "#]],
    );
}

#[test]
fn a_joining_acker_behind_the_floor_is_not_promoted() {
    let mut s = sync();
    s.record.floor = Some(at("0-1-95"));
    s.record.ackers.insert(n(2), Acker::Joining);
    s.silent(1).lease_over().taken_over().halted(2, "0-1-90").halted(3, "0-1-100");
    s.record_since = Millis(NOW.0 - 2_000);
    check(
        &s,
        expect![[r#"
        no-primary: waits, no-candidate: no reachable member has every acknowledged write
          hint: bring a member back; if those writes may be lost: `holdfast failover --accept-loss`
    "#]],
    );
}

#[test]
fn degraded_durability_blocks_until_the_old_primary_is_back_or_loss_is_accepted() {
    let mut s = sync();
    s.record.assurance = Assurance::Degraded;
    s.silent(1).lease_over().taken_over().halted(2, "0-1-90").halted(3, "0-1-80");
    check(
        &s,
        expect![[r#"
        no-primary: waits, durability-degraded: writes may exist on n1 alone: durability was degraded when it failed (S5)
          hint: bring n1 back; if those writes may be lost: `holdfast failover --accept-loss`
    "#]],
    );
    s.claim().accept_loss = true;
    check(
        &s,
        expect![[r#"
        no-primary: promote because n2 has everything the others have (at 0-1-90)
          loses at least 10 transactions
          epoch 5 led by n2, ackers [n3 Joining], Held
          n1 follows n2
          n2 opens for writes, waiting for acknowledgements
          n3 follows n2, joins the sync set
    "#]],
    );
}

#[test]
fn two_ackers_that_diverged_are_not_tie_broken() {
    let mut s = sync();
    s.acker(3, Acker::Member);
    s.silent(1).lease_over().taken_over().halted(2, "0-1-101").halted(3, "0-1-100,0-2-1");
    s.record_since = Millis(NOW.0 - 2_000);
    check(
        &s,
        expect![[r#"
        no-primary: waits, no-candidate: no reachable member has every acknowledged write
          hint: bring a member back; if those writes may be lost: `holdfast failover --accept-loss`
    "#]],
    );
}

#[test]
fn who_may_still_acknowledge_stays_recorded_over_a_promotion() {
    let mut s = sync();
    s.silent(2).taken_over().halted(1, "0-1-100").halted(3, "0-1-100");
    check(
        &s,
        expect![[r#"
        no-primary: promote because n1 has everything the others have (at 0-1-100)
          epoch 5 led by n1, ackers [n2 Leaving, n3 Joining], Held
          n1 opens for writes, waiting for acknowledgements
          n2 follows n1, leaves the sync set
          n3 follows n1, joins the sync set
    "#]],
    );
}

// ---- who comes next, under async ----

#[test]
fn async_takes_the_most_advanced_and_counts_the_loss() {
    let mut s = asynchronous();
    s.silent(1).lease_over().taken_over().halted(2, "0-1-90").halted(3, "0-1-95");
    check(
        &s,
        expect![[r#"
        no-primary: promote because n3 has everything the others have (at 0-1-95)
          loses at least 5 transactions
          epoch 5 led by n3, ackers [], Held
          n1 follows n3
          n2 follows n3
          n3 opens for writes, waiting for nobody
    "#]],
    );
}

#[test]
fn async_waits_for_the_lease() {
    let mut s = asynchronous();
    s.silent(1).taken_over().halted(2, "0-1-90").halted(3, "0-1-95");
    check(
        &s,
        expect![[r#"
        no-primary: waits, lease-running: n1 may still hold its lease for 2800 ms
    "#]],
    );
}

#[test]
fn async_divergence_asks_and_a_named_node_answers() {
    let mut s = asynchronous();
    s.lease_over().taken_over().halted(1, "0-1-120").halted(2, "0-1-100,0-2-110").halted(3, "0-1-100");
    check(
        &s,
        expect![[r#"
        no-primary: waits, diverged: n1 (at 0-1-120) and n2 (at 0-1-100,0-2-110) each have writes the other lacks
          hint: look at both, then `holdfast failover --to NODE --accept-loss`; the other's writes are saved when it rejoins
    "#]],
    );
    s.claim().kind = ClaimKind::Takeover { to: Some(n(2)) };
    s.claim().accept_loss = true;
    check(
        &s,
        expect![[r#"
        no-primary: promote because n2 has everything the others have (at 0-2-110)
          loses at least 20 transactions
          epoch 5 led by n2, ackers [], Held
          n1 follows n2
          n2 opens for writes, waiting for nobody
          n3 follows n2
    "#]],
    );
}

#[test]
fn an_emptied_member_is_never_promoted() {
    let mut s = asynchronous();
    s.silent(1).silent(3).lease_over().taken_over().halted(2, "");
    s.record_since = Millis(NOW.0 - 2_000);
    check(
        &s,
        expect![[r#"
            no-primary: waits, no-candidate: no reachable member has data and may be promoted
              hint: bring a member back; if those writes may be lost: `holdfast failover --accept-loss`
        "#]],
    );
}

#[test]
fn another_region_takes_over_only_if_the_policy_says_so() {
    let mut s = asynchronous();
    for node in &mut s.topology.nodes[1..] {
        node.region = "far".parse().unwrap();
    }
    s.silent(1).lease_over().taken_over().halted(2, "0-1-90").halted(3, "0-1-90");
    s.record_since = Millis(NOW.0 - 2_000);
    check(
        &s,
        expect![[r#"
            no-primary: waits, no-candidate: no reachable member has data and may be promoted
              hint: bring a member back; if those writes may be lost: `holdfast failover --accept-loss`
            no-primary: waits, other-region: n2 is in another region; the policy is not to fail over there (S12)
              hint: `holdfast failover --to n2`, or cross_region_failover = true
            no-primary: waits, other-region: n3 is in another region; the policy is not to fail over there (S12)
              hint: `holdfast failover --to n3`, or cross_region_failover = true
        "#]],
    );
    s.service().cross_region_failover = true;
    check(
        &s,
        expect![[r#"
        no-primary: promote because n2 has everything the others have (at 0-1-90)
          loses at least 10 transactions
          epoch 5 led by n2, ackers [], Held
          n1 follows n2
          n2 opens for writes, waiting for nobody
          n3 follows n2
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
