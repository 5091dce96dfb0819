//! Bringing a copy forward: a server on it replays a log that is sent to it as a primary would.
//!
//! Guarantees: the server takes transactions from this one sender, and remembers in the copy itself how far it came; nothing
//! of the replication is left in the copy afterwards. Does not know: which transactions those are.

use super::scratch::Scratch;
use super::sql::quote;
use super::{STATEMENT, io};
use crate::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// No server of a group has it, so none of their transactions seems to be the copy's own.
const SERVER_ID: u32 = u32::MAX;
/// What its files in the copy begin with.
const FILES: &str = "holdfast-replay-";
/// The sender has its own pace.
const SILENT_S: u32 = 31_536_000;
/// Received and not yet applied; then the sender waits.
const RELAY_BYTES: u64 = 1 << 30;

/// A transaction that is being applied when it ends is rolled back.
const END: Duration = Duration::from_secs(600);

/// How far a replay has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The last transaction of each domain.
    pub position: String,
    /// Why it goes no further.
    pub error: Option<String>,
}

impl Scratch {
    /// A server that is to replay.
    pub async fn start_replaying(data: &Path, work: &Path) -> Result<Scratch, Error> {
        // Where there is room for a database; taken away at the end.
        let file = |name: &str| data.join(format!("{FILES}{name}")).display().to_string();
        let options = [
            format!("--server-id={SERVER_ID}"),
            format!("--slave-net-timeout={SILENT_S}"),
            format!("--relay-log={}", file("relay")),
            format!("--relay-log-index={}", file("relay.index")),
            format!("--relay-log-info-file={}", file("relay.info")),
            format!("--master-info-file={}", file("source.info")),
            format!("--relay-log-space-limit={RELAY_BYTES}"),
            // What a crash would lose is done again: the copy is thrown away then.
            "--innodb-flush-log-at-trx-commit=0".to_owned(),
            "--sync-relay-log=0".to_owned(),
            "--slave-parallel-threads=4".to_owned(),
            "--slave-parallel-mode=optimistic".to_owned(),
            "--max-allowed-packet=1G".to_owned(),
            "--slave-max-allowed-packet=1G".to_owned(),
        ];
        Scratch::start_with(data, work, &options).await
    }

    /// Begins to take a log that goes on after `position`, the last transaction of each domain.
    pub async fn replay(
        &self,
        position: &str,
        sender: SocketAddr,
        user: &str,
        password: &str,
    ) -> Result<(), Error> {
        // From here on it knows its accounts, so that transactions which change them can be replayed. This connection may
        // go on.
        let sql = format!(
            "FLUSH PRIVILEGES; SET GLOBAL gtid_slave_pos={}; CHANGE MASTER TO MASTER_HOST={}, MASTER_PORT={}, \
             MASTER_USER={}, MASTER_PASSWORD={}, MASTER_USE_GTID=slave_pos, MASTER_SSL=0, MASTER_CONNECT_RETRY=1; \
             START SLAVE",
            quote(position),
            quote(&sender.ip().to_string()),
            sender.port(),
            quote(user),
            quote(password)
        );
        self.session.run("beginning to replay", sql, STATEMENT).await.map(|_| ())
    }

    pub async fn replayed(&self) -> Result<Replayed, Error> {
        let sql = "SELECT @@global.gtid_slave_pos AS position; SHOW SLAVE STATUS";
        let tables = self.session.run("looking how far it is", sql, STATEMENT).await?;
        let cell = |table: usize, name| tables.get(table).and_then(|t| t.cell(0, name));
        let stopped = cell(1, "Slave_SQL_Running") == Some("No");
        let said = ["Last_SQL_Error", "Last_IO_Error"].map(|name| cell(1, name).unwrap_or_default());
        let refused = cell(1, "Slave_IO_Running") == Some("No");
        let words = said.iter().find(|words| !words.is_empty()).copied().unwrap_or("it stopped");
        Ok(Replayed {
            position: cell(0, "position").unwrap_or_default().to_owned(),
            error: (stopped || refused).then(|| words.to_owned()),
        })
    }

    /// Ends the replay and the server; afterwards the copy follows nobody.
    pub async fn replay_ended(self, data: &Path) -> Result<(), Error> {
        self.session.run("ending the replay", "STOP SLAVE; RESET SLAVE ALL", END).await?;
        self.stop().await?;
        for entry in std::fs::read_dir(data).map_err(io("looking through", data))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(FILES) {
                std::fs::remove_file(entry.path()).map_err(io("removing", &entry.path()))?;
            }
        }
        Ok(())
    }
}
