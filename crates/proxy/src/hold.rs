//! A command's wait for a writer, whatever its protocol.
//!
//! Guarantees: it ends at a deadline counted from its beginning, and takes its bytes out of the proxy's budget.

use crate::shared::{Gauge, Kept, Shared, count};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A server that refuses connections or writes is tried again after this long, if nothing else happens; each time
/// after twice as long, up to the second bound, lest many held sessions keep it from starting.
const RETRY_MS: u64 = 50;
const RETRY_MS_MAX: u64 = 400;

/// A command's wait, from its first moment to its end.
#[derive(Debug)]
pub struct Hold {
    bytes: usize,
    begun: Option<Instant>,
    /// While it waits.
    held: Option<(Gauge, Kept)>,
    retry_ms: u64,
    /// Readers that refused.
    pub avoid: Vec<SocketAddr>,
}

/// How long to sleep before looking again.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    pub until: Instant,
    /// Then the wait is over.
    pub is_last: bool,
}

impl Hold {
    /// `bytes`: what the command takes while it waits.
    pub fn new(bytes: usize) -> Hold {
        Hold { bytes, begun: None, held: None, retry_ms: RETRY_MS, avoid: Vec::new() }
    }

    /// Begins or goes on. `retries`: something may have changed without anybody saying so. `None`: the proxy holds as
    /// much as it may.
    pub fn turn(&mut self, shared: &Arc<Shared>, retries: bool) -> Option<Turn> {
        if self.held.is_none() {
            if self.begun.is_none() {
                count(&shared.counters.held_total);
            }
            let kept = shared.keep(self.bytes)?;
            self.held = Some((Gauge::new(shared, |c| &c.held), kept));
        }
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let deadline = begun + Duration::from_millis(shared.limits.hold_ms);
        let tick = Instant::now() + Duration::from_millis(self.retry_ms);
        let until = if retries { tick.min(deadline) } else { deadline };
        self.retry_ms = (self.retry_ms * 2).min(RETRY_MS_MAX);
        Some(Turn { until, is_last: until == deadline })
    }

    /// The command is on its way. Should it have to wait again, that is the same wait.
    pub fn let_go(&mut self) {
        self.held = None;
    }
}
