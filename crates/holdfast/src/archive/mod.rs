//! The continuous archive: the log of each primary on this host goes into the repository while it is written, so that a
//! restore can lead to any moment.
//!
//! What is kept is told by [`cutter`], which part of it counts by [`history`]; [`walk`] reads it again and [`replay`]
//! brings a copy forward with it. The server's own log is the spool: what could not be kept yet is read again from there,
//! for as long as the server keeps it.
//!
//! Guarantees: nobody waits for the archive; what is in it is in order and without gaps, or says where one is. Does not
//! know: who leads; it asks its instance.

pub mod cutter;
pub mod gtid;
pub mod history;
pub mod plan;
pub mod replay;
pub mod walk;

use crate::agent::{Instance, chain};
use crate::backup::{self, Error, blocking};
use crate::clock::unix_ms;
use crate::config::repository::Place;
use cutter::{Arrival, Cut, Cutter};
use holdfast_backup::{BackupId, FORMAT, Kept, Repository, Run, Segment};
use holdfast_core::{Epoch, NodeName, Position};
use holdfast_engine::{LogFrom, LogPart, LogStream, ReadLog};
use holdfast_wire::binlog::INCIDENT;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

/// Under load a segment is closed after this time, or with so many bytes: few enough that one more part of an event fits.
const SEGMENT: Duration = Duration::from_secs(1);
const SEGMENT_BYTES: usize = 15 << 20;
/// Where nothing happens, that is noted so often.
const IDLE: Duration = Duration::from_secs(10);
/// How soon a primary is noticed.
const LOOK: Duration = Duration::from_millis(200);
/// After a failure: first, and at most.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Parts between the server and the repository.
const WAITING_MAX: usize = 4;
/// A reader that waited so long to hand on a part may have let the server wait.
const LATE: Duration = Duration::from_secs(1);

/// How an archive is doing, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doing {
    /// Everything that was committed up to then is kept; milliseconds since 1970, 0: not known. Only of a primary.
    pub kept_unix_ms: u64,
    pub segments: u64,
    pub bytes: u64,
    /// Why nothing is kept at the moment.
    pub trouble: Option<String>,
}

/// The archive of one instance.
pub struct Archive {
    instance: Arc<Instance>,
    node: NodeName,
    place: Place,
    doing: Mutex<Doing>,
}

/// Why a run ended.
enum End {
    /// The instance does not lead any more, or under another epoch.
    NotLeading,
    /// The server's log lacks what comes next.
    Lacks(String),
    Failed(Error),
}

impl From<Error> for End {
    fn from(e: Error) -> End {
        End::Failed(e)
    }
}

/// Where the runs so far end.
#[derive(Default)]
struct Tip {
    sequence: u64,
    upto: Option<Position>,
    seen_unix_ms: u64,
    /// Only others of the same name kept a log here so far.
    of_others: bool,
}

impl Tip {
    fn of(runs: &[Run], lineage: u64) -> Tip {
        let sequence = runs.iter().map(|r| r.first.sequence).max().unwrap_or(0);
        match runs.iter().rfind(|r| r.first.lineage == lineage) {
            Some(r) => Tip {
                sequence,
                upto: history::position(&r.last.engine, &r.last.upto),
                seen_unix_ms: r.seen_unix_ms,
                of_others: false,
            },
            None => Tip { sequence, of_others: !runs.is_empty(), ..Tip::default() },
        }
    }
}

const OF_OTHERS: &str = "what was kept before is of another deployment of this name";

