//! What differs where an engine is of the Redis kind: its data is in memory; every replica that is connected
//! acknowledges; each opening begins a history; who follows and cannot go on from where it was is given all data anew.
//!
//! Modelled on purpose: a process that ends keeps what was last written to its disk, perhaps nothing; the old data stays
//! until all of the new is there; a primary admits whom it was told to; a replica never gives up trying.
//! Deliberately absent: what a history forgets of its past (the driver remembers it).

use super::engine::{Dump, Power, RETRY_EVERY_MS, Tx};
use super::net::Plane;
use super::{Sabotage, Sim, tell};
use holdfast_core::Position;
use holdfast_core::position::{HistoryId, RedisPosition};
use holdfast_core::report::{Observed, Stream};
use std::collections::{BTreeMap, BTreeSet};

/// Data as a copy has it.
#[derive(Debug, Clone, Default)]
struct Data {
    log: Vec<Tx>,
    history: u32,
}

/// A replica is being given all data.
#[derive(Debug, Clone)]
pub struct Copy {
    data: Data,
    /// From then on the old data is gone.
    loads_at: u64,
    done_at: u64,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// What it is in the middle of: the server id of the opening that began it; 0: none yet.
    pub history: u32,
    /// It is a primary; else nobody can follow it anew.
    pub leads: bool,
    pub admits: BTreeSet<usize>,
    pub copying: Option<Copy>,
    /// It writes its data to the disk now and then.
    pub keeps: bool,
    disk: Data,
}

fn id(history: u32) -> HistoryId {
    format!("{history:040x}").parse().expect("40 hexadecimal digits")
}

impl Memory {
    /// Of a server without data.
    pub fn new(keeps: bool) -> Memory {
        Memory { keeps, ..Default::default() }
    }

    pub fn position(&self, log: &[Tx]) -> Position {
        if self.history == 0 {
            return Position::Redis(RedisPosition::default());
        }
        let ends: BTreeMap<u32, u64> = log.iter().map(|tx| (tx.server, tx.sequence)).collect();
        let past = ends.into_iter().map(|(server, end)| (id(server), end));
        Position::Redis(RedisPosition::at(id(self.history), log.len() as u64, past))
    }

    /// The process is gone; what the next one finds.
    pub fn end(&mut self) -> Vec<Tx> {
        (self.leads, self.copying) = (false, None);
        self.admits.clear();
        self.history = self.disk.history;
        self.disk.log.clone()
    }

    pub fn write_to_disk(&mut self, log: &[Tx]) {
        if self.keeps {
            self.disk = Data { log: log.to_vec(), history: self.history };
        }
    }

    pub fn discard(&mut self) {
        (self.disk, self.history) = (Data::default(), 0);
    }

    pub fn shown(&self, seen: &mut Observed, now: u64) {
        seen.acknowledges = seen.upstream.as_ref().is_some_and(|u| u.stream == Stream::Up);
        let Some(copy) = &self.copying else { return };
        seen.acknowledges = false;
        if let Some(upstream) = &mut seen.upstream {
            upstream.stream = Stream::Copying { received_bytes: 0, data_bytes: 0 };
        }
        if now >= copy.loads_at {
            (seen.received, seen.applied, seen.drained) = (None, None, false);
        }
    }
}

/// Whether a position says that a transaction is in the data.
pub fn contains(position: &Position, tx: &Tx) -> bool {
    match position {
        Position::Redis(p) => p.known(id(tx.server)).is_some_and(|end| end >= tx.sequence),
        other => {
            let gtid = Position::mariadb(&format!("0-{}-{}", tx.server, tx.sequence));
            other.contains(&gtid.expect("a GTID as MariaDB writes it"))
        }
    }
}

impl Sim {
    pub(super) fn in_memory(&self) -> bool {
        self.service().admits_replicas()
    }

