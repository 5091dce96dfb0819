//! Going on alone when a majority of the voters is lost for good: an operator's decision, never automatic.
//!
//! Guarantees: the node keeps everything in its own log, becomes the only voter, and its directory gets a new
//! name, so that no former voter counts it in any more.
//! What it cannot guarantee: that the lost voters knew nothing newer (transactions that only they had are gone), and
//! that they stay away. If a majority of the former voters starts again, there are two stores: their directories
//! must be removed before, and they come back with new ids.

use super::disk::{self, Disk, Identity};
use super::types::{Entry, LogId, Vote, Voter};
use openraft::{CommittedLeaderId, EntryPayload, Membership};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What the recovery found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Voters before, as far as this node's log knows. All but this one must never start with their old directories.
    pub former: BTreeMap<u64, Voter>,
    /// Index of the last entry that was kept.
    pub last_index: u64,
}

/// Makes the voter in `dir`, which must not be running, the only one. Blocks on its disk.
pub fn recover_lost_quorum(
    dir: &Path,
    id: u64,
    cluster: &str,
    address: &str,
) -> Result<Recovered, super::Error> {
    let disk = Disk::open_existing(dir, &Identity { cluster: cluster.to_owned(), id })?;
    let former = membership(&disk)?;
    let log = disk.log_state()?;
    let (last_term, last_index) = log.last.map_or((0, 0), |last| (last.leader_id.term, last.index));
    let voted_term = disk.vote()?.map_or(0, |vote| vote.leader_id.term);
    let term = last_term.max(voted_term) + 1;
    let store = disk::new_store_id()?;
    let alone = BTreeMap::from([(id, Voter { address: address.to_owned(), store })]);
    let entry = Entry {
        log_id: LogId::new(CommittedLeaderId::new(term, id), log.last.map_or(0, |last| last.index + 1)),
        payload: EntryPayload::Membership(Membership::new(vec![BTreeSet::from([id])], alone)),
    };
    disk.rename(store, &Vote::new(term, id), &entry)?;
    disk.close()?;
    Ok(Recovered { former, last_index })
}

/// The last membership of the log, else of the snapshot.
fn membership(disk: &Disk) -> Result<BTreeMap<u64, Voter>, super::Error> {
    let state = disk.log_state()?;
    let first = state.purged.map_or(0, |id| id.index + 1);
    let last = state.last.map_or(0, |id| id.index);
    let logged =
        disk.entries(first..=last.max(first), false)?.into_iter().rev().find_map(|entry| {
            match entry.payload {
                EntryPayload::Membership(membership) => Some(membership),
                _ => None,
            }
        });
    let snapshot = disk.snapshot()?.map(|(meta, _)| meta.last_membership.membership().clone());
    let membership = logged.or(snapshot).unwrap_or_default();
    Ok(membership.nodes().map(|(id, voter)| (*id, voter.clone())).collect())
}
