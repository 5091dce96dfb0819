//! Holding commands, finding them a server, and building a session up again there.
//!
//! Guarantees: a wait ends early when the client leaves. A session gets a connection only with all of its replayable
//! state on it. Who listens is connected again without having to ask for it.

use crate::gate::{self, Admit, Link, Why};
use crate::hold::Hold;
use crate::resp::backend::{self, Connection, Replay};
use crate::resp::errors::{self, ClientError};
use crate::resp::session::{Backend, End, Session};
use crate::resp::state::{Replayed, State};
use crate::shared::count;
use holdfast_core::Epoch;
use holdfast_wire::resp::put_command;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes that a client may send ahead while its command is held; more waits in its socket.
const AHEAD_BYTES_MAX: usize = 64 << 10;
/// Who listens without a command being held looks this often for a server.
const LISTEN_AGAIN_MS: u64 = 200;
/// Tells a client that caches what it read that any of it may have changed.
const INVALIDATE_ALL: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";

enum Woken {
    Look,
    Deadline,
    Ahead(usize),
}

/// One attempt at getting a command to where it may go.
enum Approach {
    Ready,
    Again,
    Wait(Why, Option<ClientError>),
}

/// A connection could not be set up.
enum Attach {
    Backend(backend::Error),
    /// The topology has no such user any more.
    NoUser,
    /// The engine ended the connection, and is still there: with a subscriber that cannot keep up it would only do so
    /// again, and messages are lost.
    Dismissed,
}

impl From<backend::Error> for Attach {
    fn from(error: backend::Error) -> Attach {
        Attach::Backend(error)
    }
}

impl Session {
    /// Waits and connects until a command may be sent. `Err`: answer this instead.
    pub async fn admit_slowly(&mut self, bytes: usize) -> Result<Result<(), ClientError>, End> {
        let mut hold = self.hold.take().unwrap_or_else(|| Hold::new(bytes));
        loop {
            match self.approach(&mut hold).await? {
                Approach::Ready => {
                    self.hold = Some(hold);
                    return Ok(Ok(()));
                }
                Approach::Again => {}
                Approach::Wait(why, refused) => {
                    if let Err(error) = self.wait(&mut hold, why, refused).await? {
                        return Ok(Err(error));
                    }
                }
            }
        }
    }

    async fn approach(&mut self, hold: &mut Hold) -> Result<Approach, End> {
        self.refresh();
        Ok(match gate::admit(self.view()) {
            Admit::Send => Approach::Ready,
            Admit::Leave => {
                self.leave();
                Approach::Again
            }
            Admit::Hold(why) => Approach::Wait(why, None),
            Admit::ToWriter(writer) => match self.try_attach(writer.addr, true).await? {
                Ok(()) => Approach::Again,
                Err(error) => Approach::Wait(Why::Refused, error),
            },
            Admit::ToReader => {
                let readers = self.routing.as_ref().map(|r| r.readers.clone()).unwrap_or_default();
                match self.shared.readers.choose(&readers, &hold.avoid, Instant::now()) {
                    // A reader that lags may not know the user yet: the next one, or the writer, has the last word.
                    Some(reader) => match self.attach(reader.addr, false).await {
                        Ok(()) => {}
                        Err(Attach::Dismissed) => return Err(End::Client),
                        Err(_) => hold.avoid.push(reader.addr),
                    },
                    None => {
                        self.readers_refused = Some(self.seen);
                        hold.avoid.clear();
                    }
                }
                Approach::Again
            }
        })
    }

    /// Connects. `Ok(Err(…))`: another attempt may succeed; if the engine said why not, with its words.
    async fn try_attach(
        &mut self,
        addr: SocketAddr,
        writer: bool,
    ) -> Result<Result<(), Option<ClientError>>, End> {
        let error = match self.attach(addr, writer).await {
            Ok(()) => return Ok(Ok(())),
            Err(Attach::Dismissed) => return Err(End::Client),
            Err(Attach::Backend(error)) if error.is_passing() => {
                return Ok(Err(match error {
                    backend::Error::Refused(said) => Some(said),
                    _ => None,
                }));
            }
            Err(Attach::Backend(error)) => {
                tracing::warn!(%addr, %error, "cannot open a session on the engine");
                errors::state_lost(&self.shared.group, error)
            }
            Err(Attach::NoUser) => errors::state_lost(&self.shared.group, "there is no such user any more"),
        };
        self.say(&error);
        Err(End::Told)
    }

