//! Reads that leave the primary: which commands may, and getting a connection to a reader that may serve them.
//!
//! Guarantees: only lookups leave, outside transactions, from a session to which engines say nothing unasked, to a reader that
//! a fresh route lists. Under `session` a reader's answer counts only if the reader said before it, on the same connection, that
//! it has all that the session wrote; how far that is, the primary itself said behind the write. Everything else, and whatever
//! goes wrong at a reader, goes to the primary: a reader is never why a client gets an error before a reply has begun.
//! A session has a connection to a reader from its first such read on, beside the one to the primary; one of the two is in
//! use, the other is parked. Not promised: that reads of one session never go back in time when it changes readers.

use crate::gate::{Link, Role};
use crate::readers::Mark;
use crate::resp::backend::{Connection, Error};
use crate::resp::batch::Kind;
use crate::resp::errors::ClientError;
use crate::resp::exchange::Way;
use crate::resp::session::{Backend, Session};
use crate::resp::state::{Transaction, Watch};
use crate::shared::{Shared, count};
use holdfast_core::topology::ReadConsistency;
use holdfast_core::{Epoch, limits};
use holdfast_wire::resp::{put_command, reply};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// What a session keeps for reads that leave.
#[derive(Debug)]
pub struct Reads {
    /// The batch under way is at the reader: the primary's connection is the parked one.
    away: bool,
    parked: Option<Backend>,
    /// The shared version for which the reader is known to be the right one.
    checked: u64,
    /// The revision of the session's state that the reader has heard.
    told: u64,
    /// No reader could be had: not again before this.
    none_until: Option<Instant>,
    /// What was read in vain goes to the primary.
    stays: bool,
    written: Written,
}

/// What a session wrote, as an offset in the primary's stream.
#[derive(Debug, Default)]
struct Written {
    upto: u64,
    /// Something may have been written since.
    unsure: bool,
    /// The user may not ask.
    denied: bool,
    /// The epoch in which the reader was asked.
    asked_in: Epoch,
}

/// What an engine says of itself in answer to `ROLE`.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Primary { offset: u64 },
    Replica { offset: u64 },
}

impl Place {
    /// `None`: none of the two, or a replica that has no data from its primary yet.
    fn parse(role: &[u8]) -> Option<Place> {
        let mut lines = role.split(|b| *b == b'\n').map(<[u8]>::trim_ascii_end);
        let number = |line: &[u8]| std::str::from_utf8(line.strip_prefix(b":")?).ok()?.parse().ok();
        match lines.nth(2)? {
            b"master" => Some(Place::Primary { offset: number(lines.next()?)? }),
            // Its primary's address and port, the state of the link, the offset. While it connects or receives all anew, that
            // is how far it was with the primary before, perhaps in another history.
            b"slave" => {
                let connected = lines.nth(4)? == b"connected";
                let offset = number(lines.next()?)?;
                connected.then_some(Place::Replica { offset })
            }
            _ => None,
        }
    }
}

fn mark(offset: u64) -> Mark {
    Mark { stream: Box::default(), number: offset }
}

impl Reads {
    /// For a session of this kind; `None` if its reads stay where it is.
    pub fn new(shared: &Shared, role: Role) -> Option<Box<Reads>> {
        shared.reads_leave(role).then(|| {
            Box::new(Reads {
                away: false,
                parked: None,
                checked: 0,
                told: 0,
                none_until: None,
                stays: false,
                written: Written::default(),
            })
        })
    }

    /// The client is another user now.
    pub fn note_user(&mut self) {
        self.written.denied = false;
    }

    /// Something was written, or may have been.
    pub fn note_write(&mut self) {
        self.written.unsure = true;
    }
}

impl Session {
    pub fn is_away(&self) -> bool {
        self.reads.as_ref().is_some_and(|r| r.away)
    }

    /// Whether what is planned could leave, as far as the session is concerned.
    fn may_leave(&self) -> bool {
        self.batch.leaves()
            && self.state.transaction == Transaction::None
            && self.state.watch == Watch::None
            && !self.state.listens()
            && self.shared.is_fresh()
    }

    /// A reader is there and is the right one.
    fn reader_is_ready(&self) -> bool {
        let Some(reads) = &self.reads else { return false };
        let session = self.shared.read_consistency == ReadConsistency::Session;
        reads.parked.is_some()
            && reads.none_until.is_none_or(|t| t <= Instant::now())
            && reads.checked == self.seen
            && reads.told == self.state.revision
            && !(session && reads.written.unsure)
    }

    /// Takes the planned batch to a reader, if it may leave and there is one. If not, the session is where it was.
    pub async fn go_to_reader(&mut self) -> bool {
        let Some(reads) = &mut self.reads else { return false };
        if std::mem::take(&mut reads.stays) || !self.may_leave() {
            return false;
        }
        if !self.reader_is_ready() {
            Box::pin(self.find_reader()).await;
        }
        if !self.reader_is_ready() {
            return false;
        }
        self.swap();
        self.ask_reader();
        true
    }

