//! One command and its reply: sends, then passes the reply's bytes on as they come, looking only at where it ends
//! and at what it says about the session.
//!
//! Guarantees: a command is sent again only if it provably was not executed (S13): it was not written whole, it has
//! no effect or the same one each time, or a read-only engine refused it as a whole. A reply's bytes are read into one buffer per thread and
//! written out from there; a session keeps only what its client did not take yet.

use crate::mysql::errors::{self, ClientError};
use crate::mysql::outgoing::{Command, Sent};
use crate::mysql::reads::{self, Kind};
use crate::mysql::session::{End, Loss, Session};
use crate::mysql::split::Waited;
use crate::mysql::sql::{Scan, Verb};
use crate::mysql::state::Replay;
use crate::mysql::statements::CURSOR_AT;
use holdfast_wire::packet::{HEADER_BYTES, Header};
use holdfast_wire::reply::{self, ErrPacket, OkPacket};
use holdfast_wire::tracker::{Event, Outcome, Tracker, WHOLE_BYTES_MAX};
use holdfast_wire::{Capabilities, Status, command};
use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read of a reply at once.
const READ_BYTES: usize = 64 << 10;

const _: () = assert!(READ_BYTES > WHOLE_BYTES_MAX + HEADER_BYTES, "an unread rest leaves room to read on");

thread_local! {
    /// Only used within one poll.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 2 * READ_BYTES].into_boxed_slice());
}

/// How a command went.
#[derive(Debug)]
pub enum Exchange {
    /// The client has its reply.
    Done,
    /// It was not executed and can be sent again.
    Again,
    /// Nothing of a reply reached the client: tell it this.
    Tell(ClientError),
    /// The engine refused it because it is read-only; nothing was executed.
    ReadOnly(ClientError),
}

/// How far a reply has come.
enum Relay {
    /// The client must take what it has before more is read.
    Flush,
    Done,
    LocalInfile,
    ReadOnly(ClientError),
    /// A reader's no is not the last word.
    Elsewhere,
    /// The engine is gone or cut.
    Broken,
}

/// A reply under way.
struct Reply {
    tracker: Tracker,
    /// Read but not consumed.
    rest: Vec<u8>,
    /// What is in `rest` was not looked at yet.
    ahead: bool,
    /// The packets up to the last OK.
    told: u64,
    /// Something of it was handed to the client.
    begun: bool,
    /// It may be refused by a read-only engine and sent again.
    resendable: bool,
}

impl Session {
    /// Sends the command at the front of the inbox and relays its reply.
    pub async fn exchange(&mut self, command: &mut Command) -> Result<Exchange, End> {
        self.under_way = true;
        let mut rest = Vec::new();
        if let Some(wait) = command.wait.take() {
            match Box::pin(self.send_behind(&wait, command)).await? {
                Waited::Reached(reply) => rest = reply,
                Waited::Not(exchange) => return Ok(exchange),
            }
        } else if self.send(command).await? == Sent::Broken {
            return self.not_sent(command);
        }
        if command::has_no_reply(command.code) {
            self.under_way = false;
            self.take(command);
            return Ok(Exchange::Done);
        }
        let mut reply = Reply {
            tracker: Tracker::new(command.code, self.capabilities),
            ahead: !rest.is_empty(),
            rest,
            told: 0,
            begun: false,
            resendable: self.is_resendable(command),
        };
        loop {
            match std::future::poll_fn(|cx| self.poll_relay(cx, &mut reply, command)).await {
                Relay::Flush => self.flush().await?,
                Relay::Done => break,
                Relay::LocalInfile => {
                    self.flush().await?;
                    self.take(command);
                    if Box::pin(self.pass_file()).await? == Sent::Broken {
                        return Err(self.broken_off());
                    }
                }
                Relay::ReadOnly(error) => {
                    self.under_way = false;
                    return Ok(Exchange::ReadOnly(error));
                }
                Relay::Elsewhere => {
                    self.under_way = false;
                    return Ok(Exchange::Again);
                }
                Relay::Broken => return self.broken(command, &reply),
            }
        }
        if !self.outbox.is_empty() || self.client.buffers() {
            self.flush().await?;
        }
        self.under_way = false;
        let outcome = reply.tracker.outcome();
        if !reply.rest.is_empty() {
            // It said more than it was asked: it is closing, and told so.
            self.leave();
        }
        self.after(command, outcome, reply.told == outcome.packets).await
    }

