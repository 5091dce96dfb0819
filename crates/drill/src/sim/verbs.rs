//! What verbs do to the model engine, and how long they take. An effect happens at the end of its verb, so that
//! anything may come between.

use super::event::{Message, Timer};
use super::moments::Moment;
use super::{Sabotage, Sim, agent, engine, invariants, memory, tell};
use holdfast_core::limits::{CLOCK_DRIFT_MS, FENCE_MS, LEASE_MS};
use holdfast_core::member::Verb;
use holdfast_core::record::Role;
use holdfast_core::report::{Lost, Observed, Process};
use holdfast_core::{NodeName, Position};

/// How long an engine may take to obey an opening.
const OPEN_BOUND_MS: u64 = 300;

impl Sim {
    pub(super) fn begin(&mut self, node: usize, verb: Verb) {
        if verb == Verb::Open && !self.may_open(node) {
            return self.process_after(agent::RETRY_MS, node, Timer::AgentWork);
        }
        let id = self.fresh_id();
        let ms = self.duration(node, &verb);
        self.moment(Moment::Begun, node);
        tell!(self, "{} begins {verb:?}", self.names[node]);
        match &verb {
            Verb::Open => {
                if let Some(agent) = &mut self.hosts[node].agent
                    && let Some(epoch) = agent.member.assignment().map(|a| a.epoch)
                {
                    agent.member.opening(epoch);
                }
                self.arm_lease_end(node);
            }
            // Nobody waits any more for what it was seen to do last.
            Verb::Restart => {
                self.engine_down(node, "stopped to be restarted", false);
                if let Some(agent) = &mut self.hosts[node].agent {
                    agent.last = Observed::only(Process::Starting);
                }
            }
            Verb::Compare { primary } => {
                let to = self.host_of(primary);
                let epoch =
                    self.hosts[node].agent.as_ref().and_then(|a| a.member.assignment()).map(|a| a.epoch);
                if let Some(epoch) = epoch {
                    self.send(node, to, Message::CompareAsk { from: node, verb: id, epoch });
                }
            }
            _ => {}
        }
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.busy = Some((id, verb));
        }
        self.process_after(ms, node, Timer::VerbDone(id));
    }

    /// What the host asks beyond the state machine: what an earlier life vouched for is waited out (S14), and what is
    /// left of the lease must be enough for the engine to obey (S2).
    fn may_open(&self, node: usize) -> bool {
        let now = self.local(node);
        let Some(agent) = &self.hosts[node].agent else { return false };
        let waits = agent.vouched_before && !self.sabotaged(Sabotage::VouchForgotten);
        if waits && now.since(agent.started) < LEASE_MS + CLOCK_DRIFT_MS {
            return false;
        }
        agent.member.write_until().is_some_and(|until| until.since(now) >= OPEN_BOUND_MS * 2)
    }

    fn duration(&mut self, node: usize, verb: &Verb) -> u64 {
        let engine = &self.hosts[node].engine;
        let hung = !engine.on() || engine.full && engine.writable;
        match verb {
            Verb::Start | Verb::Restart => self.rng.range(100, 800),
            Verb::Close if hung => FENCE_MS,
            Verb::Close => match self.rng.percent(5) {
                true => FENCE_MS,
                false => self.rng.range(2, 60),
            },
            Verb::Yield => self.rng.range(5, 600),
            Verb::Compare { .. } => 400,
            Verb::Reclone { .. } => self.rng.range(300, 3_000),
            Verb::SaveDivergence { .. } => self.rng.range(10, 200),
            _ => match self.rng.percent(5) {
                true => self.rng.range(50, 400),
                false => self.rng.range(1, 20),
            },
        }
    }

    pub(super) fn verb_over(&mut self, node: usize) {
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.busy = None;
        }
        self.moment(Moment::Ended, node);
        self.agent_look(node);
        self.take_pending(node);
        self.agent_report(node);
        self.process_after(1, node, Timer::AgentWork);
    }

    fn verb_failed(&mut self, node: usize) {
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.busy = None;
        }
        self.agent_look(node);
        self.take_pending(node);
        self.process_after(agent::RETRY_MS, node, Timer::AgentWork);
    }

    pub(super) fn verb_done(&mut self, node: usize, id: u64) {
        let Some(agent) = &self.hosts[node].agent else { return };
        let Some((_, verb)) = agent.busy.clone().filter(|(busy, _)| *busy == id) else { return };
        let (on, full) = (self.hosts[node].engine.on(), self.hosts[node].engine.full);
        match verb {
            Verb::Start | Verb::Restart => self.started(node),
            Verb::Close | Verb::Yield => self.closed(node),
            Verb::Reclone { primary } => return self.recloned(node, &primary),
            Verb::Compare { .. } => return self.verb_failed(node),
            _ if !on => return self.verb_failed(node),
            Verb::Promote { .. } | Verb::CreateAccounts | Verb::SaveDivergence { .. } if full => {
                return self.verb_failed(node);
            }
            Verb::Open => {
                let epoch = agent.member.promised().0;
                let reused = self.sabotaged(Sabotage::NumbersReused);
                let engine = &mut self.hosts[node].engine;
                if !reused {
                    // A number that was cut off or cloned away here may live on elsewhere: a server id of its own for
                    // each epoch, so that none is given out twice.
                    engine.server = node as u32 + 1 + 100 * epoch as u32;
                }
                engine.writable = true;
                if let Some(memory) = &mut engine.memory {
                    (memory.leads, memory.history) = (true, engine.server);
                }
                tell!(self, "{} is open", self.names[node]);
                invariants::opened(self, node);
            }
            Verb::StopReceiving => self.hosts[node].engine.stop_receiving(),
            Verb::Promote { wait_for_ack } => {
                self.told_to_wait(node, wait_for_ack);
                let engine = &mut self.hosts[node].engine;
                engine.purge_relay();
                engine.receiver = None;
                engine.acknowledges = false;
                engine.waits = wait_for_ack && engine.memory.is_none();
            }
            Verb::CreateAccounts => self.create_accounts(node),
            Verb::Admit(nodes) => self.admit(node, &nodes),
            Verb::WaitForAck(on) if self.in_memory() => self.told_to_wait(node, on),
            Verb::WaitForAck(true) => self.hosts[node].engine.waits = true,
            Verb::WaitForAck(false) => self.relax(node),
            Verb::Follow { primary, .. } if !self.may_follow(node, &primary) => {
                return self.verb_failed(node);
            }
            Verb::Follow { primary, acknowledges } => self.follow(node, &primary, acknowledges),
            Verb::Acknowledge(yes) => {
                let now = self.now;
                let engine = &mut self.hosts[node].engine;
                engine.acknowledges = yes;
                if let Some(r) = &mut engine.receiver {
                    (r.conn, r.retry_at) = (None, now);
                }
            }
            Verb::SaveDivergence { theirs } => self.save_divergence(node, &theirs),
        }
        self.verb_over(node);
    }

    /// Where waiting for acknowledgements is the proxies' part.
    fn told_to_wait(&mut self, node: usize, on: bool) {
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.member.proxies_wait(on);
        }
    }

    fn started(&mut self, node: usize) {
        let engine = &mut self.hosts[node].engine;
        if !engine.on() {
            engine.start();
        }
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.member.exited(); // also where the pidfd's word comes late, as after a SIGSTOP
        }
    }

    /// What of `own` is not `theirs`, kept in a file of the host and counted (S10), as far as a log still holds it.
    fn save(&mut self, node: usize, theirs: impl Fn(&engine::Tx) -> bool) -> Option<Lost> {
        let host = &mut self.hosts[node];
        let cut = std::mem::take(&mut host.cut);
        // All data is kept where a log of it is not.
        let in_log = host.engine.memory.is_none();
        let purged = if in_log { host.engine.purged.min(host.engine.log.len()) } else { 0 };
        let (gone, kept) = host.engine.log.split_at(purged);
        let all = kept.iter().chain(&host.engine.relay).chain(&cut);
        let lost: Vec<engine::Tx> = all.filter(|t| !theirs(t)).copied().collect();
        let gone: Vec<engine::Tx> = gone.iter().filter(|t| !theirs(t)).copied().collect();
        if lost.is_empty() && gone.is_empty() {
            return None;
        }
        tell!(
            self,
            "{} saves {} transactions that only it has, {} not",
            self.names[node],
            lost.len(),
            gone.len()
        );
        if !self.sabotaged(Sabotage::DivergenceUnsaved) {
            lost.iter().for_each(|tx| self.writes.saved(tx.write));
        }
        let agent = self.hosts[node].agent.as_ref()?;
        let asked = matches!(agent.member.assignment()?.role, Role::Follow { reclone: true, .. });
        if asked && matches!(agent.busy, Some((_, Verb::Reclone { .. }))) {
            // A person wished it rebuilt, and was told what that discards.
            gone.iter().for_each(|tx| self.writes.forgiven(tx.write));
        }
        let (transactions, complete) = (lost.len() as u64, gone.is_empty());
        Some(Lost {
            transactions,
            unit: "transactions".into(),
            file: "lost.sql".into(),
            epoch: agent.member.promised(),
            complete,
        })
    }

    fn closed(&mut self, node: usize) {
        let engine = &mut self.hosts[node].engine;
        match engine.power {
            // Commits that wait for room do not let it become read-only.
            engine::Power::On if engine.full && engine.writable => {
                self.engine_down(node, "killed, it did not close in time", true);
            }
            engine::Power::On => engine.close(),
            engine::Power::Hung => self.engine_down(node, "killed, it did not close in time", true),
            engine::Power::Off { .. } => {}
        }
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.member.closed();
        }
    }

    fn create_accounts(&mut self, node: usize) {
        let write = self.writes.internal();
        let engine = &mut self.hosts[node].engine;
        let tx = engine.write(write);
        engine.committed = engine.log.len();
        self.writes.written(write, tx, node);
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.member.accounts_created();
        }
    }

    /// Stops waiting for acknowledgements: who waits is answered.
    pub(super) fn relax(&mut self, node: usize) {
        let engine = &mut self.hosts[node].engine;
        engine.waits = false;
        engine.committed = engine.log.len();
        let waiting = std::mem::take(&mut engine.waiting);
        for w in waiting {
            self.acknowledge(node, w.write, None);
        }
    }

    /// The driver looks at the greeting of the primary first: one that does not answer is not followed, since the server would
    /// connect by itself later, to whatever release is there by then.
    fn may_follow(&self, node: usize, primary: &NodeName) -> bool {
        let upstream = self.host_of(primary);
        let peer = &self.hosts[upstream].engine;
        let answers = peer.on() && self.net.both(super::net::Plane::Data, node, upstream);
        answers && peer.release <= self.hosts[node].engine.release || self.sabotaged(Sabotage::OlderFollows)
    }

    fn follow(&mut self, node: usize, primary: &NodeName, acknowledges: bool) {
        let upstream = self.host_of(primary);
        let now = self.now;
        let release = self.hosts[upstream].engine.release;
        let engine = &mut self.hosts[node].engine;
        engine.purge_relay();
        engine.apply_error = None;
        engine.waits = false;
        engine.acknowledges = acknowledges || engine.memory.is_some();
        if let Some(memory) = &mut engine.memory {
            (memory.leads, memory.copying) = (false, None);
            engine.dumps.clear();
        }
        engine.receiver = Some(engine::Receiver {
            node: upstream,
            release,
            on: true,
            conn: None,
            conn_life: 0,
            heard: now,
            retry_at: now,
            retries: 0,
            why: "connecting".into(),
            acked: 0,
            cursor: 0,
            refused: false,
        });
    }

    fn save_divergence(&mut self, node: usize, theirs: &Position) {
        let lost = self.save(node, |tx| memory::contains(theirs, tx));
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.member.saved(lost);
        }
    }

    /// A rebuild for a primary that is none any more is given up.
    pub(super) fn abandon_reclone(&mut self, node: usize) {
        let Some(agent) = &self.hosts[node].agent else { return };
        if matches!(agent.busy, Some((_, Verb::Reclone { .. }))) {
            tell!(self, "{} gives its rebuild up", self.names[node]);
            self.verb_failed(node);
        }
    }

    /// It begins anew without data, and gets all by following.
    fn discarded(&mut self, node: usize) {
        self.engine_down(node, "stopped to throw its data away", false);
        let engine = &mut self.hosts[node].engine;
        if let Some(memory) = &mut engine.memory {
            memory.discard();
        }
        engine.copy_from(&[]);
        engine.start();
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.member.exited();
            agent.member.recloned(None);
        }
        self.verb_over(node);
    }

    fn recloned(&mut self, node: usize, primary: &NodeName) {
        if self.in_memory() {
            return self.discarded(node);
        }
        let donor = self.host_of(primary);
        let source = &self.hosts[donor];
        let in_order = source.engine.on()
            && !self.hosts[node].engine.full
            && source.agent.as_ref().is_some_and(|a| a.member.leads().is_some())
            && source.engine.release <= self.hosts[node].engine.installed
            && self.net.both(super::net::Plane::Data, node, donor);
        if !in_order {
            return self.verb_failed(node);
        }
        let log: Vec<engine::Tx> = source.engine.log[..source.engine.committed].to_vec();
        let uncompared = self.sabotaged(Sabotage::RejoinUncompared);
        let there = |tx: &engine::Tx| log.get(tx.sequence as usize - 1) == Some(tx);
        let lost = self.save(node, |tx| uncompared || there(tx));
        // The copy is put in place at the end; until then the old data stays.
        self.engine_down(node, "stopped to be rebuilt", false);
        let engine = &mut self.hosts[node].engine;
        engine.copy_from(&log);
        engine.start();
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.member.exited();
            agent.member.recloned(lost);
        }
        self.verb_over(node);
    }
}
