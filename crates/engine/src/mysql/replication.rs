//! Being a replica, and ceasing to be one (S7).
//!
//! Guarantees: what was received is not discarded before it is applied or asked for again from a primary that the
//! caller chose; threads that already do what is wanted are left alone.
//! Does not know: whether the primary's history fits; the caller compares positions first (S10).

use super::flavour::{self, Replication, Source};
use super::{FOLLOW_DRAIN_MS, MySqlEngine, STATEMENT, datadir, version};
use crate::{Error, ThreadState};
use holdfast_core::version::must_not_follow;
use holdfast_core::{Position, limits};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A thread that stopped with an error is started again no more often than this.
const RESTART_EVERY: Duration = Duration::from_secs(1);
const DRAIN_POLL: Duration = Duration::from_millis(10);

impl MySqlEngine {
    pub(super) async fn replication(&self) -> Result<Option<Replication>, Error> {
        let tables = self.act("looking at replication", self.flavour.replication()).await?;
        self.flavour.read_replication(&tables)
    }

    /// S7. Only the receiving thread is stopped: restarting both could purge what was received.
    pub(super) async fn receive_no_more(&self) -> Result<(), Error> {
        let r = self.replication().await?;
        if r.as_ref().is_some_and(|r| r.io.runs()) {
            self.stop_receiving_thread("stopping the receiving thread", "").await?;
        }
        match r {
            Some(r) if r.sql.runs() => Ok(()),
            r => self.flavour.apply_left(self, r.as_ref()).await,
        }
    }

    pub(super) async fn end_replication(&self, sync: bool, primacy: u64) -> Result<(), Error> {
        let seen = self.look_before("looking before promoting").await?;
        if seen.writable {
            return Err(Error::Precondition("it is writable already".into()));
        }
        if seen.upstream.as_ref().is_some_and(|u| u.io.runs()) {
            return Err(Error::Precondition("it still receives: stop that first (S7)".into()));
        }
        if !seen.drained {
            return Err(Error::Precondition(format!(
                "it has received {} and applied only {} (S7)",
                shown(&seen.received),
                shown(&seen.applied)
            )));
        }
        if !sync && self.sync() {
            datadir::set_commits_alone(&self.at, true)?;
        }
        let id = flavour::writer_id(self.spec.server_id, primacy);
        self.flavour.give_up_half(self).await?;
        self.act("promoting", self.flavour.promote(sync, id)).await?;
        // The server gives a session the id that it has when the session begins.
        self.sessions.act.reset().await;
        self.state().writer_id = Some(id);
        self.flavour.done_with_left(self).await?;
        // A session keeps the server id that it began with, and would write under the follower's.
        self.let_logins_end().await?;
        self.cut_clients(STATEMENT).await?;
        if sync {
            datadir::set_commits_alone(&self.at, false)?;
        }
        Ok(())
    }

    pub(super) async fn wait_for_ack(&self, on: bool) -> Result<(), Error> {
        if !on {
            // Durable first: a restart must not roll back what was answered without an acknowledgement.
            datadir::set_commits_alone(&self.at, true)?;
            self.act("releasing commits", self.flavour.wait_for_ack(false)).await?;
            return Ok(());
        }
        self.act("making commits wait", self.flavour.wait_for_ack(true)).await?;
        datadir::set_commits_alone(&self.at, false)
    }

