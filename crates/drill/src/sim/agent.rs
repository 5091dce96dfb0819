//! The agent's host: observes the model engine, talks to whoever runs a controller, and lets the real [`Member`]
//! say what to do. One verb at a time; assignments are taken between verbs; the end of the lease interrupts any.

use super::event::{Event, Message, Timer};
use super::moments::Moment;
use super::{Power, Sabotage, Sim, engine, invariants, tell};
use holdfast_core::limits::{LEASE_RENEW_EVERY_MS, REPORT_EVERY_MS, UNRESPONSIVE_MS};
use holdfast_core::member::{Member, Verb, VouchRequest};
use holdfast_core::record::{Assignment, Role, Session};
use holdfast_core::report::{InstanceReport, Observed, Process};
use holdfast_core::version::must_not_follow;
use holdfast_core::{Epoch, Millis, Position};

/// After a verb that failed.
pub const RETRY_MS: u64 = 200;

/// See the module.
pub struct Agent {
    pub session: Session,
    pub member: Member,
    pub busy: Option<(u64, Verb)>,
    /// Arrived while a verb was under way.
    pending: Option<Assignment>,
    renewal_sent: Option<Millis>,
    /// When this life began, and whether the one before had vouched for another primary (kept on disk).
    pub started: Millis,
    pub vouched_before: bool,
    /// What the engine last answered.
    pub last: Observed,
    settled: u64,
}

/// A controller's answer to a report, or a push.
pub struct Answer {
    pub session: Session,
    pub sent: Millis,
    pub renewed: Option<Epoch>,
    pub assignment: Option<Assignment>,
}

impl Sim {
    /// The process of a host starts.
    pub(super) fn process_up(&mut self, node: usize) {
        let name = self.names[node].clone();
        let group = self.group();
        let is_member = self.members.contains(&node);
        let same_life = self.sabotaged(Sabotage::SessionReused);
        let (started, now, attached) = (self.local(node), self.now, self.attached);
        let host = &mut self.hosts[node];
        if host.power != Power::Down {
            return;
        }
        host.power = Power::Up;
        host.life += 1;
        if attached {
            // Its engine may be open: closing it is the first thing that it does.
            host.resumed_at = now + RETRY_MS;
        }
        let session = Session(if same_life { 1 } else { host.life });
        host.agent = is_member.then(|| Agent {
            session,
            member: Member::new(name, group, session),
            busy: None,
            pending: None,
            renewal_sent: None,
            started,
            vouched_before: host.vouched,
            last: Observed::only(Process::Starting),
            settled: 0,
        });
        tell!(self, "{} starts, session {}", self.names[node], session.0);
        // What an earlier life left open and does not answer is killed, like anything that does not close in time (S3).
        if self.hosts[node].engine.power == engine::Power::Hung && self.hosts[node].engine.writable {
            self.engine_down(node, "killed: it was open and does not answer", true);
        }
        self.voter_up(node);
        if is_member {
            self.process_after(1, node, Timer::AgentTick);
            self.process_after(1, node, Timer::AgentWork);
        }
    }

    /// The engine does not answer, and has not for so long that it would be called hung.
    fn deaf(&self, node: usize) -> bool {
        let engine = &self.hosts[node].engine;
        engine.power == engine::Power::Hung && self.now < engine.hung_at + UNRESPONSIVE_MS
    }

    /// Looks at the engine, unless it is busy with a verb or does not answer: then what was seen last stands.
    pub(super) fn agent_look(&mut self, node: usize) {
        let seen = self.agent_sees(node);
        let deaf = self.deaf(node);
        let host = &mut self.hosts[node];
        if let Some(agent) = &mut host.agent {
            host.engine.retained |= host.engine.on() && !deaf && agent.member.intact(&seen);
            agent.last = seen;
        }
    }

    /// What the agent sees now. Its reports say what it saw when it looked.
    pub(super) fn agent_sees(&self, node: usize) -> Observed {
        let engine = &self.hosts[node].engine;
        if self.deaf(node)
            && let Some(agent) = &self.hosts[node].agent
        {
            return agent.last.clone();
        }
        let mut seen = engine.observe(&self.names, self.now);
        seen.at = self.local(node);
        if engine.on() {
            seen.unjudged = self.hosts[node].cut.len() as u64;
        }
        if self.sabotaged(Sabotage::PromoteUndrained) && engine.on() {
            seen.drained = true;
        }
        seen
    }

    fn busy(&self, node: usize) -> bool {
        self.hosts[node].agent.as_ref().is_some_and(|a| a.busy.is_some())
    }

    pub(super) fn agent_tick(&mut self, node: usize) {
        self.process_after(REPORT_EVERY_MS, node, Timer::AgentTick);
        self.agent_work(node);
        self.agent_report(node);
        self.ask_vouchers(node);
    }

