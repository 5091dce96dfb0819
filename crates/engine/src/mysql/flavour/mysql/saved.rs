//! What only a returning MySQL has: its errant transactions (S10).
//!
//! Guarantees: each is counted once, from the log itself; nothing that the present history has is in the file.
//! Does not know: the log's format. `mysqlbinlog` reads it, and leaves out what the history has.

use super::{Programs, Save, position};
use crate::SAVED_IDS_MAX;
use crate::mysql::{binlog_index, datadir, io, rewind};
use crate::{Error, Saved};
use holdfast_core::position::GtidSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BINLOG: &str = "mysqlbinlog";
/// The statement that would give a transaction its old id again.
const NEXT: &[u8] = b"SET @@SESSION.GTID_NEXT= '";
const PREVIOUS: &str = "Previous-GTIDs";
/// The lines of one comment that names what came before a file.
const PREVIOUS_LINES_MAX: usize = 100_000;
/// A line of SQL as the tool prints it is no longer than a packet's worth of it.
const LINE_BYTES_MAX: u64 = 2 << 30;

pub(super) fn save(job: &Save) -> Result<Option<Saved>, Error> {
    let theirs = position(&job.theirs)?;
    let index = binlog_index::files(&job.index).map_err(io("reading", &job.index))?;
    // From the newest back, as far as there may be something.
    let mut files: Vec<PathBuf> = Vec::new();
    let mut complete = index.is_empty();
    for file in index.iter().rev() {
        files.insert(0, file.clone());
        if before(&job.programs, file)?.without(theirs).count() == 0 {
            complete = true;
            break;
        }
    }
    if files.is_empty() {
        return Ok(None);
    }
    std::fs::create_dir_all(&job.at.saved).map_err(io("creating", &job.at.saved))?;
    let part = job.at.saved.join("saving.part");
    let written = write_sql(&job.programs, &files, theirs, &part)?;
    let (Some(first), Some(last)) = (written.first.first(), &written.last) else {
        std::fs::remove_file(&part).map_err(io("removing", &part))?;
        // Only what the log no longer has.
        return Ok((!complete).then(|| Saved {
            path: job.at.saved.clone(),
            transactions: 0,
            unit: "transactions",
            ids: Vec::new(),
            complete: false,
        }));
    };
    let content = std::fs::read(&part).map_err(io("reading", &part))?;
    let name = [first, last].map(|g| g.replace(':', "-")).join("--");
    let path = rewind::place(&job.at.saved, &name, "sql", &content)?;
    std::fs::remove_file(&part).map_err(io("removing", &part))?;
    Ok(Some(Saved { path, transactions: written.count, unit: "transactions", ids: written.first, complete }))
}

/// The ids of what was written down. There may be millions.
#[derive(Default)]
struct Written {
    count: u64,
    /// [`SAVED_IDS_MAX`] of them.
    first: Vec<String>,
    last: Option<String>,
}

impl Written {
    fn add(&mut self, gtid: String) {
        self.count += 1;
        if self.first.len() < SAVED_IDS_MAX {
            self.first.push(gtid.clone());
        }
        self.last = Some(gtid);
    }
}

/// What was in the log before this file.
fn before(programs: &Programs, file: &Path) -> Result<GtidSet, Error> {
    let mut tool = Command::new(programs.path(BINLOG));
    tool.arg("--no-defaults").arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = tool.spawn().map_err(io("running", Path::new(BINLOG)))?;
    let out = child.stdout.take().expect("it was asked for");
    let mut text = String::new();
    let mut seen = false;
    for line in BufReader::new(out).split(b'\n').take(PREVIOUS_LINES_MAX) {
        let line = String::from_utf8_lossy(&line.map_err(io("reading", file))?).into_owned();
        match line.strip_prefix("# ") {
            Some(rest) if seen && !rest.starts_with("at ") => text.push_str(rest),
            _ if seen => break,
            _ => seen = line.contains(PREVIOUS),
        }
    }
    // It has said what was asked for, and may have gigabytes more to say.
    let _ = child.kill();
    let _ = child.wait();
    if !seen {
        return Err(Error::Log(format!("{} does not say what came before it", file.display())));
    }
    let text = if text == "[empty]" { "" } else { &text };
    text.parse().map_err(|e| Error::Log(format!("{}: {e}", file.display())))
}

/// Everything of `files` that `theirs` lacks, as SQL with the rows spelled out in comments, without the statements that
/// would give each transaction its old id again: a server that has gone on would ignore it.
fn write_sql(programs: &Programs, files: &[PathBuf], theirs: &GtidSet, to: &Path) -> Result<Written, Error> {
    let words = datadir::sibling(to, ".words");
    let log = std::fs::File::create(&words).map_err(io("creating", &words))?;
    let mut tool = Command::new(programs.path(BINLOG));
    tool.args(["--no-defaults", "--verbose"]).arg(format!("--exclude-gtids={theirs}")).args(files);
    let spawned = tool.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
    let mut child = spawned.map_err(io("running", Path::new(BINLOG)))?;
    let mut from = BufReader::with_capacity(256 << 10, child.stdout.take().expect("it was asked for"));
    let mut filter = || -> std::io::Result<Written> {
        let mut out = std::io::BufWriter::new(std::fs::File::create(to)?);
        let mut written = Written::default();
        let mut line = Vec::new();
        while from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? > 0 {
            match line.strip_prefix(NEXT).and_then(|rest| rest.split(|b| *b == b'\'').next()) {
                Some(gtid) if gtid != b"AUTOMATIC" => {
                    written.add(String::from_utf8_lossy(gtid).into_owned());
                    out.write_all(b"# was ")?;
                    out.write_all(gtid)?;
                    out.write_all(b"\n")?;
                }
                _ => out.write_all(&line)?,
            }
            line.clear();
        }
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        Ok(written)
    };
    let written = filter().map_err(io("saving", to));
    let status = child.wait().map_err(io("waiting for", Path::new(BINLOG)))?;
    let said = datadir::last_lines(&std::fs::read(&words).unwrap_or_default());
    std::fs::remove_file(&words).map_err(io("removing", &words))?;
    match written {
        Ok(written) if status.success() => Ok(written),
        Ok(_) => Err(Error::Program { program: BINLOG.into(), words: said }),
        Err(e) => Err(e),
    }
}
