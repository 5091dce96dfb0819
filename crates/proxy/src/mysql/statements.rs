//! Prepared statements across servers: the client's ids stay, the server's are put in on the way; a statement that
//! the current server does not know is prepared there first.

use crate::mysql::backend;
use crate::mysql::errors::{self, ClientError};
use crate::mysql::outgoing::{Command, Sent};
use crate::mysql::session::{End, Loss, Session};
use crate::mysql::split::value_of;
use crate::mysql::state::{Statement, Stuck};
use holdfast_wire::codec::Reader;
use holdfast_wire::command;
use holdfast_wire::packet::{self, HEADER_BYTES, Header};
use holdfast_wire::tracker::{Event, Tracker};
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Where a statement's id stands in a command, header included.
pub const ID_AT: usize = HEADER_BYTES + 1;
/// Where an execute says whether it opens a cursor.
pub const CURSOR_AT: usize = ID_AT + 4;
/// Where an execute's NULL bitmap starts: after id, flags and iteration count.
const NULLS_AT: usize = CURSOR_AT + 1 + 4;
/// Bytes of a reply to one of the proxy's own commands.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// What is read of such a reply at once, at least.
const READ_BYTES: usize = 4 << 10;

impl Session {
    /// Makes sure that the statement a command names exists on the current connection, and puts its id there in.
    /// `Err(None)`: the connection was lost, or is a reader's and cannot have it; ask again where to send.
    pub async fn bind_statement(
        &mut self,
        command: &mut Command,
    ) -> Result<Result<(), Option<ClientError>>, End> {
        let Some(id) = self.inbox.bytes().get(ID_AT..ID_AT + 4).and_then(|b| b.first_chunk::<4>()) else {
            return Ok(Err(Some(errors::unknown_statement(0))));
        };
        let id = command.statement.unwrap_or_else(|| self.state.statements.resolve(u32::from_le_bytes(*id)));
        command.statement = Some(id);
        let Some(here) = self.backend.as_ref().map(|b| b.generation) else { return Ok(Err(None)) };
        let Some(statement) = self.state.statements.get(id) else {
            return Ok(Err(Some(errors::unknown_statement(id))));
        };
        if statement.on(here).is_none() {
            let lost = (command.code == command::STMT_FETCH && statement.places().any(|p| p.cursor))
                || statement.places().any(|p| p.long_data)
                || statement.sql.is_none();
            if lost {
                statement.forget_long_data();
                return Ok(Err(self.statement_lost()));
            }
            match Box::pin(self.prepare_again(id)).await {
                Ok(()) => {}
                Err(backend::Error::Refused(error)) => return Ok(Err(Some(error))),
                Err(_) => {
                    self.leave();
                    return Ok(Err(self.loss.take().map(|loss| self.tell_loss(loss))));
                }
            }
        }
        let Some(statement) = self.state.statements.get(id) else {
            return Ok(Err(Some(errors::unknown_statement(id))));
        };
        let Some(place) = statement.on(here) else { return Ok(Err(None)) };
        let (server_id, knows_types) = (place.server_id, place.knows_types);
        place.long_data |= command.code == command::STMT_SEND_LONG_DATA;
        let (inbox, bytes) = (&mut self.inbox, &mut command.bytes);
        inbox.bytes_mut()[ID_AT..ID_AT + 4].copy_from_slice(&server_id.to_le_bytes());
        if command.code == command::STMT_EXECUTE && statement.params > 0 {
            let present = (*bytes).min(inbox.len());
            match types_of(&inbox.bytes()[..present], statement) {
                Types::Sent(types) => {
                    let types: Box<[u8]> = types.into();
                    statement.set_types(types, here);
                }
                Types::Missing(at) if !knows_types => {
                    if !command.whole || statement.types.is_empty() {
                        return Ok(Err(self.statement_lost()));
                    }
                    inbox.bytes_mut()[at] = 1;
                    inbox.insert(at + 1, &statement.types);
                    *bytes += statement.types.len();
                    let [a, b, c, _] = ((*bytes - HEADER_BYTES) as u32).to_le_bytes();
                    inbox.bytes_mut()[..3].copy_from_slice(&[a, b, c]);
                    if let Some(place) = statement.on(here) {
                        place.knows_types = true;
                    }
                }
                Types::Missing(_) | Types::Unclear => {}
            }
        }
        Ok(Ok(()))
    }

    /// What a client is told if a statement cannot be brought to the current connection. At a reader that is no loss:
    /// the primary may have it.
    fn statement_lost(&self) -> Option<ClientError> {
        (!self.is_away()).then(|| self.tell_loss(Loss::State(Stuck::STATEMENT)))
    }

