//! Engines among themselves: connecting, receiving, acknowledging, noticing that the other end is gone.

use super::engine::{DUMP_TIMEOUT_MS, Dump, Power, RETRY_EVERY_MS, SILENCE_MS};
use super::event::{Event, Timer};
use super::net::Plane;
use super::{Sabotage, Sim, invariants, tell};
use holdfast_core::limits::REPLICA_RETRIES;

const TICK_MS: u64 = 15;
/// Transactions received per tick, at most.
const BATCH: usize = 100;

impl Sim {
    pub(super) fn engine_tick(&mut self, node: usize) {
        let ms = TICK_MS + self.rng.range(0, 5);
        self.after(ms, Event::EngineTick { node });
        if !self.hosts[node].engine.on() {
            return;
        }
        self.drop_dumps(node);
        self.memory_tick(node);
        let Some(r) = &self.hosts[node].engine.receiver else { return };
        if r.on {
            match r.conn {
                None if self.now >= r.retry_at => self.connect(node),
                None => {}
                Some(conn) => self.receive(node, conn),
            }
        }
        self.hosts[node].engine.apply();
    }

    /// Forgets replicas that are gone.
    fn drop_dumps(&mut self, node: usize) {
        let mut dumps = std::mem::take(&mut self.hosts[node].engine.dumps);
        let now = self.now;
        dumps.retain(|replica, d| {
            let r = &self.hosts[*replica].engine;
            let same = r.receiver.as_ref().is_some_and(|r| r.conn == Some(d.conn) && r.node == node);
            if !self.net.both(Plane::Data, node, *replica) || r.power == Power::Hung {
                let since = *d.unheard_since.get_or_insert(now);
                return now - since < DUMP_TIMEOUT_MS;
            }
            d.unheard_since = None;
            same
        });
        self.hosts[node].engine.dumps = dumps;
    }

    fn connect(&mut self, node: usize) {
        if self.in_memory() {
            return self.connect_in_memory(node);
        }
        let conn = self.fresh_id();
        let me = &self.hosts[node].engine;
        let Some(upstream) = me.receiver.as_ref().map(|r| r.node) else { return };
        let last = me.relay.back().or(me.log.last()).copied();
        let peer = &self.hosts[upstream].engine;
        let refused = match (self.net.both(Plane::Data, node, upstream), &peer.power) {
            (true, Power::On) if peer.log.is_empty() => Some("access denied: no such account"),
            (true, Power::On) => None,
            _ => Some("cannot connect"),
        };
        let cursor = last.map_or(Some(0), |t| peer.find(t.server, t.sequence).map(|i| i + 1));
        let (peer_life, now, acknowledges) = (peer.life, self.now, me.acknowledges);
        let lacks = match cursor {
            None => Some("error 1236: not in the master's binlog"),
            Some(c) if c < peer.purged => Some("error 1236: required binlog files have been purged"),
            Some(_) => None,
        };
        let lacks = lacks.filter(|_| refused.is_none());
        let r = self.hosts[node].engine.receiver.as_mut().expect("looked up above");
        if let (None, None, Some(cursor)) = (refused, lacks, cursor) {
            (r.conn, r.conn_life, r.cursor, r.acked, r.heard, r.retries) =
                (Some(conn), peer_life, cursor, cursor, now, 0);
            let dump = Dump { conn, acknowledges, unheard_since: None };
            self.hosts[upstream].engine.dumps.insert(node, dump);
            return;
        }
        r.retries += 1;
        r.retry_at = now + RETRY_EVERY_MS;
        r.why = lacks.or(refused).unwrap_or_default().to_string();
        if lacks.is_some() || r.retries > REPLICA_RETRIES {
            (r.on, r.refused) = (false, lacks.is_some());
            tell!(
                self,
                "{}'s receiver stops: cannot receive from {}",
                self.names[node],
                self.names[upstream]
            );
        }
    }