    pub(super) async fn acknowledge(&self, on: bool) -> Result<(), Error> {
        if self.look_before("looking at acknowledgements").await?.acknowledges == on {
            return Ok(());
        }
        let set = self.flavour.acknowledge(on);
        let Some(r) = self.replication().await?.filter(|r| r.io.runs()) else {
            self.act("changing acknowledgements", set).await?;
            self.act("changing acknowledgements", received_is_synced(on)).await?;
            return Ok(());
        };
        if self.flavour.purges_when_receiving_again() && !r.sql.runs() {
            // Restarting the only thread that runs would purge the relay log.
            return Err(Error::Precondition(
                "its applying thread is stopped; what it received would be discarded".into(),
            ));
        }
        // A connection acknowledges, or not, for as long as it lasts.
        self.stop_receiving_thread("changing acknowledgements", &format!("{set}; ")).await?;
        let stopped = self.replication().await?;
        if self.flavour.purges_when_receiving_again() && !stopped.as_ref().is_some_and(|r| r.sql.runs()) {
            return Err(Error::Precondition("its applying thread stopped meanwhile; follow again".into()));
        }
        self.act("changing acknowledgements", received_is_synced(on)).await?;
        self.act("receiving again", self.flavour.start_receiving()).await?;
        match stopped {
            Some(stopped) if on => self.acknowledge_received(&stopped).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn replicate_from(&self, primary: SocketAddr, acknowledges: bool) -> Result<(), Error> {
        // Receiving on a full disk would wait for a minute, like starting there.
        self.has_room(limits::DISK_ROOM_BYTES)?;
        let r = self.replication().await?;
        let user = self.spec.replication.user.as_str();
        let there = |r: &&Replication| {
            r.host == primary.ip().to_string() && r.port == primary.port() && r.user == user && r.by_id
        };
        if let Some(r) = r.as_ref().filter(there) {
            if !r.io.runs() {
                // At the same address it may be of another release by now.
                self.check_release(primary).await?;
            }
            self.acknowledge(acknowledges).await?;
            return self.start_threads(r).await;
        }
        let tables = self.act("looking before following", self.flavour.look_before_following()).await?;
        let before = self.flavour.read_before_following(&tables)?;
        if before.writable {
            return Err(Error::Precondition("it is writable: close it first (S3)".into()));
        }
        if before.waiting {
            return Err(Error::Precondition(
                "commits wait for an acknowledgement, and following would release them (S3): kill it".into(),
            ));
        }
        self.check_release(primary).await?;
        self.flavour.done_with_left(self).await?;
        if r.is_some() {
            self.stop_receiving_thread("stopping the receiving thread", "").await?;
            self.drain_briefly().await?;
            self.flavour.give_up_half(self).await?;
        }
        // Safe to turn waiting off: nothing is writable and no commit waits.
        let source = Source {
            primary,
            user,
            password: &self.spec.replication.password,
            acknowledges,
            server_id: flavour::follower_id(self.spec.server_id),
            from: before.from,
        };
        self.act("following", self.flavour.follow(&source)).await?;
        // Whatever is still missing is asked for again.
        self.state().residue = None;
        Ok(())
    }

    /// A primary that does not answer now is not followed: the server would connect by itself later, to whatever release is
    /// there by then.
    async fn check_release(&self, primary: SocketAddr) -> Result<(), Error> {
        let Some(theirs) = version::of(primary).await else {
            return Err(Error::Precondition(format!(
                "the primary at {primary} does not answer; it is asked again"
            )));
        };
        let mine = self.look_before("looking before following").await?.version;
        must_not_follow(&mine, &theirs).map_or(Ok(()), |why| Err(Error::Precondition(why)))
    }

    /// Gives the applying thread a moment to use what was received: repointing discards the rest.
    async fn drain_briefly(&self) -> Result<(), Error> {
        let until = Instant::now() + Duration::from_millis(FOLLOW_DRAIN_MS);
        while Instant::now() < until {
            let seen = self.look_before("draining").await?;
            let applies = seen.upstream.is_some_and(|u| u.sql == ThreadState::Running);
            if seen.drained || !applies {
                break;
            }
            sleep(DRAIN_POLL).await;
        }
        Ok(())
    }

    async fn start_threads(&self, r: &Replication) -> Result<(), Error> {
        if r.io.runs() && r.sql == ThreadState::Running {
            return Ok(());
        }
        let failed = [&r.io, &r.sql].into_iter().any(ThreadState::met_an_error);
        {
            let mut state = self.state();
            let now = Instant::now();
            if failed && state.threads_restarted_at.is_some_and(|at| now < at + RESTART_EVERY) {
                return Ok(());
            }
            state.threads_restarted_at = Some(now);
        }
        self.act("starting replication threads", self.flavour.start_replication()).await?;
        self.state().residue = None;
        Ok(())
    }
}

fn shown(position: &Option<Position>) -> String {
    position.as_ref().map_or_else(String::new, Position::to_string)
}

impl ThreadState {
    fn runs(&self) -> bool {
        matches!(self, ThreadState::Running | ThreadState::Connecting { .. })
    }
    fn met_an_error(&self) -> bool {
        matches!(self, ThreadState::Failed { .. } | ThreadState::Connecting { last_error: Some(_) })
    }
}

/// With nothing being received: what was and will be received is on the disk before it is acknowledged, or need not be. A
/// log is synced when it is closed.
fn received_is_synced(acknowledges: bool) -> &'static str {
    match acknowledges {
        true => "SET GLOBAL sync_relay_log=1; FLUSH NO_WRITE_TO_BINLOG RELAY LOGS",
        false => "SET GLOBAL sync_relay_log=10000",
    }
}
