//! The pure heart of Holdfast: what is known, what is decided, and why.
//!
//! Guarantees: every function here is a function of its arguments. Time, randomness and I/O are handed in by
//! the caller, so the simulator and the hosts run the same code.
//! Deliberately absent: tokio, clocks, sockets, files, TOML, HTTP.

pub mod choose;
pub mod controller;
pub mod decide;
pub mod hand_back;
pub mod limits;
pub mod member;
pub mod name;
pub mod plan;
pub mod position;
pub mod record;
pub mod report;
pub mod route;
pub mod schedule;
pub mod seat;
pub mod secret;
pub mod seen;
pub mod switchover;
mod sync_set;
pub mod topology;
pub mod upgrade;
pub mod version;
pub mod world;

pub use name::{GroupName, NodeName, RegionName, UserName, ZoneName};
pub use position::Position;
pub use route::{Endpoint, Gate, RouteSnapshot};
pub use seen::Seen;

use serde::{Deserialize, Serialize};

/// The number of a group's current primacy. Starts at 0 (never had a primary) and only grows (S1).
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0.checked_add(1).expect("2^64 failovers outlast any deployment"))
    }
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Milliseconds on some monotonic clock of one process. Never compared between hosts, never stored (S2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// Time since `earlier`, in ms; 0 if `earlier` is later.
    pub fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
    /// This moment plus `ms`.
    pub fn plus(self, ms: u64) -> Millis {
        Millis(self.0.saturating_add(ms))
    }
}
