//! What changed in a session, as servers append it to OK packets under SESSION_TRACK.

use crate::codec::{Error, Reader};

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// A session variable now has this value.
    Variable { name: &'a [u8], value: &'a [u8] },
    /// The default schema is now this.
    Schema(&'a [u8]),
    /// MySQL: the ids of the transactions that the session has committed, as text.
    Gtid(&'a [u8]),
    /// Something of the session changed: a variable, but also a temporary table, a user variable, a statement
    /// prepared in SQL, a role.
    State,
    /// A kind this reader does not know.
    Other(u8),
}

/// Calls `each` for every change in a session-state block; stops at the first error.
pub fn each_change<'a>(block: &'a [u8], mut each: impl FnMut(Change<'a>)) -> Result<(), Error> {
    let mut r = Reader::new(block);
    while !r.is_empty() {
        let kind = r.u8("a change's kind")?;
        let mut data = Reader::new(r.lenenc_bytes("a change")?);
        match kind {
            // MariaDB writes several variables into one entry.
            0 => {
                while !data.is_empty() {
                    let name = data.lenenc_bytes("a variable's name")?;
                    each(Change::Variable { name, value: data.lenenc_bytes("a variable's value")? });
                }
            }
            1 => each(Change::Schema(data.lenenc_bytes("the schema")?)),
            2 => each(Change::State),
            3 => {
                // How the ids are written; there is one way so far.
                match data.u8("the ids' encoding")? {
                    0 => each(Change::Gtid(data.lenenc_bytes("transaction ids")?)),
                    value => return Err(Error::Value { what: "the ids' encoding", value: value.into() }),
                }
            }
            other => each(Change::Other(other)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mariadbs_changes_read() {
        let mut seen = Vec::new();
        // `SET NAMES utf8mb4` on MariaDB 10.11, shortened to one variable, and a `USE d`.
        let block = b"\x00\x0e\x09last_gtid\x030-1\x01\x02\x01d\x02\x011";
        each_change(block, |c| seen.push(c)).unwrap();
        assert_eq!(
            seen,
            [Change::Variable { name: b"last_gtid", value: b"0-1" }, Change::Schema(b"d"), Change::State]
        );
    }

    #[test]
    fn mysqls_transaction_ids_read() {
        let mut seen = Vec::new();
        // `INSERT` on MySQL 9.7 under `session_track_gtids=OWN_GTID`, the UUID shortened.
        let block = b"\x00\x0f\x0cstatement_id\x017\x03\x06\x00\x04ab:4";
        each_change(block, |c| seen.push(c)).unwrap();
        assert_eq!(seen, [Change::Variable { name: b"statement_id", value: b"7" }, Change::Gtid(b"ab:4")]);
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(bytes: Vec<u8>) {
            let _ = each_change(&bytes, |_| ());
        }
    }
}
