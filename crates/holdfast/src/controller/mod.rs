//! The controller's host: runs where the store's leader is, one [`Office`] per term.
//!
//! It feeds reports to the pure controller, asks it for a verdict, commits plans by compare-and-set together with the
//! lease grant they imply, and wakes whoever waits for assignments or routes. It decides nothing itself, and it
//! holds nothing that a successor needs: that is all in the store.

pub mod backups;
mod history;
pub mod view;

use crate::api::hosts::{Orders, Renewal, ReportRequest, Routes};
use crate::api::people::Accepted;
use crate::clock::{Clock, minute_of_day};
use history::ActivePlan;
use holdfast_core::controller::Controller;
use holdfast_core::decide::Verdict;
use holdfast_core::plan::Plan;
use holdfast_core::record::{GroupRecord, Session, lease_holder};
use holdfast_core::topology::Topology;
use holdfast_core::world::World;
use holdfast_core::{GroupName, Millis, NodeName, RouteSnapshot, limits, seat};
use holdfast_store::{Expect, LeaseOp, Outcome, Store, Txn, Write};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Why a request to the controller was not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this node's controller is not in office")]
    NotInOffice { leader: Option<u64> },
    #[error("the store could not commit")]
    Store(#[source] holdfast_store::Error),
    #[error("{0} is not registered with this session; register first")]
    UnknownSession(NodeName),
    #[error("there is no service {0:?}")]
    UnknownService(String),
    #[error("{0}")]
    Refused(String),
    #[error(
        "{0} changed at the same moment, nothing was done; look at its status, and ask again if it is still needed"
    )]
    Conflict(GroupName),
    #[error("the store holds something that this version cannot read under {key:?}")]
    Unreadable {
        key: String,
        #[source]
        source: serde_json::Error,
    },
}

/// Versions of one term: far more changes than a term sees.
const VERSION_BITS: u32 = 32;

/// Plans follow each other while a group changes; a person's request yields to so many.
const AMEND_TRIES: usize = 8;

/// How often the schedule of backups is looked at.
const BACKUPS_EVERY: Duration = Duration::from_secs(1);

/// One term in office.
pub struct Office {
    /// The node this controller runs on.
    node: NodeName,
    clock: Clock,
    opened: Instant,
    store: Arc<dyn Store>,
    inner: Mutex<Inner>,
    /// Something was reported or committed: decide again.
    stir: Notify,
    /// Grows when assignments or routes change, and from term to term; long-polls wait on it. A long-poll's `after` may be of
    /// another controller: a later term's versions are all greater, so that nobody waits for what is there already.
    version: watch::Sender<u64>,
    /// The node that had better have this office, while nothing is the matter.
    better_seat: watch::Sender<Option<NodeName>>,
}

struct Inner {
    core: Controller,
    active: BTreeMap<GroupName, ActivePlan>,
    routes: BTreeMap<GroupName, RouteSnapshot>,
    /// When the store last committed something for this office: how long its word can be trusted.
    confirmed: Instant,
    said: BTreeMap<GroupName, &'static str>,
    /// Since when all groups are healthy.
    calm_since: Option<Millis>,
}

