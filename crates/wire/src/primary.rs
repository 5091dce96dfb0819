//! The side of a primary in the replication protocol, for one replica: its login, what it asks before it fetches, and the
//! packets that carry a log.
//!
//! Guarantees: nobody without the password gets further than the login; every question has an answer, an error if it is
//! not known. Does not know: sockets, clocks, where the log comes from.

use crate::binlog;
use crate::codec::{Error, put_lenenc_bytes};
use crate::flags::{Capabilities, Status};
use crate::greeting::Greeting;
use crate::login::{AuthSwitch, FirstPacket};
use crate::native_password::NONCE_BYTES;
use crate::packet;
use crate::prover::Method;
use crate::reply::{ErrPacket, OkPacket, build_eof};
use crate::{caching_sha2, command, dump, native_password};

/// utf8mb4_general_ci.
const COLLATION: u8 = 45;
const OFFERED: Capabilities = Capabilities(
    Capabilities::CLIENT_MYSQL.0
        | Capabilities::LONG_FLAG.0
        | Capabilities::CONNECT_WITH_DB.0
        | Capabilities::PROTOCOL_41.0
        | Capabilities::TRANSACTIONS.0
        | Capabilities::SECURE_CONNECTION.0
        | Capabilities::MULTI_RESULTS.0
        | Capabilities::PLUGIN_AUTH.0,
);

/// What a primary is to the replica.
#[derive(Clone)]
pub struct Identity {
    /// As a server of the replica's flavour says it.
    pub version: String,
    pub server_id: u32,
    /// MySQL's; empty for MariaDB.
    pub uuid: String,
    pub method: Method,
    pub user: String,
    pub password: String,
    /// The events carry checksums.
    pub checksum: bool,
}

/// What to do about a packet of the replica's.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes, whole packets.
    Answer(Vec<u8>),
    /// Send the log now: this packet number comes first.
    Dump { seq: u8 },
    /// Send these bytes, if any, and hang up.
    End(Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The login packet comes.
    Greeted,
    /// The proof for another method comes.
    Switched,
    In,
}

/// See the file's contract.
pub struct Primary {
    is: Identity,
    nonce: [u8; NONCE_BYTES],
    state: State,
}

impl Primary {
    /// The protocol with one replica, and what to send first. `nonce` is random, without zero bytes.
    pub fn new(is: Identity, nonce: [u8; NONCE_BYTES]) -> (Primary, Vec<u8>) {
        let greeting = Greeting {
            server_version: is.version.clone().into_bytes(),
            connection_id: 1,
            nonce,
            capabilities: OFFERED,
            collation: COLLATION,
            status: Status::AUTOCOMMIT,
            auth_plugin: is.method.name().to_vec(),
        };
        let mut out = Vec::new();
        packet::put(&mut out, 0, &greeting.build());
        (Primary { is, nonce, state: State::Greeted }, out)
    }

    /// Takes a packet. `now_s` is seconds since 1970.
    pub fn step(&mut self, seq: u8, payload: &[u8], now_s: u64) -> Step {
        let next = seq.wrapping_add(1);
        match self.state {
            State::Greeted => self.login(next, payload),
            State::Switched => self.proof(next, payload),
            State::In => self.command(next, payload, now_s),
        }
    }

    fn login(&mut self, seq: u8, payload: &[u8]) -> Step {
        let response = match FirstPacket::parse(payload) {
            Ok(FirstPacket::Response(response)) => response,
            Ok(FirstPacket::TlsRequest(_)) | Err(_) => return refused(seq, 1043, "a login was expected"),
        };
        if response.user != self.is.user.as_bytes() {
            return refused(seq, 1045, "nobody else may log in");
        }
        let named = response.auth_plugin.as_deref().is_none_or(|name| name == self.is.method.name());
        if named {
            return self.proof(seq, &response.auth);
        }
        self.state = State::Switched;
        let switch = AuthSwitch { plugin: self.is.method.name().to_vec(), data: self.nonce.to_vec() };
        Step::Answer(framed(seq, &switch.build()))
    }

    fn proof(&mut self, seq: u8, proof: &[u8]) -> Step {
        let password = self.is.password.as_bytes();
        let right = match self.is.method {
            Method::NativePassword => {
                native_password::check(native_password::stored(password).as_ref(), &self.nonce, proof)
            }
            Method::CachingSha2 => {
                caching_sha2::check(caching_sha2::stored(password).as_ref(), &self.nonce, proof)
            }
        };
        if !right {
            return refused(seq, 1045, "the password is another");
        }
        self.state = State::In;
        let mut out = Vec::new();
        let seq = match self.is.method {
            Method::NativePassword => seq,
            Method::CachingSha2 => packet::put(&mut out, seq, &[caching_sha2::MORE, caching_sha2::PROVED]),
        };
        packet::put(&mut out, seq, &ok());
        Step::Answer(out)
    }

