//! The end of a replication log, as the commands that it is made of.
//!
//! Guarantees: every byte from where the tail begins to where it ends is accounted for: a command that can be replayed,
//! or one that carries no data. What is no command ends the reading with an error (S11). Bounded memory, whatever the
//! commands' size.
//! Does not know: whose tail it is.

use crate::{Error, SAVED_IDS_MAX};
use holdfast_wire::resp::command::{Bounds, Kind, Scanner};
use std::fs::File;
use std::io::{BufWriter, Write};

/// The largest command that is kept whole in memory: the engines' own bound for one argument, and some.
const COMMAND_BYTES_MAX: usize = 600 << 20;
const BOUNDS: Bounds = Bounds { args: 1 << 20, arg_bytes: 512 << 20, inline_bytes: 64 << 10 };
/// Commands of a replication stream that change nothing.
const IDLE: [&[u8]; 2] = [b"PING", b"REPLCONF"];
/// Commands that only order others.
const FRAME: [&[u8]; 3] = [b"SELECT", b"MULTI", b"EXEC"];
/// How the stream says which database is meant; what follows is its number's length.
const SELECT: &[u8] = b"*2\r\n$6\r\nSELECT\r\n$";
/// Bytes from which a `SELECT` may be seen in part.
const OVERLAP: usize = SELECT.len() + 12;

/// Reads a log of which it is handed piece after piece.
pub(super) struct Tail<W> {
    out: W,
    /// Bytes before the tail begins, not handed in yet.
    before: u64,
    /// Bytes of the tail, not handed in yet.
    left: u64,
    /// The end of what came before the tail.
    seen: Vec<u8>,
    database: Option<u32>,
    begun: bool,
    scanner: Scanner,
    pending: Vec<u8>,
    scanned: usize,
    /// Data commands.
    commands: u64,
    /// The first of them, by their first two words.
    names: Vec<String>,
}

impl<W: Write> Tail<W> {
    /// The tail begins after `before` bytes and has `len`. Where the log does not say which database is meant, it is
    /// `database`.
    pub(super) fn new(out: W, before: u64, len: u64, database: Option<u32>) -> Tail<W> {
        Tail {
            out,
            before,
            left: len,
            seen: Vec::new(),
            database,
            begun: false,
            scanner: Scanner::default(),
            pending: Vec::new(),
            scanned: 0,
            commands: 0,
            names: Vec::new(),
        }
    }

    /// Takes the next piece; true when the tail is over.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<bool, Error> {
        let skip = usize::try_from(self.before).unwrap_or(usize::MAX).min(bytes.len());
        if skip > 0 {
            self.look_for_database(&bytes[..skip]);
            self.before -= skip as u64;
            bytes = &bytes[skip..];
        }
        if self.before > 0 {
            return Ok(false);
        }
        if !self.begun {
            self.begun = true;
            if let Some(database) = self.database {
                let mut select = Vec::new();
                holdfast_wire::resp::put_command(&mut select, &[b"SELECT", database.to_string().as_bytes()]);
                self.write(&select)?;
            }
        }
        let own = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= own as u64;
        self.pending.extend_from_slice(&bytes[..own]);
        self.commands_in()?;
        if self.left == 0 && !self.pending.is_empty() {
            return Err(Error::Log("the tail of the replication log ends within a command".into()));
        }
        Ok(self.left == 0)
    }

    /// Makes what was kept durable; how many commands of data there were, and the first of them.
    pub(super) fn finish(self) -> Result<(u64, Vec<String>), Error>
    where
        W: Durable,
    {
        self.out.sync().map_err(io)?;
        Ok((self.commands, self.names))
    }

    fn commands_in(&mut self) -> Result<(), Error> {
        loop {
            let (n, kind) = self
                .scanner
                .feed(&self.pending[self.scanned..], &BOUNDS)
                .map_err(|e| Error::Log(format!("the replication log is not as it should be: {e}")))?;
            self.scanned += n;
            let Some(kind) = kind else { break };
            let command: Vec<u8> = self.pending.drain(..self.scanned).collect();
            self.scanned = 0;
            self.command(kind, &command)?;
        }
        if self.pending.len() > COMMAND_BYTES_MAX {
            return Err(Error::Log("a command of the replication log is too long".into()));
        }
        Ok(())
    }

    fn command(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), Error> {
        let words = match kind {
            Kind::Array => first_words(bytes),
            Kind::Nothing => return Ok(()),
            // A newline that keeps a connection alive.
            Kind::Inline if bytes.iter().all(u8::is_ascii_whitespace) => return Ok(()),
            Kind::Inline => {
                return Err(Error::Log("a line that is no command is in the replication log".into()));
            }
        };
        let name = words.first().map(|w| w.to_ascii_uppercase()).unwrap_or_default();
        if IDLE.contains(&&name[..]) {
            return Ok(());
        }
        self.write(bytes)?;
        if FRAME.contains(&&name[..]) {
            return Ok(());
        }
        self.commands += 1;
        if self.names.len() < SAVED_IDS_MAX {
            let says: Vec<String> = words.iter().map(|w| String::from_utf8_lossy(w).into_owned()).collect();
            self.names.push(says.join(" "));
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(io)
    }

    /// The last `SELECT` before the tail says which database its first command is about.
    fn look_for_database(&mut self, bytes: &[u8]) {
        self.seen.extend_from_slice(bytes);
        let found = self.seen.windows(SELECT.len()).rposition(|w| w == SELECT);
        let number = found.and_then(|at| {
            let line = self.seen[at + SELECT.len()..].split(|b| *b == b'\n').nth(1)?;
            std::str::from_utf8(line.strip_suffix(b"\r")?).ok()?.parse().ok()
        });
        self.database = number.or(self.database);
        let surplus = self.seen.len().saturating_sub(OVERLAP);
        self.seen.drain(..surplus);
    }
}

