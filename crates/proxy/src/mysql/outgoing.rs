//! A command on its way from the client to the engine: sent whole from the inbox, or streamed through frame by
//! frame if it is too long to be kept.

use crate::mysql::reads::Kind;
use crate::mysql::session::{End, Session};
use crate::mysql::sql::Scan;
use holdfast_wire::packet::{HEADER_BYTES, Header};
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};

/// A command at the front of the inbox.
#[derive(Debug)]
pub struct Command {
    pub code: u8,
    /// Header and payload of its first frame.
    pub bytes: usize,
    /// All of it is in the inbox and stays there until it is answered, so that it can be sent again.
    pub whole: bool,
    pub scan: Scan,
    /// The statement's id as the client knows it, for commands that name one.
    pub statement: Option<u32>,
    /// What it is, once that has been judged.
    pub kind: Option<Kind>,
    /// A statement of the proxy's own that is sent before it: it must have succeeded.
    pub wait: Option<Vec<u8>>,
    /// How far it has been streamed; `None` if it is sent whole.
    streamed: Option<Frames>,
}

/// Counts through the frames of one packet.
#[derive(Debug, Clone, Copy)]
struct Frames {
    /// Bytes of the current frame still to come, its header included.
    left: usize,
    /// Another frame follows.
    continues: bool,
    /// The number after the current frame's.
    next_seq: u8,
}

impl Frames {
    fn begin(header: Header) -> Frames {
        Frames {
            left: HEADER_BYTES + header.len,
            continues: header.continues(),
            next_seq: header.seq.wrapping_add(1),
        }
    }
    fn is_over(&self) -> bool {
        self.left == 0 && !self.continues
    }
}

/// How sending went.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    All,
    /// The connection broke before all of it was written: an engine executes no part of a packet.
    Broken,
}

impl Command {
    pub fn new(code: u8, bytes: usize, whole: bool, scan: Scan) -> Command {
        Command { code, bytes, whole, scan, statement: None, kind: None, wait: None, streamed: None }
    }
    /// Some of it is gone and cannot be sent again.
    pub fn has_begun(&self) -> bool {
        self.streamed.is_some()
    }
}

impl Session {
    /// Sends a command to the engine.
    pub async fn send(&mut self, command: &mut Command) -> Result<Sent, End> {
        if command.whole {
            return Ok(self.send_whole(command.bytes).await);
        }
        Box::pin(self.stream(command, true)).await
    }

    async fn send_whole(&mut self, bytes: usize) -> Sent {
        let mut sent = 0;
        std::future::poll_fn(|cx| {
            loop {
                match self.slot.poll_write(cx, &self.inbox.bytes()[sent..bytes]) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        sent += n;
                        if sent == bytes {
                            return Poll::Ready(Sent::All);
                        }
                    }
                    Poll::Ready(_) => return Poll::Ready(Sent::Broken),
                    Poll::Pending if self.is_interrupted(cx) => return Poll::Ready(Sent::Broken),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// While a command is under way: the connection must be cut, or somebody killed the session.
    pub fn is_interrupted(&mut self, cx: &mut std::task::Context<'_>) -> bool {
        self.slot.waker.register(cx.waker());
        if self.shared.version() != self.seen {
            self.refresh();
            if self.is_cut() {
                crate::shared::count(&self.shared.counters.cut);
                return true;
            }
        }
        self.slot.killed.load(Ordering::Acquire) && self.backend.is_none()
    }

    /// Passes a long command through, or throws it away (`deliver` false). A break of the engine's connection
    /// leaves the rest of the command with the client, to be thrown away.
    async fn stream(&mut self, command: &mut Command, deliver: bool) -> Result<Sent, End> {
        let mut frames = match command.streamed {
            Some(frames) => frames,
            None => match Header::read(self.inbox.bytes()) {
                Some(header) => Frames::begin(header),
                None => return Err(End::Client),
            },
        };
        while !frames.is_over() {
            command.streamed = Some(frames);
            if frames.left == 0 {
                self.need(HEADER_BYTES).await?;
                let Some(header) = Header::read(self.inbox.bytes()) else { return Err(End::Client) };
                frames = Frames::begin(header);
                continue;
            }
            if self.inbox.is_empty() {
                if deliver && !self.fill_while_connected().await? {
                    return Ok(Sent::Broken);
                }
                if !deliver {
                    self.need(1).await?;
                }
            }
            let n = self.inbox.len().min(frames.left);
            if deliver && self.send_whole(n).await == Sent::Broken {
                return Ok(Sent::Broken);
            }
            self.inbox.consume(n);
            frames.left -= n;
        }
        command.streamed = Some(frames);
        Ok(Sent::All)
    }

    /// Reads until `bytes` are in the inbox.
    pub async fn need(&mut self, bytes: usize) -> Result<(), End> {
        while self.inbox.len() < bytes {
            let (inbox, client) = (&mut self.inbox, &mut self.client);
            if std::future::poll_fn(|cx| inbox.poll_fill(cx, client, true)).await? == 0 {
                return Err(End::Client);
            }
        }
        Ok(())
    }

    /// Waits for more from the client; false if the engine's connection is to be cut meanwhile.
    async fn fill_while_connected(&mut self) -> Result<bool, End> {
        std::future::poll_fn(|cx| {
            if self.is_interrupted(cx) {
                return Poll::Ready(Ok(false));
            }
            match ready!(self.inbox.poll_fill(cx, &mut self.client, true)) {
                Ok(n) if n > 0 => Poll::Ready(Ok(true)),
                _ => Poll::Ready(Err(End::Client)),
            }
        })
        .await
    }

    /// Takes a command off the inbox, and what is still to come of it off the client; the number of the packet that
    /// answers it.
    pub async fn swallow(&mut self, command: &Command) -> Result<u8, End> {
        if command.whole {
            self.inbox.consume(command.bytes);
            return Ok(1);
        }
        let mut rest = Command {
            streamed: command.streamed,
            ..Command::new(command.code, command.bytes, false, Scan::default())
        };
        Box::pin(self.stream(&mut rest, false)).await?;
        Ok(rest.streamed.map_or(1, |f| f.next_seq))
    }

    /// LOAD DATA LOCAL: passes the client's packets on up to and including the empty one that ends the file.
    pub async fn pass_file(&mut self) -> Result<Sent, End> {
        let mut after_full_frame = false;
        loop {
            self.need(HEADER_BYTES).await?;
            let Some(header) = Header::read(self.inbox.bytes()) else { return Err(End::Client) };
            let mut left = HEADER_BYTES + header.len;
            while left > 0 {
                if self.inbox.is_empty() && !self.fill_while_connected().await? {
                    return Ok(Sent::Broken);
                }
                let n = self.inbox.len().min(left);
                if self.send_whole(n).await == Sent::Broken {
                    return Ok(Sent::Broken);
                }
                self.inbox.consume(n);
                left -= n;
            }
            if header.len == 0 && !after_full_frame {
                return Ok(Sent::All);
            }
            after_full_frame = header.continues();
        }
    }
}