    async fn find_reader(&mut self) {
        let now = Instant::now();
        let session = self.shared.read_consistency == ReadConsistency::Session;
        let (seen, revision) = (self.seen, self.state.revision);
        let Some(reads) = &mut self.reads else { return };
        if session && reads.written.unsure {
            return;
        }
        if reads.checked != seen {
            reads.checked = seen;
            reads.none_until = None;
            let listed = self.routing.as_ref().map_or(&[][..], |r| &r.readers);
            let moves = |b: &Backend| self.shared.readers.should_move(b.link.addr, listed, now);
            if reads.parked.as_ref().is_some_and(moves) {
                self.drop_reader();
            }
        } else if reads.none_until.is_some_and(|t| t > now) {
            return;
        }
        if self.reads.as_ref().is_some_and(|r| r.told != revision) {
            self.drop_reader();
        }
        if self.reads.as_ref().is_some_and(|r| r.parked.is_none()) {
            self.open_reader().await;
        }
    }

    /// Opens a connection to a reader and parks it, if one can be had.
    async fn open_reader(&mut self) {
        let mut avoid = Vec::new();
        loop {
            let now = Instant::now();
            let listed = self.routing.as_ref().map_or(&[][..], |r| &r.readers);
            let (Some(reader), Some(replay)) =
                (self.shared.readers.choose(listed, &avoid, now), self.replay())
            else {
                return self.no_reader_for_a_while();
            };
            let within = Duration::from_millis(limits::READER_CONNECT_MS);
            let open = Connection::open(reader.addr, self.shared.socket_of(reader.addr), &replay);
            match tokio::time::timeout(within, open).await {
                Ok(Ok(connection)) => {
                    let epoch = self.routing.as_ref().map_or(Epoch(0), |r| r.epoch);
                    return self.park(connection, Link { epoch, addr: reader.addr, writer: false });
                }
                // One that lags may not know the user yet; that says nothing about others' sessions.
                Ok(Err(Error::Refused(_))) => {}
                Ok(Err(_)) | Err(_) => self.shared.readers.refused(reader.addr, now),
            }
            avoid.push(reader.addr);
        }
    }

    fn park(&mut self, connection: Connection, link: Link) {
        let (read, write) = connection.stream.into_split();
        let _at_reader = Some(self.shared.readers.enter(link.addr));
        self.swap();
        self.shared.connect(&self.slot, write, link, 0);
        self.backend = Some(Backend { read, link, client_id: None, _at_reader });
        self.swap();
        if let Some(reads) = &mut self.reads {
            reads.told = self.state.revision;
            reads.none_until = None;
        }
    }

    fn no_reader_for_a_while(&mut self) {
        let until = Instant::now() + Duration::from_millis(limits::READER_AVOID_MS);
        if let Some(reads) = &mut self.reads {
            reads.none_until = Some(until);
        }
    }

    /// Takes up the connection that is parked.
    fn swap(&mut self) {
        if let Some(reads) = &mut self.reads {
            reads.away = !reads.away;
            std::mem::swap(&mut reads.parked, &mut self.backend);
            self.slot.swap();
        }
    }

    /// At the end of a read: the primary's connection is taken up. Meanwhile its epoch may have ended.
    pub fn come_back(&mut self) {
        self.swap();
        if self.is_cut() {
            count(&self.shared.counters.cut);
            self.leave();
        }
    }

    /// Drops the reader's connection, which is parked.
    fn drop_reader(&mut self) {
        if let Some(reads) = &mut self.reads
            && reads.parked.take().is_some()
        {
            self.slot.disconnect_parked();
        }
    }

    /// Between commands: leaves a reader that the route does not list any more.
    pub fn drain_reader(&mut self) {
        let Some(parked) = self.reads.as_ref().and_then(|r| r.parked.as_ref()) else { return };
        if !self.routing.as_ref().is_some_and(|r| r.lists(parked.link.addr)) {
            self.drop_reader();
        }
    }

    /// The connection in use is to a reader of the route.
    pub fn reader_is_listed(&self) -> bool {
        let listed = |b: &Backend| self.routing.as_ref().is_some_and(|r| r.lists(b.link.addr));
        self.backend.as_ref().is_some_and(listed)
    }

    /// The reader was lost, or cannot answer. What has no reply goes to the primary.
    pub fn lost_reader(&mut self) {
        self.return_batch();
        self.replies = reply::Scanner::default();
        self.way = Way::Pass;
        self.error.clear();
        if let Some(reader) = self.backend.take() {
            self.shared.readers.forget(reader.link.addr);
        }
        self.slot.disconnect(true);
        self.no_reader_for_a_while();
        self.come_back();
    }

