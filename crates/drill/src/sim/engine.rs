//! A model of MariaDB as far as Holdfast can see it: a binlog of numbered transactions, a relay log, semi-synchronous
//! acknowledgement (AFTER_SYNC, endless timeout), read-only, and what a crash leaves of all that.
//!
//! Modelled on purpose: a restart of the replication threads in GTID mode purges the relay log (MDEV-4698), and so
//! does a crash, unless the driver starts the engine and has it apply what is left first; the tail that was never acknowledged is cut off at a restart (`--init-rpl-role=SLAVE`) or stays,
//! by the run's choice; releases, and programs of a later one that are used from the next start on; an endless ack wait; a process that hangs; a full disk; an event that cannot be applied; a log
//! whose beginning was purged; a replica that receives less while it acknowledges, since it syncs each transaction. Deliberately absent: agents and their reasons.

use super::memory::Memory;
use holdfast_core::position::MariaDbPosition;
use holdfast_core::report::{Observed, Process, Stream, Upstream};
use holdfast_core::{NodeName, Position};
use std::collections::{BTreeMap, VecDeque};

/// An upstream from which nothing comes for this long is given up (`slave_net_timeout` with heartbeats).
pub const SILENCE_MS: u64 = 1_000;
/// `MASTER_CONNECT_RETRY`.
pub const RETRY_EVERY_MS: u64 = 1_000;
/// A primary keeps a silent replica's connection for this long.
pub const DUMP_TIMEOUT_MS: u64 = 2_000;

/// One transaction in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tx {
    pub server: u32,
    pub sequence: u64,
    /// Of the server that wrote it: no earlier one may get to see it.
    pub release: u32,
    /// Which client write this is, in the ledger.
    pub write: usize,
}

/// The process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    Off { how: String },
    On,
    Hung,
}

/// A client that waits for the answer to its commit.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// Index in the log.
    pub at: usize,
    pub write: usize,
}

/// The receiving half of replication.
#[derive(Debug, Clone)]
pub struct Receiver {
    pub node: usize,
    /// The upstream's release when the agent had this one follow it.
    pub release: u32,
    /// The IO thread runs.
    pub on: bool,
    pub conn: Option<u64>,
    /// The life of the upstream's process that the connection belongs to.
    pub conn_life: u64,
    pub heard: u64,
    pub retry_at: u64,
    pub retries: u64,
    pub why: String,
    /// Log entries of the upstream known to have been acknowledged to it.
    pub acked: usize,
    /// Index in the upstream's log up to which was received.
    pub cursor: usize,
    /// The upstream said that it cannot serve this one (error 1236).
    pub refused: bool,
}

