//! Prepared statements across servers: the client's ids stay, the server's are put in on the way; a statement that
//! the current server does not know is prepared there first.

use crate::mysql::backend;
use crate::mysql::errors::{self, ClientError};
use crate::mysql::outgoing::Command;
use crate::mysql::session::{End, Loss, Session};
use crate::mysql::state::{Statement, Stuck};
use holdfast_wire::codec::Reader;
use holdfast_wire::command;
use holdfast_wire::packet::{self, HEADER_BYTES};
use std::task::Poll;
use std::time::Duration;

/// Where a statement's id stands in a command, header included.
const ID_AT: usize = HEADER_BYTES + 1;
/// Where an execute's NULL bitmap starts: after id, flags and iteration count.
const NULLS_AT: usize = ID_AT + 4 + 1 + 4;
/// For one of the proxy's own commands in the middle of a session.
const COMMAND_MS: u64 = 5_000;

impl Session {
    /// Makes sure that the statement a command names exists on the current connection, and puts its id there in.
    /// `Err(None)`: the connection was lost; ask again where to send.
    pub async fn bind_statement(
        &mut self,
        command: &mut Command,
    ) -> Result<Result<(), Option<ClientError>>, End> {
        let Some(id) = self.inbox.bytes().get(ID_AT..ID_AT + 4).and_then(|b| b.first_chunk::<4>()) else {
            return Ok(Err(Some(errors::unknown_statement(0))));
        };
        let id = command.statement.unwrap_or_else(|| self.state.statements.resolve(u32::from_le_bytes(*id)));
        command.statement = Some(id);
        let generation = self.generation;
        let Some(statement) = self.state.statements.get(id) else {
            return Ok(Err(Some(errors::unknown_statement(id))));
        };
        if statement.generation != generation {
            let lost = (command.code == command::STMT_FETCH && statement.cursor.is_some())
                || statement.long_data.is_some_and(|g| g != generation)
                || statement.sql.is_none();
            if lost {
                statement.long_data = None;
                let what = Loss::State(Stuck::STATEMENT);
                return Ok(Err(Some(self.tell_loss(what))));
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
        let (inbox, bytes) = (&mut self.inbox, &mut command.bytes);
        inbox.bytes_mut()[ID_AT..ID_AT + 4].copy_from_slice(&statement.server_id.to_le_bytes());
        match command.code {
            command::STMT_EXECUTE if statement.params > 0 => {
                let present = (*bytes).min(inbox.len());
                match types_of(&inbox.bytes()[..present], statement) {
                    Types::Sent(types) => {
                        if *statement.types != *types {
                            statement.types = types.into();
                        }
                        statement.types_generation = generation;
                    }
                    Types::Missing(at) if statement.types_generation != generation => {
                        if !command.whole || statement.types.is_empty() {
                            let what = Loss::State(Stuck::STATEMENT);
                            return Ok(Err(Some(self.tell_loss(what))));
                        }
                        inbox.bytes_mut()[at] = 1;
                        inbox.insert(at + 1, &statement.types);
                        *bytes += statement.types.len();
                        let [a, b, c, _] = ((*bytes - HEADER_BYTES) as u32).to_le_bytes();
                        inbox.bytes_mut()[..3].copy_from_slice(&[a, b, c]);
                        statement.types_generation = generation;
                    }
                    Types::Missing(_) | Types::Unclear => {}
                }
            }
            command::STMT_SEND_LONG_DATA => statement.long_data = Some(generation),
            _ => {}
        }
        Ok(Ok(()))
    }

    /// Prepares a statement on the current connection.
    async fn prepare_again(&mut self, id: u32) -> Result<(), backend::Error> {
        let generation = self.generation;
        let Some(Statement { sql: Some(sql), .. }) = self.state.statements.get(id) else { return Ok(()) };
        let mut payload = Vec::with_capacity(sql.len() + 1);
        payload.push(command::STMT_PREPARE);
        payload.extend_from_slice(sql);
        let reply = self.own_command(&payload).await?;
        let mut r = Reader::new(&reply);
        r.u8("the reply's kind")?;
        let server_id = r.u32("the statement id")?;
        if let Some(statement) = self.state.statements.get(id) {
            statement.server_id = server_id;
            statement.generation = generation;
            statement.cursor = None;
        }
        Ok(())
    }

    /// A command of the proxy's own on the session's connection; the first packet of its reply.
    pub async fn own_command(&mut self, payload: &[u8]) -> Result<Vec<u8>, backend::Error> {
        let mut bytes = Vec::with_capacity(payload.len() + HEADER_BYTES);
        packet::put(&mut bytes, 0, payload);
        let mut sent = 0;
        let slot = self.slot.clone();
        let exchange = async {
            while sent < bytes.len() {
                sent += std::future::poll_fn(|cx| match slot.poll_write(cx, &bytes[sent..]) {
                    Poll::Ready(Ok(0)) => Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                    other => other,
                })
                .await?;
            }
            let Some(backend) = &mut self.backend else {
                return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
            };
            let code = payload.first().copied().unwrap_or_default();
            backend::read_reply(&mut backend.read, code, backend.capabilities).await
        };
        let within = Duration::from_millis(COMMAND_MS);
        tokio::time::timeout(within, exchange).await.map_err(|_| backend::Error::Timeout)?
    }

    /// COM_STMT_CLOSE has no reply and must not wait: a server that does not know the statement needs no word.
    pub async fn close_statement(&mut self, mut command: Command) -> Result<(), End> {
        let id = self.inbox.bytes().get(ID_AT..ID_AT + 4).and_then(|b| b.first_chunk::<4>());
        let gone = id.and_then(|id| self.state.statements.remove(u32::from_le_bytes(*id)));
        if let Some(gone) = gone
            && gone.generation == self.generation
            && self.backend.is_some()
            && command.whole
        {
            self.inbox.bytes_mut()[ID_AT..ID_AT + 4].copy_from_slice(&gone.server_id.to_le_bytes());
            if self.send(&mut command).await? == crate::mysql::outgoing::Sent::Broken {
                self.leave();
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
