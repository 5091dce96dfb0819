//! Moves bytes: the batch to the engine, replies to the client, and more commands into the inbox, whichever can go on.
//!
//! Guarantees: a reply's bytes are read into one buffer per thread and written out from there; a session keeps only what
//! its client did not take yet, and what waits for replicas. Nothing more is read from an engine than the client takes.

use crate::resp::batch::Kind;
use crate::resp::errors::ClientError;
use crate::resp::session::{End, Session};
use crate::resp::state::{Transaction, Watch};
use crate::resp::table::{self, Class, Special};
use crate::shared::count;
use holdfast_core::Gate;
use holdfast_wire::resp::command::Args;
use holdfast_wire::resp::reply::Frame;
use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read of replies at once.
const READ_BYTES: usize = 64 << 10;
/// What a client may send ahead of the batch under way; more waits in its socket.
const AHEAD_BYTES_MAX: usize = 64 << 10;
/// From here on more is read from the client at once.
const PIPELINE_BYTES: usize = 3 << 10;
/// A client that takes nothing of its replies for this long is dropped.
const CLIENT_STALL_MS: u64 = 60_000;
/// A client that has ended its side gets the replies that come this soon.
const CLIENT_GONE_MS: u64 = 1_000;
/// Bytes of an engine's error; a longer line is none.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Replies that wait for replicas take this much per session; more comes out of the proxy's budget.
const WITHHELD_BYTES: usize = 16 << 10;

thread_local! {
    /// Only used within one poll.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// While nothing was under way: the client sent something.
    Input,
    /// While nothing was under way: there is another snapshot.
    Route,
    /// The batch has all its replies.
    Answered,
    /// A switchover begins, and a command blocks that would hold it up.
    Draining,
    /// The engine is gone or cut.
    Lost,
    /// The client is gone.
    Over,
}

/// What becomes of the reply under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the client.
    Pass,
    /// To the client once replicas have confirmed.
    Withhold,
    /// It is looked at as a whole first: an error.
    Collect,
    /// It is the proxy's own.
    Swallow,
}

/// The engine said something that nobody had asked for, or that is no reply at all.
#[derive(Debug)]
struct Unasked;

