//! Drills: break something real under load, and count what clients saw.

use crate::deployment::{Deployment, Site};
use crate::direct::Probers;
use crate::fault::Fault;
use crate::ground::Vantage;
use crate::judge::{Promise, Round, Seen, judge};
use crate::ledger::{self, Account, Ledger, Writers};
use crate::operator::{self, Operator};
use crate::sandbox;
use holdfast_core::topology::Family;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// What to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drill {
    KillEngine,
    KillHost,
    PartitionPrimary,
    PauseEngine,
    PauseAgent,
    KillStoreLeader,
    DiskFull,
    Switchover,
    DoubleFailure,
}

/// Why a drill could not be run. A broken promise is a result, not an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the sandbox")]
    Sandbox(#[from] sandbox::Error),
    #[error(transparent)]
    Operator(#[from] operator::Error),
    #[error("a client")]
    Client(#[from] crate::client::Error),
    #[error("no write was acknowledged within {0} s")]
    NoLoad(u64),
    #[error("{0} is not possible here: it needs {1}")]
    NotHere(&'static str, &'static str),
}

pub(crate) const LOAD_BEFORE: Duration = Duration::from_millis(700);
pub(crate) const LOAD_AFTER: Duration = Duration::from_millis(700);
/// How long the controller may take to find its place after a failover, before the next round begins.
const SEATED: Duration = Duration::from_secs(5);
/// How long a healed host stays under load before the round ends: whoever wakes up must not take a write.
const LOAD_HEALED: Duration = Duration::from_millis(1_500);
/// How long writes may take to come back before the drill gives up.
const RECOVERY: Duration = Duration::from_secs(45);
/// A cool-down is over a moment after its time.
pub(crate) const COOLED: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const COUNT_AGAIN: Duration = Duration::from_millis(5);

/// Numbers of the writers of a run: through the proxies, through the proxy of the broken host, and past the proxies.
const LOCAL_WRITERS: std::ops::Range<u8> = 64..66;
const PROBERS: u8 = 100;
const LOCAL_PROBER: u8 = 120;

impl Drill {
    pub const ALL: [Drill; 9] = [
        Drill::KillEngine,
        Drill::KillHost,
        Drill::PartitionPrimary,
        Drill::PauseEngine,
        Drill::PauseAgent,
        Drill::KillStoreLeader,
        Drill::DiskFull,
        Drill::Switchover,
        Drill::DoubleFailure,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Drill::KillEngine => "kill-engine",
            Drill::KillHost => "kill-host",
            Drill::PartitionPrimary => "partition-primary",
            Drill::PauseEngine => "pause-engine",
            Drill::PauseAgent => "pause-agent",
            Drill::KillStoreLeader => "kill-store-leader",
            Drill::DiskFull => "disk-full",
            Drill::Switchover => "switchover",
            Drill::DoubleFailure => "double-failure",
        }
    }

    /// What it does to a host; `None`: nothing is broken.
    pub fn fault(self) -> Option<Fault> {
        match self {
            Drill::KillEngine | Drill::DoubleFailure => Some(Fault::KillEngine),
            Drill::KillHost | Drill::KillStoreLeader => Some(Fault::KillHost),
            Drill::PartitionPrimary => Some(Fault::Partition),
            Drill::PauseEngine => Some(Fault::PauseEngine),
            Drill::PauseAgent => Some(Fault::PauseAgent),
            Drill::DiskFull => Some(Fault::FillDisk),
            Drill::Switchover => None,
        }
    }

    /// Whether the failover would be put off if the last one was too recent (S12). A process that is seen to end is
    /// replaced at once.
    pub fn waits_for_cool_down(self) -> bool {
        !matches!(self, Drill::KillEngine | Drill::DoubleFailure | Drill::Switchover)
    }

    /// Bounds that every round must keep.
    pub fn promise(self, durability: &str) -> Promise {
        let sync = durability == "sync";
        let host = if sync { 2_500 } else { 5_000 };
        let (outage_ms, quiet) = match self {
            Drill::KillEngine | Drill::DoubleFailure => (1_000, false),
            Drill::KillHost | Drill::PartitionPrimary | Drill::KillStoreLeader => (host, false),
            // Nobody sees these at once: the engine's silence has a bound, the agent's lease has to run out.
            Drill::PauseEngine | Drill::PauseAgent | Drill::DiskFull => (5_000, false),
            Drill::Switchover => (200, true),
        };
        let may_lose = !sync && self != Drill::Switchover;
        Promise { outage_ms, may_lose, no_errors: quiet, alone: true }
    }

    /// What it does, in one line.
    pub fn describe(self) -> &'static str {
        match self {
            Drill::KillEngine => "SIGKILL to the primary's engine",
            Drill::KillHost => "the primary's host dies: network, agent, engine and proxy at once",
            Drill::PartitionPrimary => "the primary and clients of its own are cut off from all others",
            Drill::PauseEngine => "SIGSTOP to the primary's engine",
            Drill::PauseAgent => {
                "SIGSTOP to the primary's agent alone, resumed after the failover; its engine runs on"
            }
            Drill::KillStoreLeader => "the host of the store's leader and the controller dies",
            Drill::DiskFull => "the primary's file system is filled to the last byte",
            Drill::Switchover => "planned switchover under load",
            Drill::DoubleFailure => {
                "SIGKILL to the primary's engine, and to the next primary's as soon as it takes writes"
            }
        }
    }

    /// What it promises, in one line.
    pub fn promises(self) -> String {
        let (sync, lost) = (self.promise("sync"), self.promise("async"));
        let also = match (sync.no_errors, sync.outage_ms == lost.outage_ms) {
            (true, _) => ", no client error".to_string(),
            (false, true) => String::new(),
            (false, false) => format!(" (async: {} ms)", lost.outage_ms),
        };
        let loss =
            if lost.may_lose { "sync loses nothing, async reports all it lost" } else { "nothing lost" };
        format!("writes are back within {} ms{also}; {loss}; never two primaries", sync.outage_ms)
    }
}

