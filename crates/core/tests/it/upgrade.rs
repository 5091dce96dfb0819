//! Upgrades, one instance at a time.

use crate::scene::{EPOCH, NOW, Scene, VERSION, asynchronous, at, check, n, sync};
use expect_test::expect;
use holdfast_core::Millis;
use holdfast_core::member::{Member, Verb};
use holdfast_core::record::{
    Acker, Assignment, ClaimKind, Incumbent, Life, Restart, Role, Session, Stage, Upgrade,
};
use holdfast_core::report::{Observed, Process, Stream, Upstream};
use holdfast_core::topology::{Durability, Management};

const NEXT: &str = "11.8.9-MariaDB";

/// The next release is installed everywhere, and asked for.
fn wanted(mut s: Scene) -> Scene {
    (1..=3).for_each(|node| s.of(node).installed = Some(NEXT.into()));
    s.record.upgrade = Some(Upgrade { replicas_only: false, accept_no_standby: false });
    s
}

fn of_two(mut s: Scene) -> Scene {
    s.service().members.truncate(2);
    s.members.remove(&n(3));
    s
}

/// Restarted by now, with the next release.
fn restarted(s: &mut Scene, node: usize) {
    let r = s.of(node);
    r.life.number += 1;
    r.seen.version = NEXT.into();
}

fn restart(in_set: bool) -> Restart {
    Restart { life: Life { session: Session(1), number: 1 }, in_set }
}

