//! What a session has become since login, as far as it can be built up again on another server; and a note of
//! what cannot.
//!
//! The server itself reports changes of variables and schema (session tracking), so that no SET statement has to be
//! understood here. What it does not report (user locks, table locks, user variables, temporary tables …) is
//! recognised in the statement's text; it is not moved, its loss is told.
//! Not kept: `ROW_COUNT()`, `FOUND_ROWS()` and the list of warnings of the last statement.

use crate::mysql::reads::Kind;
use crate::mysql::sql::{Scan, Verb};
use holdfast_core::topology::Engine;
use holdfast_wire::reply::OkPacket;
use holdfast_wire::session_track::{Change, each_change};
use std::collections::HashMap;

/// Bytes of one session's variables; beyond, the session cannot be moved.
const VARIABLES_BYTES_MAX: usize = 64 << 10;
/// Bytes of one session's prepared statements' texts; a statement beyond is usable but cannot be moved.
const PREPARED_BYTES_MAX: usize = 256 << 10;

/// Why a session cannot be moved: bits, so that `UNLOCK TABLES` takes back one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stuck(u16);

impl Stuck {
    pub const USER_VARIABLE: Stuck = Stuck(1);
    pub const USER_LOCK: Stuck = Stuck(1 << 1);
    pub const TABLE_LOCK: Stuck = Stuck(1 << 2);
    pub const TEMPORARY_TABLE: Stuck = Stuck(1 << 3);
    pub const SQL_PREPARE: Stuck = Stuck(1 << 4);
    pub const HANDLER: Stuck = Stuck(1 << 5);
    pub const ROLE: Stuck = Stuck(1 << 6);
    pub const TRACKING: Stuck = Stuck(1 << 7);
    pub const UNSEEN: Stuck = Stuck(1 << 8);
    pub const NEXT_TRANSACTION: Stuck = Stuck(1 << 9);
    /// Told directly, never noted.
    pub const STATEMENT: Stuck = Stuck(1 << 10);

    const NAMES: [(Stuck, &str); 11] = [
        (Stuck::USER_VARIABLE, "a user variable"),
        (Stuck::USER_LOCK, "a lock of GET_LOCK"),
        (Stuck::TABLE_LOCK, "a table lock"),
        (Stuck::TEMPORARY_TABLE, "a temporary table"),
        (Stuck::SQL_PREPARE, "a statement of PREPARE"),
        (Stuck::HANDLER, "an open HANDLER"),
        (Stuck::ROLE, "a role"),
        (Stuck::TRACKING, "changes after session tracking was altered"),
        (Stuck::UNSEEN, "changes made inside a routine"),
        (Stuck::NEXT_TRANSACTION, "a SET TRANSACTION"),
        (Stuck::STATEMENT, "a prepared statement's cursor, long parameter or text"),
    ];

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Reads belong where this is: the data there are others, or frozen, or next to be read under other rules.
    pub fn binds_reads(self) -> bool {
        self.0 & !(Stuck::USER_VARIABLE.0 | Stuck::SQL_PREPARE.0) != 0
    }
    fn set(&mut self, bits: Stuck, on: bool) {
        self.0 |= if on { bits.0 } else { 0 };
    }
    fn clear(&mut self, bits: Stuck) {
        self.0 &= !bits.0;
    }
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut first = true;
        for (bits, name) in Self::NAMES {
            if self.0 & bits.0 != 0 {
                write!(f, "{}{name}", if first { "" } else { ", " })?;
                first = false;
            }
        }
        Ok(())
    }
}

/// A statement prepared over the protocol. Clients keep its id for good; the server's own changes with the server.
#[derive(Debug)]
pub struct Statement {
    /// `None` if the session's texts were too long to keep this one.
    pub sql: Option<Box<[u8]>>,
    /// The default schema when it was prepared: names in it mean that one for ever.
    pub schema: Option<Box<[u8]>>,
    pub scan: Scan,
    pub kind: Kind,
    pub params: u16,
    /// The parameters' types as the client last sent them; clients send them once.
    pub types: Box<[u8]>,
    /// Where it is prepared: the session's connections, of which there are at most two.
    places: [Place; 2],
}

/// A statement on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The number of the connection; 0 for none.
    pub generation: u32,
    /// The server's id there.
    pub server_id: u32,
    /// It was told the parameters' types.
    pub knows_types: bool,
    /// A parameter was sent ahead (COM_STMT_SEND_LONG_DATA).
    pub long_data: bool,
    /// A cursor was opened.
    pub cursor: bool,
}

