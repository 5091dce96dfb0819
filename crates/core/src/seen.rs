//! S11: unknown is not absent. What was once seen and is old, and what was never seen, are types of their own.

use serde::{Deserialize, Serialize};

/// A value observed on another host, with how well it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen<T> {
    /// Reported within `limits::SILENT_AFTER_MS`.
    Fresh(T),
    /// The last word before the silence, and its age.
    Stale { value: T, age_ms: u64 },
    /// Not heard of since this observer began.
    Never,
}

impl<T> Seen<T> {
    /// The value if it is fresh.
    pub fn fresh(&self) -> Option<&T> {
        match self {
            Seen::Fresh(v) => Some(v),
            Seen::Stale { .. } | Seen::Never => None,
        }
    }
    /// The value however old it is. For reports and lower bounds, never for a proof of absence.
    pub fn last(&self) -> Option<&T> {
        match self {
            Seen::Fresh(v) | Seen::Stale { value: v, .. } => Some(v),
            Seen::Never => None,
        }
    }
}
