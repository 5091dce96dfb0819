//! What a replica asks of a primary: its log, from a place or after what it has.

use crate::command;

/// MariaDB: rows come with the statement that made them, as they are in the log.
const WITH_STATEMENTS: u16 = 0x02;
/// Behind the event's own bytes, in the packet that carries it.
pub const EVENT: u8 = 0x00;
/// A sender that has nothing more to send and was told not to wait.
pub const END: u8 = 0xFE;

/// The log from a place. With an empty file name and MariaDB's `@slave_connect_state`: after what that says.
pub fn by_place(server_id: u32, file: &str, position: u32, with_statements: bool) -> Vec<u8> {
    let flags = if with_statements { WITH_STATEMENTS } else { 0 };
    let mut out = vec![command::BINLOG_DUMP];
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&server_id.to_le_bytes());
    out.extend_from_slice(file.as_bytes());
    out
}

/// A part of a MySQL GTID set: UUID, tag (or empty), and intervals from first to last number.
pub type Source<'a> = ([u8; 16], &'a str, Vec<(u64, u64)>);

/// Everything that is not in a set of MySQL's.
pub fn by_set(server_id: u32, has: &[Source<'_>]) -> Vec<u8> {
    const THROUGH_GTID: u16 = 0x04;
    const BEGIN: u64 = 4;
    let set = encode(has);
    let mut out = vec![command::BINLOG_DUMP_GTID];
    out.extend_from_slice(&THROUGH_GTID.to_le_bytes());
    out.extend_from_slice(&server_id.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&BEGIN.to_le_bytes());
    out.extend_from_slice(&(set.len() as u32).to_le_bytes());
    out.extend_from_slice(&set);
    out
}

/// With tags the form is another, which older servers do not know.
fn encode(has: &[Source<'_>]) -> Vec<u8> {
    let tagged = has.iter().any(|(_, tag, _)| !tag.is_empty());
    let count = has.len() as u64;
    let head = if tagged { 1 << 56 | count << 8 | 1 } else { count };
    let mut out = head.to_le_bytes().to_vec();
    for (uuid, tag, intervals) in has {
        out.extend_from_slice(uuid);
        if tagged {
            // An integer of variable length; a tag has at most 32 characters.
            out.push((tag.len() as u8) << 1);
            out.extend_from_slice(tag.as_bytes());
        }
        out.extend_from_slice(&(intervals.len() as u64).to_le_bytes());
        for (first, last) in intervals {
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&(last + 1).to_le_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_two_forms() {
        let set = encode(&[([7; 16], "", vec![(1, 5)])]);
        assert_eq!(set.len(), 8 + 16 + 8 + 16);
        assert_eq!(
            (&set[..8], &set[24..32], &set[40..]),
            (&[1, 0, 0, 0, 0, 0, 0, 0][..], &[1, 0, 0, 0, 0, 0, 0, 0][..], &[6, 0, 0, 0, 0, 0, 0, 0][..])
        );
        let set = encode(&[([7; 16], "", vec![(1, 5)]), ([7; 16], "blue", vec![(2, 2)])]);
        assert_eq!(set[..8], [1, 2, 0, 0, 0, 0, 0, 1]);
        assert_eq!((set[24], &set[8 + 16 + 1 + 24 + 16..][..5]), (0, &b"\x08blue"[..]));
    }
}
