//! Where transactions begin and end in a sequence of events.
//!
//! Guarantees: a transaction has ended only if its last event has come, or another one has begun (they never mix in a log).
//! An event of an unknown kind within a transaction belongs to it; outside of one it is an error, since it could be what
//! changes data (S11).

use super::gtid::Begin;
use super::{Header, IGNORABLE, kind};
use crate::codec::{Error, Reader};

/// A transaction that has begun.
pub type Group = Begin;

/// What an event changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// It was over before this event.
    pub ended_before: Option<Group>,
    /// This event is its last.
    pub ended: Option<Group>,
}

#[derive(Debug, PartialEq, Eq)]
enum Open {
    /// Its id came. The next event tells how it ends.
    Begun(Group),
    /// It ends with a commit.
    Long(Group),
}

/// See the file's contract.
#[derive(Debug, Default)]
pub struct Groups {
    open: Option<Open>,
}

impl Groups {
    /// The transaction whose end has not come yet.
    pub fn open(&self) -> Option<&Group> {
        self.open.as_ref().map(|(Open::Begun(group) | Open::Long(group))| group)
    }

    /// Takes the next event. Of a long one, the first bytes of the body will do: what must be read is short.
    pub fn next(&mut self, header: &Header, body: &[u8]) -> Result<Turn, Error> {
        if header.is_of_the_stream() {
            return Ok(Turn::default());
        }
        if let Some(begin) = Begin::read(header, body) {
            let before = self.open.take();
            let begin = begin?;
            self.open = Some(if is_mariadb(&begin) && !begin.standalone {
                Open::Long(begin)
            } else {
                Open::Begun(begin)
            });
            return Ok(Turn { ended_before: before.map(group), ended: None });
        }
        let Some(open) = self.open.take() else {
            return between(header).map(|()| Turn::default());
        };
        let (open, ended) = match open {
            Open::Long(group) => {
                if ends(header, body) {
                    (None, Some(group))
                } else {
                    (Some(Open::Long(group)), None)
                }
            }
            Open::Begun(group) => first(header, body, group),
        };
        self.open = open;
        Ok(Turn { ended_before: None, ended })
    }
}

fn group(open: Open) -> Group {
    let (Open::Begun(group) | Open::Long(group)) = open;
    group
}

fn is_mariadb(begin: &Begin) -> bool {
    matches!(begin.gtid, super::Gtid::MariaDb { .. })
}

/// The event after an id whose group may be one event.
fn first(header: &Header, body: &[u8], group: Group) -> (Option<Open>, Option<Group>) {
    match header.kind {
        // These come before the event that they belong to.
        kind::INTVAR | kind::RAND | kind::USER_VAR | kind::ANNOTATE_ROWS | kind::ROTATE | kind::FORMAT => {
            (Some(Open::Begun(group)), None)
        }
        kind::QUERY if !is_mariadb(&group) && begins_long(body) => (Some(Open::Long(group)), None),
        // Rows without a BEGIN: the commit comes.
        _ if !is_mariadb(&group) && !is_whole(header.kind) => (Some(Open::Long(group)), None),
        _ => (None, Some(group)),
    }
}

/// Of MySQL: alone it is a transaction.
fn is_whole(kind: u8) -> bool {
    matches!(kind, kind::QUERY | kind::TRANSACTION_PAYLOAD | kind::XA_PREPARE | kind::XID)
}

fn begins_long(body: &[u8]) -> bool {
    let text = statement(body).unwrap_or_default();
    text.starts_with(b"BEGIN") || text.starts_with(b"XA START")
}

fn ends(header: &Header, body: &[u8]) -> bool {
    let commits = |text: &[u8]| {
        // With or without a checksum behind it.
        let bare = text.len().checked_sub(super::CHECKSUM_BYTES).map_or(&b""[..], |n| &text[..n]);
        let plain = [text, bare].iter().any(|t| *t == b"COMMIT" || *t == b"ROLLBACK");
        // What was prepared before is decided in a transaction of its own.
        plain || text.starts_with(b"XA COMMIT") || text.starts_with(b"XA ROLLBACK")
    };
    match header.kind {
        kind::XID | kind::XA_PREPARE | kind::TRANSACTION_PAYLOAD => true,
        kind::QUERY => statement(body).is_ok_and(commits),
        _ => false,
    }
}

/// The text of a statement, and perhaps a checksum.
fn statement(body: &[u8]) -> Result<&[u8], Error> {
    let mut r = Reader::new(body);
    // Thread, time taken.
    r.bytes(8, "a statement")?;
    let schema = r.u8("a statement's schema")?;
    r.u16("a statement's error")?;
    let variables = r.u16("a statement's variables")?;
    r.bytes(variables.into(), "a statement's variables")?;
    r.bytes(usize::from(schema) + 1, "a statement's schema")?;
    Ok(r.rest())
}

/// The server says that its log lacks something that it has done.
pub const INCIDENT: &str = "an incident: events that the server lost";

