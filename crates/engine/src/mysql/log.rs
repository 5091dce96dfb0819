//! The log as a stream, for the archive.
//!
//! Guarantees: events come byte for byte as they are in the log's files, those that no replica has acknowledged yet too.
//! The reader is no replica to the primary: it never acknowledges and is in no list of replicas.
//! Does not know: what the events are.

use super::flavour;
use super::raw::{Raw, Refused, accepted};
use super::{MySqlEngine, STATEMENT, STATEMENT_MS};
use crate::{Error, LogFrom, LogPart, LogStream};
use async_trait::async_trait;
use holdfast_core::Position;
use holdfast_wire::dump;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::timeout;

/// A log whose server has said nothing for this long, not even that it has nothing to say, is cut off.
pub const LOG_SILENT_MS: u64 = 10_000;
/// The servers' words for a log that lacks what was asked for: purged, or never there. The number (1236) is that of any error
/// of reading.
const LACKS: [&str; 2] = ["purged", "not in the master's binlog"];
const DOING: &str = "reading the log of";

impl MySqlEngine {
    pub(super) async fn stream_log(&self, have: Option<&Position>) -> Result<LogFrom, Error> {
        let sql = format!(
            "{}; SELECT @@version AS version, @@global.server_id AS server_id",
            self.flavour.positions()
        );
        let tables = self.act("looking before reading the log", sql).await?;
        let all = self.flavour.read_positions(&tables)?;
        let from = have.map_or_else(|| all.clone(), |have| have.common(&all));
        let is = tables.last().ok_or_else(|| Error::Log("it does not say what it is".into()))?;
        let (version, server_id) =
            (is.cell(0, "version").unwrap_or_default().to_owned(), is.number(0, "server_id").unwrap_or(0));
        let before = self.flavour.before_log(&from)?;
        let request = self.flavour.log_request(flavour::archiver_id(self.spec.server_id), &from)?;
        let (addr, account) = (self.spec.listen, &self.spec.replication);
        let begin = async {
            let mut raw = Raw::connect(addr, account.user.as_str(), &account.password).await?;
            raw.execute(&before).await?;
            raw.command(&request).await?;
            Ok(raw)
        };
        let late = |_| Error::Unresponsive { doing: "asking for the log", after_ms: STATEMENT_MS };
        let raw = timeout(STATEMENT, begin).await.map_err(late)?.map_err(|e| failure(addr, e))?;
        Ok(LogFrom { from, version, server_id, stream: Box::new(Stream { raw, addr, within: false }) })
    }
}

struct Stream {
    raw: Raw,
    addr: SocketAddr,
    /// More of the present event comes.
    within: bool,
}

#[async_trait]
impl LogStream for Stream {
    async fn next(&mut self) -> Result<LogPart, Error> {
        let mut bytes = Vec::new();
        let read = timeout(Duration::from_millis(LOG_SILENT_MS), self.raw.frame(&mut bytes)).await;
        let late = |_| Error::Unresponsive { doing: DOING, after_ms: LOG_SILENT_MS };
        let more = read.map_err(late)?.map_err(|e| failure(self.addr, e))?;
        let begins = !std::mem::replace(&mut self.within, more);
        if begins {
            match bytes.first() {
                Some(&dump::EVENT) => _ = bytes.remove(0),
                Some(&dump::END) => return Err(Error::Log("the server ended it".into())),
                _ => {
                    accepted(&bytes).map_err(|e| failure(self.addr, e))?;
                    return Err(Error::Log("something came that is no event".into()));
                }
            }
        }
        Ok(LogPart { bytes, begins, ends: !more })
    }
}

fn failure(addr: SocketAddr, e: io::Error) -> Error {
    match e.get_ref().and_then(|e| e.downcast_ref::<Refused>()) {
        Some(refused) if LACKS.iter().any(|words| refused.text.contains(words)) => {
            Error::LogLacks(refused.text.clone())
        }
        _ => Error::Io { doing: DOING, path: addr.to_string().into(), source: e },
    }
}
