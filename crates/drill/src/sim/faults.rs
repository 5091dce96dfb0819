//! What goes wrong, how often, and how it ends. All faults of a run are drawn from its seed.

use super::event::Event;
use super::net::{Net, Plane};
use super::{Power, Sim, engine, tell};

/// A fault in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The host sees nobody (on these planes).
    Isolate {
        node: usize,
        planes: Vec<Plane>,
    },
    /// One link, in one direction or both.
    Cut {
        links: Vec<(Plane, usize, usize)>,
    },
    ProcessDown {
        node: usize,
    },
    ProcessPaused {
        node: usize,
    },
    EngineHung {
        node: usize,
    },
    SlowNet,
    SlowApply {
        node: usize,
    },
    StoreDown,
    DiskFull {
        node: usize,
    },
    /// The store's writes take long.
    DiskSlow {
        node: usize,
    },
}

/// How rough a run is.
pub struct Faults {
    pub on: bool,
    active: usize,
    most: usize,
    pause_ms: u64,
    /// A voter has lost its directory; a second one would be too many.
    voter_lost: bool,
}

impl Faults {
    pub fn new(most: usize, pause_ms: u64) -> Faults {
        Faults { on: true, active: 0, most, pause_ms, voter_lost: false }
    }
}

const BOTH: [Plane; 2] = [Plane::Control, Plane::Data];

impl Sim {
    pub(super) fn fault(&mut self) {
        if !self.faults.on {
            return;
        }
        let pause = self.faults.pause_ms;
        let ms = self.rng.range(pause / 4, pause * 2);
        self.after(ms, Event::Fault);
        if self.faults.active >= self.faults.most {
            return;
        }
        let node = self.likely_node();
        match self.rng.range(0, 134) {
            0..=14 => self.isolate(node),
            15..=27 => self.cut(node),
            28..=41 => self.process_crash(node, 12_000),
            42..=52 => self.begin_fault(Fault::ProcessPaused { node }, 300, 9_000),
            53..=66 => self.engine_crash(node),
            67..=72 => self.begin_fault(Fault::EngineHung { node }, 500, 8_000),
            73..=79 => self.begin_fault(Fault::SlowNet, 500, 4_000),
            80..=85 => self.begin_fault(Fault::SlowApply { node }, 500, 12_000),
            86..=90 => self.begin_fault(Fault::StoreDown, 300, 9_000),
            91..=93 => self.power_cut(),
            94..=99 => self.move_leader(),
            100..=106 => self.begin_fault(Fault::DiskFull { node }, 500, 9_000),
            107..=109 => self.begin_fault(Fault::DiskSlow { node }, 500, 6_000),
            110..=113 => self.poison(node),
            114..=118 => self.purge_logs(node),
            119..=121 => self.voter_lost(node),
            122..=126 => self.rivals(node),
            _ => self.process_crash(node, 400),
        }
    }

    /// The next transaction, or one soon after, cannot be applied there.
    fn poison(&mut self, node: usize) {
        let soon = self.rng.below(20);
        let engine = &mut self.hosts[node].engine;
        if !engine.writable {
            engine.poison = Some(engine.log.len() + engine.relay.len() + soon);
            tell!(self, "FAULT {} cannot apply what comes {soon} further on", self.names[node]);
        }
    }

    /// Old log files are deleted, but none that a connected replica still reads, nor the newest ones, in which is
    /// whatever nobody else has.
    fn purge_logs(&mut self, node: usize) {
        let spare = self.rng.below(30);
        let read = |s: &Sim, n: &usize| s.hosts[*n].engine.receiver.as_ref().map_or(usize::MAX, |r| r.cursor);
        let engine = &self.hosts[node].engine;
        let in_use = engine.dumps.keys().map(|n| read(self, n)).min().unwrap_or(usize::MAX);
        let shared = |o: &usize| {
            let other = &self.hosts[*o].engine.log;
            engine.log.iter().zip(other).take_while(|(a, b)| a == b).count()
        };
        let shared = self.members.iter().filter(|o| **o != node).map(shared).max().unwrap_or(0);
        let upto = engine.committed.min(shared).saturating_sub(spare).min(in_use);
        let engine = &mut self.hosts[node].engine;
        if upto > engine.purged {
            engine.purged = upto;
            tell!(self, "FAULT {} purges its log up to {upto}", self.names[node]);
        }
    }

