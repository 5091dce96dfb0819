//! Binary logs of MySQL and MariaDB: the head of an event, which transaction one begins, where a transaction ends.
//!
//! Guarantees: what is read is there; a body that is cut short or contradicts itself is an error. Events are told apart
//! by their own bytes, so the same code reads files, relay logs and streams.
//! Does not know: rows and statements, whose bytes are only passed on; compressed and encrypted files.

mod groups;
mod gtid;
mod make;

pub use groups::{Group, Groups, INCIDENT, Turn};
pub use gtid::{Begin, Gtid, mariadb_gtid_list};
pub use make::{HEARTBEAT_SENDS_NOTHING, format_of, rotate, with_checksum};

use crate::codec::{Error, Reader};

/// What a log file begins with.
pub const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
/// Bytes of an event before its body.
pub const HEADER_BYTES: usize = 19;
/// Bytes behind the body of an event of a log with checksums.
pub const CHECKSUM_BYTES: usize = 4;

/// Set in the format event of a log that is open; cleared when it is closed in order.
pub const IN_USE: u16 = 0x1;
/// Made by the sender: in no file.
pub const ARTIFICIAL: u16 = 0x20;
/// Who does not know the event may leave it out.
pub const IGNORABLE: u16 = 0x80;

/// Kinds of events that somebody here must know.
pub mod kind {
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const INTVAR: u8 = 5;
    pub const RAND: u8 = 13;
    pub const USER_VAR: u8 = 14;
    pub const FORMAT: u8 = 15;
    pub const XID: u8 = 16;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const IGNORABLE: u8 = 28;
    /// MySQL: begins a transaction.
    pub const GTID: u8 = 33;
    /// MySQL: begins one that has no id.
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const XA_PREPARE: u8 = 38;
    /// MySQL: a whole transaction, compressed.
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    /// MySQL 8.3 and later: begins a transaction whose id has a tag.
    pub const TAGGED_GTID: u8 = 42;
    pub const ANNOTATE_ROWS: u8 = 160;
    pub const BINLOG_CHECKPOINT: u8 = 161;
    /// MariaDB: begins a transaction.
    pub const MARIADB_GTID: u8 = 162;
    pub const MARIADB_GTID_LIST: u8 = 163;
    pub const START_ENCRYPTION: u8 = 164;
    pub const QUERY_COMPRESSED: u8 = 165;
}

/// What stands before an event's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Seconds since 1970 at which the statement began, by the writer's clock.
    pub timestamp_s: u32,
    pub kind: u8,
    /// Who wrote it first.
    pub server: u32,
    /// Of the whole event, this header included.
    pub bytes: u32,
    /// Where the event ends in its file, modulo 2^32; 0 if it is in none.
    pub end: u32,
    pub flags: u16,
}

impl Header {
    /// Reads a header if its bytes are there. The size may be anything.
    pub fn read(bytes: &[u8]) -> Option<Header> {
        let h = bytes.first_chunk::<HEADER_BYTES>()?;
        let number = |at: usize| u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        Some(Header {
            timestamp_s: number(0),
            kind: h[4],
            server: number(5),
            bytes: number(9),
            end: number(13),
            flags: u16::from_le_bytes([h[17], h[18]]),
        })
    }
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
    /// In no log file: a sign of life, or where the next events come from.
    pub fn is_of_the_stream(&self) -> bool {
        matches!(self.kind, kind::HEARTBEAT | kind::HEARTBEAT_V2) || self.has(ARTIFICIAL)
    }
}

/// Which file follows, from a whole rotate event. Before the first format event nobody has said whether events carry
/// checksums; the event itself shows.
pub fn rotate_to(event: &[u8]) -> Result<(u64, String), Error> {
    let body = event.get(HEADER_BYTES..).ok_or(Error::Truncated("a rotation"))?;
    let mut r = Reader::new(if is_checked(event) { without_checksum(body)? } else { body });
    let position = r.u64("a rotation's position")?;
    let name = std::str::from_utf8(r.rest()).map_err(|_| Error::Truncated("the next log's name"))?;
    Ok((position, name.to_owned()))
}

/// Whether an event ends with its checksum.
fn is_checked(event: &[u8]) -> bool {
    let (content, sum) = event.split_at(event.len().saturating_sub(CHECKSUM_BYTES));
    sum == crc32fast::hash(content).to_le_bytes()
}

/// Whether the events of a log carry checksums, from its format event's body.
pub fn has_checksums(body: &[u8]) -> Result<bool, Error> {
    // The algorithm is the last byte before the format event's own checksum, which is always there (both servers, since
    // MySQL 5.6 and MariaDB 5.3).
    match without_checksum(body)?.last() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        Some(other) => Err(Error::Value { what: "a log's kind of checksum", value: (*other).into() }),
        None => Err(Error::Truncated("a log's kind of checksum")),
    }
}

fn without_checksum(body: &[u8]) -> Result<&[u8], Error> {
    let end = body.len().checked_sub(CHECKSUM_BYTES).ok_or(Error::Truncated("an event's checksum"))?;
    Ok(&body[..end])
}