    /// What the reader did not answer will be looked at again, and stays.
    pub fn return_batch(&mut self) {
        let kept = self.batch.fates(false);
        self.shared.counters.reads_returned.fetch_add(kept.len() as u64, Ordering::Relaxed);
        self.keep_for_later(kept);
        if let Some(reads) = &mut self.reads {
            reads.stays = true;
        }
    }

    /// An error that may be the reader's own: it has no data yet, is of another release, runs a slow script. From here on
    /// the batch is the primary's to answer.
    pub fn note_cannot_read(&mut self) {
        let _ = self.batch.note_refused(ClientError(b"a replica cannot answer".to_vec()));
        self.no_reader_for_a_while();
    }

    // ---- how far: `session` ----

    /// Behind what is written, or may have been before: has the primary say how far its stream goes.
    pub fn wants_mark(&self, writes: bool) -> bool {
        let Some(reads) = &self.reads else { return false };
        let idle = || self.batch.entries.iter().all(|e| e.kind.reads());
        self.shared.read_consistency == ReadConsistency::Session
            && !reads.written.denied
            && !self.state.listens()
            && (writes || reads.written.unsure && self.state.transaction == Transaction::None && idle())
    }

    pub fn put_mark(bytes: &mut Vec<u8>) -> (Kind, usize) {
        let before = bytes.len();
        put_command(bytes, &[b"ROLE"]);
        (Kind::Mark, bytes.len() - before)
    }

    /// Before the batch: has the reader say how far it has come, unless that is known to be far enough.
    fn ask_reader(&mut self) {
        let (Some(reads), Some(here)) = (&mut self.reads, &self.backend) else { return };
        let (addr, epoch) = (here.link.addr, self.routing.as_ref().map_or(Epoch(0), |r| r.epoch));
        let upto = reads.written.upto;
        let needless = upto == 0 || self.shared.read_consistency != ReadConsistency::Session;
        if needless || self.shared.readers.has_reached(addr, epoch, &mark(upto)) {
            return;
        }
        reads.written.asked_in = epoch;
        count(&self.shared.counters.reads_waited);
        let mut bytes = Vec::new();
        let own = Self::put_mark(&mut bytes);
        self.inbox.insert(0, &bytes);
        self.scanned += bytes.len();
        self.batch.insert_own(0, &[own]);
    }

    /// The answer to [`Kind::Mark`].
    pub fn note_mark(&mut self, role: &[u8]) {
        let place = Place::parse(role);
        let away = self.is_away();
        let Some(reads) = &mut self.reads else { return };
        match (away, place) {
            (false, Some(Place::Primary { offset })) => {
                reads.written.upto = offset;
                reads.written.unsure = false;
            }
            (false, _) => reads.written.denied |= role.starts_with(b"-NOPERM") || role.starts_with(b"-ERR"),
            (true, Some(Place::Replica { offset })) if offset >= reads.written.upto => {
                if let Some(here) = &self.backend {
                    self.shared.readers.note_reached(here.link.addr, reads.written.asked_in, mark(offset));
                }
            }
            // Nothing that follows reaches the client.
            (true, _) => {
                count(&self.shared.counters.reads_late);
                if let Some(here) = &self.backend {
                    self.shared.readers.forget(here.link.addr);
                }
                let late = ClientError(b"the replica lacks what the session wrote".to_vec());
                let _ = self.batch.note_refused(late);
            }
        }
    }

    /// The batch at the reader is answered. True if that did not count: it is to be asked again.
    pub fn finish_at_reader(&mut self) -> bool {
        let late = self.batch.refused.is_some();
        if late {
            self.return_batch();
        } else {
            let answered = (self.batch.entries.len() - self.batch.own()) as u64;
            self.shared.counters.reads_at_replicas.fetch_add(answered, Ordering::Relaxed);
        }
        self.come_back();
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_says_how_far() {
        let primary =
            b"*3\r\n$6\r\nmaster\r\n:4711\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n6380\r\n$4\r\n4700\r\n";
        assert_eq!(Place::parse(primary), Some(Place::Primary { offset: 4711 }));
        let replica = b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:4700\r\n";
        assert_eq!(Place::parse(replica), Some(Place::Replica { offset: 4700 }));
        let nothing = b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$7\r\nconnect\r\n:-1\r\n";
        assert_eq!(Place::parse(nothing), None, "it has no data of its primary");
        let before = b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$4\r\nsync\r\n:4700\r\n";
        assert_eq!(Place::parse(before), None, "the offset is of the link before");
        assert_eq!(Place::parse(b"-NOPERM User app has no permissions to run the 'role' command\r\n"), None);
        assert_eq!(Place::parse(b""), None);
        assert_eq!(Place::parse(b"*2\r\n$8\r\nsentinel\r\n*0\r\n"), None);
    }
}
