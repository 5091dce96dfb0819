//! Random faults: a seed is a schedule, always the same, whatever the cluster makes of it.
//!
//! An incident is one fault, or two that overlap, on hosts chosen by the part they play when they are struck. All are
//! healed after a while, under load, and the cluster has to be healthy again before the next incident.

use crate::deployment::Deployment;
use crate::direct::Probers;
use crate::drills::{COOLED, Error, prepare, present};
use crate::fault::Fault;
use crate::judge::{Promise, Round, Seen, judge};
use crate::ledger::{Ledger, Writers};
use crate::registers::Registers;
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
                fault: Fault::ALL[rng.below(Fault::ALL.len())],
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

impl Incident {
    /// From the strike at `place` to the healing.
    fn lasts_from(&self, place: usize) -> Duration {
        self.strikes.iter().skip(place + 1).map(|s| s.after).sum::<Duration>() + self.lasts
    }
}

/// Runs one incident on a healthy deployment, and leaves it healthy.
pub async fn incident<D: Deployment>(
    deployment: &mut D,
    incident: &Incident,
    number: u64,
) -> Result<Round, Error> {
    let site = deployment.site().clone();
    // A proxy that nothing which is struck takes along.
    let proxies: Vec<_> = site.apart().take(1).collect();
    if proxies.is_empty() {
        return Err(Error::NotHere(NAME, "a host with a proxy and without data, for the clients"));
    }
    deployment.operator().wait_cool(site.cool_down + COOLED).await?;
    let clients = deployment.clients()?;
    prepare(&site, &clients).await?;
    let before = deployment.operator().primary().await?;
    let writers = Writers::start(&clients, &proxies, &site.account, number, 0..WRITERS);
    let sync = site.durability == "sync";
    let probers = Probers::start(&clients, &site.engines(), &site.account, sync, number, PROBERS);
    let registers = Registers::start(&clients, &proxies, &site.account, number).await?;
    let began = Instant::now();

    let (harms, says) = strike(deployment, incident).await?;
    let healing = Instant::now() + incident.lasts;
    if incident.switchover {
        // It may well be refused.
        let operator = deployment.operator();
        let _ = operator.holdfast(&["switchover", &operator.service]).await;
    }
    tokio::time::sleep_until(healing).await;
    for harm in harms {
        deployment.heal(harm).await?;
    }
    let acked = writers.acked();
    crate::drills::wait_for_acks(&writers, acked).await?;
    let ended = Instant::now();
    let main = writers.finish().await;
    let direct = probers.finish().await;
    let ordered = registers.finish().await;
    deployment.wait_healthy(site.rejoin).await?;

    let outage = main.outage(began, ended);
    let mut all: Ledger = main.clone();
    all.add(direct.ledger.clone());
    let present = present(deployment, number).await?;
    let seen = Seen { outage, ledger: all, client_errors: main.errors, direct, present, reported_lost: None };
    // How long it takes is not promised here: two hosts may be gone for as long as the incident lasts.
    let promise = Promise { outage_ms: u64::MAX, may_lose: false, no_errors: false, alone: site.alone };
    let mut round = judge(NAME, promise, (before, deployment.operator().primary().await?), seen);
    if let Err(rows) = ordered {
        round.broken.push(format!("{} registers were read as if in no order (linearizability)", rows.len()));
    }
    round.faults = says;
    Ok(round)
}

async fn strike<D: Deployment>(
    deployment: &mut D,
    incident: &Incident,
) -> Result<(Vec<D::Harm>, Vec<String>), Error> {
    let mut harms = Vec::new();
    let mut says = Vec::new();
    let mut struck: Vec<String> = Vec::new();
    for (place, Strike { fault, target, after }) in incident.strikes.iter().enumerate() {
        tokio::time::sleep(*after).await;
        // Without a controller nobody knows who plays which part.
        let named = match target {
            Target::Primary => deployment.operator().primary().await.ok(),
            Target::Controller => deployment.operator().controller().await.ok(),
            Target::Member(at) => deployment.site().members().nth(*at).map(|h| h.node.clone()),
        };
        let Some(node) = named.filter(|n| !struck.contains(n)) else { continue };
        if deployment.lacks(*fault).is_some() || !deployment.site().is_member(&node) {
            continue;
        }
        if let Ok(harm) = deployment.strike(*fault, &node, Some(incident.lasts_from(place))).await {
            says.push(format!("{fault:?} {node}"));
            harms.push(harm);
            struck.push(node);
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
        for fault in Fault::ALL {
            assert!(first.iter().flat_map(|i| &i.strikes).any(|s| s.fault == fault), "{fault:?} never comes");
        }
    }
}