impl Statement {
    pub fn on(&mut self, generation: u32) -> Option<&mut Place> {
        self.places.iter_mut().find(|p| p.generation == generation)
    }
    /// It is now prepared there; `other` is the number of the session's other connection, if there is one.
    pub fn put(&mut self, generation: u32, other: Option<u32>, server_id: u32) {
        let place = Place { generation, server_id, ..Place::default() };
        match self.places.iter_mut().find(|p| Some(p.generation) != other || p.generation == 0) {
            Some(free) => *free = place,
            None => self.places[0] = place,
        }
    }
    pub fn forget_long_data(&mut self) {
        self.places.iter_mut().for_each(|p| p.long_data = false);
    }
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.places.into_iter().filter(|p| p.generation != 0)
    }
    /// The client named other types than before; only this connection has heard of them.
    pub fn set_types(&mut self, types: Box<[u8]>, generation: u32) {
        if self.types != types {
            self.types = types;
            self.places.iter_mut().for_each(|p| p.knows_types = false);
        }
        if let Some(place) = self.on(generation) {
            place.knows_types = true;
        }
    }
}

/// All of a session's statements.
#[derive(Debug, Default)]
pub struct Statements {
    by_id: HashMap<u32, Statement>,
    last_id: u32,
    bytes: usize,
}

impl Statements {
    pub fn get(&mut self, id: u32) -> Option<&mut Statement> {
        self.by_id.get_mut(&self.resolve(id))
    }
    /// The id meant by "the one prepared last".
    pub fn resolve(&self, id: u32) -> u32 {
        if id == holdfast_wire::command::LAST_PREPARED { self.last_id } else { id }
    }
    /// Keeps a statement and gives it the id that the client will know it by.
    pub fn add(&mut self, sql: Option<&[u8]>, schema: Option<&[u8]>, scan: Scan, params: u16) -> u32 {
        let cost = |sql: &[u8]| sql.len() + schema.map_or(0, <[u8]>::len);
        let sql = sql.filter(|sql| self.has_room(cost(sql)));
        self.bytes += sql.map_or(0, cost);
        self.last_id = self.last_id.wrapping_add(1).max(1);
        let statement = Statement {
            sql: sql.map(Into::into),
            schema: schema.filter(|_| sql.is_some()).map(Into::into),
            scan,
            kind: Kind::Other,
            params,
            types: Box::default(),
            places: Default::default(),
        };
        self.by_id.insert(self.last_id, statement);
        self.last_id
    }
    /// A text that long would be kept.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= PREPARED_BYTES_MAX
    }
    pub fn remove(&mut self, id: u32) -> Option<Statement> {
        let gone = self.by_id.remove(&self.resolve(id))?;
        let len = |bytes: &Option<Box<[u8]>>| bytes.as_ref().map_or(0, |b| b.len());
        self.bytes -= len(&gone.sql) + len(&gone.schema);
        Some(gone)
    }
}

/// The value of a variable that is as if never set.
const DEFAULT: &[u8] = b"DEFAULT";

/// A session variable's name and value.
type Variable = (Box<[u8]>, Box<[u8]>);

/// What a connection is to be set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// All of a session. `writes`: it may write. `gtids`: it is to say which transactions it committed.
    Session { writes: bool, gtids: bool },
    /// A session's plain reads.
    Reads,
}

/// When parts of a session's state last changed, as numbers that only grow: a second connection is told what is newer
/// than what it has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Revision {
    pub variables: u64,
    pub schema: u64,
    pub option: u64,
    /// COM_RESET_CONNECTION.
    pub reset: u64,
}

impl Revision {
    pub fn last(self) -> u64 {
        self.variables.max(self.schema).max(self.option).max(self.reset)
    }
    fn next(self) -> u64 {
        self.last() + 1
    }
}

/// See the file's contract.
#[derive(Debug, Default)]
pub struct State {
    pub revision: Revision,
    pub schema: Option<Vec<u8>>,
    /// In the order of their last change, which is the order to set them in again.
    variables: Vec<Variable>,
    last_insert_id: u64,
    /// COM_RESET_CONNECTION was sent: the variables then start from the server's defaults, not from the login's.
    pub was_reset: bool,
    /// The argument of the last COM_SET_OPTION.
    pub option: Option<[u8; 2]>,
    pub statements: Statements,
    pub stuck: Stuck,
}