    fn receive(&mut self, node: usize, conn: u64) {
        if self.hosts[node].engine.full && !self.in_memory() {
            return; // the thread waits for room
        }
        let copying = self.hosts[node].engine.memory.as_ref().is_some_and(|m| m.copying.is_some());
        let Some(r) = self.hosts[node].engine.receiver.clone() else { return };
        let up = self.net.both(Plane::Data, node, r.node);
        let peer = &self.hosts[r.node].engine;
        let alive = peer.on() && peer.life == r.conn_life;
        let admitted = copying && self.admits(r.node, node);
        let known = admitted || peer.dumps.get(&node).is_some_and(|d| d.conn == conn);
        let mut fresh = Vec::new();
        if up && alive && known && !copying {
            let me = &self.hosts[node].engine;
            let most = if me.acknowledges && me.memory.is_none() { me.sync_rate.min(BATCH) } else { BATCH };
            fresh.extend(peer.log[r.cursor..].iter().take(most).copied());
        }
        // A hung process keeps its connections; one that ended, or forgot this one, resets it.
        let reset = if alive { !known } else { peer.power != Power::Hung };
        if up && reset {
            return self.lose(node, "connection reset");
        }
        let heard = if up && alive { self.now } else { r.heard };
        let silent = self.now - heard >= SILENCE_MS;
        let me = &mut self.hosts[node].engine;
        if let Some(mine) = me.receiver.as_mut() {
            mine.heard = heard;
            mine.cursor += fresh.len();
        }
        // One that connects again by itself, while its agent is out of reach, is stopped when it is back.
        let release = me.release;
        let foreign = r.release > release && fresh.iter().any(|tx| tx.release > release);
        fresh.into_iter().for_each(|tx| me.receive(tx));
        if foreign {
            invariants::older_follows(self, node);
        }
        if silent {
            return self.lose(node, "no heartbeat");
        }
        if !copying {
            self.acknowledge_received(node, conn);
        }
    }

    fn lose(&mut self, node: usize, why: &str) {
        let now = self.now;
        if let Some(r) = &mut self.hosts[node].engine.receiver {
            (r.conn, r.retry_at, r.retries, r.why) = (None, now + RETRY_EVERY_MS, 0, why.into());
        }
    }

    fn acknowledge_received(&mut self, node: usize, conn: u64) {
        let unread = self.sabotaged(Sabotage::AcknowledgedUnread);
        let me = &mut self.hosts[node].engine;
        let acknowledges = me.acknowledges;
        let Some(r) = me.receiver.as_mut() else { return };
        let upto = if unread { r.cursor + 3 } else { r.cursor };
        if !acknowledges || upto == r.acked {
            return;
        }
        r.acked = upto;
        let (to, life) = (r.node, r.conn_life);
        let delay = self.net.delay_ms(&mut self.rng);
        self.after(delay, Event::Ack { to, life, from: node, conn, upto });
    }

    pub(super) fn ack(&mut self, to: usize, life: u64, from: usize, conn: u64, upto: usize) {
        let up = self.net.up(Plane::Data, from, to);
        let engine = &mut self.hosts[to].engine;
        let known = engine.dumps.get(&from).is_some_and(|d| d.conn == conn && d.acknowledges);
        if engine.life != life || !known {
            return;
        }
        if !up || !engine.on() {
            return self.after(50, Event::Ack { to, life, from, conn, upto });
        }
        engine.committed = engine.committed.max(upto.min(engine.log.len()));
        let mut released = Vec::new();
        while engine.waiting.front().is_some_and(|w| w.at < upto) {
            released.extend(engine.waiting.pop_front());
        }
        for w in released {
            self.acknowledge(to, w.write, Some(from));
        }
    }

    /// The engine's process ends, whatever the reason.
    pub(super) fn engine_down(&mut self, node: usize, how: &str, crash: bool) {
        let cuts = self.cuts_tail && crash;
        let host = &mut self.hosts[node];
        if matches!(host.engine.power, Power::Off { .. }) {
            return;
        }
        tell!(self, "{}'s engine ends: {how}", self.names[node]);
        let outlives = self.sabotaged(Sabotage::MarkOutlivesLoss);
        let trusted = self.sabotaged(Sabotage::RestartTrusted);
        let host = &mut self.hosts[node];
        host.engine.ended_at = self.now;
        self.evaporates(node, crash);
        let host = &mut self.hosts[node];
        let marked = host.engine.retained;
        let kept = marked && !crash && host.engine.memory.as_ref().is_some_and(|m| m.keeps);
        let tail = host.engine.end(how, cuts);
        if outlives {
            host.engine.purge_relay();
            host.engine.retained = marked;
        }
        host.engine.retained |= kept || trusted && marked;
        host.cut.extend(tail);
        self.process_after(1, node, Timer::EngineEnded);
    }

    /// What was in memory alone goes with the process. One that is asked to end writes its data first.
    fn evaporates(&mut self, node: usize, crash: bool) {
        let engine = &mut self.hosts[node].engine;
        let Some(memory) = &mut engine.memory else { return };
        if !crash {
            memory.write_to_disk(&engine.log);
        }
        let left = memory.clone().end();
        for tx in engine.log.iter().filter(|tx| left.get(tx.sequence as usize - 1) != Some(tx)) {
            self.writes.evaporated(tx.write);
        }
    }
}
