//! One client session: takes commands one at a time, decides whether and where each may go, and holds it if it
//! must wait.
//!
//! Guarantees: one command is under way at a time; a command that was answered here was not sent; what a client is
//! told about a lost transaction, lost state or an unknown outcome it is told once, on its next command.

use crate::buffer::Buffer;
use crate::client::ClientStream;
use crate::engine_stream::ReadHalf;
use crate::gate::{self, Admit, Link, Role, Routing, View};
use crate::hold::Hold;
use crate::mysql::backend::Login;
use crate::mysql::errors::{self, ClientError};
use crate::mysql::exchange::Exchange;
use crate::mysql::login::{LoggedIn, Who};
use crate::mysql::outgoing::Command;
use crate::mysql::split::Reads;
use crate::mysql::sql::{Scan, Verb};
use crate::mysql::state::{State, Stuck};
use crate::readers::AtReader;
use crate::service::farewell;
use crate::shared::{Shared, Slot, count};
use holdfast_wire::packet::{HEADER_BYTES, Header};
use holdfast_wire::reply::OkPacket;
use holdfast_wire::{Capabilities, Status, command, packet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A command up to this long is read whole before it is looked at.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Up to this long it is read whole if the budget for kept commands allows, so that it can be sent again.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// A longer one streams through; this much of it is there before it starts.
const STREAM_HEAD_BYTES: usize = 8 << 10;
/// A client that has sent the beginning of a command has this long for the rest of what is read whole.
const COMMAND_READ_MS: u64 = 30_000;
/// A client that takes nothing of its reply for this long is dropped.
const CLIENT_STALL_MS: u64 = 60_000;

/// Why a session ends.
#[derive(Debug)]
pub enum End {
    /// The client left, or cannot be reached.
    Client,
    /// The reply was broken off; only closing tells the client so.
    Broken,
    /// Told to the client, then closed.
    Tell(ClientError, u8),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> End {
        End::Client
    }
}

/// What was lost with a connection; told on the next command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    Transaction,
    /// The transaction may have been committed by a statement that failed.
    Unknown,
    State(Stuck),
}

/// The session's connection to an engine; its way out is in the slot.
#[derive(Debug)]
pub struct Backend {
    pub read: ReadHalf,
    pub link: Link,
    pub capabilities: Capabilities,
    /// Its number among the session's connections.
    pub generation: u32,
    /// Counted at a reader while this lives.
    pub _at_reader: Option<AtReader>,
}

/// See the file's contract.
pub struct Session {
    pub shared: Arc<Shared>,
    pub slot: Arc<Slot>,
    pub role: Role,
    pub client: ClientStream,
    pub who: Box<Who>,
    /// Agreed with the client.
    pub capabilities: Capabilities,
    pub inbox: Buffer,
    pub outbox: Buffer,
    pub backend: Option<Backend>,
    /// `None` if all reads stay where the session is.
    pub reads: Option<Box<Reads>>,
    pub state: Box<State>,
    pub in_transaction: bool,
    /// As the primary last said.
    pub autocommit: bool,
    /// A command was begun to be sent, and its reply is not complete.
    pub under_way: bool,
    /// A statement that commits failed inside the transaction.
    pub commit_unsure: bool,
    pub loss: Option<Loss>,
    pub routing: Option<Arc<Routing>>,
    /// The shared version that `routing` is of.
    pub seen: u64,
    /// The shared version whose readers could not be reached.
    pub readers_refused: Option<u64>,
    /// Counts the session's connections to engines, from 1.
    pub generation: u32,
    /// The number of the packet that ends the login under way.
    pub login_seq: u8,
}

enum Idle {
    Client(usize),
    Route,
    BackendGone,
    Killed,
}

impl Session {
    pub fn new(shared: Arc<Shared>, slot: Arc<Slot>, role: Role, login: LoggedIn) -> Session {
        crate::shared::lock(&slot.user).clone_from(&login.who.user);
        Session {
            reads: Reads::new(&shared, role),
            shared,
            slot,
            role,
            client: login.stream,
            who: Box::new(login.who),
            capabilities: login.capabilities,
            inbox: Buffer::default(),
            outbox: Buffer::default(),
            backend: None,
            state: Box::new(State::new(login.schema)),
            in_transaction: false,
            autocommit: false,
            under_way: false,
            commit_unsure: false,
            loss: None,
            routing: None,
            seen: 0,
            readers_refused: None,
            generation: 0,
            login_seq: login.seq,
        }
    }

