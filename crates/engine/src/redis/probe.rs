//! Whether a replica's primary is there, asked more often than the primary speaks by itself (once a second at best).
//!
//! Guarantees: one question at a time, bounded; an answer says that the primary's process answers and that the network
//! between both hosts carries, as a byte of its stream would.
//! Does not know: whether the stream itself flows.

use super::session::{Batch, Door, Session};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A question that is not answered by then is asked again.
const ANSWER: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Asked {
    of: Option<SocketAddr>,
    /// When the last question was sent that was answered.
    answered: Option<Instant>,
    asking: Option<JoinHandle<()>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Probe {
    session: Arc<Session>,
    asked: Arc<Mutex<Asked>>,
}

impl Probe {
    /// Asks again, unless a question is under way. The last sign of life, if there was any from there.
    pub(super) fn ask(&self, addr: SocketAddr, door: Door) -> Option<Instant> {
        let mut asked = super::lock(&self.asked);
        let ended = asked.asking.as_ref().is_none_or(JoinHandle::is_finished);
        if !ended {
            return asked.answered.filter(|_| asked.of == Some(addr));
        }
        if asked.of != Some(addr) {
            *asked = Asked { of: Some(addr), ..Asked::default() };
            let session = self.session.clone();
            asked.asking = Some(tokio::spawn(async move { session.reset().await }));
            return None;
        }
        let (session, told) = (self.session.clone(), self.asked.clone());
        asked.asking = Some(tokio::spawn(async move {
            let sent = Instant::now();
            let answer = session.ask("asking the primary", &door, Batch::new(&["PING"]), ANSWER).await;
            let mut told = super::lock(&told);
            if answer.is_ok() && told.of == Some(addr) {
                told.answered = Some(sent);
            }
        }));
        asked.answered
    }

    pub(super) async fn reset(&self) {
        let asking = {
            let mut asked = super::lock(&self.asked);
            std::mem::take(&mut *asked).asking
        };
        if let Some(asking) = asking {
            asking.abort();
        }
        self.session.reset().await;
    }
}
