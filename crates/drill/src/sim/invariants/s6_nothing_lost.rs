//! S4 to S8 together: under `sync`, whoever is promoted has, applied, every write that was acknowledged to a client,
//! unless an operator accepted the loss.

use super::Violation;
use crate::sim::Sim;
use holdfast_core::plan::{Plan, PlanKind};

pub fn promoted(sim: &mut Sim, plan: &Plan) {
    let Some(primary) = plan.record.primary().filter(|_| plan.kind == PlanKind::Promote) else { return };
    if !sim.sync() || sim.forced > 0 {
        return;
    }
    let node = sim.host_of(&primary.node);
    let engine = &sim.hosts[node].engine;
    let missing = sim.writes.owed().find(|(_, w)| w.tx.is_some_and(|tx| !engine.has(tx)));
    if let Some((_, write)) = missing {
        let tx = write.tx.expect("looked at above");
        let says = format!(
            "{} is promoted without the acknowledged write 0-{}-{}",
            primary.node, tx.server, tx.sequence
        );
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
