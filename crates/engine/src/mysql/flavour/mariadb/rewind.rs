//! What only a returning MariaDB has, and what its crash recovery cut off (S10).
//!
//! Guarantees: transactions are counted one by one from the log itself; a copy of what a crash recovery cuts off stays
//! until it has been judged against a history.
//!
//! The rewinding itself is the engine's crash recovery, told at the start to roll back what was in the log and never
//! acknowledged ([`super::Recovery`]).

use super::binlog::{self, Scan, Transaction};
use super::{POSITIONS, Save, position};
use crate::SAVED_IDS_MAX;
use crate::mysql::flavour::{Flavour as _, Programs};
use crate::mysql::rewind::place;
use crate::mysql::{Layout, MySqlEngine, STATEMENT, binlog_index, blocking, datadir, io};
use crate::{Error, Saved};
use holdfast_core::Position;
use holdfast_core::position::MariaDbPosition;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BINLOG: &str = "mariadb-binlog";
/// How many of the newest log files a recovery may cut into. It starts at the last checkpoint, which a server that
/// runs keeps in the newest file or, around a rotation, the one before.
const TAIL_FILES: usize = 2;
/// Copies kept unjudged over several crashes; beyond that the start refuses rather than forgets.
const PENDING_COPIES_MAX: usize = 64;

/// Before a start that may cut the log: copies its newest files if it was not closed in order. Blocks.
pub(super) fn set_tail_aside(at: &Layout) -> Result<(), Error> {
    let index = at.data.join("binlog.index");
    let files = binlog_index::files(&index).map_err(io("reading", &index))?;
    let Some(last) = files.last() else { return Ok(()) };
    let crashed = match binlog::scan(last, |_| false) {
        Ok(scan) => scan.in_use,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::Log(e.to_string())),
    };
    if !crashed {
        return Ok(());
    }
    let pending = at.pending();
    fs::create_dir_all(&pending).map_err(io("creating", &pending))?;
    let there = fs::read_dir(&pending).map_err(io("listing", &pending))?.count();
    if there + TAIL_FILES > PENDING_COPIES_MAX {
        return Err(Error::Precondition(format!(
            "{} holds {there} log copies of crashes that no history was compared with yet",
            pending.display()
        )));
    }
    for file in &files[files.len().saturating_sub(TAIL_FILES)..] {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // A copy, not a link: recovery truncates in place.
        let to = (0..).map(|n| pending.join(format!("{n:03}.{name}"))).find(|p| !p.exists());
        let to = to.expect("the copies are fewer than the numbers");
        let part = to.with_extension("part");
        let copy = || fs::copy(file, &part).and_then(|_| File::open(&part)?.sync_all());
        copy().and_then(|()| fs::rename(&part, &to)).map_err(io("copying aside", file))?;
    }
    datadir::sync_dir(&pending)
}

fn pending_files(at: &Layout) -> Result<Vec<PathBuf>, Error> {
    let pending = at.pending();
    let mut out = Vec::new();
    match fs::read_dir(&pending) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(out),
        Err(e) => return Err(io("listing", &pending)(e)),
        Ok(entries) => {
            for entry in entries {
                out.push(entry.map_err(io("listing", &pending))?.path());
            }
        }
    }
    out.retain(|p| p.extension().is_none_or(|e| e != "part"));
    out.sort();
    Ok(out)
}

/// After a start: drops the copies if nothing was cut off; else says how much waits to be judged. Their GTIDs.
pub(super) async fn judge_recovery(engine: &MySqlEngine) -> Result<BTreeSet<String>, Error> {
    let tables = engine.sessions.act.run("reading positions", POSITIONS, STATEMENT).await?;
    let ours = position(&super::MariaDb.read_positions(&tables)?)?.clone();
    let at = engine.at.clone();
    let cut = blocking(move || {
        let only = Only::find(&pending_files(&at)?, &[], &ours)?;
        if only.gtids.is_empty() {
            datadir::remove_dir(&at.pending())?;
        }
        Ok(BTreeSet::from_iter(only.gtids))
    })
    .await?;
    engine.state().unjudged_transactions = cut.len() as u64;
    Ok(cut)
}

pub(super) fn save(job: &Save) -> Result<Option<Saved>, Error> {
    let live = binlog_index::files(&job.index).map_err(io("reading", &job.index))?;
    let only = Only::find(&pending_files(&job.at)?, &live, position(&job.theirs)?)?;
    if only.gtids.is_empty() { Ok(None) } else { only.save(&job.at, &job.programs).map(Some) }
}

