//! Drill of a mutual standby: either machine dies, the other carries the services of both, and when the machine is back
//! its service goes home. Each service has clients of its own, and is judged by itself.

use crate::deployment::{Deployment, Site};
use crate::drills::{self, Error, LOAD_AFTER, LOAD_BEFORE};
use crate::fault::Fault;
use crate::ground::Vantage;
use crate::judge::{Promise, Round, Seen, judge};
use crate::ledger::{Ledger, Writers};
use crate::operator::{self, Operator};
use crate::sandbox::Sandbox;
use holdfast_core::limits;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

pub const NAME: &str = "mutual";
const NAME_RETURN: &str = "return";
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Writes may stand still for a failover, and then until durability is degraded, since nobody is left to wait for.
const CARRIED_MS: u64 = 5_000;
/// When a standby is back, writes wait for it again, and at first for what it is still behind; then there is a switchover.
const RETURN_MS: u64 = 1_000;

/// What the drill does and promises, in two lines.
pub const DESCRIBES: &str =
    "mutual standby: a machine dies, the other serves for both, and its service goes home";
pub const PROMISES: &str = "writes of both services are back within 5000 ms, when the machine returns they stand still for at most 1000 ms, without a client error; sync loses nothing";

/// One service under load.
struct Party {
    operator: Operator,
    site: Site,
    before: Value,
    load: Writers,
}

/// One round: kills the machine on which service number `number` (in turn) is at home. Two results per service: the
/// machine's end, and its return.
pub async fn round(sandbox: &mut Sandbox, number: u64, writers: u8) -> Result<Vec<Round>, Error> {
    sandbox.wait_healthy(sandbox.site().rejoin).await?;
    let services: Vec<(Operator, Site)> = sandbox.services().map(|(o, s)| (o.clone(), s.clone())).collect();
    let turn = usize::try_from(number).unwrap_or(0) % services.len();
    let victim = services[turn].0.primary().await?;
    let clients = sandbox.clients()?;
    for (_, site) in &services {
        drills::prepare(site, &clients).await?;
    }

    let parties = start(&services, &victim, &clients, number * 2, writers).await?;
    tokio::time::sleep(LOAD_BEFORE).await;
    let struck = Instant::now();
    let harm = sandbox.strike(Fault::KillHost, &victim, None).await?;
    let survivor = carried(&parties, &victim).await?;
    tokio::time::sleep(LOAD_AFTER).await;
    let ended = Instant::now();
    let mut ledgers = Vec::new();
    for party in parties {
        let Party { operator, site, before, load } = party;
        let ledger = load.finish().await;
        let present = drills::present_in(&site, &operator, &clients, number * 2).await?;
        ledgers.push((operator, site, before, ledger, present));
    }

    let parties = start(&services, &victim, &clients, number * 2 + 1, writers).await?;
    let returns = Instant::now();
    sandbox.heal(harm).await?;
    gone_home(sandbox, &services[turn].0, &victim).await?;
    tokio::time::sleep(LOAD_AFTER).await;
    let home_for = Instant::now();

    let mut rounds = Vec::new();
    for (operator, site, before, ledger, present) in ledgers {
        let epoch = before["epoch"].as_u64().unwrap_or(0);
        let reported_lost = drills::reported_lost(&operator, epoch).await?;
        let promise = Promise {
            outage_ms: CARRIED_MS,
            may_lose: site.durability != "sync",
            no_errors: false,
            alone: true,
        };
        let seen = seen(ledger.outage(struck, ended), ledger, present, reported_lost);
        let mut round = judge(NAME, promise, (drills::text(&before["primary"]), survivor.clone()), seen);
        (round.service, round.faults) = (Some(operator.service), vec![format!("kill-host {victim}")]);
        rounds.push(round);
    }
    for Party { operator, site, before, load } in parties {
        let ledger = load.finish().await;
        let present = drills::present_in(&site, &operator, &clients, number * 2 + 1).await?;
        let outage = ledger.outage(returns, home_for);
        let promise = Promise { outage_ms: RETURN_MS, may_lose: false, no_errors: true, alone: true };
        let to = operator.primary().await?;
        let seen = seen(outage, ledger, present, None);
        let mut round = judge(NAME_RETURN, promise, (drills::text(&before["primary"]), to), seen);
        (round.service, round.faults) = (Some(operator.service), vec![format!("{victim} returns")]);
        rounds.push(round);
    }
    Ok(rounds)
}

fn seen(
    outage: Duration,
    ledger: Ledger,
    present: std::collections::BTreeSet<u64>,
    reported_lost: Option<u64>,
) -> Seen {
    Seen {
        outage,
        client_errors: ledger.errors.clone(),
        ledger,
        direct: Default::default(),
        present,
        reported_lost,
    }
}

/// Clients of every service, through proxies that the victim does not take along; all have written.
async fn start(
    services: &[(Operator, Site)],
    victim: &str,
    clients: &Vantage,
    run: u64,
    writers: u8,
) -> Result<Vec<Party>, Error> {
    let mut parties = Vec::new();
    for (operator, site) in services {
        let before = operator.service().await?;
        let load =
            Writers::start(clients, &site.proxies_without(Some(victim)), &site.account, run, 0..writers);
        parties.push(Party { operator: operator.clone(), site: site.clone(), before, load });
    }
    for party in &parties {
        drills::wait_for_acks(&party.load, 0).await?;
    }
    Ok(parties)
}

/// Waits until one machine serves everything; which.
async fn carried(parties: &[Party], victim: &str) -> Result<String, Error> {
    let mut survivor = String::new();
    for party in parties {
        let epoch = party.before["epoch"].as_u64().unwrap_or(0);
        survivor = match drills::text(&party.before["primary"]) {
            at if at == victim => drills::next_primary(&party.operator, epoch).await?.0,
            at => at,
        };
    }
    // What was acknowledged before the end may still have been counted after it.
    tokio::time::sleep(Duration::from_millis(limits::SILENT_AFTER_MS)).await;
    for party in parties {
        drills::wait_for_acks(&party.load, party.load.acked()).await?;
    }
    Ok(survivor)
}

/// Waits until the service is at home again.
async fn gone_home(sandbox: &mut Sandbox, operator: &Operator, home: &str) -> Result<(), Error> {
    let end = Instant::now() + sandbox.site().rejoin;
    let mut last = String::new();
    while Instant::now() < end {
        sandbox.check_running()?;
        match operator.service().await {
            Ok(service) => {
                let mut members = service["members"].as_array().into_iter().flatten();
                if members.any(|m| m["role"] == "primary" && m["node"] == home) {
                    sandbox.wait_healthy(sandbox.site().rejoin).await?;
                    return Ok(());
                }
                last = service["findings"].to_string();
            }
            Err(e) => last = e.to_string(),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let what = format!("{} at home on {home}", operator.service);
    Err(operator::Error::Deadline { what, waited_s: sandbox.site().rejoin.as_secs(), last }.into())
}
