//! The voters of the store against those of the topology file, and changing them.
//!
//! Guarantees: the topology file alone never changes who votes; [`Embedded::change_voters`] does, one safe step
//! at a time, and only with the consent of the majorities before and after.

use super::found::probe;
use super::types::Voter;
use super::{Embedded, VOTERS};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::timeout;

/// Bringing a new voter up to date and changing the membership takes no longer.
const CHANGE_MS: u64 = 30_000;

/// The topology file and the store disagree about who votes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store's voters are the node ids {stored:?}, the topology file says {configured:?}; the store goes on with its own. Change the store's voters, or correct the file"
)]
pub struct Mismatch {
    pub stored: Vec<u64>,
    pub configured: Vec<u64>,
}

/// Why the voters were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("a store has 1 to {VOTERS} voters, not {voters}; nothing was changed")]
    Number { voters: usize },
    #[error("the new voter {id} does not answer; nothing was changed, start it first")]
    NoAnswer {
        id: u64,
        #[source]
        source: super::TransportError,
    },
    #[error(
        "the new voter {id} is already part of a store; nothing was changed, a new voter starts with an empty directory"
    )]
    InUse { id: u64 },
    #[error("this node does not lead the store, node {leader:?} does; nothing was changed")]
    NotLeader { leader: Option<u64> },
    #[error("the voters were not changed: {0}")]
    Raft(String),
    #[error(
        "the change was not confirmed within {waited_ms} ms; it may still happen, compare the voters before trying again"
    )]
    Unknown { waited_ms: u64 },
}

impl Embedded {
    /// The store's voters as last recorded in this voter's log; empty while the store is not founded.
    pub fn voters(&self) -> BTreeMap<u64, Voter> {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        membership.voter_ids().filter_map(|id| Some((id, membership.get_node(&id)?.clone()))).collect()
    }

    /// If the topology file names other voters than the store has.
    pub fn mismatch(&self) -> Option<Mismatch> {
        let stored: Vec<u64> = self.voters().into_keys().collect();
        let configured: Vec<u64> = self.0.options.voters.keys().copied().collect();
        (!stored.is_empty() && stored != configured).then_some(Mismatch { stored, configured })
    }

    /// Makes exactly these nodes the voters. On the leader only. New ones must be running, with an empty directory
    /// and an id that never voted; they are brought up to date before they count.
    pub async fn change_voters(&self, wanted: &BTreeMap<u64, String>) -> Result<(), ChangeError> {
        if wanted.is_empty() || wanted.len() > VOTERS {
            return Err(ChangeError::Number { voters: wanted.len() });
        }
        let leadership = self.0.leadership.borrow().clone();
        if !leadership.is_me {
            return Err(ChangeError::NotLeader { leader: leadership.leader });
        }
        let current = self.voters();
        let mut joining = BTreeMap::new();
        for (id, address) in wanted.iter().filter(|(id, _)| !current.contains_key(id)) {
            let answer = probe(&self.0.sender, *id).await;
            let answer = answer.map_err(|source| ChangeError::NoAnswer { id: *id, source })?;
            if answer.formed.is_some() {
                return Err(ChangeError::InUse { id: *id });
            }
            joining.insert(*id, Voter { address: address.clone(), store: answer.store });
        }
        let change = async {
            for (id, voter) in joining {
                self.0
                    .raft
                    .add_learner(id, voter, true)
                    .await
                    .map_err(|e| ChangeError::Raft(e.to_string()))?;
            }
            let ids: BTreeSet<u64> = wanted.keys().copied().collect();
            let changed = self.0.raft.change_membership(ids, false).await;
            changed.map(|_| ()).map_err(|e| ChangeError::Raft(e.to_string()))
        };
        let done = timeout(Duration::from_millis(CHANGE_MS), change).await;
        done.unwrap_or(Err(ChangeError::Unknown { waited_ms: CHANGE_MS }))
    }
}
