//! What can happen, in the order of virtual time, and who it happens to.

use super::{Power, Sim, agent, faults, moments, office, raft, store};
use holdfast_core::Millis;
use holdfast_core::record::{Assignment, Session};
use holdfast_core::report::InstanceReport;
use holdfast_core::{Epoch, Position, RouteSnapshot, member::VouchRequest};
use std::sync::Arc;

/// Between hosts, on the control plane.
#[derive(Debug, Clone)]
pub enum Message {
    Report {
        from: usize,
        session: Session,
        sent: Millis,
        renewal: Option<Epoch>,
        report: Box<InstanceReport>,
    },
    Answer {
        session: Session,
        sent: Millis,
        renewed: Option<Epoch>,
        assignment: Option<Assignment>,
    },
    Route {
        snapshot: Arc<RouteSnapshot>,
    },
    CompareAsk {
        from: usize,
        verb: u64,
        epoch: Epoch,
    },
    CompareAnswer {
        version: String,
        verb: u64,
        position: Position,
    },
    VouchAsk {
        from: usize,
        sent: Millis,
        ask: VouchRequest,
    },
    /// Between voters of the store.
    Store {
        from: usize,
        msg: raft::Msg<store::Change>,
    },
    VouchAnswer {
        by: usize,
        epoch: Epoch,
        sent: Millis,
    },
}

#[derive(Debug, Clone)]
pub enum Event {
    /// To whatever process runs on that host when it arrives.
    Deliver {
        to: usize,
        message: Box<Message>,
    },
    /// To one life of a host's process.
    Process {
        node: usize,
        life: u64,
        what: Timer,
    },
    EngineTick {
        node: usize,
    },
    /// A replica's acknowledgement arrives at its upstream.
    Ack {
        to: usize,
        life: u64,
        from: usize,
        conn: u64,
        upto: usize,
    },
    ClientTick {
        client: usize,
    },
    ClientWrite {
        client: usize,
        to: usize,
        life: u64,
        /// Replicas that must have the write, where clients wait for them.
        acks: u32,
    },
    Fault,
    Heal(Box<faults::Fault>),
    FaultsOff,
    Operator,
    /// Of a scripted run.
    Scene(usize),
    Crash {
        node: usize,
        victim: moments::Victim,
    },
    Watch,
}

/// Timers and completions inside a process.
#[derive(Debug, Clone)]
pub enum Timer {
    AgentTick,
    AgentWork,
    VerbDone(u64),
    LeaseEnd,
    EngineEnded,
    StoreTick,
    Fsynced(u64),
    OfficeTick { term: u64 },
    Decide { term: u64 },
    Depose { term: u64 },
}

pub struct Queued {
    pub at: u64,
    pub order: u64,
    pub event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl Sim {
    pub(super) fn handle(&mut self, event: Event) {
        let process = match &event {
            Event::Deliver { to, .. } => Some((*to, None)),
            Event::Process { node, life, .. } => Some((*node, Some(*life))),
            _ => None,
        };
        if let Some((node, life)) = process {
            let host = &mut self.hosts[node];
            if life.is_some_and(|l| l != host.life) || host.power == Power::Down {
                return;
            }
            if host.power == Power::Paused {
                host.stalled.push(event);
                return;
            }
        }
        match event {
            Event::Deliver { to, message } => self.deliver(to, *message),
            Event::Process { node, what, .. } => self.timer(node, what),
            Event::EngineTick { node } => self.engine_tick(node),
            Event::Ack { to, life, from, conn, upto } => self.ack(to, life, from, conn, upto),
            Event::ClientTick { client } => self.client_tick(client),
            Event::ClientWrite { client, to, life, acks } => self.client_write(client, to, life, acks),
            Event::Fault => self.fault(),
            Event::Heal(fault) => self.heal(&fault),
            Event::FaultsOff => self.faults_off(),
            Event::Operator => self.operator_tick(),
            Event::Scene(number) => self.scene(number),
            Event::Crash { node, victim } => self.crash(node, victim),
            Event::Watch => self.watch(),
        }
    }

    fn timer(&mut self, node: usize, what: Timer) {
        match what {
            Timer::AgentTick => self.agent_tick(node),
            Timer::AgentWork => self.agent_work(node),
            Timer::VerbDone(id) => self.verb_done(node, id),
            Timer::LeaseEnd => self.lease_end(node),
            Timer::EngineEnded => self.engine_ended(node),
            Timer::StoreTick => self.store_tick(node),
            Timer::Fsynced(id) => self.store_fsynced(node, id),
            Timer::OfficeTick { term } => self.office_tick(node, term),
            Timer::Decide { term } => self.office_decide(node, term),
            Timer::Depose { term } => self.office_deposed(node, term),
        }
    }

    /// A timer of a host's running process.
    pub(super) fn process_after(&mut self, ms: u64, node: usize, what: Timer) {
        let life = self.hosts[node].life;
        self.after(ms, Event::Process { node, life, what });
    }

    fn deliver(&mut self, to: usize, message: Message) {
        match message {
            Message::Report { from, session, sent, renewal, report } => {
                self.office_report(to, office::Asked { agent: from, session, sent }, renewal, *report);
            }
            Message::Answer { session, sent, renewed, assignment } => {
                self.agent_answer(to, agent::Answer { session, sent, renewed, assignment });
            }
            Message::Store { from, msg } => self.store_message(to, from, msg),
            Message::Route { snapshot } => self.proxy_route(to, snapshot),
            Message::CompareAsk { from, verb, epoch } => self.compare_asked(to, from, verb, epoch),
            Message::CompareAnswer { verb, position, version } => {
                self.compare_answered(to, verb, &position, &version);
            }
            Message::VouchAsk { from, sent, ask } => self.vouch_asked(to, from, sent, &ask),
            Message::VouchAnswer { by, epoch, sent } => self.vouch_answered(to, by, epoch, sent),
        }
    }

    /// Sends on the control plane: may be late, lost, or doubled.
    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        let message = Box::new(message);
        if from == to {
            return self.after(1, Event::Deliver { to, message });
        }
        let (loss, twice) = (self.net.loss_percent, self.net.twice_percent);
        if !self.net.up(super::net::Plane::Control, from, to) || self.rng.percent(loss) {
            return;
        }
        if self.rng.percent(twice) {
            let again = self.net.delay_ms(&mut self.rng) + self.rng.range(0, 2_000);
            self.after(again, Event::Deliver { to, message: message.clone() });
        }
        let delay = self.net.delay_ms(&mut self.rng);
        self.after(delay, Event::Deliver { to, message });
    }
}
