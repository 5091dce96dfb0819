//! Where the reply to a command ends, and in which state it leaves the session.
//!
//! Fed the server's bytes as they come; hops from packet header to packet header and looks at a payload only where
//! it must. Copies nothing and keeps nothing: of a packet that matters and is not whole yet, nothing is consumed,
//! and the caller presents those bytes again with more behind them. At most [`WHOLE_BYTES_MAX`] plus a header stay
//! unconsumed, so a buffer larger than that always makes progress.
//! Deliberately not known here: what to do with a reply, and the login exchange (it is not a command's reply).

use crate::codec::{Error, Reader};
use crate::command;
use crate::flags::{Capabilities, Status};
use crate::packet::{FRAME_BYTES_MAX, HEADER_BYTES, Header};
use crate::reply::{ErrPacket, OkPacket, PROGRESS_REPORT, eof_status};
use std::ops::Range;

/// OK, ERR and such packets up to this long are shown whole. A longer one is only hopped over
/// ([`Outcome::overlong`]).
pub const WHOLE_BYTES_MAX: usize = 32 << 10;
/// Enough of an overlong OK packet to read its status.
const OK_HEAD_BYTES: usize = 32;

/// What stands at the end of the consumed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Nothing yet: come back with the unconsumed bytes and more.
    More,
    /// An OK packet, header included, at `packet` of the buffer. More may follow.
    Ok { packet: Range<usize> },
    /// An ERR packet, header included. It ends the reply.
    Err { packet: Range<usize> },
    /// The first packet of a successful prepare.
    Prepared { packet: Range<usize>, statement: u32, params: u16 },
    /// The server wants a file from the client: the client's packets go to the server up to and including an empty
    /// one; then feeding goes on.
    LocalInfile,
    /// The reply is over.
    Done,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the buffer that are done with.
    pub consumed: usize,
    pub event: Event,
}

/// How a reply went so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The last status seen. ERR packets carry none.
    pub status: Option<Status>,
    /// The number of the error that ended the reply.
    pub error: Option<u16>,
    /// A cursor was opened.
    pub cursor: bool,
    /// An OK packet was too long to be shown: the session's state may have changed unseen.
    pub overlong: bool,
    /// Packets begun, progress reports left out.
    pub packets: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// First packet of a result.
    Result,
    /// First packet of a prepare.
    Prepare,
    /// Any one packet.
    Single,
    Columns {
        left: u64,
    },
    ColumnsEnd,
    Rows,
    FieldList,
    /// Definitions of a prepared statement: `left` of these, then `next` more.
    Definitions {
        left: u16,
        next: u16,
    },
    DefinitionsEnd {
        next: u16,
    },
    Done,
}

/// Follows the reply to one command. See the file's contract.
#[derive(Debug, Clone)]
pub struct Tracker {
    deprecate_eof: bool,
    progress: bool,
    state: State,
    /// Bytes of the current frame still to come.
    skip: usize,
    /// The current packet goes on in another frame.
    continued: bool,
    outcome: Outcome,
}

/// How a packet's head was read.
enum Read {
    /// Consume it; the state is already set.
    Pass,
    /// Consume it; it is no part of the reply.
    Aside,
    /// Consume it and show this.
    Show(Event),
    /// Not enough bytes.
    Short,
}

impl Tracker {
    /// For the reply to `command` under the capabilities agreed at login.
    pub fn new(command: u8, capabilities: Capabilities) -> Tracker {
        let state = match command {
            command::STMT_PREPARE => State::Prepare,
            command::STMT_FETCH => State::Rows,
            command::FIELD_LIST => State::FieldList,
            command::QUERY | command::STMT_EXECUTE | command::STMT_BULK_EXECUTE | command::PROCESS_INFO => {
                State::Result
            }
            silent if command::has_no_reply(silent) => State::Done,
            _ => State::Single,
        };
        Tracker {
            deprecate_eof: capabilities.has(Capabilities::DEPRECATE_EOF),
            progress: capabilities.has(Capabilities::MARIADB_PROGRESS),
            state,
            skip: 0,
            continued: false,
            outcome: Outcome::default(),
        }
    }

