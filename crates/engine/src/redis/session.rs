//! Sessions with the engine: bounded in time, never left in doubt.
//!
//! Guarantees: at most one batch per session is in flight. A batch that was not answered in time keeps its connection
//! until it is, and the next one waits behind it; so none takes effect behind the back of a later one of the same
//! session. What an answer may weigh is bounded.
//! Does not know: what the commands mean.

use crate::Error;
use holdfast_wire::resp::put_command;
use holdfast_wire::resp::reply::Scanner;
use holdfast_wire::resp::value::Value;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// No answer that the driver asks for is longer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const READ_BYTES: usize = 64 << 10;

/// Commands that are sent together and answered in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    commands: usize,
}

impl Batch {
    pub(super) fn new(command: &[&str]) -> Batch {
        Batch::default().and(command)
    }
    pub(super) fn and(self, command: &[&str]) -> Batch {
        let args: Vec<&[u8]> = command.iter().map(|a| a.as_bytes()).collect();
        self.and_bytes(&args)
    }
    pub(super) fn followed_by(mut self, more: &Batch) -> Batch {
        self.bytes.extend_from_slice(&more.bytes);
        self.commands += more.commands;
        self
    }
    pub(super) fn and_bytes(mut self, args: &[&[u8]]) -> Batch {
        put_command(&mut self.bytes, args);
        self.commands += 1;
        self
    }
}

/// Where an engine is found, and as whom to log in there.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) place: Place,
    pub(super) user: String,
    pub(super) password: String,
}

#[derive(Debug, Clone)]
pub(super) enum Place {
    Socket(PathBuf),
    Addr(SocketAddr),
}

/// The engine said no, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refusal(pub(super) String);

/// The engine's own words, if it said no.
pub(super) fn refusal(e: &Error) -> Option<&str> {
    match e {
        Error::Failed { source, .. } => source.downcast_ref::<Refusal>().map(|r| r.0.as_str()),
        _ => None,
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that has logged in.
pub(super) struct Conn {
    stream: Box<dyn Stream>,
    /// Received and not read yet.
    buffer: Vec<u8>,
}

impl Conn {
    pub(super) async fn open(door: &Door) -> io::Result<Conn> {
        let stream: Box<dyn Stream> = match &door.place {
            Place::Socket(path) => Box::new(UnixStream::connect(path).await?),
            Place::Addr(addr) => Box::new(TcpStream::connect(addr).await?),
        };
        let mut conn = Conn { stream, buffer: Vec::new() };
        let login = conn.ask(&Batch::new(&["AUTH", &door.user, &door.password])).await?;
        match login.into_iter().next() {
            Some(Value::Error(says)) => Err(io::Error::other(Refusal(says))),
            _ => Ok(conn),
        }
    }

    /// All answers, refusals among them.
    pub(super) async fn ask(&mut self, batch: &Batch) -> io::Result<Vec<Value>> {
        self.stream.write_all(&batch.bytes).await?;
        let mut answers = Vec::with_capacity(batch.commands);
        let (mut scanner, mut seen) = (Scanner::default(), 0);
        while answers.len() < batch.commands {
            match Value::next(&mut scanner, &mut seen, &self.buffer).map_err(io::Error::other)? {
                Some((value, end)) => {
                    self.buffer.drain(..end);
                    answers.push(value);
                }
                None if self.buffer.len() > ANSWER_BYTES_MAX => {
                    return Err(io::Error::other("an answer is too long"));
                }
                None => self.fill().await?,
            }
        }
        Ok(answers)
    }

    /// Sends something that is not answered like a command.
    pub(super) async fn send(&mut self, batch: &Batch) -> io::Result<()> {
        self.stream.write_all(&batch.bytes).await
    }
    /// What came and was not read yet; waits for something if there is nothing.
    pub(super) async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

type Finished = (Option<Conn>, io::Result<Vec<Value>>);

#[derive(Default)]
struct Slot {
    idle: Option<Conn>,
    busy: Option<JoinHandle<Finished>>,
}

/// One connection, made when needed.
#[derive(Default)]
pub(super) struct Session {
    slot: Mutex<Slot>,
    is_open: AtomicBool,
}

impl Session {
    /// Sends a batch through `door`; all answers. The first refusal among them is an error.
    pub(super) async fn run(
        &self,
        doing: &'static str,
        door: &Door,
        batch: Batch,
        within: Duration,
    ) -> Result<Vec<Value>, Error> {
        let answers = self.ask(doing, door, batch, within).await?;
        match answers.iter().find_map(|a| if let Value::Error(says) = a { Some(says) } else { None }) {
            Some(says) => Err(Error::Failed { doing, source: Box::new(Refusal(says.clone())) }),
            None => Ok(answers),
        }
    }

    /// As [`Session::run`]; refusals are answers.
    pub(super) async fn ask(
        &self,
        doing: &'static str,
        door: &Door,
        batch: Batch,
        within: Duration,
    ) -> Result<Vec<Value>, Error> {
        let until = Instant::now() + within;
        let late = || Error::Unresponsive { doing, after_ms: within.as_millis() as u64 };
        let mut slot = timeout_at(until, self.slot.lock()).await.map_err(|_| late())?;
        if let Some(busy) = slot.busy.as_mut() {
            let ended = timeout_at(until, busy).await.map_err(|_| late())?;
            slot.busy = None;
            slot.idle = ended.ok().and_then(|(conn, _)| conn);
        }
        let conn = slot.idle.take();
        // Kept in the slot while it runs, so that a caller who is cancelled leaves it accounted for.
        let task = exchange(door.clone(), conn, batch);
        let ended = timeout_at(until, slot.busy.insert(tokio::spawn(task))).await.map_err(|_| late())?;
        slot.busy = None;
        let interrupted = |_| Error::Precondition(format!("{doing} was interrupted by a shutdown"));
        let (conn, outcome) = ended.map_err(interrupted)?;
        self.is_open.store(conn.is_some(), Ordering::Relaxed);
        slot.idle = conn;
        outcome.map_err(|e| failure(doing, e))
    }

    /// Holds a connection.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Forgets the connection: the process at its other end is gone.
    pub(super) async fn reset(&self) {
        self.is_open.store(false, Ordering::Relaxed);
        let mut slot = self.slot.lock().await;
        if let Some(busy) = slot.busy.take() {
            busy.abort();
        }
        slot.idle = None;
    }
}

async fn exchange(door: Door, conn: Option<Conn>, batch: Batch) -> Finished {
    let mut conn = match conn {
        Some(conn) => conn,
        None => match Conn::open(&door).await {
            Ok(conn) => conn,
            Err(e) => return (None, Err(e)),
        },
    };
    let answers = conn.ask(&batch).await;
    (answers.is_ok().then_some(conn), answers)
}

fn failure(doing: &'static str, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NotRunning,
        _ => match e.downcast::<Refusal>() {
            Ok(refusal) => Error::Failed { doing, source: Box::new(refusal) },
            Err(e) => Error::Failed { doing, source: Box::new(e) },
        },
    }
}