    /// Takes a whole command off the inbox; a streamed one is off it already.
    fn take(&mut self, command: &mut Command) {
        if command.whole {
            self.inbox.consume(command.bytes);
            command.bytes = 0;
        }
    }

    fn not_sent(&mut self, command: &Command) -> Result<Exchange, End> {
        if self.slot.is_doomed() {
            return Err(End::Client);
        }
        self.leave();
        Ok(match command.has_begun() {
            true => Exchange::Tell(errors::not_sent(&self.shared.group)),
            false => Exchange::Again,
        })
    }

    /// One statement, complete in itself, outside a transaction: what a read-only engine refuses as a whole.
    fn is_resendable(&mut self, command: &Command) -> bool {
        if self.in_transaction || !command.whole {
            return false;
        }
        let scan = match (command.code, command.statement) {
            (command::QUERY, _) => command.scan,
            (command::STMT_EXECUTE, Some(id)) => match self.state.statements.get(id) {
                Some(s) if !s.places().any(|p| p.long_data) => s.scan,
                _ => return false,
            },
            _ => return false,
        };
        scan.verb == Verb::Write && !scan.several && !scan.local_file
    }

    fn broken_off(&mut self) -> End {
        self.leave();
        End::Broken
    }

    /// The engine was lost or cut before the reply was complete.
    fn broken(&mut self, command: &Command, reply: &Reply) -> Result<Exchange, End> {
        let (in_transaction, unsure) = (self.in_transaction, self.commit_unsure);
        self.leave();
        if self.slot.is_doomed() || reply.begun {
            return Err(End::Broken);
        }
        if self.is_away() {
            return Ok(Exchange::Again);
        }
        let harmless = matches!(
            command.code,
            command::PING
                | command::STATISTICS
                | command::INIT_DB
                | command::FIELD_LIST
                | command::STMT_PREPARE
                | command::STMT_RESET
                | command::SET_OPTION
                | command::RESET_CONNECTION
        );
        if (harmless || (!in_transaction && self.repeats(command))) && !command.has_begun() {
            // What was lost is told by the caller.
            return Ok(Exchange::Again);
        }
        let scan = match command.statement {
            Some(id) => self.state.statements.get(id).map(|s| s.scan).unwrap_or_default(),
            None => command.scan,
        };
        // Inside a transaction a plain read or write commits nothing: all of it is rolled back with the connection.
        let commits_nothing = matches!(scan.verb, Verb::Write | Verb::Select)
            && !scan.commits
            && !scan.several
            && !scan.local_file;
        self.loss = None;
        let loss =
            if in_transaction && !unsure && commits_nothing { Loss::Transaction } else { Loss::Unknown };
        Ok(Exchange::Tell(self.tell_loss(loss)))
    }

    /// Outside a transaction, a command that can be done again to the same effect, however far it came: a plain read,
    /// a setting, the beginning of a transaction.
    fn repeats(&mut self, command: &Command) -> bool {
        let can = |scan: &Scan, sql: &[u8]| {
            !scan.several && (scan.bounds || matches!(reads::kind(sql), Kind::Read | Kind::Setting))
        };
        match (command.code, command.statement) {
            (command::QUERY, _) if command.whole => {
                can(&command.scan, &self.inbox.bytes()[HEADER_BYTES + 1..command.bytes])
            }
            (command::STMT_EXECUTE, Some(id)) if command.whole => {
                let opens_cursor = self.inbox.bytes().get(CURSOR_AT) != Some(&0);
                let Some(statement) = self.state.statements.get(id) else { return false };
                let ahead = statement.places().any(|p| p.long_data);
                !opens_cursor
                    && !ahead
                    && statement.sql.as_deref().is_some_and(|sql| can(&statement.scan, sql))
            }
            _ => false,
        }
    }

