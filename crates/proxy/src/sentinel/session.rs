//! One client of the Sentinel's interface: reads its commands, writes replies, and passes events on.
//!
//! Guarantees: replies are in order; a client that does not read what it gets is disconnected, before more than
//! `OUTBOX_BYTES` wait for it; one that has subscribed and is idle stays, as with a Sentinel.

use super::Shared;
use super::command::{Client, Counts, Desk, Effect};
use super::events::Event;
use crate::buffer::Buffer;
use crate::client::ClientStream;
use crate::resp::errors;
use holdfast_core::limits;
use holdfast_wire::resp::command::{Args, Bounds, Kind, Scanner};
use holdfast_wire::resp::inline;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::broadcast;
use tokio::time::Instant;

/// No command of Sentinel's is longer.
const BOUNDS: Bounds = Bounds { args: 128, arg_bytes: 4 << 10, inline_bytes: 4 << 10 };
const COMMAND_BYTES: usize = 16 << 10;
/// With more waiting for it, a client must first take some: nothing more is read from it.
const OUTBOX_BYTES: usize = 64 << 10;
/// With more it is disconnected. One reply, of a thousand services, is within it.
const OUTBOX_BYTES_MAX: usize = 4 << 20;
/// A client that takes nothing for this long is gone.
const STALLED_MS: u64 = 10_000;
/// A wish for a switchover is answered within this time.
const SWITCHOVER_ANSWER_MS: u64 = 5_000;

/// See the file's contract.
pub struct Session {
    shared: Arc<Shared>,
    read: ReadHalf<ClientStream>,
    write: WriteHalf<ClientStream>,
    inbox: Buffer,
    outbox: Vec<u8>,
    scanner: Scanner,
    scanned: usize,
    client: Client,
    /// From the first subscription on.
    events: Option<broadcast::Receiver<Arc<Event>>>,
    /// It must have logged in by then.
    log_in_until: Instant,
}

/// The client is gone, or was told its last word.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Over {
        Over
    }
}

impl Session {
    pub fn new(shared: Arc<Shared>, id: u64, peer: SocketAddr, stream: ClientStream) -> Session {
        let private = matches!(stream, ClientStream::Tls(_)) || peer.ip().to_canonical().is_loopback();
        let client = Client::new(id, private, &shared.doors);
        let (read, write) = tokio::io::split(stream);
        Session {
            shared,
            read,
            write,
            inbox: Buffer::default(),
            outbox: Vec::new(),
            scanner: Scanner::default(),
            scanned: 0,
            client,
            events: None,
            log_in_until: Instant::now() + Duration::from_millis(limits::PROXY_LOGIN_MS),
        }
    }

    pub async fn run(mut self) {
        let Err(Over) = self.serve().await;
        // The last word, if there is one.
        let _ = self.flush().await;
        let _ = tokio::time::timeout(Duration::from_millis(STALLED_MS), self.write.shutdown()).await;
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, Over> {
        loop {
            while self.outbox.len() <= OUTBOX_BYTES && self.command().await? {}
            self.flush().await?;
            self.events = match self.events.take() {
                None if self.client.listens() => Some(self.shared.events.subscribe()),
                events => events.filter(|_| self.client.listens()),
            };
            self.wait().await?;
        }
    }

    /// Waits for bytes of the client or for an event.
    async fn wait(&mut self) -> Result<(), Over> {
        let Session { read, inbox, events, client, outbox, log_in_until, .. } = self;
        let event = async {
            match events {
                Some(events) => events.recv().await,
                None => std::future::pending().await,
            }
        };
        let late = async {
            match client.is_known() {
                false => tokio::time::sleep_until(*log_in_until).await,
                true => std::future::pending().await,
            }
        };
        tokio::select! {
            event = event => match event {
                Ok(event) => {
                    client.deliver(&event, outbox);
                    Ok(())
                }
                // It was too slow, or this process stops. What it missed it cannot know, so it has to ask again.
                Err(_) => Err(Over),
            },
            () = late => Err(Over),
            read = std::future::poll_fn(|cx| inbox.poll_fill(cx, read, false)) => match read? {
                0 => Err(Over),
                _ => Ok(()),
            },
        }
    }

    /// Answers the next command, if it is here whole.
    async fn command(&mut self) -> Result<bool, Over> {
        let scanned = self.scanner.feed(&self.inbox.bytes()[self.scanned..], &BOUNDS);
        let kind = match scanned {
            Ok((n, kind)) => {
                self.scanned += n;
                kind
            }
            Err(error) => return self.bad(error),
        };
        if self.scanned > COMMAND_BYTES {
            return self.bad("too big request");
        }
        let Some(kind) = kind else { return Ok(false) };
        let bytes = &self.inbox.bytes()[..self.scanned];
        let args = match kind {
            Kind::Array => Args::of(bytes).map(<[u8]>::to_vec).collect(),
            Kind::Nothing => Vec::new(),
            Kind::Inline => match inline::split(bytes) {
                Ok(words) => words,
                Err(error) => return self.bad(error),
            },
        };
        self.inbox.consume(self.scanned);
        self.inbox.shrink();
        self.scanned = 0;
        self.answer(&args).await?;
        Ok(true)
    }

    fn bad(&mut self, problem: impl std::fmt::Display) -> Result<bool, Over> {
        self.outbox.extend(errors::protocol(problem).reply());
        Err(Over)
    }

    async fn answer(&mut self, args: &[Vec<u8>]) -> Result<(), Over> {
        self.shared.commands.fetch_add(1, Ordering::Relaxed);
        match self.look_up(args) {
            Effect::None => Ok(()),
            Effect::Close => Err(Over),
            Effect::SwitchOver(group) => {
                let within = Duration::from_millis(SWITCHOVER_ANSWER_MS);
                let answer = tokio::time::timeout(within, self.shared.operators.switch_over(&group)).await;
                let late = "no answer from the controller in time; whether it will switch over is unknown: see `holdfast \
                            history`";
                let done = answer.unwrap_or_else(|_| Err(late.into()));
                self.client.switched(done, &mut self.outbox);
                Ok(())
            }
        }
    }

    /// Answers by what is known now.
    fn look_up(&mut self, args: &[Vec<u8>]) -> Effect {
        let shared = &*self.shared;
        let facts = shared.known.facts(Instant::now());
        let counts = Counts {
            version: shared.version,
            port: shared.known.port(),
            uptime_s: shared.started.elapsed().as_secs(),
            clients: shared.clients.load(Ordering::Relaxed),
            clients_total: shared.clients_total.load(Ordering::Relaxed),
            commands: shared.commands.load(Ordering::Relaxed),
        };
        let knows = |token: &str| shared.operators.knows(token);
        let desk = Desk { facts: &facts, doors: &shared.doors, knows: &knows, counts };
        self.client.answer(args, &desk, &mut self.outbox)
    }

    async fn flush(&mut self) -> Result<(), Over> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        if self.outbox.len() > OUTBOX_BYTES_MAX {
            return Err(Over);
        }
        let bytes = std::mem::take(&mut self.outbox);
        let write = async {
            self.write.write_all(&bytes).await?;
            self.write.flush().await
        };
        let written = tokio::time::timeout(Duration::from_millis(STALLED_MS), write).await;
        Ok(written.map_err(|_| Over)??)
    }
}