    /// Two voters that do not see each other stand in the same term, and a third one restarts after it has voted.
    fn rivals(&mut self, third: usize) {
        let others: Vec<usize> = (0..self.voters()).filter(|v| *v != third).collect();
        if others.len() < 2 || third >= self.voters() {
            return;
        }
        let (a, b) = (self.rng.pick(&others), self.rng.pick(&others));
        if a == b || [a, b].iter().any(|v| self.hosts[*v].power != Power::Up) {
            return;
        }
        let links = vec![(Plane::Control, a, b), (Plane::Control, b, a)];
        self.begin_fault(Fault::Cut { links }, 500, 4_000);
        self.stand(a);
        self.stand(b);
        let soon = self.rng.range(10, 100);
        self.after(soon, Event::Crash { node: third, victim: super::Victim::Agent });
    }

    /// A voter's host comes back without the store's directory.
    fn voter_lost(&mut self, node: usize) {
        let alone = self.voters() < 3 || self.faults.voter_lost;
        if alone || self.hosts[node].store.is_none() || self.hosts[node].power != Power::Up {
            return;
        }
        tell!(self, "FAULT {} loses the store's directory", self.names[node]);
        self.faults.voter_lost = true;
        self.process_crash(node, 2_000);
        self.store_lost(node);
    }

    /// The primary fails more often than others, or the run is dull.
    fn likely_node(&mut self) -> usize {
        let primary = (0..self.hosts.len()).find(|n| self.hosts[*n].engine.writable);
        match primary {
            Some(p) if self.rng.percent(40) => p,
            _ => self.rng.below(self.hosts.len()),
        }
    }

    fn planes(&mut self) -> Vec<Plane> {
        match self.rng.range(0, 9) {
            0..=5 => BOTH.to_vec(),
            6..=7 => vec![Plane::Control],
            _ => vec![Plane::Data],
        }
    }

    fn isolate(&mut self, node: usize) {
        let planes = self.planes();
        self.begin_fault(Fault::Isolate { node, planes }, 200, 14_000);
    }

    fn cut(&mut self, a: usize) {
        let b = self.rng.below(self.hosts.len());
        if a == b {
            return;
        }
        let both = self.rng.percent(60);
        let mut links = Vec::new();
        for plane in self.planes() {
            links.push((plane, a, b));
            if both {
                links.push((plane, b, a));
            }
        }
        self.begin_fault(Fault::Cut { links }, 200, 14_000);
    }

    fn begin_fault(&mut self, fault: Fault, low: u64, high: u64) {
        let ms = self.rng.range(low, high);
        tell!(self, "FAULT {fault:?} for {ms} ms");
        match &fault {
            Fault::Isolate { node, planes } => {
                for (plane, a, b) in self.links_of(*node, planes) {
                    self.net.block(plane, a, b);
                }
            }
            Fault::Cut { links } => links.iter().for_each(|(p, a, b)| self.net.block(*p, *a, *b)),
            Fault::ProcessPaused { node } if self.hosts[*node].power == Power::Up => {
                self.hosts[*node].power = Power::Paused;
            }
            Fault::EngineHung { node } if self.hosts[*node].engine.on() => {
                self.hosts[*node].engine.hung_at = self.now;
                self.hosts[*node].engine.power = engine::Power::Hung;
            }
            Fault::SlowNet => {
                (self.net.slow_ms, self.net.loss_percent, self.net.twice_percent) =
                    (self.rng.range(20, 1_200), 15, 20);
            }
            Fault::SlowApply { node } => self.hosts[*node].engine.apply_rate = self.rng.below(2),
            Fault::StoreDown => self.store.down = true,
            Fault::DiskFull { node } => self.hosts[*node].engine.full = true,
            Fault::DiskSlow { node } => self.hosts[*node].slow_disk_ms = 400,
            Fault::ProcessDown { .. } => {}
            Fault::ProcessPaused { .. } | Fault::EngineHung { .. } => return,
        }
        self.faults.active += 1;
        self.after(ms, Event::Heal(Box::new(fault)));
    }

    pub(super) fn links_of(&self, node: usize, planes: &[Plane]) -> Vec<(Plane, usize, usize)> {
        let others = (0..self.hosts.len()).filter(|o| *o != node);
        others.flat_map(|o| planes.iter().flat_map(move |p| [(*p, node, o), (*p, o, node)])).collect()
    }