    /// Opens a connection and builds the session's state up on it. A new snapshot interrupts it.
    async fn attach(&mut self, addr: SocketAddr, writer: bool) -> Result<(), Attach> {
        let epoch = self.routing.as_ref().map_or(Epoch(0), |r| r.epoch);
        let link = Link { epoch, addr, writer };
        let replay = self.replay().ok_or(Attach::NoUser)?;
        let connection = {
            let (slot, shared, seen) = (&self.slot, &self.shared, self.seen);
            let changed = std::future::poll_fn(|cx| {
                slot.waker.register(cx.waker());
                if shared.version() != seen { Poll::Ready(()) } else { Poll::Pending }
            });
            tokio::select! {
                connection = Connection::open(addr, shared.socket_of(addr), &replay) => connection?,
                () = changed => return Ok(()),
            }
        };
        let was_dismissed = self.last_link == Some(link);
        if was_dismissed && (!self.state.subscriptions.is_empty() || self.state.monitors) {
            return Err(Attach::Dismissed);
        }
        let (read, write) = connection.stream.into_split();
        if !self.shared.connect(&self.slot, write, link, 0) {
            self.slot.disconnect(true);
            return Ok(());
        }
        let _at_reader = (!writer).then(|| self.shared.readers.enter(addr));
        self.backend = Some(Backend { read, link, client_id: connection.client_id, _at_reader });
        if self.last_link.is_some() {
            count(&self.shared.counters.rehomed);
            if self.state.tracks() {
                self.outbox.extend(INVALIDATE_ALL);
            }
        }
        if !self.digest_leftover(&connection.leftover).await {
            self.leave();
        }
        Ok(())
    }

    pub fn replay(&self) -> Option<Replay> {
        let user = self.state.user.as_deref()?;
        let (commands, list) = self.state.replay(user, &self.shared.users.get(user)?.password);
        let (subscriptions, confirmations) = self.state.subscriptions.replay();
        Some(Replay { commands, list, subscriptions, confirmations })
    }

    /// Ends the command that blocks, which a switchover would otherwise cut: then it would be of unknown outcome, and
    /// so it goes again on the next primary. An engine that does not let the user do so is left alone.
    pub async fn unblock(&mut self) {
        self.batch.unblocked = true;
        let Some(backend) = &self.backend else { return };
        let (Some(id), addr) = (backend.client_id, backend.link.addr) else { return };
        let Some(user) = &self.state.user else { return };
        let Some(known) = self.shared.users.get(user) else { return };
        let (mut commands, mut list) = State::new(None).replay(user, &known.password);
        put_command(&mut commands, &[b"CLIENT", b"UNBLOCK", id.to_string().as_bytes(), b"ERROR"]);
        list.push(Replayed { is_optional: true });
        let ask = Replay { commands, list, subscriptions: Vec::new(), confirmations: 0 };
        if let Err(error) = Connection::open(addr, self.shared.socket_of(addr), &ask).await {
            tracing::debug!(%addr, %error, "cannot end a blocked command");
        }
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
            match self.sleep_until(turn.until).await? {
                Woken::Ahead(0) => return Err(End::Client),
                Woken::Ahead(_) => {}
                Woken::Deadline if turn.is_last => {
                    count(&self.shared.counters.errors_held);
                    let told =
                        refused.unwrap_or_else(|| errors::held_too_long(&self.shared.group, why, hold_ms));
                    return Ok(Err(told));
                }
                Woken::Look | Woken::Deadline => break,
            }
        }
        self.readers_refused = None;
        Ok(Ok(()))
    }

    async fn sleep_until(&mut self, until: Instant) -> Result<Woken, End> {
        let mut sleep = pin!(tokio::time::sleep_until(until));
        std::future::poll_fn(|cx| {
            self.slot.waker.register(cx.waker());
            self.poll_drain(cx)?;
            if self.shared.version() != self.seen {
                return Poll::Ready(Ok(Woken::Look));
            }
            if self.inbox.len() < AHEAD_BYTES_MAX
                && let Poll::Ready(read) = self.inbox.poll_fill(cx, &mut self.client, false)
            {
                return Poll::Ready(Ok(Woken::Ahead(read.unwrap_or(0))));
            }
            sleep.as_mut().poll(cx).map(|()| Ok(Woken::Deadline))
        })
        .await
    }

    /// Connects a session that listens again. Nothing is held, so nothing has a deadline; a command that comes
    /// meanwhile has one of its own.
    pub async fn listen_again(&mut self) -> Result<(), End> {
        let mut hold = Hold::new(0);
        loop {
            match self.approach(&mut hold).await? {
                Approach::Ready => return Ok(()),
                Approach::Again => {}
                Approach::Wait(..) => {
                    let until = Instant::now() + Duration::from_millis(LISTEN_AGAIN_MS);
                    match self.sleep_until(until).await? {
                        Woken::Ahead(0) => return Err(End::Client),
                        Woken::Ahead(_) => return Ok(()),
                        Woken::Look | Woken::Deadline => self.readers_refused = None,
                    }
                }
            }
        }
    }
}
