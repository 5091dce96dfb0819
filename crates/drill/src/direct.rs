//! Clients that write to the engines directly, past every proxy: they find two primaries where there are two.
//!
//! Every engine tells after each write under which server id it was logged, and a primacy has a server id of its own
//! (epoch and node). A write is *dual* if it was sent after a write of a later epoch had been acknowledged, and was
//! acknowledged all the same.

use crate::ground::Vantage;
use crate::ledger::{self, Account, Ledger};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// One acknowledged write.
#[derive(Debug, Clone, Copy)]
struct Taken {
    epoch: u64,
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
/// A primary's server id is epoch·128 + node; a follower's has the highest bit set.
const NODE_BITS: u32 = 7;
const FOLLOWER_BIT: u64 = 1 << 31;

impl Probers {
    /// One for each engine, writing as the writers `first`, `first + 1`, … of `run`.
    pub fn start(at: &Vantage, engines: &[SocketAddr], account: &Account, run: u64, first: u8) -> Probers {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for (writer, addr) in (first..).zip(engines) {
            let first = ledger::first_id(run, writer);
            tasks.spawn_on(probe(*addr, account.clone(), first, stop.clone()), at.handle());
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
        let mut first: BTreeMap<u64, Instant> = BTreeMap::new();
        for t in &self.taken {
            first.entry(t.epoch).and_modify(|at| *at = t.acked.min(*at)).or_insert(t.acked);
        }
        let dual = |t: &&Taken| first.range(t.epoch + 1..).any(|(_, at)| *at < t.sent);
        self.taken.iter().filter(dual).count() as u64
    }
}

async fn probe(addr: SocketAddr, account: Account, first: u64, stop: Arc<AtomicBool>) -> Direct {
    let mut seen = Direct::default();
    let mut conn = None;
    let mut id = first;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(PAUSE).await;
        let mut c = match conn.take() {
            Some(c) => c,
            None => match tokio::time::timeout(CONNECT, ledger::connect(addr, &account)).await {
                Ok(Ok(c)) => c,
                Ok(Err(_)) | Err(_) => continue,
            },
        };
        id += 1;
        let sent = Instant::now();
        match tokio::time::timeout(STATEMENT, write(&mut c, id)).await {
            Ok(Ok((acked, server_id))) => {
                seen.ledger.acked.push((id, acked));
                match server_id {
                    Some(id) if id & FOLLOWER_BIT == 0 => {
                        seen.taken.push(Taken { epoch: id >> NODE_BITS, sent, acked });
                    }
                    Some(_) => seen.misnumbered += 1,
                    None => {}
                }
                conn = Some(c);
            }
            Ok(Err(mysql_async::Error::Server(e))) => {
                if !refused(e.code) {
                    seen.ledger.unknown.insert(id);
                }
                conn = Some(c);
            }
            Ok(Err(_)) | Err(_) => {
                seen.ledger.unknown.insert(id);
            }
        }
    }
    seen
}

/// Writes; when that was acknowledged, and under which server id it was logged, if the engine lived to tell. (`RETURNING`
/// would tell in one, but only MariaDB has it.) The connection lives no longer than the role in which the server gave it its id.
async fn write(c: &mut Conn, id: u64) -> Result<(Instant, Option<u64>), mysql_async::Error> {
    c.query_drop(format!("INSERT INTO holdfast_drill_ledger VALUES ({id}, NOW(6))")).await?;
    let acked = Instant::now();
    // An error here means that the connection broke: the write was acknowledged all the same.
    Ok((acked, c.query_first("SELECT @@server_id").await.unwrap_or_default()))
}

/// The engine's answers that mean that nothing was executed: read-only, no such table yet.
fn refused(code: u16) -> bool {
    const READ_ONLY: u16 = 1290;
    const NO_SUCH_TABLE: u16 = 1146;
    matches!(code, READ_ONLY | NO_SUCH_TABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_an_old_epoch_is_dual_if_it_was_sent_after_a_later_epoch_took_one() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let taken = |epoch, sent, acked| Taken { epoch, sent: at(sent), acked: at(acked) };
        let mut seen = Direct { taken: vec![taken(1, 0, 1), taken(2, 10, 12)], ..Direct::default() };
        assert_eq!(seen.dual_writes(), 0);
        // Under way when the later epoch began: no proof of two primaries.
        seen.taken.push(taken(1, 11, 15));
        assert_eq!(seen.dual_writes(), 0);
        seen.taken.push(taken(1, 13, 14));
        assert_eq!(seen.dual_writes(), 1);
    }
}