/// The account of a sandbox whose servers are of the MySQL family.
pub fn account() -> Account {
    sandbox::account(Family::MySql)
}

/// Runs one round on a healthy deployment, and leaves it healthy.
pub async fn round<D: Deployment>(
    deployment: &mut D,
    drill: Drill,
    number: u64,
    writers: u8,
) -> Result<Round, Error> {
    if let Some(needs) = drill.fault().and_then(|f| deployment.lacks(f)) {
        return Err(Error::NotHere(drill.name(), needs));
    }
    if drill.waits_for_cool_down() {
        deployment.operator().wait_cool(deployment.site().cool_down + COOLED).await?;
    }
    let before = seated(deployment.operator()).await?;
    let from = text(&before["primary"]);
    let victim = match drill {
        Drill::KillStoreLeader => deployment.operator().controller().await?,
        _ => from.clone(),
    };
    let load = Load::start(deployment, drill, &victim, number, writers).await?;
    load.writes(0).await?;
    tokio::time::sleep(LOAD_BEFORE).await;

    let struck = Instant::now();
    let (to, harms) = strike(deployment, drill, &victim, &before, &load).await?;
    load.writes(load.main.acked()).await?;
    tokio::time::sleep(LOAD_AFTER).await;
    let ended = Instant::now();
    for (fault, harm) in harms {
        deployment.heal(harm).await?;
        if matches!(fault, Fault::Partition | Fault::PauseAgent | Fault::PauseEngine) {
            tokio::time::sleep(LOAD_HEALED).await;
        }
    }
    let (main, others, direct) = load.finish().await;
    let outage = main.outage(struck, ended);
    let mut ledger = main.clone();
    ledger.add(others);
    ledger.add(direct.ledger.clone());

    deployment.wait_healthy(deployment.site().rejoin).await?;
    let present = present(deployment, number).await?;
    let reported_lost = reported_lost(deployment.operator(), before["epoch"].as_u64().unwrap_or(0)).await?;
    let site = deployment.site();
    let promise = drill.promise(&site.durability);
    let outage_ms = site.rto_ms.unwrap_or(promise.outage_ms);
    let promise = Promise { outage_ms, alone: site.alone, ..promise };
    let seen = Seen { outage, ledger, client_errors: main.errors, direct, present, reported_lost };
    Ok(judge(drill.name(), promise, (from, to), seen))
}

