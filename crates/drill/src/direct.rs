//! Clients that write to the engines directly, past every proxy: they find two primaries where there are two.
//!
//! Every engine tells after each write under whose primacy it took it: by the server id under which it was logged (epoch
//! and node), or by the name of its history. Of histories, the later one is the one whose first write was acknowledged
//! later. A write is *dual* if it was sent after a write of a later epoch had been acknowledged, and was
//! acknowledged all the same.

use crate::client::{Client, Primacy};
use crate::ground::Vantage;
use crate::ledger::{self, Account, Ledger};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// One acknowledged write.
#[derive(Debug, Clone)]
struct Taken {
    primacy: Primacy,
    sent: Instant,
    acked: Instant,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Direct {
    taken: Vec<Taken>,
    /// Acknowledged writes that were logged under a follower's server id: positions would not tell them apart.
    pub misnumbered: u64,
    /// Acknowledged and unknown writes, to be compared with the survivor like all others.
    pub ledger: Ledger,
}

/// Running clients.
pub struct Probers {
    stop: Arc<AtomicBool>,
    tasks: tokio::task::JoinSet<Direct>,
}

const PAUSE: Duration = Duration::from_millis(10);
const CONNECT: Duration = Duration::from_millis(300);
/// A write that no replica acknowledges hangs; this long.
const STATEMENT: Duration = Duration::from_secs(2);

impl Probers {
    /// One for each engine, writing as the writers `first`, `first + 1`, … of `run`.
    pub fn start(
        at: &Vantage,
        engines: &[SocketAddr],
        account: &Account,
        sync: bool,
        run: u64,
        first: u8,
    ) -> Probers {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for (writer, addr) in (first..).zip(engines) {
            let first = ledger::first_id(run, writer);
            tasks.spawn_on(probe(*addr, account.clone(), sync, first, stop.clone()), at.handle());
        }
        Probers { stop, tasks }
    }

    pub async fn finish(mut self) -> Direct {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Direct::default();
        while let Some(one) = self.tasks.join_next().await {
            let Ok(one) = one else { continue };
            all.add(one);
        }
        all
    }
}

impl Direct {
    pub fn add(&mut self, other: Direct) {
        self.taken.extend(other.taken);
        self.misnumbered += other.misnumbered;
        self.ledger.add(other.ledger);
    }

    /// Writes that an engine took although a later epoch's primary had acknowledged one before they were sent (S1).
    pub fn dual_writes(&self) -> u64 {
        let mut first: BTreeMap<&Primacy, Instant> = BTreeMap::new();
        for t in &self.taken {
            first.entry(&t.primacy).and_modify(|at| *at = t.acked.min(*at)).or_insert(t.acked);
        }
        let later = |one: &Primacy, than: &Primacy| match (one, than) {
            (Primacy::Epoch(one), Primacy::Epoch(than)) => one > than,
            _ => first.get(one) > first.get(than),
        };
        let dual = |t: &&Taken| first.iter().any(|(p, at)| later(p, &t.primacy) && *at < t.sent);
        self.taken.iter().filter(dual).count() as u64
    }
}

async fn probe(addr: SocketAddr, account: Account, sync: bool, first: u64, stop: Arc<AtomicBool>) -> Direct {
    let mut seen = Direct::default();
    let mut client = None;
    let mut id = first;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(PAUSE).await;
        let mut c = match client.take() {
            Some(c) => c,
            None => match tokio::time::timeout(CONNECT, Client::connect(addr, &account)).await {
                Ok(Ok(c)) => c,
                Ok(Err(_)) | Err(_) => continue,
            },
        };
        id += 1;
        let sent = Instant::now();
        match tokio::time::timeout(STATEMENT, c.write_directly(id, sync)).await {
            Ok(Ok((acked, primacy))) => {
                seen.ledger.acked.push((id, acked));
                match primacy {
                    Some(Primacy::Misnumbered) => seen.misnumbered += 1,
                    Some(primacy) => seen.taken.push(Taken { primacy, sent, acked }),
                    None => {}
                }
                client = Some(c);
            }
            Ok(Err(e)) => {
                if !e.refused_by_engine() {
                    seen.ledger.unknown.insert(id);
                }
                client = e.is_answer().then_some(c);
            }
            Err(_) => {
                seen.ledger.unknown.insert(id);
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_an_old_epoch_is_dual_if_it_was_sent_after_a_later_epoch_took_one() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let of = |primacy, sent, acked| Taken { primacy, sent: at(sent), acked: at(acked) };
        let taken = |epoch, sent, acked| of(Primacy::Epoch(epoch), sent, acked);
        let mut seen = Direct { taken: vec![taken(1, 0, 1), taken(2, 10, 12)], ..Direct::default() };
        assert_eq!(seen.dual_writes(), 0);
        // Under way when the later epoch began: no proof of two primaries.
        seen.taken.push(taken(1, 11, 15));
        assert_eq!(seen.dual_writes(), 0);
        seen.taken.push(taken(1, 13, 14));
        assert_eq!(seen.dual_writes(), 1);

        // Names have no order of their own.
        let of_history = |name: &str, sent, acked| of(Primacy::History(name.into()), sent, acked);
        let mut seen =
            Direct { taken: vec![of_history("z", 0, 1), of_history("a", 10, 12)], ..Direct::default() };
        assert_eq!(seen.dual_writes(), 0);
        seen.taken.push(of_history("z", 13, 14));
        assert_eq!(seen.dual_writes(), 1);
    }
}
