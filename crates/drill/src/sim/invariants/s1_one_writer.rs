//! S1: one writer per epoch. Under `async`, no two instances are open at once, unless the process that should close
//! one of them is stopped (SIGSTOP outlives any lease; only the replicas' refusal to follow helps then, and `async`
//! has none). Under `sync`, two may be open for a while (S4), but only one can get a write acknowledged.

use super::Violation;
use crate::sim::{Power, Sim};
use holdfast_core::limits;
use holdfast_core::record::Stage;

pub fn opened(sim: &mut Sim, node: usize) {
    // Stopped in the middle of opening, it opens when it is resumed, sees that its lease is over, and closes.
    if sim.sync() || sim.now < sim.hosts[node].resumed_at + limits::FENCE_MS {
        return;
    }
    // Resumed, it closes at once, which takes it up to `FENCE_MS`.
    let other = (0..sim.hosts.len()).find(|n| {
        let h = &sim.hosts[*n];
        let stopped = h.power != Power::Up || sim.now < h.resumed_at + limits::FENCE_MS;
        *n != node && h.engine.writable && h.engine.on() && !stopped
    });
    if let Some(other) = other {
        let says = format!("{} opens while {} is open", sim.names[node], sim.names[other]);
        sim.violate(Violation::new("S1", says));
    }
}

pub fn acknowledged(sim: &mut Sim, server: usize, write: usize) {
    if !sim.sync() {
        return acknowledged_async(sim, server);
    }
    let Some((record, _)) = sim.store.record() else { return };
    let Stage::Led { primary } = &record.stage else { return };
    let leads = sim.host_of(&primary.node);
    if leads == server || sim.forced > 0 {
        return;
    }
    let Some(tx) = sim.writes.all[write].tx else { return };
    if !sim.hosts[leads].engine.has(tx) {
        let says = format!(
            "{} acknowledged a write although {} leads epoch {} and lacks it",
            sim.names[server], sim.names[leads], record.epoch
        );
        sim.violate(Violation::new("S1", says));
    }
}

/// Not by one whose process runs while another has opened since.
fn acknowledged_async(sim: &mut Sim, server: usize) {
    let host = &sim.hosts[server];
    if host.power != Power::Up || sim.now < host.resumed_at + limits::FENCE_MS {
        return;
    }
    let epoch = host.agent.as_ref().and_then(|a| a.member.leads());
    let newer = (0..sim.hosts.len()).find(|n| {
        let h = &sim.hosts[*n];
        let leads = h.agent.as_ref().and_then(|a| a.member.leads());
        *n != server && h.engine.on() && h.engine.writable && leads > epoch
    });
    if let Some(newer) = newer {
        let says = format!("{} still answers writes while {} is open", sim.names[server], sim.names[newer]);
        sim.violate(Violation::new("S1", says));
    }
}
