//! Opening and closing for writes (S3).
//!
//! Guarantees: after [`MySqlEngine::fence`] succeeds no client is connected and none can write; nothing that an
//! earlier verb left in flight can open the engine again. Semi-sync is never touched here.
//! Does not know: when to kill; an error says that it is time to.

use super::sql::{Table, server_error};
use super::{MySqlEngine, STATEMENT};
use crate::Error;
use holdfast_core::{Position, limits};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The engine refreshes its list of transactions no more often than every 100 ms.
const TRANSACTIONS_POLL: Duration = Duration::from_millis(105);
/// Single statements are looked at so often.
const STATEMENTS_POLL: Duration = Duration::from_millis(4);
/// How long single statements are given to end before anybody looks.
const DRAIN_SETTLE: Duration = Duration::from_millis(15);
/// Statements that a read-only engine refuses are over this soon.
const ANSWER_POLL: Duration = Duration::from_millis(3);
/// A login between two hosts is over by then: a few round trips and a signature.
const LOGIN: Duration = Duration::from_millis(150);
const LOGIN_POLL: Duration = Duration::from_millis(3);
/// A fence statement gets at least this, so that a spent deadline still says what it failed at.
const SLICE_MIN: Duration = Duration::from_millis(1);

/// Where a commit waits for a replica.
const ACK_WAIT: &str = "Waiting for semi-sync ACK";
/// The server's number for it.
pub(super) const NO_SUCH_CONNECTION: u16 = 1094;

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(SLICE_MIN)
}

impl MySqlEngine {
    pub(super) async fn fence(&self, within: Duration) -> Result<Position, Error> {
        self.require_running()?;
        // What could not be written to the log may be in the data already: only a restart brings both together again.
        self.has_room(limits::DISK_FULL_BYTES)?;
        let until = Instant::now() + within;
        // An `open` that was given up must not take effect after us.
        self.sessions.act.settle("ending an earlier verb", left(until)).await?;
        let fence = &self.sessions.fence;
        self.cut_clients(left(until)).await?;
        // Waits for running commits, so also behind one that waits for an acknowledgement. A lock wait that is given
        // up here must not linger: the engine could otherwise close itself in a later epoch.
        fence.run("making it read-only", self.flavour.make_read_only(), left(until)).await?;
        // Those that slipped in between.
        self.cut_clients(left(until)).await?;
        let tables = fence.run("reading the final position", self.flavour.positions(), left(until)).await?;
        self.flavour.read_positions(&tables)
    }

    pub(super) async fn close_gently(&self, within: Duration) -> Result<(), Error> {
        self.require_running()?;
        let until = Instant::now() + within;
        self.sessions.act.settle("ending an earlier verb", left(until)).await?;
        self.sessions.fence.run("refusing writes", self.flavour.make_read_only(), left(until)).await?;
        while self.work_under_way().await?.iter().any(|work| work.query.is_some()) && Instant::now() < until {
            sleep(ANSWER_POLL).await;
        }
        Ok(())
    }

    /// Who is still logging in may be a replica that follows already; cut, it would try again only in a second. Bounded.
    pub(super) async fn let_logins_end(&self) -> Result<(), Error> {
        let until = Instant::now() + LOGIN;
        loop {
            let sql = self.flavour.clients();
            let tables = self.sessions.fence.run("listing clients", sql, STATEMENT).await?;
            let unknown = |t: &Table| {
                (0..t.rows.len()).any(|row| t.cell(row, "user").is_none_or(|u| u == "unauthenticated user"))
            };
            if !tables.iter().any(unknown) || Instant::now() >= until {
                return Ok(());
            }
            sleep(LOGIN_POLL).await;
        }
    }

