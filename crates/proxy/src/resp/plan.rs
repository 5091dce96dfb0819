//! What to do with what the client sent: which commands at the front of the inbox go to the engine together, and which
//! one is handled by itself.

use crate::resp::batch::{Fate, Kind};
use crate::resp::session::Session;
use crate::resp::state::{Transaction, Watch};
use crate::resp::table::{self, Class, Special};
use holdfast_wire::resp::command::{self, Args, Bounds, Scanner};
use holdfast_wire::resp::{self, inline, put_command};
use std::ops::Range;

/// A command that is not whole by then streams through.
pub const SMALL_BYTES_MAX: usize = 64 << 10;
/// Commands up to this much are sent together.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// What engines take.
const BOUNDS: Bounds = Bounds { args: i32::MAX as u64, arg_bytes: 512 << 20, inline_bytes: 16 << 10 };
/// What is taken from who has not logged in; engines do the same.
const UNPROVED: Bounds = Bounds { args: 10, arg_bytes: 16 << 10, inline_bytes: 16 << 10 };

/// What is at the front of the inbox.
#[derive(Debug)]
pub enum Next {
    /// Nothing whole.
    More,
    /// Commands for the engine; they are in the session's batch.
    Batch,
    /// A command that is handled by itself; the scanner has just gone through it.
    Own(Own),
    /// The beginning of a command that is not waited for as a whole.
    Long(Result<Kind, Own>),
    Bad(resp::Error),
}

/// Why a command is handled by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    Special(Special),
    Refused(&'static str),
    NoAuth,
    /// It was sent to an engine that was lost.
    Unknown,
    TransactionLost,
    NotInTransaction,
    NotWhileSubscribed,
    ReadPort,
    /// EXEC, after a watched key may have changed unseen.
    WatchLost,
}

impl Session {
    pub fn plan(&mut self) -> Next {
        let bounds = if self.state.user.is_some() { BOUNDS } else { UNPROVED };
        let mut transaction = self.state.transaction;
        loop {
            let begin = self.batch.bytes;
            if begin >= BATCH_BYTES_MAX {
                return Next::Batch;
            }
            let whole = match self.scanner.feed(&self.inbox.bytes()[self.scanned..], &bounds) {
                Ok((taken, whole)) => {
                    self.scanned += taken;
                    whole
                }
                Err(_) if !self.batch.is_empty() => return self.batch_before(begin),
                Err(error) => return Next::Bad(error),
            };
            match whole {
                Some(command::Kind::Array) => {}
                None if !self.batch.is_empty() => return Next::Batch,
                None if self.inbox.len() < SMALL_BYTES_MAX => return Next::More,
                None => return Next::Long(self.classify(0..self.inbox.len(), transaction)),
                Some(command::Kind::Nothing) => {
                    self.put_instead(begin..self.scanned, &[]);
                    continue;
                }
                Some(command::Kind::Inline) => {
                    match inline::split(&self.inbox.bytes()[begin..self.scanned]) {
                        Ok(words) => self.put_instead(begin..self.scanned, &array(&words)),
                        Err(_) if !self.batch.is_empty() => return self.batch_before(begin),
                        Err(error) => return Next::Bad(error),
                    }
                    continue;
                }
            }
            match self.classify(begin..self.scanned, transaction) {
                Ok(kind) => {
                    self.batch.push(self.scanned, kind);
                    match kind {
                        Kind::Blocking => return Next::Batch,
                        Kind::Multi => transaction = Transaction::Open,
                        Kind::Exec | Kind::Discard => transaction = Transaction::None,
                        _ => {}
                    }
                }
                Err(own) if self.batch.is_empty() => return Next::Own(own),
                Err(_) => return self.batch_before(begin),
            }
        }
    }

    /// Goes on through a long command.
    pub fn scan_long(&mut self) -> Result<(), resp::Error> {
        self.scanned = self.scanner.feed(self.inbox.bytes(), &BOUNDS)?.0;
        Ok(())
    }

    /// The command that begins there is not part of the batch: it will be looked at again.
    fn batch_before(&mut self, begin: usize) -> Next {
        self.scan_from(begin);
        Next::Batch
    }

    pub fn scan_from(&mut self, at: usize) {
        self.scanner = Scanner::default();
        self.scanned = at;
    }

