//! Handing the leadership to a named voter.
//!
//! Guarantees: nothing happens but an election, which Raft allows at any time: what was committed stays committed, and
//! at most one voter leads. Meanwhile nothing is proposed here; if the other does not win, this voter leads on.
//! openraft has no transfer of its own: a follower votes for nobody while it protects its leader, so the leader falls
//! silent for that long, and the other is asked to stand before anybody does so by himself.

use super::Embedded;
use super::network::TransportError;
use super::types::RpcKind;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Why the leadership stayed where it was, or went elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    #[error("this voter does not lead")]
    NotLeader,
    #[error("node {0} is not another voter of this store")]
    NotAVoter(u64),
    #[error("it was not asked to stand")]
    NotAsked(#[source] TransportError),
    #[error("it was not elected within {waited_ms} ms")]
    NotElected { waited_ms: u64 },
}

/// While it lives, this voter leads in silence.
struct Silence<'a>(&'a Embedded);

impl<'a> Silence<'a> {
    fn fall(voter: &'a Embedded) -> Silence<'a> {
        voter.0.silent.store(true, Ordering::Release);
        voter.0.raft.runtime_config().heartbeat(false);
        Silence(voter)
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.0.0.raft.runtime_config().heartbeat(true);
        self.0.0.silent.store(false, Ordering::Release);
    }
}

impl Embedded {
    /// Lets voter `to` lead. For about `election_max_ms` and an election, nobody commits anything.
    pub async fn hand_over(&self, to: u64) -> Result<(), HandOverError> {
        if !self.0.leadership.borrow().is_me {
            return Err(HandOverError::NotLeader);
        }
        let other = self.voters().get(&to).filter(|_| to != self.0.options.id).map(|v| v.store);
        let store = other.ok_or(HandOverError::NotAVoter(to))?;
        let _silence = Silence::fall(self);
        let timing = self.0.options.timing;
        // The followers protect their leader from the last word that they had of it, which may be under way.
        let protected = Duration::from_millis(timing.election_max_ms + timing.heartbeat_ms / 2);
        sleep(protected).await;
        let within = Duration::from_millis(timing.election_max_ms);
        let asked = self.0.sender.call::<(), ()>((to, Some(store)), RpcKind::Stand, (), within);
        asked.await.map_err(HandOverError::NotAsked)?;
        let mut leadership = self.0.leadership.clone();
        let waited_ms = 2 * timing.election_max_ms;
        let over = leadership.wait_for(|l| !l.is_me);
        match timeout(Duration::from_millis(waited_ms), over).await {
            Ok(_) => Ok(()),
            Err(_) => Err(HandOverError::NotElected { waited_ms }),
        }
    }
}
