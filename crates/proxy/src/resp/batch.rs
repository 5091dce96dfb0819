//! The commands that are sent together, and what becomes of them. Pure: no connection is known here.
//!
//! Guarantees: what may be sent again after a loss was provably not executed, or changes nothing (S13). The replies of
//! writes that replicas must have, and all that follow them, stay here until the replicas have confirmed.

use crate::resp::errors::ClientError;
use std::collections::VecDeque;

/// What a command is to its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    /// A read of keys, which any copy of the data answers.
    Lookup,
    Plain,
    Write,
    /// Ends its batch.
    Blocking,
    /// Of a module: it may do anything.
    Foreign,
    /// Inside a transaction.
    Queued,
    /// `SELECT` inside a transaction.
    QueuedSelect,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    Noted,
    Monitor,
    /// Subscribes or unsubscribes; answered by as many confirmations as [`Batch::confirmations`] says.
    Subscribe,
    /// The proxy's own: how many replicas have what was written.
    Wait,
    /// The proxy's own, before a `Wait`: an engine takes what a blocked command did for written only with the next
    /// command of its connection.
    Nudge,
    /// The proxy's own: how far the engine's stream goes.
    Mark,
}

impl Kind {
    /// Replicas must have it before its client hears of it.
    pub fn writes(self) -> bool {
        matches!(self, Kind::Write | Kind::Blocking | Kind::Foreign | Kind::Exec)
    }
    /// It may do what it does only later.
    pub fn may_block(self) -> bool {
        matches!(self, Kind::Blocking | Kind::Foreign)
    }
    pub fn reads(self) -> bool {
        matches!(self, Kind::Read | Kind::Lookup)
    }
    pub fn is_own(self) -> bool {
        matches!(self, Kind::Wait | Kind::Nudge | Kind::Mark)
    }
    fn is_repeatable(self) -> bool {
        self.reads()
            || matches!(self, Kind::Watch | Kind::Unwatch | Kind::Noted | Kind::Monitor | Kind::Subscribe)
    }
    /// Could have been refused as a whole by an engine that is no primary, and be sent again.
    fn is_independent(self) -> bool {
        self.reads() || self.is_own() || matches!(self, Kind::Write | Kind::Blocking | Kind::Foreign)
    }
}

/// A command of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it ends in the inbox.
    pub end: usize,
    pub kind: Kind,
}

/// What is to become of a command whose engine was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Again,
    Unknown,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Batch {
    pub entries: Vec<Entry>,
    /// Bytes of the inbox that belong to it.
    pub bytes: usize,
    pub sent: usize,
    /// Entries that have their reply.
    pub answered: usize,
    /// Still to come for the subscription under way.
    pub confirmations: usize,
    /// It ends all subscriptions of its kind.
    pub clears: bool,
    /// The command that blocks in it was asked to end, for a switchover.
    pub unblocked: bool,
    /// It was planned for a transaction that did not begin.
    pub spoiled: bool,
    /// A single command, of which nothing is in the inbox any more.
    pub is_long: bool,
    /// The first entry whose reply waits for replicas.
    unconfirmed: Option<usize>,
    pub withheld: Withheld,
    /// The first entry that was refused by an engine that is no primary, and what it said.
    pub refused: Option<(usize, ClientError)>,
}

impl Batch {
    pub fn clear(&mut self) {
        self.entries.clear();
        let entries = std::mem::take(&mut self.entries);
        *self = Batch { entries, ..Batch::default() };
    }
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    pub fn push(&mut self, end: usize, kind: Kind) {
        self.entries.push(Entry { end, kind });
        self.bytes = end;
    }
    /// Everything was sent and answered.
    pub fn is_over(&self) -> bool {
        self.answered == self.entries.len() && self.sent >= self.bytes
    }
    /// Whose reply comes next.
    pub fn current(&self) -> Option<Kind> {
        self.entries.get(self.answered).map(|e| e.kind)
    }
    /// What comes now is not to reach the client yet.
    pub fn withholds(&self) -> bool {
        self.unconfirmed.is_some_and(|first| self.answered >= first)
    }

    /// Where the proxy's own question to the replicas belongs: behind the last write. What follows it need not wait
    /// for its own reply any longer than for that. `None`: nothing is written.
    pub fn place_of_wait(&self) -> Option<(usize, Kind)> {
        let last = self.entries.iter().rposition(|e| e.kind.writes())?;
        Some((last, self.entries[last].kind))
    }

    /// The proxy's own commands, of these kinds and lengths, were put into the inbox before entry `at`.
    pub fn insert_own(&mut self, at: usize, own: &[(Kind, usize)]) {
        let total: usize = own.iter().map(|(_, len)| len).sum();
        let mut end = at.checked_sub(1).map_or(0, |before| self.entries[before].end);
        self.entries[at..].iter_mut().for_each(|e| e.end += total);
        let inserted = own.iter().map(|(kind, len)| {
            end += len;
            Entry { end, kind: *kind }
        });
        let inserted: Vec<Entry> = inserted.collect();
        self.entries.splice(at..at, inserted);
        self.bytes += total;
        if own.iter().any(|(kind, _)| *kind == Kind::Wait) {
            self.unconfirmed = self.unconfirmed.or_else(|| self.entries.iter().position(|e| e.kind.writes()));
        }
    }

