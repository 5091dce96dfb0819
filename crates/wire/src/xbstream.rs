//! The stream of `mariabackup --stream=xbstream`: files in chunks, those of several files interleaved.
//!
//! Fed bytes as they come; payloads are handed on as slices of the input, so nothing is collected but the head of a
//! chunk. Guarantees: each file's bytes come in order and without a gap, every chunk's checksum is verified (when its
//! last byte is there), and [`XbStream::finish`] tells whether every file was ended. A kind of chunk that is not known
//! is an error: to skip it could lose a write.
//! Deliberately not known here: what the files are, and where they go.

use crc32fast::Hasher;
use std::collections::HashMap;

const MAGIC: &[u8; 8] = b"XBSTCK01";
/// Magic, flags, kind, length of the path.
const HEAD_BYTES: usize = 14;
/// Length, offset, checksum: after the path of a payload.
const PAYLOAD_HEAD_BYTES: usize = 20;
/// As the writing program limits it.
const PATH_BYTES_MAX: usize = 512;
/// Files that may be open at once: one for each thread of the writer.
const OPEN_FILES_MAX: usize = 1024;

/// Why the stream cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("at byte {at} of the stream no chunk begins")]
    NoChunk { at: u64 },
    #[error("at byte {at} of the stream is a chunk of kind {kind:?}, which is not known here")]
    UnknownKind { at: u64, kind: char },
    #[error("at byte {at} of the stream is a path that is empty, too long or no text")]
    BadPath { at: u64 },
    #[error("{path}: the stream goes on at byte {found} of the file, and {expected} were received")]
    Gap { path: String, expected: u64, found: u64 },
    #[error("{path}: the checksum of the chunk that ends at byte {at} of the stream does not fit")]
    Checksum { path: String, at: u64 },
    #[error("more than {OPEN_FILES_MAX} files are open at once")]
    TooManyOpen,
    #[error("the stream ended in the middle of {0}")]
    CutOff(String),
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'s, 'i> {
    /// The input is used up.
    More,
    /// The next bytes of a file. Of a file without content, one event without bytes may come, or none.
    Data { path: &'s str, bytes: &'i [u8] },
    /// The file is whole.
    End { path: &'s str },
}

#[derive(Debug)]
enum State {
    Head,
    Payload { left: u64, checksum: u32, begun: bool },
}

/// See the module.
#[derive(Debug)]
pub struct XbStream {
    state: State,
    head: Vec<u8>,
    path: String,
    crc: Hasher,
    /// Bytes received of each open file.
    open: HashMap<String, u64>,
    at: u64,
}

impl Default for XbStream {
    fn default() -> XbStream {
        XbStream {
            state: State::Head,
            head: Vec::new(),
            path: String::new(),
            crc: Hasher::new(),
            open: HashMap::new(),
            at: 0,
        }
    }
}

impl XbStream {
    /// Takes bytes from the front of `input`. After an error nothing more can be read.
    pub fn next<'s, 'i>(&'s mut self, input: &mut &'i [u8]) -> Result<Event<'s, 'i>, Error> {
        loop {
            match self.state {
                State::Payload { left, checksum, begun } if left > 0 || !begun => {
                    let n = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    if n == 0 && left > 0 {
                        return Ok(Event::More);
                    }
                    let (bytes, rest) = input.split_at(n);
                    *input = rest;
                    self.took(bytes, left, checksum)?;
                    return Ok(Event::Data { path: &self.path, bytes });
                }
                State::Payload { .. } => self.state = State::Head,
                State::Head => {
                    let missing = self.head_missing()?;
                    if missing == 0 {
                        if self.begin_chunk()? {
                            return Ok(Event::End { path: &self.path });
                        }
                        continue;
                    }
                    if input.is_empty() {
                        return Ok(Event::More);
                    }
                    let (bytes, rest) = input.split_at(missing.min(input.len()));
                    *input = rest;
                    self.at += bytes.len() as u64;
                    self.head.extend_from_slice(bytes);
                }
            }
        }
    }

    /// After the last byte: fails unless every chunk and every file ended.
    pub fn finish(&self) -> Result<(), Error> {
        let whole = matches!(self.state, State::Head | State::Payload { left: 0, begun: true, .. });
        if !whole || !self.head.is_empty() {
            let what = if self.path.is_empty() { "its first chunk" } else { &self.path };
            return Err(Error::CutOff(what.to_owned()));
        }
        match self.open.keys().min() {
            Some(path) => Err(Error::CutOff(path.clone())),
            None => Ok(()),
        }
    }

    fn took(&mut self, bytes: &[u8], left: u64, checksum: u32) -> Result<(), Error> {
        let n = bytes.len() as u64;
        self.crc.update(bytes);
        self.at += n;
        *self.open.get_mut(&self.path).expect("a chunk opens its file") += n;
        self.state = State::Payload { left: left - n, checksum, begun: true };
        if left == n && std::mem::take(&mut self.crc).finalize() != checksum {
            return Err(Error::Checksum { path: self.path.clone(), at: self.at });
        }
        Ok(())
    }

    /// How many bytes the head of this chunk still needs, as far as can be told.
    fn head_missing(&self) -> Result<usize, Error> {
        let begin = self.at - self.head.len() as u64;
        let (magic, rest) = self.head.split_at(self.head.len().min(MAGIC.len()));
        if !MAGIC.starts_with(magic) {
            return Err(Error::NoChunk { at: begin });
        }
        let [_flags, kind, length @ ..] = rest else { return Ok(HEAD_BYTES - self.head.len()) };
        let Ok(length) = <[u8; 4]>::try_from(length.get(..4).unwrap_or_default()) else {
            return Ok(HEAD_BYTES - self.head.len());
        };
        let path = u32::from_le_bytes(length) as usize;
        if path == 0 || path > PATH_BYTES_MAX {
            return Err(Error::BadPath { at: begin });
        }
        let whole = match kind {
            b'P' => HEAD_BYTES + path + PAYLOAD_HEAD_BYTES,
            b'E' => HEAD_BYTES + path,
            kind => return Err(Error::UnknownKind { at: begin, kind: char::from(*kind) }),
        };
        Ok(whole - self.head.len())
    }

    /// The head is whole. True if it was the end of its file.
    fn begin_chunk(&mut self) -> Result<bool, Error> {
        let head = std::mem::take(&mut self.head);
        let begin = self.at - head.len() as u64;
        let tail = if head[9] == b'E' { 0 } else { PAYLOAD_HEAD_BYTES };
        let (path, numbers) = head[HEAD_BYTES..].split_at(head.len() - HEAD_BYTES - tail);
        let path = std::str::from_utf8(path).map_err(|_| Error::BadPath { at: begin })?;
        path.clone_into(&mut self.path);
        if head[9] == b'E' {
            self.open.remove(path);
            return Ok(true);
        }
        let number =
            |at: usize| numbers.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let (left, offset) = (number(0), number(8));
        let checksum = numbers.get(16..).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
        let open = self.open.len();
        let expected = match self.open.get(path) {
            Some(received) => *received,
            None if open >= OPEN_FILES_MAX => return Err(Error::TooManyOpen),
            None => *self.open.entry(path.to_owned()).or_insert(0),
        };
        if offset != expected {
            return Err(Error::Gap { path: path.to_owned(), expected, found: offset });
        }
        self.state = State::Payload { left, checksum, begun: false };
        self.crc = Hasher::new();
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(kind: u8, path: &str) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([0, kind]);
        out.extend((path.len() as u32).to_le_bytes());
        out.extend(path.as_bytes());
        out
    }

    fn chunk(path: &str, offset: u64, bytes: &[u8]) -> Vec<u8> {
        let mut out = head(b'P', path);
        out.extend((bytes.len() as u64).to_le_bytes());
        out.extend(offset.to_le_bytes());
        out.extend(crc32fast::hash(bytes).to_le_bytes());
        out.extend(bytes);
        out
    }

    /// Two files, interleaved, and an empty one.
    fn sample() -> Vec<u8> {
        let parts = [
            chunk("a/b.ibd", 0, b"one"),
            chunk("c", 0, &[7; 300]),
            chunk("a/b.ibd", 3, b"two"),
            head(b'E', "a/b.ibd"),
            chunk("d", 0, b""),
            head(b'E', "c"),
            head(b'E', "d"),
            head(b'E', "e"),
        ];
        parts.concat()
    }

    /// Contents of the files, in the order of their ends.
    fn read(stream: &[u8], step: usize) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let (mut parser, mut open, mut ended) = (XbStream::default(), HashMap::new(), Vec::new());
        for mut input in stream.chunks(step) {
            loop {
                match parser.next(&mut input)? {
                    Event::More => break,
                    Event::Data { path, bytes } => {
                        open.entry(path.to_owned()).or_insert_with(Vec::new).extend_from_slice(bytes);
                    }
                    Event::End { path } => {
                        ended.push((path.to_owned(), open.remove(path).unwrap_or_default()))
                    }
                }
            }
            assert!(input.is_empty());
        }
        parser.finish().map(|()| ended)
    }

    #[test]
    fn files_come_out_whole_however_the_bytes_come() {
        let whole = read(&sample(), usize::MAX).unwrap();
        let expected = [("a/b.ibd", b"onetwo".to_vec()), ("c", vec![7; 300]), ("d", vec![]), ("e", vec![])];
        assert_eq!(whole, expected.map(|(p, b)| (p.to_owned(), b)));
        for step in 1..50 {
            assert_eq!(read(&sample(), step).unwrap(), whole, "{step}");
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let stream = sample();
        let ends: Vec<usize> = (0..stream.len()).filter(|cut| read(&stream[..*cut], 64).is_ok()).collect();
        // Nothing, and before each of the two ends that no content needs, no file is open.
        assert_eq!(ends, [0, stream.len() - 15], "{ends:?}");
        let gap = [chunk("a", 0, b"xyz"), chunk("a", 4, b"z")].concat();
        assert_eq!(read(&gap, 9), Err(Error::Gap { path: "a".into(), expected: 3, found: 4 }));
        let mut bent = chunk("a", 0, b"xyz");
        *bent.last_mut().unwrap() ^= 1;
        assert!(matches!(read(&bent, 9), Err(Error::Checksum { .. })));
        for kind in *b"SRDX\0" {
            assert!(matches!(read(&head(kind, "a"), 9), Err(Error::UnknownKind { at: 0, .. })));
        }
        assert!(matches!(read(&head(b'E', ""), 9), Err(Error::BadPath { .. })));
        assert!(matches!(read(&head(b'E', &"x".repeat(513)), 9), Err(Error::BadPath { .. })));
        assert!(matches!(read(b"XBSTCK02", 9), Err(Error::NoChunk { at: 0 })));
        let many: Vec<u8> = (0..=OPEN_FILES_MAX).flat_map(|n| chunk(&n.to_string(), 0, b"")).collect();
        assert_eq!(read(&many, 1 << 20), Err(Error::TooManyOpen));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), step in 1usize..64) {
            let _ = read(&bytes, step);
        }
        #[test]
        fn damage_is_found_or_does_not_matter(at in any::<prop::sample::Index>(), bit in 0u32..8, step in 1usize..400) {
            let mut stream = sample();
            let at = at.index(stream.len());
            stream[at] ^= 1 << bit;
            // What the format does not check: flags, and the names of files.
            if let Ok(files) = read(&stream, step) {
                let contents: usize = files.iter().map(|(_, b)| b.len()).sum();
                prop_assert_eq!(contents, 306);
            }
        }
    }
}
