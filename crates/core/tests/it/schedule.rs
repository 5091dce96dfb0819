//! When backups are made, and by whom.

use crate::scene::n;
use holdfast_core::NodeName;
use holdfast_core::record::Session;
use holdfast_core::schedule::{End, Job, Schedule, next};

const HOUR: u64 = 3_600_000;
const EVERY_6_H: Schedule = Schedule::Every { ms: 6 * HOUR };
/// A midnight.
const NOW: u64 = 20_000 * 24 * HOUR;

fn all(_: &NodeName, _: Session) -> bool {
    true
}

fn a() -> Option<(NodeName, Session)> {
    Some((n(1), Session(7)))
}

fn ended(mut job: Job, after_ms: u64, good: bool) -> Job {
    let end = End { at_unix_ms: job.ordered_unix_ms + after_ms, good, says: String::new() };
    assert!(job.ended(job.number, end.clone()));
    assert!(!job.ended(job.number, end), "it ended once");
    job
}

#[test]
fn the_first_is_made_at_once_and_each_next_when_it_is_due() {
    assert_eq!(next(&EVERY_6_H, None, NOW, all, None), None, "nobody can");
    let first = next(&EVERY_6_H, None, NOW, all, a()).unwrap();
    assert_eq!((first.number, &first.node, first.ordered_unix_ms), (1, &n(1), NOW));
    let due = |job: &Job, at| next(&EVERY_6_H, Some(job), at, all, a()).is_some();
    assert!(!due(&first, NOW + 100 * HOUR), "it goes on");
    let done = ended(first, HOUR, true);
    assert!(!due(&done, NOW + 6 * HOUR - 1) && due(&done, NOW + 6 * HOUR));
    let second = next(&EVERY_6_H, Some(&done), NOW + 6 * HOUR, all, a()).unwrap();
    assert_eq!((second.number, second.good_unix_ms), (2, Some(NOW)));
}

#[test]
fn a_time_of_day_is_the_next_one() {
    let at = Schedule::Daily { minute: 3 * 60 + 15 };
    let slot = NOW + 3 * HOUR + HOUR / 4;
    assert_eq!(at.due(NOW), slot);
    assert_eq!(at.due(slot - 1), slot);
    assert_eq!(at.due(slot), slot + 24 * HOUR);
    assert_eq!(at.due(slot + 1), slot + 24 * HOUR);
    let midnight = Schedule::Daily { minute: 0 };
    assert_eq!(midnight.due(NOW), NOW + 24 * HOUR);
}

#[test]
fn a_job_moves_when_its_host_is_gone_or_has_begun_anew() {
    let job = next(&EVERY_6_H, None, NOW, all, a()).unwrap();
    let other = Some((n(2), Session(1)));
    let moved = next(&EVERY_6_H, Some(&job), NOW + 5, |_, s| s != Session(7), other).unwrap();
    assert_eq!((moved.number, moved.node, moved.failures), (2, n(2), 0));
    let mut late = job;
    assert!(!late.ended(2, End { at_unix_ms: NOW, good: true, says: String::new() }), "of another job");
}

#[test]
fn what_failed_is_tried_again_ever_more_seldom_and_no_later_than_planned() {
    let mut job = next(&EVERY_6_H, None, NOW, all, a()).unwrap();
    let mut waits = Vec::new();
    for _ in 0..7 {
        let failed = ended(job, 1_000, false);
        let due = failed.next_unix_ms(&EVERY_6_H).unwrap();
        waits.push((due - failed.ordered_unix_ms) / 60_000);
        assert_eq!(next(&EVERY_6_H, Some(&failed), due - 1, all, a()), None);
        job = next(&EVERY_6_H, Some(&failed), due, all, a()).unwrap();
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 360]);
    assert_eq!(job.failures, 7);
    assert_eq!(ended(job, 1_000, true).failures, 0);
}

#[test]
fn a_clock_that_was_ahead_is_not_waited_for() {
    let job = ended(next(&EVERY_6_H, None, NOW + 1_000 * HOUR, all, a()).unwrap(), 1, true);
    assert!(next(&EVERY_6_H, Some(&job), NOW, all, a()).is_some());
}
