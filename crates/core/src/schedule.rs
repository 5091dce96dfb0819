//! When a backup of a service is made, and by whom. Pure: the controller keeps one [`Job`] for each service in the store and
//! asks [`next`] for the one that is to follow.
//!
//! Guarantees: at most one job per service is under way as far as anybody knows; one whose host is gone is given to another;
//! one that failed is tried again, ever more seldom. Does not know: how a backup is made. Two of one service at once, which a
//! host that was only taken for gone can cause, harm nothing: each is complete in itself.

use crate::NodeName;
use crate::record::Session;
use serde::{Deserialize, Serialize};

/// When backups are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// At this minute of each day, UTC.
    Daily { minute: u16 },
    /// So long after the last one began.
    Every { ms: u64 },
}

/// A backup that a host was told to make. Times are of the controllers' wall clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Grows with each job of the service.
    pub number: u64,
    pub node: NodeName,
    /// The life of the agent that was told: the next one knows nothing of it.
    pub session: Session,
    pub ordered_unix_ms: u64,
    /// Absent while it is under way.
    pub end: Option<End>,
    /// How many jobs failed since the last that did not.
    pub failures: u32,
    /// When the last good one was ordered: what it has is not older than the backup before that moment.
    pub good_unix_ms: Option<u64>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub at_unix_ms: u64,
    pub good: bool,
    /// For people: what was made, or why nothing was.
    pub says: String,
}

const DAY_MS: u64 = 86_400_000;
const MINUTE_MS: u64 = 60_000;
/// After a failure. Twice as long after each further one, up to a day.
const RETRY_MS: u64 = 600_000;
/// A clock that was so far ahead when the last job was ordered is not waited for.
const CLOCKS_DIFFER_MS: u64 = 300_000;

impl Schedule {
    /// When the next is due after one that was ordered.
    pub fn due(&self, ordered_unix_ms: u64) -> u64 {
        match self {
            Schedule::Every { ms } => ordered_unix_ms.saturating_add(*ms),
            Schedule::Daily { minute } => {
                let at = u64::from(*minute) * MINUTE_MS;
                let today = ordered_unix_ms / DAY_MS * DAY_MS + at;
                if today > ordered_unix_ms { today } else { today + DAY_MS }
            }
        }
    }
}

impl Job {
    /// When the one after it is due, unless it goes on.
    pub fn next_unix_ms(&self, schedule: &Schedule) -> Option<u64> {
        let end = self.end.as_ref()?;
        let planned = schedule.due(self.ordered_unix_ms);
        let doublings = self.failures.saturating_sub(1).min(10);
        let retry = end.at_unix_ms.saturating_add((RETRY_MS << doublings).min(DAY_MS));
        Some(if end.good { planned } else { planned.min(retry) })
    }

    /// Takes note of its end; false if that was known, or is another job's.
    pub fn ended(&mut self, number: u64, end: End) -> bool {
        if self.number != number || self.end.is_some() {
            return false;
        }
        if end.good {
            (self.failures, self.good_unix_ms) = (0, Some(self.ordered_unix_ms));
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        self.end = Some(end);
        true
    }
}

/// The job to order now, if one is due. `alive`: whether that life of a host's agent is heard of. `fittest`: who is to make a
/// backup, if anybody can.
pub fn next(
    schedule: &Schedule,
    last: Option<&Job>,
    now_unix_ms: u64,
    alive: impl Fn(&NodeName, Session) -> bool,
    fittest: Option<(NodeName, Session)>,
) -> Option<Job> {
    let due = match last {
        None => true,
        Some(job) if job.ordered_unix_ms > now_unix_ms + CLOCKS_DIFFER_MS => true,
        Some(job) => match job.next_unix_ms(schedule) {
            Some(due) => now_unix_ms >= due,
            // Its host is gone: another's turn.
            None => !alive(&job.node, job.session),
        },
    };
    let (node, session) = fittest.filter(|_| due)?;
    Some(Job {
        number: last.map_or(1, |job| job.number + 1),
        node,
        session,
        ordered_unix_ms: now_unix_ms,
        end: None,
        failures: last.map_or(0, |job| job.failures),
        good_unix_ms: last.and_then(|job| job.good_unix_ms),
    })
}
