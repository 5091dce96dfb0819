//! Drills: break something real under load, and count what a client saw.

use crate::ledger::{self, Account, IDS_PER_RUN, Ledger, Writers};
use crate::sandbox::{self, DATABASE, PASSWORD, SERVICE, Sandbox, USER};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// What to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drill {
    /// SIGKILL to the primary's engine.
    KillEngine,
    /// A planned switchover.
    Switchover,
}

/// Why a drill could not be run. A broken promise is a result, not an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the sandbox")]
    Sandbox(#[from] sandbox::Error),
    #[error("a client")]
    Client(#[from] mysql_async::Error),
    #[error("no write was acknowledged for {0} s before anything was broken")]
    NoLoad(u64),
}

/// What a client saw in one round.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    pub drill: Drill,
    pub from: String,
    pub to: String,
    /// Longest time without an acknowledged write, over all writers.
    pub outage_ms: u64,
    pub acked: u64,
    /// Acknowledged and not on the survivor.
    pub lost: u64,
    /// Outcome unknown to the client; either is right.
    pub unknown: u64,
    /// Errors that clients saw, of any kind.
    pub client_errors: u64,
    /// The first few different ones.
    pub errors: Vec<String>,
    /// Writes that Holdfast itself says were lost; only where something was.
    pub reported_lost: Option<u64>,
    /// Every promise that was broken, in words.
    pub broken: Vec<String>,
}

/// Bounds that a round must keep, from the durability and the drill.
struct Promise {
    outage_ms: u64,
    lost: bool,
    errors: bool,
}

const LOAD_BEFORE: Duration = Duration::from_millis(700);
const LOAD_AFTER: Duration = Duration::from_millis(700);
/// How long writes may take to come back before the drill gives up.
const RECOVERY: Duration = Duration::from_secs(30);
const REJOIN: Duration = Duration::from_secs(90);

impl Drill {
    fn promise(self, durability: &str) -> Promise {
        let sync = durability == "sync";
        match self {
            Drill::KillEngine => Promise { outage_ms: 1_000, lost: !sync, errors: true },
            Drill::Switchover => Promise { outage_ms: 200, lost: false, errors: false },
        }
    }
    /// What it does and what is promised, in one line.
    pub fn describe(self) -> &'static str {
        match self {
            Drill::KillEngine => {
                "SIGKILL to the primary's engine; back within 1 s, under sync nothing acknowledged is lost"
            }
            Drill::Switchover => {
                "planned switchover under load; no client error, write pause at most 200 ms, nothing lost"
            }
        }
    }
}

/// The account of a sandbox.
pub fn account() -> Account {
    Account { user: USER.into(), password: PASSWORD.into(), database: DATABASE.into() }
}

/// Runs one round on a healthy sandbox, and leaves it healthy.
pub async fn round(
    sandbox: &mut Sandbox,
    drill: Drill,
    durability: &str,
    number: u64,
    writers: u8,
) -> Result<Round, Error> {
    let proxies = sandbox.proxies();
    ledger::prepare(proxies[0], &account()).await?;
    let before = sandbox.service().await?;
    let from = before["primary"].as_str().unwrap_or_default().to_string();
    let load = Writers::start(&proxies, &account(), number, writers);
    wait_for_acks(&load, 0).await?;
    tokio::time::sleep(LOAD_BEFORE).await;

    let struck = Instant::now();
    match drill {
        Drill::KillEngine => sandbox::signal(sandbox.engine_pid(&from)?, rustix::process::Signal::KILL),
        Drill::Switchover => {
            sandbox.holdfast(&["switchover", SERVICE]).await?;
        }
    }
    let to = wait_for_next_epoch(sandbox, before["epoch"].as_u64().unwrap_or(0)).await?;
    wait_for_acks(&load, load.acked()).await?;
    tokio::time::sleep(LOAD_AFTER).await;
    let ledger = load.finish().await;
    let ended = Instant::now();

    sandbox.wait_healthy(REJOIN).await?;
    let survivor = sandbox.engine(&sandbox.primary().await?)?;
    let present = ledger::present(survivor, &account(), number).await?;
    let reported_lost = reported_lost(sandbox, &from).await?;
    Ok(judge(drill, durability, (from, to), &ledger, &present, reported_lost, ledger.outage(struck, ended)))
}

