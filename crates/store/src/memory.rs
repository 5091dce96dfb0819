//! The store of one process that keeps nothing: for `dev` without persistence and for tests of what is above.
//!
//! Guarantees: the same semantics as the embedded store with one voter. Deliberately absent: durability.

use crate::state::{Outcome, State, Txn, Value};
use crate::view::View;
use crate::{Error, Leadership, Store};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::time::Instant;

/// A store in memory. Always its own leader.
#[derive(Debug)]
pub struct Memory {
    view: View,
    /// Index of the last transaction; held while one is applied.
    index: Mutex<u64>,
    leadership: watch::Sender<Leadership>,
}

impl Memory {
    /// An empty store; `id` is reported as its leader.
    pub fn new(id: u64) -> Memory {
        let leadership = Leadership { leader: Some(id), is_me: true, term: 1, stopped: None };
        Memory {
            view: View::new(State::default()),
            index: Mutex::new(0),
            leadership: watch::Sender::new(leadership),
        }
    }
}

#[async_trait::async_trait]
impl Store for Memory {
    async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        txn.check().map_err(Error::Refused)?;
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        *index += 1;
        let outcome = self.view.apply(std::slice::from_ref(&txn)).remove(0);
        self.view.announce(*index);
        Ok(outcome)
    }

    async fn get(&self, key: &str) -> Result<Option<Value>, Error> {
        Ok(self.view.state().get(key).cloned())
    }

    fn local(&self) -> Arc<State> {
        self.view.state()
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.view.watch()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn renewed_at(&self, lease: &str) -> Option<Instant> {
        self.view.renewed_at(lease)
    }
}
