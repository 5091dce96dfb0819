//! Where the controller sits.

use crate::scene::{healthy, n};
use holdfast_core::record::{Acker, GroupRecord, Stage};
use holdfast_core::seat::better;
use holdfast_core::topology::Durability;

/// n1 leads, n2 acknowledges.
fn moves(from: usize, silent: &[usize], change: impl Fn(&mut crate::scene::Scene)) -> Option<String> {
    let mut s = healthy(Durability::Sync);
    change(&mut s);
    let fits = |node: &holdfast_core::NodeName| !silent.iter().any(|i| n(*i) == *node);
    better(&s.topology, &n(from), [&s.record].into_iter(), fits).map(|to| to.to_string())
}

#[test]
fn it_leaves_a_primarys_host_for_the_one_on_which_least_depends() {
    assert_eq!(moves(1, &[], |_| {}).as_deref(), Some("n3"));
    assert_eq!(moves(2, &[], |_| {}).as_deref(), Some("n3"));
    assert_eq!(moves(3, &[], |_| {}), None);
}

#[test]
fn it_moves_only_to_voters_that_are_there() {
    assert_eq!(moves(1, &[3], |_| {}).as_deref(), Some("n2"));
    assert_eq!(moves(1, &[2, 3], |_| {}), None);
    assert_eq!(moves(1, &[], |s| s.topology.nodes[2].voter = false).as_deref(), Some("n2"));
}

#[test]
fn it_stays_in_its_region() {
    assert_eq!(moves(1, &[], |s| s.topology.nodes[2].region = "far".parse().unwrap()).as_deref(), Some("n2"));
}

#[test]
fn equals_are_no_reason_to_move() {
    // All three have a primary or an acker each.
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
    let fits = |node: &holdfast_core::NodeName| *node != n(3);
    assert_eq!(better(&s.topology, &n(1), records.into_iter(), fits), None);
    assert_eq!(better(&s.topology, &n(2), records.into_iter(), fits), None);
}
