//! Clients that write through the proxy and keep a ledger of what was acknowledged, to be compared with the survivor.
//!
//! Every write is one command with an id of its own: a row in one autocommitted statement, a member of a set. Its outcome is *acknowledged*,
//! *refused* (an error that says it was not executed) or *unknown* (anything else). Nothing is ever tried again under
//! the same id, so that a row tells exactly which write it is from.

use crate::client::{Client, Error};
use crate::ground::Vantage;
use holdfast_core::topology::Family;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Who writes where.
#[derive(Debug, Clone)]
pub struct Account {
    pub user: String,
    pub password: String,
    /// Where tables are made; of no use where there are none.
    pub database: String,
    /// Which protocol is spoken.
    pub family: Family,
}

/// What the writers of one run saw.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Acknowledged ids and when.
    pub acked: Vec<(u64, Instant)>,
    /// Ids whose outcome is unknown.
    pub unknown: BTreeSet<u64>,
    /// Every error a client saw, as text.
    pub errors: Vec<String>,
}

impl Ledger {
    /// Takes over what others saw.
    pub fn add(&mut self, other: Ledger) {
        self.acked.extend(other.acked);
        self.unknown.extend(other.unknown);
        self.errors.extend(other.errors);
    }
    /// The longest time without an acknowledgement that began after `from`, or was under way then.
    pub fn outage(&self, from: Instant, to: Instant) -> Duration {
        let mut times: Vec<Instant> = self.acked.iter().map(|(_, t)| *t).collect();
        times.sort();
        let before = times.iter().rev().find(|t| **t <= from).copied().unwrap_or(from);
        let after = times.into_iter().filter(|t| *t > from && *t <= to).chain([to]);
        let mut last = before;
        let mut longest = Duration::ZERO;
        for t in after {
            longest = longest.max(t.saturating_duration_since(last));
            last = t;
        }
        longest
    }
}

/// Running writers.
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: tokio::task::JoinSet<Ledger>,
    acked: Arc<AtomicU64>,
}

/// Ids of one run start at a multiple of this, ids of one of its writers at a multiple of the smaller.
pub const IDS_PER_RUN: u64 = 1 << 40;
const IDS_PER_WRITER: u64 = 1 << 32;
/// One statement may take this long, holding included, before a client gives up on it.
const STATEMENT: Duration = Duration::from_secs(20);
const ERRORS_KEPT: usize = 1_000;

/// Makes what writes need.
pub async fn prepare(addr: SocketAddr, account: &Account) -> Result<(), Error> {
    let mut client = Client::connect(addr, account).await?;
    client.prepare().await?;
    client.disconnect().await;
    Ok(())
}

/// Begins anew: removes what an earlier run left, and writes.
pub async fn begin(addr: SocketAddr, account: &Account) -> Result<(), Error> {
    let mut client = Client::connect(addr, account).await?;
    client.clear().await?;
    client.prepare().await?;
    // An id of no run.
    client.write(0).await?;
    client.disconnect().await;
    Ok(())
}

/// Logs in and asks for something.
pub async fn answers(addr: SocketAddr, account: &Account) -> Result<(), Error> {
    let mut client = Client::connect(addr, account).await?;
    client.ping().await?;
    client.disconnect().await;
    Ok(())
}

/// Removes what all drills wrote.
pub async fn clear(addr: SocketAddr, account: &Account) -> Result<(), Error> {
    let mut client = Client::connect(addr, account).await?;
    client.clear().await?;
    client.disconnect().await;
    Ok(())
}

/// Ids of a run that are on a server.
pub async fn present(addr: SocketAddr, account: &Account, run: u64) -> Result<BTreeSet<u64>, Error> {
    let mut client = Client::connect(addr, account).await?;
    let ids = client.ids(run * IDS_PER_RUN..(run + 1) * IDS_PER_RUN).await?;
    client.disconnect().await;
    Ok(ids)
}

/// Ids of a writer follow this one.
pub(crate) fn first_id(run: u64, writer: u8) -> u64 {
    run * IDS_PER_RUN + u64::from(writer) * IDS_PER_WRITER
}

impl Writers {
    /// Starts one writer on `at` for each of `numbers`, which no other writer of the run has, spread over the proxies.
    pub fn start(
        at: &Vantage,
        proxies: &[SocketAddr],
        account: &Account,
        run: u64,
        numbers: Range<u8>,
    ) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicU64::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for (writer, addr) in numbers.zip(proxies.iter().cycle()) {
            let first = first_id(run, writer);
            tasks.spawn_on(write(*addr, account.clone(), first, stop.clone(), acked.clone()), at.handle());
        }
        Writers { stop, tasks, acked }
    }

    /// Writes acknowledged so far, over all writers.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Lets every writer finish its statement and collects what they saw.
    pub async fn finish(mut self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Ledger::default();
        while let Some(one) = self.tasks.join_next().await {
            let Ok(one) = one else { continue };
            all.add(one);
        }
        all
    }
}

async fn write(
    addr: SocketAddr,
    account: Account,
    first: u64,
    stop: Arc<AtomicBool>,
    total: Arc<AtomicU64>,
) -> Ledger {
    let mut ledger = Ledger::default();
    let mut client: Option<Client> = None;
    let mut id = first;
    while !stop.load(Ordering::Relaxed) {
        let mut c = match client.take() {
            Some(c) => c,
            None => match Client::connect(addr, &account).await {
                Ok(c) => c,
                Err(e) => {
                    note(&mut ledger, format!("connect: {e}"));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            },
        };
        id += 1;
        match tokio::time::timeout(STATEMENT, c.write(id)).await {
            Ok(Ok(())) => {
                ledger.acked.push((id, Instant::now()));
                total.fetch_add(1, Ordering::Relaxed);
                client = Some(c);
            }
            Ok(Err(e)) => {
                if !e.not_executed() {
                    ledger.unknown.insert(id);
                }
                note(&mut ledger, e.to_string());
                client = e.is_answer().then_some(c);
            }
            Err(_) => {
                ledger.unknown.insert(id);
                note(&mut ledger, format!("no answer within {} s", STATEMENT.as_secs()));
            }
        }
    }
    if let Some(c) = client {
        c.disconnect().await;
    }
    ledger
}

fn note(ledger: &mut Ledger, error: String) {
    if ledger.errors.len() < ERRORS_KEPT {
        ledger.errors.push(error);
    }
}