async fn wait_for_acks(load: &Writers, more_than: u64) -> Result<(), Error> {
    let end = Instant::now() + RECOVERY;
    while load.acked() <= more_than {
        if Instant::now() > end {
            return Err(Error::NoLoad(RECOVERY.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// The primary of a later epoch: after a crash that may be the same node, if it was back first and had most.
async fn wait_for_next_epoch(sandbox: &Sandbox, before: u64) -> Result<String, Error> {
    let end = Instant::now() + RECOVERY;
    let mut last = String::new();
    while Instant::now() < end {
        match sandbox.service().await {
            Ok(service) => {
                let open =
                    service["members"].as_array().into_iter().flatten().find(|m| m["role"] == "primary");
                let later = service["epoch"].as_u64().is_some_and(|e| e > before);
                if let Some(node) = open.and_then(|m| m["node"].as_str()).filter(|_| later) {
                    return Ok(node.to_string());
                }
                last = service["findings"].to_string();
            }
            Err(e) => last = e.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(sandbox::Error::Deadline { what: "a new primary".into(), waited_s: RECOVERY.as_secs(), last }.into())
}

/// What the returning primary said that only it had.
async fn reported_lost(sandbox: &Sandbox, node: &str) -> Result<Option<u64>, Error> {
    let service = sandbox.service().await?;
    let member = service["members"].as_array().into_iter().flatten().find(|m| m["node"] == node);
    Ok(member.and_then(|m| m["lost"]["transactions"].as_u64()))
}

fn judge(
    drill: Drill,
    durability: &str,
    (from, to): (String, String),
    ledger: &Ledger,
    present: &BTreeSet<u64>,
    reported_lost: Option<u64>,
    outage: Duration,
) -> Round {
    let lost = ledger.acked.iter().filter(|(id, _)| !present.contains(id)).count() as u64;
    let vanished_unknown = ledger.unknown.iter().filter(|id| !present.contains(id)).count() as u64;
    let promise = drill.promise(durability);
    let outage_ms = u64::try_from(outage.as_millis()).unwrap_or(u64::MAX);
    let mut broken = Vec::new();
    if outage_ms > promise.outage_ms {
        broken.push(format!("outage {outage_ms} ms, promised {} ms", promise.outage_ms));
    }
    if lost > 0 && !promise.lost {
        broken.push(format!("{lost} acknowledged writes lost, promised none"));
    }
    if !ledger.errors.is_empty() && !promise.errors {
        broken.push(format!("{} client errors, promised none", ledger.errors.len()));
    }
    // What was acknowledged and vanished must be in the report; what was in flight may be.
    let reported = reported_lost.unwrap_or(0);
    if promise.lost && (reported < lost || reported > lost + vanished_unknown) {
        broken.push(format!("{reported} lost writes reported, {lost} acknowledged and up to {vanished_unknown} more are missing"));
    }
    let acked: BTreeSet<u64> = ledger.acked.iter().map(|(id, _)| *id).collect();
    let stray = present.iter().filter(|id| !acked.contains(id) && !ledger.unknown.contains(id)).count();
    if stray > 0 {
        broken.push(format!("{stray} writes are there that were refused as not executed"));
    }
    let mut errors = ledger.errors.clone();
    errors.sort();
    errors.dedup();
    errors.truncate(5);
    Round {
        drill,
        from,
        to,
        outage_ms,
        acked: ledger.acked.len() as u64,
        lost,
        unknown: ledger.unknown.len() as u64,
        client_errors: ledger.errors.len() as u64,
        errors,
        reported_lost,
        broken,
    }
}

/// Median and worst outage of some rounds, in ms.
pub fn outages(rounds: &[Round]) -> (u64, u64) {
    let mut all: Vec<u64> = rounds.iter().map(|r| r.outage_ms).collect();
    all.sort_unstable();
    (all.get(all.len() / 2).copied().unwrap_or(0), all.last().copied().unwrap_or(0))
}

const _: () = assert!(IDS_PER_RUN < u64::MAX / 4_096, "a thousand rounds fit into BIGINT UNSIGNED");
