//! What all sessions of one proxy know about its readers: how many sessions each serves, which does not answer, how
//! far each has come.
//!
//! Guarantees: a position that is said to be reached was reached in this epoch; a reader that could not be used is left
//! alone for a bounded time only. Pure but for its mutex: the time is handed in.
//! Does not know: which readers there are (routes say so), nor what a position means to an engine.

use crate::gate;
use crate::shared::lock;
use holdfast_core::{Endpoint, Epoch, ZoneName, limits};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// A place in one of an engine's numbered streams of transactions. Within a stream, who has a number has all before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub stream: Box<[u8]>,
    pub number: u64,
}

#[derive(Debug, Default)]
struct Reader {
    sessions: usize,
    /// It could not be connected to.
    avoid_until: Option<Instant>,
    /// Somebody waited for it in vain.
    late_until: Option<Instant>,
    /// The furthest mark that somebody saw it reach.
    reached: Option<(Epoch, Mark)>,
}

/// See the file's contract.
#[derive(Debug)]
pub struct Readers {
    zone: ZoneName,
    turn: AtomicUsize,
    known: Mutex<HashMap<SocketAddr, Reader>>,
}

impl Readers {
    /// `zone` is the proxy's own: its readers come first.
    pub fn new(zone: ZoneName) -> Readers {
        Readers { zone, turn: AtomicUsize::new(0), known: Mutex::default() }
    }

    /// The reader to connect to next. `avoid` beside those that nobody can connect to.
    pub fn choose(&self, listed: &[Endpoint], avoid: &[SocketAddr], now: Instant) -> Option<Endpoint> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let known = lock(&self.known);
        let mut avoid = avoid.to_vec();
        avoid.extend(known.iter().filter(|(_, r)| r.avoid_until.is_some_and(|t| t > now)).map(|(a, _)| *a));
        let sessions = |addr| known.get(&addr).map_or(0, |r| r.sessions);
        gate::choose_reader(listed, &self.zone, turn, &avoid, sessions).cloned()
    }

    /// A session at `addr` should go to another reader: one of the proxy's own zone instead of one elsewhere, or one
    /// that serves fewer. Moving one session makes the difference smaller, so this comes to rest.
    pub fn should_move(&self, addr: SocketAddr, listed: &[Endpoint], now: Instant) -> bool {
        let Some(here) = listed.iter().find(|r| r.addr == addr) else { return true };
        let Some(best) = self.choose(listed, &[], now).filter(|best| best.addr != addr) else { return false };
        if (here.zone == self.zone) != (best.zone == self.zone) {
            return best.zone == self.zone;
        }
        let known = lock(&self.known);
        let sessions = |addr| known.get(&addr).map_or(0, |r| r.sessions);
        sessions(addr) > sessions(best.addr) + 1
    }

    /// Nobody could connect to it: others need not try for a while.
    pub fn refused(&self, addr: SocketAddr, now: Instant) {
        let until = now + Duration::from_millis(limits::READER_AVOID_MS);
        let mut known = lock(&self.known);
        let reader = known.entry(addr).or_default();
        (reader.avoid_until, reader.reached) = (Some(until), None);
    }

    /// How far it was seen to be says nothing any more: it may be another process with less.
    pub fn forget(&self, addr: SocketAddr) {
        if let Some(reader) = lock(&self.known).get_mut(&addr) {
            reader.reached = None;
        }
    }

    /// A wait for a position ended without it: others need not wait for a while.
    pub fn was_late(&self, addr: SocketAddr, now: Instant) {
        let until = now + Duration::from_millis(limits::READER_LATE_MS);
        lock(&self.known).entry(addr).or_default().late_until = Some(until);
    }
    pub fn is_late(&self, addr: SocketAddr, now: Instant) -> bool {
        lock(&self.known).get(&addr).and_then(|r| r.late_until).is_some_and(|t| t > now)
    }

    /// It was seen to have come as far as `mark`.
    pub fn note_reached(&self, addr: SocketAddr, epoch: Epoch, mark: Mark) {
        let mut known = lock(&self.known);
        let reader = known.entry(addr).or_default();
        reader.late_until = None;
        let further = match &reader.reached {
            Some((e, m)) => {
                *e < epoch || (*e == epoch && (m.stream != mark.stream || m.number < mark.number))
            }
            None => true,
        };
        if further {
            reader.reached = Some((epoch, mark));
        }
    }
    /// It is known to have come as far as `mark`. What was seen in another epoch says nothing: histories can be cut.
    pub fn has_reached(&self, addr: SocketAddr, epoch: Epoch, mark: &Mark) -> bool {
        let known = lock(&self.known);
        let reached = known.get(&addr).and_then(|r| r.reached.as_ref());
        reached.is_some_and(|(e, m)| *e == epoch && m.stream == mark.stream && m.number >= mark.number)
    }

    /// Counts a session at a reader for as long as the returned value lives.
    pub fn enter(self: &Arc<Self>, addr: SocketAddr) -> AtReader {
        lock(&self.known).entry(addr).or_default().sessions += 1;
        AtReader { readers: self.clone(), addr }
    }

    /// Forgets readers that no route lists any more and no session is at.
    pub fn retain(&self, listed: &[Endpoint]) {
        lock(&self.known).retain(|addr, r| {
            let is_listed = listed.iter().any(|l| l.addr == *addr);
            if !is_listed {
                r.reached = None;
            }
            is_listed || r.sessions > 0
        });
    }
}