impl Archive {
    pub fn new(instance: Arc<Instance>, node: NodeName, place: Place) -> Arc<Archive> {
        Arc::new(Archive { instance, node, place, doing: Mutex::default() })
    }
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }
    pub fn doing(&self) -> Doing {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn note(&self, change: impl FnOnce(&mut Doing)) {
        let mut doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut doing);
        self.instance.set_beside(doing.trouble.as_ref().map(|why| format!("its log is not kept: {why}")));
    }

    /// Keeps the log whenever the instance leads, until aborted. Two at once do no harm: see [`history`].
    pub async fn run(self: Arc<Self>) {
        let engine = self.instance.engine().clone();
        let Some(log) = engine.log() else { return };
        let (mut retry, mut lacks) = (RETRY, None);
        loop {
            let Some(epoch) = self.leads() else {
                self.note(|doing| {
                    *doing = Doing { segments: doing.segments, bytes: doing.bytes, ..Doing::default() }
                });
                sleep(LOOK).await;
                continue;
            };
            let began = Instant::now();
            match self.keep(log, epoch, lacks.take()).await {
                End::NotLeading => continue,
                End::Lacks(words) => {
                    tracing::error!(
                        group = %self.instance.group(), %words,
                        "the server has thrown away log that was not kept yet: no restore leads across that gap; make a \
                         new backup now"
                    );
                    self.note(|doing| doing.trouble = Some(words.clone()));
                    lacks = Some(words);
                    retry = (retry * 2).min(RETRY_MAX);
                }
                End::Failed(e) => {
                    // What went well for a while is tried again soon.
                    retry = if began.elapsed() > RETRY_MAX { RETRY } else { (retry * 2).min(RETRY_MAX) };
                    let trouble = chain(&e);
                    tracing::warn!(
                        group = %self.instance.group(), error = %trouble,
                        "the log is not kept; what is missing is read again from the server, while it has it"
                    );
                    self.note(|doing| doing.trouble = Some(trouble));
                }
            }
            sleep(retry).await;
        }
    }

    fn leads(&self) -> Option<Epoch> {
        self.instance.lead().filter(|lead| lead.for_ms > 0).map(|lead| lead.epoch)
    }

    /// One run. `lacks`: begins from now on, and says why something is missing before.
    async fn keep(&self, log: &dyn ReadLog, epoch: Epoch, lacks: Option<String>) -> End {
        match self.try_keep(log, epoch, lacks).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn try_keep(&self, log: &dyn ReadLog, epoch: Epoch, lacks: Option<String>) -> Result<End, End> {
        let key = backup::key::resolve(&self.place.key).await.map_err(Error::from)?;
        let repository = backup::open(&self.place.at, key).await?;
        let service = self.instance.group().to_string();
        let (from, name) = (repository.clone(), service.clone());
        let lineage = self.instance.lineage();
        let tip = blocking(move || Ok(Tip::of(&from.runs(&name)?, lineage))).await?;
        let have = tip.upto.as_ref().filter(|_| lacks.is_none());
        let gap = lacks.or_else(|| tip.of_others.then(|| OF_OTHERS.to_owned()));
        let LogFrom { from, version, server_id, stream } = log.log_after(have).await.map_err(engine)?;
        let mut keeper = Keeper {
            archive: self,
            repository,
            segment: Segment {
                format: FORMAT,
                service,
                run: BackupId::new(unix_ms()),
                number: 0,
                epoch: epoch.0,
                sequence: tip.sequence + 1,
                lineage,
                engine: self.instance.service().engine.word().to_owned(),
                version,
                origin: self.node.to_string(),
                server_id,
                file: String::new(),
                offset: 0,
                from: from.to_string(),
                upto: from.to_string(),
                transactions: 0,
                bytes: 0,
                began_unix_ms: unix_ms(),
                first_unix_ms: None,
                last_unix_ms: None,
                gap,
            },
            cutter: Cutter::new(from, tip.seen_unix_ms),
            idle_since: Instant::now(),
        };
        let (parts, waiting) = mpsc::channel(WAITING_MAX);
        // Reading an event cannot be interrupted and taken up again, so it has a task of its own.
        let reader = tokio::spawn(read(stream, parts));
        let end = keeper.run(waiting, || self.leads() == Some(epoch)).await;
        reader.abort();
        let rest = keeper.close().await;
        match end {
            Ok(end) => rest.map(|()| end).map_err(End::from),
            Err(end) => Err(end),
        }
    }
}

/// The server itself says that its log lacks something: what comes after that can be kept all the same.
fn unreadable(e: cutter::Error) -> End {
    match &e {
        cutter::Error::Event(holdfast_wire::codec::Error::Value { what, .. }) if *what == INCIDENT => {
            End::Lacks((*what).to_owned())
        }
        _ => End::Failed(Error::Log(e)),
    }
}

fn engine(e: holdfast_engine::Error) -> End {
    match e {
        holdfast_engine::Error::LogLacks(words) => End::Lacks(words),
        e => End::Failed(Error::Engine(e)),
    }
}

