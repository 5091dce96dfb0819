//! Reads that leave the primary: which commands may, and getting a connection to a reader that may serve them.
//!
//! Guarantees: a read leaves only outside transactions, from a session whose state the reader's connection has, to a
//! reader that a fresh route lists. Under `session`, it is answered there only if the reader has all that the session
//! wrote; what that is, the primary itself says with each commit. Everything else, and whatever goes wrong at a reader,
//! goes to the primary: a reader is never why a client gets an error before its first row.
//! A session has a connection to a reader from its first such read on, beside the one to the primary; one of the two is
//! in use, the other is parked. Not promised: that reads of one session never go back in time when it changes readers.

use crate::gate::{self, Admit, Link, Role};
use crate::mysql::exchange::Exchange;
use crate::mysql::outgoing::Command;
use crate::mysql::reads::{self, Kind};
use crate::mysql::rehome::Attach;
use crate::mysql::session::{Backend, End, Session};
use crate::mysql::sql::Verb;
use crate::mysql::state::Replay;
use crate::mysql::statements::{CURSOR_AT, ID_AT};
use crate::mysql::{backend, errors};
use crate::readers::Mark;
use crate::shared::{Shared, count};
use holdfast_core::topology::{Engine, ReadConsistency};
use holdfast_core::{Epoch, limits};
use holdfast_wire::packet::{self, HEADER_BYTES};
use holdfast_wire::tracker::Outcome;
use holdfast_wire::{Capabilities, codec, command};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a position; a longer one is not waited for.
const POSITION_BYTES_MAX: usize = 4 << 10;
/// Bytes of a wait's answer.
const WAIT_REPLY_BYTES_MAX: usize = 4 << 10;
/// A read that nobody wants any more is read to its end if it is no longer than this; else its connection is dropped.
const UNWANTED_BYTES_MAX: usize = 64 << 10;

/// What a session keeps for reads that leave.
#[derive(Debug)]
pub struct Reads {
    /// The command under way is at the reader: the primary's connection is the parked one.
    away: bool,
    parked: Option<Backend>,
    /// The last statement was the reader's: its warnings and counts are there.
    last_away: bool,
    /// The shared version for which the reader is known to be the right one.
    checked: u64,
    /// The revision of the session's state that the reader has heard.
    told: u64,
    /// No reader could be had: not again before this.
    none_until: Option<Instant>,
    written: Written,
    /// The number of the position that the reader is known to have reached.
    reached: u64,
}

/// What a session wrote, as a position in the primary's log.
#[derive(Debug, Default)]
struct Written {
    position: Vec<u8>,
    /// Counts positions; 0 before the first.
    number: u64,
    /// Something may have been committed that the primary did not tell the position of.
    unsure: bool,
}

impl Written {
    fn set(&mut self, position: &[u8]) -> bool {
        let fits = position.len() <= POSITION_BYTES_MAX
            && position.iter().all(|b| b.is_ascii_alphanumeric() || b":-,_\n ".contains(b));
        if fits {
            self.position.clear();
            self.position.extend(position.iter().filter(|b| !b.is_ascii_whitespace()));
            self.number += 1;
        }
        self.unsure = !fits;
        fits
    }

    /// The position, if it is a single transaction: `domain-server-sequence`, or `uuid[:tag]:number`.
    fn mark(&self, engine: Engine) -> Option<Mark> {
        let (ends, begins) = match engine {
            Engine::MySql => (b':', self.position.iter().rposition(|b| *b == b':')?),
            _ => (b'-', self.position.iter().position(|b| *b == b'-')?),
        };
        let number = &self.position[self.position.iter().rposition(|b| *b == ends)? + 1..];
        if self.position.contains(&b',') || !number.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = std::str::from_utf8(number).ok()?.parse().ok()?;
        Some(Mark { stream: self.position[..begins].into(), number })
    }
}

impl Reads {
    /// For a session of this kind; `None` if its reads stay where it is.
    pub fn new(shared: &Shared, role: Role) -> Option<Box<Reads>> {
        shared.reads_leave(role).then(|| {
            Box::new(Reads {
                away: false,
                parked: None,
                last_away: false,
                checked: 0,
                told: 0,
                none_until: None,
                written: Written::default(),
                reached: 0,
            })
        })
    }

    /// The primary said what was committed.
    pub fn note_written(&mut self, position: &[u8]) {
        self.written.set(position);
    }
    /// The session is on another primary, whose history may lack some of what it wrote.
    pub fn note_new_primary(&mut self) {
        self.written.unsure |= self.written.number > 0;
    }
}

