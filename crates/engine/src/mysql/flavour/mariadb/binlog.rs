//! Which transactions a binary or relay log file holds, read from event headers only.
//!
//! Guarantees: a transaction is reported as complete only if its last event is wholly in the file; a file that is
//! being written, or was cut by a crash, reads up to its last whole event. What cannot be understood is an error, not
//! a gap (S11).
//! Does not know: rows, statements, checksums (a torn event shows by its length).

use holdfast_core::position::MariaDbPosition;
use holdfast_wire::binlog::{self, Groups, Gtid, HEADER_BYTES, Header, MAGIC, kind};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

/// Event bodies up to this size are read where their end matters (`COMMIT` statements); larger ones are statements.
const BODY_BYTES_MAX: u64 = 4096;
/// Of a GTID event, what says which transaction it is.
const GTID_BYTES: u64 = 13;

/// One transaction in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) domain: u32,
    pub(super) server: u32,
    pub(super) sequence: u64,
    /// Where its GTID event starts.
    pub(super) start: u64,
    /// Where its last event ends.
    pub(super) end: u64,
}

impl Transaction {
    pub(super) fn gtid(&self) -> String {
        format!("{}-{}-{}", self.domain, self.server, self.sequence)
    }
    pub(super) fn within(&self, p: &MariaDbPosition) -> bool {
        p.iter().any(|(d, s, n)| d == self.domain && s == self.server && n >= self.sequence)
    }
}

/// What one file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Complete ones that were asked for, in order.
    pub(super) transactions: Vec<Transaction>,
    /// What the log held before this file, from its GTID list; `None` if it has none (relay logs may not).
    pub(super) before: Option<MariaDbPosition>,
    /// Not closed in order.
    pub(super) in_use: bool,
    /// Where the first format event lies.
    pub(super) format: (u64, u64),
}

/// Transactions kept of one file, at most: a file of 1 GiB with the smallest possible ones.
const TRANSACTIONS_MAX: usize = 16 << 20;

/// Reads one file, and keeps of its transactions what `keep` says: there may be millions.
pub(super) fn scan(path: &Path, keep: impl Fn(&Transaction) -> bool) -> std::io::Result<Scan> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    scan_from(BufReader::with_capacity(64 << 10, file), len, keep)
        .map_err(|e| std::io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

fn scan_from<R: Read + Seek>(
    mut from: R,
    len: u64,
    keep: impl Fn(&Transaction) -> bool,
) -> std::io::Result<Scan> {
    let bad = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let mut out = Scan::default();
    if len < MAGIC.len() as u64 {
        return Ok(out);
    }
    let mut magic = [0; 4];
    from.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(bad("not a binary log".into()));
    }
    let mut at = MAGIC.len() as u64;
    let (mut groups, mut start) = (Groups::default(), 0);
    while at + HEADER_BYTES as u64 <= len {
        let mut head = [0; HEADER_BYTES];
        from.read_exact(&mut head)?;
        let header = Header::read(&head).expect("its bytes were read");
        let size = u64::from(header.bytes);
        let next = at + size;
        if size < HEADER_BYTES as u64 || next > len {
            // Preallocated or torn: nothing whole follows.
            break;
        }
        let body_len = size - HEADER_BYTES as u64;
        let wanted = match header.kind {
            kind::MARIADB_GTID => body_len.min(GTID_BYTES),
            kind::MARIADB_GTID_LIST => body_len,
            kind::QUERY if body_len <= BODY_BYTES_MAX => body_len,
            _ => 0,
        };
        let too_large = |_| bad("an event is too large".into());
        let mut body = vec![0; usize::try_from(wanted).map_err(|_| bad("an event is too large".into()))?];
        from.read_exact(&mut body)?;
        from.seek_relative(i64::try_from(body_len - wanted).map_err(too_large)?)?;
        match header.kind {
            kind::START_ENCRYPTION => return Err(bad("the log is encrypted".into())),
            kind::FORMAT if out.format == (0, 0) => {
                out.in_use = header.has(binlog::IN_USE);
                out.format = (at, next);
            }
            kind::MARIADB_GTID_LIST if out.before.is_none() => {
                let list = binlog::mariadb_gtid_list(&body).map_err(|e| bad(e.to_string()))?;
                let before = out.before.insert(MariaDbPosition::default());
                list.into_iter().for_each(|(d, s, n)| before.add(d, s, n));
            }
            _ => {}
        }
        // A relay log may begin in the middle of a transaction, which the file before has begun.
        if groups.open().is_some() || header.kind == kind::MARIADB_GTID {
            // Another that begins proves nothing here: a relay log has the first half of one whose sender was lost.
            let turn = groups.next(&header, &body).map_err(|e| bad(e.to_string()))?;
            if let Some(Gtid::MariaDb { domain, server, sequence }) = turn.ended.map(|group| group.gtid) {
                out.keep(Transaction { domain, server, sequence, start, end: next }, &keep)?;
            }
            if header.kind == kind::MARIADB_GTID {
                start = at;
            }
        }
        at = next;
    }
    Ok(out)
}

