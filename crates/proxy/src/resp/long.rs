//! Commands that are too long to be kept: they stream through, from the client to the engine.
//!
//! Guarantees: such a command takes no more memory than any other. An engine executes only whole commands, so one that
//! broke off on its way was not executed.

use crate::gate::{self, Admit};
use crate::resp::batch::Kind;
use crate::resp::errors::{self, ClientError};
use crate::resp::plan::Own;
use crate::resp::session::{End, Session};
use crate::resp::state::Transaction;
use crate::shared::count;
use std::task::{Poll, ready};

/// How a command's way ended.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Whole,
    Broken,
}

impl Session {
    /// Serves a long command whose beginning is in the inbox.
    pub async fn long(&mut self, kind: Result<Kind, Own>) -> Result<(), End> {
        let kind = match kind {
            Ok(Kind::Noted) | Err(Own::Special(_)) => {
                let error = errors::too_long("the command is longer than its kind may be");
                self.spoil();
                return self.swallow(&error).await;
            }
            Err(own) => {
                let error = self.error_of(own, true);
                return self.swallow(&error).await;
            }
            // It cannot be sent again, whatever it is.
            Ok(kind) if kind.reads() => Kind::Plain,
            Ok(kind) => kind,
        };
        self.refresh();
        if gate::admit(self.view()) != Admit::Send {
            let bytes = self.inbox.len();
            let admitted = Box::pin(self.admit_slowly(bytes)).await?;
            self.scan_from(0);
            return match admitted {
                Ok(()) => Ok(()),
                Err(error) => self.fail_next(&error).await,
            };
        }
        self.hold = None;
        if self.stream().await? == Sent::Broken {
            let was_open = self.state.transaction == Transaction::Open;
            self.leave();
            let group = &self.shared.group;
            let error = if was_open { errors::transaction_lost(group) } else { errors::not_sent(group) };
            return self.swallow(&error).await;
        }
        self.batch.push(0, kind);
        self.batch.is_long = true;
        self.put_own();
        self.exchange().await
    }

    /// Passes the command on up to its end.
    async fn stream(&mut self) -> Result<Sent, End> {
        loop {
            while self.scanned > 0 {
                let sent = std::future::poll_fn(|cx| {
                    self.slot.waker.register(cx.waker());
                    if self.must_cut() {
                        return Poll::Ready(0);
                    }
                    let bytes = &self.inbox.bytes()[..self.scanned];
                    Poll::Ready(ready!(self.slot.poll_write(cx, bytes)).unwrap_or(0))
                });
                match sent.await {
                    0 => return Ok(Sent::Broken),
                    n => {
                        self.inbox.consume(n);
                        self.scanned -= n;
                    }
                }
            }
            if self.scanner.is_between() {
                return Ok(Sent::Whole);
            }
            let filled = std::future::poll_fn(|cx| {
                self.slot.waker.register(cx.waker());
                if self.must_cut() {
                    return Poll::Ready(Ok(None));
                }
                self.inbox.poll_fill(cx, &mut self.client, true).map_ok(Some)
            });
            match filled.await? {
                None => return Ok(Sent::Broken),
                Some(0) => return Err(End::Client),
                Some(_) => self.scan_on()?,
            }
        }
    }

    fn must_cut(&mut self) -> bool {
        if self.shared.version() == self.seen {
            return false;
        }
        self.refresh();
        let cut = self.is_cut();
        if cut {
            count(&self.shared.counters.cut);
        }
        cut
    }

    fn scan_on(&mut self) -> Result<(), End> {
        match self.scan_long() {
            Ok(()) => Ok(()),
            Err(error) => {
                count(&self.shared.counters.errors_protocol);
                self.leave();
                self.say(&errors::protocol(error));
                Err(End::Told)
            }
        }
    }

    /// Takes the rest of the command off the client, and answers it with an error.
    pub async fn swallow(&mut self, error: &ClientError) -> Result<(), End> {
        self.hold = None;
        loop {
            self.inbox.consume(self.scanned);
            self.scanned = 0;
            if self.scanner.is_between() {
                break;
            }
            if self.inbox.is_empty() {
                let (inbox, client) = (&mut self.inbox, &mut self.client);
                if std::future::poll_fn(|cx| inbox.poll_fill(cx, client, true)).await? == 0 {
                    return Err(End::Client);
                }
            }
            self.scan_on()?;
        }
        self.fates.pop_front();
        self.say(error);
        Ok(())
    }
}