    /// Writes data to the disk now and then, and brings a copy to its end.
    pub(super) fn memory_tick(&mut self, node: usize) {
        let now = self.now;
        let writes = self.in_memory() && self.rng.range(0, 400) == 0;
        let engine = &mut self.hosts[node].engine;
        let Some(memory) = &mut engine.memory else { return };
        if memory.copying.is_none() && writes {
            memory.write_to_disk(&engine.log);
        }
        let broken = engine.receiver.as_ref().is_none_or(|r| r.conn.is_none() || !r.on);
        let loading = memory.copying.as_ref().is_some_and(|c| now >= c.loads_at);
        // What is loaded is on the own disk by then, whatever becomes of the primary.
        if broken && !loading {
            memory.copying = None;
        }
        let Some(copy) = memory.copying.take_if(|c| now >= c.done_at) else { return };
        memory.history = copy.data.history;
        memory.disk = if memory.keeps { copy.data.clone() } else { Data::default() };
        let len = copy.data.log.len();
        let receiver = engine.receiver.take();
        engine.copy_from(&copy.data.log);
        engine.receiver = receiver;
        tell!(self, "{} has all data of its primary", self.names[node]);
        self.go_online(node, len);
    }

    /// From here on it receives the stream, and its acknowledgements count.
    fn go_online(&mut self, node: usize, cursor: usize) {
        let Some(r) = &mut self.hosts[node].engine.receiver else { return };
        let (Some(conn), upstream) = (r.conn, r.node) else { return };
        (r.cursor, r.acked) = (cursor, 0);
        let life = r.conn_life;
        let stays = self.admits(upstream, node);
        let peer = &mut self.hosts[upstream].engine;
        if matches!(peer.power, Power::Off { .. }) || peer.life != life || !stays {
            return;
        }
        peer.dumps.insert(node, Dump { conn, acknowledges: true, unheard_since: None });
    }

    /// Whether `replica` has an account at `node`; its connection goes with it, also in the middle of a copy.
    pub(super) fn admits(&self, node: usize, replica: usize) -> bool {
        let there = self.hosts[node].engine.memory.as_ref();
        self.sabotaged(Sabotage::AdmitsAnybody) || there.is_some_and(|m| m.admits.contains(&replica))
    }

    pub(super) fn connect_in_memory(&mut self, node: usize) {
        let (conn, now) = (self.fresh_id(), self.now);
        let me = &self.hosts[node].engine;
        let Some(upstream) = me.receiver.as_ref().map(|r| r.node) else { return };
        let peer = &self.hosts[upstream].engine;
        let there = peer.memory.as_ref().filter(|m| m.leads);
        let refused = match (self.net.both(Plane::Data, node, upstream), peer.on(), there) {
            (true, true, Some(_)) if self.admits(upstream, node) => None,
            (true, true, Some(_)) => Some("it is not admitted"),
            (true, true, None) => Some("there is no primary"),
            _ => Some("cannot connect"),
        };
        if let Some(why) = refused {
            if let Some(r) = &mut self.hosts[node].engine.receiver {
                (r.retry_at, r.why) = (now + RETRY_EVERY_MS, why.into());
            }
            return;
        }
        let history = peer.memory.as_ref().map_or(0, |m| m.history);
        let known = me.log.last().map(|tx| peer.find(tx.server, tx.sequence).map(|at| at + 1));
        let has_history = me.memory.as_ref().is_some_and(|m| m.history != 0);
        let goes_on = known.unwrap_or(has_history.then_some(0)).filter(|cursor| *cursor >= peer.purged);
        let (peer_life, data) = (peer.life, Data { log: peer.log.clone(), history });
        if let Some(r) = &mut self.hosts[node].engine.receiver {
            (r.conn, r.conn_life, r.heard) = (Some(conn), peer_life, now);
        }
        match goes_on {
            Some(cursor) => {
                if let Some(memory) = &mut self.hosts[node].engine.memory {
                    memory.history = history;
                }
                self.go_online(node, cursor);
            }
            None => {
                let (loads, done) = (self.rng.range(20, 3_000), self.rng.range(5, 300));
                tell!(self, "{} is given all data of {}", self.names[node], self.names[upstream]);
                if let Some(memory) = &mut self.hosts[node].engine.memory {
                    let loads_at = now + loads;
                    memory.copying = Some(Copy { data, loads_at, done_at: loads_at + done });
                }
            }
        }
    }

    pub(super) fn admit(&mut self, node: usize, nodes: &BTreeSet<holdfast_core::NodeName>) {
        let admitted: BTreeSet<usize> = nodes.iter().map(|n| self.host_of(n)).collect();
        let anybody = self.sabotaged(Sabotage::AdmitsAnybody);
        let engine = &mut self.hosts[node].engine;
        if let Some(memory) = &mut engine.memory {
            memory.admits = admitted.clone();
        }
        engine.dumps.retain(|replica, _| anybody || admitted.contains(replica));
    }
}
