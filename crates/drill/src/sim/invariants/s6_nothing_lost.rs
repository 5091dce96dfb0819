//! S4 to S8 together: under `sync`, whoever is promoted has, applied, every write that was acknowledged to a client,
//! unless an operator accepted the loss.

use super::Violation;
use crate::sim::Sim;
use holdfast_core::limits::{FENCE_MS, SILENT_AFTER_MS};
use holdfast_core::plan::{Plan, PlanKind};
use holdfast_core::record::{ClaimKind, Life, Stage};
use holdfast_core::report::InstanceReport;

pub fn promoted(sim: &mut Sim, plan: &Plan) {
    let Some(primary) = plan.record.primary().filter(|_| plan.kind == PlanKind::Promote) else { return };
    let node = sim.host_of(&primary.node);
    // What was in memory is gone with the process that was chosen, and no other may open: judged when one does.
    let chosen = Life { session: primary.session, number: primary.process };
    let host = &sim.hosts[node];
    let there = host.engine.on() && host.agent.as_ref().is_some_and(|a| a.member.life() == chosen);
    if there || !sim.in_memory() {
        has_all(sim, node, "is promoted");
    }
}

pub fn opened(sim: &mut Sim, node: usize) {
    // Stopped in the middle of opening, it opens when it is resumed, sees that its lease is over, and closes.
    if sim.now >= sim.hosts[node].resumed_at + FENCE_MS {
        has_all(sim, node, "opens");
    }
}

fn has_all(sim: &mut Sim, node: usize, does: &str) {
    if !sim.sync() || sim.forced > 0 {
        return;
    }
    let engine = &sim.hosts[node].engine;
    let missing = sim.writes.owed().find(|(_, w)| w.tx.is_some_and(|tx| !engine.has(tx)));
    if let Some((_, write)) = missing {
        let tx = write.tx.expect("looked at above");
        let name = &sim.names[node];
        let says = format!("{name} {does} without the acknowledged write 0-{}-{}", tx.server, tx.sequence);
        sim.violate(Violation::new("S6", says));
    }
}

pub fn at_the_end(sim: &Sim) -> Result<(), Violation> {
    if !sim.sync() || sim.forced > 0 {
        return Ok(());
    }
    for (node, host) in sim.members.iter().map(|n| (*n, &sim.hosts[*n])) {
        let missing = sim.writes.owed().filter(|(_, w)| w.tx.is_some_and(|tx| !host.engine.has(tx))).count();
        // A replica may be some transactions behind; the primary may not.
        if host.engine.writable && missing > 0 {
            let says = format!("{} leads and lacks {missing} acknowledged writes", sim.names[node]);
            return Err(Violation::new("S6", says));
        }
    }
    Ok(())
}

/// A divergence is not tie-broken: whoever is promoted has what every other has that could have been, by what its
/// controller was told. Under `sync` the incumbent's own history is proof by itself,
/// and what others have beyond it was acknowledged to nobody.
pub fn proposed(sim: &mut Sim, at: usize, plan: &Plan) {
    let Some(office) = &sim.hosts[at].office else { return };
    let Some((record, _)) = office.controller.group(&plan.group) else { return };
    let (Stage::Claimed(claim), Some(primary)) = (&record.stage, plan.record.primary()) else { return };
    let ClaimKind::Takeover { to: None } = claim.kind else { return };
    let incumbent = |n: usize| claim.from.as_ref().is_some_and(|f| sim.host_of(&f.node) == n);
    let node = sim.host_of(&primary.node);
    if claim.accept_loss || sim.sync() && incumbent(node) {
        return;
    }
    let has = |n: usize| office.heard.get(&n).and_then(|r| r.seen.received.clone());
    let Some(mine) = has(node) else { return };
    let from = claim.from.as_ref().map(|f| sim.host_of(&f.node)).and_then(|n| office.heard.get(&n));
    let proof =
        from.filter(|r| r.halted_for(record.epoch) && r.seen.drained).and_then(|r| r.seen.received.clone());
    if sim.sync() && proof.is_some_and(|p| mine.contains(&p)) {
        return;
    }
    let fit = |n: usize| {
        let eligible = !sim.sync() || incumbent(n) || record.ackers.contains_key(&sim.names[n]);
        let halted = |r: &InstanceReport| r.halted_for(record.epoch) && r.running() && r.seen.drained;
        let region = |n: usize| &sim.topology.nodes[n].region;
        eligible
            && region(n) == region(node)
            && !record.reinit.contains_key(&sim.names[n])
            && office.heard.get(&n).is_some_and(halted)
    };
    let fresh = |n: usize| office.controller.heard_ms_ago(&sim.names[n], sim.local(at));
    let diverges = |n: &usize| {
        *n != node
            && fit(*n)
            && fresh(*n).is_some_and(|ms| ms < SILENT_AFTER_MS)
            && has(*n).is_some_and(|p| p.partial_cmp(&mine).is_none())
    };
    if let Some(other) = sim.members.iter().find(|n| diverges(n)) {
        let theirs = has(*other).map(|p| p.to_string()).unwrap_or_default();
        let who = &sim.names[*other];
        let says = format!(
            "{} (at {mine}) is promoted although {who} (at {theirs}) has what it lacks",
            primary.node
        );
        sim.violate(Violation::new("S6", says));
    }
}
