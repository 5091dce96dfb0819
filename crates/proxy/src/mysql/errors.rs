//! Every error that the proxy itself says to a client, in one place. What the engine says is passed on as it is.
//!
//! | code | SQL state | when | was the statement executed? | what a client should do |
//! |---|---|---|---|---|
//! | 1040 | 08004 | the listener has as many connections as it may | no | try again later |
//! | 1043 | 08S01 | what came is not a MySQL login | no | nothing |
//! | 1045 | 28000 | user or password wrong | no | correct them |
//! | 1047 | 08S01 | a command that the proxy does not carry (replication) | no | connect to the engine |
//! | 1053 | 08S01 | held too long, or too much is held: no writer in time | no | try again; nothing happened |
//! | 1094 | HY000 | KILL of a session that is gone | no | nothing |
//! | 1095 | HY000 | KILL of another user's session that has no connection now | no | nothing |
//! | 1156 | 08S01 | packets out of order, or an empty one | no | connect again |
//! | 1213 | 40001 | the open transaction was lost in a failover; no commit was in flight | its effects are gone | run the whole transaction again |
//! | 1243 | HY000 | the prepared statement does not exist | no | prepare it |
//! | 1317 | 70100 | KILL QUERY while the statement was held | no | nothing |
//! | 1927 | 70100 | session state that cannot be moved was lost (temporary table, lock, user variable …) | no | set it up again, then repeat |
//! | 1158 | 08007 | the connection to the engine broke or was cut while the statement ran | **unknown** | find out before repeating (S13) |
//!
//! Only numbers that a server may send: clients built on MariaDB Connector/C take one from the client's own range (2006,
//! 2013) for a malformed packet. 1213 is what frameworks run again on; 1927 is MariaDB's own word for a connection that
//! was ended from outside, 1158 for one that broke. 08007 is the standard's "transaction resolution unknown".

use holdfast_wire::packet;
use holdfast_wire::reply::ErrPacket;
use std::fmt::Display;

/// An error as a client gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientError {
    pub code: u16,
    pub sqlstate: [u8; 5],
    pub text: Vec<u8>,
}

/// KILL QUERY, and what else ends a statement from outside.
pub const INTERRUPTED: u16 = 1317;
/// A statement took longer than the session allows, as MySQL and MariaDB say it.
pub const TOO_LONG: [u16; 2] = [3024, 1969];

/// Bytes of a text that is shown; a user name or an engine's message may be longer.
const TEXT_BYTES_MAX: usize = 500;

impl ClientError {
    fn new(code: u16, sqlstate: &[u8; 5], text: impl Display) -> ClientError {
        let mut text = text.to_string().into_bytes();
        text.truncate(TEXT_BYTES_MAX);
        ClientError { code, sqlstate: *sqlstate, text }
    }
    /// What an engine said, to be passed on.
    pub fn passed_on(err: &ErrPacket<'_>) -> ClientError {
        let sqlstate = err.sqlstate.try_into().unwrap_or(*b"HY000");
        ClientError { code: err.code, sqlstate, text: err.message.to_vec() }
    }
    /// The packet with sequence number `seq`.
    pub fn packet(&self, seq: u8) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text.len() + 16);
        let payload = ErrPacket { code: self.code, sqlstate: &self.sqlstate, message: &self.text }.build();
        packet::put(&mut out, seq, &payload);
        out
    }
}

pub fn too_many_connections(limit: usize) -> ClientError {
    ClientError::new(
        1040,
        b"08004",
        format_args!("Too many connections: this proxy port is limited to {limit}"),
    )
}

pub fn bad_handshake() -> ClientError {
    ClientError::new(
        1043,
        b"08S01",
        "Bad handshake: this port speaks the MySQL protocol, version 4.1 or later",
    )
}

pub fn access_denied(user: &[u8], host: impl Display, with_password: bool) -> ClientError {
    let using = if with_password { "YES" } else { "NO" };
    let user = String::from_utf8_lossy(&user[..user.len().min(64)]);
    ClientError::new(
        1045,
        b"28000",
        format_args!("Access denied for user '{user}'@'{host}' (using password: {using})"),
    )
}

pub fn unsupported_command(command: u8) -> ClientError {
    ClientError::new(
        1047,
        b"08S01",
        format_args!(
            "Unknown command: the proxy does not carry command 0x{command:02X} (replication connects to the engine)"
        ),
    )
}

pub fn held_too_long(group: impl Display, why: impl Display, held_ms: u64) -> ClientError {
    ClientError::new(
        1053,
        b"08S01",
        format_args!(
            "{group}: {why}; held for {held_ms} ms. The statement was NOT executed; trying again is safe"
        ),
    )
}

pub fn too_much_held(group: impl Display, why: impl Display) -> ClientError {
    ClientError::new(
        1053,
        b"08S01",
        format_args!(
            "{group}: {why}, and the proxy already holds as much as it may. The statement was NOT executed; trying again is safe"
        ),
    )
}

pub fn not_sent(group: impl Display) -> ClientError {
    ClientError::new(
        1053,
        b"08S01",
        format_args!(
            "{group}: the connection to the engine broke before the whole statement was sent. It was NOT executed; trying again is safe"
        ),
    )
}

pub fn unknown_thread(id: u32) -> ClientError {
    ClientError::new(1094, b"HY000", format_args!("Unknown thread id: {id}"))
}

pub fn not_owner(id: u32) -> ClientError {
    ClientError::new(1095, b"HY000", format_args!("You are not owner of thread {id}"))
}

pub fn out_of_order() -> ClientError {
    ClientError::new(1156, b"08S01", "Got packets out of order")
}

pub fn transaction_lost(group: impl Display) -> ClientError {
    ClientError::new(
        1213,
        b"40001",
        format_args!(
            "{group}: the transaction was rolled back by a change of primary (no commit was in flight); run the whole transaction again"
        ),
    )
}

pub fn unknown_statement(id: u32) -> ClientError {
    ClientError::new(1243, b"HY000", format_args!("Unknown prepared statement handler ({id})"))
}

pub fn query_killed() -> ClientError {
    ClientError::new(
        INTERRUPTED,
        b"70100",
        "Query execution was interrupted while it was held; it was NOT executed",
    )
}

pub fn state_lost(group: impl Display, what: impl Display) -> ClientError {
    ClientError::new(
        1927,
        b"70100",
        format_args!(
            "{group}: the session moved to another server and lost what cannot be moved ({what}). The statement was NOT executed; set the session up again, then repeat it"
        ),
    )
}

pub fn outcome_unknown(group: impl Display) -> ClientError {
    ClientError::new(
        1158,
        b"08007",
        format_args!(
            "{group}: the connection to the primary was lost while the statement ran. Its outcome is UNKNOWN: it may or may not have taken effect; check before repeating it"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_reads_back() {
        let sent = outcome_unknown("shop");
        let bytes = sent.packet(1);
        let (header, payload) = packet::whole(&bytes).unwrap();
        assert_eq!(header.seq, 1);
        assert_eq!(ClientError::passed_on(&ErrPacket::parse(payload).unwrap()), sent);
    }

    #[test]
    fn texts_are_bounded() {
        assert!(access_denied(&[b'x'; 100_000], "h", true).text.len() < 200);
        assert!(state_lost("g", "y".repeat(100_000)).text.len() <= TEXT_BYTES_MAX);
    }
}
