//! Plans are immutable data: what changes in the record, why, and what each agent will do about it. A plan becomes
//! current by compare-and-set on its parent; a controller that takes over finds its outcome in the record.

use crate::record::{Acker, GroupRecord, Role};
use crate::topology::Service;
use crate::{Epoch, GroupName, NodeName, Position};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanKind {
    Bootstrap,
    /// Begin a new epoch without a writer.
    Claim,
    /// Name the writer of the claimed epoch.
    Promote,
    /// Begin a new epoch that one member hands over to another.
    Switchover,
    SyncSet,
    Degrade,
    Restore,
    /// End a process in order and start it again.
    Restart,
    /// Changes nothing but the operator's wishes.
    Wish,
}

impl fmt::Display for PlanKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PlanKind::Bootstrap => "bootstrap",
            PlanKind::Claim => "claim",
            PlanKind::Promote => "promote",
            PlanKind::Switchover => "switchover",
            PlanKind::SyncSet => "sync-set",
            PlanKind::Degrade => "degrade",
            PlanKind::Restore => "restore",
            PlanKind::Restart => "restart",
            PlanKind::Wish => "wish",
        })
    }
}

/// What one agent does under a plan: its new role. Done when the agent reports that its instance fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub node: NodeName,
    pub does: String,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// 1, 2, … per group.
    pub id: u64,
    /// The plan it builds on; committed only if that is still the last.
    pub parent: u64,
    pub group: GroupName,
    pub epoch: Epoch,
    pub kind: PlanKind,
    pub because: String,
    /// What the old primary is known to have had, and may have acknowledged, and the new one has not, in
    /// [`Plan::known_loss_unit`]s: a lower bound.
    pub known_loss: Option<u64>,
    pub steps: Vec<Step>,
    /// The record it makes.
    pub record: GroupRecord,
}

impl Plan {
    /// What [`Plan::known_loss`] counts, for people.
    pub fn known_loss_unit(&self) -> &'static str {
        self.record.floor.as_ref().map_or("transactions", Position::unit)
    }
    /// Completes `record` to a plan: numbers it and works out the steps.
    pub fn new(
        service: &Service,
        before: &GroupRecord,
        mut record: GroupRecord,
        kind: PlanKind,
        because: String,
    ) -> Plan {
        record.plan = before.plan + 1;
        let steps = service.members.iter().filter_map(|node| step(service, before, &record, node)).collect();
        Plan {
            id: record.plan,
            parent: before.plan,
            group: record.group.clone(),
            epoch: record.epoch,
            kind,
            because,
            known_loss: None,
            steps,
            record,
        }
    }
}

fn step(service: &Service, before: &GroupRecord, after: &GroupRecord, node: &NodeName) -> Option<Step> {
    let was = before.assignment(service, 0, node);
    let is = after.assignment(service, 0, node);
    if was.role == is.role && was.epoch == is.epoch {
        return None;
    }
    let acker_note = match (before.ackers.get(node), after.ackers.get(node)) {
        (a, b) if a == b => "",
        (_, Some(Acker::Joining)) => ", joins the sync set",
        (_, Some(Acker::Member)) => ", is in the sync set",
        (_, Some(Acker::Leaving)) => ", leaves the sync set",
        (_, None) => "",
    };
    let does = match is.role {
        Role::Idle => "stays closed".to_string(),
        Role::Halt => "closes, stops receiving, applies what it has".to_string(),
        Role::Yield => "lets transactions finish, closes, reports its last position".to_string(),
        Role::Lead { wait_for_ack: true, .. } => "opens for writes, waiting for acknowledgements".to_string(),
        Role::Lead { wait_for_ack: false, .. } => "opens for writes, waiting for nobody".to_string(),
        Role::Follow { primary, reclone: true, .. } => {
            format!("is rebuilt from a donor and follows {primary}")
        }
        Role::Follow { primary, restart: Some(_), .. } | Role::Prepare { primary, restart: Some(_), .. } => {
            format!("is restarted and follows {primary}")
        }
        Role::Follow { primary, .. } => format!("follows {primary}{acker_note}"),
        Role::Prepare { primary, .. } => format!("makes itself fit to follow {primary}{acker_note}"),
    };
    Some(Step { node: node.clone(), does })
}
