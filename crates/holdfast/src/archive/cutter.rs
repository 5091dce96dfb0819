//! From a log as its server sends it to the segments that are kept. Pure.
//!
//! Guarantees: the bytes of all segments of a run, one after the other, are the events of its transactions, each as it is
//! in the server's log and in its order, and nothing else; a segment's end is told by whole transactions only.

use super::gtid;
use holdfast_backup::Mark;
use holdfast_core::Position;
use holdfast_engine::LogPart;
use holdfast_wire::binlog::{self, Group, Groups, Gtid, HEADER_BYTES, Header, Turn, kind};

/// A transaction that comes this soon after the second of its commit came when it was committed.
const LIVE_MS: u64 = 2_000;
/// Of an event that says where its log goes on, or how it is to be read.
const SHORT_BYTES_MAX: usize = 64 << 10;

/// Why a log cannot be kept any further. What was cut before is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("an event of the log cannot be read")]
    Event(#[from] holdfast_wire::codec::Error),
    #[error("an event of the log has another size than its head says")]
    Size,
    #[error("the log goes on in another format")]
    AnotherFormat,
}

/// What becomes a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub from: Position,
    pub upto: Position,
    pub transactions: u64,
    pub marks: Vec<Mark>,
    pub description: Vec<u8>,
    pub events: Vec<u8>,
    pub file: String,
    pub offset: u64,
}

/// When a part came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub unix_ms: u64,
    /// Its reader had been held up: it may have waited.
    pub late: bool,
}

/// An event of which more comes.
struct Open {
    header: Header,
    bytes: usize,
    /// It belongs to a transaction.
    kept: bool,
    ended: Option<Group>,
    /// Of one that is no transaction's.
    short: Vec<u8>,
}

/// See the file's contract.
pub struct Cutter {
    groups: Groups,
    open: Option<Open>,
    description: Vec<u8>,
    /// Where in the server's files the next event is.
    file: String,
    /// Everything up to the last whole transaction.
    upto: Position,
    last_ms: u64,
    /// Transactions come when they are committed.
    live: bool,
    quiet_ms: Option<u64>,
    /// What the next cut will be, if anything came for it.
    cut: Option<Cut>,
}

impl Cutter {
    /// For a log that begins after `from`, where the last transaction was committed at `last_ms` or before.
    pub fn new(from: Position, last_ms: u64) -> Cutter {
        Cutter {
            groups: Groups::default(),
            open: None,
            description: Vec::new(),
            file: String::new(),
            upto: from,
            last_ms,
            live: false,
            quiet_ms: None,
            cut: None,
        }
    }

    /// Bytes of events that the next cut has.
    pub fn waiting_bytes(&self) -> usize {
        self.cut.as_ref().map_or(0, |cut| cut.events.len())
    }
    /// The last time that the server said it had nothing more, if nothing came since.
    pub fn quiet_unix_ms(&self) -> Option<u64> {
        self.quiet_ms
    }

    /// Everything since the last cut; `None` if nothing came.
    pub fn cut(&mut self) -> Option<Cut> {
        self.cut.take().map(|cut| Cut { upto: self.upto.clone(), ..cut })
    }

    /// Takes the next part of the log.
    pub fn take(&mut self, part: &LogPart, at: Arrival) -> Result<(), Error> {
        self.live &= !at.late;
        if part.begins {
            self.begin(&part.bytes, at)?;
        }
        let Some(open) = &mut self.open else { return Err(Error::Size) };
        open.bytes += part.bytes.len();
        if open.kept {
            self.keep(&part.bytes);
        } else if open.short.len() + part.bytes.len() <= SHORT_BYTES_MAX {
            open.short.extend_from_slice(&part.bytes);
        }
        if part.ends { self.end(at) } else { Ok(()) }
    }

    fn begin(&mut self, bytes: &[u8], at: Arrival) -> Result<(), Error> {
        let header = Header::read(bytes).ok_or(Error::Size)?;
        let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let Turn { ended_before, ended } = self.groups.next(&header, body)?;
        if let Some(group) = ended_before {
            self.whole(&group, at);
        }
        let within = self.groups.open().is_some() || ended.is_some();
        let kept = within && !header.is_of_the_stream();
        self.open = Some(Open { header, bytes: 0, kept, ended, short: Vec::new() });
        Ok(())
    }

    fn end(&mut self, at: Arrival) -> Result<(), Error> {
        let Some(open) = self.open.take() else { return Err(Error::Size) };
        if open.bytes != open.header.bytes as usize {
            return Err(Error::Size);
        }
        if let Some(group) = open.ended {
            self.whole(&group, at);
        }
        self.quiet_ms = None;
        match open.header.kind {
            // Nothing more was there to send.
            kind::HEARTBEAT | kind::HEARTBEAT_V2 => {
                self.live = true;
                self.quiet_ms = Some(at.unix_ms).filter(|_| self.groups.open().is_none());
            }
            kind::FORMAT => self.describe(&open.short)?,
            kind::ROTATE => self.file = binlog::rotate_to(&open.short)?.1,
            _ => {}
        }
        Ok(())
    }