/// What may come outside of a transaction, and changes no data.
fn between(header: &Header) -> Result<(), Error> {
    match header.kind {
        kind::FORMAT
        | kind::ROTATE
        | kind::STOP
        | kind::IGNORABLE
        | kind::PREVIOUS_GTIDS
        | kind::BINLOG_CHECKPOINT
        | kind::MARIADB_GTID_LIST
        | kind::START_ENCRYPTION => Ok(()),
        _ if header.has(IGNORABLE) => Ok(()),
        kind::INCIDENT => Err(Error::Value { what: INCIDENT, value: header.end.into() }),
        kind::ANONYMOUS_GTID => {
            Err(Error::Value { what: "a transaction without an id", value: header.end.into() })
        }
        other => {
            Err(Error::Value { what: "the kind of an event outside of a transaction", value: other.into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binlog::Gtid;
    use proptest::prelude::*;

    fn of(kind: u8) -> Header {
        Header { timestamp_s: 1, kind, server: 1, bytes: 0, end: 0, flags: 0 }
    }
    fn mariadb(sequence: u64, flags: u8) -> (u8, Vec<u8>) {
        let mut body = sequence.to_le_bytes().to_vec();
        body.extend([0, 0, 0, 0, flags, 0, 0, 0, 0, 0, 0]);
        (kind::MARIADB_GTID, body)
    }
    fn mysql(number: u64) -> (u8, Vec<u8>) {
        let mut body = vec![0; 17];
        body.extend(number.to_le_bytes());
        body.push(2);
        body.extend([0; 23]);
        (kind::GTID, body)
    }
    fn query(text: &str) -> (u8, Vec<u8>) {
        let mut body = vec![0; 8];
        body.extend([4, 0, 0, 2, 0, 9, 9]);
        body.extend(b"shop\0");
        body.extend(text.as_bytes());
        (kind::QUERY, body)
    }
    fn event(kind: u8) -> (u8, Vec<u8>) {
        (kind, b"12345678".to_vec())
    }
    /// Numbers of the transactions that are whole after each event.
    fn whole(events: &[(u8, Vec<u8>)]) -> Result<Vec<u64>, Error> {
        let mut groups = Groups::default();
        let mut out = Vec::new();
        for (kind, body) in events {
            let turn = groups.next(&of(*kind), body)?;
            for group in turn.ended_before.into_iter().chain(turn.ended) {
                out.push(match group.gtid {
                    Gtid::MariaDb { sequence, .. } => sequence,
                    Gtid::MySql { number, .. } => number,
                });
            }
        }
        Ok(out)
    }

    #[test]
    fn a_transaction_ends_where_its_server_says() {
        let rows = || event(23);
        let all = [
            event(kind::FORMAT),
            event(kind::MARIADB_GTID_LIST),
            mariadb(1, 1),
            query("CREATE TABLE t (i INT)"),
            mariadb(2, 0),
            event(kind::ANNOTATE_ROWS),
            rows(),
            event(kind::XID),
            mariadb(3, 0),
            query("INSERT INTO t VALUES ('COMMIT') -- COMMIT"),
            query("COMMIT"),
            mariadb(4, 1),
            event(kind::INTVAR),
            query("INSERT INTO t VALUES (NULL)crc4"),
            mariadb(5, 0),
            query("COMMITcrc4"),
            mariadb(6, 0),
            query("XA START X'61',X'',1"),
            rows(),
            query("XA END X'61',X'',1"),
            event(kind::XA_PREPARE),
            mariadb(7, 0),
            query("XA COMMIT X'61',X'',1crc4"),
        ];
        assert_eq!(whole(&all), Ok(vec![1, 2, 3, 4, 5, 6, 7]));
        assert_eq!(whole(&all[..10]), Ok(vec![1, 2]));
        let all = [
            event(kind::PREVIOUS_GTIDS),
            mysql(1),
            query("CREATE TABLE t (i INT)"),
            mysql(2),
            query("BEGIN"),
            rows(),
            event(kind::XID),
            mysql(3),
            event(kind::TRANSACTION_PAYLOAD),
            mysql(4),
            query("XA START X'61',X'',1"),
            rows(),
            query("XA END X'61',X'',1"),
            event(kind::XA_PREPARE),
            mysql(5),
            query("XA COMMIT X'61',X'',1"),
            event(kind::STOP),
        ];
        assert_eq!(whole(&all), Ok(vec![1, 2, 3, 4, 5]));
        assert_eq!(whole(&all[..13]), Ok(vec![1, 2, 3]));
        // However one ended, it has if another begins.
        assert_eq!(whole(&[mysql(1), query("BEGIN"), rows(), mysql(2)]), Ok(vec![1]));
    }

    #[test]
    fn what_is_not_known_is_an_error_where_it_could_change_data() {
        assert_eq!(whole(&[mariadb(1, 0), event(250), event(kind::XID)]), Ok(vec![1]));
        assert!(whole(&[event(250)]).is_err());
        assert!(whole(&[event(kind::ANONYMOUS_GTID)]).is_err());
        assert!(whole(&[(kind::MARIADB_GTID, b"short".to_vec())]).is_err());
        let ignorable = Header { flags: IGNORABLE, ..of(250) };
        assert_eq!(Groups::default().next(&ignorable, b""), Ok(Turn::default()));
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(events: Vec<(u8, Vec<u8>)>) {
            let _ = whole(&events);
        }
    }
}