impl State {
    /// A session as it is after login.
    pub fn new(schema: Option<Vec<u8>>) -> State {
        State { schema, ..State::default() }
    }

    /// The session's variables are as after login, but the schema stays.
    pub fn reset(&mut self) {
        let revision = Revision { reset: self.revision.next(), ..self.revision };
        *self = State { revision, schema: self.schema.take(), was_reset: true, ..State::default() };
    }

    /// The argument of a COM_SET_OPTION that was obeyed.
    pub fn set_option(&mut self, option: Option<[u8; 2]>) {
        self.option = option;
        self.revision.option = self.revision.next();
    }

    /// `AUTOCOMMIT` as far as it is known to be changed.
    pub fn autocommit(&self) -> bool {
        !self.variables.iter().any(|(n, v)| **n == *b"autocommit" && **v == *b"OFF")
    }

    /// Learns from a statement that was answered, whether well or with an error.
    pub fn note_statement(&mut self, scan: &Scan) {
        if scan.unlock {
            self.stuck.clear(Stuck::TABLE_LOCK);
        }
        if scan.verb != Verb::Set {
            self.stuck.clear(Stuck::NEXT_TRANSACTION);
        }
        self.stuck.set(Stuck::USER_VARIABLE, scan.user_variable);
        self.stuck.set(Stuck::USER_LOCK, scan.user_lock);
        self.stuck.set(Stuck::TABLE_LOCK, scan.table_lock);
        self.stuck.set(Stuck::TEMPORARY_TABLE, scan.temporary_table);
        self.stuck.set(Stuck::SQL_PREPARE, scan.sql_prepare);
        self.stuck.set(Stuck::HANDLER, scan.handler);
        self.stuck.set(Stuck::ROLE, scan.role);
        self.stuck.set(Stuck::TRACKING, scan.tracking);
        self.stuck.set(Stuck::NEXT_TRANSACTION, scan.next_transaction);
    }

    /// Something may have changed that nobody described.
    pub fn note_unseen(&mut self) {
        self.stuck.set(Stuck::UNSEEN, true);
    }

    /// Learns from an OK packet. `sql` is the statement, if the command was one. Returns the transaction id of what was
    /// committed, if it says so.
    pub fn note_ok<'a>(&mut self, ok: &OkPacket<'a>, scan: &Scan, sql: Option<&[u8]>) -> Option<&'a [u8]> {
        if ok.last_insert_id != 0 {
            self.last_insert_id = ok.last_insert_id;
        }
        if ok.session_state.is_empty() {
            return None;
        }
        let (mut named, mut changed, mut gtid) = (false, false, None);
        let read = each_change(ok.session_state, |change| match change {
            Change::Variable { name: b"last_gtid", value } | Change::Gtid(value) => gtid = Some(value),
            Change::Variable { name: b"statement_id", .. } => {}
            Change::Variable { name, value } => {
                named = true;
                self.set_variable(name, value, scan.clock_reset);
            }
            Change::Schema(name) => {
                named = true;
                self.schema = (!name.is_empty()).then(|| name.to_vec());
                self.revision.schema = self.revision.next();
            }
            Change::State => changed = true,
            Change::Other(_) => {}
        });
        // A routine may have made a temporary table or set a user variable; its text is not here to tell.
        if read.is_err() || (changed && !named && scan.verb == Verb::Opaque) {
            self.note_unseen();
        }
        // MariaDB 10.11 does not report the collation that SET NAMES … COLLATE chooses.
        if let (Some((from, to)), Some(sql)) = (scan.collate, sql)
            && let Some(name) = sql.get(from..to)
        {
            self.set_variable(b"collation_connection", name, false);
        }
        gtid
    }

    fn set_variable(&mut self, name: &[u8], value: &[u8], clock_reset: bool) {
        const NOT_REPLAYED: [&[u8]; 7] = [
            b"last_insert_id",
            b"identity",
            b"insert_id",
            b"rand_seed1",
            b"rand_seed2",
            b"pseudo_thread_id",
            b"gtid_seq_no",
        ];
        if NOT_REPLAYED.contains(&name) || name.starts_with(b"session_track_") {
            if name == b"last_insert_id" || name == b"identity" {
                self.last_insert_id =
                    std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).unwrap_or(0);
            }
            return;
        }
        // A new character set brings its own default collation.
        let sets_collation: bool = name == b"character_set_connection";
        // The clock's value is the time of the statement that set it back.
        let value = if name == b"timestamp" && clock_reset { DEFAULT } else { value };
        let before = self.variables.len();
        let mut same = false;
        self.variables.retain(|(n, v)| {
            same |= **n == *name && **v == *value;
            **n != *name && !(sets_collation && **n == *b"collation_connection")
        });
        if !same || self.variables.len() + 1 != before {
            self.revision.variables = self.revision.next();
        }
        self.variables.push((name.into(), value.into()));
        if self.variables.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>() > VARIABLES_BYTES_MAX {
            self.variables.pop();
            self.note_unseen();
        }
    }

    /// The statement that sets up a connection: what the engine is to report, then what this session has changed.
    pub fn replay(&self, engine: Engine, on: Replay) -> Vec<u8> {
        let mut sql = b"SET SESSION ".to_vec();
        // Neither knows the other's name for it (MariaDB before 11.1, MySQL since 8.0).
        let read_only: &[u8] = match engine {
            Engine::MySql => b"transaction_read_only=1",
            _ => b"tx_read_only=1",
        };
        if let Replay::Session { writes, gtids } = on {
            sql.extend_from_slice(
                b"session_track_system_variables='*',session_track_schema=ON,session_track_state_change=ON,",
            );
            if gtids && engine == Engine::MySql {
                sql.extend_from_slice(b"session_track_gtids=OWN_GTID,");
            }
            if !writes {
                sql.extend_from_slice(read_only);
                sql.push(b',');
            }
        }
        for (name, value) in &self.variables {
            sql.extend_from_slice(name);
            sql.push(b'=');
            put_value(&mut sql, name, value);
            sql.push(b',');
        }
        match on {
            // The last word, whatever the session has set for its transactions.
            Replay::Reads => sql.extend_from_slice(read_only),
            Replay::Session { .. } if self.last_insert_id != 0 => {
                sql.extend_from_slice(format!("last_insert_id={}", self.last_insert_id).as_bytes());
            }
            Replay::Session { .. } => {
                sql.pop();
            }
        }
        sql
    }
}