    /// Serves the client until it or its connection ends.
    pub async fn run(mut self) {
        let end = match Box::pin(self.begin()).await {
            Ok(()) => self.serve().await,
            Err(end) => end,
        };
        self.slot.disconnect(!self.under_way);
        self.slot.disconnect_parked();
        if let End::Tell(error, seq) = end {
            Box::pin(farewell(self.client, &error.packet(seq))).await;
        }
    }

    /// Ends the login once there is an engine connection: the engine may know better about schema and user.
    async fn begin(&mut self) -> Result<(), End> {
        let seq = self.login_seq;
        let mut hold = Hold::new(0);
        if let Err(error) = self.admit_slowly(&mut hold).await? {
            return Err(End::Tell(error, seq));
        }
        self.answer_ok(seq).await
    }

    async fn serve(&mut self) -> End {
        loop {
            if let Err(end) = self.next().await {
                return end;
            }
            self.inbox.shrink();
            self.outbox.shrink();
        }
    }

    /// Takes and serves one command.
    async fn next(&mut self) -> Result<(), End> {
        while self.inbox.len() <= HEADER_BYTES {
            match self.idle().await {
                Idle::Client(0) => return Err(End::Client),
                Idle::Client(_) => {
                    if self.inbox.len() == HEADER_BYTES && self.inbox.bytes()[..3] == [0, 0, 0] {
                        break;
                    }
                }
                Idle::Route => self.look_at_route(),
                Idle::BackendGone if self.slot.is_doomed() => return Err(End::Client),
                Idle::BackendGone => self.leave(),
                Idle::Killed => return Err(End::Client),
            }
        }
        let Some(header) = Header::read(self.inbox.bytes()) else { return Err(End::Client) };
        if header.seq != 0 || header.len == 0 {
            count(&self.shared.counters.errors_protocol);
            return Err(End::Tell(errors::out_of_order(), header.seq.wrapping_add(1)));
        }
        count(&self.shared.counters.commands);
        let bytes = HEADER_BYTES + header.len;
        let mut kept = None;
        let whole = bytes <= SMALL_BYTES_MAX || {
            kept = (bytes <= KEPT_BYTES_MAX).then(|| self.shared.keep(bytes)).flatten();
            kept.is_some()
        };
        let wanted = if whole { bytes } else { STREAM_HEAD_BYTES.min(bytes) };
        if self.inbox.len() < wanted {
            Box::pin(self.fill_to(wanted)).await?;
        }
        let code = self.inbox.bytes()[HEADER_BYTES];
        let scan = match code {
            command::QUERY | command::STMT_PREPARE => {
                Scan::of(&self.inbox.bytes()[HEADER_BYTES + 1..wanted.min(self.inbox.len())])
            }
            _ => Scan::default(),
        };
        let done = self.dispatch(Command::new(code, bytes, whole, scan)).await;
        drop(kept);
        done
    }

    async fn fill_to(&mut self, wanted: usize) -> Result<(), End> {
        let filled = async {
            while self.inbox.len() < wanted {
                let (inbox, client) = (&mut self.inbox, &mut self.client);
                if std::future::poll_fn(|cx| inbox.poll_fill(cx, client, true)).await? == 0 {
                    return Err(End::Client);
                }
            }
            Ok(())
        };
        match tokio::time::timeout(Duration::from_millis(COMMAND_READ_MS), filled).await {
            Ok(filled) => filled,
            Err(_) => Err(End::Client),
        }
    }

    /// Waits for whatever comes first while no command is under way.
    async fn idle(&mut self) -> Idle {
        std::future::poll_fn(|cx| {
            self.slot.waker.register(cx.waker());
            if self.slot.killed.load(Ordering::Acquire) {
                return Poll::Ready(Idle::Killed);
            }
            if self.shared.version() != self.seen {
                return Poll::Ready(Idle::Route);
            }
            if let Some(backend) = &mut self.backend {
                // An engine says nothing by itself except that it closes.
                let mut bytes = [0u8; 64];
                if Pin::new(&mut backend.read).poll_read(cx, &mut ReadBuf::new(&mut bytes)).is_ready() {
                    return Poll::Ready(Idle::BackendGone);
                }
            }
            let n = ready!(self.inbox.poll_fill(cx, &mut self.client, false)).unwrap_or(0);
            Poll::Ready(Idle::Client(n))
        })
        .await
    }

    /// Takes over a new snapshot.
    pub fn refresh(&mut self) {
        let version = self.shared.version();
        if version != self.seen {
            self.seen = version;
            self.routing = self.shared.routing();
        }
    }

