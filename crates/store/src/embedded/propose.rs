//! Group commit: transactions that arrive while one is being written share the next log entry.
//!
//! Guarantees: a fsync per voter and batch, not per transaction; bounded queue, bounded batches. What was not proposed
//! when its caller gave up is not proposed later.

use super::types::{Batch, Outcomes, Types};
use crate::Error;
use crate::state::{Outcome, TXN_BYTES, TXN_OPERATIONS, Txn};
use openraft::Raft;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

/// Transactions that may wait.
pub(crate) const QUEUE: usize = 1_024;
/// Transactions in one log entry.
const BATCH: usize = 128;
/// Entries on their way: while the followers write one, the leader writes the next.
const IN_FLIGHT: usize = 2;

const _: () = assert!(
    TXN_BYTES + BATCH * TXN_OPERATIONS * 32 < super::MESSAGE_BYTES,
    "the largest entry fits into a message, with 32 bytes for what surrounds a key"
);

/// A transaction and who waits for it.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub txn: Txn,
    pub answer: oneshot::Sender<Result<Outcome, Error>>,
}

/// Proposes until the queue is closed.
pub(crate) async fn run(raft: Raft<Types>, mut queue: mpsc::Receiver<Proposal>) {
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut flights = JoinSet::new();
    let mut held: Option<Proposal> = None;
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        while flights.try_join_next().is_some() {}
        let first = match held.take() {
            Some(proposal) => Some(proposal),
            None => queue.recv().await,
        };
        let Some(first) = first else { return };
        let (batch, over) = fill(first, &mut queue);
        held = over;
        let raft = raft.clone();
        flights.spawn(async move {
            propose(&raft, batch).await;
            drop(slot);
        });
    }
}

/// Adds what waits to the first one, up to the limits. What exceeds them goes first next time.
fn fill(first: Proposal, queue: &mut mpsc::Receiver<Proposal>) -> (Vec<Proposal>, Option<Proposal>) {
    let mut bytes = first.txn.bytes();
    let mut batch = vec![first];
    while batch.len() < BATCH {
        let Ok(next) = queue.try_recv() else { break };
        bytes += next.txn.bytes();
        if bytes > TXN_BYTES {
            return (batch, Some(next));
        }
        batch.push(next);
    }
    (batch, None)
}

async fn propose(raft: &Raft<Types>, mut batch: Vec<Proposal>) {
    batch.retain(|proposal| !proposal.answer.is_closed());
    if batch.is_empty() {
        return;
    }
    let (txns, waiting): (Vec<_>, Vec<_>) = batch.into_iter().map(|p| (p.txn, p.answer)).unzip();
    match raft.client_write(Batch(txns)).await {
        Ok(written) => {
            let Outcomes(outcomes) = written.data;
            assert_eq!(outcomes.len(), waiting.len(), "one outcome per transaction");
            for (answer, outcome) in waiting.into_iter().zip(outcomes) {
                // Whoever gave up waiting has been told that the outcome is unknown.
                let _ = answer.send(Ok(outcome));
            }
        }
        // Even `ForwardToLeader` does not mean that nothing happened: openraft also says so of an entry that was
        // written here and replaced by a new leader, and another voter may still hold it.
        Err(error) => {
            tracing::debug!(%error, "a proposal was interrupted");
            for answer in waiting {
                let _ = answer.send(Err(Error::Interrupted));
            }
        }
    }
}