/// A part, or why no more comes.
type Read = Result<(LogPart, Arrival), holdfast_engine::Error>;

async fn read(mut stream: Box<dyn LogStream>, parts: mpsc::Sender<Read>) {
    let mut late = false;
    loop {
        let part = stream.next().await.map(|part| (part, Arrival { unix_ms: unix_ms(), late }));
        let ends = part.is_err();
        let began = Instant::now();
        if parts.send(part).await.is_err() || ends {
            return;
        }
        late = began.elapsed() > LATE;
    }
}

/// While a run is kept.
struct Keeper<'a> {
    archive: &'a Archive,
    repository: Repository,
    /// What the next segment will be called.
    segment: Segment,
    cutter: Cutter,
    idle_since: Instant,
}

impl Keeper<'_> {
    async fn run(
        &mut self,
        mut parts: mpsc::Receiver<Read>,
        mut leads: impl FnMut() -> bool,
    ) -> Result<End, End> {
        let mut due = None;
        let mut opened = false;
        loop {
            let until = due.unwrap_or_else(|| Instant::now() + LOOK);
            match timeout_at(until, parts.recv()).await {
                Ok(Some(Ok((part, at)))) => {
                    self.cutter.take(&part, at).map_err(unreadable)?;
                    if !opened {
                        // Another may lead by now, whose runs come after this one.
                        if !leads() {
                            return Ok(End::NotLeading);
                        }
                        // It has what was asked for. From here on the run is there, though nothing is in it yet.
                        opened = true;
                        self.put(None).await?;
                    }
                }
                Ok(Some(Err(e))) => return Err(engine(e)),
                Ok(None) => return Err(End::Failed(Error::Interrupted)),
                Err(_) => {}
            }
            if self.cutter.waiting_bytes() > 0 {
                let due = due.get_or_insert_with(|| Instant::now() + SEGMENT);
                if self.cutter.waiting_bytes() < SEGMENT_BYTES && Instant::now() < *due {
                    continue;
                }
                self.close().await?;
            } else if opened && self.idle_since.elapsed() > IDLE {
                self.note_idle().await?;
            }
            due = None;
            if !leads() {
                return Ok(End::NotLeading);
            }
        }
    }

    /// Keeps what has come.
    async fn close(&mut self) -> Result<(), Error> {
        match self.cutter.cut() {
            Some(cut) => self.put(Some(cut)).await,
            None => Ok(()),
        }
    }

    async fn put(&mut self, cut: Option<Cut>) -> Result<(), Error> {
        let mut segment = self.segment.clone();
        let (mut marks, mut description, mut events) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(cut) = cut {
            segment = Segment {
                from: cut.from.to_string(),
                upto: cut.upto.to_string(),
                transactions: cut.transactions,
                bytes: cut.events.len() as u64,
                first_unix_ms: cut.marks.first().map(|m| m.1),
                last_unix_ms: cut.marks.last().map(|m| m.1),
                file: cut.file,
                offset: cut.offset,
                ..segment
            };
            (marks, description, events) = (cut.marks, cut.description, cut.events);
        }
        let (number, bytes, seen) = (segment.number, segment.bytes, segment.last_unix_ms);
        let (repository, kept) = (self.repository.clone(), Kept { segment, marks, description, events });
        blocking(move || Ok(repository.keep_segment(&kept)?)).await?;
        self.segment.number = number + 1;
        self.segment.gap = None;
        self.idle_since = Instant::now();
        self.archive.note(|doing| {
            doing.kept_unix_ms = seen.unwrap_or(doing.kept_unix_ms);
            (doing.segments, doing.bytes) = (doing.segments + 1, doing.bytes + bytes);
            doing.trouble = None;
        });
        Ok(())
    }

    /// Nothing came for a while: says so, if that means that nothing happened.
    async fn note_idle(&mut self) -> Result<(), Error> {
        self.idle_since = Instant::now();
        let Some(unix_ms) = self.cutter.quiet_unix_ms() else { return Ok(()) };
        let (repository, service, run) =
            (self.repository.clone(), self.segment.service.clone(), self.segment.run.clone());
        blocking(move || Ok(repository.note_seen(&service, &run, unix_ms)?)).await?;
        self.archive.note(|doing| (doing.kept_unix_ms, doing.trouble) = (unix_ms, None));
        Ok(())
    }
}
