//! Clients that write, and the ledger of what was acknowledged to them. Some go through a proxy that obeys its
//! route, some stay with whatever engine takes their writes, which is what fencing is for.

use super::engine::Tx;
use super::event::Event;
use super::net::Plane;
use super::{Power, Sim, invariants};
use holdfast_core::{Epoch, Gate, Millis, RouteSnapshot};
use std::sync::Arc;

/// A client gives up on an answer after this long; what became of its write is unknown (S13).
const ANSWER_MS: u64 = 2_000;

/// What a proxy was told last.
#[derive(Default)]
pub struct Proxy {
    route: Option<(Arc<RouteSnapshot>, Millis)>,
}

pub struct Client {
    home: usize,
    /// `None`: through the proxy of its host.
    direct: Option<usize>,
    outstanding: Option<(usize, u64)>,
    pub last_answer: u64,
}

impl Client {
    pub fn new(home: usize, direct: bool) -> Client {
        Client { home, direct: direct.then_some(home), outstanding: None, last_answer: 0 }
    }
    pub fn home(&self) -> usize {
        self.home
    }
    pub fn through_proxy(&self) -> bool {
        self.direct.is_none()
    }
}

/// One write of the ledger.
#[derive(Debug, Clone, Copy)]
pub struct WriteEntry {
    pub tx: Option<Tx>,
    pub client: Option<usize>,
    pub acknowledged: bool,
    /// Its loss was accepted by the operator, or counted and saved to a file.
    pub forgiven: bool,
    pub saved: bool,
    /// It was in the memory of a process that ended.
    pub evaporated: bool,
}

/// The ledger.
#[derive(Default)]
pub struct Writes {
    pub all: Vec<WriteEntry>,
}

impl Writes {
    fn enter(&mut self, client: Option<usize>) -> usize {
        self.all.push(WriteEntry {
            tx: None,
            client,
            acknowledged: false,
            forgiven: false,
            saved: false,
            evaporated: false,
        });
        self.all.len() - 1
    }
    pub fn internal(&mut self) -> usize {
        self.enter(None)
    }
    pub fn written(&mut self, write: usize, tx: Tx, _node: usize) {
        self.all[write].tx = Some(tx);
    }
    pub fn saved(&mut self, write: usize) {
        self.all[write].saved = true;
    }
    pub fn evaporated(&mut self, write: usize) {
        self.all[write].evaporated = true;
    }
    pub fn forgiven(&mut self, write: usize) {
        self.all[write].forgiven = true;
    }
    pub fn acknowledged(&self) -> u64 {
        self.all.iter().filter(|w| w.acknowledged).count() as u64
    }
    /// Acknowledged writes whose loss nobody accepted.
    pub fn owed(&self) -> impl Iterator<Item = (usize, &WriteEntry)> {
        self.all.iter().enumerate().filter(|(_, w)| w.acknowledged && !w.forgiven)
    }
}

impl Sim {
    pub(super) fn proxy_route(&mut self, node: usize, snapshot: Arc<RouteSnapshot>) {
        let now = self.local(node);
        let proxy = &mut self.hosts[node].proxy;
        let known = proxy.route.as_ref().map_or(Epoch(0), |(r, _)| r.epoch);
        if snapshot.epoch >= known {
            proxy.route = Some((snapshot, now));
        }
    }

    /// The writer, and how many replicas must have a write.
    fn routed(&self, home: usize) -> Option<(usize, u32)> {
        let host = &self.hosts[home];
        let (route, received) = host.proxy.route.as_ref()?;
        let valid = self.local(home).since(*received) < route.valid_for_ms;
        let usable = host.power == Power::Up && valid && route.gate == Gate::Open;
        usable.then(|| route.writer.as_ref().map(|w| (self.host_of(&w.node), route.acks))).flatten()
    }

    pub(super) fn client_tick(&mut self, client: usize) {
        let ms = self.rng.range(15, 60);
        self.after(ms, Event::ClientTick { client });
        if let Some((write, since)) = self.clients[client].outstanding {
            if self.now - since < ANSWER_MS {
                return;
            }
            self.hang_up(client, write);
        }
        let home = self.clients[client].home;
        // Who goes to an engine by itself waits by itself.
        let own = u32::from(self.sync());
        let target = match self.clients[client].direct {
            None => self.routed(home),
            Some(last) if self.hosts[last].engine.writable => Some((last, own)),
            Some(_) => {
                let other = self.rng.pick(&self.members);
                self.clients[client].direct = Some(other);
                Some((other, own))
            }
        };
        let Some((to, acks)) = target.filter(|(t, _)| self.net.both(Plane::Data, home, *t)) else { return };
        let life = self.hosts[to].engine.life;
        let delay = self.net.delay_ms(&mut self.rng);
        self.after(delay, Event::ClientWrite { client, to, life, acks });
    }

    /// The client is gone; its write may still become durable, without an answer.
    fn hang_up(&mut self, client: usize, write: usize) {
        self.clients[client].outstanding = None;
        for host in &mut self.hosts {
            host.engine.waiting.retain(|w| w.write != write);
        }
    }

    pub(super) fn client_write(&mut self, client: usize, to: usize, life: u64, acks: u32) {
        let engine = &self.hosts[to].engine;
        if !engine.on()
            || !engine.writable
            || engine.life != life
            || self.clients[client].outstanding.is_some()
        {
            return;
        }
        let in_memory = engine.memory.is_some();
        let full = engine.full && !in_memory;
        let write = self.writes.enter(Some(client));
        self.clients[client].outstanding = Some((write, self.now));
        if full {
            return; // waits for room until the client gives up
        }
        let engine = &mut self.hosts[to].engine;
        let tx = engine.write(write);
        let at = engine.log.len() - 1;
        let waits = engine.waits || in_memory && acks > 0;
        if waits {
            engine.waiting.push_back(super::engine::Waiting { at, write });
        }
        self.writes.written(write, tx, to);
        if !waits {
            self.acknowledge(to, write, None);
        }
    }

    /// The engine answers a commit, released by `acker`'s acknowledgement if it waited for one.
    pub(super) fn acknowledge(&mut self, server: usize, write: usize, acker: Option<usize>) {
        let Some(client) = self.writes.all[write].client else { return };
        let home = self.clients[client].home;
        if self.clients[client].outstanding.is_some_and(|(w, _)| w == write) {
            self.clients[client].outstanding = None;
            if !self.net.up(Plane::Data, server, home) {
                return; // the answer does not arrive: unknown
            }
            self.clients[client].last_answer = self.now;
            self.writes.all[write].acknowledged = true;
            invariants::acknowledged(self, server, write, acker);
        }
    }
}
