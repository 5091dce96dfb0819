//! Where a client's command ends.
//!
//! Guarantees: an argument's bytes are skipped by its length, as engines do; the bounds of [`Bounds`] hold whatever the
//! client says.

use crate::resp::Error;
use crate::resp::number::{Digit, Number};
use std::ops::Range;

/// What a command may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Arguments, the command's name among them.
    pub args: u64,
    /// Bytes of one argument.
    pub arg_bytes: u64,
    /// Bytes of an inline command's line.
    pub inline_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Start,
    Inline,
    Count(Number),
    Dollar,
    Length(Number),
    /// This many bytes of an argument, its line end included.
    Skip(u64),
}

/// What a command turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An array of bulk strings.
    Array,
    /// A line for people, as by telnet. See [`crate::resp::inline`].
    Inline,
    /// An array of nothing: engines pass over it without a reply.
    Nothing,
}

/// Follows one command through its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scanner {
    state: State,
    left: u64,
    name: Range<u32>,
    taken: u64,
}

impl Scanner {
    /// Takes bytes up to the command's end: how many, and what the command was if it ended. After its end the next
    /// byte begins another command.
    pub fn feed(&mut self, bytes: &[u8], bounds: &Bounds) -> Result<(usize, Option<Kind>), Error> {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.state {
                State::Skip(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    *left -= n as u64;
                    at += n;
                    if *left > 0 {
                        break;
                    }
                    self.state = State::Dollar;
                    self.left -= 1;
                    if self.left == 0 {
                        return Ok(self.end(at, Kind::Array));
                    }
                }
                State::Dollar => {
                    if bytes[at] != b'$' {
                        return Err(Error::NotBulk(bytes[at]));
                    }
                    self.state = State::Length(Number::default());
                    at += 1;
                }
                State::Length(number) => {
                    let digit = number.push(bytes[at]);
                    at += 1;
                    match digit {
                        Digit::More => {}
                        Digit::End(Some(len)) if len <= bounds.arg_bytes => self.argument(at, len),
                        _ => return Err(Error::Length),
                    }
                }
                State::Count(number) => {
                    let digit = number.push(bytes[at]);
                    at += 1;
                    match digit {
                        Digit::More => {}
                        Digit::End(None | Some(0)) => return Ok(self.end(at, Kind::Nothing)),
                        Digit::End(Some(count)) if count <= bounds.args => {
                            self.left = count;
                            self.state = State::Dollar;
                        }
                        _ => return Err(Error::Count),
                    }
                }
                State::Start => {
                    self.name = 0..0;
                    self.taken = 0;
                    if bytes[at] == b'*' {
                        at += 1;
                        self.state = State::Count(Number::default());
                    } else {
                        self.state = State::Inline;
                    }
                }
                State::Inline => {
                    let line = bytes[at..].iter().position(|b| *b == b'\n').map(|end| end + 1);
                    at += line.unwrap_or(bytes.len() - at);
                    if self.taken + at as u64 > bounds.inline_bytes {
                        return Err(Error::InlineTooLong);
                    }
                    if line.is_some() {
                        return Ok(self.end(at, Kind::Inline));
                    }
                }
            }
        }
        self.taken += at as u64;
        Ok((at, None))
    }

    fn argument(&mut self, at: usize, len: u64) {
        if self.name.end == 0 {
            // Clients are bounded long before: a header is short, and what does not fit is no name.
            let start = u32::try_from(self.taken + at as u64).unwrap_or(u32::MAX);
            self.name = start..start.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        }
        self.state = State::Skip(len + 2);
    }

    fn end(&mut self, at: usize, kind: Kind) -> (usize, Option<Kind>) {
        self.state = State::Start;
        self.taken += at as u64;
        (at, Some(kind))
    }

    /// Where the name of the command lies, counted from the command's first byte; empty until its length was read.
    /// Stays until the next command begins.
    pub fn name(&self) -> Range<usize> {
        self.name.start as usize..self.name.end as usize
    }
    /// Bytes of the command so far, or of the one that has just ended.
    pub fn taken(&self) -> u64 {
        self.taken
    }
    /// No command has begun.
    pub fn is_between(&self) -> bool {
        self.state == State::Start
    }
}

/// The arguments of an array command, the name first, as far as they are here whole. For bytes that a [`Scanner`]
/// has gone through.
#[derive(Debug, Clone)]
pub struct Args<'a> {
    left: u64,
    rest: &'a [u8],
}

