//! Opening and closing for writes (S3).
//!
//! Guarantees: after [`MySqlEngine::fence`] succeeds no client is connected and none can write; nothing that an
//! earlier verb left in flight can open the engine again. Semi-sync is never touched here.
//! Does not know: when to kill; an error says that it is time to.

use super::sql::server_error;
use super::{MySqlEngine, STATEMENT};
use crate::Error;
use holdfast_core::Position;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The engine refreshes its list of transactions no more often than every 100 ms.
const TRANSACTIONS_POLL: Duration = Duration::from_millis(105);
/// How long single statements are given to end before the first look for transactions.
const DRAIN_SETTLE: Duration = Duration::from_millis(15);
/// A fence statement gets at least this, so that a spent deadline still says what it failed at.
const SLICE_MIN: Duration = Duration::from_millis(1);

/// Where a commit waits for a replica.
const ACK_WAIT: &str = "Waiting for semi-sync ACK";
/// The server's number for it.
pub(super) const NO_SUCH_CONNECTION: u16 = 1094;

impl MySqlEngine {
    pub(super) async fn fence(&self, within: Duration) -> Result<Position, Error> {
        self.require_running()?;
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now()).max(SLICE_MIN);
        // An `open` that was given up must not take effect after us.
        self.sessions.act.settle("ending an earlier verb", left()).await?;
        let fence = &self.sessions.fence;
        self.cut_clients(left()).await?;
        // Waits for running commits, so also behind one that waits for an acknowledgement. A lock wait that is given
        // up here must not linger: the engine could otherwise close itself in a later epoch.
        fence.run("making it read-only", self.flavour.make_read_only(), left()).await?;
        // Those that slipped in between.
        self.cut_clients(left()).await?;
        let tables = fence.run("reading the final position", self.flavour.positions(), left()).await?;
        self.flavour.read_positions(&tables)
    }

    /// Cuts all clients but those whose commit waits for an acknowledgement: cutting these would commit them.
    pub(super) async fn cut_clients(&self, within: Duration) -> Result<(), Error> {
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now()).max(SLICE_MIN);
        let fence = &self.sessions.fence;
        let tables = fence.run("listing clients", self.flavour.clients(), left()).await?;
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
            match fence.run("cutting clients", self.flavour.kill(&cut), left()).await {
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
        // The list is as old as its last refresh, so the first look should be worth it: proxies have just been told to
        // begin nothing new, and what is a single statement has ended by then.
        sleep(DRAIN_SETTLE.min(within)).await;
        let mut open = self.work_under_way().await?;
        while !open.is_empty() && Instant::now() + TRANSACTIONS_POLL <= until {
            sleep(TRANSACTIONS_POLL).await;
            let now = self.work_under_way().await?;
            open.retain(|work| now.contains(work));
        }
        Ok(open.len() as u32)
    }

    /// Open transactions, and running statements outside of any. Not those that only wait for an acknowledgement:
    /// closing waits for these.
    async fn work_under_way(&self) -> Result<BTreeSet<Work>, Error> {
        self.require_running()?;
        let sql = format!(
            "SELECT trx_mysql_thread_id AS id, trx_id AS work FROM information_schema.INNODB_TRX WHERE trx_mysql_thread_id <> 0; \
             {}{}",
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
            let (id, work) = (transactions.number(row, "id"), transactions.cell(row, "work"));
            if let (Some(id), Some(work)) = (id, work) {
                open.insert(id, Work::Transaction(id, work.to_string()));
            }
        }
        for row in 0..statements.rows.len() {
            let (id, query) = (statements.number(row, "id"), statements.number(row, "query"));
            let (Some(id), Some(query)) = (id, query) else { continue };
            if statements.cell(row, "state").is_some_and(|s| s.starts_with(ACK_WAIT)) {
                open.remove(&id);
            } else {
                open.entry(id).or_insert(Work::Statement(id, query));
            }
        }
        Ok(open.into_iter().filter(|(id, _)| !own.contains(id)).map(|(_, work)| work).collect())
    }
}

/// What a connection is doing, distinct from what it does next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Transaction(u32, String),
    Statement(u32, u64),
}
