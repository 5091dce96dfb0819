//! A long life: a failover every little while under load, and what the processes use meanwhile.
//!
//! Guarantees: every period is judged like a drill's round; what grows is compared between the time after the start and
//! the end. Does not know: what an engine uses; that is the engine's.

use crate::deployment::Deployment;
use crate::drills::{self, Error};
use crate::fault::Fault;
use crate::judge::{Promise, Round, Seen, judge};
use crate::ledger::{self, Writers};
use crate::sandbox::{self, SERVICE, Sandbox};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// What one `holdfast run` uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub node: String,
    pub resident_kib: u64,
    pub descriptors: u64,
    pub threads: u64,
    /// Its engine and what else it started.
    pub children: u64,
    pub log_bytes: u64,
    /// On the disk, with what is held in reserve.
    pub store_bytes: u64,
}

/// Usage of all nodes at the end of a period, when the service was healthy again.
pub type Sample = Vec<Usage>;

const NAME: &str = "soak";
const WRITERS: u8 = 4;
/// A third of a period before the fault.
const STRIKE_AT: u32 = 3;
/// Bounds of what may grow over any time.
const RESIDENT_GROWTH_PERCENT: u64 = 25;
const RESIDENT_GROWTH_KIB: u64 = 8 << 10;
const DESCRIPTORS_GROWTH: u64 = 16;
const THREADS_GROWTH: u64 = 8;
const STORE_BYTES: u64 = 48 << 20;
const LOG_BYTES_PER_PERIOD: u64 = 64 << 10;
/// Of the samples, these many parts of ten are the start's and the end's.
const TENTHS: usize = 3;

/// One period: load throughout, the primary's engine killed, or in every third period a switchover.
pub async fn period(sandbox: &mut Sandbox, number: u64, lasts: Duration) -> Result<Round, Error> {
    let client = sandbox.vantage(sandbox.client())?;
    let proxies = sandbox.proxies();
    let account = sandbox.site().account.clone();
    let (first, who) = (proxies[0], account.clone());
    client.run(async move { ledger::prepare(first, &who).await }).await?;
    let before = sandbox.primary().await?;
    let writers = Writers::start(&client, &proxies, &account, number, 0..WRITERS);
    let began = Instant::now();
    tokio::time::sleep(lasts / STRIKE_AT).await;
    let planned = number.is_multiple_of(3);
    if planned {
        sandbox.holdfast(&["switchover", SERVICE]).await?;
    } else {
        Fault::KillEngine.strike(sandbox, &before).await?.heal(sandbox).await?;
    }
    drills::wait_for_acks(&writers, writers.acked()).await?;
    tokio::time::sleep_until(began + lasts).await;
    let ended = Instant::now();
    let ledger = writers.finish().await;
    sandbox.wait_healthy(sandbox.site().rejoin).await?;
    let present = drills::present(sandbox, number).await?;
    let seen = Seen {
        outage: ledger.outage(began, ended),
        client_errors: ledger.errors.clone(),
        ledger,
        direct: Default::default(),
        present,
        reported_lost: None,
    };
    // How long it takes is the drills' to judge, on a machine that does nothing else.
    let promise = Promise { outage_ms: u64::MAX, may_lose: false, no_errors: planned, alone: true };
    Ok(judge(NAME, promise, (before, sandbox.primary().await?), seen))
}

/// What the nodes use now.
pub fn sample(sandbox: &Sandbox) -> Result<Sample, sandbox::Error> {
    sandbox.node_names().map(|node| usage(sandbox, node)).collect()
}

fn usage(sandbox: &Sandbox, node: &str) -> Result<Usage, sandbox::Error> {
    let pid = sandbox.pid(node)?;
    let proc = Path::new("/proc").join(pid.to_string());
    let status = proc.join("status");
    let text = std::fs::read_to_string(&status).map_err(|e| sandbox::file("read", &status, e))?;
    let number = |name: &str| {
        let value = text.lines().find_map(|l| l.strip_prefix(name));
        value.and_then(|v| v.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let fds = proc.join("fd");
    let descriptors = std::fs::read_dir(&fds).map_err(|e| sandbox::file("list", &fds, e))?.count() as u64;
    let store = sandbox.dir().join(node).join("store/store.redb");
    let length = |p: &Path| std::fs::metadata(p).map_or(0, |m| m.len());
    let on_disk =
        |p: &Path| std::fs::metadata(p).map_or(0, |m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
    Ok(Usage {
        node: node.to_string(),
        resident_kib: number("VmRSS:"),
        descriptors,
        threads: number("Threads:"),
        children: children(pid),
        log_bytes: length(&sandbox.dir().join(format!("{node}.log"))),
        store_bytes: on_disk(&store),
    })
}

/// Processes whose parent is `pid`.
fn children(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.map(|t| of(t).split_whitespace().count() as u64).sum()
}

/// What grew beyond its bound between the first samples and the last; the very first is left out: caches fill.
pub fn growth(samples: &[Sample]) -> Vec<String> {
    let part = samples.len() * TENTHS / 10;
    if part == 0 {
        return Vec::new();
    }
    let (early, late) = (&samples[1..=part], &samples[samples.len() - part..]);
    let mut broken = Vec::new();
    for (at, last) in late[part - 1].iter().enumerate() {
        let node = &last.node;
        let most =
            |of: &[Sample], what: fn(&Usage) -> u64| of.iter().map(|s| what(&s[at])).max().unwrap_or(0);
        let mut grew = |what: &str, of: fn(&Usage) -> u64, allowed: fn(u64) -> u64| {
            let (then, now) = (most(early, of), most(late, of));
            if now > allowed(then) {
                broken.push(format!("{node}: {what} grew from {then} to {now}, allowed {}", allowed(then)));
            }
        };
        grew(
            "KiB of memory",
            |u| u.resident_kib,
            |kib| kib + kib * RESIDENT_GROWTH_PERCENT / 100 + RESIDENT_GROWTH_KIB,
        );
        grew("descriptors", |u| u.descriptors, |n| n + DESCRIPTORS_GROWTH);
        grew("threads", |u| u.threads, |n| n + THREADS_GROWTH);
        grew("child processes", |u| u.children, |n| n);
        grew("bytes of the store's file", |u| u.store_bytes, |_| STORE_BYTES);
        let log = last.log_bytes / samples.len() as u64;
        if log > LOG_BYTES_PER_PERIOD {
            broken.push(format!("{node}: {log} bytes of log per failover, allowed {LOG_BYTES_PER_PERIOD}"));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(periods: usize) -> Vec<Sample> {
        let usage = Usage {
            node: "a".into(),
            resident_kib: 40_000,
            descriptors: 60,
            threads: 12,
            children: 1,
            log_bytes: 90_000,
            store_bytes: 20 << 20,
        };
        vec![vec![usage]; periods]
    }

    #[test]
    fn what_stays_is_fine_and_what_leaks_is_named() {
        assert_eq!(growth(&flat(30)), Vec::<String>::new());
        let mut leaks = flat(30);
        for (at, sample) in leaks.iter_mut().enumerate() {
            sample[0].descriptors += at as u64;
            sample[0].resident_kib += 2_000 * at as u64;
        }
        let said = growth(&leaks);
        assert!(said.iter().any(|s| s.contains("descriptors")), "{said:?}");
        assert!(said.iter().any(|s| s.contains("memory")), "{said:?}");
        // A start that needs more than what follows is no growth.
        let mut falls = flat(30);
        falls[0][0].descriptors = 500;
        assert_eq!(growth(&falls), Vec::<String>::new());
    }
}
