//! Scripted runs: one course of events that makes every kind of plan, and a crash at any one moment of it. A moment is
//! a committed plan, a step that an agent reports done, or the beginning or the end of a verb.

use super::event::Event;
use super::net::Plane;
use super::{Power, Sim, tell};
use holdfast_core::plan::PlanKind;
use holdfast_core::record::{Assurance, GroupRecord, Mode, Session, Upgrade, Wish};
use holdfast_core::topology::{Durability, WhenNoSyncReplica};
use std::collections::BTreeSet;

/// What goes down at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The controller: another voter takes over from the store.
    Controller,
    /// The process that runs the controller, with all that it runs beside it.
    ControllersHost,
    /// The process of the agent whose moment it is, or that the plan is about.
    Agent,
    /// That agent's engine.
    Engine,
    /// That agent's host, for ever. Nothing else goes wrong in that run.
    Host,
}

/// Where in a scripted run something crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// 1 is the first moment.
    pub at: u64,
    pub victim: Victim,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Script {
    pub durability: Durability,
    pub when_no_sync_replica: WhenNoSyncReplica,
    pub members: usize,
    pub crash: Option<Crash>,
}

/// Something after which, or in the middle of which, things crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Committed(PlanKind),
    /// An agent reports that its instance fits a new assignment.
    Settled,
    /// A verb.
    Begun,
    Ended,
}

/// How far a scripted run has come.
#[derive(Debug, Default)]
pub struct Moments {
    pub passed: u64,
    pub kinds: BTreeSet<String>,
    /// The promise held when the host went for ever.
    pub held: bool,
}

/// How long what crashed stays away.
const AWAY_MS: u64 = 1_500;

impl Sim {
    /// A moment passes. `node`: whose it is.
    pub(super) fn moment(&mut self, moment: Moment, node: usize) {
        let Some(script) = &self.opts.script else { return };
        self.moments.passed += 1;
        if let Moment::Committed(kind) = moment {
            self.moments.kinds.insert(kind.to_string());
        }
        let Some(crash) = script.crash.filter(|c| c.at == self.moments.passed) else { return };
        tell!(self, "CRASH of {:?} at moment {}: {moment:?} on {}", crash.victim, crash.at, self.names[node]);
        self.after(0, Event::Crash { node, victim: crash.victim });
    }

    pub(super) fn crash(&mut self, node: usize, victim: Victim) {
        let in_office = (0..self.hosts.len()).find(|n| self.hosts[*n].office.is_some());
        match victim {
            Victim::Controller => {
                let other = (0..self.voters()).find(|n| Some(*n) != in_office);
                if let Some(other) = other {
                    self.stand(other);
                }
            }
            Victim::ControllersHost => self.crash_host(in_office.unwrap_or(node)),
            Victim::Agent => self.crash_host(node),
            Victim::Host => {
                self.gone = Some(node);
                // Before an acker has caught up, one failure is two.
                let covered = |r: &GroupRecord| r.assurance == Assurance::Held && !r.sync_set().is_empty();
                let led = |r: &GroupRecord| r.founded && r.primary().is_some();
                let held = |r: &GroupRecord| led(r) && (!self.sync() || covered(r));
                self.moments.held = self.store.record().is_some_and(|(r, _)| held(r));
                self.process_down(node);
            }
            Victim::Engine => self.engine_down(node, "killed (signal 9)", true),
        }
    }

    fn crash_host(&mut self, node: usize) {
        if self.hosts[node].power == Power::Up {
            self.process_down(node);
            let away = if self.opts.script.is_some() { AWAY_MS } else { self.rng.range(50, 600) };
            self.after(away, Event::Heal(Box::new(super::faults::Fault::ProcessDown { node })));
        }
    }

    pub(super) fn scenes(&mut self) {
        for (number, at) in
            [5_000, 9_000, 14_000, 18_000, 24_000, 27_000, 29_000, 30_000, 32_000, 38_000].iter().enumerate()
        {
            self.at(*at, Event::Scene(number));
        }
    }

    /// The course of events: everything that the table answers with a plan.
    pub(super) fn scene(&mut self, number: usize) {
        // A network that was cut is mended: it is no part of what fails in that run.
        if self.gone.is_some() && number != 4 {
            return;
        }
        let primary = self.members.iter().copied().find(|n| self.hosts[*n].engine.writable);
        let replica = self.members.iter().copied().rfind(|n| Some(*n) != primary);
        match (number, primary, replica) {
            (0, ..) => self.wish("switchover", |r| r.wish = Some(Wish::Switchover { to: None })),
            (1, Some(p), _) => self.engine_down(p, "killed (signal 9)", true),
            (2, _, Some(r)) => {
                let (name, session) = (self.names[r].clone(), Session(self.hosts[r].life));
                self.wish("reinit", |r| {
                    if r.primary().is_none_or(|p| p.node != name) {
                        r.reinit.insert(name, session);
                    }
                });
            }
            (3, Some(p), _) => {
                for (plane, a, b) in self.links_of(p, &[Plane::Data]) {
                    self.net.block(plane, a, b);
                }
            }
            (4, ..) => self.net.heal(),
            (5, ..) => {
                self.wish("failover", |r| r.wish = Some(Wish::Failover { to: None, accept_loss: false }));
            }
            (6, ..) => self.wish("pause", |r| r.mode = Mode::Paused),
            (7, ..) => self.wish("resume", |r| r.mode = Mode::Automatic),
            (8, Some(p), _) => self.crash_host(p),
            (9, ..) => {
                self.members.clone().iter().for_each(|n| self.hosts[*n].engine.installed += 1);
                let wish = Upgrade { replicas_only: false, accept_no_standby: true };
                self.wish("upgrade", |r| r.upgrade = Some(wish));
            }
            _ => {}
        }
    }
}
