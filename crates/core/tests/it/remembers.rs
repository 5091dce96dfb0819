//! What a controller makes of reports over time: routes, who is well since when, what the primary had a moment ago.
#![allow(clippy::unwrap_used)] // clippy takes only #[test] functions for tests

use crate::scene::{EPOCH, Scene, at, n, sync};
use holdfast_core::controller::Controller;
use holdfast_core::record::{Acker, Assurance, Incumbent, Session, Stage};
use holdfast_core::{Gate, GroupName, Millis};

fn shop() -> GroupName {
    "shop".parse().unwrap()
}

fn controller(s: &Scene) -> Controller {
    let mut controller = Controller::new(s.topology.clone(), Millis(0));
    controller.record(s.record.clone(), 9, Millis(0));
    controller
}

fn hears(c: &mut Controller, s: &mut Scene, node: usize, now: u64) {
    let mut report = s.of(node).clone();
    report.taken = Millis(now);
    report.seen.at = Millis(now);
    c.report(&n(node), report.session, vec![report], Millis(now));
}

/// A primary says that it leads from just before it is opened. A client that was let through then would be refused.
#[test]
fn the_gate_opens_when_the_primary_is_open() {
    let mut s = sync();
    let mut c = controller(&s);
    s.of(1).seen.writable = false;
    assert_eq!(s.of(1).leads, Some(EPOCH));
    hears(&mut c, &mut s, 1, 10);
    assert_eq!(c.route(&shop(), Millis(10)).unwrap().gate, Gate::Closed);
    s.of(1).seen.writable = true;
    hears(&mut c, &mut s, 1, 20);
    let route = c.route(&shop(), Millis(20)).unwrap();
    assert_eq!((route.gate, route.writer.map(|w| w.node)), (Gate::Open, Some(n(1))));
}

#[test]
fn who_was_silent_or_is_another_has_not_been_well() {
    let mut s = sync();
    let mut c = controller(&s);
    let well = |c: &Controller, now| c.world(&shop(), Millis(now)).unwrap().well_since.get(&n(2)).copied();
    for now in [100, 600, 1_200] {
        hears(&mut c, &mut s, 2, now);
        assert_eq!(well(&c, now), Some(Millis(100)));
    }
    hears(&mut c, &mut s, 2, 2_300);
    assert_eq!(well(&c, 2_300), Some(Millis(2_300)), "it was silent");
    s.of(2).session = Session(2);
    hears(&mut c, &mut s, 2, 2_500);
    assert_eq!(well(&c, 2_500), Some(Millis(2_500)), "its agent is a new one");
    s.stream_broken(2);
    hears(&mut c, &mut s, 2, 2_600);
    assert_eq!(well(&c, 2_600), None);
}

#[test]
fn what_the_primary_had_is_of_half_a_second_ago_or_more() {
    let mut s = sync();
    let mut c = controller(&s);
    let had = |c: &Controller, now| c.world(&shop(), Millis(now)).unwrap().primary_had.map(|p| p.to_string());
    let cases = [
        (100, None),
        (350, None),
        (600, Some("100")),
        (850, Some("100")),
        (1_100, Some("600")),
        (1_350, Some("600")),
    ];
    for (now, expected) in cases {
        s.of(1).seen.applied = Some(at(&format!("0-1-{now}")));
        hears(&mut c, &mut s, 1, now);
        assert_eq!(had(&c, now), expected.map(|number| format!("0-1-{number}")), "at {now}");
    }
    // Another's history is another's.
    let mut record = s.record.clone();
    record.epoch = EPOCH.next();
    let primary = Incumbent { node: n(2), session: Session(1), process: 1, epoch: record.epoch };
    record.stage = Stage::Led { primary };
    c.record(record, 10, Millis(1_400));
    assert_eq!(had(&c, 1_400), None);
}

/// What was written before the primary waited again, and what an acker that is gone had acknowledged, is in these.
#[test]
fn what_the_primary_had_at_a_turning_point_is_kept() {
    let mut s = sync();
    s.record.assurance = Assurance::Restoring;
    let mut c = controller(&s);
    let mut primary = |c: &mut Controller, now: u64, waits: bool, acks: bool| {
        s.of(1).seen.applied = Some(at(&format!("0-1-{now}")));
        s.of(1).seen.waits_for_ack = waits;
        s.of(1).seen.ackers = acks.then(|| n(2)).into_iter().collect();
        hears(c, &mut s, 1, now);
        let world = c.world(&shop(), Millis(now)).unwrap();
        let text = |p: Option<&holdfast_core::Position>| p.map(ToString::to_string).unwrap_or_default();
        (text(world.primary_waited.as_ref()), text(world.absent_had.get(&n(2))))
    };
    let said = |waited: &str, absent: &str| (waited.to_string(), absent.to_string());
    assert_eq!(primary(&mut c, 10, false, true), said("", ""));
    assert_eq!(primary(&mut c, 20, true, true), said("0-1-20", ""));
    assert_eq!(primary(&mut c, 30, false, true), said("", ""), "it did not, after all");
    assert_eq!(primary(&mut c, 40, true, true), said("0-1-40", ""));
    // Out of sight is not out of reach.
    for now in [50, 60, 70] {
        assert_eq!(primary(&mut c, now, true, false), said("0-1-40", ""));
    }
    let mut quit = sync();
    quit.of(2).seen.acknowledges = false;
    hears(&mut c, &mut quit, 2, 75);
    assert_eq!(primary(&mut c, 80, true, false), said("0-1-40", ""), "the look may be of before");
    assert_eq!(primary(&mut c, 90, true, false), said("0-1-40", "0-1-90"));
    assert_eq!(primary(&mut c, 100, true, false), said("0-1-40", "0-1-90"));
    quit.of(2).seen.acknowledges = true;
    hears(&mut c, &mut quit, 2, 105);
    assert_eq!(primary(&mut c, 110, true, true), said("0-1-40", ""), "it is back");
    // Nobody hears of it, and it gives up.
    assert_eq!(primary(&mut c, 120, true, false).1, "");
    assert_eq!(primary(&mut c, 130, true, false).1, "");
    assert_eq!(primary(&mut c, 10_129, true, false).1, "");
    assert_eq!(primary(&mut c, 10_130, true, false).1, "");
    assert_eq!(primary(&mut c, 10_140, true, false).1, "0-1-10140");
    let mut held = sync().record;
    held.assurance = Assurance::Held;
    c.record(held, 10, Millis(10_200));
    assert_eq!(c.world(&shop(), Millis(10_200)).unwrap().primary_waited, None);
}

#[test]
fn who_was_sent_back_while_it_followed_is_not_tried_again_at_once() {
    let mut s = sync();
    s.record.assurance = Assurance::Degraded;
    s.record.ackers.insert(n(2), Acker::Joining);
    s.record.ackers.insert(n(3), Acker::Joining);
    let mut c = controller(&s);
    for node in 1..=2 {
        hears(&mut c, &mut s, node, 10);
    }
    s.record.ackers.values_mut().for_each(|a| *a = Acker::Leaving);
    c.record(s.record.clone(), 10, Millis(20));
    let sent_back = c.world(&shop(), Millis(20)).unwrap().sent_back;
    assert_eq!(sent_back.into_iter().collect::<Vec<_>>(), [(n(2), Millis(20))], "n3 was not there");
}
