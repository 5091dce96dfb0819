//! A small client that shows what is on the wire.

use crate::engine::{PASSWORD, USER};
use holdfast_wire::codec::Reader;
use holdfast_wire::greeting::Greeting;
use holdfast_wire::login::{AuthSwitch, HandshakeResponse};
use holdfast_wire::packet::{self, HEADER_BYTES, Header};
use holdfast_wire::reply::{ErrPacket, OkPacket};
use holdfast_wire::tracker::{Event, Tracker};
use holdfast_wire::{Capabilities, command, native_password};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const CAPABILITIES: Capabilities = Capabilities(
    Capabilities::PROTOCOL_41.0
        | Capabilities::SECURE_CONNECTION.0
        | Capabilities::PLUGIN_AUTH.0
        | Capabilities::MULTI_STATEMENTS.0
        | Capabilities::MULTI_RESULTS.0
        | Capabilities::LONG_FLAG.0
        | Capabilities::TRANSACTIONS.0,
);

/// An error packet: number, SQL state, text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub u16, pub String, pub String);

pub struct Client {
    pub stream: TcpStream,
    pub greeting: Greeting,
    pub capabilities: Capabilities,
}

/// How to log in.
pub struct As<'a> {
    pub user: &'a str,
    pub password: &'a str,
    pub schema: Option<&'a str>,
    pub capabilities: Capabilities,
    pub plugin: &'a [u8],
}

impl Default for As<'_> {
    fn default() -> Self {
        As {
            user: USER,
            password: PASSWORD,
            schema: Some("d"),
            capabilities: CAPABILITIES,
            plugin: native_password::NAME,
        }
    }
}