    /// Cuts all clients but those whose commit waits for an acknowledgement: cutting these would commit them.
    pub(super) async fn cut_clients(&self, within: Duration) -> Result<(), Error> {
        let until = Instant::now() + within;
        let fence = &self.sessions.fence;
        let tables = fence.run("listing clients", self.flavour.clients(), left(until)).await?;
        let own = self.sessions.ids();
        let mut cut = Vec::new();
        for table in &tables {
            for row in 0..table.rows.len() {
                let Some(id) = table.number::<u32>(row, "id") else { continue };
                // A replica that is just connecting would try again only in a second.
                let replica = table.cell(row, "user") == Some(self.spec.replication.user.as_str());
                let waits = table.cell(row, "state").is_some_and(|s| s.starts_with(ACK_WAIT));
                if !waits && !replica && !own.contains(&id) {
                    cut.push(id);
                }
            }
        }
        while !cut.is_empty() {
            match fence.run("cutting clients", self.flavour.kill(&cut), left(until)).await {
                Ok(_) => break,
                // That one left by itself. Those before it are cut.
                Err(e) => {
                    let gone = server_error(&e).filter(|(code, _)| *code == NO_SUCH_CONNECTION);
                    let gone = gone.and_then(|(_, text)| text.rsplit(' ').next()?.parse::<u32>().ok());
                    let at = gone.and_then(|gone| cut.iter().position(|id| *id == gone)).ok_or(e)?;
                    cut.drain(..=at);
                }
            }
        }
        Ok(())
    }

    pub(super) async fn unfence(&self) -> Result<(), Error> {
        let sql = format!("SELECT @@global.server_id AS server_id; {}", self.flavour.replication());
        let tables = self.act("looking before opening", sql).await?;
        let (id, replication) = tables.split_first().ok_or_else(|| Error::Log("nothing was shown".into()))?;
        if self.flavour.read_replication(replication)?.is_some() {
            return Err(Error::Precondition("it still is a replica: promote it first".into()));
        }
        if id.number(0, "server_id") != self.state().writer_id {
            return Err(Error::Precondition("it was not promoted since it started or replicated".into()));
        }
        self.act("opening", self.flavour.make_writable()).await?;
        Ok(())
    }

    /// Waits for what is under way now, not for what begins meanwhile: clients that are connected directly would
    /// otherwise put off a handover for as long as they are busy.
    pub(super) async fn wait_for_clients(&self, within: Duration) -> Result<u32, Error> {
        let until = Instant::now() + within;
        self.wait_for_statements(within.min(TRANSACTIONS_POLL)).await?;
        let mut open = self.work_under_way().await?;
        let mut list_at = Instant::now() + TRANSACTIONS_POLL;
        while !open.is_empty() && Instant::now() + STATEMENTS_POLL <= until {
            sleep(STATEMENTS_POLL).await;
            if Instant::now() >= list_at {
                let now = self.work_under_way().await?;
                open.retain(|work| now.iter().any(|n| n.is(work)));
                list_at = Instant::now() + TRANSACTIONS_POLL;
            } else {
                let (active, statements) = self.active_transactions().await?;
                open.retain(|work| !active.as_ref().is_some_and(|a| work.is_over(a, &statements)));
            }
        }
        Ok(open.len() as u32)
    }

    /// By InnoDB's own account, which unlike the list of transactions is of now: each active transaction's number and
    /// connection, or nothing if that cannot be told; and the statements that run.
    async fn active_transactions(&self) -> Result<(Option<Vec<(u64, u32)>>, Vec<Work>), Error> {
        // First: a statement that begins a transaction after this is still seen in that.
        let statements = self.statements().await?;
        let sql = "SHOW ENGINE INNODB STATUS";
        let tables = self.sessions.fence.run("looking at transactions", sql, STATEMENT).await?;
        let active = tables.first().and_then(|t| t.cell(0, "Status")).and_then(active_in);
        Ok((active, statements))
    }

