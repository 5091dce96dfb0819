//! S14: without the store a primary goes on only while every other member has vouched for it within a lease; and who
//! vouched does not open until that time has passed, whatever becomes of its agent meanwhile.

use super::Violation;
use crate::sim::Sim;
use holdfast_core::Epoch;
use holdfast_core::limits::LEASE_MS;

/// A yes.
#[derive(Debug, Clone, Copy)]
pub struct Vouch {
    primary: usize,
    epoch: Epoch,
    at: u64,
}

pub fn vouched(sim: &mut Sim, by: usize, primary: usize, epoch: Epoch) {
    let at = sim.now;
    sim.watched.vouches[by] = Some(Vouch { primary, epoch, at });
}

/// All other members said yes within a lease.
pub fn by_all(sim: &Sim, primary: usize, epoch: Epoch) -> bool {
    let others = sim.members.iter().filter(|m| **m != primary);
    others
        .map(|m| sim.watched.vouches[*m])
        .all(|v| v.is_some_and(|v| v.primary == primary && v.epoch == epoch && sim.now <= v.at + LEASE_MS))
}

pub fn opened(sim: &mut Sim, node: usize) {
    let Some(vouch) = sim.watched.vouches[node].filter(|v| v.primary != node) else { return };
    if sim.now < vouch.at + LEASE_MS {
        let ago = sim.now - vouch.at;
        let says =
            format!("{} opens {ago} ms after it vouched for {}", sim.names[node], sim.names[vouch.primary]);
        sim.violate(Violation::new("S14", says));
    }
}
