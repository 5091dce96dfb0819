//! What only a returning instance has: found, counted and kept before anything is discarded (S10).
//!
//! Where its process lived on, its own replication log tells exactly: the commands after the last common one. Where the
//! log does not reach that far back, or went with a process, the data itself is kept whole, and what differs from the
//! primary's is counted key by key.
//!
//! Guarantees: the file exists, durably, before its count is told. The instance takes no client's write meanwhile.
//! Does not know: whether the loss is acceptable.

use super::observe::Look;
use super::session::{Batch, Conn, Door};
use super::settings::{NOWHERE, SHUT};
use super::tail::Tail;
use super::{RedisEngine, accounts, blocking, compare, io};
use crate::{Error, Saved, files};
use holdfast_core::position::{HistoryId, RedisPosition};
use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// A log that says nothing for this long is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// Writing all data to a file may take this long.
const DUMP: Duration = Duration::from_secs(600);
/// What is counted where not all could be compared.
const AT_MOST: &str = "keys at most";
const DUMP_POLL: Duration = Duration::from_millis(20);

/// The part of the own log that nobody else has.
#[derive(Debug, Clone, Copy)]
struct Own {
    history: HistoryId,
    /// The last byte that both have.
    common: u64,
    end: u64,
    /// The first byte that the log still holds.
    kept_from: u64,
    database: Option<u32>,
}

impl RedisEngine {
    pub(super) async fn save_what_only_we_have(
        &self,
        theirs: &RedisPosition,
    ) -> Result<Option<Saved>, Error> {
        let look = self.look_raw("looking for what only this instance has").await?;
        if look.is_writable()? {
            return Err(Error::Precondition("it is writable: close it first (S3)".into()));
        }
        let Some(ours) = self.position_of(&look)? else {
            return Err(Error::Precondition("it does not know where in history its data stands".into()));
        };
        if holdfast_core::Position::Redis(theirs.clone())
            .contains(&holdfast_core::Position::Redis(ours.clone()))
        {
            return Ok(None);
        }
        let shared = ours.histories().filter_map(|(id, end)| Some(theirs.known(id)?.min(end)));
        let own = match shared.max() {
            Some(common) => self.own_log(&look, &ours, common)?,
            None => None,
        };
        match own {
            Some(own) => self.save_log(&look, own).await.map(Some),
            None => self.save_all(&look, &ours).await.map(Some),
        }
    }

    /// The own log after `common`, if it is there from then on.
    fn own_log(&self, look: &Look, ours: &RedisPosition, common: u64) -> Result<Option<Own>, Error> {
        let i = &look.info;
        if !i.on("repl_backlog_active")? {
            return Ok(None);
        }
        let kept_from: u64 = i.number("repl_backlog_first_byte_offset")?;
        // A stream begins with database 0, and says so only when it changes.
        let only_first = i.databases().iter().all(|(database, _)| *database == 0);
        Ok((kept_from <= common + 1).then_some(Own {
            history: i.history("master_replid")?,
            common,
            end: ours.offset(),
            kept_from,
            database: only_first.then_some(0),
        }))
    }

    /// Reads the log as a replica would. Only a primary gives it, so the server is one for that time; it refuses writes.
    async fn save_log(&self, look: &Look, own: Own) -> Result<Saved, Error> {
        let doing = "reading the own replication log";
        let part = self.at.saved.join("reading.part");
        let file = secret_file(&part)?;
        if !look.is_primary()? {
            let shut = ["CONFIG", "SET", "min-replicas-to-write", SHUT, "min-replicas-max-lag", "10"];
            self.act(doing, Batch::new(&shut).and(&["REPLICAOF", "NO", "ONE"])).await?;
        }
        let read = self.read_log(own, BufWriter::new(file)).await;
        let port = NOWHERE.1.to_string();
        let close = Batch::new(&["REPLICAOF", NOWHERE.0, &port]);
        self.act(doing, close.and(&["CONFIG", "SET", "min-replicas-to-write", "0"])).await?;
        let (commands, names) = read?;
        let name = format!("{}-{}-{}", &own.history.to_string()[..8], own.common, own.end);
        let path = self.place(part, &name, "resp").await?;
        Ok(Saved { path, transactions: commands, unit: "commands", ids: names, complete: true })
    }

