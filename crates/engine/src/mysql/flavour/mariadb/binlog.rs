//! Which transactions a binary or relay log file holds, read from event headers only.
//!
//! Guarantees: a transaction is reported as complete only if its last event is wholly in the file; a file that is
//! being written, or was cut by a crash, reads up to its last whole event. What cannot be understood is an error, not
//! a gap (S11).
//! Does not know: rows, statements, checksums (a torn event shows by its length).

use holdfast_core::position::MariaDbPosition;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
const HEADER_BYTES: u64 = 19;
/// Event bodies up to this size are read where their end matters (`COMMIT` statements); larger ones are statements.
const BODY_BYTES_MAX: u64 = 4096;

const QUERY: u8 = 2;
const ROTATE: u8 = 4;
const INTVAR: u8 = 5;
const RAND: u8 = 13;
const USER_VAR: u8 = 14;
const FORMAT: u8 = 15;
const XID: u8 = 16;
const XA_PREPARE: u8 = 38;
const GTID: u8 = 162;
const GTID_LIST: u8 = 163;
const START_ENCRYPTION: u8 = 164;
const QUERY_COMPRESSED: u8 = 165;
/// Set in the format event of a log that is open; cleared when it is closed in order.
const IN_USE: u16 = 1;
/// A GTID event whose group is the one event that follows.
const STANDALONE: u8 = 1;

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
    let mut open: Option<(Transaction, bool)> = None;
    while at + HEADER_BYTES <= len {
        let mut h = [0; HEADER_BYTES as usize];
        from.read_exact(&mut h)?;
        let size = u64::from(u32::from_le_bytes([h[9], h[10], h[11], h[12]]));
        if size < HEADER_BYTES {
            // Preallocated or torn: nothing whole follows.
            break;
        }
        let next = at + size;
        if next > len {
            break;
        }
        let body_len = size - HEADER_BYTES;
        let wanted = match h[4] {
            GTID => body_len.min(13),
            GTID_LIST => body_len,
            QUERY | QUERY_COMPRESSED if body_len <= BODY_BYTES_MAX => body_len,
            _ => 0,
        };
        let mut body = vec![0; usize::try_from(wanted).map_err(|_| bad("an event is too large".into()))?];
        from.read_exact(&mut body)?;
        from.seek_relative(
            i64::try_from(body_len - wanted).map_err(|_| bad("an event is too large".into()))?,
        )?;
        match h[4] {
            START_ENCRYPTION => return Err(bad("the log is encrypted".into())),
            FORMAT if out.format == (0, 0) => {
                out.in_use = u16::from_le_bytes([h[17], h[18]]) & IN_USE != 0;
                out.format = (at, next);
            }
            GTID_LIST if out.before.is_none() => {
                out.before = Some(gtid_list(&body).ok_or_else(|| bad("a bad GTID list".into()))?)
            }
            GTID => {
                let server = u32::from_le_bytes([h[5], h[6], h[7], h[8]]);
                open = Some(gtid(&body, server, at).ok_or_else(|| bad("a bad GTID event".into()))?);
            }
            kind => {
                if let Some((t, standalone)) = open
                    && ends_group(kind, standalone, &body)
                {
                    let whole = Transaction { end: next, ..t };
                    if keep(&whole) {
                        if out.transactions.len() == TRANSACTIONS_MAX {
                            return Err(bad("too many transactions in one file".into()));
                        }
                        out.transactions.push(whole);
                    }
                    open = None;
                }
            }
        }
        at = next;
    }
    Ok(out)
}

fn gtid(body: &[u8], server: u32, start: u64) -> Option<(Transaction, bool)> {
    let sequence = u64::from_le_bytes(body.get(..8)?.try_into().ok()?);
    let domain = u32::from_le_bytes(body.get(8..12)?.try_into().ok()?);
    let standalone = body.get(12)? & STANDALONE != 0;
    Some((Transaction { domain, server, sequence, start, end: start }, standalone))
}

fn gtid_list(body: &[u8]) -> Option<MariaDbPosition> {
    let count = u32::from_le_bytes(body.get(..4)?.try_into().ok()?) & 0x0fff_ffff;
    let mut out = MariaDbPosition::default();
    for entry in body.get(4..)?.chunks_exact(16).take(count as usize) {
        let domain = u32::from_le_bytes(entry[..4].try_into().ok()?);
        let server = u32::from_le_bytes(entry[4..8].try_into().ok()?);
        out.add(domain, server, u64::from_le_bytes(entry[8..16].try_into().ok()?));
    }
    Some(out)
}

fn ends_group(kind: u8, standalone: bool, body: &[u8]) -> bool {
    match kind {
        XID | XA_PREPARE => true,
        // These come before the event that they belong to.
        INTVAR | RAND | USER_VAR | ROTATE | FORMAT => false,
        _ if standalone => true,
        QUERY => {
            let ends = |b: &[u8]| b.ends_with(b"COMMIT") || b.ends_with(b"ROLLBACK");
            // With or without a checksum behind it.
            ends(body) || body.len().checked_sub(4).is_some_and(|n| ends(&body[..n]))
        }
        _ => false,
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
        event(GTID, server, &body)
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
            gtid_event(1, 1, STANDALONE),
            event(QUERY, 1, b"CREATE TABLE t (i int)"),
            gtid_event(2, 2, 0),
            event(23, 2, b"rows"),
            event(XID, 2, b"12345678"),
            gtid_event(2, 3, 0),
            event(23, 2, b"rows"),
            event(QUERY, 2, b"COMMITcrc4"),
        ];
        assert_eq!(gtids(&read(&whole).unwrap()), ["0-1-1", "0-2-2", "0-2-3"]);
        assert_eq!(gtids(&read(&whole[..7]).unwrap()), ["0-1-1", "0-2-2"]);
        let mut torn = whole.clone();
        torn[7].pop();
        assert_eq!(gtids(&read(&torn).unwrap()), ["0-1-1", "0-2-2"]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert!(read(&[event(START_ENCRYPTION, 1, b"key")]).is_err());
        assert!(read(&[event(GTID, 1, b"short")]).is_err());
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
