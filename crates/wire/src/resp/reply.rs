//! Where an engine's reply ends, in RESP2 and RESP3.
//!
//! Guarantees: every byte handed in is taken, up to the end of the reply; the bytes may come in any pieces. A reply in a
//! reply needs no memory: what counts is how many values are still to come.

use crate::resp::Error;
use crate::resp::number::{Digit, Number};

/// Bytes that are kept of a reply's beginning.
pub const HEAD_BYTES: usize = 24;

/// The beginning of a reply: of its line; of an aggregate, of its first string if that has no attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    bytes: [u8; HEAD_BYTES],
    len: u8,
}

impl Head {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
    /// The number that an integer reply is.
    pub fn number(&self) -> Option<i64> {
        std::str::from_utf8(self.bytes()).ok()?.parse().ok()
    }
    fn push(&mut self, more: &[u8]) {
        let at = usize::from(self.len);
        let n = more.len().min(HEAD_BYTES - at);
        self.bytes[at..at + n].copy_from_slice(&more[..n]);
        self.len += n as u8;
    }
}

/// A whole reply has gone by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its first byte: `+`, `-`, `:`, `$`, `*`, `>` …; of one with attributes, the first after them.
    pub kind: u8,
    pub head: Head,
    /// It says "nothing": `$-1`, `*-1` or `_`.
    pub is_null: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Kind,
    /// A line whose last byte was a carriage return, or not.
    Line {
        returned: bool,
    },
    Length {
        kind: u8,
        number: Number,
    },
    /// This many bytes of a string, its line end included.
    Skip(u64),
}

/// Follows one reply through its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scanner {
    state: State,
    /// Values still to come, the present one included. 0: between replies.
    left: u64,
    /// The reply's first byte; 0 before it, while attributes go by.
    kind: u8,
    /// The present value is the reply itself, not a part of it.
    is_top: bool,
    is_null: bool,
    /// Bytes are kept in `head`.
    keeps: bool,
    head: Head,
}

impl Scanner {
    /// No reply has begun.
    pub fn is_between(&self) -> bool {
        self.left == 0
    }

    /// Takes bytes up to the reply's end: how many, and the reply if it ended.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Frame>), Error> {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.state {
                State::Kind => {
                    self.begin_value(bytes[at])?;
                    at += 1;
                }
                State::Length { kind, number } => {
                    let (kind, digit) = (*kind, number.push(bytes[at]));
                    at += 1;
                    match digit {
                        Digit::More => {}
                        Digit::End(n) => self.length(kind, n)?,
                        Digit::Bad => return Err(Error::ReplyLength),
                    }
                }
                State::Line { returned } => {
                    let was_returned = std::mem::take(returned);
                    if was_returned && bytes[at] == b'\n' {
                        at += 1;
                        self.end_value();
                    } else {
                        let n = bytes[at..].iter().position(|b| *b == b'\r').unwrap_or(bytes.len() - at);
                        if self.keeps {
                            self.head.push(&bytes[at..at + n]);
                        }
                        at += n;
                        if at < bytes.len() {
                            self.state = State::Line { returned: true };
                            at += 1;
                        }
                    }
                }
                State::Skip(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    let text = usize::try_from(left.saturating_sub(2)).unwrap_or(usize::MAX).min(n);
                    *left -= n as u64;
                    let over = *left == 0;
                    if self.keeps {
                        self.head.push(&bytes[at..at + text]);
                    }
                    at += n;
                    if over {
                        self.end_value();
                    }
                }
            }
            if self.left == 0 {
                return Ok((at, Some(Frame { kind: self.kind, head: self.head, is_null: self.is_null })));
            }
        }
        Ok((at, None))
    }

    fn begin_value(&mut self, kind: u8) -> Result<(), Error> {
        if self.left == 0 {
            *self = Scanner { left: 1, ..Scanner::default() };
        }
        self.state = match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => State::Line { returned: false },
            b'$' | b'=' | b'!' | b'*' | b'%' | b'~' | b'>' | b'|' => {
                State::Length { kind, number: Number::default() }
            }
            other => return Err(Error::ReplyType(other)),
        };
        // The values of attributes come before the value that they belong to.
        self.is_top = self.kind == 0 && self.left == 1 && kind != b'|';
        if self.is_top {
            self.kind = kind;
            self.is_null = kind == b'_';
            self.keeps = matches!(kind, b'+' | b'-' | b':' | b'*' | b'>');
        }
        Ok(())
    }

    /// A header's line is over.
    fn length(&mut self, kind: u8, n: Option<u64>) -> Result<(), Error> {
        let Some(n) = n else {
            self.is_null |= self.is_top;
            self.end_value();
            return Ok(());
        };
        if matches!(kind, b'$' | b'=' | b'!') {
            self.state = State::Skip(n + 2);
            return Ok(());
        }
        let values = if matches!(kind, b'%' | b'|') { n * 2 } else { n };
        // An attribute is no value by itself.
        let gone = u64::from(kind != b'|');
        self.left = self.left.checked_add(values).ok_or(Error::ReplyLength)? - gone;
        self.keeps &= self.is_top && n > 0;
        self.state = State::Kind;
        Ok(())
    }

    fn end_value(&mut self) {
        self.keeps = false;
        self.state = State::Kind;
        self.left -= 1;
    }
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