/// A replica's connection as the primary sees it.
#[derive(Debug, Clone, Copy)]
pub struct Dump {
    pub conn: u64,
    pub acknowledges: bool,
    pub unheard_since: Option<u64>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Engine {
    pub server: u32,
    /// What runs, and what is installed.
    pub release: u32,
    pub installed: u32,
    pub power: Power,
    /// Counts starts and ends, so that what belongs to another life can be told.
    pub life: u64,
    pub log: Vec<Tx>,
    /// How much of the log is committed in the engine; the rest waits for an acknowledgement.
    pub committed: usize,
    pub relay: VecDeque<Tx>,
    applied: MariaDbPosition,
    received: MariaDbPosition,
    pub writable: bool,
    pub waits: bool,
    pub waiting: VecDeque<Waiting>,
    pub receiver: Option<Receiver>,
    pub acknowledges: bool,
    pub dumps: BTreeMap<usize, Dump>,
    /// Transactions applied per tick.
    pub apply_rate: usize,
    /// Transactions received per tick, at most, while each one is synced before it is acknowledged.
    pub sync_rate: usize,
    /// Entries of the log that no file holds any more; a clone has none of what was before it.
    pub purged: usize,
    /// The disk is full: nothing is written, whoever wants to waits.
    pub full: bool,
    /// Applying what belongs at this place of the log fails, for as long as the data is what it is.
    pub poison: Option<usize>,
    pub apply_error: Option<String>,
    pub hung_at: u64,
    pub ended_at: u64,
    /// What a crash leaves in the relay log is applied at the next start.
    pub keeps_relay: bool,
    /// On the disk: nothing that it acknowledged is missing.
    pub retained: bool,
    /// Of an engine that keeps its data in memory: what differs.
    pub memory: Option<Memory>,
}

/// What a server of a release calls itself.
pub fn version(release: u32) -> String {
    format!("11.{release}.1-MariaDB")
}

impl Engine {
    pub fn new(server: u32) -> Engine {
        Engine {
            server,
            release: 0,
            installed: 0,
            power: Power::Off { how: "never started".into() },
            life: 0,
            log: Vec::new(),
            committed: 0,
            relay: VecDeque::new(),
            applied: MariaDbPosition::default(),
            received: MariaDbPosition::default(),
            writable: false,
            waits: false,
            waiting: VecDeque::new(),
            receiver: None,
            acknowledges: false,
            dumps: BTreeMap::new(),
            apply_rate: usize::MAX,
            sync_rate: usize::MAX,
            purged: 0,
            full: false,
            poison: None,
            apply_error: None,
            hung_at: 0,
            ended_at: 0,
            keeps_relay: true,
            retained: false,
            memory: None,
        }
    }

    pub fn on(&self) -> bool {
        self.power == Power::On
    }

    /// Numbers in a log have no gaps: each is one more than the last, whoever gave it.
    pub fn find(&self, server: u32, sequence: u64) -> Option<usize> {
        let at = usize::try_from(sequence).ok()?.checked_sub(1)?;
        self.log.get(at).is_some_and(|t| t.server == server && t.sequence == sequence).then_some(at)
    }

    /// The very write, not only its number.
    pub fn has(&self, tx: Tx) -> bool {
        self.find(tx.server, tx.sequence).is_some_and(|i| self.log[i].write == tx.write)
            || self.relay.contains(&tx)
    }

    pub fn applied(&self) -> Position {
        match &self.memory {
            Some(memory) => memory.position(&self.log),
            None => Position::MariaDb(self.applied.clone()),
        }
    }

    fn received(&self) -> Position {
        match &self.memory {
            Some(_) => self.applied(),
            None => Position::MariaDb(self.received.clone()),
        }
    }

    fn append(&mut self, tx: Tx) {
        self.applied.add(0, tx.server, tx.sequence);
        self.received.add(0, tx.server, tx.sequence);
        self.log.push(tx);
    }

    fn reindex(&mut self) {
        self.applied = MariaDbPosition::default();
        for tx in &self.log {
            self.applied.add(0, tx.server, tx.sequence);
        }
        self.received = self.applied.clone();
        for tx in &self.relay {
            self.received.add(0, tx.server, tx.sequence);
        }
    }

    /// A client's commit reaches the binlog.
    pub fn write(&mut self, write: usize) -> Tx {
        let last = self.log.last().map_or(0, |t| t.sequence);
        let tx = Tx { server: self.server, sequence: last + 1, release: self.release, write };
        self.append(tx);
        if !self.waits {
            self.committed = self.log.len();
        }
        tx
    }

    pub fn receive(&mut self, tx: Tx) {
        if self.memory.is_some() {
            self.append(tx);
            self.committed = self.log.len();
            return;
        }
        self.received.add(0, tx.server, tx.sequence);
        self.relay.push_back(tx);
    }

    /// The applying half, one tick.
    pub fn apply(&mut self) {
        if self.full || self.apply_error.is_some() {
            return;
        }
        for _ in 0..self.apply_rate.min(self.relay.len()) {
            if self.poison == Some(self.log.len()) {
                self.apply_error = Some("1062: duplicate entry".into());
                return;
            }
            let tx = self.relay.pop_front().expect("bounded by its length");
            self.append(tx);
            self.committed = self.log.len();
        }
    }

