//! The applied state of this process, shared between whoever applies (one) and whoever reads (many).
//!
//! Guarantees: readers get a consistent state without waiting for I/O; everyone who watches wakes after every
//! apply. Deliberately absent: agreement; the caller applies only what is committed.

use crate::state::{Outcome, State, Txn};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(crate) struct View {
    /// Copied on write only while a reader still holds the previous one.
    state: RwLock<Arc<State>>,
    renewed: Mutex<BTreeMap<String, Instant>>,
    applied: watch::Sender<u64>,
}

impl View {
    pub(crate) fn new(state: State) -> View {
        let view =
            View { state: RwLock::default(), renewed: Mutex::default(), applied: watch::Sender::new(0) };
        view.replace(state);
        view
    }

    /// Applies transactions in order.
    pub(crate) fn apply(&self, txns: &[Txn]) -> Vec<Outcome> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let state = Arc::make_mut(&mut state);
        txns.iter().map(|txn| self.apply_one(state, txn)).collect()
    }

    fn apply_one(&self, state: &mut State, txn: &Txn) -> Outcome {
        let outcome = state.apply(txn);
        if matches!(outcome, Outcome::Done { .. }) && !txn.leases.is_empty() {
            let now = Instant::now();
            let mut renewed = self.renewed();
            for op in txn.leases.iter().filter(|op| op.entitles()) {
                renewed.insert(op.lease().to_owned(), now);
            }
        }
        outcome
    }

    /// Replaces the whole state. When its leases were last renewed is not known, so: not before now.
    pub(crate) fn replace(&self, state: State) {
        let now = Instant::now();
        *self.renewed() = state
            .leases()
            .filter(|(_, lease)| lease.renewals > 0)
            .map(|(name, _)| (name.to_owned(), now))
            .collect();
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }

    /// Wakes everyone who watches.
    pub(crate) fn announce(&self, index: u64) {
        self.applied.send_replace(index);
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// When this process applied what last entitled a holder.
    pub(crate) fn renewed_at(&self, lease: &str) -> Option<Instant> {
        self.renewed().get(lease).copied()
    }

    fn renewed(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
