//! Hot backups: what a running server is, its files as a stream, and what makes them ready to start on.
//!
//! Guarantees: a stream counts only if [`HotBackup::finish`] says so: the program ended without an error and said that
//! it was done. The program ends with us. Nothing is changed on the server, and no copy is staged on disk.
//! Does not know: where the stream goes.

use super::flavour::mariadb::{self as flavour, MariaDb};
use super::sql::{Session, Table};
use super::{STATEMENT, datadir, io};
use crate::Error;
use crate::spawn;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A table of many gigabytes is read through within this.
const READING: Duration = Duration::from_secs(6 * 3_600);
/// Written by the program when all is well, as the last line of its log.
const DONE: &str = "completed OK!";
/// Files in the stream that say where in the history the copy stands, by the names of different versions.
pub const POSITION_FILES: [&str; 2] = ["xtrabackup_binlog_info", "mariadb_backup_binlog_info"];
const DESCRIBE: &str = "SELECT @@version AS version, @@datadir AS datadir, @@read_only AS read_only, \
    @@gtid_binlog_state AS state";
/// What holds data. A table with history is of a type of its own; a view holds none.
const TABLES: &str = "SELECT table_schema AS s, table_name AS t FROM information_schema.tables \
    WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') \
    AND table_schema NOT IN ('information_schema', 'performance_schema', 'sys') ORDER BY table_schema, table_name";
/// Tables of one row, which is no data of anybody's: they are checked only.
const SEQUENCES: &str = "SELECT table_schema AS s, table_name AS t FROM information_schema.tables \
    WHERE table_type = 'SEQUENCE' ORDER BY table_schema, table_name";

/// A running server, reached by its Unix socket with the OS user's own account.
pub struct Source {
    session: Session,
    socket: PathBuf,
    user: String,
}

/// What a [`Source`] says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub version: String,
    pub data_dir: PathBuf,
    pub writable: bool,
    /// Everything it has, as GTIDs of every domain and server.
    pub state: String,
}

/// A table, as a reader finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// `schema.table`.
    pub table: String,
    pub rows: u64,
    /// Of the engine's own `CHECKSUM TABLE`; `None` if that table has none.
    pub checksum: Option<u64>,
}

impl Source {
    pub fn new(socket: &Path) -> Result<Source, Error> {
        let user = datadir::user_name_of(rustix::process::getuid().as_raw())?;
        Ok(Source { session: Session::new(socket, &user, &MariaDb), socket: socket.to_owned(), user })
    }

    pub async fn describe(&self) -> Result<Described, Error> {
        let tables = self.session.run("asking what it is", DESCRIBE, STATEMENT).await?;
        let cell = |name| tables.first().and_then(|t| t.cell(0, name)).unwrap_or_default().to_owned();
        Ok(Described {
            version: cell("version"),
            data_dir: cell("datadir").into(),
            writable: cell("read_only") == "0",
            state: cell("state"),
        })
    }

    /// All tables that hold data, as `schema.table`.
    pub async fn tables(&self) -> Result<Vec<String>, Error> {
        Ok(names(&self.session).await?.into_iter().map(|(s, t)| format!("{s}.{t}")).collect())
    }

    /// Reads every table through. Other clients go on meanwhile.
    pub async fn count(&self) -> Result<Vec<Counted>, Error> {
        count(&self.session).await
    }

    /// Begins the stream. `scratch` is a directory of its own for small files; it is removed at the end. Call it from
    /// a thread that lives until the stream has ended.
    pub fn stream(&self, scratch: &Path) -> Result<HotBackup, Error> {
        datadir::remove_dir(scratch)?;
        std::fs::create_dir_all(scratch).map_err(io("creating", scratch))?;
        let log_path = scratch.join("log");
        let log = std::fs::File::create(&log_path).map_err(io("creating", &log_path))?;
        let mut command = Command::new(flavour::BACKUP);
        command
            .args(["--no-defaults", "--backup", "--stream=xbstream", "--parallel=2"])
            .arg(format!("--target-dir={}", scratch.join("target").display()))
            .arg(format!("--tmpdir={}", scratch.display()))
            .arg(format!("--socket={}", self.socket.display()))
            .arg(format!("--user={}", self.user))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = spawn::spawn(command).map_err(io("running", Path::new(flavour::BACKUP)))?;
        let stream = child.stdout.take();
        if let Some(stream) = &stream {
            // Fewer switches between the two programs; the default of 64 KiB serves as well.
            let _ = rustix::pipe::fcntl_setpipe_size(stream, PIPE_BYTES);
        }
        Ok(HotBackup { child, stream, log: log_path, scratch: scratch.to_owned() })
    }
}

