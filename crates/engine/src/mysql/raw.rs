//! A connection to a server, packet by packet: for what no client library sends.
//!
//! Guarantees: bounded in what is read. Does not know: how long anything may take; its callers do.

use holdfast_wire::greeting::Greeting;
use holdfast_wire::login::HandshakeResponse;
use holdfast_wire::packet::{self, HEADER_BYTES, Header};
use holdfast_wire::prover::{Prover, Step};
use holdfast_wire::reply::ErrPacket;
use holdfast_wire::{Capabilities, command};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A greeting, an OK, an error: all are short.
const SHORT_BYTES_MAX: usize = 64 << 10;
/// No login method talks longer.
const LOGIN_PACKETS_MAX: usize = 16;
const UTF8: u8 = 33;

/// An error packet of the server's.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {text}")]
pub(super) struct Refused {
    pub(super) code: u16,
    pub(super) text: String,
}

/// See the file's contract.
pub(super) struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// Connects and logs in.
    pub(super) async fn connect(to: SocketAddr, user: &str, password: &str) -> io::Result<Raw> {
        let mut raw = Raw { stream: TcpStream::connect(to).await? };
        raw.log_in(user, password).await?;
        Ok(raw)
    }

    async fn log_in(&mut self, user: &str, password: &str) -> io::Result<()> {
        let (_, first) = read(&mut self.stream).await?;
        let greeting = Greeting::parse(&first).map_err(io::Error::other)?;
        let wanted =
            Capabilities::PROTOCOL_41.with(Capabilities::SECURE_CONNECTION).with(Capabilities::PLUGIN_AUTH);
        let mut prover = Prover::new(&greeting, password.as_bytes(), false);
        let (method, auth) = prover.first();
        let response = HandshakeResponse {
            capabilities: wanted.both(greeting.capabilities),
            packet_bytes_max: packet::FRAME_BYTES_MAX as u32,
            collation: UTF8,
            user: user.as_bytes().to_vec(),
            auth,
            schema: None,
            auth_plugin: Some(method.name().to_vec()),
            attributes: None,
        };
        self.write(1, &response.build()).await?;
        for _ in 0..LOGIN_PACKETS_MAX {
            let (seq, reply) = self.read().await?;
            match prover.step(&reply).map_err(io::Error::other)? {
                Step::Answer(answer) => self.write(seq.wrapping_add(1), &answer).await?,
                Step::Wait => {}
                Step::Done | Step::Refused => return accepted(&reply),
            }
        }
        Err(io::Error::other("the server's login has no end"))
    }

    /// Begins a query.
    pub(super) async fn query(&mut self, sql: &str) -> io::Result<()> {
        let mut packet = vec![command::QUERY];
        packet.extend_from_slice(sql.as_bytes());
        self.command(&packet).await
    }

    /// A statement that answers with nothing but its success.
    pub(super) async fn execute(&mut self, sql: &str) -> io::Result<()> {
        self.query(sql).await?;
        accepted(&self.read().await?.1)
    }

    /// Begins a command.
    pub(super) async fn command(&mut self, payload: &[u8]) -> io::Result<()> {
        self.write(0, payload).await
    }

    async fn write(&mut self, seq: u8, payload: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
        packet::put(&mut out, seq, payload);
        self.stream.write_all(&out).await
    }

    /// A short packet.
    pub(super) async fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        read(&mut self.stream).await
    }

    /// The next frame, of at most [`packet::FRAME_BYTES_MAX`] bytes, appended to `into`; whether its packet goes on in
    /// another one.
    pub(super) async fn frame(&mut self, into: &mut Vec<u8>) -> io::Result<bool> {
        let mut head = [0; HEADER_BYTES];
        self.stream.read_exact(&mut head).await?;
        let header = Header::read(&head).ok_or_else(|| io::Error::other("no packet"))?;
        let begin = into.len();
        into.resize(begin + header.len, 0);
        self.stream.read_exact(&mut into[begin..]).await?;
        Ok(header.continues())
    }
}

/// Fails with [`Refused`] if a packet is an error.
pub(super) fn accepted(reply: &[u8]) -> io::Result<()> {
    match ErrPacket::parse(reply) {
        Ok(e) => {
            let text = String::from_utf8_lossy(e.message).into_owned();
            Err(io::Error::other(Refused { code: e.code, text }))
        }
        Err(_) => Ok(()),
    }
}

/// A short packet.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).await?;
    let header = Header::read(&head).ok_or_else(|| io::Error::other("no packet"))?;
    if header.len > SHORT_BYTES_MAX {
        return Err(io::Error::other("the server's packet is too long"));
    }
    let mut payload = vec![0; header.len];
    stream.read_exact(&mut payload).await?;
    Ok((header.seq, payload))
}
