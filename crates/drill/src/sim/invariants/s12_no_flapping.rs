//! S12: after a takeover nobody takes over again by himself for the length of the cool-down, unless the primary is
//! certainly gone (its process ended or hangs, its agent is a new one, it closed for good) or a person asked for it; and
//! no takeover leaves the region unless the topology says so.

use super::Violation;
use crate::sim::{Sim, engine};
use holdfast_core::limits::{CLOCK_DRIFT_MS, COOL_DOWN_MS, LEASE_MS};
use holdfast_core::plan::Plan;
use holdfast_core::record::{Claim, ClaimKind, GroupRecord, Stage, Wish};

/// How long ago a process may have hung, or ended, for the word of it to be still under way.
const OLD_NEWS_MS: u64 = 12_000;

/// The last takeover, and what its primary was then.
#[derive(Debug, Clone, Copy)]
pub struct Takeover {
    at: u64,
    node: usize,
    engine_life: u64,
    process_life: u64,
}

pub fn promoted(sim: &mut Sim, before: &GroupRecord, plan: &Plan) {
    let Stage::Claimed(Claim { from, kind, .. }) = &before.stage else { return };
    let Some(primary) = plan.record.primary() else { return };
    let node = sim.host_of(&primary.node);
    let host = &sim.hosts[node];
    let ClaimKind::Takeover { to } = kind else {
        sim.watched.primary_since(node);
        return;
    };
    // Named in a life that may be over by then: sessions are numbered like lives.
    let (engine_life, process_life) = (host.engine.life, primary.session.0);
    sim.watched.takeover = Some(Takeover { at: sim.now, node, engine_life, process_life });
    let region = |n| sim.topology.node(n).map(|n| n.region.clone());
    let left = from.as_ref().is_some_and(|f| region(&f.node) != region(&primary.node));
    if left && to.is_none() && !sim.service().cross_region_failover {
        let says = format!("{} took over from another region", primary.node);
        sim.violate(Violation::new("S12", says));
    }
}

pub fn claimed(sim: &mut Sim, before: &GroupRecord, plan: &Plan) {
    let Stage::Claimed(Claim { kind: ClaimKind::Takeover { .. }, .. }) = &plan.record.stage else { return };
    let asked = matches!(before.wish, Some(Wish::Failover { .. }));
    let Some(last) = sim.watched.takeover.filter(|_| before.primary().is_some() && !asked) else { return };
    // On the fastest clock that the drift allows.
    let wait = COOL_DOWN_MS * LEASE_MS / (LEASE_MS + CLOCK_DRIFT_MS);
    let host = &sim.hosts[last.node];
    let over = before.primary().map(|p| p.epoch);
    let closed = host.agent.as_ref().is_none_or(|a| a.member.gave_up() >= over);
    let hung = host.engine.power == engine::Power::Hung || sim.now < host.engine.hung_at + OLD_NEWS_MS;
    let certain = host.life != last.process_life
        || host.engine.life != last.engine_life
        || !host.engine.on()
        || host.engine.ended_at > 0 && sim.now < host.engine.ended_at + OLD_NEWS_MS
        || hung && host.engine.hung_at > 0
        || closed;
    if sim.now < last.at + wait && !certain {
        let ms = sim.now - last.at;
        let says = format!("{ms} ms after the last takeover, {}: {}", sim.names[last.node], plan.because);
        sim.violate(Violation::new("S12", says));
    }
}
