//! The agent's half: what one member does next, by what it sees.
#![allow(clippy::unwrap_used)]

use crate::scene::{at, n};
use holdfast_core::limits::ROUTES_TURNED_MS;
use holdfast_core::member::{Member, Verb};
use holdfast_core::record::{Assignment, Role, Session};
use holdfast_core::report::{Lost, Observed, Process, Stream, Upstream};
use holdfast_core::{Epoch, Millis};

const NOW: Millis = Millis(50_000);

/// n2, told to follow n1 in epoch 4.
fn follower(reclone: bool) -> Member {
    let mut member = Member::new(n(2), "shop".parse().unwrap(), Session(1));
    follow(&mut member, 9, reclone);
    member
}

fn follow(member: &mut Member, revision: u64, reclone: bool) {
    let role = Role::Follow { primary: n(1), acknowledges: false, hurry: false, reclone, restart: None };
    let members = (1..=3).map(n).collect();
    let group = "shop".parse().unwrap();
    member
        .assign(Assignment { group, epoch: Epoch(4), revision, role, relaxed: 0, lineage: 0, members }, NOW)
        .unwrap();
}

fn seen(position: &str, stream: Option<Stream>) -> Observed {
    Observed {
        received: Some(at(position)),
        applied: Some(at(position)),
        drained: true,
        upstream: stream.map(|stream| Upstream { node: Some(n(1)), stream, apply_error: None, lag_ms: None }),
        ..Observed::only(Process::Running)
    }
}

fn purged() -> Option<Stream> {
    Some(Stream::Refused { why: "required binlog files have been purged".into() })
}

#[test]
fn who_is_refused_by_its_upstream_is_compared_and_rebuilt() {
    let mut member = follower(false);
    let refused = seen("0-1-50", purged());
    assert_eq!(member.next(&refused, NOW), Some(Verb::Compare { primary: n(1) }));
    member.compared(&at("0-1-50"), &at("0-1-100"));
    assert_eq!(member.next(&refused, NOW), Some(Verb::Reclone { primary: n(1) }));
    // With the donor's data it has another position and no upstream, and begins anew.
    member.exited();
    member.recloned(None);
    let rebuilt = seen("0-1-100", None);
    assert_eq!(member.next(&rebuilt, NOW), Some(Verb::Compare { primary: n(1) }));
    member.compared(&at("0-1-100"), &at("0-1-100"));
    let follows = Verb::Follow { primary: n(1), acknowledges: false };
    assert_eq!(member.next(&rebuilt, NOW), Some(follows));
}

#[test]
fn a_thread_that_only_gave_up_follows_again() {
    let mut member = follower(false);
    let stopped = seen("0-1-50", Some(Stream::Off));
    member.compared(&at("0-1-50"), &at("0-1-100"));
    assert_eq!(member.next(&stopped, NOW), Some(Verb::Follow { primary: n(1), acknowledges: false }));
}

#[test]
fn what_could_not_all_be_saved_is_discarded_only_by_a_persons_wish() {
    let mut member = follower(false);
    let returning = seen("0-1-50,0-2-60", None);
    member.compared(&at("0-1-50,0-2-60"), &at("0-1-100"));
    assert!(matches!(member.next(&returning, NOW), Some(Verb::SaveDivergence { .. })));
    let lost = Lost {
        transactions: 3,
        unit: "transactions".into(),
        file: "a.sql".into(),
        epoch: Epoch(4),
        complete: false,
    };
    member.saved(Some(lost));
    assert_eq!(member.next(&returning, NOW), None);
    assert!(!member.report(&returning, None, None, NOW).lost.unwrap().complete);
    follow(&mut member, 10, true);
    assert_eq!(member.next(&returning, NOW), Some(Verb::Reclone { primary: n(1) }));
}

#[test]
fn what_no_log_holds_counts_as_not_saved() {
    let mut member = follower(false);
    let returning = seen("0-1-50,0-2-60", None);
    member.compared(&at("0-1-50,0-2-60"), &at("0-1-100"));
    member.saved(None);
    assert_eq!(member.next(&returning, NOW), None);
    assert!(!member.report(&returning, None, None, NOW).lost.unwrap().complete);
}