    async fn read_log(&self, own: Own, out: BufWriter<File>) -> Result<(u64, Vec<String>), Error> {
        let doing = "reading the own replication log";
        let failed = |source: std::io::Error| Error::Failed { doing, source: Box::new(source) };
        let mut conn = Conn::open(&self.door()).await.map_err(failed)?;
        conn.ask(&Batch::new(&["REPLCONF", "capa", "eof", "capa", "psync2"])).await.map_err(failed)?;
        let (history, from) = (own.history.to_string(), own.kept_from.to_string());
        conn.send(&Batch::new(&["PSYNC", &history, &from])).await.map_err(failed)?;
        let late = || Error::Unresponsive { doing, after_ms: SILENCE.as_millis() as u64 };
        let mut head = Vec::new();
        let rest = loop {
            head.extend(timeout(SILENCE, conn.some()).await.map_err(|_| late())?.map_err(failed)?);
            let begun = head.iter().position(|b| *b != b'\n').unwrap_or(head.len());
            head.drain(..begun);
            if let Some(end) = head.iter().position(|b| *b == b'\n') {
                break head.split_off(end + 1);
            }
        };
        let says = String::from_utf8_lossy(&head).trim().to_owned();
        if !says.starts_with("+CONTINUE") {
            return Err(Error::Log(format!("the own replication log is not given: {says}")));
        }
        let mut tail = Tail::new(out, own.common + 1 - own.kept_from, own.end - own.common, own.database);
        let mut over = tail.feed(&rest)?;
        while !over {
            let piece = timeout(SILENCE, conn.some()).await.map_err(|_| late())?.map_err(failed)?;
            over = tail.feed(&piece)?;
        }
        tail.finish()
    }

    /// Keeps all data as a file that a server can load.
    async fn save_all(&self, look: &Look, ours: &RedisPosition) -> Result<Saved, Error> {
        let doing = "writing all data to a file";
        let until = Instant::now() + DUMP;
        let begun = self.act(doing, Batch::new(&["LASTSAVE"]).and(&["BGSAVE"])).await?;
        let before = begun[0].int();
        loop {
            let answers = self
                .act(doing, Batch::new(&["INFO", "persistence"]).and(&["CONFIG", "GET", "dbfilename"]))
                .await?;
            let info = super::info::Info::read(&answers[0])?;
            let busy = info.on("rdb_bgsave_in_progress")?;
            let done = !busy && info.text("rdb_last_bgsave_status")? == "ok";
            if done && info.maybe::<i64>("rdb_last_save_time") >= before {
                let name = super::info::settings(&answers[1]).remove("dbfilename").unwrap_or_default();
                return self.keep_dump(look, ours, &self.at.data.join(name)).await;
            }
            if !busy {
                return Err(Error::Precondition("the engine could not write its data to a file".into()));
            }
            if Instant::now() > until {
                return Err(Error::Unresponsive { doing, after_ms: DUMP.as_millis() as u64 });
            }
            sleep(DUMP_POLL).await;
        }
    }

    async fn keep_dump(&self, look: &Look, ours: &RedisPosition, dump: &Path) -> Result<Saved, Error> {
        let (from, part) = (dump.to_owned(), self.at.saved.join("reading.part"));
        let copied = part.clone();
        blocking(move || {
            let (mut source, mut file) =
                (File::open(&from).map_err(io("opening", &from))?, secret_file(&copied)?);
            std::io::copy(&mut source, &mut file).map_err(io("copying", &from))?;
            file.sync_all().map_err(io("syncing", &copied))
        })
        .await?;
        let history = look.info.history("master_replid")?.to_string();
        let path = self.place(part, &format!("{}-{}", &history[..8], ours.offset()), "rdb").await?;
        let (transactions, unit) = self.count_differing(look).await;
        Ok(Saved { path, transactions, unit, ids: Vec::new(), complete: true })
    }

    /// Keys that are not the same on the primary; where that cannot be known, all.
    async fn count_differing(&self, look: &Look) -> (u64, &'static str) {
        let Some(addr) = self.state().primary else { return (look.info.keys(), AT_MOST) };
        let reader = Door { user: accounts::reader_name(&self.spec), ..self.door_at(addr) };
        match compare::differing(&self.door(), &reader, &look.info.databases()).await {
            Ok(found) if found.looked_at_all => (found.keys, "keys"),
            Ok(found) => (found.keys, AT_MOST),
            Err(error) => {
                tracing::warn!(%error, primary = %addr, "what differs from the primary could not be counted; all keys are said to");
                (look.info.keys(), AT_MOST)
            }
        }
    }

    /// Puts a file under a free name, durably.
    async fn place(&self, part: PathBuf, name: &str, extension: &str) -> Result<PathBuf, Error> {
        const SAME_NAMES_MAX: usize = 1_000;
        let (dir, name, extension) = (self.at.saved.clone(), name.to_owned(), extension.to_owned());
        blocking(move || {
            for n in 0..SAME_NAMES_MAX {
                let suffix = if n == 0 { String::new() } else { format!(".{n}") };
                let path = dir.join(format!("only-here.{name}{suffix}.{extension}"));
                if path.exists() {
                    continue;
                }
                std::fs::rename(&part, &path).map_err(io("saving", &path))?;
                files::sync_dir(&dir)?;
                return Ok(path);
            }
            Err(Error::Precondition(format!(
                "{} already holds {SAME_NAMES_MAX} files named {name}",
                dir.display()
            )))
        })
        .await
    }
}

/// A new file that only its owner can read.
fn secret_file(path: &Path) -> Result<File, Error> {
    files::remove_file(path)?;
    let open = File::options().write(true).create_new(true).mode(0o600).open(path);
    open.map_err(io("creating", path))
}