/// Waits until the controller is not where the primary is: failures that follow each other faster than it moves are for
/// random incidents. With one voter it stays where it is.
async fn seated(operator: &Operator) -> Result<Value, Error> {
    let end = Instant::now() + SEATED;
    loop {
        let service = operator.service().await?;
        if operator.controller().await.is_ok_and(|at| service["primary"] != *at) || Instant::now() > end {
            return Ok(service);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// All clients of a round.
struct Load {
    main: Writers,
    local: Option<Writers>,
    probers: Vec<Probers>,
    _vantages: Vec<Vantage>,
}

impl Load {
    async fn start<D: Deployment>(
        deployment: &D,
        drill: Drill,
        victim: &str,
        run: u64,
        writers: u8,
    ) -> Result<Load, Error> {
        let site = deployment.site();
        let takes_proxy = drill.fault().is_some_and(Fault::takes_proxy);
        let proxies = site.proxies_without(Some(victim).filter(|_| takes_proxy));
        let clients = deployment.clients()?;
        prepare(site, &clients).await?;
        let (account, sync) = (&site.account, site.durability == "sync");
        let mut load = Load {
            main: Writers::start(&clients, &proxies, account, run, 0..writers),
            local: None,
            probers: vec![Probers::start(&clients, &site.engines(), account, sync, run, PROBERS)],
            _vantages: Vec::new(),
        };
        if matches!(drill, Drill::PartitionPrimary)
            && let Some(there) = deployment.clients_of(victim)?
        {
            let (proxy, engine) = (site.host(victim)?.proxy, site.engine(victim)?);
            load.local = Some(Writers::start(&there, &[proxy], account, run, LOCAL_WRITERS));
            load.probers.push(Probers::start(&there, &[engine], account, sync, run, LOCAL_PROBER));
            load._vantages.push(there);
        }
        load._vantages.push(clients);
        Ok(load)
    }

    /// Waits until more than `than` writes were acknowledged to the clients whose outage counts.
    async fn writes(&self, than: u64) -> Result<(), Error> {
        wait_for_acks(&self.main, than).await
    }

    async fn finish(self) -> (Ledger, Ledger, crate::direct::Direct) {
        let mut direct = crate::direct::Direct::default();
        for probers in self.probers {
            direct.add(probers.finish().await);
        }
        let local = match self.local {
            Some(local) => local.finish().await,
            None => Ledger::default(),
        };
        (self.main.finish().await, local, direct)
    }
}

/// Waits until more than `than` writes were acknowledged.
pub async fn wait_for_acks(load: &Writers, than: u64) -> Result<(), Error> {
    let end = Instant::now() + RECOVERY;
    while load.acked() <= than {
        if Instant::now() > end {
            return Err(Error::NoLoad(RECOVERY.as_secs()));
        }
        tokio::time::sleep(COUNT_AGAIN).await;
    }
    Ok(())
}

/// Creates what drills write to.
pub(crate) async fn prepare(site: &Site, clients: &Vantage) -> Result<(), Error> {
    let proxies = site.proxies_without(None);
    let first = *proxies.first().ok_or_else(|| operator::Error::Missing("proxy".into()))?;
    let account = site.account.clone();
    Ok(clients.run(async move { ledger::prepare(first, &account).await }).await?)
}

/// Breaks it; returns who leads then and what is still broken.
async fn strike<D: Deployment>(
    deployment: &mut D,
    drill: Drill,
    victim: &str,
    before: &Value,
    load: &Load,
) -> Result<(String, Vec<(Fault, D::Harm)>), Error> {
    let epoch = before["epoch"].as_u64().unwrap_or(0);
    let Some(fault) = drill.fault() else {
        let operator = deployment.operator();
        operator.holdfast(&["switchover", &operator.service]).await?;
        return Ok((next_primary(operator, epoch).await?.0, Vec::new()));
    };
    let mut harms = vec![(fault, deployment.strike(fault, victim, None).await?)];
    if drill == Drill::KillStoreLeader && before["primary"] != victim {
        // Nobody has to take over; a writer whose acker is gone may have to wait.
        load.writes(load.main.acked()).await?;
        return Ok((text(&before["primary"]), harms));
    }
    let (mut to, later) = next_primary(deployment.operator(), epoch).await?;
    if drill == Drill::DoubleFailure {
        load.writes(load.main.acked()).await?;
        harms.push((fault, deployment.strike(fault, &to, None).await?));
        to = next_primary(deployment.operator(), later).await?.0;
    }
    Ok((to, harms))
}

/// The open primary of an epoch after `before`, and that epoch. After a crash that may be the same node, if it was back
/// first and had most.
pub(crate) async fn next_primary(operator: &Operator, before: u64) -> Result<(String, u64), Error> {
    let end = Instant::now() + RECOVERY;
    let mut last = String::new();
    while Instant::now() < end {
        match operator.service().await {
            Ok(service) => {
                let mut members = service["members"].as_array().into_iter().flatten();
                let open = members.find(|m| m["role"] == "primary");
                let later = service["epoch"].as_u64().filter(|e| *e > before);
                if let (Some(member), Some(epoch)) = (open, later) {
                    return Ok((text(&member["node"]), epoch));
                }
                last = service["findings"].to_string();
            }
            Err(e) => last = e.to_string(),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let what = "a new primary".into();
    Err(operator::Error::Deadline { what, waited_s: RECOVERY.as_secs(), last }.into())
}

/// The rows of a run on the primary.
pub(crate) async fn present<D: Deployment>(deployment: &D, run: u64) -> Result<BTreeSet<u64>, Error> {
    present_in(deployment.site(), deployment.operator(), &deployment.clients()?, run).await
}

/// The rows of a run on a service's primary.
pub(crate) async fn present_in(
    site: &Site,
    operator: &Operator,
    clients: &Vantage,
    run: u64,
) -> Result<BTreeSet<u64>, Error> {
    let survivor = site.engine(&operator.primary().await?)?;
    let account = site.account.clone();
    Ok(clients.run(async move { ledger::present(survivor, &account, run).await }).await?)
}

/// What members that came back after `epoch` said that only they had; `None` if nobody said anything.
pub(crate) async fn reported_lost(operator: &Operator, epoch: u64) -> Result<Option<u64>, Error> {
    let service = operator.service().await?;
    let members = service["members"].as_array().into_iter().flatten();
    let lost = members.map(|m| &m["lost"]).filter(|l| l["epoch"].as_u64().is_some_and(|e| e > epoch));
    let lost: Vec<u64> = lost.filter_map(|l| l["transactions"].as_u64()).collect();
    Ok(if lost.is_empty() { None } else { Some(lost.iter().sum()) })
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}