/// Simulator, seed 16804 of its second model: the wish was taken for granted.
#[test]
fn a_rebuild_that_was_needed_does_not_stand_for_one_that_is_wished_for() {
    let mut member = follower(false);
    member.compared(&at("0-1-50"), &at("0-1-100"));
    assert_eq!(member.next(&seen("0-1-50", purged()), NOW), Some(Verb::Reclone { primary: n(1) }));
    member.recloned(None);
    follow(&mut member, 10, true);
    let following = seen("0-1-100", Some(Stream::Up));
    assert_eq!(member.report(&following, None, None, NOW).rebuilt_for, None);
    assert_eq!(member.next(&following, NOW), Some(Verb::StopReceiving));
}

/// Simulator, seed 3796: rebuilt as wished, it came to have writes of its own again before it followed.
#[test]
fn a_wish_that_still_stands_covers_what_could_not_be_saved_since() {
    let mut member = follower(true);
    member.compared(&at("0-1-50"), &at("0-1-100"));
    assert_eq!(member.next(&seen("0-1-50", None), NOW), Some(Verb::Reclone { primary: n(1) }));
    member.recloned(None);
    let returning = seen("0-1-50,0-2-60", None);
    member.compared(&at("0-1-50,0-2-60"), &at("0-1-100"));
    member.saved(None);
    assert_eq!(member.next(&returning, NOW), Some(Verb::Reclone { primary: n(1) }));
}

/// n2, chosen in its first process to lead epoch 4 with data in memory, and told of `relaxed`.
fn chosen(member: &mut Member, relaxed: u64) {
    let role = Role::Lead {
        session: Session(1),
        process: 0,
        wait_for_ack: true,
        found: false,
        admits: Some([n(1)].into()),
    };
    let members = (1..=2).map(n).collect();
    let group = "shop".parse().unwrap();
    let told = Assignment { group, epoch: Epoch(4), revision: 9, role, relaxed, lineage: 0, members };
    member.assign(told, NOW).unwrap();
    member.proxies_wait(true);
    member.renewed(Epoch(4), NOW);
}

fn in_memory() -> Observed {
    Observed { admits: Some([n(1)].into()), ..seen("0-1-50", None) }
}

fn leader() -> Member {
    Member::new(n(2), "shop".parse().unwrap(), Session(1))
}

/// Simulator in memory, seed 7271: killed and started again before it was told, it opened with what its disk had (S9).
#[test]
fn what_was_in_memory_does_not_lead_in_another_process() {
    let mut member = leader();
    chosen(&mut member, 0);
    assert_eq!(member.next(&in_memory(), NOW), Some(Verb::Open));
    member.exited();
    assert_eq!((member.next(&in_memory(), NOW), member.gave_up()), (None, Some(Epoch(4))));

    let mut restarted_before = leader();
    restarted_before.exited();
    chosen(&mut restarted_before, 0);
    assert_eq!((restarted_before.next(&in_memory(), NOW), restarted_before.renewal()), (None, None));
}

/// Simulator in memory, seed 586: as the primary of the next epoch it was written to by routes from before, unawaited (S5).
#[test]
fn who_led_unawaited_does_not_open_before_all_proxies_wait() {
    let mut member = leader();
    chosen(&mut member, 1);
    assert_eq!(member.next(&in_memory(), NOW), None);
    assert!(!member.report(&in_memory(), None, None, NOW).seen.waits_for_ack);
    let turned = NOW.plus(ROUTES_TURNED_MS);
    member.renewed(Epoch(4), turned);
    assert_eq!(member.next(&in_memory(), turned), Some(Verb::Open));
    let look = |at| Observed { at, ..in_memory() };
    let before = Millis(turned.0 - 1);
    assert!(!member.report(&look(before), None, None, turned).seen.waits_for_ack, "what it had is of before");
    assert!(member.report(&look(turned), None, None, turned).seen.waits_for_ack);
}
