//! A service whose home failed goes home again, when it may.

use crate::scene::{NOW, Scene, VERSION, at, n, sync};
use holdfast_core::decide::Verdict;
use holdfast_core::record::{Acker, Mode, Wish};
use holdfast_core::topology::HandBack;
use holdfast_core::{Epoch, Millis};

/// n1 serves in the place of n2, which follows and acknowledges, and has done so for a minute.
fn displaced() -> Scene {
    let mut s = sync();
    s.service().members = vec![n(2), n(1), n(3)];
    s.service().hand_back = HandBack::Auto;
    s.record.displaced = true;
    s.well_since.insert(n(2), Millis(NOW.0 - 60_000));
    s
}

#[test]
fn it_goes_home_by_a_switchover() {
    let s = displaced().decides();
    assert!(
        s.starts_with("home-ready: switchover because n2 is well again: the service goes home from n1\n"),
        "{s}"
    );
}

/// A change to a displaced service, and why it then does not go home.
type Case = (fn(&mut Scene), &'static str);

#[test]
fn it_does_not_go_home_before_that_is_sound() {
    let cases: [Case; 9] = [
        (|s| s.record.mode = Mode::Paused, "automatic actions are paused"),
        (|s| s.record.last_takeover = Some(Epoch(3)), "the cool-down after the takeover is not over"),
        (|s| _ = s.well_since.insert(n(2), Millis(NOW.0 - 12_500)), "n2 has to be well for 18 s more"),
        (|s| s.well_since.clear(), "n2 has to be well for 30 s more"),
        (
            |s| s.of(2).seen.upstream.as_mut().unwrap().lag_ms = Some(3_000),
            "n2 is 3000 ms behind, more than the 2000 ms allowed",
        ),
        (
            |s| {
                s.of(2).seen.version = "11.8.3-MariaDB".into();
                s.of(1).installed = Some("11.8.3-MariaDB".into());
                s.of(3).installed = Some("11.8.3-MariaDB".into());
            },
            "no way back",
        ),
        (|s| s.of(2).seen.upstream.as_mut().unwrap().lag_ms = None, "how far n2 is behind is not known"),
        (|s| s.of(2).seen.free_disk_bytes = Some(32 << 20), "the disk of n2 is nearly full"),
        (|s| s.of(2).seen.version = "11.8.3-MariaDB".into(), "n1 could not follow n2"),
    ];
    for (change, why) in cases {
        let mut s = displaced();
        // Not what this is about: nobody follows the other row of a takeover.
        s.cool_down_until = Some(Millis(NOW.0 + 5_000));
        change(&mut s);
        let says = s.decides();
        assert!(
            says.starts_with("away-from-home: waits, away-from-home: n1 serves in the place of n2: "),
            "{why}: {says}"
        );
        assert!(says.contains(why), "{why}: {says}");
        assert!(says.contains("hint: `holdfast switchover shop --home` does it now"), "{says}");
    }
    assert_eq!(displaced().of(2).seen.version, VERSION);
}

/// With more than two members another may acknowledge in its place by now.
#[test]
fn it_goes_home_from_outside_the_sync_set() {
    let mut s = displaced();
    s.record.ackers.clear();
    s.acker(3, Acker::Member);
    s.of(2).seen.acknowledges = false;
    s.of(1).seen.ackers.remove(&n(2));
    assert!(s.decides().starts_with("home-ready"), "{}", s.decides());
}

#[test]
fn by_hand_it_stays_and_nothing_is_wrong_with_that() {
    let mut s = displaced();
    s.service().hand_back = HandBack::Manual;
    assert_eq!(s.decides(), "healthy\n");
}

#[test]
fn who_is_not_there_is_not_gone_home_to() {
    for change in [
        |s: &mut Scene| _ = s.silent(2),
        |s: &mut Scene| _ = s.stream_broken(2),
        |s: &mut Scene| {
            s.record.ackers.insert(n(2), Acker::Joining);
            s.of(2).seen.received = Some(at("0-1-90"));
        },
    ] {
        let mut s = displaced();
        change(&mut s);
        let says = s.decides();
        assert!(!says.contains("switchover because"), "{says}");
    }
}

#[test]
fn it_goes_home_at_its_time_and_for_an_hour() {
    for (minute, goes) in
        [(None, false), (Some(179), false), (Some(180), true), (Some(239), true), (Some(240), false)]
    {
        let mut s = displaced();
        s.service().hand_back = HandBack::At(180);
        s.minute = minute;
        let says = s.decides();
        assert_eq!(says.starts_with("home-ready"), goes, "{minute:?}: {says}");
        assert!(
            goes || says == "healthy\n",
            "it waits as it was told to, which keeps nothing else from being done: {says}"
        );
        let stays = holdfast_core::hand_back::stays(&s.world()).map(|b| b.says);
        let expected = "n1 serves in the place of n2: it goes home at 03:00 UTC".to_string();
        assert_eq!(stays, (!goes).then_some(expected));
        s.well_since.clear();
        assert!(
            s.decides().starts_with("away-from-home: waits"),
            "it could not go home then: {}",
            s.decides()
        );
    }
    let midnight = HandBack::At(23 * 60 + 30);
    assert!(midnight.is_due(Some(29)) && !midnight.is_due(Some(30)));
}

/// A switchover home that failed cost an outage: the next one may as well.
#[test]
fn a_hand_back_that_failed_is_tried_more_and_more_seldom() {
    let mut s = displaced();
    s.claimed(holdfast_core::record::ClaimKind::Handover { to: n(2) });
    s.record.displaced = true;
    s.record_since = Millis(NOW.0 - 4_001);
    let Verdict::Act(plan) = s.verdict() else { panic!("{:?}", s.verdict()) };
    assert_eq!((plan.record.displaced, plan.record.hand_backs_failed), (true, 1));

    for (failed, well_s, goes) in [
        (1, 599, false),
        (1, 600, true),
        (2, 1_199, false),
        (2, 1_200, true),
        (40, 86_399, false),
        (40, 86_400, true),
    ] {
        let mut s = displaced();
        s.record.hand_backs_failed = failed;
        s.now = Millis(1_000_000_000);
        s.lease_renewed = s.now;
        s.well_since.insert(n(2), Millis(s.now.0 - well_s * 1_000));
        let says = s.decides();
        assert_eq!(says.starts_with("home-ready"), goes, "{failed} {well_s}: {says}");
        let why = format!("the switchover home failed ({failed}); n2 has to be well for 1 s more");
        assert!(goes || says.contains(&why), "{says}");
    }
    // A later displacement is another.
    let mut s = sync();
    s.record.hand_backs_failed = 3;
    s.process(1, holdfast_core::report::Process::Exited { how: "killed".into() });
    let Verdict::Act(plan) = s.verdict() else { panic!("{:?}", s.verdict()) };
    assert_eq!((plan.record.displaced, plan.record.hand_backs_failed), (true, 0));
}

/// Only a takeover that nobody asked for displaces.
#[test]
fn what_a_person_moved_stays() {
    let ends_displaced = |s: &Scene| match s.verdict() {
        Verdict::Act(plan) => plan.record.displaced,
        other => panic!("{other:?}"),
    };
    // n1 is home, and fails.
    let mut s = sync();
    s.process(1, holdfast_core::report::Process::Exited { how: "killed".into() });
    assert!(ends_displaced(&s));
    // The same where it is not at home: nothing is displaced by it.
    s.service().members = vec![n(3), n(1), n(2)];
    assert!(!ends_displaced(&s));
    for wish in [Wish::Failover { to: None, accept_loss: false }, Wish::Switchover { to: Some(n(2)) }] {
        let mut s = sync();
        s.record.displaced = true;
        s.record.wish = Some(wish);
        assert!(!ends_displaced(&s));
    }
    // On the way home by hand it is not there yet.
    let mut s = displaced();
    s.record.wish = Some(Wish::Switchover { to: Some(n(2)) });
    assert!(ends_displaced(&s));
    // Home again.
    let mut s = displaced();
    s.claimed(holdfast_core::record::ClaimKind::Handover { to: n(2) }).halted(1, "0-1-100");
    s.record.displaced = true;
    s.of(1).gave_up = Some(crate::scene::EPOCH);
    assert!(!ends_displaced(&s));
}
