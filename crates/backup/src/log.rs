//! The kept log of a service: what its primaries wrote, in small sealed segments, for restores to a moment.
//!
//! A **run** is one uninterrupted reading of one server's log. Its segments have consecutive numbers, and each begins where
//! the one before ended, be it in the middle of an event. Whoever begins a run chooses its name at random, so that two who
//! write at once never meet; which run counts where is told by lineage, sequence and epoch.
//!
//! Guarantees: a segment that is there is whole and what was written; one that is missing within a run is noticed. Does not
//! know: what is in the bytes, nor which position contains another.

use crate::Error;
use crate::id::{self, BackupId, LOGS};
use crate::key::DataKey;
use crate::manifest::{self, FORMAT};
use crate::object::{self, HEADER_BYTES, Kind, Seal};
use crate::repository::Repository;
use crate::storage;
use crate::writer::LEVEL;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Content of a part of a segment's events.
const PART_BYTES: usize = 1 << 20;
/// Events of one segment. Whoever writes them closes one before its last part, which has up to 16 MiB, leads beyond.
pub const SEGMENT_BYTES_MAX: usize = 32 << 20;
/// Segments of one service. A month with one in each second.
const SEGMENTS_MAX: usize = 3_000_000;

/// Behind a run's name: the object that tells how far it was seen.
const SEEN: &str = ".seen";

#[derive(Serialize, Deserialize)]
struct Seen {
    seen_unix_ms: u64,
}

/// What a segment is, without its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub format: u32,
    pub service: String,
    pub run: BackupId,
    pub number: u32,
    /// One more than that of any run that was there when this one began: orders runs, whatever clocks say.
    pub sequence: u64,
    /// The primacy that wrote it: of two runs that began at once, that of the later one comes later. Begins again where a
    /// deployment is founded anew.
    pub epoch: u64,
    /// Tells the histories of two deployments of the same name apart, whose transactions may have the same ids.
    #[serde(default)]
    pub lineage: u64,
    pub engine: String,
    pub version: String,
    /// Where it was read: a node.
    pub origin: String,
    pub server_id: u32,
    /// The server's file in which the first event begins, and where in it, for people.
    pub file: String,
    pub offset: u64,
    /// Everything that came before its first transaction, and with those that end in it. Text.
    pub from: String,
    pub upto: String,
    pub transactions: u64,
    /// Bytes of its events.
    pub bytes: u64,
    /// When the run began, by the clock of the host that wrote it.
    pub began_unix_ms: u64,
    /// When the first and the last transaction that ends in it was committed; absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_unix_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_unix_ms: Option<u64>,
    /// Of a run's first segment: why something is missing between it and what was kept before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<String>,
}

/// Transactions that end at most here, and were committed then: end in the segment's events, milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark(pub u32, pub u64);

/// A segment with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub segment: Segment,
    /// Ordered in both. One for each millisecond in which transactions ended.
    pub marks: Vec<Mark>,
    /// How the events are to be read: the log's own description of its format.
    pub description: Vec<u8>,
    pub events: Vec<u8>,
}

/// A run as a listing finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its first segment that is still there, and its last.
    pub first: Segment,
    pub last: Segment,
    /// When the first transaction was committed that ends in it; `None` where none does.
    pub dated_unix_ms: Option<u64>,
    /// Everything that was committed up to then is in it; by the clock of the host that wrote it.
    pub seen_unix_ms: u64,
    /// Of all its segments, sealed.
    pub stored_bytes: u64,
}

/// What a run's objects are called.
fn run_prefix(service: &str, run: &BackupId) -> String {
    format!("{LOGS}/{service}/{run}")
}

fn segment_object(service: &str, run: &BackupId, number: u32) -> String {
    format!("{}/{number:010}", run_prefix(service, run))
}

fn seen_object(service: &str, run: &BackupId) -> String {
    format!("{}{SEEN}", run_prefix(service, run))
}

fn of_segment_object(name: &str) -> Option<(String, BackupId, u32)> {
    let mut parts = name.strip_prefix(LOGS)?.strip_prefix('/')?.split('/');
    let (service, run, number) =
        (parts.next()?, BackupId::parse(parts.next()?)?, parts.next()?.parse().ok()?);
    (segment_object(service, &run, number) == name).then(|| (service.to_owned(), run, number))
}

impl Repository {
    /// Keeps a segment. Its name must be new.
    pub fn keep_segment(&self, kept: &Kept) -> Result<(), Error> {
        let s = &kept.segment;
        if !id::is_service(&s.service) {
            return Err(Error::BadService(s.service.clone()));
        }
        if kept.events.len() > SEGMENT_BYTES_MAX {
            return Err(Error::TooMuch { what: "events of a segment", max: SEGMENT_BYTES_MAX as u64 });
        }
        let name = segment_object(&s.service, &s.run, s.number);
        let (seal, header) = Seal::begin(&self.key, &DataKey::generate(), Kind::Log, &name);
        let mut contents = vec![manifest::encode(s), manifest::encode(&kept.marks), kept.description.clone()];
        contents.extend(kept.events.chunks(PART_BYTES).map(<[u8]>::to_vec));
        let object = object::parts(&seal, header, &contents, LEVEL);
        Ok(self.storage.create(&name, object)?)
    }

