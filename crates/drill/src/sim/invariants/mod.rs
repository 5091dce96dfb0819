//! What must never happen, one rule per file, each named after the rule of the design that it watches.

pub mod liveness;
mod s10_accounted;
mod s1_one_writer;
mod s5_sync_set;
mod s6_nothing_lost;

use super::Sim;
use holdfast_core::plan::Plan;
use holdfast_core::record::Stage;

/// A rule that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {says}")]
pub struct Violation {
    pub rule: &'static str,
    pub says: String,
}

impl Violation {
    pub fn new(rule: &'static str, says: impl Into<String>) -> Violation {
        Violation { rule, says: says.into() }
    }
}

/// A plan was committed to the store.
pub fn committed(sim: &mut Sim, plan: &Plan) {
    if matches!(plan.record.stage, Stage::Led { .. }) {
        s6_nothing_lost::promoted(sim, plan);
    }
}

/// An engine was opened for writes by its agent.
pub fn opened(sim: &mut Sim, node: usize) {
    s1_one_writer::opened(sim, node);
}

/// A client got the answer to its commit.
pub fn acknowledged(sim: &mut Sim, server: usize, write: usize, acker: Option<usize>) {
    s1_one_writer::acknowledged(sim, server, write);
    s5_sync_set::acknowledged(sim, server, acker);
}

/// The run is over and the group healthy.
pub fn at_the_end(sim: &Sim) -> Result<(), Violation> {
    s6_nothing_lost::at_the_end(sim)?;
    s10_accounted::at_the_end(sim)
}
