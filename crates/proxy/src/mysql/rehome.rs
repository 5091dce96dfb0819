//! Holding a command, finding it a server, and building a session up again there.
//!
//! Guarantees: a wait ends early when the client leaves. A session gets a connection only with all of its replayable state on it.

use crate::gate::{self, Admit, Link, Why};
use crate::hold::Hold;
use crate::mysql::backend::{self, Connection};
use crate::mysql::errors::{self, ClientError};
use crate::mysql::login::{Proof, prove};
use crate::mysql::outgoing::Command;
use crate::mysql::session::{Backend, End, Session};
use crate::mysql::state::{Replay, State};
use crate::shared::count;
use holdfast_core::Epoch;
use holdfast_wire::login::ChangeUser;
use holdfast_wire::packet::HEADER_BYTES;
use holdfast_wire::{Capabilities, Status, command};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes that a client may send ahead while its command is held; more waits in its socket.
const AHEAD_BYTES_MAX: usize = 16 << 10;

enum Woken {
    Look,
    Deadline,
    Ahead(usize),
}

/// A connection could not be set up.
pub enum Attach {
    Backend(backend::Error),
    /// The engine refused part of the session's state.
    Replay(ClientError),
    /// The topology has no such user any more.
    NoUser,
}

impl From<backend::Error> for Attach {
    fn from(error: backend::Error) -> Attach {
        Attach::Backend(error)
    }
}

impl Session {
    /// Waits and connects until a command may be sent. `Err`: answer this instead.
    pub async fn admit_slowly(&mut self, hold: &mut Hold) -> Result<Result<(), ClientError>, End> {
        loop {
            self.refresh();
            let (why, refused) = match gate::admit(self.view()) {
                Admit::Send => return Ok(Ok(())),
                Admit::Leave => {
                    self.leave();
                    match self.loss.take() {
                        Some(loss) => return Ok(Err(self.tell_loss(loss))),
                        None => continue,
                    }
                }
                Admit::Hold(why) => (why, None),
                Admit::ToWriter(writer) => match self.try_attach(writer.addr, true).await? {
                    Ok(()) => continue,
                    Err(error) => (Why::Refused, error),
                },
                Admit::ToReader => {
                    let readers = self.routing.as_ref().map(|r| r.readers.clone()).unwrap_or_default();
                    match self.shared.readers.choose(&readers, &hold.avoid, Instant::now()) {
                        Some(reader) => {
                            // A reader that lags may not know the user or schema yet: the next one, or the
                            // writer, has the last word.
                            if !matches!(self.try_attach(reader.addr, false).await, Ok(Ok(()))) {
                                hold.avoid.push(reader.addr);
                            }
                            continue;
                        }
                        None => {
                            self.readers_refused = Some(self.seen);
                            hold.avoid.clear();
                            continue;
                        }
                    }
                }
            };
            if let Err(error) = self.wait(hold, why, refused).await? {
                return Ok(Err(error));
            }
        }
    }

    /// Connects. `Ok(Err(…))`: another attempt may succeed; if the engine said why not, with its words.
    async fn try_attach(
        &mut self,
        addr: SocketAddr,
        writer: bool,
    ) -> Result<Result<(), Option<ClientError>>, End> {
        // An error during login is its packet 2; during a command, 1.
        let seq = if self.generation == 0 { self.login_seq } else { 1 };
        match self.attach(addr, writer).await {
            Ok(()) => Ok(Ok(())),
            Err(Attach::Backend(backend::Error::Refused(error))) => {
                if backend::Error::Refused(error.clone()).is_passing() {
                    return Ok(Err(Some(error)));
                }
                Err(End::Tell(error, seq))
            }
            Err(Attach::Backend(error)) if error.is_passing() => Ok(Err(None)),
            Err(Attach::Backend(error)) => {
                tracing::warn!(%addr, %error, "cannot open a session on the engine");
                Err(End::Tell(errors::held_too_long(&self.shared.group, error, 0), seq))
            }
            Err(Attach::Replay(error)) => {
                let what = String::from_utf8_lossy(&error.text).into_owned();
                Err(End::Tell(errors::state_lost(&self.shared.group, what), seq))
            }
            Err(Attach::NoUser) => {
                Err(End::Tell(errors::access_denied(&self.who.user, self.who.host, true), seq))
            }
        }
    }