    /// What is a single statement ends before anybody looks at the list of transactions, which is as old as its last
    /// reading: proxies have just been told to begin nothing new.
    async fn wait_for_statements(&self, within: Duration) -> Result<(), Error> {
        let until = Instant::now() + within;
        sleep(DRAIN_SETTLE.min(within)).await;
        let mut running = self.statements().await?;
        while !running.is_empty() && Instant::now() + STATEMENTS_POLL <= until {
            sleep(STATEMENTS_POLL).await;
            let now = self.statements().await?;
            running.retain(|work| now.iter().any(|n| n.is(work)));
        }
        Ok(())
    }

    /// Running statements, but for those that only wait for an acknowledgement.
    async fn statements(&self) -> Result<Vec<Work>, Error> {
        self.require_running()?;
        let sql = format!("{}{}", self.flavour.clients(), self.flavour.busy());
        let tables = self.sessions.fence.run("listing statements", sql, STATEMENT).await?;
        let [statements] = &tables[..] else {
            return Err(Error::Log("one result set was expected".into()));
        };
        let own = self.sessions.ids();
        let running = Running::read(statements).filter(|r| !r.waits_for_ack && !own.contains(&r.id));
        Ok(running.map(|r| Work { id: r.id, query: Some(r.query), trx: None, started: None }).collect())
    }

    /// Open transactions, and running statements outside of any. Not those that only wait for an acknowledgement:
    /// closing waits for these.
    async fn work_under_way(&self) -> Result<Vec<Work>, Error> {
        self.require_running()?;
        let sql = format!(
            "SELECT trx_mysql_thread_id AS id, trx_id AS trx, trx_started AS started FROM information_schema.INNODB_TRX \
             WHERE trx_mysql_thread_id <> 0 AND trx_autocommit_non_locking = 0; {}{}",
            self.flavour.clients(),
            self.flavour.busy()
        );
        let tables = self.sessions.fence.run("listing open transactions", sql, STATEMENT).await?;
        let [transactions, statements] = &tables[..] else {
            return Err(Error::Log("two result sets were expected".into()));
        };
        let own = self.sessions.ids();
        let mut open: BTreeMap<u32, Work> = BTreeMap::new();
        for row in 0..transactions.rows.len() {
            let Some(id) = transactions.number(row, "id") else { continue };
            let trx = transactions.number(row, "trx").filter(|n| (1..UNASSIGNED_FROM).contains(n));
            let started = transactions.cell(row, "started").map(str::to_owned);
            open.insert(id, Work { id, query: None, trx, started });
        }
        for running in Running::read(statements) {
            if running.waits_for_ack {
                open.remove(&running.id);
            } else {
                let id = running.id;
                let work = open.entry(id).or_insert(Work { id, query: None, trx: None, started: None });
                work.query = Some(running.query);
            }
        }
        Ok(open.into_values().filter(|work| !own.contains(&work.id)).collect())
    }
}

/// A statement under way.
struct Running {
    id: u32,
    query: u64,
    waits_for_ack: bool,
}

impl Running {
    fn read(table: &Table) -> impl Iterator<Item = Running> {
        (0..table.rows.len()).filter_map(|row| {
            let waits_for_ack = table.cell(row, "state").is_some_and(|s| s.starts_with(ACK_WAIT));
            Some(Running { id: table.number(row, "id")?, query: table.number(row, "query")?, waits_for_ack })
        })
    }
}

/// What a connection is doing: a running statement, an open transaction, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Work {
    id: u32,
    /// The statement's number.
    query: Option<u64>,
    /// The transaction's number, once it has written.
    trx: Option<u64>,
    /// When the transaction began, in whole seconds.
    started: Option<String>,
}

/// A transaction that has written nothing is listed as 0 or with a number from here on, which is not its own.
const UNASSIGNED_FROM: u64 = 1 << 48;

