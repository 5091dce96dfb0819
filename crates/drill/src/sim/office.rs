//! The controller's host: feeds what the store committed and what agents report to the real [`Controller`], commits
//! its plans, answers agents. Any host may run one; several may believe they are in office.

use super::event::{Message, Timer};
use super::net::Plane;
use super::store::{Ask, Entry};
use super::{Sabotage, Sim, tell};
use holdfast_core::controller::Controller;
use holdfast_core::decide::Verdict;
use holdfast_core::record::{Assignment, GroupRecord, Session, lease_holder};
use holdfast_core::report::InstanceReport;
use holdfast_core::{Epoch, GroupName, Millis};

/// A commit that was not answered by then may or may not happen: the controller reads on.
const COMMIT_TIMEOUT_MS: u64 = 500;
const TICK_MS: u64 = 100;
/// Every how many ticks routes are sent again.
const ROUTE_TICKS: u64 = 3;

/// See the module.
pub struct Office {
    pub term: u64,
    pub controller: Controller,
    sessions: Vec<Session>,
    /// Entries of the log that were read.
    read: usize,
    inflight: Option<(u64, u64)>,
    ticks: u64,
    pub says: String,
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

    pub(super) fn open_office(&mut self, node: usize) {
        let now = self.local(node);
        let since = if self.sabotaged(Sabotage::LeasesForgotten) { Millis(0) } else { now };
        let mut controller = Controller::new(self.topology.clone(), since);
        if let Some((record, revision)) = self.store.record() {
            controller.record(record.clone(), revision, now);
        }
        let term = self.store.term;
        tell!(self, "{} takes office, term {term}", self.names[node]);
        self.hosts[node].office = Some(Office {
            term,
            controller,
            sessions: self.store.sessions.clone(),
            read: self.store.log.len(),
            inflight: None,
            ticks: 0,
            says: String::new(),
        });
        self.process_after(1, node, Timer::OfficeTick { term });
    }

    fn office(&mut self, node: usize, term: u64) -> Option<&mut Office> {
        self.hosts[node].office.as_mut().filter(|o| o.term == term)
    }

    /// Reads the log on.
    pub(super) fn office_feed(&mut self, node: usize, term: u64) {
        let reachable = self.working_leader().is_some_and(|l| self.net.both(Plane::Control, node, l));
        let (now, group) = (self.local(node), self.group());
        if self.office(node, term).is_none() {
            return;
        }
        if !reachable {
            return self.process_after(50, node, Timer::Feed { term });
        }
        let log = std::mem::take(&mut self.store.log);
        let office = self.office(node, term).expect("looked up above");
        let mut changed = false;
        for entry in &log[office.read..] {
            match entry {
                Entry::Record(record, revision) => {
                    office.controller.record((**record).clone(), *revision, now);
                    changed = true;
                }
                Entry::Renewed => office.controller.renewed(&group, now),
                Entry::Registered(agent, session) => office.sessions[*agent] = *session,
            }
        }
        office.read = log.len();
        self.store.log = log;
        if changed {
            self.push_all(node);
            self.send_routes(node);
            self.office_decide(node, term);
        }
    }

    fn push_all(&mut self, node: usize) {
        for agent in self.members.clone() {
            let Some(office) = &self.hosts[node].office else { return };
            let session = office.sessions[agent];
            if session != Session(0) {
                let to = Asked { agent, session, sent: Millis(0) };
                self.office_answer(node, to, None);
            }
        }
    }

    fn send_routes(&mut self, node: usize) {
        let (now, group) = (self.local(node), self.group());
        let Some(office) = &self.hosts[node].office else { return };
        let Some(snapshot) = office.controller.route(&group, now) else { return };
        let snapshot = std::sync::Arc::new(snapshot);
        for to in 0..self.hosts.len() {
            self.send(node, to, Message::Route { snapshot: snapshot.clone() });
        }
    }

    pub(super) fn office_tick(&mut self, node: usize, term: u64) {
        let Some(office) = self.office(node, term) else { return };
        office.ticks += 1;
        let routes = office.ticks % ROUTE_TICKS == 0;
        self.process_after(TICK_MS, node, Timer::OfficeTick { term });
        self.office_feed(node, term);
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
        let Some((_, revision)) = office.controller.group(&group) else {
            return self.store_ask(node, term, Ask::Found { record: Box::new(found) });
        };
        let verdict = office.controller.verdict(&group, now);
        let says = match &verdict {
            Verdict::Healthy => "healthy".to_string(),
            Verdict::Act(plan) => format!("{}: {}", plan.kind, plan.because),
            Verdict::Wait(blockers) => {
                blockers.iter().map(|b| format!("{}: {}", b.code, b.says)).collect::<Vec<_>>().join("; ")
            }
        };
        let office = self.office(node, term).expect("looked up above");
        let news = !office.says.starts_with(says.split(':').next().unwrap_or_default());
        office.says.clone_from(&says);
        if news {
            tell!(self, "{} thinks: {says}", self.names[node]);
        }
        if let Verdict::Act(plan) = verdict {
            let id = self.fresh_id();
            self.office(node, term).expect("looked up above").inflight = Some((id, global));
            self.store_ask(node, term, Ask::Plan { id, revision, plan });
        }
    }

    pub(super) fn office_committed(&mut self, node: usize, term: u64, id: u64, _done: bool) {
        self.office_feed(node, term);
        let Some(office) = self.office(node, term) else { return };
        if office.inflight.is_some_and(|(i, _)| i == id) {
            office.inflight = None;
        }
        self.office_decide(node, term);
    }

    pub(super) fn office_report(
        &mut self,
        node: usize,
        from: Asked,
        renewal: Option<Epoch>,
        report: InstanceReport,
    ) {
        let (now, names) = (self.local(node), &self.names[from.agent]);
        let holder = lease_holder(names, from.session);
        let name = names.clone();
        let Some(office) = &mut self.hosts[node].office else { return };
        let term = office.term;
        let registered = office.sessions[from.agent];
        if registered != from.session {
            if registered < from.session {
                self.store_ask(node, term, Ask::Register { agent: from.agent, session: from.session });
            }
            return;
        }
        office.controller.report(&name, from.session, vec![report], now);
        match renewal {
            Some(epoch) => {
                let (agent, session, sent) = (from.agent, from.session, from.sent);
                self.store_ask(node, term, Ask::Renew { agent, session, sent, epoch, holder });
            }
            None => self.office_answer(node, from, None),
        }
        self.office_decide(node, term);
    }

    pub(super) fn office_renewed(&mut self, node: usize, term: u64, to: Asked, epoch: Epoch, done: bool) {
        self.office_feed(node, term);
        if self.office(node, term).is_some() {
            self.office_answer(node, to, done.then_some(epoch));
        }
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