const PIPE_BYTES: usize = 1 << 20;

/// A stream in the xbstream format. Dropping it ends the program.
pub struct HotBackup {
    child: Child,
    stream: Option<ChildStdout>,
    log: PathBuf,
    scratch: PathBuf,
}

impl Read for HotBackup {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.stream.as_mut().map_or(Ok(0), |s| s.read(into))
    }
}

impl HotBackup {
    /// After the last byte: whether it was a backup.
    pub fn finish(mut self) -> Result<(), Error> {
        drop(self.stream.take());
        let status = self.child.wait().map_err(io("waiting for", Path::new(flavour::BACKUP)))?;
        let log = std::fs::read(&self.log).map_err(io("reading", &self.log))?;
        let last = log.trim_ascii_end().rsplit(|b| *b == b'\n').next().unwrap_or_default();
        if status.success() && last.ends_with(DONE.as_bytes()) {
            return Ok(());
        }
        Err(Error::Program { program: flavour::BACKUP.into(), words: datadir::last_lines(&log) })
    }
}

impl Drop for HotBackup {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// The GTIDs at which a copy stands, from the content of one of [`POSITION_FILES`].
pub fn position_in(text: &str) -> Option<String> {
    let gtids = text.lines().next()?.split('\t').nth(2)?.trim();
    (!gtids.is_empty()).then(|| gtids.to_owned())
}

/// Makes a restored directory one that a server can start on.
pub async fn prepare(dir: &Path, tmp: &Path) -> Result<(), Error> {
    let output = tokio::process::Command::new(flavour::BACKUP)
        .args(["--no-defaults", "--prepare"])
        .arg(format!("--target-dir={}", dir.display()))
        .arg(format!("--tmpdir={}", tmp.display()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(io("running", Path::new(flavour::BACKUP)))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Program { program: flavour::BACKUP.into(), words: datadir::last_lines(&output.stderr) })
}

/// Gives a restored directory to an OS user.
pub fn give_to(dir: &Path, user: &str) -> Result<(), Error> {
    let (uid, gid) = datadir::ids_of(user)?;
    datadir::give_away(dir, uid, gid)
}

pub(super) async fn names(session: &Session) -> Result<Vec<(String, String)>, Error> {
    named(session, TABLES).await
}

pub(super) async fn sequences(session: &Session) -> Result<Vec<(String, String)>, Error> {
    named(session, SEQUENCES).await
}

async fn named(session: &Session, sql: &'static str) -> Result<Vec<(String, String)>, Error> {
    let tables = session.run("listing its tables", sql, READING).await?;
    let row = |row: &Vec<Option<String>>| match row.as_slice() {
        [Some(schema), Some(table)] => Some((schema.clone(), table.clone())),
        _ => None,
    };
    Ok(tables.first().map(|t| t.rows.iter().filter_map(row).collect()).unwrap_or_default())
}

async fn count(session: &Session) -> Result<Vec<Counted>, Error> {
    let mut counted = Vec::new();
    for (schema, table) in names(session).await? {
        counted.push(count_one(session, &schema, &table).await?);
    }
    Ok(counted)
}

pub(super) async fn count_one(session: &Session, schema: &str, table: &str) -> Result<Counted, Error> {
    let name = format!("{}.{}", identifier(schema), identifier(table));
    let sql = format!("SELECT COUNT(*) AS n FROM {name}; CHECKSUM TABLE {name}");
    let tables = session.run("reading a table", sql, READING).await?;
    let rows = tables.first().and_then(|t| t.number(0, "n"));
    let rows = rows.ok_or_else(|| Error::Precondition(format!("{schema}.{table} was not counted")))?;
    let checksum = tables.get(1).and_then(|t: &Table| t.number(0, "Checksum"));
    Ok(Counted { table: format!("{schema}.{table}"), rows, checksum })
}

pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_is_the_third_field() {
        assert_eq!(position_in("binlog.000002\t1234\t0-1-7,1-2-9\n").as_deref(), Some("0-1-7,1-2-9"));
        assert_eq!(position_in("binlog.000002\t1234\t\n"), None);
        assert_eq!(position_in("binlog.000002 1234"), None);
        assert_eq!(position_in(""), None);
    }

    #[test]
    fn identifiers_leave_no_way_out() {
        assert_eq!(identifier("a`b"), "`a``b`");
    }
}
