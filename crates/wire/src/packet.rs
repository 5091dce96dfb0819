//! Framing: a packet is one or more frames, each a 3-byte length, a sequence number and that many bytes. A frame of
//! exactly 2^24−1 bytes is continued by the next, which may be empty.

/// Bytes before each frame's payload.
pub const HEADER_BYTES: usize = 4;
/// Payload bytes of a frame that says "the packet goes on in the next frame".
pub const FRAME_BYTES_MAX: usize = 0xFF_FFFF;

/// What stands before a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Payload bytes, at most [`FRAME_BYTES_MAX`].
    pub len: usize,
    /// 0 for the first frame of a command, then counted up by both sides in turn.
    pub seq: u8,
}

impl Header {
    /// Reads a header if four bytes are there.
    #[inline]
    pub fn read(bytes: &[u8]) -> Option<Header> {
        let [a, b, c, seq] = *bytes.first_chunk::<HEADER_BYTES>()?;
        Some(Header { len: usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16, seq })
    }
    /// The four bytes. `len` is masked to its 24 bits.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, ..] = (self.len as u32).to_le_bytes();
        [a, b, c, self.seq]
    }
    /// True if the packet goes on in another frame.
    #[inline]
    pub fn continues(self) -> bool {
        self.len == FRAME_BYTES_MAX
    }
}

/// Appends `payload` as a packet whose first frame has number `seq`; returns the number that comes next.
pub fn put(out: &mut Vec<u8>, mut seq: u8, payload: &[u8]) -> u8 {
    let mut rest = payload;
    loop {
        let (frame, tail) = rest.split_at(rest.len().min(FRAME_BYTES_MAX));
        out.extend_from_slice(&Header { len: frame.len(), seq }.to_bytes());
        out.extend_from_slice(frame);
        seq = seq.wrapping_add(1);
        rest = tail;
        if frame.len() < FRAME_BYTES_MAX {
            return seq;
        }
    }
}

/// A whole packet that fits one frame, at the start of `bytes`: its header and payload. `None` if more bytes are
/// needed or the packet is continued.
pub fn whole(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let header = Header::read(bytes)?;
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + header.len)?;
    (!header.continues()).then_some((header, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_of_a_full_frame_is_followed_by_an_empty_one() {
        let mut out = Vec::new();
        assert_eq!(put(&mut out, 255, &vec![7; FRAME_BYTES_MAX]), 1);
        assert_eq!(Header::read(&out), Some(Header { len: FRAME_BYTES_MAX, seq: 255 }));
        assert_eq!(Header::read(&out[HEADER_BYTES + FRAME_BYTES_MAX..]), Some(Header { len: 0, seq: 0 }));
    }

    #[test]
    fn a_small_packet_is_one_frame() {
        let mut out = Vec::new();
        assert_eq!(put(&mut out, 3, b"abc"), 4);
        assert_eq!(out, b"\x03\0\0\x03abc");
        assert_eq!(whole(&out), Some((Header { len: 3, seq: 3 }, &b"abc"[..])));
        assert_eq!(whole(&out[..6]), None);
        assert_eq!(Header::read(&out[..3]), None);
    }
}
