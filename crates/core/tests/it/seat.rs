//! Where the controller sits.

use crate::scene::{healthy, n};
use holdfast_core::record::{Acker, GroupRecord, Stage};
use holdfast_core::seat::better;
use holdfast_core::topology::Durability;

/// n1 leads, n2 acknowledges.
fn moves(from: usize, change: impl Fn(&mut crate::scene::Scene)) -> Option<String> {
    let mut s = healthy(Durability::Sync);
    change(&mut s);
    better(&s.topology, &n(from), [&s.record].into_iter()).map(|to| to.to_string())
}

#[test]
fn it_leaves_a_primarys_host_for_the_one_on_which_least_depends() {
    assert_eq!(moves(1, |_| {}).as_deref(), Some("n3"));
    assert_eq!(moves(2, |_| {}).as_deref(), Some("n3"));
    assert_eq!(moves(3, |_| {}), None);
}

#[test]
fn it_moves_only_to_voters() {
    assert_eq!(moves(1, |s| s.topology.nodes[2].voter = false).as_deref(), Some("n2"));
}

#[test]
fn it_stays_in_its_region() {
    assert_eq!(moves(1, |s| s.topology.nodes[2].region = "far".parse().unwrap()).as_deref(), Some("n2"));
}

#[test]
fn equals_are_no_reason_to_move() {
    // Both have a primary and an acker each.
    let s = healthy(Durability::Sync);
    let mut crossed = s.record.clone();
    crossed.stage = match crossed.stage {
        Stage::Led { mut primary } => {
            primary.node = n(2);
            Stage::Led { primary }
        }
        other => other,
    };
    crossed.ackers = [(n(1), Acker::Member)].into();
    let records: [&GroupRecord; 2] = [&s.record, &crossed];
    let mut topology = s.topology;
    topology.nodes[2].voter = false;
    assert_eq!(better(&topology, &n(1), records.into_iter()), None);
    assert_eq!(better(&topology, &n(2), records.into_iter()), None);
}