/// A value as a literal. A number must not be quoted, or integer variables refuse it.
fn put_value(sql: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let number = !value.is_empty()
        && value.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-'))
        && std::str::from_utf8(value).is_ok_and(|v| v.parse::<f64>().is_ok());
    if number || (name == b"timestamp" && value == DEFAULT) {
        sql.extend_from_slice(value);
    } else if value.is_empty() && name == b"character_set_results" {
        sql.extend_from_slice(b"NULL");
    } else if value.iter().any(|b| matches!(b, b'\\' | b'\'')) || !value.is_ascii() {
        // The same under every sql_mode.
        sql.extend_from_slice(b"X'");
        value.iter().for_each(|b| sql.extend_from_slice(format!("{b:02X}").as_bytes()));
        sql.push(b'\'');
    } else {
        sql.push(b'\'');
        sql.extend_from_slice(value);
        sql.push(b'\'');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_wire::Status;

    fn ok(session_state: &[u8]) -> OkPacket<'_> {
        let status = Status::SESSION_STATE_CHANGED;
        OkPacket { affected_rows: 0, last_insert_id: 0, status, warnings: 0, info: b"", session_state }
    }

    fn replayed(state: &State) -> String {
        let on = Replay::Session { writes: true, gtids: true };
        let all = String::from_utf8(state.replay(Engine::MariaDb, on)).unwrap();
        all.split_once("state_change=ON").unwrap().1.to_string()
    }

    #[test]
    fn what_the_server_reports_is_replayed_in_order() {
        let mut state = State::default();
        let sql = b"SET NAMES utf8mb4 COLLATE utf8mb4_bin";
        let names = b"\0\x21\x18character_set_connection\x07utf8mb4\0\x1d\x14character_set_client\x07utf8mb4\x02\x011";
        state.note_ok(&ok(names), &Scan::of(sql), Some(sql));
        assert_eq!(
            replayed(&state),
            ",character_set_connection='utf8mb4',character_set_client='utf8mb4',collation_connection='utf8mb4_bin'"
        );
        state.note_ok(&ok(names), &Scan::of(b"SET NAMES utf8mb4"), Some(b"SET NAMES utf8mb4"));
        state.note_ok(&ok(b"\0\x11\x0cwait_timeout\x03100"), &Scan::default(), None);
        state.note_ok(&OkPacket { last_insert_id: 9, ..ok(b"\x01\x02\x01d") }, &Scan::default(), None);
        assert_eq!(
            replayed(&state),
            ",character_set_connection='utf8mb4',character_set_client='utf8mb4',wait_timeout=100,last_insert_id=9"
        );
        assert_eq!(state.schema.as_deref(), Some(&b"d"[..]));
        assert!(state.stuck.is_empty());
    }

    #[test]
    fn values_become_literals() {
        let literal = |name: &[u8], value: &[u8]| {
            let mut out = Vec::new();
            put_value(&mut out, name, value);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(literal(b"character_set_results", b""), "NULL");
        assert_eq!(literal(b"sql_mode", b""), "''");
        assert_eq!(literal(b"long_query_time", b"1.500000"), "1.500000");
        assert_eq!(literal(b"init_connect", b"a'b"), "X'612762'");
    }

    #[test]
    fn what_cannot_be_moved_is_named() {
        let mut state = State::default();
        state.note_statement(&Scan::of(b"LOCK TABLES t WRITE"));
        state.note_statement(&Scan::of(b"SET @x = 1"));
        assert_eq!(state.stuck.to_string(), "a user variable, a table lock");
        state.note_statement(&Scan::of(b"UNLOCK TABLES"));
        assert_eq!(state.stuck.to_string(), "a user variable");
        state.reset();
        assert!(state.stuck.is_empty());
        state.note_ok(&ok(b"\x02\x011"), &Scan::of(b"CALL p()"), Some(b"CALL p()"));
        assert_eq!(state.stuck, Stuck::UNSEEN);
    }

    #[test]
    fn a_session_has_bounds() {
        let mut state = State::default();
        for i in 0..3_000u32 {
            state.set_variable(format!("v{i}").as_bytes(), &[b'x'; 100], false);
        }
        let bytes = state.replay(Engine::MariaDb, Replay::Reads).len();
        assert!(bytes < 2 * VARIABLES_BYTES_MAX && !state.stuck.is_empty());
        for _ in 0..10 {
            state.statements.add(Some(&[b'x'; PREPARED_BYTES_MAX / 2]), None, Scan::default(), 0);
        }
        assert!(
            state.statements.get(2).unwrap().sql.is_some() && state.statements.get(3).unwrap().sql.is_none()
        );
        assert!(state.statements.get(holdfast_wire::command::LAST_PREPARED).is_some());
    }

    #[test]
    fn a_second_connection_is_told_what_is_new() {
        let mut state = State::default();
        let set = |state: &mut State, block: &[u8]| {
            state.note_ok(&ok(block), &Scan::default(), None);
            state.revision
        };
        let first = set(&mut state, b"\0\x11\x0cwait_timeout\x03100");
        assert_eq!(set(&mut state, b"\0\x11\x0cwait_timeout\x03100"), first, "it is what it was");
        assert!(set(&mut state, b"\0\x11\x0cwait_timeout\x03200").variables > first.last());
        let schema = set(&mut state, b"\x01\x02\x01d");
        assert!(schema.schema > schema.variables);
        let reads = String::from_utf8(state.replay(Engine::MySql, Replay::Reads)).unwrap();
        assert_eq!(reads, "SET SESSION wait_timeout=200,transaction_read_only=1");
        state.reset();
        assert!(state.revision.reset > schema.last());
    }

    #[test]
    fn a_statement_has_two_places() {
        let mut statements = Statements::default();
        let id = statements.add(Some(b"SELECT ?"), None, Scan::default(), 1);
        let s = statements.get(id).unwrap();
        s.put(1, None, 10);
        s.put(2, Some(1), 20);
        s.set_types(b"\x08\0".as_slice().into(), 1);
        assert!(s.on(1).unwrap().knows_types && !s.on(2).unwrap().knows_types);
        s.set_types(b"\x08\0".as_slice().into(), 2);
        assert!(s.on(1).unwrap().knows_types);
        s.set_types(b"\xfd\0".as_slice().into(), 2);
        assert!(!s.on(1).unwrap().knows_types, "it would go on with the old ones");
        // The second connection was replaced by a third.
        s.put(3, Some(1), 30);
        assert_eq!(s.places().map(|p| p.server_id).collect::<Vec<_>>(), [10, 30]);
    }
}