    /// How the reply went so far; final after [`Event::Done`].
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    fn at_end(&self) -> bool {
        self.state == State::Done && self.skip == 0 && !self.continued
    }

    /// Takes what it can from `bytes`, up to the next event. An error means that the server does not speak the
    /// protocol; the connection is of no further use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Step, Error> {
        let mut at = 0;
        loop {
            let hop = self.skip.min(bytes.len() - at);
            at += hop;
            self.skip -= hop;
            if self.at_end() {
                return Ok(Step { consumed: at, event: Event::Done });
            }
            let more = Step { consumed: at, event: Event::More };
            if self.skip > 0 {
                return Ok(more);
            }
            let Some(header) = Header::read(&bytes[at..]) else { return Ok(more) };
            if self.continued {
                self.continued = header.continues();
                self.skip = header.len;
                at += HEADER_BYTES;
                continue;
            }
            let have = &bytes[at + HEADER_BYTES..];
            let have = &have[..have.len().min(header.len)];
            let packet = at..at + HEADER_BYTES + header.len;
            let read = self.read_head(header, have, packet)?;
            if matches!(read, Read::Short) {
                return Ok(more);
            }
            self.continued = header.continues();
            self.skip = header.len;
            at += HEADER_BYTES;
            if let Read::Show(event) = read {
                // Shown packets are whole: their bytes are here.
                at += header.len;
                self.skip = 0;
                return Ok(Step { consumed: at, event });
            }
        }
    }

    fn read_head(&mut self, header: Header, have: &[u8], packet: Range<usize>) -> Result<Read, Error> {
        match self.state {
            State::Columns { left } => {
                self.state = match left {
                    0 | 1 if self.deprecate_eof => State::Rows,
                    0 | 1 => State::ColumnsEnd,
                    _ => State::Columns { left: left - 1 },
                };
                self.outcome.packets += 1;
                return Ok(Read::Pass);
            }
            State::Definitions { left, next } => {
                self.state = match left {
                    0 | 1 if self.deprecate_eof => definitions(next, 0),
                    0 | 1 => State::DefinitionsEnd { next },
                    _ => State::Definitions { left: left - 1, next },
                };
                self.outcome.packets += 1;
                return Ok(Read::Pass);
            }
            _ => {}
        }
        if header.len == 0 {
            return Err(Error::Truncated("the reply"));
        }
        let Some(first) = have.first().copied() else { return Ok(Read::Short) };
        let read = match (self.state, first) {
            (_, 0xFF) => self.error(header, have, packet)?,
            (State::Rows | State::FieldList, 0xFE) if self.ends_rows(header) => {
                self.end(header, have, packet, None)?
            }
            (State::Rows | State::FieldList, _) => Read::Pass,
            (State::ColumnsEnd, 0xFE) => self.end(header, have, packet, Some(State::Rows))?,
            (State::DefinitionsEnd { next }, 0xFE) => {
                self.end(header, have, packet, Some(definitions(next, 0)))?
            }
            (State::Prepare, 0x00) => self.prepared(header, have, packet)?,
            (State::Result | State::Single, 0x00) => self.ok(header, have, packet)?,
            (State::Result | State::Single, 0xFE) if header.len < 9 => {
                self.end(header, have, packet, None)?
            }
            (State::Result, 0xFB) => self.local_infile(header, have)?,
            (State::Result, 0x01..=0xFD) => self.column_count(header, have)?,
            (State::Single, _) => {
                self.state = State::Done;
                Read::Pass
            }
            _ => return Err(Error::Value { what: "the reply's kind", value: first.into() }),
        };
        if !matches!(read, Read::Short | Read::Aside) {
            self.outcome.packets += 1;
        }
        Ok(read)
    }

    /// 0xFE also starts a row whose first column is of 16 MiB or more; such a packet is as long as that.
    fn ends_rows(&self, header: Header) -> bool {
        if self.deprecate_eof { header.len < FRAME_BYTES_MAX } else { header.len < 9 }
    }

    fn error(&mut self, header: Header, have: &[u8], packet: Range<usize>) -> Result<Read, Error> {
        if have.len() < header.len.min(3) {
            return Ok(Read::Short);
        }
        let code = match have {
            [_, a, b, ..] => u16::from_le_bytes([*a, *b]),
            _ => return Err(Error::Truncated("the error number")),
        };
        if code == PROGRESS_REPORT && self.progress {
            return Ok(Read::Aside);
        }
        if header.len > WHOLE_BYTES_MAX {
            self.outcome.error = Some(code);
            self.state = State::Done;
            return Ok(Read::Pass);
        }
        if have.len() < header.len {
            return Ok(Read::Short);
        }
        self.outcome.error = Some(ErrPacket::parse(have)?.code);
        self.state = State::Done;
        Ok(Read::Show(Event::Err { packet }))
    }

    /// An OK packet at the start or, with first byte 0xFE, at the end of a result.
    fn ok(&mut self, header: Header, have: &[u8], packet: Range<usize>) -> Result<Read, Error> {
        let overlong = header.len > WHOLE_BYTES_MAX;
        if have.len() < if overlong { OK_HEAD_BYTES } else { header.len } {
            return Ok(Read::Short);
        }
        let ok = OkPacket::parse(have)?;
        self.finish(ok.status);
        if overlong {
            self.outcome.overlong = true;
            return Ok(Read::Pass);
        }
        Ok(Read::Show(Event::Ok { packet }))
    }

    /// The end of rows or definitions; goes on with `then`, or ends the result.
    fn end(
        &mut self,
        header: Header,
        have: &[u8],
        packet: Range<usize>,
        then: Option<State>,
    ) -> Result<Read, Error> {
        if header.len >= 7 && then.is_none() {
            return self.ok(header, have, packet);
        }
        if have.len() < header.len {
            return Ok(Read::Short);
        }
        let status = eof_status(have)?;
        match then {
            Some(State::Rows) if status.has(Status::CURSOR_EXISTS) => self.finish(status),
            Some(state) => self.state = state,
            None => self.finish(status),
        }
        Ok(Read::Pass)
    }

    fn finish(&mut self, status: Status) {
        self.outcome.status = Some(status);
        self.outcome.cursor |= status.has(Status::CURSOR_EXISTS);
        self.state = if status.has(Status::MORE_RESULTS) && self.state != State::Single {
            State::Result
        } else {
            State::Done
        };
    }

    fn prepared(&mut self, header: Header, have: &[u8], packet: Range<usize>) -> Result<Read, Error> {
        if header.len > WHOLE_BYTES_MAX {
            return Err(Error::Value { what: "the length of a prepare's reply", value: header.len as u64 });
        }
        if have.len() < header.len {
            return Ok(Read::Short);
        }
        let mut r = Reader::new(have);
        r.u8("the reply's kind")?;
        let statement = r.u32("the statement id")?;
        let columns = r.u16("the number of columns")?;
        let params = r.u16("the number of parameters")?;
        self.state = definitions(params, columns);
        Ok(Read::Show(Event::Prepared { packet, statement, params }))
    }

    fn local_infile(&mut self, header: Header, have: &[u8]) -> Result<Read, Error> {
        if header.len > WHOLE_BYTES_MAX {
            return Err(Error::Value { what: "the length of a file name", value: header.len as u64 });
        }
        Ok(if have.len() < header.len { Read::Short } else { Read::Show(Event::LocalInfile) })
    }

    fn column_count(&mut self, header: Header, have: &[u8]) -> Result<Read, Error> {
        if header.len > 9 {
            return Err(Error::Value { what: "the length of a column count", value: header.len as u64 });
        }
        if have.len() < header.len {
            return Ok(Read::Short);
        }
        let left = Reader::new(have).lenenc("the column count")?;
        self.state = State::Columns { left };
        Ok(Read::Pass)
    }
}

/// The state before `left` definitions with `next` more behind them.
fn definitions(left: u16, next: u16) -> State {
    match (left, next) {
        (0, 0) => State::Done,
        (0, next) => State::Definitions { left: next, next: 0 },
        (left, next) => State::Definitions { left, next },
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
