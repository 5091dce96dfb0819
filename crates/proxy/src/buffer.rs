//! A growing byte queue for one session: filled at the end, taken from the front. Keeps no memory while empty and
//! idle, so that an idle session costs little.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// What an idle session keeps.
const KEEP_BYTES: usize = 4 << 10;
/// What is asked for at once.
const READ_BYTES: usize = 4 << 10;
/// What is asked for at once while a long packet streams through.
const STREAM_BYTES: usize = 64 << 10;

/// See the file's contract.
#[derive(Debug, Default)]
pub struct Buffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }
    pub fn len(&self) -> usize {
        self.end - self.start
    }
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
    /// Takes `n` bytes off the front.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
    /// Gives memory back if little is in use.
    pub fn shrink(&mut self) {
        if self.is_empty() && self.data.len() > KEEP_BYTES {
            *self = Buffer::default();
        }
    }
    /// Puts `extra` in at `at` bytes from the front.
    pub fn insert(&mut self, at: usize, extra: &[u8]) {
        self.splice(at..at, extra);
    }
    /// Puts `new` in the place of what is at `at`, counted from the front.
    pub fn splice(&mut self, at: std::ops::Range<usize>, new: &[u8]) {
        let at = (self.start + at.start).min(self.end)..(self.start + at.end).min(self.end);
        self.data.truncate(self.end);
        self.data.splice(at, new.iter().copied());
        self.end = self.data.len();
    }
    pub fn extend(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.data[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    fn make_room(&mut self, n: usize) {
        if self.data.len() - self.end >= n {
            return;
        }
        if self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.data.len() - self.end < n {
            // Doubling: a packet that arrives in pieces is not copied once per piece.
            let len = (self.end + n).max((self.data.len() * 2).min(self.data.len() + STREAM_BYTES));
            self.data.resize(len, 0);
        }
    }

    /// Reads once from `from`; how many bytes came, 0 at the end of the stream. `streaming` asks for more at once.
    pub fn poll_fill<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        streaming: bool,
    ) -> Poll<std::io::Result<usize>> {
        self.make_room(if streaming {
            STREAM_BYTES
        } else {
            READ_BYTES.min(KEEP_BYTES - self.len().min(KEEP_BYTES / 2))
        });
        let mut into = ReadBuf::new(&mut self.data[self.end..]);
        ready!(Pin::new(from).poll_read(cx, &mut into))?;
        let n = into.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut b = Buffer::default();
        b.extend(b"hello");
        b.consume(2);
        b.extend(&[b'x'; 10_000]);
        b.insert(3, b"--");
        assert_eq!(&b.bytes()[..6], b"llo--x");
        assert_eq!(b.len(), 10_005);
        b.consume(10_005);
        b.shrink();
        assert_eq!((b.data.capacity(), b.len()), (0, 0));
    }
}
