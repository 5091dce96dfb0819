//! What comes back, and what is said of it: an old primary that is worth waiting for, a member that could not save what
//! only it has, reports that repeat an old look.
#![allow(clippy::unwrap_used)]

use crate::scene::{EPOCH, NOW, asynchronous, check, n, sync};
use expect_test::expect;
use holdfast_core::Millis;
use holdfast_core::Seen;
use holdfast_core::controller::Controller;
use holdfast_core::record::{Acker, ClaimKind, Incumbent, Session};
use holdfast_core::report::{Lost, Process, Stream};

fn ended() -> Process {
    Process::Exited { how: "signal 9".into() }
}

#[test]
fn a_takeover_that_is_known_to_lose_something_waits_for_the_old_primary() {
    let mut s = asynchronous();
    s.process(1, ended()).taken_over().halted(2, "0-1-60").halted(3, "0-1-60");
    check(
        &s,
        expect![[r#"
            no-primary: waits, may-return: n2 lacks writes of the old primary, which is being started again
              hint: if those writes may be lost: `holdfast failover --accept-loss`
        "#]],
    );
    // Not for ever, ...
    s.record_since = Millis(NOW.0 - 3_000);
    check(
        &s,
        expect![[r#"
            no-primary: promote because n2 has everything the others have (at 0-1-60)
              loses at least 40 transactions
              epoch 5 led by n2, ackers [], Held
              n1 follows n2
              n2 opens for writes, waiting for nobody
              n3 follows n2
        "#]],
    );
    // ... and not if nobody is there to start it.
    s.record_since = Millis(NOW.0 - 300);
    s.silent(1);
    check(
        &s,
        expect![[r#"
            no-primary: promote because n2 has everything the others have (at 0-1-60)
              loses at least 40 transactions
              epoch 5 led by n2, ackers [], Held
              n1 follows n2
              n2 opens for writes, waiting for nobody
              n3 follows n2
        "#]],
    );
}

#[test]
fn a_takeover_that_loses_nothing_that_is_known_waits_for_nobody() {
    let mut s = asynchronous();
    s.process(1, ended()).taken_over().halted(2, "0-1-100").halted(3, "0-1-60");
    check(
        &s,
        expect![[r#"
            no-primary: promote because n2 has everything the others have (at 0-1-100)
              epoch 5 led by n2, ackers [], Held
              n1 follows n2
              n2 opens for writes, waiting for nobody
              n3 follows n2
        "#]],
    );
}

#[test]
fn an_operators_choice_waits_for_nobody() {
    let mut s = asynchronous();
    s.process(1, ended()).claimed(ClaimKind::Takeover { to: Some(n(2)) });
    s.halted(2, "0-1-60").halted(3, "0-1-60");
    check(
        &s,
        expect![[r#"
            no-primary: promote because n2 has everything the others have (at 0-1-60)
              loses at least 40 transactions
              epoch 5 led by n2, ackers [], Held
              n1 follows n2
              n2 opens for writes, waiting for nobody
              n3 follows n2
        "#]],
    );
}

#[test]
fn what_could_not_be_saved_is_for_a_person_to_judge() {
    let mut s = asynchronous();
    s.halted(3, "0-1-90,0-2-95");
    s.of(3).lost = Some(Lost {
        transactions: 2,
        unit: "transactions".into(),
        file: "f.sql".into(),
        epoch: EPOCH,
        complete: false,
    });
    check(
        &s,
        expect![[r#"
            member-away: waits, not-saved: n3 has writes that n1 lacks, and not all could be saved: their log is gone
              hint: look at n3's data, then `holdfast reinit n3`, which discards it
        "#]],
    );
}

#[test]
fn a_refused_replica_says_why() {
    let mut s = asynchronous();
    s.of(3).seen.upstream.as_mut().unwrap().stream =
        Stream::Refused { why: "required binlog files have been purged".into() };
    check(
        &s,
        expect![[r#"
            member-away: waits, member-not-following: n3 does not follow n1: required binlog files have been purged
        "#]],
    );
}

/// Simulator, seed 81: the engine hung, and its agent's reports repeated the last look.
#[test]
fn two_reports_of_one_look_say_no_more_than_one() {
    let mut s = sync();
    s.acker(3, Acker::Leaving);
    s.of(1).seen.ackers.remove(&n(3));
    s.of(3).seen.acknowledges = false;
    let mut controller = Controller::new(s.topology.clone(), Millis(0));
    controller.record(s.record.clone(), 9, Millis(0));
    let mut report = |node: usize, taken: u64, looked: u64| {
        let Some(Seen::Fresh(mut r)) = s.members.get(&n(node)).cloned() else { panic!("n{node} reports") };
        (r.taken, r.seen.at) = (Millis(taken), Millis(looked));
        controller.report(&n(node), r.session, vec![r], Millis(taken));
        controller.world(&s.record.group, Millis(taken)).unwrap().absent_since.get(&n(3)).copied()
    };
    report(3, 900, 900);
    assert_eq!(report(1, 1_000, 990), None);
    assert_eq!(report(1, 1_250, 990), None);
    assert_eq!(report(1, 1_500, 990), None);
    assert_eq!(report(1, 1_750, 1_700), Some(Millis(1_750)));
}

/// Simulator, seed 2726: an attached engine went on without its agent, hung, and was taken for closed by the next one.
#[test]
fn an_engine_that_does_not_answer_a_new_agent_is_not_known_to_be_closed() {
    let mut s = asynchronous();
    s.restarted(1).process(1, Process::Unresponsive).taken_over();
    s.of(1).session = holdfast_core::record::Session(2);
    s.of(1).promised = EPOCH.next();
    s.halted(2, "0-1-100").halted(3, "0-1-100");
    check(
        &s,
        expect![[r#"
            no-primary: waits, lease-running: n1 may still hold its lease for 2800 ms
        "#]],
    );
    s.lease_over();
    check(
        &s,
        expect![[r#"
            no-primary: promote because n2 has everything the others have (at 0-1-100)
              epoch 5 led by n2, ackers [], Held
              n1 follows n2
              n2 opens for writes, waiting for nobody
              n3 follows n2
        "#]],
    );
}

/// Simulator, seed 238338: the primary that was named never heard of it, and acknowledged as before.
#[test]
fn an_incumbent_that_may_never_have_led_is_recorded_as_an_acker() {
    let mut s = sync();
    s.taken_over().halted(2, "0-1-100").halted(3, "0-1-100").lease_over();
    s.claim().from = Some(Incumbent { node: n(1), session: Session(1), process: 0, epoch: EPOCH });
    s.of(1).leads = None;
    s.of(1).seen.writable = false;
    s.silent(1);
    check(
        &s,
        expect![[r#"
            no-primary: promote because n2 has everything the others have (at 0-1-100)
              epoch 5 led by n2, ackers [n1 Leaving, n3 Joining], Held
              n1 follows n2, leaves the sync set
              n2 opens for writes, waiting for acknowledgements
              n3 follows n2, joins the sync set
        "#]],
    );
    // Seen to lead, it has forgotten its upstream.
    s.of(1).leads = Some(EPOCH);
    check(
        &s,
        expect![[r#"
            no-primary: promote because n2 has everything the others have (at 0-1-100)
              epoch 5 led by n2, ackers [n3 Joining], Held
              n1 follows n2
              n2 opens for writes, waiting for acknowledgements
              n3 follows n2, joins the sync set
        "#]],
    );
}

/// Simulator, seed 512511: named and not open yet, it ended, was started again, and could have opened after all.
#[test]
fn an_engine_that_ended_before_it_opened_may_still_open() {
    let mut s = asynchronous();
    s.process(1, ended()).taken_over().halted(2, "0-1-100").halted(3, "0-1-100");
    s.of(1).gave_up = None;
    check(
        &s,
        expect![[r#"
            no-primary: waits, lease-running: n1 may still hold its lease for 2800 ms
        "#]],
    );
    s.of(1).gave_up = Some(EPOCH);
    check(
        &s,
        expect![[r#"
            no-primary: promote because n2 has everything the others have (at 0-1-100)
              epoch 5 led by n2, ackers [], Held
              n1 follows n2
              n2 opens for writes, waiting for nobody
              n3 follows n2
        "#]],
    );
}
