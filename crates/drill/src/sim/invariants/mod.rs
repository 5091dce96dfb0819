//! What must never happen, one rule per file, each named after the rule of the design that it watches.

pub mod liveness;
mod s10_accounted;
mod s12_no_flapping;
mod s14_vouched;
mod s1_one_writer;
mod s2_lease;
mod s5_sync_set;
mod s6_nothing_lost;
mod store;

use super::Sim;
use holdfast_core::plan::Plan;
use holdfast_core::record::{GroupRecord, Stage};
use holdfast_core::{Epoch, Millis};

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

/// What the checkers remember of a run.
#[derive(Debug, Default)]
pub struct Watched {
    lease: s2_lease::Lease,
    vouches: Vec<Option<s14_vouched::Vouch>>,
    takeover: Option<s12_no_flapping::Takeover>,
}

impl Watched {
    pub fn new(hosts: usize) -> Watched {
        Watched { vouches: vec![None; hosts], ..Watched::default() }
    }
    /// A primary that no takeover made: whatever the last one was about is over.
    fn primary_since(&mut self, _node: usize) {
        self.takeover = None;
    }
}

/// A controller has decided on a plan.
pub fn proposed(sim: &mut Sim, office: usize, plan: &Plan) {
    s6_nothing_lost::proposed(sim, office, plan);
}

/// A plan was committed to the store, in the place of `before`.
pub fn committed(sim: &mut Sim, before: &GroupRecord, plan: &Plan) {
    s12_no_flapping::claimed(sim, before, plan);
    if matches!(plan.record.stage, Stage::Led { .. }) && before.primary().is_none() {
        s2_lease::promoted(sim, before, plan);
        s2_lease::led(sim, plan);
        s6_nothing_lost::promoted(sim, plan);
        s12_no_flapping::promoted(sim, before, plan);
    }
}

/// A renewal of the lease was committed; the agent sent it at `sent` on its clock.
pub fn renewed(sim: &mut Sim, agent: usize, epoch: Epoch, sent: Millis) {
    let sent = sim.hosts[agent].clock.global(sent);
    s2_lease::renewed(sim, epoch, sent);
}

/// A member said yes to a primary without a store.
pub fn vouched(sim: &mut Sim, by: usize, primary: usize, epoch: Epoch) {
    s14_vouched::vouched(sim, by, primary, epoch);
}

/// A voter applied another entry than was applied before at that place.
pub fn replaced(sim: &mut Sim, node: usize, place: usize) {
    store::replaced(sim, node, place);
}

/// An engine was made to follow a later release, and received what that wrote: it may not be able to apply it.
pub fn older_follows(sim: &mut Sim, node: usize) {
    let says = format!("{} received what a later release wrote", sim.names[node]);
    sim.violate(Violation::new("releases", says));
}

/// An engine was opened for writes by its agent.
pub fn opened(sim: &mut Sim, node: usize) {
    s1_one_writer::opened(sim, node);
    s14_vouched::opened(sim, node);
    s6_nothing_lost::opened(sim, node);
}

/// A client got the answer to its commit.
pub fn acknowledged(sim: &mut Sim, server: usize, write: usize, acker: Option<usize>) {
    s1_one_writer::acknowledged(sim, server, write);
    s2_lease::acknowledged(sim, server);
    s5_sync_set::acknowledged(sim, server, acker);
}

/// The run is over and the group healthy.
pub fn at_the_end(sim: &Sim) -> Result<(), Violation> {
    s6_nothing_lost::at_the_end(sim)?;
    s10_accounted::at_the_end(sim)
}
