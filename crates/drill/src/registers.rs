//! A register in each of a few rows, written and read by clients of the proxies at the same time, and whether what they
//! saw could have happened one after the other (linearizability), by a checker that knows nothing of databases.
//!
//! A write whose outcome is unknown may have happened at any time since, or never: it is open until the end. What was
//! refused as not executed, and reads that failed, say nothing.

use crate::client::{Client, Error};
use crate::ground::Vantage;
use crate::ledger::Account;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use todc_utils::specifications::register::{RegisterOperation, RegisterSpecification};
use todc_utils::{Action, History, WGLChecker};
use tokio::time::Instant;

type Operation = RegisterOperation<u64>;

/// One operation on one row: when it was sent, and when its answer came; `None`: its outcome is unknown.
#[derive(Debug, Clone)]
struct Call {
    row: u64,
    operation: Operation,
    sent: Instant,
    answered: Option<Instant>,
}

/// Running clients.
pub struct Registers {
    stop: Arc<AtomicBool>,
    tasks: tokio::task::JoinSet<Vec<Call>>,
}

const ROWS: u64 = 4;
const CLIENTS: u64 = 3;
/// The checker's time grows with the square of a row's history.
const PACE: Duration = Duration::from_millis(15);
const CALLS_MAX: usize = 1_500;
const STATEMENT: Duration = Duration::from_secs(20);

impl Registers {
    /// Rows of `run`, all 0 at first.
    pub async fn start(
        at: &Vantage,
        proxies: &[SocketAddr],
        account: &Account,
        run: u64,
    ) -> Result<Registers, Error> {
        let (proxy, who) = (proxies[0], account.clone());
        at.run(async move { prepare(proxy, &who, run).await }).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for (client, addr) in (1..=CLIENTS).zip(proxies.iter().cycle()) {
            let client = Caller { addr: *addr, account: account.clone(), run, client, stop: stop.clone() };
            tasks.spawn_on(client.run(), at.handle());
        }
        Ok(Registers { stop, tasks })
    }

    /// Ends the clients. `Err`: the rows whose history has no order.
    pub async fn finish(mut self) -> Result<usize, Vec<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        while let Some(one) = self.tasks.join_next().await {
            calls.extend(one.unwrap_or_default());
        }
        let seen = calls.len();
        let checked = tokio::task::spawn_blocking(move || disordered(&calls)).await;
        match checked.unwrap_or_default() {
            rows if rows.is_empty() => Ok(seen),
            rows => Err(rows),
        }
    }
}

async fn prepare(addr: SocketAddr, account: &Account, run: u64) -> Result<(), Error> {
    let mut client = Client::connect(addr, account).await?;
    client.prepare().await?;
    for row in 0..ROWS {
        client.make_register(run * ROWS + row).await?;
    }
    client.disconnect().await;
    Ok(())
}

struct Caller {
    addr: SocketAddr,
    account: Account,
    run: u64,
    client: u64,
    stop: Arc<AtomicBool>,
}

impl Caller {
    async fn run(self) -> Vec<Call> {
        let mut calls = Vec::new();
        let mut conn = None;
        let mut turn = self.client;
        while !self.stop.load(Ordering::Relaxed) && calls.len() < CALLS_MAX {
            tokio::time::sleep(PACE).await;
            let mut c: Client = match conn.take() {
                Some(c) => c,
                None => match Client::connect(self.addr, &self.account).await {
                    Ok(c) => c,
                    Err(_) => continue,
                },
            };
            turn += 1;
            let row = self.run * ROWS + turn % ROWS;
            let writes = (turn / ROWS).is_multiple_of(2);
            let (call, usable) = if writes {
                self.write(&mut c, row, turn * CLIENTS + self.client).await
            } else {
                read(&mut c, row).await
            };
            calls.extend(call);
            conn = usable.then_some(c);
        }
        calls
    }

    async fn write(&self, conn: &mut Client, row: u64, value: u64) -> (Option<Call>, bool) {
        let sent = Instant::now();
        let call = |answered| Some(Call { row, operation: RegisterOperation::Write(value), sent, answered });
        match tokio::time::timeout(STATEMENT, conn.set_register(row, value)).await {
            Ok(Ok(())) => (call(Some(Instant::now())), true),
            Ok(Err(e)) if e.not_executed() => (None, e.is_answer()),
            Ok(Err(_)) | Err(_) => (call(None), false),
        }
    }
}

async fn read(conn: &mut Client, row: u64) -> (Option<Call>, bool) {
    let sent = Instant::now();
    match tokio::time::timeout(STATEMENT, conn.register(row)).await {
        Ok(Ok(value)) => {
            // A row that is gone has no value that was ever written.
            let operation = RegisterOperation::Read(Some(value.unwrap_or(u64::MAX)));
            (Some(Call { row, operation, sent, answered: Some(Instant::now()) }), true)
        }
        Ok(Err(_)) | Err(_) => (None, false),
    }
}

/// Rows whose history has no order. Every call is a process of its own: the checker needs to know only what overlaps.
fn disordered(calls: &[Call]) -> Vec<u64> {
    let mut rows: Vec<u64> = calls.iter().map(|c| c.row).collect();
    rows.sort_unstable();
    rows.dedup();
    rows.retain(|row| {
        let mut moments = Vec::new();
        for (process, call) in calls.iter().filter(|c| c.row == *row).enumerate() {
            moments.push((Some(call.sent), process, Action::Call(call.operation)));
            moments.push((call.answered, process, Action::Response(call.operation)));
        }
        // What is unknown ends after everything else.
        moments.sort_by_key(|(at, _, _)| (at.is_none(), *at));
        let actions = moments.into_iter().map(|(_, process, action)| (process, action)).collect();
        !WGLChecker::<RegisterSpecification<u64>>::is_linearizable(History::from_actions(actions))
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: Operation, sent: u64, answered: Option<u64>) -> Call {
        let start = Instant::now();
        // One origin for all: tests compare only calls of one history.
        static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let at = |ms| *ORIGIN.get_or_init(|| start) + Duration::from_millis(ms);
        Call { row: 1, operation, sent: at(sent), answered: answered.map(at) }
    }

    #[test]
    fn a_stale_read_has_no_place_in_any_order() {
        let write = |v, sent, answered| call(RegisterOperation::Write(v), sent, answered);
        let read = |v, sent, answered| call(RegisterOperation::Read(Some(v)), sent, Some(answered));
        assert!(disordered(&[write(5, 0, Some(10)), read(0, 5, 6), read(5, 7, 8)]).is_empty());
        assert_eq!(disordered(&[write(5, 0, Some(10)), read(5, 11, 12), read(0, 13, 14)]), [1]);
        // Unknown: may be seen late, or never.
        assert!(disordered(&[write(5, 0, None), read(0, 20, 21), read(5, 22, 23)]).is_empty());
        assert!(disordered(&[write(5, 0, None), read(0, 20, 21)]).is_empty());
        assert_eq!(disordered(&[write(5, 0, None), read(5, 20, 21), read(0, 22, 23)]), [1]);
    }
}