    /// Reads from the engine and passes on, until something must be done about it.
    fn poll_relay(&mut self, cx: &mut Context<'_>, reply: &mut Reply, command: &Command) -> Poll<Relay> {
        if self.is_interrupted(cx) {
            return Poll::Ready(Relay::Broken);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                let had = reply.rest.len();
                let mut end = had;
                scratch[..had].copy_from_slice(&reply.rest);
                // After a file was passed, what was read before may already hold more; else read.
                if !std::mem::take(&mut reply.ahead) {
                    let Some(backend) = &mut self.backend else { return Poll::Ready(Relay::Broken) };
                    let mut into = ReadBuf::new(&mut scratch[had..had + READ_BYTES]);
                    match ready!(Pin::new(&mut backend.read).poll_read(cx, &mut into)) {
                        Ok(()) if !into.filled().is_empty() => end += into.filled().len(),
                        _ => return Poll::Ready(Relay::Broken),
                    }
                }
                let (used, next) = match self.digest(scratch, &mut end, reply, command) {
                    Ok(digested) => digested,
                    Err(_) => {
                        tracing::warn!(command = command.code, "the engine's reply is not of the protocol");
                        return Poll::Ready(Relay::Broken);
                    }
                };
                reply.rest.clear();
                reply.rest.extend_from_slice(&scratch[used..end]);
                reply.begun |= used > 0;
                self.hand_over(cx, &scratch[..used]);
                match next {
                    Some(next) => return Poll::Ready(next),
                    None if !self.outbox.is_empty() => return Poll::Ready(Relay::Flush),
                    None => {}
                }
            }
        })
    }

    /// Writes to the client what it takes at once; the rest waits in the outbox.
    fn hand_over(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) {
        while self.outbox.is_empty() && !bytes.is_empty() {
            match Pin::new(&mut self.client).poll_write(cx, bytes) {
                Poll::Ready(Ok(n)) if n > 0 => bytes = &bytes[n..],
                // A client that is gone is found out by the flush.
                _ => break,
            }
        }
        self.outbox.extend(bytes);
    }

    /// Follows the reply through `bytes[..end]`; how much of it may go to the client, and what is next. Statement
    /// ids are put in and tracking data taken out in place, which can move `end`.
    fn digest(
        &mut self,
        bytes: &mut [u8],
        end: &mut usize,
        reply: &mut Reply,
        command: &Command,
    ) -> Result<(usize, Option<Relay>), holdfast_wire::Error> {
        let mut at = 0;
        loop {
            let step = reply.tracker.feed(&bytes[at..*end])?;
            let from = at;
            at += step.consumed;
            match step.event {
                Event::More => return Ok((at, None)),
                Event::Done => return Ok((at, Some(Relay::Done))),
                Event::LocalInfile => return Ok((at, Some(Relay::LocalInfile))),
                Event::Ok { packet } => {
                    reply.told = reply.tracker.outcome().packets;
                    let packet = from + packet.start..from + packet.end;
                    let shrunk = self.note_ok(&mut bytes[packet.clone()], command);
                    if shrunk > 0 {
                        bytes.copy_within(packet.end..*end, packet.end - shrunk);
                        at -= shrunk;
                        *end -= shrunk;
                    }
                }
                Event::Err { packet } => {
                    let err =
                        ErrPacket::parse(&bytes[from + packet.start + HEADER_BYTES..from + packet.end])?;
                    let first = reply.tracker.outcome().packets == 1 && !reply.begun;
                    if first
                        && self.is_away()
                        && err.code != errors::INTERRUPTED
                        && !errors::TOO_LONG.contains(&err.code)
                    {
                        return Ok((0, Some(Relay::Elsewhere)));
                    }
                    if first && reply.resendable && is_read_only(&err) {
                        return Ok((0, Some(Relay::ReadOnly(ClientError::passed_on(&err)))));
                    }
                }
                Event::Prepared { packet, statement, params } => {
                    let sql = self.inbox.bytes().get(HEADER_BYTES + 1..command.bytes);
                    let sql = sql.filter(|_| command.whole);
                    let schema = self.state.schema.as_deref();
                    let id = self.state.statements.add(sql, schema, command.scan, params);
                    let here = self.backend.as_ref().map_or(0, |b| b.generation);
                    let other = self.parked_generation();
                    if let Some(added) = self.state.statements.get(id) {
                        added.kind = command.kind.unwrap_or_default();
                        added.put(here, other, statement);
                    }
                    let id_at = from + packet.start + HEADER_BYTES + 1;
                    bytes[id_at..id_at + 4].copy_from_slice(&id.to_le_bytes());
                }
            }
        }
    }

    /// Learns from an OK packet, and takes out of it what the client did not ask for; by how many bytes it shrank.
    fn note_ok(&mut self, packet: &mut [u8], command: &Command) -> usize {
        let (head, payload) = packet.split_at_mut(HEADER_BYTES);
        if let Ok(ok) = OkPacket::parse(payload) {
            let away = self.is_away();
            let sql = self.inbox.bytes().get(HEADER_BYTES + 1..command.bytes);
            let sql = sql.filter(|_| command.whole && command.code == command::QUERY);
            let written = match command.statement.and_then(|id| self.state.statements.get(id)) {
                Some(statement) => {
                    let scan = statement.scan;
                    self.state.note_ok(&ok, &scan, None)
                }
                None => self.state.note_ok(&ok, &command.scan, sql),
            };
            if let (Some(position), Some(reads), false) = (written, &mut self.reads, away) {
                reads.note_written(position);
            }
        }
        if self.capabilities.has(Capabilities::SESSION_TRACK) {
            return 0;
        }
        let len = reply::strip_session_state(payload);
        let shrunk = payload.len() - len;
        if shrunk > 0
            && let Some(header) = Header::read(head)
        {
            head.copy_from_slice(&Header { len, ..header }.to_bytes());
        }
        shrunk
    }

    /// The reply is complete: what it leaves behind.
    async fn after(
        &mut self,
        command: &mut Command,
        outcome: Outcome,
        ended_in_ok: bool,
    ) -> Result<Exchange, End> {
        let here = self.backend.as_ref().map_or(0, |b| b.generation);
        let statement = command.statement.and_then(|id| self.state.statements.get(id));
        let scan = statement.as_ref().map_or(command.scan, |s| s.scan);
        if let Some(place) = statement.and_then(|s| s.on(here)) {
            place.cursor |= outcome.cursor;
            place.long_data &= !matches!(command.code, command::STMT_EXECUTE | command::STMT_RESET);
        }
        match (outcome.error, outcome.status) {
            (None, Some(status)) => {
                self.in_transaction = status.has(Status::IN_TRANS);
                self.autocommit = status.has(Status::AUTOCOMMIT);
                self.commit_unsure = false;
            }
            // Errors carry no status. A routine may have left a transaction open; a statement that commits first
            // may have done that much.
            (Some(_), _) if scan.verb == Verb::Opaque => self.in_transaction = true,
            (Some(_), _) => self.commit_unsure |= self.in_transaction && (scan.commits || scan.several),
            (None, None) => {}
        }
        if outcome.overlong {
            self.state.note_unseen();
        }
        if self.reads.is_some() {
            self.note_end(command, outcome, ended_in_ok);
        }
        match command.code {
            command::QUERY | command::STMT_EXECUTE | command::STMT_BULK_EXECUTE => {
                self.state.note_statement(&scan)
            }
            command::RESET_CONNECTION if outcome.error.is_none() => {
                self.state.reset();
                Box::pin(self.track_again()).await;
            }
            command::SET_OPTION if outcome.error.is_none() && command.whole => {
                let option = self.inbox.bytes()[..command.bytes].last_chunk::<2>().copied();
                self.state.set_option(option);
            }
            _ => {}
        }
        self.take(command);
        Ok(Exchange::Done)
    }

    /// A reset connection has forgotten what it was to report.
    async fn track_again(&mut self) {
        let mut payload = vec![command::QUERY];
        let on = Replay::Session { writes: !self.is_read_only(), gtids: self.reads.is_some() };
        payload.extend_from_slice(&self.state.replay(self.shared.engine, on));
        if self.own_command(&payload).await.is_err() {
            self.leave();
        }
    }

    /// The read port's sessions at the writer may not write.
    pub fn is_read_only(&self) -> bool {
        self.role == crate::gate::Role::Read && self.backend.as_ref().is_some_and(|b| b.link.writer)
    }
}

/// `ER_OPTION_PREVENTS_STATEMENT` because of `--read-only`, or `ER_READ_ONLY_MODE`. The option's name is in the
/// message in every language.
fn is_read_only(err: &ErrPacket<'_>) -> bool {
    err.code == 1836
        || (err.code == 1290 && err.message.windows(11).any(|w| w == b"--read-only" || w == b"--read_only"))
}