    pub(super) fn heal(&mut self, fault: &Fault) {
        self.faults.active = self.faults.active.saturating_sub(1);
        if !self.faults.on {
            // All were healed at once, but for what a script made crash since.
            if let Fault::ProcessDown { node } = fault {
                self.process_up(*node);
            }
            return;
        }
        tell!(self, "HEALED {fault:?}");
        match fault {
            Fault::Isolate { node, planes } => {
                for (plane, a, b) in self.links_of(*node, planes) {
                    self.net.unblock(plane, a, b);
                }
            }
            Fault::Cut { links } => links.iter().for_each(|(p, a, b)| self.net.unblock(*p, *a, *b)),
            Fault::ProcessDown { node } => self.process_up(*node),
            Fault::ProcessPaused { node } => self.process_resumed(*node),
            Fault::EngineHung { node } => self.engine_unhung(*node),
            Fault::SlowNet => {
                let fair = Net::fair_weather();
                (self.net.slow_ms, self.net.loss_percent, self.net.twice_percent) =
                    (fair.slow_ms, fair.loss_percent, fair.twice_percent);
            }
            Fault::SlowApply { node } => self.hosts[*node].engine.apply_rate = usize::MAX,
            Fault::StoreDown => self.store.down = false,
            Fault::DiskFull { node } => self.hosts[*node].engine.full = false,
            Fault::DiskSlow { node } => self.hosts[*node].slow_disk_ms = 0,
        }
    }

    fn engine_unhung(&mut self, node: usize) {
        let engine = &mut self.hosts[node].engine;
        if engine.power == engine::Power::Hung {
            engine.power = engine::Power::On;
        }
    }

    fn process_resumed(&mut self, node: usize) {
        if self.hosts[node].power == Power::Paused {
            self.hosts[node].power = Power::Up;
            self.hosts[node].resumed_at = self.now;
            for event in std::mem::take(&mut self.hosts[node].stalled) {
                self.after(0, event);
            }
        }
    }

    fn process_crash(&mut self, node: usize, away_ms: u64) {
        if self.hosts[node].power != Power::Up {
            return;
        }
        self.process_down(node);
        self.begin_fault(Fault::ProcessDown { node }, 50, away_ms);
    }

    pub(super) fn process_down(&mut self, node: usize) {
        tell!(self, "{}'s process ends", self.names[node]);
        // A managed engine dies with its agent; an attached one goes on as it is.
        if !self.attached || self.rng.percent(30) {
            // Not drawn either. One that is asked to end takes its engine with it in order.
            let crash = !self.in_memory() || self.attached || self.opts.seed.is_multiple_of(2);
            self.engine_down(node, "its agent ended", crash);
        }
        let host = &mut self.hosts[node];
        host.power = Power::Down;
        host.agent = None;
        host.office = None;
        host.stalled.clear();
        host.proxy = Default::default();
        self.voter_down(node);
    }

    fn engine_crash(&mut self, node: usize) {
        self.engine_down(node, "killed (signal 9)", true);
    }

    /// Several hosts lose power at once.
    fn power_cut(&mut self) {
        for node in 0..self.hosts.len() {
            if self.rng.percent(60) && self.hosts[node].power == Power::Up {
                self.process_down(node);
                self.begin_fault(Fault::ProcessDown { node }, 200, 6_000);
            }
        }
    }

    /// Another voter stands for election, though nothing ails the leader.
    fn move_leader(&mut self) {
        let to = self.rng.below(self.voters());
        if self.hosts[to].power == Power::Up {
            self.stand(to);
        }
    }

    pub(super) fn faults_off(&mut self) {
        tell!(self, "FAULTS END");
        self.faults.on = false;
        self.net.heal();
        self.store.down = false;
        self.install_at_last();
        for node in 0..self.hosts.len() {
            self.hosts[node].engine.apply_rate = usize::MAX;
            self.hosts[node].engine.full = false;
            self.hosts[node].slow_disk_ms = 0;
            self.engine_unhung(node);
            self.process_resumed(node);
            if self.gone != Some(node) {
                self.process_up(node);
            }
        }
        self.after(500, Event::Watch);
    }
}
