//! Sessions with the engine: bounded in time, never left in doubt.
//!
//! Guarantees: a statement that did not finish in time keeps its connection busy and is killed on the server; the
//! connection is not used again until the server has answered. So at most one statement per session is ever in
//! flight, and none takes effect behind the back of a later one on the same session.
//! Does not know: what the statements mean.

use super::flavour::Flavour;
use crate::Error;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, Row, Value};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// One result set, as text.
#[derive(Debug, Default, Clone)]
pub(super) struct Table {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<Option<String>>>,
}

impl Table {
    /// A cell by column name; `None` if NULL or absent.
    pub(super) fn cell(&self, row: usize, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|c| c.eq_ignore_ascii_case(column))?;
        self.rows.get(row)?.get(at)?.as_deref()
    }
    pub(super) fn number<T: std::str::FromStr>(&self, row: usize, column: &str) -> Option<T> {
        self.cell(row, column)?.parse().ok()
    }
    pub(super) fn on(&self, row: usize, column: &str) -> bool {
        matches!(self.cell(row, column), Some("1" | "ON" | "Yes"))
    }
}

type Outcome = Result<Vec<Table>, mysql_async::Error>;
type Finished = (Option<Conn>, Outcome);

#[derive(Default)]
struct Slot {
    idle: Option<Conn>,
    busy: Option<JoinHandle<Finished>>,
}

/// One connection, made when needed.
pub(super) struct Session {
    opts: mysql_async::Opts,
    slot: Mutex<Slot>,
    /// Connection id of the statement in flight or of the idle connection.
    id: Arc<SyncMutex<Option<u32>>>,
}

/// How long a kill of a late statement may take.
const KILL_MS: u64 = 500;

impl Session {
    pub(super) fn new(socket: &Path, user: &str, flavour: &dyn Flavour) -> Session {
        let opts = OptsBuilder::default()
            .user(Some(user))
            .socket(Some(socket.to_string_lossy()))
            .prefer_socket(true)
            .stmt_cache_size(0)
            .max_allowed_packet(Some(64 << 20))
            .wait_timeout(Some(28_800))
            .setup(vec![flavour.session()]);
        Session { opts: opts.into(), slot: Mutex::default(), id: Arc::default() }
    }