    fn describe(&mut self, event: &[u8]) -> Result<(), Error> {
        let description = binlog::format_of(event).ok_or(Error::Size)?;
        if !self.description.is_empty() && self.description != description {
            return Err(Error::AnotherFormat);
        }
        self.description = description;
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.next_cut().events.extend_from_slice(bytes);
    }

    fn next_cut(&mut self) -> &mut Cut {
        let header = self.open.as_ref().map(|open| open.header);
        let offset = header.map_or(0, |h| u64::from(h.end.wrapping_sub(h.bytes)));
        self.cut.get_or_insert_with(|| Cut {
            from: self.upto.clone(),
            upto: self.upto.clone(),
            transactions: 0,
            marks: Vec::new(),
            description: self.description.clone(),
            events: Vec::new(),
            file: self.file.clone(),
            offset,
        })
    }

    /// A transaction is whole.
    fn whole(&mut self, group: &Group, at: Arrival) {
        let committed_ms = group.time_us / 1_000;
        // A client can set the time of its own statements.
        let possible = committed_ms <= at.unix_ms.saturating_add(LIVE_MS);
        self.live |= !at.late && possible && at.unix_ms < committed_ms.saturating_add(LIVE_MS);
        let told = match group.gtid {
            Gtid::MySql { .. } => committed_ms,
            // It tells the second only.
            Gtid::MariaDb { .. } if self.live => at.unix_ms,
            Gtid::MariaDb { .. } => committed_ms + 999,
        };
        // A later one was not committed earlier, whatever clocks did; none is committed after it came.
        self.last_ms = self.last_ms.max(told.min(at.unix_ms));
        let last_ms = self.last_ms;
        let next = self.next_cut();
        next.transactions += 1;
        let end = u32::try_from(next.events.len()).unwrap_or(u32::MAX);
        match next.marks.last_mut().filter(|last| last.1 == last_ms) {
            Some(last) => last.0 = end,
            None => next.marks.push(Mark(end, last_ms)),
        }
        gtid::add(&mut self.upto, &group.gtid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE_S: u32 = 1_795_000_000;
    const BASE_MS: u64 = BASE_S as u64 * 1_000;

    fn event(kind: u8, second: u32, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut out = (BASE_S + second).to_le_bytes().to_vec();
        out.push(kind);
        out.extend(7u32.to_le_bytes());
        out.extend((HEADER_BYTES as u32 + body.len() as u32).to_le_bytes());
        out.extend(1_000u32.to_le_bytes());
        out.extend(flags.to_le_bytes());
        out.extend(body);
        out
    }
    fn gtid_event(sequence: u64, second: u32) -> Vec<u8> {
        let mut body = sequence.to_le_bytes().to_vec();
        body.extend([0; 11]);
        event(kind::MARIADB_GTID, second, 0, &body)
    }
    fn xid() -> Vec<u8> {
        event(kind::XID, 0, 0, &[0; 8])
    }
    fn rows() -> Vec<u8> {
        event(23, 0, 0, &[1; 40])
    }
    fn heartbeat() -> Vec<u8> {
        event(kind::HEARTBEAT, 0, 0, b"binlog.000001")
    }
    fn cutter() -> Cutter {
        Cutter::new(Position::mariadb("0-7-1").unwrap(), 0)
    }
    fn give(cutter: &mut Cutter, event: &[u8], unix_ms: u64, late: bool) -> Result<(), Error> {
        let part = LogPart { bytes: event.to_vec(), begins: true, ends: true };
        cutter.take(&part, Arrival { unix_ms, late })
    }
    /// A transaction, committed in a second, that comes at a time.
    fn transaction(cutter: &mut Cutter, sequence: u64, second: u32, unix_ms: u64, late: bool) {
        for event in [gtid_event(sequence, second), rows(), xid()] {
            give(cutter, &event, unix_ms, late).unwrap();
        }
    }
    const BYTES: u32 = 3 * HEADER_BYTES as u32 + 19 + 40 + 8;

    #[test]
    fn segments_end_where_transactions_do_and_hold_nothing_else() {
        let mut cutter = cutter();
        give(&mut cutter, &heartbeat(), BASE_MS, false).unwrap();
        transaction(&mut cutter, 2, 0, BASE_MS + 10, false);
        transaction(&mut cutter, 3, 0, BASE_MS + 10, false);
        transaction(&mut cutter, 4, 0, BASE_MS + 12, false);
        // The first half of one more.
        give(&mut cutter, &gtid_event(5, 0), BASE_MS + 13, false).unwrap();
        let cut = cutter.cut().unwrap();
        assert_eq!((cut.from.to_string(), cut.upto.to_string()), ("0-7-1".into(), "0-7-4".into()));
        assert_eq!(cut.transactions, 3);
        assert_eq!(cut.marks, [Mark(2 * BYTES, BASE_MS + 10), Mark(3 * BYTES, BASE_MS + 12)]);
        assert_eq!(cut.events.len() as u32, 3 * BYTES + HEADER_BYTES as u32 + 19);
        assert_eq!(cutter.cut(), None);
        give(&mut cutter, &heartbeat(), BASE_MS + 14, false).unwrap();
        assert_eq!(cutter.quiet_unix_ms(), None, "a transaction is under way");
        give(&mut cutter, &rows(), BASE_MS + 15, false).unwrap();
        give(&mut cutter, &xid(), BASE_MS + 16, false).unwrap();
        let cut = cutter.cut().unwrap();
        assert_eq!((cut.from.to_string(), cut.upto.to_string()), ("0-7-4".into(), "0-7-5".into()));
        let end = BYTES - HEADER_BYTES as u32 - 19;
        assert_eq!(cut.marks, [Mark(end, BASE_MS + 16)]);
        give(&mut cutter, &heartbeat(), BASE_MS + 17, false).unwrap();
        assert_eq!(cutter.quiet_unix_ms(), Some(BASE_MS + 17));
    }

    #[test]
    fn what_comes_late_was_committed_in_its_second() {
        let times = |cutter: &mut Cutter| {
            cutter.cut().unwrap().marks.iter().map(|m| m.1 - BASE_MS).collect::<Vec<_>>()
        };
        // Read again from the server a minute later, and then caught up.
        let mut c = cutter();
        transaction(&mut c, 2, 0, BASE_MS + 60_000, false);
        transaction(&mut c, 3, 1, BASE_MS + 60_000, false);
        transaction(&mut c, 4, 60, BASE_MS + 60_500, false);
        assert_eq!(times(&mut c), [999, 1_999, 60_500]);
        // A long statement began long ago, and comes when it is committed.
        transaction(&mut c, 5, 20, BASE_MS + 62_000, false);
        assert_eq!(times(&mut c), [62_000]);
        // Its reader had been held up; a clock went back; times never do.
        transaction(&mut c, 6, 61, BASE_MS + 70_000, true);
        transaction(&mut c, 7, 70, BASE_MS + 70_600, false);
        transaction(&mut c, 8, 70, BASE_MS + 40_000, false);
        assert_eq!(times(&mut c), [62_000, 70_600]);
        // A client's own idea of the time dates nobody else's transactions.
        let mut c = cutter();
        transaction(&mut c, 2, 900_000, BASE_MS + 60_000, true);
        transaction(&mut c, 3, 900_000, BASE_MS + 60_000, false);
        transaction(&mut c, 4, 61, BASE_MS + 120_000, false);
        assert_eq!(times(&mut c), [60_000, 61_999]);
    }

    #[test]
    fn a_large_event_comes_in_parts_and_a_wrong_size_is_an_error() {
        let mut c = cutter();
        give(&mut c, &gtid_event(2, 0), BASE_MS, false).unwrap();
        let large = event(23, 0, 0, &[1; 5_000]);
        let at = Arrival { unix_ms: BASE_MS, late: false };
        let (first, rest) = large.split_at(4_000);
        let part = |bytes: &[u8], begins, ends| LogPart { bytes: bytes.to_vec(), begins, ends };
        c.take(&part(first, true, false), at).unwrap();
        // A segment may end in the middle of it.
        assert_eq!(c.cut().unwrap().transactions, 0);
        c.take(&part(rest, false, true), at).unwrap();
        give(&mut c, &xid(), BASE_MS, false).unwrap();
        let cut = c.cut().unwrap();
        assert_eq!((cut.transactions, cut.events.len()), (1, 1_000 + HEADER_BYTES + HEADER_BYTES + 8));
        give(&mut c, &gtid_event(3, 0), BASE_MS, false).unwrap();
        c.take(&part(first, true, false), at).unwrap();
        assert!(matches!(c.take(&part(&rest[1..], false, true), at), Err(Error::Size)));
        assert!(cutter().take(&part(b"short", true, true), at).is_err());
        assert!(cutter().take(&part(rest, false, true), at).is_err(), "the rest of nothing");
    }

    #[test]
    fn another_format_ends_a_run() {
        let describe = |version: u8| {
            let mut body = vec![4, 0];
            body.extend([version; 50]);
            body.extend([0; 50]);
            // The kind of checksums, and the event's own.
            body.push(1);
            body.extend([0; 4]);
            event(kind::FORMAT, 0, 0, &body)
        };
        let mut c = cutter();
        give(&mut c, &describe(b'1'), BASE_MS, false).unwrap();
        give(&mut c, &describe(b'1'), BASE_MS + 5_000, false).unwrap();
        assert!(matches!(give(&mut c, &describe(b'2'), BASE_MS, false), Err(Error::AnotherFormat)));
    }
}