impl<'a> Args<'a> {
    /// `command` begins with the command's first byte.
    pub fn of(command: &'a [u8]) -> Args<'a> {
        let (left, rest) = line(command).unwrap_or((0, &[]));
        Args { left, rest }
    }
}

/// The first line's number and what follows it.
fn line(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = Number::default();
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match number.push(*byte) {
            Digit::More => {}
            Digit::End(n) => return Some((n?, &bytes[at + 1..])),
            Digit::Bad => return None,
        }
    }
    None
}

impl<'a> Iterator for Args<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (len, rest) = line(self.rest)?;
        let len = usize::try_from(len).ok()?;
        let arg = rest.get(..len)?;
        self.rest = rest.get(len + 2..).unwrap_or_default();
        Some(arg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::put_command;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { args: 1_000, arg_bytes: 1_000, inline_bytes: 100 };

    /// All commands in `bytes`, fed in pieces: their ends, kinds and names.
    fn scan(bytes: &[u8], piece: usize) -> Result<Vec<(usize, Kind, Vec<u8>)>, Error> {
        let (mut scanner, mut found, mut begin) = (Scanner::default(), Vec::new(), 0);
        let (mut at, mut to) = (0, 0);
        while at < bytes.len() {
            to = to.max((at + piece).min(bytes.len()));
            let (taken, kind) = scanner.feed(&bytes[at..to], &BOUNDS)?;
            at += taken;
            if let Some(kind) = kind {
                assert_eq!(scanner.taken(), (at - begin) as u64);
                found.push((at, kind, bytes[begin..at][scanner.name()].to_vec()));
                begin = at;
            }
        }
        Ok(found)
    }

    #[test]
    fn commands_end_where_they_end() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\nPING\r\n*0\r\n*-1\r\n*1\r\n$4\r\nquit\r\n";
        let found = scan(bytes, bytes.len()).unwrap();
        let expected = vec![
            (21, Kind::Array, b"GET".to_vec()),
            (27, Kind::Inline, vec![]),
            (31, Kind::Nothing, vec![]),
            (36, Kind::Nothing, vec![]),
            (50, Kind::Array, b"quit".to_vec()),
        ];
        assert_eq!(found, expected);
        for piece in 1..bytes.len() {
            assert_eq!(scan(bytes, piece).unwrap(), expected);
        }
        assert_eq!(Args::of(bytes).collect::<Vec<_>>(), [&b"GET"[..], b"\r\n"]);
        assert_eq!(Args::of(&bytes[..18]).collect::<Vec<_>>(), [&b"GET"[..]], "the last is not whole");
    }

    #[test]
    fn what_is_no_command_is_an_error() {
        for (bytes, error) in [
            (&b"*x\r\n"[..], Error::Count),
            (b"*1001\r\n", Error::Count),
            (b"*99999999999999999999\r\n", Error::Count),
            (b"*1\r\n+OK\r\n", Error::NotBulk(b'+')),
            (b"*1\r\n$-1\r\n", Error::Length),
            (b"*1\r\n$1001\r\n", Error::Length),
            (&[b'a'; 101], Error::InlineTooLong),
        ] {
            assert_eq!(scan(bytes, bytes.len()), Err(error), "{}", bytes.escape_ascii());
            assert_eq!(scan(bytes, 1), Err(error), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            commands in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6), 1..6),
            piece in 1usize..50,
        ) {
            let (mut bytes, mut ends) = (Vec::new(), Vec::new());
            for command in &commands {
                put_command(&mut bytes, &command.iter().map(Vec::as_slice).collect::<Vec<_>>());
                ends.push(bytes.len());
            }
            let found = scan(&bytes, piece).unwrap();
            prop_assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), ends);
            let mut begin = 0;
            for ((end, _, name), command) in found.into_iter().zip(&commands) {
                prop_assert_eq!(&name, &command[0]);
                prop_assert!(Args::of(&bytes[begin..end]).eq(command.iter().map(Vec::as_slice)));
                begin = end;
            }
        }

        #[test]
        fn pieces_do_not_matter(bytes in proptest::collection::vec(
            prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'-'), b'0'..=b'9', any::<u8>()], 0..60),
            piece in 1usize..20,
        ) {
            prop_assert_eq!(scan(&bytes, piece), scan(&bytes, bytes.len().max(1)));
        }
    }
}
