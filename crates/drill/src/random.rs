//! Random faults: a seed is a schedule, always the same, whatever the cluster makes of it.
//!
//! An incident is one fault, or two that overlap, on hosts chosen by the part they play when they are struck. All are
//! healed after a while, under load, and the cluster has to be healthy again before the next incident.

use crate::direct::Probers;
use crate::drills::{Error, REJOIN, account, present, proxies_without};
use crate::fault::{Fault, Harm};
use crate::judge::{Promise, Round, Seen, judge};
use crate::ledger::{self, Ledger, Writers};
use crate::registers::Registers;
use crate::sandbox::{SERVICE, Sandbox};
use crate::sim::rng::Rng;
use std::time::Duration;
use tokio::time::Instant;

/// Which host is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Primary,
    Controller,
    /// By its place among the members.
    Member(usize),
}

/// One fault of an incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    pub fault: Fault,
    pub target: Target,
    /// After the strike before it, or after the load began.
    pub after: Duration,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// One or two.
    pub strikes: Vec<Strike>,
    /// From the last strike to the healing.
    pub lasts: Duration,
    /// An operator asks for a switchover meanwhile.
    pub switchover: bool,
}

const FAULTS: [Fault; 8] = [
    Fault::KillEngine,
    Fault::KillHost,
    Fault::Partition,
    Fault::Deaf,
    Fault::Mute,
    Fault::PauseEngine,
    Fault::PauseAgent,
    Fault::FillDisk,
];
const WRITERS: u8 = 4;
const PROBERS: u8 = 100;
const NAME: &str = "random";

/// The endless schedule of a seed.
pub fn schedule(seed: u64, members: usize) -> impl Iterator<Item = Incident> {
    let mut rng = Rng::new(seed);
    std::iter::repeat_with(move || {
        let count = if rng.range(0, 2) == 0 { 2 } else { 1 };
        let strikes = (0..count)
            .map(|_| Strike {
                fault: FAULTS[rng.below(FAULTS.len())],
                target: match rng.range(0, 5) {
                    0..=2 => Target::Primary,
                    3 => Target::Controller,
                    _ => Target::Member(rng.below(members)),
                },
                after: Duration::from_millis(rng.range(100, 2_500)),
            })
            .collect();
        let lasts = Duration::from_millis(rng.range(200, 9_000));
        Incident { strikes, lasts, switchover: rng.range(0, 5) == 0 }
    })
}

/// Runs one incident on a healthy sandbox, and leaves it healthy.
pub async fn incident(sandbox: &mut Sandbox, incident: &Incident, number: u64) -> Result<Round, Error> {
    let client = sandbox.vantage(sandbox.client())?;
    let proxies = proxies_without(sandbox, None)?;
    // The application's own proxy: nothing that is struck takes it along.
    let proxies = &proxies[..1];
    let (first, who) = (proxies[0], account());
    client.run(async move { ledger::prepare(first, &who).await }).await?;
    let engines = sandbox.members().map(|n| sandbox.engine(n)).collect::<Result<Vec<_>, _>>()?;
    let before = sandbox.primary().await?;
    let writers = Writers::start(&client, proxies, &account(), number, 0..WRITERS);
    let probers = Probers::start(&client, &engines, &account(), number, PROBERS);
    let registers = Registers::start(&client, proxies, &account(), number).await?;
    let began = Instant::now();

    let (harms, says) = strike(sandbox, incident).await?;
    if incident.switchover {
        // It may well be refused.
        let _ = sandbox.holdfast(&["switchover", SERVICE]).await;
    }
    tokio::time::sleep(incident.lasts).await;
    for harm in harms {
        harm.heal(sandbox).await?;
    }
    let acked = writers.acked();
    crate::drills::wait_for_acks(&writers, acked).await?;
    let ended = Instant::now();
    let main = writers.finish().await;
    let direct = probers.finish().await;
    let ordered = registers.finish().await;
    sandbox.wait_healthy(REJOIN).await?;

    let outage = main.outage(began, ended);
    let mut all: Ledger = main.clone();
    all.add(direct.ledger.clone());
    let present = present(sandbox, &client, number).await?;
    let seen = Seen { outage, ledger: all, client_errors: main.errors, direct, present, reported_lost: None };
    // How long it takes is not promised here: two hosts may be gone for as long as the incident lasts.
    let promise = Promise { outage_ms: u64::MAX, may_lose: false, no_errors: false };
    let mut round = judge(NAME, promise, (before, sandbox.primary().await?), seen);
    if let Err(rows) = ordered {
        round.broken.push(format!("{} registers were read as if in no order (linearizability)", rows.len()));
    }
    round.faults = says;
    Ok(round)
}

async fn strike(sandbox: &mut Sandbox, incident: &Incident) -> Result<(Vec<Harm>, Vec<String>), Error> {
    let mut harms: Vec<Harm> = Vec::new();
    let mut says = Vec::new();
    for Strike { fault, target, after } in &incident.strikes {
        tokio::time::sleep(*after).await;
        // Without a controller nobody knows who plays which part.
        let named = match target {
            Target::Primary => sandbox.primary().await.ok(),
            Target::Controller => sandbox.controller().await.ok(),
            Target::Member(at) => sandbox.members().nth(*at).map(str::to_string),
        };
        let Some(node) = named.filter(|n| harms.iter().all(|h| h.node != *n)) else { continue };
        if !fault.possible(sandbox) || !sandbox.members().any(|n| n == node) {
            continue;
        }
        if let Ok(harm) = fault.strike(sandbox, &node).await {
            says.push(format!("{fault:?} {node}"));
            harms.push(harm);
        }
    }
    Ok((harms, says))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        let first: Vec<Incident> = schedule(7, 3).take(50).collect();
        assert_eq!(first, schedule(7, 3).take(50).collect::<Vec<_>>());
        assert_ne!(first, schedule(8, 3).take(50).collect::<Vec<_>>());
        for fault in FAULTS {
            assert!(first.iter().flat_map(|i| &i.strikes).any(|s| s.fault == fault), "{fault:?} never comes");
        }
    }
}
