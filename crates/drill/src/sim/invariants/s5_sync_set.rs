//! S5: whoever could acknowledge is recorded, and where durability is recorded as held no write is acknowledged
//! without one of them.

use super::Violation;
use crate::sim::Sim;
use holdfast_core::record::{Assurance, Stage};

pub fn acknowledged(sim: &mut Sim, server: usize, acker: Option<usize>) {
    if !sim.sync() {
        return;
    }
    let Some((record, _)) = sim.store.record() else { return };
    let leads = match &record.stage {
        Stage::New => None,
        Stage::Claimed(claim) => claim.from.as_ref(),
        Stage::Led { primary } => Some(primary),
    };
    if leads.is_none_or(|p| p.node != sim.names[server]) || record.assurance != Assurance::Held {
        return;
    }
    let says = match acker {
        None => format!("{} answered a commit without any acknowledgement", sim.names[server]),
        Some(acker) if !record.ackers.contains_key(&sim.names[acker]) => {
            format!("{} acknowledged a write of {} and is not recorded", sim.names[acker], sim.names[server])
        }
        Some(_) => return,
    };
    sim.violate(Violation::new("S5", says));
}