    pub(super) fn agent_report(&mut self, node: usize) {
        let now = self.local(node);
        let installed = Some(engine::version(self.hosts[node].engine.installed));
        let Some(agent) = &mut self.hosts[node].agent else { return };
        let seen = agent.last.clone();
        let due = agent.renewal_sent.is_none_or(|t| now.since(t) >= LEASE_RENEW_EVERY_MS);
        let unheld = agent.member.write_until().is_none();
        let renewal = agent.member.renewal().filter(|_| due || unheld);
        if renewal.is_some() {
            agent.renewal_sent = Some(now);
        }
        let activity = agent.busy.as_ref().map(|(_, verb)| format!("{verb:?}"));
        let report = InstanceReport { installed, ..agent.member.report(&seen, activity, None, now) };
        let report = Box::new(report);
        let session = agent.session;
        let news = report.settled > agent.settled;
        agent.settled = report.settled.max(agent.settled);
        if news {
            self.moment(Moment::Settled, node);
        }
        for to in 0..self.hosts.len() {
            if self.hosts[to].office.is_some() {
                let report = report.clone();
                self.send(node, to, Message::Report { from: node, session, sent: now, renewal, report });
            }
        }
    }

    pub(super) fn agent_answer(&mut self, node: usize, answer: Answer) {
        let now = self.local(node);
        let (from_answer, deaf) = (self.sabotaged(Sabotage::LeaseFromAnswer), self.deaf(node));
        let Some(agent) = &mut self.hosts[node].agent else { return };
        if answer.session != agent.session {
            return;
        }
        if let Some(epoch) = answer.renewed {
            agent.member.renewed(epoch, if from_answer { now } else { answer.sent });
        }
        if let Some(assignment) = answer.assignment {
            // A push answers nothing: its `sent` is 0.
            let taken = agent.member.assignment().is_none_or(|held| held.revision <= assignment.revision);
            if taken && answer.sent > Millis(0) {
                agent.member.confirmed(answer.sent);
            }
            // What it does not see, it promises nothing about.
            if agent.busy.is_none() && !deaf {
                self.agent_assign(node, assignment);
            } else {
                self.agent_assign_later(node, assignment);
            }
        }
        self.arm_lease_end(node);
        self.agent_work(node);
    }

    fn agent_assign_later(&mut self, node: usize, assignment: Assignment) {
        let Some(agent) = &mut self.hosts[node].agent else { return };
        let held = agent.pending.as_ref().or(agent.member.assignment());
        if held.is_some_and(|held| held.revision >= assignment.revision) {
            return;
        }
        let other_epoch = held.is_some_and(|held| held.epoch != assignment.epoch);
        agent.pending = Some(assignment);
        if other_epoch {
            self.abandon_reclone(node);
        }
    }

    fn agent_assign(&mut self, node: usize, mut assignment: Assignment) {
        let now = self.local(node);
        if self.sabotaged(Sabotage::RoutesTurnedAtOnce) {
            assignment.relaxed = 0;
        }
        let Some(agent) = &mut self.hosts[node].agent else { return };
        let news = agent.member.assignment().is_none_or(|held| held.revision < assignment.revision);
        let (epoch, revision, role) = (assignment.epoch, assignment.revision, assignment.role.clone());
        match agent.member.assign(assignment, now) {
            Ok(()) if news => {
                tell!(self, "{} is told epoch {epoch} rev {revision}: {role:?}", self.names[node]);
                self.agent_report(node);
            }
            Ok(()) | Err(_) => {}
        }
    }

    pub(super) fn take_pending(&mut self, node: usize) {
        if self.deaf(node) {
            return;
        }
        let pending = self.hosts[node].agent.as_mut().and_then(|a| a.pending.take());
        if let Some(assignment) = pending {
            self.agent_assign(node, assignment);
        }
    }

    pub(super) fn agent_work(&mut self, node: usize) {
        self.relax_unrecorded(node);
        if self.busy(node) {
            return;
        }
        self.agent_look(node);
        self.take_pending(node);
        let now = self.local(node);
        let Some(agent) = &self.hosts[node].agent else { return };
        let seen = agent.last.clone();
        let leads = matches!(agent.member.assignment().map(|a| &a.role), Some(Role::Lead { .. }));
        if let Some(verb) = agent.member.next(&seen, now)
            && !(leads && verb == Verb::Close && self.sabotaged(Sabotage::LeaseEndIgnored))
        {
            self.begin(node, verb);
        }
    }

    fn relax_unrecorded(&mut self, node: usize) {
        let engine = &self.hosts[node].engine;
        let alone = engine.writable && engine.waits && engine.dumps.values().all(|d| !d.acknowledges);
        if self.sabotaged(Sabotage::RelaxUnrecorded) && alone {
            self.relax(node);
        }
    }

    // ---- the lease ----

