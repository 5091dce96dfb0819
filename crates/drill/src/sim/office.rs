//! The controller's host: feeds what the store committed and what agents report to the real [`Controller`], commits
//! its plans, answers agents. Any voter may run one; several may believe they are in office.

use super::event::{Message, Timer};
use super::store::{self, Ask, Asker, Change};
use super::{Sabotage, Sim, invariants, tell};
use holdfast_core::controller::Controller;
use holdfast_core::decide::Verdict;
use holdfast_core::record::{Assignment, GroupRecord, Session, lease_holder};
use holdfast_core::report::InstanceReport;
use holdfast_core::{Epoch, GroupName, Millis};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A commit that was not answered by then may or may not happen: the controller reads on.
const COMMIT_TIMEOUT_MS: u64 = 1_000;
const TICK_MS: u64 = 100;
/// Every how many ticks routes are sent again.
const ROUTE_TICKS: u64 = 3;

/// See the module.
pub struct Office {
    /// Tells one office of a host from the next.
    pub term: u64,
    /// The term of the store that it is the office of.
    reign: u64,
    pub controller: Controller,
    inflight: Option<(u64, u64)>,
    ticks: u64,
    leaving: bool,
    /// When the store last committed something for it: how long its word can be trusted.
    confirmed: Millis,
    pub says: String,
    /// What it was told, as it was told.
    pub heard: BTreeMap<usize, InstanceReport>,
}

/// Who asked, and when by their clock.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub agent: usize,
    pub session: Session,
    pub sent: Millis,
}

impl Sim {
    pub(super) fn group(&self) -> GroupName {
        self.service().name.clone()
    }

    /// Opens and closes the office as the voter of this host says that it leads, or not.
    pub(super) fn office_watch(&mut self, node: usize) {
        let now = self.now;
        let Some(member) = &self.hosts[node].store else { return };
        let (leads, reign) = (member.voter.leads(now), member.voter.term());
        match &mut self.hosts[node].office {
            Some(office) if office.leaving || (leads && office.reign == reign) => {}
            // The host learns of it a little later, or much.
            Some(office) => {
                office.leaving = true;
                let term = office.term;
                let late =
                    if self.rng.percent(10) { self.rng.range(0, 4_000) } else { self.rng.range(0, 40) };
                self.process_after(late, node, Timer::Depose { term });
            }
            None if leads => self.open_office(node, reign),
            None => {}
        }
    }

    pub(super) fn office_deposed(&mut self, node: usize, term: u64) {
        if self.hosts[node].office.as_ref().is_some_and(|o| o.term == term) {
            tell!(self, "{} leaves office", self.names[node]);
            self.hosts[node].office = None;
            self.office_watch(node);
        }
    }

    fn open_office(&mut self, node: usize, reign: u64) {
        let now = self.local(node);
        let since = if self.sabotaged(Sabotage::LeasesForgotten) { Millis(0) } else { now };
        let mut controller = Controller::new(self.topology.clone(), since);
        let known = self.hosts[node].store.as_ref().and_then(|m| m.applied.record.clone());
        if let Some((record, revision)) = known {
            controller.record(self.as_told(&record), revision, now);
        }
        let term = self.fresh_id();
        tell!(self, "{} takes office, term {reign}", self.names[node]);
        let (inflight, says) = (None, String::new());
        self.hosts[node].office = Some(Office {
            term,
            reign,
            controller,
            inflight,
            ticks: 0,
            leaving: false,
            confirmed: now,
            says,
            heard: BTreeMap::new(),
        });
        self.process_after(1, node, Timer::OfficeTick { term });
    }

    /// What a controller takes a record to say.
    fn as_told(&self, record: &GroupRecord) -> GroupRecord {
        let mut record = record.clone();
        if self.sabotaged(Sabotage::CoolDownForgotten) {
            record.last_takeover = None;
        }
        record
    }

    fn office(&mut self, node: usize, term: u64) -> Option<&mut Office> {
        self.hosts[node].office.as_mut().filter(|o| o.term == term)
    }

    /// The voter of this host has applied an entry.
    pub(super) fn office_applied(&mut self, node: usize, id: u64, change: &Change, done: bool) {
        let (now, group) = (self.local(node), self.group());
        let record = match &change.what {
            Ask::Record { .. } | Ask::Plan { .. } if done => {
                self.hosts[node].store.as_ref().and_then(|m| m.applied.record.clone())
            }
            _ => None,
        };
        let told = record.map(|(r, revision)| (self.as_told(&r), revision));
        let Some(office) = &mut self.hosts[node].office else { return };
        let term = office.term;
        if change.by == Asker::at(node, term) {
            office.confirmed = now;
        }
        if office.inflight.is_some_and(|(i, _)| i == id) {
            office.inflight = None;
        }
        let changed = told.is_some();
        if let Some((record, revision)) = told {
            office.controller.record(record, revision, now);
        }
        if let Ask::Renew { to, epoch } = &change.what {
            if done {
                office.controller.renewed(&group, now);
            }
            if change.by == Asker::at(node, term) {
                self.office_answer(node, *to, done.then_some(*epoch));
            }
        }
        if changed {
            self.push_all(node);
            self.send_routes(node);
        }
        self.process_after(0, node, Timer::Decide { term });
    }

