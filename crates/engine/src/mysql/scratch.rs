//! A server on a restored copy, to see whether it would work: nobody but us can reach it.
//!
//! Guarantees: it listens on a Unix socket only, replicates from nobody but a log that it is told to replay
//! ([`replay`](super::replay)), and ends with us. Does not know: whose copy it is.

use super::backup::{self, Counted};
use super::flavour::mariadb::{self as flavour, MariaDb};
use super::process::Process;
use super::sql::Session;
use super::{START_MS, STATEMENT, datadir, io};
use crate::{Error, links};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const READY_POLL: Duration = Duration::from_millis(20);
const STOP: Duration = Duration::from_secs(60);
const CHECK: Duration = Duration::from_secs(6 * 3_600);
/// What the copy's own options file says and a server needs to know.
const COPIED: [&str; 6] = [
    "innodb_page_size",
    "innodb_data_file_path",
    "innodb_undo_tablespaces",
    "innodb_checksum_algorithm",
    "innodb_log_block_size",
    "lower_case_table_names",
];

/// See the module.
pub struct Scratch {
    process: Process,
    pub(super) session: Session,
    log: PathBuf,
}

/// What a check of one table found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    pub counted: Counted,
    /// What the engine has against it.
    pub complaint: Option<String>,
}

impl Scratch {
    /// Starts a server on `data`, a prepared copy. `work` is an empty directory with a short path.
    pub async fn start(data: &Path, work: &Path) -> Result<Scratch, Error> {
        Scratch::start_with(data, work, &[]).await
    }

    pub(super) async fn start_with(data: &Path, work: &Path, more: &[String]) -> Result<Scratch, Error> {
        // Through a link that leads elsewhere it would write to the files of a server that runs.
        if let Some(link) = links::first_outside(data).map_err(io("looking through", data))? {
            return Err(Error::BadSpec(format!(
                "{} leads out of the copy; nothing was started",
                link.display()
            )));
        }
        let (socket, log) = (work.join("s"), work.join("log"));
        let me = datadir::user_name_of(rustix::process::getuid().as_raw())?;
        let stderr = std::fs::File::create(&log).map_err(io("creating", &log))?;
        let mut command = Command::new(flavour::SERVER);
        command.arg("--no-defaults").arg(format!("--datadir={}", data.display())).arg(format!("--user={me}"));
        command.arg(format!("--socket={}", socket.display())).arg(format!("--tmpdir={}", work.display()));
        command.arg(format!("--pid-file={}", work.join("pid").display()));
        command.args(["--skip-networking", "--skip-grant-tables", "--skip-slave-start", "--read-only=1"]);
        command.args(["--event-scheduler=DISABLED", "--skip-log-bin", "--innodb-buffer-pool-size=64M"]);
        command.args(more);
        for (name, value) in options_of(data) {
            command.arg(format!("--{name}={value}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let process = Process::new(true);
        process.start(command).await.map_err(io("starting", Path::new(flavour::SERVER)))?;
        let scratch = Scratch { process, session: Session::new(&socket, &me, &MariaDb), log };
        scratch.until_ready().await?;
        Ok(scratch)
    }

    async fn until_ready(&self) -> Result<(), Error> {
        let until = Instant::now() + Duration::from_millis(START_MS);
        loop {
            if self.process.running().is_none() {
                let said = std::fs::read(&self.log).unwrap_or_default();
                let text = String::from_utf8_lossy(&said);
                let errors: Vec<&str> = text.lines().filter(|l| l.contains("[ERROR]")).collect();
                let words = if errors.is_empty() { text.into_owned() } else { errors.join("\n") };
                return Err(Error::RefusesToStart { words: datadir::last_lines(words.as_bytes()) });
            }
            match self.session.run("starting", "SELECT 1", STATEMENT).await {
                Ok(_) => return Ok(()),
                Err(_) if Instant::now() < until => sleep(READY_POLL).await,
                Err(_) => return Err(Error::Unresponsive { doing: "starting", after_ms: START_MS }),
            }
        }
    }

    /// All tables that hold data: schema and name.
    pub async fn tables(&self) -> Result<Vec<(String, String)>, Error> {
        backup::names(&self.session).await
    }

    /// All sequences: schema and name.
    pub async fn sequences(&self) -> Result<Vec<(String, String)>, Error> {
        backup::sequences(&self.session).await
    }

    /// Lets the engine check a table, and reads it through.
    pub async fn examine(&self, schema: &str, table: &str) -> Result<Examined, Error> {
        let complaint = self.check(schema, table).await?;
        if complaint.is_some() {
            let counted = Counted { table: format!("{schema}.{table}"), rows: 0, checksum: None };
            return Ok(Examined { counted, complaint });
        }
        let counted = backup::count_one(&self.session, schema, table).await?;
        Ok(Examined { counted, complaint })
    }

    /// What the engine has against a table or sequence.
    pub async fn check(&self, schema: &str, table: &str) -> Result<Option<String>, Error> {
        let name = format!("{}.{}", backup::identifier(schema), backup::identifier(table));
        let said = self.session.run("checking a table", format!("CHECK TABLE {name}"), CHECK).await?;
        let rows = said.first().map_or(0, |t| t.rows.len());
        let complaints = (0..rows).filter_map(|row| {
            let cell = |name| said.first().and_then(|t| t.cell(row, name));
            let fine = matches!(cell("Msg_type"), Some("status" | "note"))
                && !cell("Msg_text").is_some_and(|t| t.contains("corrupt") || t.contains("failed"));
            (!fine).then(|| cell("Msg_text").unwrap_or("not said").to_owned())
        });
        let complaints: Vec<String> = complaints.collect();
        Ok((!complaints.is_empty()).then(|| complaints.join("; ")))
    }

    pub async fn stop(self) -> Result<(), Error> {
        // The answer may be lost with the server.
        let _ = self.session.run("stopping", "SHUTDOWN", STATEMENT).await;
        self.process.ended(STOP).await
    }
}

/// The options that the copy was taken with, of those that must be the same.
fn options_of(data: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(data.join("backup-my.cnf")).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let pairs = pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    pairs.filter(|(name, value)| COPIED.contains(&name.as_str()) && !value.is_empty()).collect()
}