impl Scan {
    fn keep(&mut self, whole: Transaction, keep: &impl Fn(&Transaction) -> bool) -> std::io::Result<()> {
        if !keep(&whole) {
            return Ok(());
        }
        if self.transactions.len() == TRANSACTIONS_MAX {
            return Err(std::io::Error::other("too many transactions in one file"));
        }
        self.transactions.push(whole);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn event(kind: u8, server: u32, body: &[u8]) -> Vec<u8> {
        let mut e = vec![0; 4];
        e.push(kind);
        e.extend(server.to_le_bytes());
        e.extend((19 + body.len() as u32).to_le_bytes());
        e.extend([0; 6]);
        e.extend(body);
        e
    }
    fn gtid_event(server: u32, sequence: u64, flags: u8) -> Vec<u8> {
        let mut body = sequence.to_le_bytes().to_vec();
        body.extend([0, 0, 0, 0, flags, 0, 0, 0, 0, 0, 0]);
        event(kind::MARIADB_GTID, server, &body)
    }
    fn query(server: u32, text: &str) -> Vec<u8> {
        let mut body = vec![0; 13];
        body.push(0);
        body.extend(text.as_bytes());
        event(kind::QUERY, server, &body)
    }
    fn read(events: &[Vec<u8>]) -> std::io::Result<Scan> {
        let bytes: Vec<u8> = MAGIC.iter().copied().chain(events.concat()).collect();
        let len = bytes.len() as u64;
        scan_from(Cursor::new(bytes), len, |_| true)
    }
    fn gtids(s: &Scan) -> Vec<String> {
        s.transactions.iter().map(Transaction::gtid).collect()
    }

    #[test]
    fn a_transaction_without_its_end_is_not_there() {
        let whole = [
            gtid_event(1, 1, 1),
            query(1, "CREATE TABLE t (i int)"),
            gtid_event(2, 2, 0),
            event(23, 2, b"rows"),
            event(kind::XID, 2, b"12345678"),
            gtid_event(2, 3, 0),
            event(23, 2, b"rows"),
            query(2, "COMMITcrc4"),
        ];
        assert_eq!(gtids(&read(&whole).unwrap()), ["0-1-1", "0-2-2", "0-2-3"]);
        assert_eq!(gtids(&read(&whole[..7]).unwrap()), ["0-1-1", "0-2-2"]);
        let mut torn = whole.clone();
        torn[7].pop();
        assert_eq!(gtids(&read(&torn).unwrap()), ["0-1-1", "0-2-2"]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert!(read(&[event(kind::START_ENCRYPTION, 1, b"key")]).is_err());
        assert!(read(&[event(kind::MARIADB_GTID, 1, b"short")]).is_err());
        assert!(scan_from(Cursor::new(b"#!/bin/sh".to_vec()), 9, |_| true).is_err());
    }

    #[test]
    fn garbage_never_panics() {
        for seed in 0u32..2_000 {
            let mut x = seed.wrapping_mul(2_654_435_761) | 1;
            let mut bytes = MAGIC.to_vec();
            bytes.extend((0..96).map(|i| {
                x ^= x << 13;
                x ^= x >> 17;
                x ^= x << 5;
                // Small lengths, so that more than one event is looked at.
                if i % 19 > 9 && i % 19 < 13 { 0 } else { x as u8 }
            }));
            let len = bytes.len() as u64;
            let _ = scan_from(Cursor::new(bytes), len, |_| true);
        }
    }
}
