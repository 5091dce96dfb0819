//! Compares what clients were told with what survived, and both with what was promised. Pure.

use crate::direct::Direct;
use crate::ledger::{IDS_PER_RUN, Ledger};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// Bounds of one drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    pub outage_ms: u64,
    /// Acknowledged writes may be lost, if every one of them is reported.
    pub may_lose: bool,
    /// Clients of the proxies see no error.
    pub no_errors: bool,
    /// Nobody else writes, so that every write that is reported as lost is one of the ledger's.
    pub alone: bool,
}

/// What was seen in a round.
pub struct Seen {
    pub outage: Duration,
    /// Of all clients.
    pub ledger: Ledger,
    /// Of the clients of the proxies whose host was not broken.
    pub client_errors: Vec<String>,
    pub direct: Direct,
    /// Ids on the survivor.
    pub present: BTreeSet<u64>,
    pub reported_lost: Option<u64>,
}

/// What clients saw in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    pub drill: &'static str,
    /// Whose clients saw it, where there are several services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What was broken, where a round breaks something else each time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    pub from: String,
    pub to: String,
    /// Longest time without an acknowledged write, over all clients of proxies that were not broken.
    pub outage_ms: u64,
    pub acked: u64,
    /// Acknowledged and not on the survivor.
    pub lost: u64,
    /// Outcome unknown to the client; either is right.
    pub unknown: u64,
    /// Errors that clients saw, of any kind.
    pub client_errors: u64,
    /// Writes that the old primary took after the new one had taken some (S1).
    pub dual_writes: u64,
    /// The first few different errors.
    pub errors: Vec<String>,
    /// Writes that Holdfast itself says were lost; only where something was.
    pub reported_lost: Option<u64>,
    /// Every promise that was broken, in words.
    pub broken: Vec<String>,
}

/// How many different errors a round keeps.
const ERRORS: usize = 5;

/// See the module.
pub fn judge(drill: &'static str, promise: Promise, (from, to): (String, String), seen: Seen) -> Round {
    let Seen { outage, ledger, client_errors, direct, present, reported_lost } = seen;
    let lost = ledger.acked.iter().filter(|(id, _)| !present.contains(id)).count() as u64;
    let dual_writes = direct.dual_writes();
    let outage_ms = u64::try_from(outage.as_millis()).unwrap_or(u64::MAX);
    let mut broken = Vec::new();
    if outage_ms > promise.outage_ms {
        broken.push(format!("outage {outage_ms} ms, promised {} ms", promise.outage_ms));
    }
    if promise.no_errors && !client_errors.is_empty() {
        broken.push(format!("{} client errors, promised none", client_errors.len()));
    }
    if dual_writes > 0 {
        broken.push(format!("{dual_writes} writes taken by a primary whose epoch was over (S1)"));
    }
    if direct.misnumbered > 0 {
        broken.push(format!("{} writes logged under a follower's server id", direct.misnumbered));
    }
    broken.extend(losses(promise, lost, &ledger, &present, reported_lost.unwrap_or(0)));
    let mut errors = client_errors.clone();
    errors.sort();
    errors.dedup();
    errors.truncate(ERRORS);
    Round {
        drill,
        service: None,
        faults: Vec::new(),
        from,
        to,
        outage_ms,
        acked: ledger.acked.len() as u64,
        lost,
        unknown: ledger.unknown.len() as u64,
        client_errors: client_errors.len() as u64,
        dual_writes,
        errors,
        reported_lost,
        broken,
    }
}

/// Broken promises about what is there and what is not.
pub(crate) fn losses(
    promise: Promise,
    lost: u64,
    ledger: &Ledger,
    present: &BTreeSet<u64>,
    reported: u64,
) -> Vec<String> {
    let mut broken = Vec::new();
    if lost > 0 && !promise.may_lose {
        broken.push(format!("{lost} acknowledged writes lost, promised none"));
    }
    // What was acknowledged and vanished must be in the report; what was in flight may be.
    let in_flight = ledger.unknown.iter().filter(|id| !present.contains(id)).count() as u64;
    let too_many = promise.alone && reported > lost + in_flight;
    if promise.may_lose && (reported < lost || too_many) {
        broken.push(format!(
            "{reported} lost writes reported, {lost} acknowledged and up to {in_flight} more are missing"
        ));
    }
    let acked: BTreeSet<u64> = ledger.acked.iter().map(|(id, _)| *id).collect();
    let stray = present.iter().filter(|id| !acked.contains(id) && !ledger.unknown.contains(id)).count();
    if stray > 0 {
        broken.push(format!("{stray} writes are there that were refused as not executed"));
    }
    broken
}

/// Median and worst outage of some rounds, in ms.
pub fn outages(rounds: &[Round]) -> (u64, u64) {
    let mut all: Vec<u64> = rounds.iter().map(|r| r.outage_ms).collect();
    all.sort_unstable();
    (all.get(all.len() / 2).copied().unwrap_or(0), all.last().copied().unwrap_or(0))
}

const _: () = assert!(IDS_PER_RUN < u64::MAX / 4_096, "a thousand rounds fit into BIGINT UNSIGNED");