    fn command(&self, seq: u8, payload: &[u8], now_s: u64) -> Step {
        match payload.split_first() {
            Some((&command::QUERY, sql)) => {
                Step::Answer(self.query(seq, &String::from_utf8_lossy(sql), now_s))
            }
            Some((&(command::REGISTER_SLAVE | command::PING), _)) => Step::Answer(framed(seq, &ok())),
            Some((&(command::BINLOG_DUMP | command::BINLOG_DUMP_GTID), _)) => Step::Dump { seq },
            Some((&command::QUIT, _)) | None => Step::End(Vec::new()),
            Some(_) => Step::Answer(framed(seq, &error(1047, "this is an archive: it only sends its log"))),
        }
    }

    /// Replicas ask for single variables, and set some of their own.
    fn query(&self, seq: u8, sql: &str, now_s: u64) -> Vec<u8> {
        let lower = sql.trim().trim_end_matches(';').to_ascii_lowercase();
        if lower.starts_with("set ") {
            return framed(seq, &ok());
        }
        // MariaDB asks for this one in its own way.
        if lower == "show variables like 'server_id'" {
            return row(seq, &[("Variable_name", "server_id"), ("Value", &self.is.server_id.to_string())]);
        }
        let (name, value) = match lower.strip_prefix("select ").map(str::trim) {
            Some("unix_timestamp()") => ("UNIX_TIMESTAMP()", now_s.to_string()),
            Some("@@global.server_id") => ("@@GLOBAL.SERVER_ID", self.is.server_id.to_string()),
            Some("@@global.server_uuid") => ("@@GLOBAL.SERVER_UUID", self.is.uuid.clone()),
            Some("@@global.gtid_mode") => ("@@GLOBAL.GTID_MODE", "ON".to_owned()),
            Some("@@global.gtid_domain_id") => ("@@GLOBAL.gtid_domain_id", "0".to_owned()),
            Some("@master_binlog_checksum" | "@source_binlog_checksum") => {
                ("@source_binlog_checksum", if self.is.checksum { "CRC32" } else { "NONE" }.to_owned())
            }
            _ => return framed(seq, &error(1193, "Unknown system variable")),
        };
        row(seq, &[(name, &value)])
    }
}

fn ok() -> Vec<u8> {
    let status = Status::AUTOCOMMIT;
    OkPacket { affected_rows: 0, last_insert_id: 0, status, warnings: 0, info: b"", session_state: b"" }
        .build()
}

fn error(code: u16, message: &str) -> Vec<u8> {
    ErrPacket { code, sqlstate: b"HY000", message: message.as_bytes() }.build()
}

fn refused(seq: u8, code: u16, message: &str) -> Step {
    Step::End(framed(seq, &error(code, message)))
}

fn framed(seq: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    packet::put(&mut out, seq, payload);
    out
}

/// One row: names and values.
fn row(seq: u8, cells: &[(&str, &str)]) -> Vec<u8> {
    let end = build_eof(0, Status::AUTOCOMMIT);
    let mut values = Vec::new();
    cells.iter().for_each(|(_, value)| put_lenenc_bytes(&mut values, value.as_bytes()));
    let columns = cells.iter().map(|(name, value)| column(name, value.len()));
    let parts = [vec![cells.len() as u8]].into_iter().chain(columns).chain([end.clone(), values, end]);
    let mut out = Vec::new();
    parts.fold(seq, |seq, part| packet::put(&mut out, seq, &part));
    out
}

/// A column of texts.
fn column(name: &str, bytes_max: usize) -> Vec<u8> {
    const VAR_STRING: u8 = 0xFD;
    let mut out = Vec::new();
    for text in ["def", "", "", "", name, ""] {
        put_lenenc_bytes(&mut out, text.as_bytes());
    }
    out.push(0x0C);
    out.extend_from_slice(&u16::from(COLLATION).to_le_bytes());
    out.extend_from_slice(&(bytes_max as u32).to_le_bytes());
    out.push(VAR_STRING);
    out.extend_from_slice(&[0; 5]);
    out
}

/// The packets of a log that is being sent.
pub struct Sender {
    seq: u8,
    server_id: u32,
    checksum: bool,
}

