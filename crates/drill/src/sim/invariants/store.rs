//! The store: what was committed stays. No two voters ever apply different entries at the same place of the log.
//! Everything else rests on it, so it is watched by itself.

use super::Violation;
use crate::sim::Sim;

pub fn replaced(sim: &mut Sim, node: usize, place: usize) {
    let says = format!("{} applies another entry at {place} than was committed there", sim.names[node]);
    sim.violate(Violation::new("store", says));
}