/// A session counted at a reader.
#[derive(Debug)]
pub struct AtReader {
    readers: Arc<Readers>,
    addr: SocketAddr,
}

impl Drop for AtReader {
    fn drop(&mut self) {
        if let Some(reader) = lock(&self.readers.known).get_mut(&self.addr) {
            reader.sessions -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::NodeName;

    fn at(n: u8, zone: &str) -> Endpoint {
        Endpoint {
            node: NodeName::new(&format!("db{n}")).unwrap(),
            zone: ZoneName::new(zone).unwrap(),
            addr: SocketAddr::from(([127, 0, 0, n], 3306)),
        }
    }
    fn readers() -> Arc<Readers> {
        Arc::new(Readers::new(ZoneName::new("a").unwrap()))
    }
    fn mark(number: u64) -> Mark {
        Mark { stream: b"0".as_slice().into(), number }
    }

    #[test]
    fn sessions_spread_and_come_back() {
        let (readers, now) = (readers(), Instant::now());
        let listed = [at(1, "a"), at(2, "a"), at(3, "b")];
        let mut here: Vec<AtReader> = Vec::new();
        for _ in 0..6 {
            let chosen = readers.choose(&listed, &[], now).unwrap();
            here.push(readers.enter(chosen.addr));
        }
        assert_eq!(here.iter().filter(|r| r.addr == at(1, "a").addr).count(), 3);
        // One falls behind: its sessions go to the other, and come back one by one.
        let without = [at(2, "a"), at(3, "b")];
        for r in &mut here {
            if readers.should_move(r.addr, &without, now) {
                *r = readers.enter(readers.choose(&without, &[], now).unwrap().addr);
            }
        }
        assert!(here.iter().all(|r| r.addr == at(2, "a").addr));
        for r in &mut here {
            if readers.should_move(r.addr, &listed, now) {
                *r = readers.enter(readers.choose(&listed, &[], now).unwrap().addr);
            }
        }
        assert_eq!(here.iter().filter(|r| r.addr == at(1, "a").addr).count(), 3);
        // The own zone is gone, and back.
        let elsewhere = [at(3, "b")];
        assert!(readers.should_move(at(1, "a").addr, &elsewhere, now));
        assert!(!readers.should_move(at(3, "b").addr, &elsewhere, now));
        assert!(readers.should_move(at(3, "b").addr, &listed, now));
    }

    #[test]
    fn who_does_not_answer_is_left_alone_for_a_while() {
        let (readers, now) = (readers(), Instant::now());
        let listed = [at(1, "a"), at(3, "b")];
        readers.refused(at(1, "a").addr, now);
        assert_eq!(readers.choose(&listed, &[], now), Some(at(3, "b")));
        let later = now + Duration::from_millis(limits::READER_AVOID_MS);
        assert_eq!(readers.choose(&listed, &[], later), Some(at(1, "a")));
        assert_eq!(readers.choose(&listed, &[at(1, "a").addr, at(3, "b").addr], later), None);
    }

    #[test]
    fn what_was_reached_holds_within_its_epoch_and_stream() {
        let (readers, now, addr) = (readers(), Instant::now(), at(1, "a").addr);
        readers.was_late(addr, now);
        assert!(readers.is_late(addr, now));
        readers.note_reached(addr, Epoch(1), mark(7));
        assert!(!readers.is_late(addr, now));
        readers.note_reached(addr, Epoch(1), mark(5));
        assert!(
            readers.has_reached(addr, Epoch(1), &mark(7)) && readers.has_reached(addr, Epoch(1), &mark(6))
        );
        assert!(!readers.has_reached(addr, Epoch(1), &mark(8)));
        assert!(!readers.has_reached(addr, Epoch(2), &mark(7)), "the history may have been cut");
        assert!(!readers.has_reached(addr, Epoch(1), &Mark { stream: b"1".as_slice().into(), number: 1 }));
        readers.note_reached(addr, Epoch(2), mark(6));
        assert!(!readers.has_reached(addr, Epoch(2), &mark(7)));
        readers.retain(&[]);
        assert!(!readers.has_reached(addr, Epoch(2), &mark(6)));
    }
}
