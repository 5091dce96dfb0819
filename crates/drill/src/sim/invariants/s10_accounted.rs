//! S10: nothing disappears silently. Whatever was acknowledged is either on the primary or was saved to a file and
//! counted; and every replica's log is the primary's.

use super::Violation;
use crate::sim::Sim;

pub fn at_the_end(sim: &Sim) -> Result<(), Violation> {
    let Some(primary) = sim.members.iter().copied().find(|n| sim.hosts[*n].engine.writable) else {
        return Ok(());
    };
    let leader = &sim.hosts[primary].engine;
    for (_, write) in sim.writes.owed() {
        let there = write.tx.is_some_and(|tx| leader.has(tx));
        // What only a host had that never comes back is lost, and known to be.
        let went =
            !sim.sync() && sim.gone.is_some_and(|n| write.tx.is_some_and(|tx| sim.hosts[n].engine.has(tx)));
        if !there && !write.saved && !write.evaporated && !went {
            let tx = write.tx.expect("acknowledged writes were written");
            let says = format!(
                "0-{}-{} was acknowledged, is not there, and nobody saved it",
                tx.server, tx.sequence
            );
            return Err(Violation::new("S10", says));
        }
    }
    for node in sim.members.iter().filter(|n| **n != primary && sim.gone != Some(**n)) {
        let log = &sim.hosts[*node].engine.log;
        if let Some(tx) = log.iter().find(|tx| !leader.has(**tx)) {
            let says = format!(
                "{} has 0-{}-{}, which is another one on the primary, or none",
                sim.names[*node], tx.server, tx.sequence
            );
            return Err(Violation::new("S10", says));
        }
    }
    Ok(())
}
