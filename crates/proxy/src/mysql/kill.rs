//! KILL of sessions by the ids that the proxy gave them. It is carried out by the engine, as the user who asks, so
//! that the engine's rules hold; see the crate's contract for which numbers are meant.

use crate::mysql::backend;
use crate::mysql::errors;
use crate::mysql::outgoing::Command;
use crate::mysql::session::{End, Session};
use crate::mysql::sql::Kill;
use crate::shared::{Shared, lock};
use holdfast_wire::command;
use holdfast_wire::packet::HEADER_BYTES;
use std::sync::atomic::Ordering;

impl Session {
    /// What a KILL command names, if that is a session of a proxy.
    pub fn kill_target(&self, command: &Command) -> Option<Kill> {
        let kill = match command.code {
            command::PROCESS_KILL => {
                let id = self.inbox.bytes().get(HEADER_BYTES + 1..command.bytes)?.first_chunk::<4>()?;
                Kill { id: u32::from_le_bytes(*id).into(), query: false }
            }
            _ if command.scan.several => return None,
            _ => command.scan.kill?,
        };
        if Shared::is_session_id(kill.id) {
            return Some(kill);
        }
        // An engine's own id, from its process list: if it is a session's, that session is to end with it.
        let (addr, _) = self.slot.backend()?;
        let thread_id = u32::try_from(kill.id).ok()?;
        let id = self.shared.session_at(addr, thread_id)?.id;
        Some(Kill { id: id.into(), ..kill })
    }

    /// Kills a session of this proxy.
    pub async fn kill(&mut self, command: Command, target: Kill) -> Result<(), End> {
        let id = u32::try_from(target.id).unwrap_or(u32::MAX);
        let Some(slot) = self.shared.session(id) else {
            return self.answer(&command, errors::unknown_thread(id)).await;
        };
        let Some((addr, thread_id)) = slot.backend() else {
            // Held, or between servers: there is no engine to ask, so the rule is applied here.
            if *lock(&slot.user) != self.who.user {
                return self.answer(&command, errors::not_owner(id)).await;
            }
            let flag = if target.query { &slot.query_killed } else { &slot.killed };
            flag.store(true, Ordering::Release);
            slot.waker.wake();
            let seq = self.swallow(&command).await?;
            return self.answer_ok(seq).await;
        };
        if !target.query {
            // Before the engine closes the connection, or the session would be moved.
            slot.condemned.store(true, Ordering::Release);
        }
        let what = if target.query { "QUERY " } else { "" };
        let killed = self.elsewhere(addr, format!("KILL {what}{thread_id}").as_bytes()).await;
        match killed {
            Ok(()) => {
                if !target.query {
                    slot.killed.store(true, Ordering::Release);
                    slot.waker.wake();
                }
                let seq = self.swallow(&command).await?;
                self.answer_ok(seq).await
            }
            Err(error) => {
                slot.condemned.store(false, Ordering::Release);
                let error = match error {
                    backend::Error::Refused(error) => error,
                    error => errors::held_too_long(&self.shared.group, error, 0),
                };
                self.answer(&command, error).await
            }
        }
    }
}