    fn registered(&self, node: usize, agent: usize) -> Session {
        self.hosts[node].store.as_ref().map_or(Session(0), |m| m.applied.sessions[agent])
    }

    fn push_all(&mut self, node: usize) {
        for agent in self.members.clone() {
            let session = self.registered(node, agent);
            if session != Session(0) {
                let to = Asked { agent, session, sent: Millis(0) };
                self.office_answer(node, to, None);
            }
        }
    }

    fn send_routes(&mut self, node: usize) {
        let (now, group) = (self.local(node), self.group());
        let Some(office) = &self.hosts[node].office else { return };
        let Some(mut snapshot) = office.controller.route(&group, now) else { return };
        snapshot.valid_for_ms = snapshot.valid_for_ms.saturating_sub(now.since(office.confirmed));
        let snapshot = Arc::new(snapshot);
        for to in 0..self.hosts.len() {
            self.send(node, to, Message::Route { snapshot: snapshot.clone() });
        }
    }

    pub(super) fn office_tick(&mut self, node: usize, term: u64) {
        let Some(office) = self.office(node, term) else { return };
        office.ticks += 1;
        let routes = office.ticks % ROUTE_TICKS == 0;
        self.process_after(TICK_MS, node, Timer::OfficeTick { term });
        self.office_decide(node, term);
        if routes {
            self.send_routes(node);
        }
    }

    pub(super) fn office_decide(&mut self, node: usize, term: u64) {
        let (global, now, group) = (self.now, self.local(node), self.group());
        let found = GroupRecord::new(self.service());
        let Some(office) = self.office(node, term) else { return };
        if office.inflight.is_some_and(|(_, since)| global - since < COMMIT_TIMEOUT_MS) {
            return;
        }
        let by = Asker::at(node, term);
        let Some((_, revision)) = office.controller.group(&group) else {
            let txn = store::amend_txn(&found, None);
            let id = self.propose(by, txn, Ask::Record { record: Arc::new(found) });
            return self.await_commit(node, term, id);
        };
        let verdict = office.controller.verdict(&group, now);
        self.office_thinks(node, term, &verdict);
        if let Verdict::Act(plan) = verdict {
            invariants::proposed(self, node, &plan);
            let txn = store::plan_txn(&plan, revision);
            let id = self.propose(by, txn, Ask::Plan { plan: Arc::new(*plan) });
            self.await_commit(node, term, id);
        }
    }

    fn await_commit(&mut self, node: usize, term: u64, id: u64) {
        let now = self.now;
        if let Some(office) = self.office(node, term) {
            office.inflight = Some((id, now));
        }
    }

    fn office_thinks(&mut self, node: usize, term: u64, verdict: &Verdict) {
        let says = match verdict {
            Verdict::Healthy => "healthy".to_string(),
            Verdict::Act(plan) => format!("{}: {}", plan.kind, plan.because),
            Verdict::Wait(blockers) => {
                blockers.iter().map(|b| format!("{}: {}", b.code, b.says)).collect::<Vec<_>>().join("; ")
            }
        };
        let Some(office) = self.office(node, term) else { return };
        let news = !office.says.starts_with(says.split(':').next().unwrap_or_default());
        office.says.clone_from(&says);
        if news {
            tell!(self, "{} thinks: {says}", self.names[node]);
        }
    }

    pub(super) fn office_report(
        &mut self,
        node: usize,
        from: Asked,
        renewal: Option<Epoch>,
        mut report: InstanceReport,
    ) {
        let (now, name) = (self.local(node), self.names[from.agent].clone());
        let told = report.clone();
        if self.sabotaged(Sabotage::TieBroken) {
            super::blur(&mut report);
        }
        let registered = self.registered(node, from.agent);
        let Some(office) = &mut self.hosts[node].office else { return };
        let term = office.term;
        let by = Asker::at(node, term);
        if registered != from.session {
            if registered < from.session
                && let Some(member) = &self.hosts[node].store
            {
                let txn = store::register_txn(&member.applied, &name, from.session);
                self.propose(by, txn, Ask::Register { agent: from.agent, session: from.session });
            }
            return;
        }
        let overtaken = |h: &InstanceReport| h.session == told.session && h.taken > told.taken;
        if !office.heard.get(&from.agent).is_some_and(overtaken) {
            office.heard.insert(from.agent, told);
        }
        office.controller.report(&name, from.session, vec![report], now);
        match renewal {
            Some(epoch) => {
                let txn = store::renew_txn(epoch, lease_holder(&name, from.session));
                self.propose(by, txn, Ask::Renew { to: from, epoch });
            }
            None => self.office_answer(node, from, None),
        }
        self.office_decide(node, term);
    }

    fn office_answer(&mut self, node: usize, to: Asked, renewed: Option<Epoch>) {
        let assignment = self.assignment_from(node, to.agent);
        let Asked { agent, session, sent } = to;
        self.send(node, agent, Message::Answer { session, sent, renewed, assignment });
    }

    fn assignment_from(&self, node: usize, agent: usize) -> Option<Assignment> {
        let office = self.hosts[node].office.as_ref()?;
        let (record, revision) = office.controller.group(&self.group())?;
        let service = self.service();
        service
            .members
            .contains(&self.names[agent])
            .then(|| record.assignment(service, revision, &self.names[agent]))
    }
}
