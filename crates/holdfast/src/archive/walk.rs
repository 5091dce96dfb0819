//! Reading a kept log, transaction by transaction, as far as it counts.
//!
//! Guarantees: what is handed out is whole transactions in the order of the history, each once, none that the copy has,
//! none beyond the target. Blocks; memory for one event and one segment at a time.

use super::history::{self, Leg, Reached, Refused, Target};
use crate::backup::Error;
use holdfast_backup::{BackupId, Kept, Progress, Repository, Run};
use holdfast_core::Position;
use holdfast_wire::binlog::{self, Groups, HEADER_BYTES, Header};
use std::io::Write as _;
use std::path::Path;

/// A piece of the log, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// How the events that follow are to be read.
    Description(Vec<u8>),
    Event(Vec<u8>),
}

/// What a walk handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    pub transactions: u64,
    /// The copy with all of them.
    pub reached: Reached,
    /// When the last transaction was committed that counted, milliseconds since 1970.
    pub last_unix_ms: Option<u64>,
}

/// See the file's contract.
pub struct Walk {
    pub repository: Repository,
    pub service: String,
    pub legs: Vec<Leg>,
    pub start: Position,
    pub target: Target,
}

/// Where a transaction ends: segment, and where in its events.
type Place = (u32, usize);

/// The last transaction of a run that may count.
struct End {
    place: Place,
    unix_ms: u64,
    /// There are later ones.
    cut: bool,
}

enum Turn {
    On,
    /// The target is reached.
    Done,
    /// The rest of this run was given up.
    Parted,
}

/// While events of a run are read.
struct Reader<'a> {
    leg: &'a Leg,
    target: &'a Target,
    reached: &'a mut Reached,
    groups: Groups,
    /// The present transaction is handed out.
    sends: bool,
    /// The present one is the last.
    last: bool,
    transactions: u64,
    description: Vec<u8>,
    described: bool,
}

impl Walk {
    /// Hands out everything; ends early if `out` fails.
    pub fn run(
        self,
        progress: &Progress,
        mut out: impl FnMut(Piece) -> Result<(), Error>,
    ) -> Result<Walked, Error> {
        let mut reached = Reached::at(&self.start).ok_or(Refused::NoPosition)?;
        let (mut transactions, mut last_unix_ms, mut found) = (0, None, false);
        for leg in &self.legs {
            if !reached.covers(&leg.from) {
                return Err(history::gap(&reached, leg).into());
            }
            let Some(End { place: end, unix_ms: ended_ms, cut }) = self.end(leg)? else { continue };
            let begin = self.begin(leg, &reached)?;
            if begin > end && matches!(self.target, Target::Moment(_)) {
                // The copy is from after that moment, whatever its host's clock said.
                return Err(Refused::NoBackupBefore.into());
            }
            let mut reader = Reader {
                leg,
                target: &self.target,
                reached: &mut reached,
                groups: Groups::default(),
                sends: false,
                last: false,
                transactions: 0,
                description: Vec::new(),
                described: false,
            };
            let turn = self.read(&mut reader, begin, end, progress, &mut out)?;
            if reader.transactions > 0 {
                last_unix_ms = Some(ended_ms);
            }
            transactions += reader.transactions;
            found |= matches!(turn, Turn::Done);
            // What a later run has is from later, whatever its host's clock said.
            if found || cut {
                break;
            }
        }
        match &self.target {
            Target::Upto(one) | Target::Before(one) if !found => {
                Err(Refused::NoTransaction(one.to_string()).into())
            }
            _ => Ok(Walked { transactions, reached, last_unix_ms }),
        }
    }

