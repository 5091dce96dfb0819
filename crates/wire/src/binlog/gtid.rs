//! Transaction ids, as the events that begin a transaction carry them.

use super::{Header, kind};
use crate::codec::{Error, Reader};

/// A transaction's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gtid {
    MariaDb {
        domain: u32,
        server: u32,
        sequence: u64,
    },
    /// `tag` is empty for most.
    MySql {
        uuid: [u8; 16],
        tag: String,
        number: u64,
    },
}

/// What an event that begins a transaction says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    pub gtid: Gtid,
    /// When it was committed, in µs since 1970 by the clock of the server where that was. MariaDB tells only the second in
    /// which its last statement began.
    pub time_us: u64,
    /// MariaDB: it is the one event that follows.
    pub(super) standalone: bool,
}

const STANDALONE: u8 = 1;
const TAG_CHARS_MAX: u64 = 32;
/// In the first of two commit times: the second follows.
const ORIGINAL_FOLLOWS: u64 = 1 << 55;
/// Of a MySQL event: what orders transactions for parallel replicas.
const LOGICAL_CLOCK: u8 = 2;

impl Begin {
    /// `None` if an event of this kind begins no transaction.
    pub(super) fn read(header: &Header, body: &[u8]) -> Option<Result<Begin, Error>> {
        Some(match header.kind {
            kind::MARIADB_GTID => mariadb(header, body),
            kind::GTID => mysql(body),
            kind::TAGGED_GTID => tagged(body),
            _ => return None,
        })
    }
}

fn mariadb(header: &Header, body: &[u8]) -> Result<Begin, Error> {
    let mut r = Reader::new(body);
    let sequence = r.u64("a GTID's sequence number")?;
    let domain = r.u32("a GTID's domain")?;
    let standalone = r.u8("a GTID's flags")? & STANDALONE != 0;
    let gtid = Gtid::MariaDb { domain, server: header.server, sequence };
    Ok(Begin { gtid, time_us: u64::from(header.timestamp_s) * 1_000_000, standalone })
}

fn mysql(body: &[u8]) -> Result<Begin, Error> {
    let mut r = Reader::new(body);
    r.u8("a GTID's flags")?;
    let uuid = uuid(r.bytes(16, "a GTID's UUID")?);
    let number = r.u64("a GTID's number")?;
    let kind = r.u8("a GTID's clock")?;
    if kind != LOGICAL_CLOCK {
        return Err(Error::Value { what: "a GTID's clock", value: kind.into() });
    }
    r.bytes(16, "a GTID's clock")?;
    let immediate = r.u56("a commit time")?;
    let time_us = match immediate & ORIGINAL_FOLLOWS != 0 {
        true => r.u56("an original commit time")?,
        false => immediate,
    };
    Ok(Begin { gtid: Gtid::MySql { uuid, tag: String::new(), number }, time_us, standalone: false })
}

fn uuid(bytes: &[u8]) -> [u8; 16] {
    std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0))
}

/// Fields behind their numbers, each an integer of variable length.
fn tagged(body: &[u8]) -> Result<Begin, Error> {
    const FIELDS_MAX: usize = 64;
    let mut r = Reader::new(body);
    let version = varint(&mut r)?;
    if version != 1 {
        return Err(Error::Value { what: "the form of a tagged GTID", value: version });
    }
    let size = usize::try_from(varint(&mut r)?).unwrap_or(usize::MAX);
    let used = body.len() - r.rest().len();
    let fields = size.checked_sub(used).ok_or(Error::Truncated("a tagged GTID"))?;
    let mut r = Reader::new(r.bytes(fields, "a tagged GTID")?);
    varint(&mut r)?;
    let (mut id, mut number, mut tag) = ([0; 16], None, None);
    let (mut immediate, mut original) = (None, None);
    for _ in 0..FIELDS_MAX {
        if r.is_empty() {
            break;
        }
        match varint(&mut r)? {
            1 => {
                for byte in &mut id {
                    let value = varint(&mut r)?;
                    *byte = u8::try_from(value).map_err(|_| Error::Value { what: "a GTID's UUID", value })?;
                }
            }
            2 => number = Some(signed(varint(&mut r)?)?),
            3 => tag = Some(text(&mut r)?),
            6 => immediate = Some(varint(&mut r)?),
            7 => original = Some(varint(&mut r)?),
            // All the others that there are: one integer each.
            0 | 4 | 5 | 8..=11 => _ = varint(&mut r)?,
            value => return Err(Error::Value { what: "a field of a tagged GTID", value }),
        }
    }
    let number = number.ok_or(Error::Truncated("a GTID's number"))?;
    let time_us = original.or(immediate).ok_or(Error::Truncated("a commit time"))?;
    let gtid = Gtid::MySql { uuid: id, tag: tag.unwrap_or_default(), number };
    Ok(Begin { gtid, time_us, standalone: false })
}