impl Sender {
    pub fn new(is: &Identity, seq: u8) -> Sender {
        Sender { seq, server_id: is.server_id, checksum: is.checksum }
    }
    /// Appends an event as it is in the log, checksum included.
    pub fn event(&mut self, out: &mut Vec<u8>, event: &[u8]) {
        let mut rest = event;
        // The first frame has one byte more.
        let first = rest.len().min(packet::FRAME_BYTES_MAX - 1);
        let (head, tail) = rest.split_at(first);
        let mut payload = Vec::with_capacity(head.len() + 1);
        payload.push(dump::EVENT);
        payload.extend_from_slice(head);
        rest = tail;
        if payload.len() < packet::FRAME_BYTES_MAX {
            self.seq = packet::put(out, self.seq, &payload);
            return;
        }
        out.extend_from_slice(&packet::Header { len: payload.len(), seq: self.seq }.to_bytes());
        out.extend_from_slice(&payload);
        self.seq = packet::put(out, self.seq.wrapping_add(1), rest);
    }
    /// The events that follow are of another log: says so, and how they are to be read.
    pub fn describe(&mut self, out: &mut Vec<u8>, file: &str, description: &[u8]) -> Result<(), Error> {
        self.rotate(out, file, binlog::MAGIC.len() as u64);
        self.event(out, description);
        self.checksum = binlog::has_checksums(description.get(binlog::HEADER_BYTES..).unwrap_or_default())?;
        Ok(())
    }
    /// Says where the next events come from.
    pub fn rotate(&mut self, out: &mut Vec<u8>, file: &str, position: u64) {
        let event = binlog::rotate(self.server_id, file, position, self.checksum);
        self.event(out, &event);
    }
    /// Ends the stream with an error that the replica shows.
    pub fn fail(&mut self, out: &mut Vec<u8>, why: &str) {
        self.seq = packet::put(out, self.seq, &error(1236, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::login::HandshakeResponse;
    use crate::prover::{Prover, Step as Proof};

    const NONCE: [u8; NONCE_BYTES] = [9; NONCE_BYTES];

    fn identity(method: Method) -> Identity {
        Identity {
            version: "9.7.4".into(),
            server_id: 77,
            uuid: "u".into(),
            method,
            user: "r".into(),
            password: "secret".into(),
            checksum: true,
        }
    }
    /// The primary after a login with a password, or its refusal.
    fn log_in(method: Method, user: &str, password: &[u8]) -> Result<Primary, Step> {
        let (mut primary, hello) = Primary::new(identity(method), NONCE);
        let greeting = Greeting::parse(packet::whole(&hello).unwrap().1).unwrap();
        let mut prover = Prover::new(&greeting, password, false);
        let (method, auth) = prover.first();
        let login = HandshakeResponse {
            capabilities: OFFERED,
            packet_bytes_max: 1 << 24,
            collation: COLLATION,
            user: user.into(),
            auth,
            schema: None,
            auth_plugin: Some(method.name().to_vec()),
            attributes: None,
        };
        match primary.step(1, &login.build(), 0) {
            Step::Answer(answer) => {
                let mut rest = &answer[..];
                let mut last = Proof::Wait;
                while let Some((header, payload)) = packet::whole(rest) {
                    last = prover.step(payload).unwrap();
                    rest = &rest[packet::HEADER_BYTES + header.len..];
                }
                assert_eq!(last, Proof::Done);
                Ok(primary)
            }
            other => Err(other),
        }
    }

    #[test]
    fn only_who_knows_the_password_gets_in() {
        for method in [Method::NativePassword, Method::CachingSha2] {
            let mut primary = log_in(method, "r", b"secret").ok().unwrap();
            assert_eq!(primary.step(0, b"\x12\x04\0\0\0\0\0\x01\0\0\0", 0), Step::Dump { seq: 1 });
            assert!(matches!(log_in(method, "r", b"other"), Err(Step::End(_))));
            assert!(matches!(log_in(method, "x", b"secret"), Err(Step::End(_))));
        }
        let (mut primary, _) = Primary::new(identity(Method::CachingSha2), NONCE);
        assert!(matches!(primary.step(1, b"\x12", 0), Step::End(_)), "nothing before the login");
    }

    #[test]
    fn what_replicas_ask_is_answered() {
        let mut primary = log_in(Method::CachingSha2, "r", b"secret").ok().unwrap();
        let mut ask = |sql: &str| match primary.step(0, &[b"\x03", sql.as_bytes()].concat(), 5) {
            Step::Answer(answer) => answer,
            other => panic!("{other:?}"),
        };
        assert!(ask("SELECT @@GLOBAL.SERVER_ID").windows(3).any(|w| w == b"\x0277"));
        assert!(ask("SHOW VARIABLES LIKE 'SERVER_ID'").windows(13).any(|w| w == b"\x09server_id\x0277"));
        assert_eq!(ask("SET @slave_uuid = 'x'")[4], 0);
        assert_eq!(ask("SELECT @@global.something")[4], 0xFF);
    }

    #[test]
    fn an_event_of_any_length_is_one_packet() {
        let is = identity(Method::CachingSha2);
        for len in [30, packet::FRAME_BYTES_MAX - 1, packet::FRAME_BYTES_MAX, packet::FRAME_BYTES_MAX + 7] {
            let (mut sender, mut out) = (Sender::new(&is, 1), Vec::new());
            let event: Vec<u8> = (0..len).map(|i| i as u8).collect();
            sender.event(&mut out, &event);
            let (mut rest, mut payload) = (&out[..], Vec::new());
            while let Some(header) = packet::Header::read(rest) {
                payload.extend_from_slice(&rest[4..4 + header.len]);
                rest = &rest[4 + header.len..];
                assert_eq!(header.continues(), !rest.is_empty());
            }
            assert!(payload[0] == dump::EVENT && payload[1..] == event, "{len}");
        }
    }
}
