//! A connection to an engine: login as the session's user, and small commands of the proxy's own.
//!
//! Every wait is bounded. Nothing of a client's is sent here.

use crate::engine_stream::EngineStream;
use crate::mysql::errors::ClientError;
use holdfast_core::secret::Password;
use holdfast_wire::greeting::Greeting;
use holdfast_wire::login::HandshakeResponse;
use holdfast_wire::packet::{self, HEADER_BYTES, Header};
use holdfast_wire::prover::{self, Prover, Step};
use holdfast_wire::reply::{ErrPacket, OkPacket};
use holdfast_wire::tracker::{Event, Tracker};
use holdfast_wire::{Capabilities, Status, command};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// For the TCP connection and the login. An engine that takes longer is tried again while commands are held.
const CONNECT_MS: u64 = 2_000;
/// For one of the proxy's own commands.
pub const COMMAND_MS: u64 = 5_000;
/// No login method talks longer.
const LOGIN_PACKETS_MAX: u64 = 16;
/// A packet of the engine's during login and in answer to the proxy's own commands.
const PACKET_BYTES_MAX: usize = 1 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers, or it broke off. Another attempt may succeed.
    #[error("no connection to the engine")]
    Io(#[from] io::Error),
    #[error("the engine did not answer in time")]
    Timeout,
    /// The engine said no.
    #[error("the engine refused: {}", String::from_utf8_lossy(&.0.text))]
    Refused(ClientError),
    #[error("the engine does not speak the protocol as expected")]
    Protocol(#[from] holdfast_wire::Error),
    #[error("the engine lacks a capability that the client was promised ({0:#x})")]
    Capabilities(u64),
    #[error("the login at the engine cannot go on")]
    Login(#[from] prover::Error),
}

impl Error {
    /// Another attempt may succeed: nothing there, not up yet, or full.
    pub fn is_passing(&self) -> bool {
        match self {
            Error::Io(_) | Error::Timeout => true,
            // Too many connections; host blocked; shutting down; starting up.
            Error::Refused(e) => matches!(e.code, 1040 | 1053 | 1129 | 1927),
            Error::Protocol(_) | Error::Capabilities(_) | Error::Login(_) => false,
        }
    }
}

/// Who logs in, and how.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    pub user: &'a [u8],
    pub password: &'a Password,
    pub schema: Option<&'a [u8]>,
    pub capabilities: Capabilities,
    pub collation: u8,
    pub attributes: Option<&'a [u8]>,
}

/// Capabilities that change what packets look like: both sides must agree.
const SHAPING: Capabilities = Capabilities(
    Capabilities::PROTOCOL_41.0
        | Capabilities::DEPRECATE_EOF.0
        | Capabilities::SESSION_TRACK.0
        | Capabilities::MULTI_RESULTS.0
        | Capabilities::MARIADB_PROGRESS.0
        | Capabilities::MARIADB_STMT_BULK.0
        | Capabilities::MARIADB_EXTENDED_METADATA.0,
);

/// A logged-in connection.
#[derive(Debug)]
pub struct Connection {
    pub stream: EngineStream,
    pub greeting: Greeting,
    pub capabilities: Capabilities,
}

impl Connection {
    /// Connects and logs in: through `socket` if that leads there, else to `addr`.
    pub async fn open(
        addr: SocketAddr,
        socket: Option<&Path>,
        login: Login<'_>,
    ) -> Result<Connection, Error> {
        let within = Duration::from_millis(CONNECT_MS);
        tokio::time::timeout(within, Self::open_unbounded(addr, socket, login))
            .await
            .map_err(|_| Error::Timeout)?
    }

    async fn open_unbounded(
        addr: SocketAddr,
        socket: Option<&Path>,
        login: Login<'_>,
    ) -> Result<Connection, Error> {
        if let Some(socket) = socket
            && let Ok(stream) = UnixStream::connect(socket).await
        {
            match Self::log_in(EngineStream::Unix(stream), login).await {
                // An engine may know this user only under the address of a host.
                Err(error) if !error.is_passing() => tracing::debug!(%error, "refused on the Unix socket"),
                logged_in => return logged_in,
            }
        }
        Self::log_in(EngineStream::tcp(addr).await?, login).await
    }

    async fn log_in(mut stream: EngineStream, login: Login<'_>) -> Result<Connection, Error> {
        let (_, first) = read_packet(&mut stream).await?;
        if first.first() == Some(&0xFF) {
            return Err(refused(&first)?);
        }
        let greeting = Greeting::parse(&first)?;
        let missing = login.capabilities.both(SHAPING).without(greeting.capabilities);
        if missing.0 != 0 {
            return Err(Error::Capabilities(missing.0));
        }
        let mut capabilities = login.capabilities.both(greeting.capabilities);
        if login.schema.is_some() {
            capabilities = capabilities.with(Capabilities::CONNECT_WITH_DB);
        } else {
            capabilities = capabilities.without(Capabilities::CONNECT_WITH_DB);
        }
        let private = matches!(stream, EngineStream::Unix(_));
        let mut prover = Prover::new(&greeting, login.password.expose().as_bytes(), private);
        let (method, auth) = prover.first();
        let response = HandshakeResponse {
            capabilities,
            packet_bytes_max: 1 << 30,
            collation: login.collation,
            user: login.user.to_vec(),
            auth,
            schema: login.schema.map(<[u8]>::to_vec),
            auth_plugin: Some(method.name().to_vec()),
            attributes: login.attributes.map(<[u8]>::to_vec),
        };
        write_packet(&mut stream, 1, &response.build()).await?;
        for _ in 0..LOGIN_PACKETS_MAX {
            let (seq, reply) = read_packet(&mut stream).await?;
            match prover.step(&reply)? {
                Step::Answer(answer) => write_packet(&mut stream, seq.wrapping_add(1), &answer).await?,
                Step::Wait => {}
                Step::Done => return Ok(Connection { stream, greeting, capabilities }),
                Step::Refused => return Err(refused(&reply)?),
            }
        }
        Err(holdfast_wire::Error::Value { what: "the login's length", value: LOGIN_PACKETS_MAX }.into())
    }

    /// Sends a command of the proxy's own and reads its whole reply: `Err(Refused)` if that is an error. The first
    /// packet's payload is returned.
    pub async fn command(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let within = Duration::from_millis(COMMAND_MS);
        tokio::time::timeout(within, self.command_unbounded(payload)).await.map_err(|_| Error::Timeout)?
    }

    async fn command_unbounded(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        write_packet(&mut self.stream, 0, payload).await?;
        read_reply(&mut self.stream, payload.first().copied().unwrap_or_default(), self.capabilities).await
    }

    /// Runs a statement that has no rows; the session's status after it.
    pub async fn query(&mut self, sql: &[u8]) -> Result<Status, Error> {
        let mut payload = Vec::with_capacity(sql.len() + 1);
        payload.push(command::QUERY);
        payload.extend_from_slice(sql);
        Ok(OkPacket::parse(&self.command(&payload).await?)?.status)
    }
}

/// Reads one command's whole reply and returns its first packet's payload.
pub async fn read_reply<R: AsyncReadExt + Unpin>(
    stream: &mut R,
    command: u8,
    capabilities: Capabilities,
) -> Result<Vec<u8>, Error> {
    let mut tracker = Tracker::new(command, capabilities);
    let mut first = None;
    let mut bytes = Vec::new();
    loop {
        let step = tracker.feed(&bytes)?;
        bytes.drain(..step.consumed);
        match step.event {
            Event::Done => return Ok(first.unwrap_or_default()),
            Event::LocalInfile => {
                return Err(holdfast_wire::Error::Value { what: "the reply's kind", value: 0xFB }.into());
            }
            Event::More => {
                let (header, payload) = read_frame(stream).await?;
                if payload.first() == Some(&0xFF) && !header.continues() {
                    return Err(refused(&payload)?);
                }
                bytes.extend_from_slice(&header.to_bytes());
                bytes.extend_from_slice(&payload);
                first.get_or_insert(payload);
            }
            Event::Ok { .. } | Event::Err { .. } | Event::Prepared { .. } => {}
        }
    }
}

/// An engine's no, from the payload of an ERR packet.
pub fn refused(payload: &[u8]) -> Result<Error, Error> {
    Ok(Error::Refused(ClientError::passed_on(&ErrPacket::parse(payload)?)))
}

async fn read_frame<R: AsyncReadExt + Unpin>(stream: &mut R) -> Result<(Header, Vec<u8>), Error> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).await?;
    let header = Header::read(&head).expect("four bytes were read");
    if header.len > PACKET_BYTES_MAX {
        return Err(
            holdfast_wire::Error::Value { what: "a packet's length", value: header.len as u64 }.into()
        );
    }
    let mut payload = vec![0; header.len];
    stream.read_exact(&mut payload).await?;
    Ok((header, payload))
}

/// Reads a packet of one frame: its sequence number and payload.
pub async fn read_packet<R: AsyncReadExt + Unpin>(stream: &mut R) -> Result<(u8, Vec<u8>), Error> {
    read_frame(stream).await.map(|(header, payload)| (header.seq, payload))
}

/// Writes a packet.
pub async fn write_packet<W: AsyncWriteExt + Unpin>(
    stream: &mut W,
    seq: u8,
    payload: &[u8],
) -> io::Result<()> {
    let mut out = Vec::with_capacity(payload.len() + HEADER_BYTES);
    packet::put(&mut out, seq, payload);
    stream.write_all(&out).await?;
    stream.flush().await
}