    /// Between commands: drops a connection that must be cut.
    fn look_at_route(&mut self) {
        self.refresh();
        if self.is_cut() {
            count(&self.shared.counters.cut);
            self.leave();
        }
        self.drain_reader();
    }

    /// The connection belongs to a past epoch.
    pub fn is_cut(&self) -> bool {
        self.backend
            .as_ref()
            .is_some_and(|b| gate::is_cut(b.link, self.routing.as_deref(), self.shared.closed_through()))
    }

    /// Drops the connection to the engine and notes what is lost with it.
    pub fn leave(&mut self) {
        if self.backend.take().is_none() {
            return;
        }
        self.slot.disconnect(!self.under_way);
        if self.is_away() {
            // Nothing of a session is at a reader.
            self.under_way = false;
            return;
        }
        let lost = if self.commit_unsure {
            Some(Loss::Unknown)
        } else if self.in_transaction {
            Some(Loss::Transaction)
        } else if !self.state.stuck.is_empty() {
            Some(Loss::State(self.state.stuck))
        } else {
            None
        };
        self.loss = self.loss.or(lost);
        self.under_way = false;
        self.in_transaction = false;
        self.commit_unsure = false;
        self.state.stuck = Stuck::default();
    }

    /// The error for a loss.
    pub fn tell_loss(&self, loss: Loss) -> ClientError {
        let counters = &self.shared.counters;
        match loss {
            Loss::Transaction => {
                count(&counters.errors_transaction_lost);
                errors::transaction_lost(&self.shared.group)
            }
            Loss::Unknown => {
                count(&counters.errors_outcome_unknown);
                errors::outcome_unknown(&self.shared.group)
            }
            Loss::State(what) => {
                count(&counters.errors_state_lost);
                errors::state_lost(&self.shared.group, what)
            }
        }
    }