    /// The runs of a service's log, in the order in which they count. Fails where a segment within a run is missing.
    pub fn runs(&self, service: &str) -> Result<Vec<Run>, Error> {
        let mut runs: Vec<Run> = Vec::new();
        let objects = self.segments(service)?;
        for run in objects.chunk_by(|a, b| a.0 == b.0) {
            let run = &run[self.whole(service, run)?..];
            let (Some((id, first, _)), Some((_, last, _))) = (run.first(), run.last()) else { continue };
            let stored_bytes = run.iter().map(|(.., bytes)| bytes).sum();
            let (first, last) = (self.segment(service, id, *first), self.segment(service, id, *last));
            match (first, last) {
                (Ok(first), Ok(last)) => {
                    let dated_unix_ms = self.dated(service, id, first.number, last.number)?;
                    let seen_unix_ms = self.seen(service, id)?.max(last.last_unix_ms.unwrap_or(0));
                    runs.push(Run { first, last, dated_unix_ms, seen_unix_ms, stored_bytes });
                }
                // A prune removed it since it was listed: then it was of no use to anybody.
                (Err(Error::Storage(storage::Error::Absent(_))), _) => {}
                (Err(e), _) | (_, Err(e)) => return Err(e),
            }
        }
        runs.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(runs)
    }

    /// Where a listed run begins. A listing is no snapshot: what was written or removed meanwhile may show in parts. What
    /// seems to be missing in the middle was written meanwhile and is there, or a prune removes from the beginning on.
    fn whole(&self, service: &str, run: &[(BackupId, u32, u64)]) -> Result<usize, Error> {
        let mut begin = 0;
        for (i, pair) in run.windows(2).enumerate() {
            let [(id, before, _), (_, after, _)] = pair else { continue };
            for number in before + 1..*after {
                let name = segment_object(service, id, number);
                match self.storage.stat(&name) {
                    Ok(_) => continue,
                    Err(storage::Error::Absent(_)) => {}
                    Err(e) => return Err(e.into()),
                }
                match self.storage.stat(&segment_object(service, id, *before)) {
                    Err(storage::Error::Absent(_)) => begin = i + 1,
                    _ => return Err(Error::damaged(&name, 0, "it is missing from the middle of a kept log")),
                }
            }
        }
        Ok(begin)
    }

    /// When the first transaction was committed that ends in some segments.
    fn dated(&self, service: &str, run: &BackupId, first: u32, last: u32) -> Result<Option<u64>, Error> {
        for number in first..=last {
            if let Some(first_unix_ms) = self.segment(service, run, number)?.first_unix_ms {
                return Ok(Some(first_unix_ms));
            }
        }
        Ok(None)
    }

    /// Services of which a log was kept.
    pub fn logged_services(&self) -> Result<BTreeSet<String>, Error> {
        let objects = self.storage.list(LOGS)?;
        let service =
            |o: &storage::Listed| o.name.split('/').nth(1).filter(|s| id::is_service(s)).map(str::to_owned);
        Ok(objects.iter().filter_map(service).collect())
    }

    /// Notes that a run has everything that was committed up to a time. Says so anew, whatever was said before.
    pub fn note_seen(&self, service: &str, run: &BackupId, unix_ms: u64) -> Result<(), Error> {
        let name = seen_object(service, run);
        let (seal, header) = Seal::begin(&self.key, &DataKey::generate(), Kind::Log, &name);
        let object =
            object::parts(&seal, header, &[manifest::encode(&Seen { seen_unix_ms: unix_ms })], LEVEL);
        Ok(self.storage.replace(&name, object)?)
    }