impl Office {
    /// Reads the store and takes office. Call only on a leader that has applied an entry of its own term.
    pub fn open(
        node: NodeName,
        term: u64,
        topology: Topology,
        store: Arc<dyn Store>,
        clock: Clock,
    ) -> Result<Arc<Office>, Error> {
        let mut core = Controller::new(topology, clock.now());
        for (key, value) in store.local().range("group/") {
            core.record(read(key, &value.bytes)?, value.revision, clock.now());
        }
        let inner = Inner {
            core,
            active: BTreeMap::new(),
            routes: BTreeMap::new(),
            confirmed: Instant::now(),
            said: BTreeMap::new(),
            calm_since: None,
        };
        Ok(Arc::new(Office {
            node,
            clock,
            opened: Instant::now(),
            store,
            inner: Mutex::new(inner),
            stir: Notify::new(),
            version: watch::Sender::new((term << VERSION_BITS) | 1),
            better_seat: watch::Sender::new(None),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while holding it; if it did, what is inside would still be whole values.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Decides until dropped or aborted at the end of the term.
    pub async fn run(self: Arc<Self>) {
        if let Err(e) = self.adopt_services().await {
            tracing::warn!(
                error = &e as &dyn std::error::Error,
                "could not register new services; trying again"
            );
        }
        let mut backups_at = Instant::now();
        loop {
            self.decide_all().await;
            self.publish();
            if backups_at.elapsed() >= BACKUPS_EVERY {
                backups_at = Instant::now();
                self.look_after_backups().await;
            }
            let tick = Duration::from_millis(limits::REPORT_EVERY_MS / 5);
            let _ = tokio::time::timeout(tick, self.stir.notified()).await;
        }
    }

    async fn look_after_backups(&self) {
        if let Err(e) = self.order_backups().await {
            tracing::warn!(error = &e as &dyn std::error::Error, "no backup was ordered; trying again");
        }
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Gives every service of the topology that the store does not know a record.
    async fn adopt_services(&self) -> Result<(), Error> {
        let new: Vec<GroupRecord> = {
            let inner = self.lock();
            let core = &inner.core;
            let unknown = |s: &&holdfast_core::topology::Service| core.group(&s.name).is_none();
            core.topology().services.iter().filter(unknown).map(GroupRecord::new).collect()
        };
        for record in new {
            self.write_record(&record, Expect::Absent, Vec::new()).await?;
        }
        Ok(())
    }

    async fn decide_all(&self) {
        let (names, unknown) = {
            let inner = self.lock();
            let names: Vec<GroupName> =
                inner.core.topology().services.iter().map(|s| s.name.clone()).collect();
            let unknown = names.iter().any(|n| inner.core.group(n).is_none());
            (names, unknown)
        };
        if unknown {
            let _ = self.adopt_services().await;
        }
        let mut calm = true;
        for name in names {
            // One plan leads to the next at once; the bound is for a decider that would chase its own tail.
            for _ in 0..8 {
                let verdict = self.verdict(&name);
                self.note_verdict(&name, &verdict);
                calm &= verdict == Verdict::Healthy;
                let Verdict::Act(plan) = verdict else { break };
                if let Err(e) = self.commit(&plan).await {
                    tracing::warn!(group = %name, error = &e as &dyn std::error::Error, "plan not committed");
                    break;
                }
            }
            self.finish_plan(&name).await;
        }
        self.look_for_a_better_seat(calm);
    }

    fn look_for_a_better_seat(&self, calm: bool) {
        let mut inner = self.lock();
        let now = self.clock.now();
        let core = &inner.core;
        // Of a host that was lost just now nobody knows yet.
        let prompt = |ms| ms < 2 * limits::REPORT_EVERY_MS;
        let heard = |n: &NodeName| core.heard_ms_ago(n, now).is_some_and(prompt);
        let calm = calm && core.topology().nodes.iter().all(|n| heard(&n.name));
        inner.calm_since = if calm { inner.calm_since.or(Some(now)) } else { None };
        let long = inner.calm_since.is_some_and(|since| now.since(since) >= limits::SEAT_CALM_MS);
        let core = &inner.core;
        let records = core.groups().map(|(record, _)| record);
        let better = seat::better(core.topology(), &self.node, records).filter(|_| long);
        self.better_seat.send_if_modified(|known| {
            let changed = *known != better;
            *known = better;
            changed
        });
    }

    /// The node that had better have this office.
    pub fn better_seat(&self) -> watch::Receiver<Option<NodeName>> {
        self.better_seat.subscribe()
    }

    fn verdict(&self, name: &GroupName) -> Verdict {
        let mut inner = self.lock();
        // Asked of the store and not only counted from answers: a renewal whose answer was lost counts as well.
        if let Some(at) = self.store.renewed_at(name.as_str()) {
            inner.core.renewed(name, self.clock.at(at));
        }
        inner.core.tell_time(minute_of_day());
        inner.core.verdict(name, self.clock.now())
    }

    /// Logs a change of mind once, not every tick.
    fn note_verdict(&self, name: &GroupName, verdict: &Verdict) {
        let code = match verdict {
            Verdict::Healthy => "healthy",
            Verdict::Act(_) => "act",
            Verdict::Wait(_) => "wait",
        };
        if self.lock().said.insert(name.clone(), code) == Some(code) {
            return;
        }
        if let Verdict::Wait(blockers) = verdict {
            let says: Vec<&str> = blockers.iter().map(|b| b.says.as_str()).collect();
            tracing::info!(group = %name, "waiting: {}", says.join("; "));
        }
    }

    async fn commit(&self, plan: &Plan) -> Result<(), Error> {
        let (parent, revision) = {
            let inner = self.lock();
            let (record, revision) = inner.core.group(&plan.group).expect("the plan came from this group");
            (record.plan, revision)
        };
        if parent != plan.parent {
            return Err(Error::Conflict(plan.group.clone()));
        }
        let active = ActivePlan::begin(plan, &self.node, self.clock.now());
        let revision = self.write_record(&plan.record, Expect::Revision(revision), active.writes()).await?;
        tracing::info!(group = %plan.group, epoch = plan.epoch.0, plan = plan.id, kind = %plan.kind, "{}", plan.because);
        let active = active.committed(revision, self.clock.now());
        let replaced = self.lock().active.insert(plan.group.clone(), active);
        if let Some(old) = replaced {
            self.store_history(&old).await;
        }
        Ok(())
    }

    /// Commits a record, with the lease grant that it implies, and takes note of it.
    async fn write_record(
        &self,
        record: &GroupRecord,
        expect: Expect,
        mut more: Vec<Write>,
    ) -> Result<u64, Error> {
        let value = serde_json::to_vec(record).expect("a record is plain data");
        more.push(Write { key: group_key(&record.group), expect, value: Some(value) });
        let grant = LeaseOp::Grant {
            lease: record.group.to_string(),
            token: record.lease_token(),
            holder: record.lease_holder(),
        };
        match self.store.commit(Txn { writes: more, leases: vec![grant] }).await.map_err(Error::Store)? {
            Outcome::Done { revision } => {
                let mut inner = self.lock();
                inner.confirmed = Instant::now();
                inner.core.record(record.clone(), revision, self.clock.now());
                drop(inner);
                self.publish();
                self.wake();
                Ok(revision)
            }
            Outcome::Refused(refusal) => Err(Error::Store(holdfast_store::Error::Refused(refusal))),
            Outcome::Conflict { .. } | Outcome::LeaseRefused { .. } => {
                self.reload(&record.group)?;
                Err(Error::Conflict(record.group.clone()))
            }
        }
    }

    fn reload(&self, group: &GroupName) -> Result<(), Error> {
        let key = group_key(group);
        if let Some(value) = self.store.local().get(&key) {
            let record = read(&key, &value.bytes)?;
            self.lock().core.record(record, value.revision, self.clock.now());
        }
        Ok(())
    }

    /// The term is over: who waits for news here asks for the next controller at once. Call when it is announced that this
    /// office is closed.
    pub fn leave(&self) {
        self.wake();
    }

    fn wake(&self) {
        self.version.send_modify(|v| *v += 1);
    }

    // ---- agents ----

    /// Registers an agent's life. Only afterwards is it told anything.
    pub async fn register(&self, node: &NodeName, session: Session) -> Result<(), Error> {
        if self.lock().core.topology().node(node).is_none() {
            return Err(Error::Refused(format!("the topology of {} has no node {node}", self.node)));
        }
        let key = session_key(node);
        let local = self.store.local();
        let known = local.get(&key);
        let number = known.and_then(|v| std::str::from_utf8(&v.bytes).ok()?.parse::<u64>().ok()).unwrap_or(0);
        // A registration of an earlier life that was long on its way must not take the place of the present one.
        if session.0 < number {
            return Err(Error::Refused(format!(
                "{node} is registered with the later session {number}; if its clock \
                 was set back and its data directory replaced, set the clock right and start it again"
            )));
        }
        let expect = known.map_or(Expect::Absent, |v| Expect::Revision(v.revision));
        let write = Write { key, expect, value: Some(session.0.to_string().into_bytes()) };
        let txn = Txn { writes: vec![write], leases: Vec::new() };
        match self.store.commit(txn).await.map_err(Error::Store)? {
            Outcome::Done { .. } => {}
            Outcome::Conflict { .. } | Outcome::LeaseRefused { .. } => {
                return Err(Error::Refused(format!(
                    "another session of {node} was registered at the same moment"
                )));
            }
            Outcome::Refused(refusal) => return Err(Error::Store(holdfast_store::Error::Refused(refusal))),
        }
        self.lock().confirmed = Instant::now();
        Ok(())
    }

    fn check_session(&self, node: &NodeName, session: Session) -> Result<(), Error> {
        let local = self.store.local();
        let registered = local.get(&session_key(node)).map(|v| &v.bytes[..]);
        if registered == Some(session.0.to_string().as_bytes()) {
            Ok(())
        } else {
            Err(Error::UnknownSession(node.clone()))
        }
    }

    /// Takes a report and renews the leases it asks for.
    pub async fn report(&self, report: ReportRequest) -> Result<Orders, Error> {
        self.check_session(&report.node, report.session)?;
        {
            let mut inner = self.lock();
            let now = self.clock.now();
            inner.core.report(&report.node, report.session, report.instances, now);
            let Inner { core, active, .. } = &mut *inner;
            for (group, plan) in active.iter_mut() {
                if let Some(r) = core.world(group, now).and_then(|w| w.fresh(&report.node).map(|r| r.settled))
                {
                    plan.settled(&report.node, r, now);
                }
            }
        }
        self.stir.notify_one();
        let mut renewed = Vec::new();
        for renewal in report.renew {
            if self.renew(&report.node, report.session, &renewal).await? {
                renewed.push(renewal);
            }
        }
        // Nothing that a lease waits for. What is not noted now is said again with the next report.
        if let Err(e) = self.note_backups(report.backups).await {
            tracing::debug!(error = &e as &dyn std::error::Error, "the end of a backup was not noted");
        }
        Ok(self.orders(&report.node, report.session, renewed))
    }

    /// One committed entry (S2). `false`: refused, the epoch is over.
    async fn renew(&self, node: &NodeName, session: Session, renewal: &Renewal) -> Result<bool, Error> {
        let op = LeaseOp::Renew {
            lease: renewal.group.to_string(),
            token: renewal.epoch.0 * 2 + 1,
            holder: lease_holder(node, session),
        };
        let txn = Txn { writes: Vec::new(), leases: vec![op] };
        let done = matches!(self.store.commit(txn).await.map_err(Error::Store)?, Outcome::Done { .. });
        let mut inner = self.lock();
        inner.confirmed = Instant::now();
        if done {
            inner.core.renewed(&renewal.group, self.clock.now());
        }
        Ok(done)
    }

    fn orders(&self, node: &NodeName, session: Session, renewed: Vec<Renewal>) -> Orders {
        let version = *self.version.borrow();
        let backups = self.backup_orders(node, session);
        let inner = self.lock();
        let topology = inner.core.topology();
        let assignments = inner
            .core
            .groups()
            .filter_map(|(record, revision)| {
                let service = topology.service(&record.group)?;
                service.members.contains(node).then(|| record.assignment(service, revision, node))
            })
            .collect();
        Orders { assignments, backups, renewed, version }
    }

    /// Assignments, at once if something changed since `after`, else when it does or the wait is over.
    pub async fn assignments(
        &self,
        node: &NodeName,
        session: Session,
        after: u64,
        wait: Duration,
    ) -> Result<Orders, Error> {
        self.check_session(node, session)?;
        self.wait_for_change(after, wait).await;
        Ok(self.orders(node, session, Vec::new()))
    }

    /// Routes, as [`Office::assignments`].
    pub async fn routes(&self, after: u64, wait: Duration) -> Routes {
        self.wait_for_change(after, wait).await;
        let version = *self.version.borrow();
        let inner = self.lock();
        let age = u64::try_from(inner.confirmed.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Whoever lost the store's confidence loses the proxies' as well: a deposed leader must not keep routes alive.
        let valid_for_ms = limits::ROUTE_VALID_MS.saturating_sub(age);
        let routes = inner.routes.values().map(|r| RouteSnapshot { valid_for_ms, ..r.clone() }).collect();
        Routes { version, routes }
    }

    async fn wait_for_change(&self, after: u64, wait: Duration) {
        let mut version = self.version.subscribe();
        let _ = tokio::time::timeout(wait, version.wait_for(|v| *v > after)).await;
    }

    /// Recomputes the routes; wakes the proxies if one changed.
    fn publish(&self) {
        let mut inner = self.lock();
        let now = self.clock.now();
        let names: Vec<GroupName> = inner.core.groups().map(|(r, _)| r.group.clone()).collect();
        let fresh: BTreeMap<GroupName, RouteSnapshot> =
            names.into_iter().filter_map(|n| Some((n.clone(), inner.core.route(&n, now)?))).collect();
        let changed = fresh != inner.routes;
        inner.routes = fresh;
        drop(inner);
        if changed {
            self.wake();
        }
    }

    // ---- people ----

    /// Reads a group under the lock.
    pub fn with_world<T>(&self, service: &str, f: impl FnOnce(&World) -> T) -> Result<T, Error> {
        let unknown = || Error::UnknownService(service.to_string());
        let name = GroupName::new(service).map_err(|_| unknown())?;
        let inner = self.lock();
        let world = inner.core.world(&name, self.clock.now()).ok_or_else(unknown)?;
        Ok(f(&world))
    }

    /// An office that was just taken knows nobody yet, and would refuse what is possible. It waits no longer than for
    /// its own verdicts.
    async fn settle(&self, name: &GroupName) {
        let look_again = Duration::from_millis(limits::SETTLE_MS / 20);
        while self.lock().core.settling(name, self.clock.now()) {
            tokio::time::sleep(look_again).await;
        }
    }

    /// Changes a record by an operator's hand: by compare-and-set, like a plan. Where a plan came in between, the change
    /// is considered anew in the state that the plan made, unless that is another epoch: who asks for a takeover did not
    /// mean the primary that just took over.
    pub async fn amend(
        &self,
        service: &str,
        change: impl Fn(&World, &mut GroupRecord) -> Result<String, String>,
    ) -> Result<Accepted, Error> {
        let unknown = || Error::UnknownService(service.to_string());
        let name = GroupName::new(service).map_err(|_| unknown())?;
        self.settle(&name).await;
        let epoch = || self.lock().core.group(&name).map(|(record, _)| record.epoch);
        let meant = epoch();
        for _ in 1..AMEND_TRIES {
            match self.try_amend(&name, &change).await {
                Err(Error::Conflict(_)) if epoch() == meant => {}
                answer => return answer,
            }
        }
        self.try_amend(&name, &change).await
    }

    async fn try_amend(
        &self,
        name: &GroupName,
        change: impl Fn(&World, &mut GroupRecord) -> Result<String, String>,
    ) -> Result<Accepted, Error> {
        let unknown = || Error::UnknownService(name.to_string());
        let (record, says, revision) = {
            let inner = self.lock();
            let world = inner.core.world(name, self.clock.now()).ok_or_else(unknown)?;
            let mut record = world.record.clone();
            let says = change(&world, &mut record).map_err(Error::Refused)?;
            let (_, revision) = inner.core.group(name).ok_or_else(unknown)?;
            (record, says, revision)
        };
        self.write_record(&record, Expect::Revision(revision), Vec::new()).await?;
        self.stir.notify_one();
        Ok(Accepted { after_plan: record.plan, epoch: record.epoch.0, says })
    }
}

fn group_key(group: &GroupName) -> String {
    format!("group/{group}")
}

fn session_key(node: &NodeName) -> String {
    format!("session/{node}")
}

fn read<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|source| Error::Unreadable { key: key.to_string(), source })
}
