//! Who leads, and keeping the log short.
//!
//! Guarantees: `is_me` only after everything that was in the leader's log when its leadership was first seen, and an
//! entry of its own term, is applied, so that everything committed before (every renewal, S2) is applied too; and
//! only while a majority answers. The own term alone would not do: openraft lets a leader that restarts within its
//! term resume, with entries of that term that it committed but has not applied again.

use super::disk::Disk;
use super::types::Types;
use crate::Leadership;
use openraft::{Raft, RaftMetrics, ServerState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Bytes of the log after which a snapshot is taken even if it has few entries, and everything it covers purged.
pub(crate) const LOG_BYTES: u64 = 64 << 20;

type Metrics = RaftMetrics<u64, super::types::Voter>;

/// Leadership as the metrics of this moment say. `quorum_ms`: how old the last contact to a majority may be.
/// `since`: the term this voter leads in and the end of its log when that was first seen.
fn leadership(metrics: &Metrics, quorum_ms: u64, since: &mut Option<(u64, u64)>) -> Leadership {
    if let Err(fatal) = &metrics.running_state {
        return stopped(metrics.current_term, &fatal.to_string());
    }
    let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(metrics.id);
    let term = metrics.current_term;
    if !leads {
        *since = None;
    } else if since.is_none_or(|(seen, _)| seen != term) {
        *since = Some((term, metrics.last_log_index.unwrap_or(0)));
    }
    let caught_up = match (metrics.last_applied, *since) {
        (Some(id), Some((_, end))) => id.index >= end && id.leader_id.term == term,
        _ => false,
    };
    let alone = metrics.membership_config.membership().voter_ids().count() == 1;
    let heard = alone || metrics.millis_since_quorum_ack.is_some_and(|ms| ms <= quorum_ms);
    Leadership { leader: metrics.current_leader, is_me: leads && caught_up && heard, term, stopped: None }
}

/// Leadership of a store that has ended.
pub(crate) fn stopped(term: u64, reason: &str) -> Leadership {
    Leadership { leader: None, is_me: false, term, stopped: Some(reason.into()) }
}

/// Follows the metrics until the store stops.
pub(crate) async fn follow(
    raft: Raft<Types>,
    disk: Arc<Disk>,
    log_bytes: Arc<AtomicU64>,
    quorum_ms: u64,
    leadership_sender: watch::Sender<Leadership>,
) {
    let mut metrics = raft.metrics();
    let (mut snapshot_asked_at, mut since) = (0, None);
    loop {
        let now = metrics.borrow_and_update().clone();
        let mut next = leadership(&now, quorum_ms, &mut since);
        if let (Some(reason), Some(failure)) = (&mut next.stopped, disk.failure()) {
            *reason = format!("its file failed: {failure}").into();
        }
        let ended = next.stopped.is_some();
        leadership_sender.send_if_modified(|current| {
            let changed = *current != next;
            *current = next;
            changed
        });
        if ended {
            return;
        }
        if log_bytes.load(Ordering::Relaxed) > LOG_BYTES {
            shorten(&raft, &now, &mut snapshot_asked_at).await;
        }
        if metrics.changed().await.is_err() {
            let term = now.current_term;
            leadership_sender.send_replace(stopped(term, "it was shut down"));
            return;
        }
    }
}

/// Purges what the snapshot covers; takes a new one once per state that is not covered.
async fn shorten(raft: &Raft<Types>, metrics: &Metrics, asked_at: &mut u64) {
    let snapshot = metrics.snapshot.map_or(0, |id| id.index);
    let applied = metrics.last_applied.map_or(0, |id| id.index);
    let purged = metrics.purged.map_or(0, |id| id.index);
    let asked = if snapshot > purged {
        raft.trigger().purge_log(snapshot).await
    } else if applied > *asked_at {
        *asked_at = applied;
        raft.trigger().snapshot().await
    } else {
        return;
    };
    if let Err(error) = asked {
        tracing::debug!(%error, "the log was not shortened");
    }
}
