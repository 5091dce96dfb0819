//! The two clocks of the program. Decisions use [`Clock`], monotonic and private to this process; people read
//! [`unix_ms`], which is never compared between hosts.

use holdfast_core::Millis;
use tokio::time::Instant;

/// Monotonic milliseconds since this process began to count. Copies count from the same moment.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }
    pub fn now(&self) -> Millis {
        self.at(Instant::now())
    }
    /// A moment on this clock; what lies before its start counts as its start.
    pub fn at(&self, instant: Instant) -> Millis {
        Millis(u64::try_from(instant.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX))
    }
    /// The moment that `millis` names.
    pub fn instant(&self, millis: Millis) -> Instant {
        self.start + std::time::Duration::from_millis(millis.0)
    }
}

/// Milliseconds since 1970 by the wall clock, for people only.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Minutes since midnight (UTC) by the wall clock, for what a person wants done at a time of the day.
pub fn minute_of_day() -> u16 {
    u16::try_from(unix_ms() / 60_000 % (24 * 60)).unwrap_or(0)
}

/// Seconds since 1970 by the wall clock, for certificates.
pub fn unix_s() -> i64 {
    i64::try_from(unix_ms() / 1_000).unwrap_or(i64::MAX)
}
