//! The beginning and the end of an engine's process, and what it would begin with.
//!
//! Guarantees: what a crash purged is not forgotten; a process that is to be restarted is not killed.
//! Does not know: why a process is started or ended.

use super::Instance;
use holdfast_core::limits;
use holdfast_core::report::{Observed, Process};
use holdfast_engine::ProcessState;
use std::sync::Arc;
use std::time::Duration;

impl Instance {
    /// Its process runs, and is not yet what [`Engine::start`] promises.
    pub(super) fn half_started(&self) -> bool {
        let runs = matches!(*self.engine.exits().borrow(), ProcessState::Running { .. });
        runs && !self.engine.started() && !self.lock().stopping
    }

    /// Notices programs that an operator installs beside the running engine, until aborted.
    pub async fn watch_programs(self: Arc<Self>) {
        loop {
            let installed = match self.engine.installed().await {
                Ok(version) => Some(version),
                // In the middle of an installation there may be none.
                Err(e) => {
                    tracing::debug!(group = %self.service.name, error = &e as &dyn std::error::Error, "no programs");
                    None
                }
            };
            let was = std::mem::replace(&mut self.lock().installed, installed.clone());
            if let Some(version) = installed.filter(|v| was.is_some_and(|was| was != *v)) {
                tracing::info!(group = %self.service.name, version, "other programs are installed; a restart would use them");
            }
            tokio::time::sleep(Duration::from_millis(limits::PROGRAMS_EVERY_MS)).await;
        }
    }

    /// Starts the engine, and remembers its own words if it refuses.
    pub(super) async fn start(&self) -> Result<(), holdfast_engine::Error> {
        // It may have ended and been started again between two looks: what a crash purged must not be forgotten.
        self.lock().member.exited();
        let started = self.engine.start().await;
        let refusal = match &started {
            Err(e) if !e.retryable() => Some(e.to_string()),
            Ok(()) | Err(_) => None,
        };
        self.lock().refusal = refusal;
        if let Err(e) = &started {
            self.trouble(Some(e));
        }
        started
    }

    /// Ends the engine in order and starts it again. One that takes too long is not killed: other programs may not be
    /// able to recover what it leaves.
    pub(super) async fn restart(&self) -> Result<(), holdfast_engine::Error> {
        // From here on it says nothing more: nobody is to wait for what it was seen to do last.
        self.lock().seen = Observed::only(Process::Starting);
        self.set_activity(Some("restarting".into()));
        let stopped = self.engine.stop(Duration::from_millis(limits::RESTART_STOP_MS)).await;
        let done = match stopped {
            Ok(()) => self.start().await,
            Err(e) => Err(e),
        };
        self.set_activity(None);
        done
    }

    /// End of the agent: close, then shut the engine down.
    pub async fn stop(&self, bound: Duration) {
        self.lock().stopping = true;
        if self.lock().member.leads().is_some() {
            self.fence().await;
        }
        if let Err(e) = self.engine.stop(bound).await {
            tracing::warn!(group = %self.service.name, error = &e as &dyn std::error::Error, "the engine did not stop in order");
            self.kill().await;
        }
        self.observe().await;
    }
}