/// Transactions that a history lacks, with where their bytes are.
struct Only {
    files: Vec<(PathBuf, Scan)>,
    /// Ids in the order of the log, each once.
    gtids: Vec<String>,
    complete: bool,
}

impl Only {
    /// Looks through the copies and, from the newest file back, through the live log as far as needed.
    fn find(copies: &[PathBuf], live: &[PathBuf], theirs: &MariaDbPosition) -> Result<Only, Error> {
        let scan =
            |p: &PathBuf| binlog::scan(p, |t| !t.within(theirs)).map_err(|e| Error::Log(e.to_string()));
        let mut newest_first = Vec::new();
        let mut complete = live.is_empty();
        for path in live.iter().rev() {
            let scanned = scan(path)?;
            let all_theirs_before = scanned
                .before
                .as_ref()
                .is_some_and(|b| Position::MariaDb(theirs.clone()).contains(&Position::MariaDb(b.clone())));
            newest_first.push((path.clone(), scanned));
            if all_theirs_before {
                complete = true;
                break;
            }
        }
        let mut files = Vec::new();
        for path in copies {
            files.push((path.clone(), scan(path)?));
        }
        files.extend(newest_first.into_iter().rev());
        let mut out = Only { files: Vec::new(), gtids: Vec::new(), complete };
        let mut seen = BTreeSet::new();
        for (path, mut scanned) in files {
            let new = |t: &Transaction| seen.insert((t.domain, t.server, t.sequence));
            scanned.transactions.retain(new);
            out.gtids.extend(scanned.transactions.iter().map(Transaction::gtid));
            if !scanned.transactions.is_empty() {
                out.files.push((path, scanned));
            }
        }
        Ok(out)
    }

    /// Writes them down.
    fn save(&self, at: &Layout, programs: &Programs) -> Result<Saved, Error> {
        fs::create_dir_all(&at.saved).map_err(io("creating", &at.saved))?;
        let raw = at.saved.join("saving.part");
        self.write_log(&raw).map_err(io("saving", &raw))?;
        let bytes = text_of(&raw, programs).ok();
        let content = match &bytes {
            Some(text) => text.clone(),
            None => fs::read(&raw).map_err(io("reading", &raw))?,
        };
        let (first, last) = (self.gtids.first(), self.gtids.last());
        let name = [first, last].map(|g| g.map_or("", String::as_str)).join("--");
        let extension = if bytes.is_some() { "sql" } else { "binlog" };
        let path = place(&at.saved, &name, extension, &content)?;
        fs::remove_file(&raw).map_err(io("removing", &raw))?;
        Ok(Saved {
            path,
            transactions: self.gtids.len() as u64,
            unit: "transactions",
            ids: self.gtids.iter().take(SAVED_IDS_MAX).cloned().collect(),
            complete: self.complete,
        })
    }

    /// A binary log of just these transactions, byte for byte, behind the format events of the files they are from.
    fn write_log(&self, to: &Path) -> std::io::Result<()> {
        let mut out = std::io::BufWriter::new(File::create(to)?);
        out.write_all(b"\xfebin")?;
        for (path, scan) in &self.files {
            let mut from = File::open(path)?;
            let ranges =
                std::iter::once(scan.format).chain(scan.transactions.iter().map(|t| (t.start, t.end)));
            for (start, end) in ranges {
                from.seek(SeekFrom::Start(start))?;
                std::io::copy(&mut (&mut from).take(end - start), &mut out)?;
            }
        }
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    }
}

/// The log as SQL, with the rows spelled out in comments.
fn text_of(raw: &Path, programs: &Programs) -> Result<Vec<u8>, Error> {
    let output = Command::new(programs.path(BINLOG))
        .args(["--no-defaults", "--verbose", "--skip-gtid-strict-mode"])
        .arg(raw)
        .stdin(Stdio::null())
        .output()
        .map_err(io("running", Path::new(BINLOG)))?;
    if output.status.success() {
        return Ok(without_numbers(&output.stdout));
    }
    Err(Error::Program { program: BINLOG.into(), words: datadir::last_lines(&output.stderr) })
}

/// Without the statements that would give each transaction its old number again: a server that has gone on refuses
/// them. The numbers stay readable in the comments.
fn without_numbers(sql: &[u8]) -> Vec<u8> {
    let numbers = |line: &&[u8]| {
        let set = line.strip_prefix(b"/*!100001 ").unwrap_or(line);
        ["gtid_domain_id", "gtid_seq_no", "server_id"]
            .iter()
            .any(|name| set.starts_with(format!("SET @@session.{name}=").as_bytes()))
    };
    sql.split_inclusive(|b| *b == b'\n').filter(|line| !numbers(line)).collect::<Vec<_>>().concat()
}