    /// Puts something else into the inbox in place of a command, to be looked at as if the client had sent it.
    fn put_instead(&mut self, at: Range<usize>, bytes: &[u8]) {
        let begin = at.start;
        self.inbox.splice(at, bytes);
        self.scan_from(begin);
    }

    /// Takes back what was planned.
    pub fn unplan(&mut self) {
        self.batch.clear();
        self.scan_from(0);
    }

    fn classify(&self, at: Range<usize>, transaction: Transaction) -> Result<Kind, Own> {
        if self.fates.get(self.batch.entries.len()) == Some(&Fate::Unknown) {
            return Err(Own::Unknown);
        }
        let command = &self.inbox.bytes()[at];
        let name = self.scanner.name();
        let mut class = table::class(command.get(name).unwrap_or_default());
        if let Class::By(subcommands) = class {
            class = table::class_by(subcommands, Args::of(command).nth(1));
        }
        if let Class::Special(special @ (Special::Quit | Special::Reset)) = class {
            return Err(Own::Special(special));
        }
        if self.state.user.is_none() {
            return Err(match class {
                Class::Special(special @ (Special::Auth | Special::Hello)) => Own::Special(special),
                _ => Own::NoAuth,
            });
        }
        if transaction == Transaction::Lost {
            return Err(Own::TransactionLost);
        }
        if self.is_confined() {
            let is_ping = class == Class::Read && command.get(self.scanner.name()).is_some_and(is_ping);
            return match class {
                Class::Special(special @ (Special::Subscribe(_) | Special::Unsubscribe(_)))
                    if !self.state.monitors =>
                {
                    Err(Own::Special(special))
                }
                _ if is_ping => Ok(Kind::Read),
                _ => Err(Own::NotWhileSubscribed),
            };
        }
        // With arguments these are mistakes, which the engine answers and which change nothing.
        let alone = command.starts_with(b"*1\r");
        match transaction {
            Transaction::Open => self.in_transaction(class, command, alone),
            _ => self.outside(class, alone),
        }
    }

    /// A client of RESP2 that has subscriptions, or one that monitors, can send little else.
    fn is_confined(&self) -> bool {
        self.state.monitors || (self.state.version == 2 && !self.state.subscriptions.is_empty())
    }

    fn in_transaction(&self, class: Class, command: &[u8], alone: bool) -> Result<Kind, Own> {
        match class {
            Class::Exec if alone && self.state.watch == Watch::Lost => Err(Own::WatchLost),
            Class::Exec if alone => Ok(Kind::Exec),
            Class::Discard if alone => Ok(Kind::Discard),
            Class::Noted if Args::of(command).next().is_some_and(|n| n.eq_ignore_ascii_case(b"select")) => {
                Ok(Kind::QueuedSelect)
            }
            Class::Noted | Class::Special(_) | Class::Refused(_) => Err(Own::NotInTransaction),
            Class::Write | Class::Blocking | Class::Foreign if self.may_not_write() => Err(Own::ReadPort),
            _ => Ok(Kind::Queued),
        }
    }

    fn outside(&self, class: Class, alone: bool) -> Result<Kind, Own> {
        match class {
            Class::Read => Ok(Kind::Read),
            Class::Lookup => Ok(Kind::Lookup),
            Class::Write | Class::Blocking | Class::Foreign if self.may_not_write() => Err(Own::ReadPort),
            Class::Write => Ok(Kind::Write),
            Class::Blocking => Ok(Kind::Blocking),
            Class::Foreign => Ok(Kind::Foreign),
            Class::Multi if alone => Ok(Kind::Multi),
            Class::Watch => Ok(Kind::Watch),
            Class::Unwatch if alone => Ok(Kind::Unwatch),
            Class::Noted => Ok(Kind::Noted),
            Class::Special(special) => Err(Own::Special(special)),
            Class::Refused(why) => Err(Own::Refused(why)),
            Class::Plain | Class::Multi | Class::Exec | Class::Discard | Class::Unwatch | Class::By(_) => {
                Ok(Kind::Plain)
            }
        }
    }
}

fn is_ping(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"ping")
}

fn array(words: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    if !words.is_empty() {
        put_command(&mut out, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }
    out
}