    /// Opens a connection and builds the session's state up on it. A new snapshot interrupts it.
    async fn attach(&mut self, addr: SocketAddr, writer: bool) -> Result<(), Attach> {
        let epoch = self.routing.as_ref().map_or(Epoch(0), |r| r.epoch);
        let link = Link { epoch, addr, writer };
        let gtids = self.reads.is_some();
        let on = Replay::Session { writes: !(writer && self.role == gate::Role::Read), gtids };
        let (connection, status) = {
            let (slot, shared, seen) = (&self.slot, &self.shared, self.seen);
            let changed = std::future::poll_fn(|cx| {
                slot.waker.register(cx.waker());
                if shared.version() != seen { Poll::Ready(()) } else { Poll::Pending }
            });
            tokio::select! {
                connection = self.set_up(addr, on) => connection?,
                () = changed => return Ok(()),
            }
        };
        self.shared.learn_version(&connection.greeting.server_version);
        let (read, write) = connection.stream.into_split();
        let capabilities = connection.capabilities;
        if !self.shared.connect(&self.slot, write, link, connection.greeting.connection_id) {
            self.slot.disconnect(true);
            return Ok(());
        }
        let _at_reader = (!writer).then(|| self.shared.readers.enter(addr));
        self.generation += 1;
        let generation = self.generation;
        self.backend = Some(Backend { read, link, capabilities, generation, _at_reader });
        self.autocommit = status.has(Status::AUTOCOMMIT);
        if let Some(reads) = &mut self.reads {
            reads.note_new_primary();
        }
        if generation > 1 {
            count(&self.shared.counters.rehomed);
        }
        Ok(())
    }

    /// Logs in and brings the connection to the session's state, as far as it is for `on`.
    pub async fn set_up(&self, addr: SocketAddr, on: Replay) -> Result<(Connection, Status), Attach> {
        let login = self.login().ok_or(Attach::NoUser)?;
        let mut connection = Connection::open(addr, self.shared.socket_of(addr), login).await?;
        if self.state.was_reset {
            connection.command(&[command::RESET_CONNECTION]).await?;
        }
        let status = match connection.query(&self.state.replay(self.shared.engine, on)).await {
            Ok(status) => status,
            Err(backend::Error::Refused(error)) => return Err(Attach::Replay(error)),
            Err(error) => return Err(error.into()),
        };
        if let Some([a, b]) = self.state.option {
            connection.command(&[command::SET_OPTION, a, b]).await?;
        }
        Ok((connection, status))
    }

    /// Holds the command until something changes. `refused` is what the engine last said; at the deadline it is
    /// what the client is told.
    pub async fn wait(
        &mut self,
        hold: &mut Hold,
        why: Why,
        refused: Option<ClientError>,
    ) -> Result<Result<(), ClientError>, End> {
        let hold_ms = self.shared.limits.hold_ms;
        let Some(turn) = hold.turn(&self.shared, matches!(why, Why::Refused | Why::ReadOnly)) else {
            count(&self.shared.counters.errors_held);
            return Ok(Err(errors::too_much_held(&self.shared.group, why)));
        };
        loop {
            match self.sleep_until(turn.until).await {
                Woken::Look => {}
                Woken::Ahead(0) => return Err(End::Client),
                Woken::Ahead(_) => continue,
                Woken::Deadline if !turn.is_last => {}
                Woken::Deadline => {
                    count(&self.shared.counters.errors_held);
                    let told =
                        refused.unwrap_or_else(|| errors::held_too_long(&self.shared.group, why, hold_ms));
                    return Ok(Err(told));
                }
            }
            self.readers_refused = None;
            if self.slot.killed.load(Ordering::Acquire) {
                return Err(End::Client);
            }
            if self.slot.query_killed.swap(false, Ordering::AcqRel) {
                return Ok(Err(errors::query_killed()));
            }
            return Ok(Ok(()));
        }
    }