/// What became of a read that was sent behind a wait.
pub enum Waited {
    /// Its reply follows; so much of it is here already.
    Reached(Vec<u8>),
    Not(Exchange),
}

impl Session {
    pub fn is_away(&self) -> bool {
        self.reads.as_ref().is_some_and(|r| r.away)
    }

    /// The number of the connection that is not in use.
    pub fn parked_generation(&self) -> Option<u32> {
        self.reads.as_ref()?.parked.as_ref().map(|b| b.generation)
    }

    /// The session's own word on where it reads: learned from replies of the primary.
    pub fn note_end(&mut self, command: &Command, outcome: Outcome, ended_in_ok: bool) {
        let (in_transaction, away) = (self.in_transaction, self.is_away());
        let Some(reads) = &mut self.reads else { return };
        if !matches!(
            command.code,
            command::QUERY | command::STMT_EXECUTE | command::STMT_BULK_EXECUTE | command::STMT_PREPARE
        ) {
            return;
        }
        let of_last = command.kind == Some(Kind::OfLast);
        reads.last_away = if of_last { reads.last_away } else { away };
        if away || of_last || command.code == command::STMT_PREPARE || command.kind == Some(Kind::Read) {
            return;
        }
        let statement = command.statement.and_then(|id| self.state.statements.get(id));
        let (scan, plain) = statement.map_or((command.scan, false), |s| (s.scan, s.kind != Kind::Other));
        // Within a transaction, what commits says so itself.
        let open = in_transaction && !scan.commits && !scan.several && scan.verb != Verb::Opaque;
        // Errors and the ends of rows carry no position.
        let silent = outcome.error.is_some() || !ended_in_ok;
        reads.written.unsure |= silent && !open && !plain && scan.verb != Verb::Show;
    }

    /// Whether a command may leave, and as what.
    pub fn leaves(&mut self, command: &mut Command) -> Option<Kind> {
        let last_away = self.reads.as_ref()?.last_away;
        if self.in_transaction || !self.autocommit || !command.whole || self.state.stuck.binds_reads() {
            return None;
        }
        match command.code {
            command::QUERY | command::STMT_PREPARE => match self.kind_of(command) {
                Kind::OfLast if !last_away || command.code == command::STMT_PREPARE => None,
                Kind::Other | Kind::Setting => None,
                // A statement that only the reader would have could be lost with it.
                Kind::Read if command.code == command::STMT_PREPARE && !self.has_room_for(command) => None,
                kind => Some(kind),
            },
            command::STMT_EXECUTE => {
                let id = self.inbox.bytes().get(ID_AT..ID_AT + 4)?.first_chunk::<4>()?;
                let cursor = *self.inbox.bytes().get(CURSOR_AT)?;
                let statement = self.state.statements.get(u32::from_le_bytes(*id))?;
                let here = match statement.kind {
                    Kind::Read => true,
                    Kind::OfLast => last_away,
                    Kind::Other | Kind::Setting => false,
                };
                let ahead = statement.places().any(|p| p.long_data);
                (here && cursor == 0 && !ahead).then_some(statement.kind)
            }
            _ => None,
        }
    }

    fn has_room_for(&self, command: &Command) -> bool {
        let schema = self.state.schema.as_ref().map_or(0, Vec::len);
        self.state.statements.has_room(command.bytes + schema)
    }

    /// What the text of a query or prepare is; judged once.
    pub fn kind_of(&mut self, command: &mut Command) -> Kind {
        if let Some(kind) = command.kind {
            return kind;
        }
        let worth_a_look = match command.scan.verb {
            Verb::Select | Verb::With => !command.scan.several,
            Verb::Show => self.reads.as_ref().is_some_and(|r| r.last_away),
            _ => false,
        };
        let about_server = self.state.schema.as_deref().is_some_and(reads::is_system_schema);
        let kind = if worth_a_look && command.whole && !about_server {
            reads::kind(&self.inbox.bytes()[HEADER_BYTES + 1..command.bytes])
        } else {
            Kind::Other
        };
        command.kind = Some(kind);
        kind
    }

    /// A reader is there, is the right one and has all that the command needs.
    pub fn reader_is_ready(&self, kind: Kind) -> bool {
        let Some(reads) = &self.reads else { return false };
        let has_written = self.shared.read_consistency == ReadConsistency::Eventual
            || (!reads.written.unsure && reads.reached == reads.written.number);
        reads.parked.is_some()
            && (kind == Kind::OfLast
                || (has_written
                    && reads.checked == self.seen
                    && reads.told == self.state.revision.last()
                    && self.shared.is_fresh()))
    }