fn refused(payload: &[u8]) -> Refused {
    let err = ErrPacket::parse(payload).unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Refused(err.code, text(err.sqlstate), text(err.message))
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Client {
        Client::log_in(addr, As::default()).await.unwrap()
    }

    pub async fn log_in(addr: SocketAddr, who: As<'_>) -> Result<Client, Refused> {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (_, first) = read_packet(&mut stream).await.expect("a greeting");
        if first[0] == 0xFF {
            return Err(refused(&first));
        }
        let greeting = Greeting::parse(&first).unwrap();
        let mut capabilities = who.capabilities;
        if who.schema.is_some() {
            capabilities = capabilities.with(Capabilities::CONNECT_WITH_DB);
        }
        let response = HandshakeResponse {
            capabilities,
            packet_bytes_max: 1 << 30,
            collation: 45,
            user: who.user.into(),
            auth: native_password::prove(who.password.as_bytes(), &greeting.nonce),
            schema: who.schema.map(Into::into),
            auth_plugin: Some(who.plugin.to_vec()),
            attributes: None,
        };
        send(&mut stream, 1, &response.build()).await;
        let (mut seq, mut reply) = read_packet(&mut stream).await.expect("a reply to the login");
        if reply[0] == 0xFE {
            let switch = AuthSwitch::parse(&reply).unwrap();
            assert_eq!(switch.plugin, native_password::NAME);
            let nonce = switch.data.first_chunk().unwrap();
            send(&mut stream, seq + 1, &native_password::prove(who.password.as_bytes(), nonce)).await;
            (seq, reply) = read_packet(&mut stream).await.expect("a reply to the proof");
        }
        assert!(seq >= 2);
        match reply[0] {
            0 => Ok(Client { stream, greeting, capabilities }),
            _ => Err(refused(&reply)),
        }
    }

    /// Sends a command.
    pub async fn send(&mut self, payload: &[u8]) {
        send(&mut self.stream, 0, payload).await;
    }

    /// The whole reply to `command`, as it came.
    pub async fn reply(&mut self, command: u8) -> std::io::Result<Vec<u8>> {
        let mut tracker = Tracker::new(command, self.capabilities);
        let (mut bytes, mut at) = (Vec::new(), 0);
        loop {
            let step = tracker.feed(&bytes[at..]).expect("a reply of the protocol");
            at += step.consumed;
            match step.event {
                Event::Done => {
                    assert_eq!(at, bytes.len(), "more than the reply");
                    return Ok(bytes);
                }
                Event::More => {
                    let mut more = vec![0; 65_536];
                    let read = tokio::time::timeout(Duration::from_secs(30), self.stream.read(&mut more));
                    match read.await.expect("a reply within 30 s")? {
                        0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                        n => bytes.extend_from_slice(&more[..n]),
                    }
                }
                _ => {}
            }
        }
    }

    /// Sends a command and takes its reply.
    pub async fn command(&mut self, payload: &[u8]) -> std::io::Result<Vec<u8>> {
        self.send(payload).await;
        self.reply(payload[0]).await
    }

    pub async fn send_query(&mut self, sql: &str) {
        self.send(&[&[command::QUERY], sql.as_bytes()].concat()).await;
    }

    pub async fn result(&mut self) -> Result<Vec<Vec<String>>, Refused> {
        let bytes = self.reply(command::QUERY).await.expect("a reply, not the end of the connection");
        self.rows(&bytes)
    }

    /// Runs a statement; the rows of its first result.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<String>>, Refused> {
        self.send_query(sql).await;
        self.result().await
    }

    /// The first column of the first row.
    pub async fn value(&mut self, sql: &str) -> String {
        self.query(sql).await.unwrap()[0][0].clone()
    }

    fn rows(&self, reply: &[u8]) -> Result<Vec<Vec<String>>, Refused> {
        let mut packets = packets(reply).into_iter();
        let first = packets.next().unwrap();
        match first[0] {
            0xFF => return Err(refused(first)),
            0x00 => return Ok(vec![]),
            _ => {}
        }
        let columns = first[0];
        packets.by_ref().take(usize::from(columns)).for_each(|_| ());
        if !self.capabilities.has(Capabilities::DEPRECATE_EOF) {
            packets.next();
        }
        let mut rows = Vec::new();
        for packet in packets {
            if packet[0] == 0xFF {
                return Err(refused(packet));
            }
            // An OK packet may say much about the session, where it ends the rows.
            if packet[0] == 0xFE && (packet.len() < 9 || self.capabilities.has(Capabilities::DEPRECATE_EOF)) {
                break;
            }
            let mut r = Reader::new(packet);
            let column = |_| match r.rest().first() {
                Some(0xFB) => {
                    r.u8("").unwrap();
                    "NULL".to_string()
                }
                _ => String::from_utf8_lossy(r.lenenc_bytes("").unwrap()).into_owned(),
            };
            rows.push((0..columns).map(column).collect());
        }
        Ok(rows)
    }

    /// Prepares a statement; its id.
    pub async fn prepare(&mut self, sql: &str) -> u32 {
        let reply = self.command(&[&[command::STMT_PREPARE], sql.as_bytes()].concat()).await.unwrap();
        assert_eq!(reply[HEADER_BYTES], 0, "{:?}", refused(packets(&reply)[0]));
        u32::from_le_bytes(*reply[5..].first_chunk().unwrap())
    }

    /// Executes a statement with one BIGINT parameter; `types`: say that it is one. The reply's first payload.
    pub async fn execute(&mut self, id: u32, parameter: u64, types: bool) -> Result<Vec<u8>, Refused> {
        let mut payload = vec![command::STMT_EXECUTE];
        payload.extend_from_slice(&id.to_le_bytes());
        payload.extend_from_slice(&[0, 1, 0, 0, 0, 0, u8::from(types)]);
        if types {
            payload.extend_from_slice(&[8, 0]);
        }
        payload.extend_from_slice(&parameter.to_le_bytes());
        let reply = self.command(&payload).await.unwrap();
        let first = packets(&reply)[0];
        if first[0] == 0xFF { Err(refused(first)) } else { Ok(reply) }
    }
}

/// The payloads of the packets in `bytes`.
pub fn packets(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    while let Some((_, payload)) = packet::whole(bytes) {
        out.push(payload);
        bytes = &bytes[HEADER_BYTES + payload.len()..];
    }
    out
}

/// An OK packet's last insert id.
pub fn insert_id(reply: &[u8]) -> u64 {
    OkPacket::parse(packets(reply)[0]).unwrap().last_insert_id
}

pub async fn send(stream: &mut TcpStream, seq: u8, payload: &[u8]) {
    let mut out = Vec::new();
    packet::put(&mut out, seq, payload);
    stream.write_all(&out).await.unwrap();
}

pub async fn read_packet(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let read = async {
        let mut head = [0; HEADER_BYTES];
        stream.read_exact(&mut head).await?;
        let header = Header::read(&head).unwrap();
        let mut payload = vec![0; header.len];
        stream.read_exact(&mut payload).await?;
        Ok((header.seq, payload))
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.expect("a packet within 30 s")
}