    /// Prepares a statement on the current connection, in the schema that its names were meant in.
    async fn prepare_again(&mut self, id: u32) -> Result<(), backend::Error> {
        let Some(Statement { sql: Some(sql), schema, .. }) = self.state.statements.get(id) else {
            return Ok(());
        };
        let mut payload = Vec::with_capacity(sql.len() + 1);
        payload.push(command::STMT_PREPARE);
        payload.extend_from_slice(sql);
        let now = self.state.schema.clone();
        let then = schema.clone().filter(|then| now.as_deref() != Some(then));
        if let Some(then) = &then {
            self.own_command(&[&[command::INIT_DB], &**then].concat()).await?;
        }
        let prepared = self.own_command(&payload).await;
        if then.is_some() {
            // What must be undone and cannot be makes the connection unfit.
            let back = [&[command::INIT_DB], &*now.unwrap_or_default()].concat();
            self.own_command(&back).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::Other))?;
        }
        let reply = prepared?;
        let mut r = Reader::new(&reply);
        r.u8("the reply's kind")?;
        let server_id = r.u32("the statement id")?;
        let (here, other) = (self.backend.as_ref().map_or(0, |b| b.generation), self.parked_generation());
        if let Some(statement) = self.state.statements.get(id) {
            statement.put(here, other, server_id);
        }
        Ok(())
    }

    /// A command of the proxy's own on the session's connection; the first packet of its reply.
    pub async fn own_command(&mut self, payload: &[u8]) -> Result<Vec<u8>, backend::Error> {
        let reply = self.own_reply(payload).await?;
        let (_, first) = packet::whole(&reply).unwrap_or((Header { len: 0, seq: 0 }, &[]));
        if first.first() == Some(&0xFF) {
            return Err(backend::refused(first)?);
        }
        Ok(first.to_vec())
    }

    /// A query of the proxy's own on the session's connection: the first column of its first row.
    pub async fn own_value(&mut self, sql: &[u8]) -> Result<Option<Vec<u8>>, backend::Error> {
        let reply = self.own_reply(&[&[command::QUERY], sql].concat()).await?;
        value_of(&reply, self.capabilities)
    }

    async fn own_reply(&mut self, payload: &[u8]) -> Result<Vec<u8>, backend::Error> {
        let mut bytes = Vec::with_capacity(payload.len() + HEADER_BYTES);
        packet::put(&mut bytes, 0, payload);
        let code = payload.first().copied().unwrap_or_default();
        let mut rest = Vec::new();
        let exchange = async {
            self.write_own(&bytes).await?;
            self.read_own(code, &mut rest, REPLY_BYTES_MAX).await
        };
        let within = Duration::from_millis(backend::COMMAND_MS);
        tokio::time::timeout(within, exchange).await.map_err(|_| backend::Error::Timeout)?
    }

    /// Writes what the proxy itself has to say.
    pub async fn write_own(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            sent += std::future::poll_fn(|cx| match self.slot.poll_write(cx, &bytes[sent..]) {
                Poll::Ready(Ok(0)) => Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                other => other,
            })
            .await?;
        }
        Ok(())
    }

    /// Reads a whole reply of at most `limit` bytes off the current connection. `rest` is what was read of it before,
    /// and then what was read beyond it.
    pub async fn read_own(
        &mut self,
        code: u8,
        rest: &mut Vec<u8>,
        limit: usize,
    ) -> Result<Vec<u8>, backend::Error> {
        let Some(backend) = &mut self.backend else {
            return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
        };
        let mut tracker = Tracker::new(code, backend.capabilities);
        let mut reply = Vec::new();
        loop {
            let step = tracker.feed(rest)?;
            reply.extend_from_slice(&rest[..step.consumed]);
            rest.drain(..step.consumed);
            if reply.len() > limit {
                let value = reply.len() as u64;
                return Err(holdfast_wire::Error::Value { what: "a reply's length", value }.into());
            }
            match step.event {
                Event::Done => return Ok(reply),
                Event::LocalInfile => {
                    return Err(holdfast_wire::Error::Value { what: "the reply's kind", value: 0xFB }.into());
                }
                Event::More => {
                    rest.reserve(READ_BYTES);
                    if backend.read.read_buf(rest).await? == 0 {
                        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                    }
                }
                Event::Ok { .. } | Event::Err { .. } | Event::Prepared { .. } => {}
            }
        }
    }

    /// COM_STMT_CLOSE has no reply and must not wait: a server that does not know the statement needs no word.
    pub async fn close_statement(&mut self, mut command: Command) -> Result<(), End> {
        let id = self.inbox.bytes().get(ID_AT..ID_AT + 4).and_then(|b| b.first_chunk::<4>());
        let gone = id.and_then(|id| self.state.statements.remove(u32::from_le_bytes(*id)));
        for place in gone.filter(|_| command.whole).iter().flat_map(Statement::places) {
            let parked = self.parked_generation() == Some(place.generation);
            if parked {
                self.swap();
            }
            if self.backend.as_ref().is_some_and(|b| b.generation == place.generation) {
                self.inbox.bytes_mut()[ID_AT..ID_AT + 4].copy_from_slice(&place.server_id.to_le_bytes());
                if self.send(&mut command).await? == Sent::Broken {
                    self.leave();
                }
            }
            if parked {
                self.swap();
            }
        }
        self.swallow(&command).await.map(|_| ())
    }
}

/// What an execute says about its parameters' types.
#[derive(Debug, PartialEq, Eq)]
enum Types<'a> {
    Sent(&'a [u8]),
    /// Left out because they were sent before; the flag that says so stands here.
    Missing(usize),
    /// Too short to tell.
    Unclear,
}

fn types_of<'a>(bytes: &'a [u8], statement: &Statement) -> Types<'a> {
    let params = usize::from(statement.params);
    let flag_at = NULLS_AT + params.div_ceil(8);
    match bytes.get(flag_at) {
        Some(1) => bytes.get(flag_at + 1..flag_at + 1 + 2 * params).map_or(Types::Unclear, Types::Sent),
        Some(0) => Types::Missing(flag_at),
        _ => Types::Unclear,
    }
}
