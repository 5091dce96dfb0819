//! Opening and closing an instance for writes (S1, S2, S3): the only place that turns the engine's switch.

use super::{Error, Instance};
use holdfast_core::member::Verb;
use holdfast_core::{Millis, limits};
use std::time::Duration;

/// How long the engine may take to obey [`Verb::Open`].
pub(super) const OPEN_BOUND_MS: u64 = 300;

impl Instance {
    pub(super) async fn promote(&self, wait_for_ack: bool) -> Result<(), Error> {
        let epoch = {
            let mut state = self.lock();
            state.member.proxies_wait(wait_for_ack);
            state.member.promised()
        };
        self.engine.promote(wait_for_ack, epoch.0).await?;
        self.lock().promoted = Some(epoch);
        Ok(())
    }

    /// Opens for writes, unless too little of the lease is left to be sure that it is still held when the engine obeys.
    pub(super) async fn open(&self) -> Result<(), Error> {
        let unfit = {
            let state = self.lock();
            let fit = state.promoted == Some(state.member.promised());
            // An engine that looks fit (no upstream, waits as wanted) may have been started like that.
            if fit { None } else { Some(state.seen.waits_for_ack) }
        };
        if let Some(wait_for_ack) = unfit {
            self.promote(wait_for_ack).await?;
        }
        {
            let mut state = self.lock();
            let now = self.clock.now();
            let epoch = match state.member.next(&state.seen, now) {
                Some(Verb::Open) => state.member.promised(),
                _ => return Ok(()),
            };
            if self.vouched_before && now < Millis(limits::LEASE_MS + limits::CLOCK_DRIFT_MS) {
                // What the life before promised still holds (S14).
                return Err(Error::JustStarted);
            }
            if state.member.write_until().is_none_or(|until| until.since(now) < OPEN_BOUND_MS * 2) {
                return Err(Error::LeaseTooShort);
            }
            state.member.opening(epoch);
        }
        self.lease_changed.notify_one();
        let opened = tokio::time::timeout(Duration::from_millis(OPEN_BOUND_MS), self.engine.open()).await;
        match opened {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => {
                self.fence().await;
                Err(e.into())
            }
            Err(_) => {
                // It may obey at any later time: not acceptable.
                self.kill().await;
                Err(Error::OpenTimedOut)
            }
        }
    }

    /// For a planned switchover: closes when transactions have finished, and answers what arrives meanwhile before it cuts.
    pub(super) async fn give_way(&self) {
        let group = &self.service.name;
        let drained = self.engine.drain_clients(Duration::from_millis(limits::SWITCHOVER_DRAIN_MS)).await;
        if let Ok(left @ 1..) = drained {
            tracing::warn!(%group, left, "transactions did not finish in time and are cut");
        } else if let Err(error) =
            // Proxies elsewhere may not have heard yet.
            self.engine.refuse_writes(Duration::from_millis(limits::REFUSE_WRITES_MS)).await
        {
            tracing::warn!(%group, %error, "writes are not refused in time; clients are cut");
        }
        self.fence().await;
    }

    /// S3: gate, clients, read-only, and past the bound SIGKILL.
    pub(super) async fn fence(&self) {
        let epoch = self.lock().member.leads();
        if let Some(epoch) = epoch {
            (self.close_gate)(epoch);
        }
        let bound = Duration::from_millis(limits::FENCE_MS);
        match tokio::time::timeout(bound, self.engine.close(bound)).await {
            Ok(Ok(_)) => self.lock().member.closed(),
            Ok(Err(e)) => {
                let says = crate::agent::chain(&e);
                tracing::warn!(group = %self.service.name, "closing in order failed ({says}): killing the engine");
                self.kill().await;
            }
            Err(_) => {
                tracing::warn!(group = %self.service.name, "closing in order took too long: killing the engine");
                self.kill().await;
            }
        }
        self.observe().await;
        self.stir.notify_one();
    }

    pub(super) async fn kill(&self) {
        match self.engine.kill().await {
            Ok(()) => self.lock().member.closed(),
            // It cannot be said to be closed; the fence comes again.
            Err(e) => self.trouble(Some(&e)),
        }
    }
}
