//! S2: nobody is named primary before a lease and the drift have passed since the last renewal that was committed for
//! the one before, unless that one has closed and cannot open again, or every recorded acker has stopped receiving (S4).
//! And the holder stops with its lease, unless all others vouched for it since (S14).
//!
//! Counted here from what was committed and from what engines do, on the one clock of the run; not from what anybody
//! says or believes.

use super::{Violation, s14_vouched};
use crate::sim::{Power, Sim};
use holdfast_core::Epoch;
use holdfast_core::limits::{CLOCK_DRIFT_MS, FENCE_MS, LEASE_MS};
use holdfast_core::plan::Plan;
use holdfast_core::record::{Assurance, Claim, ClaimKind, GroupRecord, Incumbent, Stage};

/// Entitlements of one epoch.
#[derive(Debug, Default, Clone, Copy)]
pub struct Lease {
    epoch: Epoch,
    /// When the last renewal or grant was committed.
    committed: u64,
    /// When the last one that was committed had been sent.
    sent: u64,
}

/// A grant entitles as a renewal does.
pub fn led(sim: &mut Sim, plan: &Plan) {
    sim.watched.lease = Lease { epoch: plan.epoch, committed: sim.now, sent: 0 };
}

pub fn renewed(sim: &mut Sim, epoch: Epoch, sent: u64) {
    let now = sim.now;
    let lease = &mut sim.watched.lease;
    if lease.epoch == epoch {
        lease.committed = now;
        lease.sent = lease.sent.max(sent);
    }
}

/// A claimed epoch gets its writer.
pub fn promoted(sim: &mut Sim, before: &GroupRecord, plan: &Plan) {
    let Stage::Claimed(Claim { from: Some(from), kind, .. }) = &before.stage else { return };
    let waited = sim.now - sim.watched.lease.committed;
    // The slowest clock that the drift allows has counted all of it.
    let over = waited * (LEASE_MS + CLOCK_DRIFT_MS) >= LEASE_MS * (LEASE_MS + CLOCK_DRIFT_MS);
    let handed_over = matches!(kind, ClaimKind::Handover { .. });
    if over || closed(sim, from) || (!handed_over && revoked(sim, before, from)) {
        return;
    }
    let says = format!(
        "epoch {} is given to a new primary {waited} ms after {} last renewed, and it can still write",
        plan.epoch, from.node
    );
    sim.violate(Violation::new("S2", says));
}

/// It takes no writes, and never will again in that epoch.
fn closed(sim: &Sim, from: &Incumbent) -> bool {
    let host = &sim.hosts[sim.host_of(&from.node)];
    let again = host.agent.as_ref().is_some_and(|a| {
        a.session == from.session
            && (a.member.leads().is_some()
                || a.member.promised() <= from.epoch && a.member.gave_up() < Some(from.epoch))
    });
    (!host.engine.writable || ended(host)) && !again
}

fn ended(host: &crate::sim::Host) -> bool {
    matches!(host.engine.power, crate::sim::engine::Power::Off { .. })
}

/// No write of `from` can be acknowledged any more.
fn revoked(sim: &Sim, record: &GroupRecord, from: &Incumbent) -> bool {
    let primary = sim.host_of(&from.node);
    sim.sync()
        && record.assurance == Assurance::Held
        && !record.ackers.is_empty()
        && record.ackers.keys().all(|n| {
            let receiver = &sim.hosts[sim.host_of(n)].engine.receiver;
            receiver.as_ref().is_none_or(|r| !r.on || r.node != primary)
        })
}

/// Who answers a commit has a lease, or the word of all others. A stopped process cannot close; it does when it goes on.
pub fn acknowledged(sim: &mut Sim, server: usize) {
    let host = &sim.hosts[server];
    if host.power != Power::Up || sim.now < host.resumed_at + FENCE_MS {
        return;
    }
    let Some(epoch) = host.agent.as_ref().and_then(|a| a.member.leads()) else { return };
    let lease = sim.watched.lease;
    // Of an epoch that is over, the lease may not be: what ended it is for `promoted` to judge.
    if lease.epoch != epoch || sim.now <= lease.sent + LEASE_MS || s14_vouched::by_all(sim, server, epoch) {
        return;
    }
    let ms = sim.now - lease.sent;
    let says = format!("{} answers a commit {ms} ms after it asked for its last lease", sim.names[server]);
    sim.violate(Violation::new("S2", says));
}
