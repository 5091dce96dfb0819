//! Where the controller should sit: not on a host that it would be lost together with.
//!
//! A primary whose host dies has to wait for nobody but the controller. If that dies with it, the election of the next one
//! and its first look come first: most of a second. So the controller moves to a voter without a primary while nothing is
//! the matter.
//! Guarantees: a move makes it better, so that there is no moving to and fro between equals.
//! Does not know: how it is moved.

use crate::record::GroupRecord;
use crate::topology::Topology;
use crate::{NodeName, limits};

/// How much would be waiting for a controller if a host died with it: primaries, whose clients cannot write, then
/// recorded ackers, for whose replacement a primary may have to wait.
fn weight<'r>(node: &NodeName, records: impl Iterator<Item = &'r GroupRecord>) -> (usize, usize) {
    records.fold((0, 0), |(primaries, ackers), r| {
        let leads = r.primary().is_some_and(|p| p.node == *node);
        (primaries + usize::from(leads), ackers + usize::from(r.ackers.contains_key(node)))
    })
}

/// A voter of the same region on whose host less depends than `here`, if there is one: the best, in the order of the
/// topology. (From another region every report and every commit would take longer.)
pub fn better<'r>(
    topology: &Topology,
    here: &NodeName,
    records: impl Iterator<Item = &'r GroupRecord> + Clone,
) -> Option<NodeName> {
    let mine = weight(here, records.clone());
    let region = topology.node(here).map(|n| &n.region);
    let others = topology.nodes.iter().filter(|n| n.voter && n.name != *here && Some(&n.region) == region);
    let best = others.map(|n| (weight(&n.name, records.clone()), &n.name)).min_by_key(|(w, _)| *w)?;
    (best.0 < mine).then(|| best.1.clone())
}

const _: () =
    assert!(limits::SEAT_CALM_MS < limits::SEAT_RETRY_MS, "a move that failed is no reason to hurry");