    /// Takes up the connection that is parked: the reader's, or at the end of a read the primary's.
    pub fn swap(&mut self) {
        if let Some(reads) = &mut self.reads {
            reads.away = !reads.away;
            std::mem::swap(&mut reads.parked, &mut self.backend);
            self.slot.swap();
        }
    }
    pub fn come_back(&mut self) {
        if self.is_away() {
            self.swap();
        }
    }

    /// Drops the reader's connection, which is parked.
    pub fn drop_reader(&mut self) {
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

    /// Makes a reader ready for the command and takes it up. If there is none, the session is where it was.
    pub async fn go_to_reader(&mut self, command: &mut Command, kind: Kind) -> Result<(), End> {
        let now = Instant::now();
        let session = self.shared.read_consistency == ReadConsistency::Session;
        let Some(reads) = &mut self.reads else { return Ok(()) };
        if kind == Kind::OfLast || !self.shared.is_fresh() {
            return Ok(());
        }
        let unsure = session && reads.written.unsure;
        if reads.checked != self.seen {
            reads.checked = self.seen;
            reads.none_until = None;
            let listed = self.routing.as_ref().map_or(&[][..], |r| &r.readers);
            if reads
                .parked
                .as_ref()
                .is_some_and(|b| self.shared.readers.should_move(b.link.addr, listed, now))
            {
                self.drop_reader();
            }
        } else if reads.none_until.is_some_and(|t| t > now) {
            return Ok(());
        }
        if unsure && !self.ask_position().await {
            return Ok(());
        }
        if self.reads.as_ref().is_some_and(|r| r.parked.is_none()) && !self.open_reader().await {
            return Ok(());
        }
        self.swap();
        if !self.tell_state().await {
            self.leave();
            self.come_back();
            if let Some(reads) = &mut self.reads {
                reads.none_until = Some(now + Duration::from_millis(limits::READER_AVOID_MS));
            }
            return Ok(());
        }
        if session {
            self.plan_wait(command, now);
        }
        Ok(())
    }

    /// Asks the primary how far its log goes, which is at least as far as what this session wrote.
    async fn ask_position(&mut self) -> bool {
        if gate::admit(self.view()) != Admit::Send {
            return false;
        }
        let sql = match self.shared.engine {
            Engine::MySql => "SELECT @@global.gtid_executed",
            _ => "SELECT @@global.gtid_binlog_pos",
        };
        match self.own_value(sql.as_bytes()).await {
            Ok(position) => self.reads.as_mut().is_some_and(|r| r.written.set(&position.unwrap_or_default())),
            Err(backend::Error::Refused(_)) => false,
            Err(_) => {
                self.leave();
                false
            }
        }
    }

    /// Opens a connection to a reader and parks it. False if no reader could be had.
    async fn open_reader(&mut self) -> bool {
        let mut avoid = Vec::new();
        loop {
            let now = Instant::now();
            let listed = self.routing.as_ref().map_or(&[][..], |r| &r.readers);
            let Some(reader) = self.shared.readers.choose(listed, &avoid, now) else {
                let until = now + Duration::from_millis(limits::READER_AVOID_MS);
                if let Some(reads) = &mut self.reads {
                    reads.none_until = Some(until);
                }
                return false;
            };
            let within = Duration::from_millis(limits::READER_CONNECT_MS);
            match tokio::time::timeout(within, self.set_up(reader.addr, Replay::Reads)).await {
                Ok(Ok((connection, _))) => {
                    let epoch = self.routing.as_ref().map_or(Epoch(0), |r| r.epoch);
                    self.park(connection, Link { epoch, addr: reader.addr, writer: false });
                    return true;
                }
                // One that lags may not know the user or the schema yet; that says nothing about others' sessions.
                Ok(Err(Attach::Backend(backend::Error::Refused(_)) | Attach::Replay(_) | Attach::NoUser)) => {
                }
                Ok(Err(Attach::Backend(_))) | Err(_) => self.shared.readers.refused(reader.addr, now),
            }
            avoid.push(reader.addr);
        }
    }

    fn park(&mut self, connection: backend::Connection, link: Link) {
        let (read, write) = connection.stream.into_split();
        let _at_reader = Some(self.shared.readers.enter(link.addr));
        self.generation += 1;
        let (capabilities, generation) = (connection.capabilities, self.generation);
        self.swap();
        self.shared.connect(&self.slot, write, link, connection.greeting.connection_id);
        self.backend = Some(Backend { read, link, capabilities, generation, _at_reader });
        self.swap();
        if let Some(reads) = &mut self.reads {
            reads.told = self.state.revision.last();
            reads.reached = 0;
            reads.none_until = None;
        }
    }

    /// Tells the reader what has changed in the session since it was last told. False if it cannot follow.
    async fn tell_state(&mut self) -> bool {
        let revision = self.state.revision;
        let Some(told) = self.reads.as_ref().map(|r| r.told) else { return false };
        if told == revision.last() {
            return true;
        }
        let mut commands: Vec<Vec<u8>> = Vec::new();
        let reset = revision.reset > told;
        if reset {
            commands.push(vec![command::RESET_CONNECTION]);
        }
        if reset || revision.variables > told {
            let sql = self.state.replay(self.shared.engine, Replay::Reads);
            commands.push([&[command::QUERY], &*sql].concat());
        }
        match &self.state.schema {
            Some(schema) if revision.schema > told => {
                commands.push([&[command::INIT_DB], &**schema].concat())
            }
            // Nothing takes a default schema away.
            None if revision.schema > told => return false,
            _ => {}
        }
        if revision.option > told
            && let Some([a, b]) = self.state.option
        {
            commands.push(vec![command::SET_OPTION, a, b]);
        }
        for command in commands {
            if self.own_command(&command).await.is_err() {
                return false;
            }
        }
        if reset && let Some(backend) = &mut self.backend {
            // Its prepared statements are gone.
            self.generation += 1;
            backend.generation = self.generation;
        }
        if let Some(reads) = &mut self.reads {
            reads.told = revision.last();
        }
        true
    }

    /// Under `session`: has the command wait for what the session wrote, unless the reader is known to have it. One
    /// that kept somebody waiting in vain just now is not asked again so soon.
    fn plan_wait(&mut self, command: &mut Command, now: Instant) {
        let (Some(reads), Some(here)) = (&mut self.reads, &self.backend) else { return };
        if reads.reached == reads.written.number {
            return;
        }
        let (readers, epoch) = (&self.shared.readers, self.routing.as_ref().map_or(Epoch(0), |r| r.epoch));
        let mark = reads.written.mark(self.shared.engine);
        if mark.is_some_and(|mark| readers.has_reached(here.link.addr, epoch, &mark))
            || reads.written.position.is_empty()
        {
            reads.reached = reads.written.number;
        } else if readers.is_late(here.link.addr, now) {
            self.come_back();
        } else {
            let position = String::from_utf8_lossy(&reads.written.position);
            let ms = self.shared.limits.read_wait_ms.max(1);
            let function = match self.shared.engine {
                Engine::MySql => "WAIT_FOR_EXECUTED_GTID_SET",
                _ => "MASTER_GTID_WAIT",
            };
            command.wait = Some(
                format!("SELECT {function}('{position}',{}.{:03})", ms / 1_000, ms % 1_000).into_bytes(),
            );
        }
    }

    /// Sends a wait and behind it, in the same breath, the command at the front of the inbox.
    pub async fn send_behind(&mut self, wait: &[u8], command: &Command) -> Result<Waited, End> {
        count(&self.shared.counters.reads_waited);
        let mut bytes = Vec::with_capacity(wait.len() + command.bytes + HEADER_BYTES + 1);
        packet::put(&mut bytes, 0, &[&[command::QUERY], wait].concat());
        bytes.extend_from_slice(&self.inbox.bytes()[..command.bytes]);
        let epoch = self.routing.as_ref().map_or(Epoch(0), |r| r.epoch);
        let within = Duration::from_millis(self.shared.limits.read_wait_ms + backend::COMMAND_MS);
        let mut rest = Vec::new();
        let answer = async {
            self.write_own(&bytes).await?;
            let reply = self.read_own(command::QUERY, &mut rest, WAIT_REPLY_BYTES_MAX).await?;
            value_of(&reply, self.capabilities)
        };
        let answer = tokio::time::timeout(within, answer).await.unwrap_or(Err(backend::Error::Timeout));
        let addr = self.backend.as_ref().map(|b| b.link.addr);
        match (answer, addr) {
            (Ok(Some(value)), Some(addr)) if value == b"0" => {
                self.has_reached(addr, epoch);
                return Ok(Waited::Reached(rest));
            }
            (Ok(_), Some(addr)) => {
                count(&self.shared.counters.reads_late);
                self.shared.readers.was_late(addr, Instant::now());
            }
            (Err(backend::Error::Refused(error)), _) if error.code == errors::INTERRUPTED => {
                self.leave();
                return Ok(Waited::Not(Exchange::Tell(error)));
            }
            _ => {}
        }
        self.forget_reply(command.code, rest).await;
        if self.slot.is_doomed() { Err(End::Client) } else { Ok(Waited::Not(Exchange::Again)) }
    }

    fn has_reached(&mut self, addr: SocketAddr, epoch: Epoch) {
        let Some(reads) = &mut self.reads else { return };
        reads.reached = reads.written.number;
        if let Some(mark) = reads.written.mark(self.shared.engine) {
            self.shared.readers.note_reached(addr, epoch, mark);
        }
    }

    /// Takes the reply that is still to come off the reader's connection, or drops that.
    async fn forget_reply(&mut self, code: u8, mut rest: Vec<u8>) {
        let unwanted = self.read_own(code, &mut rest, UNWANTED_BYTES_MAX);
        let within = Duration::from_millis(backend::COMMAND_MS);
        let forgotten = matches!(tokio::time::timeout(within, unwanted).await, Ok(Ok(_)));
        // A statement that was prepared there would stay for ever.
        if !forgotten || !rest.is_empty() || code == command::STMT_PREPARE {
            self.leave();
        }
        self.under_way = false;
    }
}

/// The first column of the first row of a whole reply. `None` for NULL and for no row.
pub fn value_of(reply: &[u8], capabilities: Capabilities) -> Result<Option<Vec<u8>>, backend::Error> {
    let mut rest = reply;
    let row = if capabilities.has(Capabilities::DEPRECATE_EOF) { 2 } else { 3 };
    for i in 0..=row {
        let Some((_, payload)) = packet::whole(rest) else { return Ok(None) };
        rest = &rest[HEADER_BYTES + payload.len()..];
        if payload.first() == Some(&0xFF) {
            return Err(backend::refused(payload)?);
        }
        if i == row && !matches!(payload.first(), Some(0xFB | 0xFE)) {
            return Ok(Some(codec::Reader::new(payload).lenenc_bytes("a column")?.to_vec()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_mark_if_it_is_one_transaction() {
        let mark = |engine, position: &str| {
            let mut written = Written::default();
            assert!(written.set(position.as_bytes()));
            written.mark(engine).map(|m| (String::from_utf8(m.stream.to_vec()).unwrap(), m.number))
        };
        assert_eq!(mark(Engine::MariaDb, "0-2-17"), Some(("0".into(), 17)));
        assert_eq!(mark(Engine::MariaDb, "0-2-17,1-1-3"), None);
        assert_eq!(mark(Engine::MySql, "ab-cd:17"), Some(("ab-cd".into(), 17)));
        assert_eq!(mark(Engine::MySql, "ab-cd:tag:17"), Some(("ab-cd:tag".into(), 17)));
        assert_eq!(mark(Engine::MySql, "ab-cd:1-17"), None);
        assert_eq!(mark(Engine::MySql, "ab-cd:1-17,\nef:3"), None);
        assert_eq!(mark(Engine::MariaDb, ""), None);
    }

    #[test]
    fn what_is_no_position_is_not_sent_on() {
        let mut written = Written::default();
        assert!(!written.set(b"0-1-1'),SLEEP(9") && written.unsure && written.position.is_empty());
        assert!(!written.set(&[b'1'; POSITION_BYTES_MAX + 1]));
        assert!(written.set(b"0-1-1") && !written.unsure);
    }

    #[test]
    fn a_value_is_read_under_either_end_of_rows() {
        let mut reply = Vec::new();
        for (seq, payload) in
            [&b"\x01"[..], b"\x03def", b"\xfe\0\0\x02\0", b"\x011", b"\xfe\0\0\x02\0"].iter().enumerate()
        {
            packet::put(&mut reply, seq as u8 + 1, payload);
        }
        assert_eq!(value_of(&reply, Capabilities(0)).unwrap(), Some(b"1".to_vec()));
        let error = [&[9, 0, 0, 1][..], b"\xff\x15\x04#28000"].concat();
        assert!(
            matches!(value_of(&error, Capabilities(0)), Err(backend::Error::Refused(e)) if e.code == 1045)
        );
        assert_eq!(value_of(&reply[..5], Capabilities(0)).unwrap(), None);
    }
}