/// Number and connection of each active transaction of `SHOW ENGINE INNODB STATUS`; `None` if not all are there: of a long
/// list the server leaves a part out.
fn active_in(status: &str) -> Option<Vec<(u64, u32)>> {
    let list = status.split_once("LIST OF TRANSACTIONS").map(|(_, list)| list);
    let list = list.filter(|_| !status.contains("... truncated..."))?;
    let mut all = Vec::new();
    for transaction in list.split("---TRANSACTION ").skip(1).filter(|t| {
        let first = t.lines().next().unwrap_or_default();
        !first.contains("not started")
    }) {
        // As in `…, ACTIVE 0 sec` and, some lines below, `MariaDB thread id 4, OS thread handle …`.
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let number = digits(transaction).parse().unwrap_or(0);
        if let Some((_, id)) = transaction.split_once(" thread id ") {
            all.push((number, digits(id).parse().ok()?));
        }
    }
    Some(all)
}

impl Work {
    /// Its transaction is not among the `active` ones, or it was none and its statement has ended without beginning one.
    fn is_over(&self, active: &[(u64, u32)], statements: &[Work]) -> bool {
        match (self.trx, active.iter().find(|(_, id)| *id == self.id)) {
            (Some(trx), now) => now.is_none_or(|(n, _)| *n != trx),
            (None, Some(_)) => false,
            (None, None) => !statements.iter().any(|s| s.id == self.id && s.query == self.query),
        }
    }
    /// Still the same: the same statement, or the same transaction, which gets its number when it first writes.
    fn is(&self, before: &Work) -> bool {
        let same = match (self.trx, before.trx) {
            (Some(now), Some(then)) => now == then,
            _ => self.started.is_some() && self.started == before.started,
        };
        self.id == before.id && (same || self.query.is_some() && self.query == before.query)
    }
}

#[cfg(test)]
mod tests {
    use super::{Work, active_in};

    #[test]
    fn work_is_told_from_what_comes_after_it() {
        let work = |query, trx, started: Option<&str>| Work {
            id: 7,
            query,
            trx,
            started: started.map(str::to_owned),
        };
        let statement = work(Some(1), None, None);
        let within = work(Some(1), None, Some("12:00:00"));
        assert!(within.is(&statement), "it began its transaction");
        let wrote = work(None, Some(9), Some("12:00:00"));
        assert!(wrote.is(&within), "it got its number");
        assert!(!work(None, Some(10), Some("12:00:00")).is(&wrote), "the next one, in the same second");
        assert!(!work(Some(2), None, None).is(&statement), "the next statement");
        assert!(!work(Some(2), None, None).is(&wrote), "a statement after the transaction");
        assert!(!Work { id: 8, ..wrote.clone() }.is(&wrote), "another's");
    }

    #[test]
    fn what_innodb_calls_active_is_waited_for() {
        let status = "---\nTRANSACTIONS\nLIST OF TRANSACTIONS FOR EACH SESSION:\n\
            ---TRANSACTION 421, not started\n0 lock struct(s)\n\
            ---TRANSACTION 19, ACTIVE 0 sec\n1 lock struct(s)\nMariaDB thread id 4, OS thread handle 13, query id 8\n\
            ---TRANSACTION 20, ACTIVE (PREPARED) 1 sec\nMySQL thread id 7, OS thread handle 14\n--------\nFILE I/O";
        let active = active_in(status).unwrap();
        assert_eq!(active, [(19, 4), (20, 7)]);
        assert!(
            active_in("LIST OF TRANSACTIONS\n... truncated...\n").is_none(),
            "one may have been left out"
        );
        assert!(active_in("").is_none(), "nothing was said");
        let work = |id, query, trx| Work { id, query, trx, started: None };
        let running = [work(5, Some(30), None)];
        let over = |w: Work| w.is_over(&active, &running);
        assert!(!over(work(4, None, Some(19))) && !over(work(7, Some(1), Some(20))));
        assert!(over(work(4, None, Some(18))), "its connection is in the next one");
        assert!(over(work(5, Some(30), Some(18))), "committed, and not answered yet");
        assert!(!over(work(5, Some(30), None)), "it still runs");
        assert!(over(work(5, Some(29), None)), "the statement was all there was");
        assert!(!over(work(4, Some(29), None)), "it began a transaction");
    }
}
