//! What verbs do to the model engine, and how long they take. An effect happens at the end of its verb, so that
//! anything may come between.

use super::event::{Message, Timer};
use super::{Sabotage, Sim, agent, engine, invariants, tell};
use holdfast_core::limits::FENCE_MS;
use holdfast_core::member::Verb;
use holdfast_core::report::Lost;
use holdfast_core::{NodeName, Position};

impl Sim {
    pub(super) fn begin(&mut self, node: usize, verb: Verb) {
        let id = self.fresh_id();
        let ms = self.duration(node, &verb);
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

    fn duration(&mut self, node: usize, verb: &Verb) -> u64 {
        let hung = !self.hosts[node].engine.on();
        match verb {
            Verb::Start => self.rng.range(100, 800),
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
        self.take_pending(node);
        self.agent_report(node);
        self.process_after(1, node, Timer::AgentWork);
    }

    fn verb_failed(&mut self, node: usize) {
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.busy = None;
        }
        self.take_pending(node);
        self.process_after(agent::RETRY_MS, node, Timer::AgentWork);
    }

    pub(super) fn verb_done(&mut self, node: usize, id: u64) {
        let Some(agent) = &self.hosts[node].agent else { return };
        let Some((_, verb)) = agent.busy.clone().filter(|(busy, _)| *busy == id) else { return };
        let on = self.hosts[node].engine.on();
        match verb {
            Verb::Start => self.started(node),
            Verb::Close | Verb::Yield => self.closed(node),
            Verb::Reclone { primary } => return self.recloned(node, &primary),
            Verb::Compare { .. } => return self.verb_failed(node),
            _ if !on => return self.verb_failed(node),
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
                tell!(self, "{} is open", self.names[node]);
                invariants::opened(self, node);
            }
            Verb::StopReceiving => self.hosts[node].engine.stop_receiving(),
            Verb::Promote { wait_for_ack } => {
                let engine = &mut self.hosts[node].engine;
                engine.purge_relay();
                engine.receiver = None;
                engine.acknowledges = false;
                engine.waits = wait_for_ack;
            }
            Verb::CreateAccounts => self.create_accounts(node),
            Verb::WaitForAck(true) => self.hosts[node].engine.waits = true,
            Verb::WaitForAck(false) => self.relax(node),
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

    fn started(&mut self, node: usize) {
        let engine = &mut self.hosts[node].engine;
        if !engine.on() {
            engine.start();
        }
        if let Some(agent) = &mut self.hosts[node].agent {
            agent.member.exited(); // also where the pidfd's word comes late, as after a SIGSTOP
        }
    }

    /// Keeps transactions in a file of the host, and counts them (S10).
    fn save(&mut self, node: usize, lost: &[engine::Tx]) -> Option<Lost> {
        if lost.is_empty() {
            return None;
        }
        tell!(self, "{} saves {} transactions that only it has", self.names[node], lost.len());
        if !self.sabotaged(Sabotage::DivergenceUnsaved) {
            lost.iter().for_each(|tx| self.writes.saved(tx.write));
        }
        let epoch = self.hosts[node].agent.as_ref()?.member.promised();
        Some(Lost { transactions: lost.len() as u64, file: "lost.sql".into(), epoch })
    }

    fn closed(&mut self, node: usize) {
        let engine = &mut self.hosts[node].engine;
        match engine.power {
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

    fn follow(&mut self, node: usize, primary: &NodeName, acknowledges: bool) {
        let upstream = self.host_of(primary);
        let now = self.now;
        let engine = &mut self.hosts[node].engine;
        engine.purge_relay();
        engine.waits = false;
        engine.acknowledges = acknowledges;
        engine.receiver = Some(engine::Receiver {
            node: upstream,
            on: true,
            conn: None,
            conn_life: 0,
            heard: now,
            retry_at: now,
            retries: 0,
            why: "connecting".into(),
            acked: 0,
            cursor: 0,
        });
    }

    fn save_divergence(&mut self, node: usize, theirs: &Position) {
        let lacks = |tx: &engine::Tx| {
            let gtid = Position::mariadb(&format!("0-{}-{}", tx.server, tx.sequence));
            !theirs.contains(&gtid.expect("a GTID as MariaDB writes it"))
        };
        let host = &mut self.hosts[node];
        let cut = std::mem::take(&mut host.cut);
        let all = host.engine.log.iter().chain(&host.engine.relay).chain(&cut);
        let lost: Vec<engine::Tx> = all.filter(|t| lacks(t)).copied().collect();
        let lost = self.save(node, &lost);
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

    fn recloned(&mut self, node: usize, primary: &NodeName) {
        let donor = self.host_of(primary);
        let source = &self.hosts[donor];
        let in_order = source.engine.on()
            && source.agent.as_ref().is_some_and(|a| a.member.leads().is_some())
            && self.net.both(super::net::Plane::Data, node, donor);
        if !in_order {
            return self.verb_failed(node);
        }
        let log: Vec<engine::Tx> = source.engine.log[..source.engine.committed].to_vec();
        let host = &mut self.hosts[node];
        let cut = std::mem::take(&mut host.cut);
        let own = host.engine.log.iter().chain(&host.engine.relay).chain(&cut);
        let lost: Vec<engine::Tx> = own.filter(|tx| !log.contains(tx)).copied().collect();
        let lost = self.save(node, &lost);
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