    /// What a start of the replication threads does in GTID mode.
    pub fn purge_relay(&mut self) {
        if !self.relay.is_empty() {
            self.relay.clear();
            self.reindex();
        }
    }

    pub fn stop_receiving(&mut self) {
        if let Some(r) = &mut self.receiver {
            r.on = false;
            r.conn = None;
        }
    }

    /// Closes to clients: whoever waits is cut, and its transaction commits here without an answer.
    pub fn close(&mut self) {
        self.writable = false;
        self.waiting.clear();
        self.committed = self.log.len();
        if let Some(memory) = &mut self.memory {
            memory.leads = false;
        }
    }

    /// The process ends. `cut`: the tail without acknowledgement is cut off at the next start; returns it.
    pub fn end(&mut self, how: &str, cut: bool) -> Vec<Tx> {
        self.power = Power::Off { how: how.into() };
        self.life += 1;
        self.writable = false;
        self.waits = false;
        self.acknowledges = false;
        self.waiting.clear();
        self.dumps.clear();
        self.apply_error = None;
        self.stop_receiving();
        if let Some(memory) = &mut self.memory {
            self.log = memory.end();
            self.committed = self.log.len();
            self.purged = self.log.len();
        }
        let tail = if cut { self.log.split_off(self.committed) } else { Vec::new() };
        self.committed = self.log.len();
        // The mark tells of this start, which comes next.
        self.retained &= self.keeps_relay && tail.is_empty() && self.memory.is_none();
        if !self.keeps_relay {
            self.relay.clear();
        }
        self.reindex();
        tail
    }

    pub fn start(&mut self) {
        self.power = Power::On;
        self.life += 1;
        self.release = self.installed;
    }

    pub fn copy_from(&mut self, log: &[Tx]) {
        self.log = log.to_vec();
        self.committed = self.log.len();
        self.relay.clear();
        self.receiver = None;
        self.retained = false;
        self.dumps.clear();
        (self.purged, self.poison, self.apply_error) = (self.log.len(), None, None);
        self.reindex();
    }

    /// What the agent sees.
    pub fn observe(&self, names: &[NodeName], now: u64) -> Observed {
        let process = match &self.power {
            Power::Off { how } => Process::Exited { how: how.clone() },
            Power::Hung => Process::Unresponsive,
            Power::On => Process::Running,
        };
        if process != Process::Running {
            return Observed::only(process);
        }
        let upstream = self.receiver.as_ref().map(|r| Upstream {
            node: Some(names[r.node].clone()),
            stream: match (r.on, r.conn) {
                (false, _) if r.refused => Stream::Refused { why: r.why.clone() },
                (false, _) => Stream::Off,
                (true, Some(_)) if now.saturating_sub(r.heard) < SILENCE_MS => Stream::Up,
                (true, _) => Stream::Broken { why: r.why.clone() },
            },
            apply_error: self.apply_error.clone(),
            lag_ms: Some(self.relay.len() as u64 * 20),
        });
        let mut seen = Observed {
            version: version(self.release),
            writable: self.writable,
            received: Some(self.received()),
            applied: Some(self.applied()),
            admits: self.memory.as_ref().map(|m| m.admits.iter().map(|n| names[*n].clone()).collect()),
            drained: self.relay.is_empty(),
            retained: self.retained,
            upstream,
            acknowledges: self.acknowledges,
            waits_for_ack: self.waits,
            ackers: self
                .dumps
                .iter()
                .filter(|(_, d)| d.acknowledges)
                .map(|(n, _)| names[*n].clone())
                .collect(),
            free_disk_bytes: Some(if self.full { 1 << 20 } else { 1 << 30 }),
            ..Observed::only(Process::Running)
        };
        if let Some(memory) = &self.memory {
            memory.shown(&mut seen, now);
        }
        seen
    }
}