    fn run_id<'a>(&self, leg: &'a Leg) -> &'a BackupId {
        &leg.run.first.run
    }
    fn kept(&self, leg: &Leg, number: u32) -> Result<Kept, Error> {
        Ok(self.repository.kept(&self.service, self.run_id(leg), number)?)
    }

    /// The first segment from `number` on in which a transaction ends.
    fn dated(&self, leg: &Leg, number: u32) -> Result<Option<holdfast_backup::Segment>, Error> {
        for number in number..=leg.run.last.number {
            let segment = self.repository.segment(&self.service, self.run_id(leg), number)?;
            if segment.transactions > 0 {
                return Ok(Some(segment));
            }
        }
        Ok(None)
    }

    /// The number of segments of a run, from its first, for which `holds` does; it does for none after one for which it
    /// does not.
    fn partition(&self, leg: &Leg, mut holds: impl FnMut(u32) -> Result<bool, Error>) -> Result<u32, Error> {
        let (mut low, mut high) = (leg.run.first.number, leg.run.last.number + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// `None` if a run has none.
    fn end(&self, leg: &Leg) -> Result<Option<End>, Error> {
        let until = match self.target {
            Target::Moment(ms) => ms,
            _ => u64::MAX,
        };
        let there = |number| {
            let dated = self.dated(leg, number)?;
            Ok(dated.is_some_and(|s| s.first_unix_ms.is_some_and(|first| first <= until)))
        };
        let after = self.partition(leg, there)?;
        let Some(number) = after.checked_sub(1).filter(|n| *n >= leg.run.first.number) else {
            return Ok(None);
        };
        let Some(segment) = self.dated(leg, number)? else { return Ok(None) };
        let kept = self.kept(leg, segment.number)?;
        let count = kept.marks.partition_point(|mark| mark.1 <= until);
        let Some(mark) = count.checked_sub(1).and_then(|at| kept.marks.get(at)) else { return Ok(None) };
        let cut = count < kept.marks.len()
            || segment.number < leg.run.last.number && self.dated(leg, segment.number + 1)?.is_some();
        Ok(Some(End { place: (segment.number, mark.0 as usize), unix_ms: mark.1, cut }))
    }

    /// Where to begin: after a transaction that was reached, as late as can be told without reading.
    fn begin(&self, leg: &Leg, reached: &Reached) -> Result<Place, Error> {
        let first = leg.run.first.number;
        let covered = |number| {
            let segment = self.repository.segment(&self.service, self.run_id(leg), number)?;
            Ok(history::position(&segment.engine, &segment.upto).is_some_and(|upto| reached.covers(&upto)))
        };
        let after = self.partition(leg, covered)?;
        for number in (first..after).rev() {
            let kept = self.kept(leg, number)?;
            if let Some(mark) = kept.marks.last() {
                return Ok((number, mark.0 as usize));
            }
        }
        Ok((first, 0))
    }

    fn read(
        &self,
        reader: &mut Reader<'_>,
        begin: Place,
        end: Place,
        progress: &Progress,
        out: &mut impl FnMut(Piece) -> Result<(), Error>,
    ) -> Result<Turn, Error> {
        let mut waiting: Vec<u8> = Vec::new();
        for number in begin.0..=end.0 {
            let kept = self.kept(reader.leg, number)?;
            let from = if number == begin.0 { begin.1 } else { 0 };
            let to = if number == end.0 { end.1 } else { kept.events.len() };
            if from >= to {
                continue;
            }
            reader.description = kept.description;
            waiting.extend_from_slice(&kept.events[from..to]);
            progress.read_raw((to - from) as u64)?;
            let mut at = 0;
            while let Some(event) = whole(&waiting[at..]) {
                let event = event.map_err(|what| damaged(&self.service, number, what))?;
                at += event.len();
                match reader.take(event, out)? {
                    Turn::On => {}
                    turn => return Ok(turn),
                }
            }
            waiting.drain(..at);
        }
        match waiting.is_empty() {
            true => Ok(Turn::On),
            false => Err(damaged(&self.service, end.0, "a transaction ends in the middle of an event")),
        }
    }
}

/// Writes all events of a run into one file of the server's own form. Its end may be in the middle of a transaction.
pub fn export(repository: &Repository, service: &str, run: &Run, path: &Path) -> Result<(), Error> {
    let failed = |e| Error::Io { doing: "writing", path: path.to_owned(), source: e };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let mut file = std::fs::File::create_new(path).map_err(failed)?;
    let mut described = false;
    for number in run.first.number..=run.last.number {
        let kept = repository.kept(service, &run.first.run, number)?;
        if !described && !kept.description.is_empty() {
            described = true;
            file.write_all(&binlog::MAGIC)
                .and_then(|()| file.write_all(&kept.description))
                .map_err(failed)?;
        }
        file.write_all(&kept.events).map_err(failed)?;
    }
    file.sync_all().map_err(failed)
}

/// The first event, if all of it is there.
fn whole(bytes: &[u8]) -> Option<Result<&[u8], &'static str>> {
    let size = Header::read(bytes)?.bytes as usize;
    if size < HEADER_BYTES {
        return Some(Err("an event is shorter than its head"));
    }
    bytes.get(..size).map(Ok)
}

fn damaged(service: &str, number: u32, what: &str) -> Error {
    Error::Refused(format!(
        "segment {number} of the kept log of {service} is not what it was: {what}; nothing was restored"
    ))
}

impl Reader<'_> {
    fn take(
        &mut self,
        event: &[u8],
        out: &mut impl FnMut(Piece) -> Result<(), Error>,
    ) -> Result<Turn, Error> {
        let header = Header::read(event).expect("it has one");
        let before = self.groups.open().map(|group| group.gtid.clone());
        let turn = self.groups.next(&header, &event[HEADER_BYTES..]).map_err(super::cutter::Error::from)?;
        if let Some(group) = &turn.ended_before
            && self.over(&group.gtid)
        {
            return Ok(Turn::Done);
        }
        if let Some(group) = self.groups.open()
            && before.as_ref() != Some(&group.gtid)
        {
            let gtid = group.gtid.clone();
            if !self.leg.counts(&gtid) {
                return Ok(Turn::Parted);
            }
            match self.target {
                Target::Before(one) if names(one, &gtid) => return Ok(Turn::Done),
                Target::Upto(one) => self.last = names(one, &gtid),
                _ => {}
            }
            self.sends = !self.reached.has(&gtid);
        }
        if self.sends {
            if !std::mem::replace(&mut self.described, true) {
                out(Piece::Description(self.description.clone()))?;
            }
            out(Piece::Event(event.to_vec()))?;
        }
        match &turn.ended {
            Some(group) if self.over(&group.gtid) => Ok(Turn::Done),
            _ => Ok(Turn::On),
        }
    }

    /// A transaction is over: whether it was the last.
    fn over(&mut self, gtid: &holdfast_wire::binlog::Gtid) -> bool {
        if std::mem::take(&mut self.sends) {
            self.reached.add(gtid);
            self.transactions += 1;
        }
        std::mem::take(&mut self.last)
    }
}

fn names(one: &Position, gtid: &holdfast_wire::binlog::Gtid) -> bool {
    *one == super::gtid::alone(one, gtid)
}