fn text(r: &mut Reader<'_>) -> Result<String, Error> {
    let length = varint(r)?;
    if length > TAG_CHARS_MAX {
        return Err(Error::Value { what: "the length of a tag", value: length });
    }
    let bytes = r.bytes(length as usize, "a GTID's tag")?;
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::Truncated("a GTID's tag"))
}

/// As many more bytes as the first one has ones at its low end.
fn varint(r: &mut Reader<'_>) -> Result<u64, Error> {
    const WHAT: &str = "an integer of a tagged GTID";
    let first = r.u8(WHAT)?;
    let more = first.trailing_ones() as usize;
    let mut le = [0; 8];
    le[..more].copy_from_slice(r.bytes(more, WHAT)?);
    let high = u64::from_le_bytes(le);
    // The bits that the first byte has left come below the others.
    Ok(match more {
        0..=6 => high << (7 - more) | u64::from(first) >> (more + 1),
        _ => high,
    })
}

/// The sign is the lowest bit. No number of a transaction is negative.
fn signed(value: u64) -> Result<u64, Error> {
    match value & 1 {
        0 => Ok(value >> 1),
        _ => Err(Error::Value { what: "a GTID's number", value }),
    }
}

/// What a MariaDB log held before this file: domain, server and sequence number of each last transaction.
pub fn mariadb_gtid_list(body: &[u8]) -> Result<Vec<(u32, u32, u64)>, Error> {
    const COUNT: u32 = 0x0fff_ffff;
    let mut r = Reader::new(body);
    let count = r.u32("a GTID list")? & COUNT;
    (0..count)
        .map(|_| {
            let (domain, server) = (r.u32("a GTID list")?, r.u32("a GTID list")?);
            Ok((domain, server, r.u64("a GTID list")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    }
    fn header(kind: u8) -> Header {
        Header { timestamp_s: 9, kind, server: 5, bytes: 0, end: 0, flags: 0 }
    }
    fn read(kind: u8, body: &str) -> Result<Begin, Error> {
        Begin::read(&header(kind), &hex(body)).unwrap()
    }
    const UUID: &str = "fe06beb0e8de11f1b46f02fc00000001";

    #[test]
    fn ids_and_commit_times_are_those_that_servers_wrote() {
        // MySQL 9.7.4, with its checksum.
        let plain = format!(
            "00{UUID}03000000000000000202000000000000000300000000000000a546f4e41a6106fc0c01506201008c442519"
        );
        let uuid = uuid(&hex(UUID));
        let gtid = Gtid::MySql { uuid, tag: String::new(), number: 3 };
        let expected = Begin { gtid, time_us: 1_795_617_998_522_021, standalone: false };
        assert_eq!(read(kind::GTID, &plain), Ok(expected));
        // Committed elsewhere before: that time counts.
        let applied = plain.replace("a546f4e41a6106", "a546f4e41a6186a446f4e41a6106");
        assert_eq!(read(kind::GTID, &applied).unwrap().time_us, 1_795_617_998_522_020);
        let tagged = "027400000002f9030cf902c102a103790322c503d102de04f1030000000204040608626c756508080a100c7f8f5ef4e41a61061039041283120b00bf02f6";
        let gtid = Gtid::MySql { uuid, tag: "blue".into(), number: 1 };
        let expected = Begin { gtid, time_us: 1_795_617_998_528_143, standalone: false };
        assert_eq!(read(kind::TAGGED_GTID, tagged), Ok(expected));
        let gtid = Gtid::MariaDb { domain: 2, server: 5, sequence: 7 };
        let expected = Begin { gtid, time_us: 9_000_000, standalone: true };
        assert_eq!(read(kind::MARIADB_GTID, "07000000000000000200000001000000000000"), Ok(expected));
    }

    #[test]
    fn integers_have_as_many_bytes_as_the_first_one_says() {
        let read = |bytes: &[u8]| varint(&mut Reader::new(bytes));
        assert_eq!(read(&[0xf9, 0x03]), Ok(0xfe));
        assert_eq!(read(&[0x0c]), Ok(6));
        assert_eq!(read(&[0x7f, 1, 0, 0, 0, 0, 0, 0]), Ok(1));
        assert_eq!(read(&[0xff, 1, 0, 0, 0, 0, 0, 0, 0x80]), Ok(1 << 63 | 1));
        assert!(read(&[0xff, 1]).is_err());
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(body: Vec<u8>) {
            for kind in [kind::GTID, kind::TAGGED_GTID, kind::MARIADB_GTID] {
                let _ = Begin::read(&header(kind), &body);
            }
            let _ = mariadb_gtid_list(&body);
        }
    }
}