    pub(super) fn connection_id(&self) -> Option<u32> {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one or more statements; all their result sets.
    pub(super) async fn run(
        &self,
        doing: &'static str,
        sql: impl Into<String>,
        within: Duration,
    ) -> Result<Vec<Table>, Error> {
        let until = Instant::now() + within;
        let late = || Error::Unresponsive { doing, after_ms: within.as_millis() as u64 };
        let mut slot = timeout_at(until, self.slot.lock()).await.map_err(|_| late())?;
        if let Some(busy) = slot.busy.as_mut() {
            let ended = timeout_at(until, busy).await;
            if ended.is_err() {
                return Err(late());
            }
            slot.busy = None;
            slot.idle = ended.ok().and_then(Result::ok).and_then(|(conn, _)| conn);
        }
        let conn = slot.idle.take();
        let task = execute(self.opts.clone(), conn, self.id.clone(), sql.into());
        // Kept in the slot while it runs, so that a caller who is cancelled leaves it accounted for.
        let ended = timeout_at(until, slot.busy.insert(tokio::spawn(task))).await;
        match ended {
            Ok(finished) => {
                slot.busy = None;
                let interrupted = |_| Error::Precondition(format!("{doing} was interrupted by a shutdown"));
                let (conn, outcome) = finished.map_err(interrupted)?;
                slot.idle = conn;
                outcome.map_err(|e| sql_error(doing, e))
            }
            Err(_) => {
                self.cancel();
                Err(late())
            }
        }
    }

    /// Ends the statement in flight, if there is one, and waits until it is over: nothing of this session takes
    /// effect afterwards.
    pub(super) async fn settle(&self, doing: &'static str, within: Duration) -> Result<(), Error> {
        let until = Instant::now() + within;
        let late = || Error::Unresponsive { doing, after_ms: within.as_millis() as u64 };
        if let Ok(mut slot) = self.slot.try_lock() {
            if slot.busy.is_none() {
                return Ok(());
            }
            if slot.busy.as_ref().is_some_and(JoinHandle::is_finished) {
                slot.busy = None;
                return Ok(());
            }
        }
        self.cancel();
        let mut slot = timeout_at(until, self.slot.lock()).await.map_err(|_| late())?;
        if let Some(busy) = slot.busy.as_mut() {
            if timeout_at(until, busy).await.is_err() {
                return Err(late());
            }
            slot.busy = None;
        }
        Ok(())
    }

    /// Asks the server, on a connection of its own, to end this session's connection.
    fn cancel(&self) {
        let Some(id) = self.connection_id() else { return };
        let opts = self.opts.clone();
        tokio::spawn(async move {
            let kill = async {
                let mut conn = Conn::new(opts).await?;
                conn.query_drop(format!("KILL CONNECTION {id}")).await?;
                conn.disconnect().await
            };
            if tokio::time::timeout(Duration::from_millis(KILL_MS), kill).await.is_err() {
                tracing::debug!(id, "the engine did not take the kill of a late statement");
            }
        });
    }

    /// Drops the connection. After the process has ended.
    pub(super) async fn reset(&self) {
        let mut slot = self.slot.lock().await;
        if let Some(busy) = slot.busy.take() {
            busy.abort();
        }
        slot.idle = None;
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

async fn execute(
    opts: mysql_async::Opts,
    conn: Option<Conn>,
    id: Arc<SyncMutex<Option<u32>>>,
    sql: String,
) -> Finished {
    let conn = match conn {
        Some(conn) => Ok(conn),
        None => Conn::new(opts).await,
    };
    let mut conn = match conn {
        Ok(conn) => conn,
        Err(e) => return (None, Err(e)),
    };
    *id.lock().unwrap_or_else(PoisonError::into_inner) = Some(conn.id());
    let outcome = tables(&mut conn, &sql).await;
    // After an error that is not the server's word on the statement, the connection is of no use.
    let usable = matches!(outcome, Ok(_) | Err(mysql_async::Error::Server(_)));
    if !usable {
        *id.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
    (usable.then_some(conn), outcome)
}

async fn tables(conn: &mut Conn, sql: &str) -> Outcome {
    let mut result = conn.query_iter(sql).await?;
    let mut out = Vec::new();
    loop {
        let columns = result.columns_ref().iter().map(|c| c.name_str().into_owned()).collect();
        let rows: Vec<Row> = result.collect().await?;
        out.push(Table { columns, rows: rows.into_iter().map(texts).collect() });
        if result.is_empty() {
            return Ok(out);
        }
    }
}

fn texts(row: Row) -> Vec<Option<String>> {
    let text = |v| match v {
        Value::NULL => None,
        Value::Bytes(b) => Some(String::from_utf8_lossy(&b).into_owned()),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    };
    row.unwrap_raw().into_iter().map(|v| v.and_then(text)).collect()
}

fn sql_error(doing: &'static str, e: mysql_async::Error) -> Error {
    match e {
        mysql_async::Error::Io(mysql_async::IoError::Io(ref io))
            if matches!(io.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) =>
        {
            Error::NotRunning
        }
        e => Error::Failed { doing, source: Box::new(e) },
    }
}

/// The server's own error number and words, if it is that kind of failure.
pub(super) fn server_error(e: &Error) -> Option<(u16, &str)> {
    match e {
        Error::Failed { source, .. } => match source.downcast_ref() {
            Some(mysql_async::Error::Server(s)) => Some((s.code, &s.message)),
            _ => None,
        },
        _ => None,
    }
}

/// A string literal. The sessions run without NO_BACKSLASH_ESCAPES.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\0' => out.push_str("\\0"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// The connections of this driver, apart by purpose so that one that hangs does not hold up the others.
pub(super) struct Sessions {
    /// Looks only.
    pub(super) watch: Session,
    /// Verbs that change something.
    pub(super) act: Session,
    /// Fencing.
    pub(super) fence: Session,
}

impl Sessions {
    pub(super) fn new(socket: &Path, user: &str, flavour: &dyn Flavour) -> Sessions {
        let one = || Session::new(socket, user, flavour);
        Sessions { watch: one(), act: one(), fence: one() }
    }
    pub(super) fn ids(&self) -> BTreeSet<u32> {
        [&self.watch, &self.act, &self.fence].into_iter().filter_map(Session::connection_id).collect()
    }
    pub(super) async fn reset(&self) {
        for session in [&self.watch, &self.act, &self.fence] {
            session.reset().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn quoting_leaves_no_way_out() {
        assert_eq!(super::quote(r"it's \ x"), r"'it''s \\ x'");
    }
}
