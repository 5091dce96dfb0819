//! A connection to an engine: login, and the replay of what a session is. Every wait and every reply is bounded.

use crate::engine_stream::EngineStream;
use crate::resp::errors::ClientError;
use crate::resp::state::Replayed;
use crate::resp::table::Topic;
use holdfast_wire::resp;
use holdfast_wire::resp::reply::{Frame, Scanner};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// For the connection and the replay. An engine that takes longer is tried again while commands are held.
const CONNECT_MS: u64 = 2_000;
/// Bytes of the engine's that are taken in answer to the replay; messages may arrive between.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing answers, or it broke off. Another attempt may succeed.
    #[error("no connection to the engine")]
    Io(#[from] io::Error),
    #[error("the engine did not answer in time")]
    Timeout,
    /// The engine said no.
    #[error("the engine refused: {}", String::from_utf8_lossy(&.0.0))]
    Refused(ClientError),
    #[error("the engine does not speak the protocol as expected")]
    Protocol(#[from] resp::Error),
    #[error("the engine answers more than was asked")]
    TooMuch,
}

impl Error {
    /// Another attempt may succeed: nothing there, not up yet, or full.
    pub fn is_passing(&self) -> bool {
        match self {
            Error::Io(_) | Error::Timeout => true,
            Error::Refused(e) => {
                e.0.starts_with(b"LOADING")
                    || e.0.starts_with(b"MASTERDOWN")
                    || e.0.starts_with(b"ERR max number")
            }
            Error::Protocol(_) | Error::TooMuch => false,
        }
    }
}

/// What makes a connection a session.
#[derive(Debug)]
pub struct Replay {
    pub commands: Vec<u8>,
    pub list: Vec<Replayed>,
    pub subscriptions: Vec<u8>,
    pub confirmations: usize,
}

/// A connection on which the session is set up.
#[derive(Debug)]
pub struct Connection {
    pub stream: EngineStream,
    /// The engine's number for it.
    pub client_id: Option<u64>,
    /// What the engine said beside its answers: messages of what was subscribed to.
    pub leftover: Vec<u8>,
}

struct Answers {
    stream: EngineStream,
    bytes: Vec<u8>,
    /// Where the next answer begins.
    at: usize,
}

impl Answers {
    /// The next one: what it is, and its bytes.
    async fn next(&mut self) -> Result<(Frame, std::ops::Range<usize>), Error> {
        let mut scanner = Scanner::default();
        let (begin, mut end) = (self.at, self.at);
        loop {
            if end < self.bytes.len() {
                let (taken, frame) = scanner.feed(&self.bytes[end..])?;
                end += taken;
                if let Some(frame) = frame {
                    self.at = end;
                    return Ok((frame, begin..end));
                }
            }
            if self.bytes.len() > ANSWER_BYTES_MAX {
                return Err(Error::TooMuch);
            }
            if self.stream.read_buf(&mut self.bytes).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

impl Connection {
    /// Connects and sets the session up: through `socket` if that leads there, else to `addr`.
    pub async fn open(addr: SocketAddr, socket: Option<&Path>, replay: &Replay) -> Result<Connection, Error> {
        let within = Duration::from_millis(CONNECT_MS);
        tokio::time::timeout(within, Self::open_unbounded(addr, socket, replay))
            .await
            .map_err(|_| Error::Timeout)?
    }

    async fn open_unbounded(
        addr: SocketAddr,
        socket: Option<&Path>,
        replay: &Replay,
    ) -> Result<Connection, Error> {
        let unix = match socket {
            Some(socket) => UnixStream::connect(socket).await.ok(),
            None => None,
        };
        let stream = match unix {
            Some(stream) => EngineStream::Unix(stream),
            None => EngineStream::tcp(addr).await?,
        };
        Self::set_up(stream, replay).await
    }

    async fn set_up(mut stream: EngineStream, replay: &Replay) -> Result<Connection, Error> {
        stream.write_all(&replay.commands).await?;
        let mut answers = Answers { stream, bytes: Vec::new(), at: 0 };
        let mut client_id = None;
        for command in &replay.list {
            let (frame, bytes) = answers.next().await?;
            client_id = client_id.or_else(|| id_in(&answers.bytes[bytes.clone()]));
            if frame.kind == b'-' && !command.is_optional {
                let text = &answers.bytes[bytes.start + 1..bytes.end - 2];
                return Err(Error::Refused(ClientError(text.to_vec())));
            }
        }
        let mut leftover = Vec::new();
        if replay.confirmations > 0 {
            answers.stream.write_all(&replay.subscriptions).await?;
            let mut left = replay.confirmations;
            while left > 0 {
                let (frame, bytes) = answers.next().await?;
                if frame.kind == b'-' {
                    let text = &answers.bytes[bytes.start + 1..bytes.end - 2];
                    return Err(Error::Refused(ClientError(text.to_vec())));
                }
                if is_confirmation(&frame) {
                    left -= 1;
                } else {
                    leftover.extend_from_slice(&answers.bytes[bytes]);
                }
            }
        }
        leftover.extend_from_slice(&answers.bytes[answers.at..]);
        Ok(Connection { stream: answers.stream, client_id, leftover })
    }
}

/// The number of the connection in an answer to HELLO.
fn id_in(hello: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"$2\r\nid\r\n:";
    let at = hello.windows(NAME.len()).position(|w| w == NAME)? + NAME.len();
    std::str::from_utf8(hello[at..].split(|b| *b == b'\r').next()?).ok()?.parse().ok()
}

fn is_confirmation(frame: &Frame) -> bool {
    let head = frame.head.bytes();
    [Topic::Channel, Topic::Pattern, Topic::Shard].iter().any(|topic| topic.words().0.as_bytes() == head)
}