/// What can be made to outlive a power cut.
pub(super) trait Durable {
    fn sync(self) -> std::io::Result<()>;
}

impl Durable for BufWriter<File> {
    fn sync(self) -> std::io::Result<()> {
        self.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    }
}

fn io(source: std::io::Error) -> Error {
    Error::Io { doing: "saving", path: "the tail of the replication log".into(), source }
}

/// Name and first argument of a whole command.
fn first_words(bytes: &[u8]) -> Vec<&[u8]> {
    const WORD_BYTES_MAX: usize = 200;
    let mut words = Vec::new();
    let mut rest = bytes.splitn(2, |b| *b == b'\n').nth(1).unwrap_or_default();
    while words.len() < 2
        && let Some((head, after)) = rest.iter().position(|b| *b == b'\n').map(|at| rest.split_at(at + 1))
        && let Some(len) = std::str::from_utf8(&head[1..]).ok().and_then(|t| t.trim().parse::<usize>().ok())
        && after.len() >= len
    {
        words.push(&after[..len.min(WORD_BYTES_MAX)]);
        rest = after.get(len + 2..).unwrap_or_default();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_wire::resp::put_command;

    fn log(commands: &[&[&str]]) -> Vec<u8> {
        let mut out = Vec::new();
        for words in commands {
            put_command(&mut out, &words.iter().map(|w| w.as_bytes()).collect::<Vec<_>>());
        }
        out
    }

    fn read(before: &[u8], tail: &[u8], piece: usize) -> Result<(Vec<u8>, u64, Vec<String>), Error> {
        let (all, mut out) = ([before, tail, b"+not of it"].concat(), Vec::new());
        let mut reading = Tail::new(&mut out, before.len() as u64, tail.len() as u64, None);
        for bytes in all.chunks(piece) {
            if reading.feed(bytes)? {
                break;
            }
        }
        let (commands, names) = (reading.commands, reading.names);
        Ok((out, commands, names))
    }

    #[test]
    fn data_is_kept_and_counted_however_it_arrives() {
        let before = log(&[&["SELECT", "7"], &["SET", "x", "1"]]);
        let tail = log(&[
            &["SET", "a", "b\r\n*1"],
            &["PING"],
            &["MULTI"],
            &["INCR", "n"],
            &["EXEC"],
            &["REPLCONF", "GETACK", "*"],
            &["SELECT", "0"],
            &["DEL", "a"],
        ]);
        let kept = log(&[
            &["SELECT", "7"],
            &["SET", "a", "b\r\n*1"],
            &["MULTI"],
            &["INCR", "n"],
            &["EXEC"],
            &["SELECT", "0"],
            &["DEL", "a"],
        ]);
        for piece in [1, 3, 7, 50, 10_000] {
            // The first byte that the log still holds may be anywhere.
            let (out, commands, names) = read(&before, &tail, piece).unwrap();
            assert_eq!(out, kept, "in pieces of {piece}");
            assert_eq!((commands, names), (3, vec!["SET a".into(), "INCR n".into(), "DEL a".into()]));
        }
    }

    #[test]
    fn heartbeats_alone_are_nothing() {
        let (out, commands, _) = read(b"", &log(&[&["PING"], &["PING"]]), 5).unwrap();
        assert_eq!((out.len(), commands), (0, 0));
    }

    #[test]
    fn what_is_no_command_is_an_error() {
        let whole = log(&[&["SET", "a", "b"]]);
        assert!(read(b"", &whole[..whole.len() - 1], 4).is_err());
        assert!(read(b"", b"hello\r\n", 4).is_err());
        assert!(read(b"", b"*1\r\n:1\r\n", 4).is_err());
    }
}
