//! Who is promoted once the primary is given up, and what is missing to say so.

use crate::scene::{NOW, asynchronous, at, check, n, sync};
use expect_test::expect;
use holdfast_core::record::{Acker, Assurance, ClaimKind, Session};
use holdfast_core::report::Process;
use holdfast_core::{Millis, limits};

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
fn a_full_primary_that_closed_in_order_is_left_all_the_same() {
    let mut s = sync();
    s.taken_over().halted(1, "0-1-103").halted(2, "0-1-101").halted(3, "0-1-99");
    s.of(1).seen.free_disk_bytes = Some(1 << 20);
    check(
        &s,
        expect![[r#"
            no-primary: promote because n2 has everything the others have (at 0-1-101); 2 transactions of the old primary that were acknowledged to nobody are left behind
              epoch 5 led by n2, ackers [n3 Joining], Held
              n1 follows n2
              n2 opens for writes, waiting for acknowledgements
              n3 follows n2, joins the sync set
        "#]],
    );
    // What came free when its clients were cut is no room.
    s.of(1).seen.free_disk_bytes = Some(16 << 20);
    s.of(2).seen.free_disk_bytes = Some(1 << 30);
    check(
        &s,
        expect![[r#"
        no-primary: promote because n2 has everything the others have (at 0-1-101); 2 transactions of the old primary that were acknowledged to nobody are left behind
          epoch 5 led by n2, ackers [n3 Joining], Held
          n1 follows n2
          n2 opens for writes, waiting for acknowledgements
          n3 follows n2, joins the sync set
    "#]],
    );
    s.of(1).seen.free_disk_bytes = Some(1 << 20);
    // Nobody has room: then who has most.
    s.of(2).seen.free_disk_bytes = Some(1 << 20);
    check(
        &s,
        expect![[r#"
        no-primary: promote because n1 has everything the others have (at 0-1-103)
          epoch 5 led by n1, ackers [n2 Joining], Held
          n1 opens for writes, waiting for acknowledgements
          n2 follows n1, joins the sync set
          n3 follows n1
    "#]],
    );
}

#[test]
fn a_full_primary_is_its_own_successor_only_if_its_ackers_stay_silent() {
    let mut s = sync();
    s.taken_over().halted(1, "0-1-103").halted(3, "0-1-99");
    s.of(1).seen.free_disk_bytes = Some(1 << 20);
    s.of(2).seen.process = Process::Unresponsive;
    s.record_since = Millis(NOW.0 - limits::FULL_WAIT_MS + 1);
    check(
        &s,
        expect![[r#"
        no-primary: waits, disk-full: the disk of n1 is full, and n2 has not said what it has
          hint: make room
    "#]],
    );
    s.record_since = Millis(NOW.0 - limits::FULL_WAIT_MS);
    check(
        &s,
        expect![[r#"
        no-primary: promote because n1 has everything the others have (at 0-1-103)
          epoch 5 led by n1, ackers [n2 Leaving, n3 Joining], Held
          n1 opens for writes, waiting for acknowledgements
          n2 follows n1, leaves the sync set
          n3 follows n1, joins the sync set
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