    async fn sleep_until(&mut self, until: Instant) -> Woken {
        let mut sleep = pin!(tokio::time::sleep_until(until));
        std::future::poll_fn(|cx| {
            self.slot.waker.register(cx.waker());
            let called =
                self.slot.killed.load(Ordering::Acquire) || self.slot.query_killed.load(Ordering::Acquire);
            if called || self.shared.version() != self.seen {
                return Poll::Ready(Woken::Look);
            }
            if self.inbox.len() < AHEAD_BYTES_MAX
                && let Poll::Ready(read) = self.inbox.poll_fill(cx, &mut self.client, false)
            {
                return Poll::Ready(Woken::Ahead(read.unwrap_or(0)));
            }
            sleep.as_mut().poll(cx).map(|()| Woken::Deadline)
        })
        .await
    }

    /// A read-only engine refused the command: wait until the route changes or the engine opens.
    pub async fn wait_read_only(
        &mut self,
        hold: &mut Hold,
        error: ClientError,
    ) -> Result<Result<(), ClientError>, End> {
        match self.role {
            gate::Role::ReadWrite => self.wait(hold, Why::ReadOnly, Some(error)).await,
            gate::Role::Read => Ok(Err(error)),
        }
    }

    /// COM_CHANGE_USER: a new login on the old connection. The engine sees a new connection.
    pub async fn change_user(&mut self, command: Command) -> Result<(), End> {
        let payload = &self.inbox.bytes()[HEADER_BYTES..command.bytes];
        let Ok(change) = ChangeUser::parse(payload, self.capabilities) else {
            return Err(End::Tell(errors::bad_handshake(), 1));
        };
        let seq = self.swallow(&command).await?;
        let nonce = self.who.nonce;
        let proof = Proof { plugin: change.auth_plugin.as_deref(), auth: change.auth, nonce, seq };
        let within = Duration::from_millis(self.shared.limits.login_ms);
        let proved = prove(&self.shared, &mut self.client, &change.user, proof);
        let (ok, proof) = tokio::time::timeout(within, proved).await.map_err(|_| End::Client)??;
        if !ok {
            count(&self.shared.counters.errors_login);
            let denied = errors::access_denied(&change.user, self.who.host, !proof.auth.is_empty());
            return Err(End::Tell(denied, proof.seq));
        }
        self.who.nonce = proof.nonce;
        let seq = proof.seq;
        self.leave();
        self.drop_reader();
        self.loss = None;
        crate::shared::lock(&self.slot.user).clone_from(&change.user);
        self.who.user = change.user;
        if let Some(collation) = change.collation {
            self.who.collation = u8::try_from(collation).unwrap_or(self.who.collation);
        }
        *self.state = State::new(change.schema);
        self.generation = 0;
        self.login_seq = seq;
        let mut hold = Hold::new(0);
        if let Err(error) = self.admit_slowly(&mut hold).await? {
            return Err(End::Tell(error, seq));
        }
        self.answer_ok(seq).await
    }

    /// A command that goes to another server than the session's: for KILL.
    pub async fn elsewhere(&self, addr: SocketAddr, sql: &[u8]) -> Result<(), backend::Error> {
        let Some(mut login) = self.login() else {
            return Err(backend::Error::Refused(errors::access_denied(&self.who.user, self.who.host, true)));
        };
        login.schema = None;
        login.capabilities = login.capabilities.without(Capabilities::SESSION_TRACK);
        Connection::open(addr, self.shared.socket_of(addr), login).await?.query(sql).await.map(|_| ())
    }
}