    /// How many of its commands are the proxy's own.
    pub fn own(&self) -> usize {
        self.entries.iter().filter(|e| e.kind.is_own()).count()
    }

    /// Any copy of the data answers all of it.
    pub fn leaves(&self) -> bool {
        self.entries.iter().all(|e| e.kind == Kind::Lookup)
    }

    /// The replicas have it.
    pub fn note_confirmed(&mut self) {
        self.unconfirmed = None;
    }

    /// The entry under way was refused by an engine that is no primary. True if it and everything behind it can be
    /// sent again: then none of it will have been executed, and the rest of the replies says nothing new.
    pub fn note_refused(&mut self, error: ClientError) -> bool {
        let independent =
            !self.is_long && self.entries[self.answered..].iter().all(|e| e.kind.is_independent());
        if independent {
            self.refused = Some((self.answered, error));
        }
        independent
    }

    /// The engine was lost. Of what it had refused nothing was executed: that is where to go on.
    fn first_without_reply(&self) -> usize {
        self.refused.as_ref().map_or(self.answered, |(from, _)| *from)
    }

    /// What becomes of the commands that have no reply, and each one's place in the inbox. `in_transaction`: one was
    /// open before the first of them.
    pub fn fates(&self, in_transaction: bool) -> Vec<(std::ops::Range<usize>, Fate)> {
        let mut fates = Vec::new();
        let mut at = self.first_without_reply();
        let mut in_transaction = in_transaction;
        while at < self.entries.len() {
            let is_multi = self.entries[at].kind == Kind::Multi;
            let group = if in_transaction || is_multi { self.group_from(at) } else { at + 1 };
            for n in at..group {
                let entry = self.entries[n];
                let begin = n.checked_sub(1).map_or(0, |before| self.entries[before].end);
                let judged = if group > at + 1 || in_transaction { self.entries[group - 1] } else { entry };
                if !entry.kind.is_own() {
                    let was_refused = n < self.answered;
                    fates.push((begin..entry.end, if was_refused { Fate::Again } else { self.fate(judged) }));
                }
            }
            in_transaction = false;
            at = group;
        }
        fates
    }

    /// The end of the transaction that goes on at `at`: behind its EXEC or DISCARD, or the batch's end.
    fn group_from(&self, at: usize) -> usize {
        let rest = &self.entries[at..];
        let end = rest.iter().position(|e| matches!(e.kind, Kind::Exec | Kind::Discard));
        end.map_or(self.entries.len(), |n| at + n + 1)
    }

    fn fate(&self, entry: Entry) -> Fate {
        let executed = match entry.kind {
            // Nothing of a transaction is executed before its EXEC.
            Kind::Multi | Kind::Queued | Kind::QueuedSelect | Kind::Discard => false,
            kind => !kind.is_repeatable(),
        };
        if executed && entry.end <= self.sent { Fate::Unknown } else { Fate::Again }
    }
}

/// Replies that wait.
#[derive(Debug, Default)]
pub struct Withheld {
    bytes: Vec<u8>,
    /// Where each reply ends, and whether an error takes its place if replicas do not confirm.
    ends: VecDeque<(usize, OnFailure)>,
    /// The reply under way is too large.
    overflown: bool,
}

/// See [`Withheld`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    Keep,
    Replace,
    /// Replaced in any case: its bytes are gone.
    TooLarge,
}

impl Withheld {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.overflown {
            self.bytes.extend_from_slice(bytes);
        }
    }
    /// The reply under way, and the bytes of it that may come, are given up.
    pub fn overflow(&mut self) {
        self.bytes.truncate(self.ends.back().map_or(0, |(end, _)| *end));
        self.overflown = true;
    }
    /// A reply is complete.
    pub fn end(&mut self, on_failure: OnFailure) {
        let overflown = std::mem::take(&mut self.overflown);
        self.ends.push_back((self.bytes.len(), if overflown { OnFailure::TooLarge } else { on_failure }));
    }
    /// All of them for the client; the last one may be incomplete, and is left out then. `failure`: replicas did not
    /// confirm.
    pub fn release(&mut self, failure: Option<&[u8]>, too_large: &[u8], mut out: impl FnMut(&[u8])) {
        let Withheld { bytes, ends, .. } = std::mem::take(self);
        let mut from = 0;
        for (end, on_failure) in ends {
            let is_error = bytes.get(from) == Some(&b'-');
            match (on_failure, failure) {
                (OnFailure::TooLarge, None) => out(too_large),
                (OnFailure::TooLarge, Some(failure)) => out(failure),
                (OnFailure::Replace, Some(failure)) if !is_error => out(failure),
                _ => out(&bytes[from..end]),
            }
            from = end;
        }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