    fn seen(&self, service: &str, run: &BackupId) -> Result<u64, Error> {
        let name = seen_object(service, run);
        match self.head(Kind::Log, &name) {
            Ok(json) => Ok(manifest::decode::<Seen>(&name, &json)?.seen_unix_ms),
            Err(Error::Storage(storage::Error::Absent(_))) => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// Every segment there is: run, number, size. By run and number.
    fn segments(&self, service: &str) -> Result<Vec<(BackupId, u32, u64)>, Error> {
        if !id::is_service(service) {
            return Err(Error::BadService(service.to_owned()));
        }
        let objects = self.storage.list(&format!("{LOGS}/{service}"))?;
        if objects.len() > SEGMENTS_MAX {
            return Err(Error::TooMuch { what: "segments of a kept log", max: SEGMENTS_MAX as u64 });
        }
        let place = |o: &storage::Listed| match of_segment_object(&o.name) {
            Some((_, run, number)) => Ok((run, number, o.bytes)),
            None => Err(Error::damaged(&o.name, 0, "its name is not that of a segment")),
        };
        objects.iter().filter(|o| !o.name.ends_with(SEEN)).map(place).collect()
    }

    /// What one segment is.
    pub fn segment(&self, service: &str, run: &BackupId, number: u32) -> Result<Segment, Error> {
        let name = segment_object(service, run, number);
        let json = self.head(Kind::Log, &name)?;
        check(&name, service, run, number, manifest::decode(&name, &json)?)
    }

    /// One segment with its events.
    pub fn kept(&self, service: &str, run: &BackupId, number: u32) -> Result<Kept, Error> {
        let name = segment_object(service, run, number);
        let object = self.storage.read(&name)?;
        let seal = Seal::read(&self.key, Kind::Log, &name, &object)?;
        let (json, at) = object::part(&seal, &object, HEADER_BYTES)?;
        let segment = check(&name, service, run, number, manifest::decode(&name, &json)?)?;
        let (json, at) = object::part(&seal, &object, at)?;
        let marks: Vec<Mark> = manifest::decode(&name, &json)?;
        let (description, mut at) = object::part(&seal, &object, at)?;
        let mut events = Vec::new();
        while at < object.len() {
            let (part, next) = object::part(&seal, &object, at)?;
            events.extend_from_slice(&part);
            at = next;
        }
        let ordered = marks.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
        let fits =
            events.len() as u64 == segment.bytes && marks.last().is_none_or(|m| m.0 as usize <= events.len());
        if !ordered || !fits {
            return Err(Error::damaged(&name, 0, "it contradicts itself"));
        }
        Ok(Kept { segment, marks, description, events })
    }

    /// Reads every segment of every service, and sees that each goes on where the one before ended.
    pub(crate) fn check_logs(&self, find: &mut dyn FnMut(Error)) -> Result<(usize, u64), Error> {
        let objects = self.storage.list(LOGS)?;
        let (mut segments, mut bytes) = (0, 0);
        let mut before: Option<Segment> = None;
        for object in &objects {
            bytes += object.bytes;
            if object.name.ends_with(SEEN) {
                match self.head(Kind::Log, &object.name) {
                    Err(Error::Storage(storage::Error::Absent(_))) | Ok(_) => {}
                    Err(e) => find(e),
                }
                continue;
            }
            let Some((service, run, number)) = of_segment_object(&object.name) else {
                find(Error::damaged(&object.name, 0, "its name is not that of a segment"));
                continue;
            };
            let earlier = before.take().filter(|b| b.run == run);
            match self.kept(&service, &run, number) {
                Ok(kept) => {
                    segments += 1;
                    let s = kept.segment;
                    // What seems to be missing between two was written since they were listed, or removed.
                    let goes_on = |b: &Segment| match b.number + 1 == s.number {
                        true => b.upto == s.from,
                        false => self
                            .whole(&service, &[(run.clone(), b.number, 0), (run.clone(), number, 0)])
                            .is_ok(),
                    };
                    if earlier.is_some_and(|b| !goes_on(&b)) {
                        let what = "what comes between it and the segment before is missing";
                        find(Error::damaged(&object.name, 0, what));
                    }
                    before = Some(s);
                }
                // Removed since it was listed.
                Err(Error::Storage(storage::Error::Absent(_))) => {}
                Err(e) => find(e),
            }
        }
        Ok((segments, bytes))
    }

    /// Objects of a service's log, with their sizes, that nobody needs who needs only transactions since a time. Of a run
    /// that reaches beyond it, the last segment stays in which an older transaction ends: the next may begin in the middle
    /// of one.
    pub(crate) fn logs_before(&self, service: &str, unix_ms: u64) -> Result<Vec<(String, u64)>, Error> {
        let runs = self.runs(service)?;
        let later = runs.iter().rposition(|r| r.first.began_unix_ms < unix_ms).unwrap_or(0);
        let over = |r: &&Run| r.seen_unix_ms < unix_ms && r.last.began_unix_ms < unix_ms;
        let over: BTreeSet<&BackupId> = runs[..later].iter().filter(over).map(|r| &r.first.run).collect();
        let mut old = Vec::new();
        for run in self.segments(service)?.chunk_by(|a, b| a.0 == b.0) {
            let mut count = 0;
            for (i, (id, number, _)) in run.iter().enumerate() {
                if over.contains(id) {
                    count = i + 1;
                    continue;
                }
                match self.segment(service, id, *number)?.last_unix_ms {
                    Some(last) if last >= unix_ms => break,
                    Some(_) => count = i,
                    None => {}
                }
            }
            let named =
                |(id, number, bytes): &(BackupId, u32, u64)| (segment_object(service, id, *number), *bytes);
            old.extend(run[..count].iter().map(named));
        }
        old.extend(over.into_iter().map(|id| (seen_object(service, id), 0)));
        Ok(old)
    }
}

impl Run {
    fn order(&self) -> (u64, u64, &BackupId) {
        (self.first.sequence, self.first.epoch, &self.first.run)
    }
}

fn check(name: &str, service: &str, run: &BackupId, number: u32, s: Segment) -> Result<Segment, Error> {
    let fits = s.format == FORMAT && s.service == service && s.run == *run && s.number == number;
    fits.then_some(s).ok_or_else(|| Error::damaged(name, 0, "it is another segment than its name says"))
}
