//! What plans did and how long it took: written with the plan, completed when its steps are done or another plan
//! replaces it. For people; nothing decides by it.

use super::{Error, Office, read};
use crate::api::people::{History, PlanStatus, StepStatus};
use crate::clock::unix_ms;
use holdfast_core::plan::Plan;
use holdfast_core::{GroupName, Millis, NodeName, limits};
use holdfast_store::{Expect, Txn, Write};

/// A plan whose steps are being watched.
#[derive(Debug, Clone)]
pub(super) struct ActivePlan {
    group: GroupName,
    status: PlanStatus,
    committed: Millis,
    revision: u64,
    stored: bool,
}

impl ActivePlan {
    pub(super) fn begin(plan: &Plan, by: &NodeName, now: Millis) -> ActivePlan {
        let step = |s: &holdfast_core::plan::Step| StepStatus {
            node: s.node.to_string(),
            does: s.does.clone(),
            done_ms: None,
        };
        let status = PlanStatus {
            id: plan.id,
            parent: plan.parent,
            epoch: plan.epoch.0,
            kind: plan.kind.to_string(),
            because: plan.because.clone(),
            known_loss: plan.known_loss,
            known_loss_unit: plan.known_loss_unit().into(),
            at_unix_ms: unix_ms(),
            by: by.to_string(),
            took_ms: None,
            steps: plan.steps.iter().map(step).collect(),
        };
        ActivePlan { group: plan.group.clone(), status, committed: now, revision: u64::MAX, stored: false }
    }

    pub(super) fn committed(mut self, revision: u64, now: Millis) -> ActivePlan {
        self.revision = revision;
        self.committed = now;
        self
    }

    /// The plan's own row, and the end of the row that is too old.
    pub(super) fn writes(&self) -> Vec<Write> {
        let value = serde_json::to_vec(&self.status).expect("a plan is plain data");
        let mut writes = vec![Write {
            key: plan_key(&self.group, self.status.id),
            expect: Expect::Any,
            value: Some(value),
        }];
        if let Some(old) = self.status.id.checked_sub(limits::HISTORY_PLANS as u64) {
            writes.push(Write { key: plan_key(&self.group, old), expect: Expect::Any, value: None });
        }
        writes
    }

    /// `node` reported that it fits the record of `revision`.
    pub(super) fn settled(&mut self, node: &NodeName, revision: u64, now: Millis) {
        if revision < self.revision {
            return;
        }
        let took = now.since(self.committed);
        for step in self.status.steps.iter_mut().filter(|s| s.node == node.as_str() && s.done_ms.is_none()) {
            step.done_ms = Some(took);
        }
        if self.status.took_ms.is_none() && self.status.steps.iter().all(|s| s.done_ms.is_some()) {
            self.status.took_ms = Some(took);
        }
    }

    fn finished(&self) -> bool {
        self.status.took_ms.is_some() || self.status.steps.is_empty()
    }
}

impl Office {
    /// Stores the last word about a plan once all its steps are done.
    pub(super) async fn finish_plan(&self, group: &GroupName) {
        let done = {
            let mut inner = self.lock();
            inner.active.get_mut(group).filter(|p| p.finished() && !p.stored).map(|p| {
                p.stored = true;
                p.clone()
            })
        };
        if let Some(plan) = done {
            self.store_history(&plan).await;
        }
    }

    pub(super) async fn store_history(&self, plan: &ActivePlan) {
        let store = &self.store;
        // Only the row itself: a plan this old may have been the one whose turn it was to be removed.
        let write = plan.writes().remove(0);
        if let Err(e) = store.commit(Txn { writes: vec![write], leases: Vec::new() }).await {
            tracing::warn!(group = %plan.group, error = &e as &dyn std::error::Error, "history not stored");
        }
    }

    /// All plans that are kept, oldest first; the running one with the steps as known now.
    pub fn history(&self, service: &str) -> Result<History, Error> {
        let group = self.with_world(service, |w| w.group().clone())?;
        let store = &self.store;
        let mut plans: Vec<PlanStatus> = Vec::new();
        for (key, value) in store.local().range(&format!("plan/{group}/")) {
            plans.push(read(key, &value.bytes)?);
        }
        if let Some(active) = self.lock().active.get(&group) {
            plans.retain(|p| p.id != active.status.id);
            plans.push(active.status.clone());
        }
        plans.sort_by_key(|p| p.id);
        Ok(History { service: service.to_string(), plans })
    }
}

fn plan_key(group: &GroupName, id: u64) -> String {
    format!("plan/{group}/{id:012}")
}
