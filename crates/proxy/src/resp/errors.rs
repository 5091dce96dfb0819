//! Every error that the proxy itself says to a client, in one place. What the engine says is passed on as it is.
//!
//! | first word | when | was the command executed? | what a client should do |
//! |---|---|---|---|
//! | `NOAUTH`, `WRONGPASS`, `NOPROTO` | as engines say them | no | log in |
//! | `ERR` | the proxy does not carry the command, or not now; malformed; too many clients | no | read the text |
//! | `TRYAGAIN` | held too long, too much held, or not sent whole: no primary in time | no | try again; nothing happened |
//! | `READONLY` | a write on the read port | no | use the other port |
//! | `EXECABORT` | the open transaction was lost with its primary | no, none of it | run the whole transaction again |
//! | `OUTCOMEUNKNOWN` | the connection to the engine broke or was cut while the command ran | **unknown** | find out before repeating (S13) |
//! | `UNCONFIRMED` | executed, but too few replicas confirmed in time | on the primary; it **may be lost** | find out before repeating (S13) |
//!
//! A transaction that watched keys and lost its primary is answered as if a key had changed: with nil, which clients
//! run again on.

use std::fmt::Display;

/// An error as a client gets it, without `-` and line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientError(pub Vec<u8>);

/// Bytes of a text that is shown; a name or an engine's message may be longer.
const TEXT_BYTES_MAX: usize = 500;

fn error(text: impl Display) -> ClientError {
    let mut text = text.to_string().into_bytes();
    text.truncate(TEXT_BYTES_MAX);
    ClientError(text)
}

impl ClientError {
    /// As it is written to the client.
    pub fn reply(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() + 3);
        holdfast_wire::resp::put_error(&mut out, &self.0);
        out
    }
}

pub fn too_many_clients(limit: usize) -> ClientError {
    error(format_args!("ERR max number of clients reached: this proxy port is limited to {limit}"))
}

pub fn protocol(problem: impl Display) -> ClientError {
    error(format_args!("ERR Protocol error: {problem}"))
}

pub fn no_auth() -> ClientError {
    error("NOAUTH Authentication required.")
}

pub fn hello_no_auth() -> ClientError {
    error(
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
    )
}

pub fn wrong_pass() -> ClientError {
    error("WRONGPASS invalid username-password pair or user is disabled.")
}

pub fn no_proto() -> ClientError {
    error("NOPROTO unsupported protocol version")
}

pub fn arguments(command: &str) -> ClientError {
    error(format_args!("ERR wrong number of arguments for '{command}' command"))
}

pub fn syntax(command: &str) -> ClientError {
    error(format_args!("ERR Syntax error in {command}"))
}

pub fn refused(command: &[u8], why: impl Display) -> ClientError {
    let command = String::from_utf8_lossy(&command[..command.len().min(64)]).to_uppercase();
    error(format_args!("ERR {command} is not carried by Holdfast's proxy: {why}"))
}

pub fn too_long(what: impl Display) -> ClientError {
    error(format_args!("ERR {what}. The command was NOT executed"))
}

pub fn not_while_subscribed(command: &[u8]) -> ClientError {
    let command = String::from_utf8_lossy(&command[..command.len().min(64)]).to_lowercase();
    error(format_args!(
        "ERR Can't execute '{command}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    ))
}

pub fn not_in_transaction(command: &[u8]) -> ClientError {
    let command = String::from_utf8_lossy(&command[..command.len().min(64)]).to_uppercase();
    error(format_args!(
        "ERR {command} inside MULTI is not carried by Holdfast's proxy. The transaction is discarded: nothing of it was executed"
    ))
}

pub fn read_port() -> ClientError {
    error("READONLY You can't write on the read port; writes go to the service's read/write port")
}

pub fn held_too_long(group: impl Display, why: impl Display, held_ms: u64) -> ClientError {
    error(format_args!(
        "TRYAGAIN {group}: {why}; held for {held_ms} ms. The command was NOT executed; trying again is safe"
    ))
}

pub fn too_much_held(group: impl Display, why: impl Display) -> ClientError {
    error(format_args!(
        "TRYAGAIN {group}: {why}, and the proxy already holds as much as it may. The command was NOT executed; trying again is safe"
    ))
}

pub fn not_sent(group: impl Display) -> ClientError {
    error(format_args!(
        "TRYAGAIN {group}: the connection to the engine broke before the whole command was sent. It was NOT executed; trying again is safe"
    ))
}

pub fn transaction_lost(group: impl Display) -> ClientError {
    error(format_args!(
        "EXECABORT {group}: the transaction was discarded by a change of primary or an earlier error. NOTHING of it was executed; run the whole transaction again"
    ))
}

pub fn state_lost(group: impl Display, what: impl Display) -> ClientError {
    error(format_args!(
        "ERR {group}: the session cannot be set up again on another server ({what}). The command was NOT executed; connect again"
    ))
}

pub fn outcome_unknown(group: impl Display) -> ClientError {
    error(format_args!(
        "OUTCOMEUNKNOWN {group}: the connection to the primary was lost while the command ran. It may or may not have taken effect; check before repeating it"
    ))
}

pub fn unconfirmed(group: impl Display, acks: u32, within_ms: u64) -> ClientError {
    error(format_args!(
        "UNCONFIRMED {group}: written on the primary, not confirmed by {acks} replica(s) within {within_ms} ms. It may be lost with the primary: its outcome is UNKNOWN; check before repeating it"
    ))
}

pub fn cannot_confirm(group: impl Display, said: &ClientError) -> ClientError {
    error(format_args!(
        "UNCONFIRMED {group}: written on the primary, which cannot say whether replicas have it ({}). It may be lost with the primary: its outcome is UNKNOWN; check before repeating it",
        String::from_utf8_lossy(&said.0)
    ))
}

pub fn reply_too_large(group: impl Display) -> ClientError {
    error(format_args!(
        "UNCONFIRMED {group}: the reply is too large to be kept until replicas confirm. The command was executed; read what it changed, or ask for less at a time"
    ))
}

pub fn moved_since(group: impl Display) -> ClientError {
    error(format_args!(
        "OUTCOMEUNKNOWN {group}: the session moved to another primary since its last write; WAIT cannot tell which replicas have that"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_lines_and_bounded() {
        let reply = refused(&[b'\n'; 100_000], "why\r\nnot").reply();
        assert!(reply.len() < 200 && reply.starts_with(b"-ERR ") && reply.ends_with(b"\r\n"));
        assert_eq!(reply.iter().filter(|b| **b == b'\n').count(), 1);
        assert!(state_lost("g", "y".repeat(100_000)).0.len() <= TEXT_BYTES_MAX);
    }
}