    pub(super) fn arm_lease_end(&mut self, node: usize) {
        let host = &self.hosts[node];
        let Some(agent) = &host.agent else { return };
        if agent.member.leads().is_some()
            && let Some(until) = agent.member.write_until()
        {
            let at = host.clock.global(until);
            let life = host.life;
            self.at(at, Event::Process { node, life, what: Timer::LeaseEnd });
        }
    }

    /// The holder stops at the end of its lease, whatever else it is doing (S2, S3).
    pub(super) fn lease_end(&mut self, node: usize) {
        if self.sabotaged(Sabotage::LeaseEndIgnored) {
            return;
        }
        let (now, seen) = (self.local(node), self.agent_sees(node));
        let Some(agent) = &mut self.hosts[node].agent else { return };
        let over = agent.member.leads().is_some() && agent.member.next(&seen, now) == Some(Verb::Close);
        if over && !matches!(agent.busy, Some((_, Verb::Close))) {
            tell!(self, "{}: the lease is over", self.names[node]);
            self.begin(node, Verb::Close);
        }
    }

    // ---- S14 ----

    fn ask_vouchers(&mut self, node: usize) {
        let now = self.local(node);
        let Some(agent) = &self.hosts[node].agent else { return };
        let Some(ask) = agent.member.wants_vouchers(now) else { return };
        for to in self.members.clone() {
            if to != node {
                self.send(node, to, Message::VouchAsk { from: node, sent: now, ask: ask.clone() });
            }
        }
    }

    pub(super) fn vouch_asked(&mut self, node: usize, from: usize, sent: Millis, ask: &VouchRequest) {
        let now = self.local(node);
        let Some(agent) = &mut self.hosts[node].agent else { return };
        if agent.member.vouch(ask, now) {
            tell!(self, "{} vouches for {}", self.names[node], self.names[from]);
            self.hosts[node].vouched = true;
            invariants::vouched(self, node, from, ask.epoch);
            self.send(node, from, Message::VouchAnswer { by: node, epoch: ask.epoch, sent });
        }
    }

    pub(super) fn vouch_answered(&mut self, node: usize, by: usize, epoch: Epoch, sent: Millis) {
        let (name, one_is_enough) = (self.names[by].clone(), self.sabotaged(Sabotage::VouchedByOne));
        let Some(agent) = &mut self.hosts[node].agent else { return };
        agent.member.vouched_by(name, epoch, sent);
        if one_is_enough {
            agent.member.assignment().map(|a| a.members.clone()).unwrap_or_default().into_iter().for_each(
                |m| {
                    agent.member.vouched_by(m, epoch, sent);
                },
            );
        }
        self.arm_lease_end(node);
    }

    // ---- the engine ----

    /// The agent's pidfd.
    pub(super) fn engine_ended(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let Some(agent) = &mut host.agent else { return };
        if matches!(host.engine.power, engine::Power::Off { .. })
            && !matches!(agent.busy, Some((_, Verb::Reclone { .. } | Verb::Start | Verb::Restart)))
        {
            agent.member.exited();
            agent.busy = None;
            self.agent_look(node);
            self.take_pending(node);
            self.agent_report(node);
            self.agent_work(node);
        }
    }

    /// Only a primary that is in order answers: assigned to lead that epoch, not receiving, all applied.
    pub(super) fn compare_asked(&mut self, node: usize, from: usize, verb: u64, epoch: Epoch) {
        let seen = self.agent_sees(node);
        let Some(agent) = &self.hosts[node].agent else { return };
        let leads = agent.member.assignment().is_some_and(|a| {
            a.epoch == epoch && matches!(a.role, Role::Lead { session, .. } if session == agent.session)
        });
        // Where opening begins a new history, nobody can follow before.
        let begun = self.hosts[node].engine.memory.as_ref().is_none_or(|m| m.leads);
        if leads
            && begun
            && seen.running()
            && seen.drained
            && !seen.receives()
            && let Some(position) = seen.applied
        {
            self.send(node, from, Message::CompareAnswer { verb, position, version: seen.version });
        }
    }

    pub(super) fn compare_answered(&mut self, node: usize, verb: u64, theirs: &Position, version: &str) {
        let seen = self.agent_sees(node);
        if must_not_follow(&seen.version, version).is_some() && !self.sabotaged(Sabotage::OlderFollows) {
            return;
        }
        let uncompared = self.sabotaged(Sabotage::RejoinUncompared);
        let Some(agent) = &mut self.hosts[node].agent else { return };
        if agent.busy.as_ref().is_none_or(|(id, _)| *id != verb) {
            return;
        }
        if let Some(ours) = &seen.received {
            let theirs = if uncompared { theirs.union(ours) } else { theirs.clone() };
            agent.member.compared(ours, &theirs);
            tell!(self, "{} compares its {ours} with {theirs}", self.names[node]);
        }
        self.verb_over(node);
    }
}