impl Session {
    /// Goes on until something must be decided.
    pub async fn step(&mut self) -> Event {
        loop {
            let limit_ms = match (self.client_gone, self.outbox.is_empty()) {
                (true, _) => Some(CLIENT_GONE_MS),
                (false, false) => Some(CLIENT_STALL_MS),
                (false, true) => None,
            };
            let waiting = self.outbox.len();
            let polled = std::future::poll_fn(|cx| match self.poll_step(cx) {
                Poll::Ready(event) => Poll::Ready(Some(event)),
                // The client's own pace begins or goes on to count.
                Poll::Pending if limit_ms.is_none() && (self.client_gone || !self.outbox.is_empty()) => {
                    Poll::Ready(None)
                }
                Poll::Pending if limit_ms.is_some() && self.outbox.len() < waiting => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            let event = match limit_ms {
                None => polled.await,
                Some(ms) => {
                    let within = Duration::from_millis(ms);
                    Box::pin(tokio::time::timeout(within, polled)).await.unwrap_or(Some(Event::Over))
                }
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.slot.waker.register(cx.waker());
        if self.shared.version() != self.seen {
            if self.batch.is_empty() {
                return Poll::Ready(Event::Route);
            }
            self.refresh();
            if self.is_cut() {
                count(&self.shared.counters.cut);
                return Poll::Ready(Event::Lost);
            }
            // Its host may be gone, and nobody else says so.
            if self.is_away() && !self.reader_is_listed() && !self.reply_is_open() {
                return Poll::Ready(Event::Lost);
            }
        }
        if self.blocks_a_switchover() {
            return Poll::Ready(Event::Draining);
        }
        loop {
            let mut moved = false;
            if self.batch.sent < self.batch.bytes {
                match self.slot.poll_write(cx, &self.inbox.bytes()[self.batch.sent..self.batch.bytes]) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        self.batch.sent += n;
                        moved = true;
                    }
                    Poll::Ready(_) => return Poll::Ready(Event::Lost),
                    Poll::Pending => {}
                }
            }
            if self.poll_drain(cx).is_err() {
                return Poll::Ready(Event::Over);
            }
            if self.outbox.is_empty() && self.backend.is_some() {
                match self.poll_relay(cx) {
                    Poll::Ready(Ok(())) if !self.batch.is_empty() && self.batch.is_over() => {
                        return Poll::Ready(Event::Answered);
                    }
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(Unasked)) => return Poll::Ready(Event::Lost),
                    Poll::Pending => {}
                }
            }
            if !self.client_gone && self.inbox.len() - self.batch.bytes < AHEAD_BYTES_MAX {
                let pipelines = self.inbox.len() > PIPELINE_BYTES;
                match self.inbox.poll_fill(cx, &mut self.client, pipelines) {
                    Poll::Ready(Ok(n)) if n > 0 && self.batch.is_empty() => return Poll::Ready(Event::Input),
                    Poll::Ready(Ok(n)) if n > 0 => moved = true,
                    Poll::Ready(_) if self.batch.current().is_none_or(Kind::may_block) => {
                        return Poll::Ready(Event::Over);
                    }
                    Poll::Ready(_) => {
                        self.client_gone = true;
                        moved = true;
                    }
                    Poll::Pending => {}
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn blocks_a_switchover(&self) -> bool {
        self.batch.current() == Some(Kind::Blocking)
            && self.routing.as_ref().is_some_and(|r| r.gate == Gate::Draining)
            && !self.batch.unblocked
            && self.batch.sent >= self.batch.bytes
    }

    /// Writes out what waits for the client, as far as it takes it.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while !self.outbox.is_empty() {
            match Pin::new(&mut self.client).poll_write(cx, self.outbox.bytes()) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.outbox.consume(n);
                    self.unflushed = self.client.buffers();
                }
                Poll::Ready(_) => return Err(End::Client),
                Poll::Pending => break,
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.client).poll_flush(cx) {
                Poll::Ready(flushed) => {
                    flushed?;
                    self.unflushed = false;
                }
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Writes out all that waits for the client.
    pub async fn flush(&mut self) -> Result<(), End> {
        let flushed = std::future::poll_fn(|cx| match self.poll_drain(cx) {
            Ok(()) if self.outbox.is_empty() && !self.unflushed => Poll::Ready(Ok(())),
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(Err(end)),
        });
        let within = Duration::from_millis(CLIENT_STALL_MS);
        tokio::time::timeout(within, flushed).await.unwrap_or(Err(End::Client))
    }

    fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unasked>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let Some(backend) = &mut self.backend else { return Poll::Pending };
            let mut into = ReadBuf::new(scratch);
            match Pin::new(&mut backend.read).poll_read(cx, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() => {
                    let n = into.filled().len();
                    Poll::Ready(self.digest(cx, &scratch[..n]))
                }
                Poll::Ready(_) => Poll::Ready(Err(Unasked)),
                Poll::Pending => Poll::Pending,
            }
        })
    }

    /// Messages that came before the session had this connection.
    pub async fn digest_leftover(&mut self, bytes: &[u8]) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(self.digest(cx, bytes).is_ok())).await
    }

    /// Sends every byte its way.
    fn digest(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<(), Unasked> {
        let (mut from, mut at) = (0, 0);
        while at < bytes.len() {
            if self.replies.is_between() {
                let way = self.way_of(bytes[at])?;
                if way != self.way {
                    self.go(cx, &bytes[from..at]);
                    (from, self.way) = (at, way);
                }
            }
            let Ok((taken, frame)) = self.replies.feed(&bytes[at..]) else {
                tracing::warn!("the engine's reply is not of the protocol");
                return Err(Unasked);
            };
            at += taken;
            if let Some(frame) = frame {
                if self.way != Way::Pass {
                    self.go(cx, &bytes[from..at]);
                    from = at;
                }
                self.note_reply(cx, frame)?;
            }
        }
        self.go(cx, &bytes[from..]);
        Ok(())
    }

    /// Where the reply goes that begins with `first`.
    fn way_of(&self, first: u8) -> Result<Way, Unasked> {
        let Some(kind) = self.batch.current() else {
            return if first == b'>' || self.state.listens() { Ok(Way::Pass) } else { Err(Unasked) };
        };
        Ok(match kind {
            _ if first == b'>' && self.batch.withholds() => Way::Withhold,
            _ if first == b'>' => Way::Pass,
            Kind::Mark if self.batch.refused.is_none() => Way::Collect,
            _ if kind.is_own() => Way::Swallow,
            _ if self.batch.refused.is_some() || first == b'-' => Way::Collect,
            _ if self.batch.withholds() => Way::Withhold,
            _ => Way::Pass,
        })
    }

    fn go(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        match self.way {
            Way::Pass => self.hand_over(cx, bytes),
            Way::Swallow => {}
            Way::Withhold => self.withhold(bytes),
            Way::Collect => {
                let room = ERROR_BYTES_MAX - self.error.len().min(ERROR_BYTES_MAX);
                self.error.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
    }

    fn withhold(&mut self, bytes: &[u8]) {
        self.batch.withheld.push(bytes);
        let len = self.batch.withheld.len();
        if len <= WITHHELD_BYTES {
            return;
        }
        let fits = match &mut self.withheld_kept {
            Some(kept) => kept.grow_to(len),
            none => {
                *none = self.shared.keep(len);
                none.is_some()
            }
        };
        if !fits {
            self.batch.withheld.overflow();
        }
    }

    /// Writes to the client what it takes at once; the rest waits in the outbox.
    fn hand_over(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) {
        while self.outbox.is_empty() && !bytes.is_empty() {
            match Pin::new(&mut self.client).poll_write(cx, bytes) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    bytes = &bytes[n..];
                    self.unflushed = self.client.buffers();
                }
                // A client that is gone is found out by the next attempt.
                _ => break,
            }
        }
        self.outbox.extend(bytes);
    }

    /// A reply is complete.
    fn note_reply(&mut self, cx: &mut Context<'_>, frame: Frame) -> Result<(), Unasked> {
        let Some(kind) = self.batch.current() else {
            return if self.is_message(&frame) { Ok(()) } else { Err(Unasked) };
        };
        if kind == Kind::Subscribe && frame.kind != b'-' && self.is_confirmation(&frame) {
            self.batch.confirmations -= 1;
            if self.batch.confirmations == 0 {
                self.note_subscribed();
                self.batch.answered += 1;
            }
            return Ok(());
        }
        if self.is_message(&frame) {
            if self.way == Way::Withhold {
                self.batch.withheld.end(crate::resp::batch::OnFailure::Keep);
            }
            return Ok(());
        }
        match self.way {
            Way::Swallow => {
                self.note_own(kind, &frame);
                return Ok(());
            }
            Way::Withhold => self.batch.withheld.end(Session::on_failure(kind)),
            Way::Collect => {
                let error = std::mem::take(&mut self.error);
                if kind == Kind::Mark {
                    self.note_mark(&error);
                    self.batch.answered += 1;
                    return Ok(());
                }
                if self.batch.refused.is_some() {
                    return self.note_after_refusal(kind, &error);
                }
                if self.is_away() && !error.starts_with(b"-WRONGTYPE") {
                    self.note_cannot_read();
                    self.batch.answered += 1;
                    return Ok(());
                }
                if self.is_refusal(&error) && self.batch.note_refused(error_of(&error)) {
                    self.batch.answered += 1;
                    return Ok(());
                }
                self.way = if self.batch.withholds() { Way::Withhold } else { Way::Pass };
                self.go(cx, &error);
                if self.way == Way::Withhold {
                    self.batch.withheld.end(Session::on_failure(kind));
                }
            }
            Way::Pass => {}
        }
        let ok = frame.kind != b'-';
        if !kind.reads() && !matches!(kind, Kind::Plain | Kind::Queued) {
            self.note_done(kind, ok, &frame)?;
        }
        self.batch.answered += 1;
        Ok(())
    }

    /// The answer to one of the proxy's own commands.
    fn note_own(&mut self, kind: Kind, frame: &Frame) {
        if kind == Kind::Wait {
            let have = frame.head.number().filter(|_| frame.kind == b':');
            let said = || ClientError(frame.head.bytes().to_vec());
            if self.batch.refused.is_none() {
                self.note_replicas(have.ok_or_else(said));
            }
        }
        self.batch.answered += 1;
    }

    /// Behind a refusal every write must have been refused as well.
    fn note_after_refusal(&mut self, kind: Kind, reply: &[u8]) -> Result<(), Unasked> {
        if !kind.reads() && !self.is_refusal(reply) {
            return Err(Unasked);
        }
        self.batch.answered += 1;
        Ok(())
    }

    /// True for the words of an engine that is no primary, or not yet, or lacks the replicas that it must have: it has
    /// not executed the command.
    fn is_refusal(&self, error: &[u8]) -> bool {
        // The last: it has become a replica. Another client may end a command with the same first word.
        const WORDS: [&[u8]; 4] = [b"-READONLY", b"-LOADING", b"-NOREPLICAS", b"-UNBLOCKED force"];
        self.backend.as_ref().is_some_and(|b| b.link.writer)
            && self.role == crate::gate::Role::ReadWrite
            && (self.batch.unblocked && error.starts_with(b"-UNBLOCKED")
                || WORDS.iter().any(|word| error.starts_with(word)))
    }

    /// Not an answer to anything.
    fn is_message(&self, frame: &Frame) -> bool {
        if frame.kind == b'>' {
            return true;
        }
        let head = frame.head.bytes();
        match frame.kind {
            b'*' if !self.state.subscriptions.is_empty() => {
                matches!(head, b"message" | b"pmessage" | b"smessage")
            }
            b'+' if self.state.monitors => {
                head.first().is_some_and(u8::is_ascii_digit) && head.contains(&b'.')
            }
            _ => false,
        }
    }

    /// The command whose reply comes next.
    fn args(&self) -> Args<'_> {
        let end = |entry: usize| self.batch.entries[entry].end;
        let begin = self.batch.answered.checked_sub(1).map_or(0, end);
        Args::of(&self.inbox.bytes()[begin..end(self.batch.answered)])
    }

    fn is_confirmation(&self, frame: &Frame) -> bool {
        self.args().next().is_some_and(|word| word.eq_ignore_ascii_case(frame.head.bytes()))
    }

    fn note_subscribed(&mut self) {
        let mut args = Args::of(&self.inbox.bytes()[..self.batch.bytes]);
        let class = args.next().map(table::class);
        let subscriptions = &mut self.state.subscriptions;
        match class {
            Some(Class::Special(Special::Subscribe(topic))) => args.for_each(|n| subscriptions.add(topic, n)),
            Some(Class::Special(Special::Unsubscribe(topic))) => match self.batch.clears {
                true => subscriptions.clear(topic),
                false => args.for_each(|n| subscriptions.remove(topic, n)),
            },
            _ => {}
        }
        if subscriptions.is_empty() {
            subscriptions.kept = None;
        }
    }

    fn note_wrote(&mut self) {
        self.state.wrote = true;
        self.state.moved_since_write = false;
        if let Some(reads) = &mut self.reads {
            reads.note_write();
        }
    }

    /// What a command leaves behind in the session.
    fn note_done(&mut self, kind: Kind, ok: bool, frame: &Frame) -> Result<(), Unasked> {
        match kind {
            Kind::Write | Kind::Blocking | Kind::Foreign => {
                self.note_wrote();
            }
            Kind::Multi if ok => self.state.transaction = Transaction::Open,
            // What follows was planned as a part of the transaction, and is executed now. The user may not use MULTI;
            // nothing less than the end says so clearly.
            Kind::Multi if self.batch.answered + 1 < self.batch.entries.len() => {
                self.batch.spoiled = true;
                return Err(Unasked);
            }
            Kind::Exec => {
                self.state.note_transaction_over(ok && !frame.is_null);
                self.note_wrote();
            }
            Kind::Discard => self.state.note_transaction_over(false),
            Kind::Watch if ok && self.state.watch == Watch::None => self.state.watch = Watch::Open,
            Kind::Unwatch if ok => self.state.watch = Watch::None,
            Kind::QueuedSelect if ok => {
                let db = self.args().nth(1).unwrap_or_default().to_vec();
                self.state.note_queued_select(&db);
            }
            Kind::Noted if ok => {
                let args: Vec<Vec<u8>> = self.args().map(<[u8]>::to_vec).collect();
                self.state.note(args.iter().map(Vec::as_slice));
            }
            Kind::Monitor if ok => self.state.monitors = true,
            _ => {}
        }
        Ok(())
    }
}

fn error_of(reply: &[u8]) -> ClientError {
    ClientError(reply.trim_ascii_end().get(1..).unwrap_or_default().to_vec())
}