#[test]
fn replicas_are_restarted_first_and_the_primary_hands_over_last() {
    let mut s = wanted(sync());
    check(
        &s,
        expect![[r#"
        upgrading: restart because an upgrade of n3 from 10.11.19-MariaDB to 11.8.9-MariaDB
          epoch 4 led by n1, ackers [n2 Member], Held
          n3 is restarted and follows n1
    "#]],
    );
    s.record.restart.insert(n(3), restart(false));
    check(
        &s,
        expect![[r#"
        upgrading: waits, restarting: n3 is being restarted
    "#]],
    );
    s.process(3, Process::Starting);
    check(
        &s,
        expect![[r#"
        member-away: waits, member-not-following: n3 does not follow n1
    "#]],
    );
    s.following(3, "0-1-100");
    s.of(3).installed = Some(NEXT.into());
    restarted(&mut s, 3);
    check(
        &s,
        expect![[r#"
        restarted: restart because n3 was restarted and runs 11.8.9-MariaDB
          epoch 4 led by n1, ackers [n2 Member], Held
          n3 follows n1
    "#]],
    );
    s.record.restart.clear();
    check(
        &s,
        expect![[r#"
        upgrading: restart because an upgrade of n2 from 10.11.19-MariaDB to 11.8.9-MariaDB
          epoch 4 led by n1, ackers [n2 Member], Held
    "#]],
    );
    restarted(&mut s, 2);
    check(
        &s,
        expect![[r#"
        upgrading: switchover because an upgrade: n2 takes over, then n1 is restarted
          epoch 5 claimed (Handover { to: n2 }), ackers [n2 Member], Held
          n1 lets transactions finish, closes, reports its last position
          n2 follows n1
          n3 follows n1
    "#]],
    );
}

#[test]
fn an_acker_leaves_the_sync_set_before_it_is_restarted() {
    let mut s = wanted(sync());
    restarted(&mut s, 3);
    s.record.restart.insert(n(2), restart(false));
    check(
        &s,
        expect![[r#"
        acker-lost: sync-set because n3 stands in for n2, which is to be restarted
          epoch 4 led by n1, ackers [n2 Member, n3 Joining], Held
          n3 follows n1, joins the sync set
    "#]],
    );
    s.acker(3, Acker::Member);
    check(
        &s,
        expect![[r#"
        acker-lost: sync-set because n2 is to be restarted
          epoch 4 led by n1, ackers [n2 Leaving, n3 Member], Held
          n2 follows n1, leaves the sync set
    "#]],
    );
    let service = s.topology.services[0].clone();
    let of = |s: &Scene| s.record.assignment(&service, 9, &n(2)).role;
    assert!(matches!(of(&s), Role::Follow { restart: None, .. }));
    s.record.ackers.remove(&n(2));
    assert!(matches!(of(&s), Role::Follow { restart: Some(_), acknowledges: false, .. }));
    // The stand-in is lost before it stood in.
    let mut s = wanted(sync());
    s.record.restart.insert(n(2), restart(false));
    s.stream_broken(3);
    check(
        &s,
        expect![[r#"
        restarted: wish because restart of n2 put off: nobody stands in for it
          epoch 4 led by n1, ackers [n2 Member], Held
    "#]],
    );
}

/// The old primary cannot follow the new one as it is: it neither acknowledges to it nor waits to be asked.
#[test]
fn the_old_primary_is_restarted_as_soon_as_a_later_release_leads() {
    let mut s = wanted(sync());
    (2..=3).for_each(|node| restarted(&mut s, node));
    s.claimed(ClaimKind::Handover { to: n(2) });
    s.halted(1, "0-1-110").following(2, "0-1-110").following(3, "0-1-110");
    (2..=3).for_each(|node| restarted(&mut s, node));
    check(
        &s,
        expect![[r#"
        no-primary: promote because n2 has everything that n1 wrote
          epoch 5 led by n2, ackers [n3 Joining], Held
          n1 follows n2
          n2 opens for writes, waiting for acknowledgements
          n3 follows n2, joins the sync set
    "#]],
    );
    s.record.stage = Stage::Led {
        primary: Incumbent { node: n(2), session: Session(1), process: 0, epoch: EPOCH.next() },
    };
    s.of(1).installed = Some(NEXT.into());
    let primary = s.of(2);
    (primary.leads, primary.seen.writable, primary.seen.upstream) = (Some(EPOCH.next()), true, None);
    check(
        &s,
        expect![[r#"
            older-than-primary: restart because n1 is too old to follow n2: it is restarted with 11.8.9-MariaDB
              epoch 5 led by n2, ackers [n2 Member], Held
              n1 is restarted and follows n2
        "#]],
    );
    s.of(1).installed = Some(VERSION.into());
    check(
        &s,
        expect![[r#"
        older-than-primary: waits, too-old: n1 cannot follow n2: 10.11.19-MariaDB is older than its primary, 11.8.9-MariaDB, and could not apply what that writes: upgrade it
          hint: install the programs of 11.8.9-MariaDB on n1
    "#]],
    );
}

#[test]
fn nothing_is_restarted_while_anything_else_is_wrong() {
    let mut s = wanted(asynchronous());
    s.process(2, Process::Exited { how: "signal 9".into() });
    check(
        &s,
        expect![[r#"
        member-away: waits, member-not-following: n2 does not follow n1
    "#]],
    );
    let mut s = wanted(asynchronous());
    s.of(3).seen.upstream.as_mut().unwrap().lag_ms = Some(9_000);
    check(
        &s,
        expect![[r#"
        upgrading: waits, catching-up: n3 is 9000 ms behind
    "#]],
    );
}

#[test]
fn an_upgrade_ends_when_it_is_done_or_cannot_be() {
    let mut s = wanted(asynchronous());
    (1..=3).for_each(|node| restarted(&mut s, node));
    check(
        &s,
        expect![[r#"
        upgrading: wish because upgraded: every member runs the programs that are installed
          epoch 4 led by n1, ackers [], Held
    "#]],
    );
    let mut s = wanted(asynchronous());
    s.record.upgrade = Some(Upgrade { replicas_only: true, accept_no_standby: false });
    (2..=3).for_each(|node| restarted(&mut s, node));
    check(
        &s,
        expect![[r#"
        upgrading: wish because upgraded: every replica runs the programs that are installed
          epoch 4 led by n1, ackers [], Held
    "#]],
    );
    let mut s = wanted(asynchronous());
    s.of(3).installed = Some(VERSION.into());
    check(
        &s,
        expect![[r#"
        upgrading: wish because upgrade refused: n3 could not follow n2: 10.11.19-MariaDB is older than its primary, 11.8.9-MariaDB, and could not apply what that writes: upgrade it; install the same programs there
          epoch 4 led by n1, ackers [], Held
    "#]],
    );
    for older in ["10.6.21-MariaDB", "9.7.4-2"] {
        s.of(3).installed = Some(older.into());
        assert!(s.decides().contains("upgrade refused: n3 cannot be restarted"), "{}", s.decides());
    }
    let mut s = wanted(asynchronous());
    let commands = (vec!["true".to_owned()], vec!["true".to_owned()]);
    s.service().management = Management::Attached {
        socket: "/s".into(),
        data_dir: "/d".into(),
        stop_command: commands.0,
        start_command: commands.1,
    };
    check(
        &s,
        expect![[r#"
        upgrading: wish because upgrade refused: its engines are attached: only what starts them can restart them with other programs
          epoch 4 led by n1, ackers [], Held
    "#]],
    );
    let mut s = wanted(asynchronous());
    s.record.restart.insert(n(3), restart(false));
    s.of(3).life.number += 1;
    check(
        &s,
        expect![[r#"
        restarted: wish because upgrade stopped: n3 was restarted and still runs 10.11.19-MariaDB, not 11.8.9-MariaDB
          epoch 4 led by n1, ackers [], Held
          n3 follows n1
    "#]],
    );
}

#[test]
fn the_only_replica_is_restarted_where_it_is_and_only_if_that_is_accepted() {
    for durability in [Durability::Sync, Durability::Async] {
        let s = of_two(wanted(crate::scene::healthy(durability)));
        assert!(s.decides().contains("nobody could take over"), "{}", s.decides());
    }
    let mut s = of_two(wanted(sync()));
    s.record.upgrade = Some(Upgrade { replicas_only: false, accept_no_standby: true });
    check(
        &s,
        expect![[r#"
        upgrading: restart because an upgrade of n2 from 10.11.19-MariaDB to 11.8.9-MariaDB
          epoch 4 led by n1, ackers [n2 Member], Held
          n2 is restarted and follows n1
    "#]],
    );
    s.record.restart.insert(n(2), restart(true));
    let service = s.topology.services[0].clone();
    let role = s.record.assignment(&service, 9, &n(2)).role;
    assert!(matches!(role, Role::Follow { restart: Some(_), acknowledges: true, .. }));
    // It keeps its part: what it acknowledged, it has.
    s.process(2, Process::Starting).disconnected(2, 5_000);
    s.unwell_since.insert(n(2), Millis(NOW.0 - 5_000));
    check(
        &s,
        expect![[r#"
        short-of-ackers: waits, writes-wait: no replica acknowledges: writes wait until one does
          hint: bring a replica back; `when_no_sync_replica = "degrade"` would go on without
    "#]],
    );
}

#[test]
fn a_takeover_ends_the_upgrade() {
    let mut s = wanted(sync());
    s.record.restart.insert(n(3), restart(false));
    s.process(1, Process::Exited { how: "signal 9".into() });
    assert!(s.decides().starts_with("primary-exited: claim"), "{}", s.decides());
    let mut s = wanted(sync());
    s.claimed(ClaimKind::Handover { to: n(2) }).process(1, Process::Exited { how: "signal 9".into() });
    assert!(s.decides().contains("Takeover"), "{}", s.decides());
}

/// Of those who have everything, the one whom all others can follow as they are.
#[test]
fn a_takeover_prefers_whom_everybody_can_follow() {
    let mut s = asynchronous();
    s.taken_over().lease_over().silent(1).halted(2, "0-1-100").halted(3, "0-1-100");
    restarted(&mut s, 2);
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
    s.halted(2, "0-1-101");
    restarted(&mut s, 2);
    assert!(s.decides().contains("led by n2"), "{}", s.decides());
}

#[test]
fn a_switchover_does_not_pass_the_point_of_no_return_unnamed() {
    use holdfast_core::record::Wish;
    let mut s = wanted(sync());
    (2..=3).for_each(|node| restarted(&mut s, node));
    s.record.wish = Some(Wish::Switchover { to: None });
    check(
        &s,
        expect![[r#"
        switchover-wanted: wish because switchover refused: n2 is of a later release, from which there is no way back: name it with --to, or `holdfast upgrade`; n3 is not in the sync set
          epoch 4 led by n1, ackers [n2 Member], Held
    "#]],
    );
    s.record.wish = Some(Wish::Switchover { to: Some(n(2)) });
    assert!(s.decides().contains("Handover { to: n2 }"), "{}", s.decides());
    s.of(1).installed = Some(VERSION.into());
    check(
        &s,
        expect![[r#"
        switchover-wanted: wish because switchover refused: n1 could not follow n2: 10.11.19-MariaDB is older than its primary, 11.8.9-MariaDB, and could not apply what that writes: upgrade it
          epoch 4 led by n1, ackers [n2 Member], Held
    "#]],
    );
}

#[test]
fn a_process_is_ended_with_everything_applied_and_only_once() {
    let mut member = Member::new(n(2), "shop".parse().unwrap(), Session(1));
    member.exited();
    let life = Life { session: Session(1), number: 1 };
    let role = Role::Follow {
        primary: n(1),
        acknowledges: false,
        hurry: false,
        reclone: false,
        restart: Some(life),
    };
    let members = (1..=3).map(n).collect();
    let group = "shop".parse().unwrap();
    member
        .assign(Assignment { group, epoch: EPOCH, revision: 9, role, relaxed: 0, lineage: 0, members }, NOW)
        .unwrap();
    let mut seen = Observed {
        received: Some(at("0-1-100")),
        applied: Some(at("0-1-90")),
        upstream: Some(Upstream { node: Some(n(1)), stream: Stream::Up, apply_error: None, lag_ms: Some(0) }),
        ..Observed::only(Process::Running)
    };
    assert_eq!(member.next(&seen, NOW), Some(Verb::StopReceiving));
    seen.upstream.as_mut().unwrap().stream = Stream::Off;
    assert_eq!(member.next(&seen, NOW), None);
    seen.drained = true;
    assert_eq!(member.next(&seen, NOW), Some(Verb::Restart));
    member.exited();
    assert_eq!(member.next(&seen, NOW), Some(Verb::Compare { primary: n(1) }));
    assert_ne!(member.report(&seen, None, None, NOW).life, life);
}