    pub fn view(&self) -> View<'_> {
        View {
            role: self.role,
            routing: self.routing.as_deref(),
            fresh: self.shared.is_fresh(),
            closed_through: self.shared.closed_through(),
            link: self.backend.as_ref().map(|b| b.link),
            in_transaction: self.in_transaction,
            movable: self.state.stuck.is_empty(),
            readers_refused: self.readers_refused == Some(self.seen),
        }
    }

    /// Serves one command whose beginning, or all of it, is at the front of the inbox.
    async fn dispatch(&mut self, command: Command) -> Result<(), End> {
        match command.code {
            command::QUIT => return Err(End::Client),
            code if command::is_replication(code) || code == command::MULTI => {
                return self.answer(&command, errors::unsupported_command(code)).await;
            }
            command::CHANGE_USER if command.whole => return Box::pin(self.change_user(command)).await,
            command::CHANGE_USER => return Err(End::Tell(errors::bad_handshake(), 1)),
            command::PROCESS_KILL if command.whole => {
                if let Some(target) = self.kill_target(&command) {
                    return Box::pin(self.kill(command, target)).await;
                }
            }
            command::QUERY if command.scan.verb == Verb::Kill => {
                if let Some(target) = self.kill_target(&command) {
                    return Box::pin(self.kill(command, target)).await;
                }
            }
            command::STMT_CLOSE => return Box::pin(self.close_statement(command)).await,
            command::RESET_CONNECTION => self.loss = None,
            _ => {}
        }
        if self.loss.is_some() {
            return Box::pin(self.answer_loss(command)).await;
        }
        self.slot.query_killed.store(false, Ordering::Relaxed);
        self.carry(command).await
    }

    /// Sends a command to where it belongs, when it may go there, and relays the reply.
    async fn carry(&mut self, mut command: Command) -> Result<(), End> {
        let mut hold = Hold::new(command.bytes);
        // A reader has one chance.
        let mut may_leave = self.reads.is_some();
        if may_leave && command.code == command::STMT_PREPARE {
            self.kind_of(&mut command);
        }
        loop {
            self.refresh();
            if may_leave && let Some(kind) = self.leaves(&mut command) {
                may_leave = false;
                if self.reader_is_ready(kind) {
                    self.swap();
                } else {
                    Box::pin(self.go_to_reader(&mut command, kind)).await?;
                }
            }
            let away = self.is_away();
            if !away
                && gate::admit(self.view()) != Admit::Send
                && let Err(error) = Box::pin(self.admit_slowly(&mut hold)).await?
            {
                return self.answer(&command, error).await;
            }
            if command::names_statement(command.code)
                && let Err(error) = self.bind_statement(&mut command).await?
            {
                self.come_back();
                match error {
                    Some(error) if !away => return self.answer(&command, error).await,
                    _ => continue,
                }
            }
            let exchange = self.exchange(&mut command).await?;
            self.come_back();
            match exchange {
                Exchange::Done => {
                    if away {
                        count(&self.shared.counters.reads_at_replicas);
                    }
                    return Ok(());
                }
                Exchange::Again if away => count(&self.shared.counters.reads_returned),
                Exchange::Again => count(&self.shared.counters.resent),
                Exchange::Tell(error) => return self.answer(&command, error).await,
                Exchange::ReadOnly(error) => {
                    if let Err(error) = Box::pin(self.wait_read_only(&mut hold, error)).await? {
                        return self.answer(&command, error).await;
                    }
                    count(&self.shared.counters.resent);
                }
            }
            if let Some(loss) = self.loss.take()
                && command.code != command::RESET_CONNECTION
            {
                let error = self.tell_loss(loss);
                return self.answer(&command, error).await;
            }
        }
    }

    /// Tells what was lost since the last command. A `ROLLBACK` wants no more than has already happened.
    async fn answer_loss(&mut self, command: Command) -> Result<(), End> {
        let Some(loss) = self.loss.take() else { return Ok(()) };
        if loss == Loss::Transaction && command.scan.verb == Verb::Rollback && !command.scan.several {
            let seq = self.swallow(&command).await?;
            return self.answer_ok(seq).await;
        }
        let error = self.tell_loss(loss);
        if command::has_no_reply(command.code) {
            self.loss = Some(loss);
            return self.swallow(&command).await.map(|_| ());
        }
        self.answer(&command, error).await
    }

    /// Answers a command with an error instead of sending it; what is still to come of it is thrown away.
    pub async fn answer(&mut self, command: &Command, error: ClientError) -> Result<(), End> {
        let seq = self.swallow(command).await?;
        if command::has_no_reply(command.code) {
            return Ok(());
        }
        self.outbox.extend(&error.packet(seq));
        self.flush().await
    }

    pub async fn answer_ok(&mut self, seq: u8) -> Result<(), End> {
        let status = if self.state.autocommit() { Status::AUTOCOMMIT } else { Status(0) };
        let ok = OkPacket {
            affected_rows: 0,
            last_insert_id: 0,
            status,
            warnings: 0,
            info: b"",
            session_state: b"",
        };
        let mut out = Vec::new();
        packet::put(&mut out, seq, &ok.build());
        self.outbox.extend(&out);
        self.flush().await
    }

    /// Writes out what is pending for the client. While the client is slow, a connection to be cut is cut.
    pub async fn flush(&mut self) -> Result<(), End> {
        if let Some(done) = std::future::poll_fn(|cx| match self.poll_flush(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
        {
            return done;
        }
        let flushed = std::future::poll_fn(|cx| self.poll_flush(cx));
        let within = Duration::from_millis(CLIENT_STALL_MS);
        Box::pin(tokio::time::timeout(within, flushed)).await.unwrap_or(Err(End::Client))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.is_interrupted(cx) {
            return Poll::Ready(Err(End::Broken));
        }
        while !self.outbox.is_empty() {
            match ready!(Pin::new(&mut self.client).poll_write(cx, self.outbox.bytes())) {
                Ok(n) if n > 0 => self.outbox.consume(n),
                _ => return Poll::Ready(Err(End::Client)),
            }
        }
        if self.client.buffers() {
            ready!(Pin::new(&mut self.client).poll_flush(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// How this session logs in to an engine. `None` if the topology no longer has the user.
    pub fn login(&self) -> Option<Login<'_>> {
        let user = self.shared.users.get(&self.who.user)?;
        let mut capabilities = self
            .capabilities
            .with(Capabilities::PROTOCOL_41)
            .with(Capabilities::SECURE_CONNECTION)
            .with(Capabilities::PLUGIN_AUTH)
            .with(Capabilities::SESSION_TRACK)
            .without(Capabilities::SSL);
        if self.who.attributes.is_none() {
            capabilities = capabilities.without(Capabilities::CONNECT_ATTRS);
        }
        Some(Login {
            user: &self.who.user,
            password: &user.password,
            schema: self.state.schema.as_deref(),
            capabilities,
            collation: self.who.collation,
            attributes: self.who.attributes.as_deref(),
        })
    }
}
