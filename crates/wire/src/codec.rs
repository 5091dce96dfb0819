//! Integers and strings as the MySQL protocol writes them: little endian, length-encoded, NUL-terminated.
//! Reading never copies and never panics; a length that points past the end is an error.

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the packet ends inside {0}")]
    Truncated(&'static str),
    #[error("{what} has the value {value}, which the protocol does not allow")]
    Value { what: &'static str, value: u64 },
    #[error("protocol version {0} is not 10")]
    Version(u8),
    #[error("the peer does not speak the 4.1 protocol")]
    Old,
}

/// A cursor over one packet's payload.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }
    /// Everything not yet read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Error> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Error::Truncated(what))?;
        self.rest = tail;
        Ok(head)
    }
    fn int<const N: usize>(&mut self, what: &'static str) -> Result<u64, Error> {
        let mut le = [0u8; 8];
        le[..N].copy_from_slice(self.bytes(N, what)?);
        Ok(u64::from_le_bytes(le))
    }
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Error> {
        Ok(self.int::<1>(what)? as u8)
    }
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Error> {
        Ok(self.int::<2>(what)? as u16)
    }
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        Ok(self.int::<4>(what)? as u32)
    }
    /// The MySQL log's times.
    pub fn u56(&mut self, what: &'static str) -> Result<u64, Error> {
        self.int::<7>(what)
    }
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Error> {
        self.int::<8>(what)
    }
    /// A length-encoded integer. 0xFB (NULL) and 0xFF (ERR) are not integers.
    pub fn lenenc(&mut self, what: &'static str) -> Result<u64, Error> {
        match self.u8(what)? {
            value @ (0xFB | 0xFF) => Err(Error::Value { what, value: value.into() }),
            0xFC => self.int::<2>(what),
            0xFD => self.int::<3>(what),
            0xFE => self.int::<8>(what),
            small => Ok(small.into()),
        }
    }
    /// A string behind its length-encoded length.
    pub fn lenenc_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let len = usize::try_from(self.lenenc(what)?).map_err(|_| Error::Truncated(what))?;
        self.bytes(len, what)
    }
    /// A string up to its NUL, which is consumed and left out.
    pub fn nul_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Error> {
        let at = self.rest.iter().position(|b| *b == 0).ok_or(Error::Truncated(what))?;
        let (head, tail) = self.rest.split_at(at);
        self.rest = &tail[1..];
        Ok(head)
    }
}

/// Appends a length-encoded integer.
pub fn put_lenenc(out: &mut Vec<u8>, value: u64) {
    let le = value.to_le_bytes();
    match value {
        0..=0xFA => out.push(le[0]),
        0xFB..=0xFFFF => {
            out.push(0xFC);
            out.extend_from_slice(&le[..2]);
        }
        0x1_0000..=0xFF_FFFF => {
            out.push(0xFD);
            out.extend_from_slice(&le[..3]);
        }
        _ => {
            out.push(0xFE);
            out.extend_from_slice(&le);
        }
    }
}

/// Appends a string behind its length-encoded length.
pub fn put_lenenc_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_lenenc(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a NUL-terminated string; a NUL inside ends it early, as the peer would read it.
pub fn put_nul_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    out.extend_from_slice(&bytes[..end]);
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lenenc_round_trips(value: u64, tail: Vec<u8>) {
            let mut out = Vec::new();
            put_lenenc(&mut out, value);
            out.extend_from_slice(&tail);
            let mut r = Reader::new(&out);
            prop_assert_eq!(r.lenenc("value").unwrap(), value);
            prop_assert_eq!(r.rest(), &tail[..]);
        }
    }

    #[test]
    fn a_length_past_the_end_is_an_error() {
        assert_eq!(Reader::new(&[5, 1]).lenenc_bytes("name"), Err(Error::Truncated("name")));
        assert_eq!(
            Reader::new(&[0xFE, 255, 255, 255, 255, 255, 255, 255, 255]).lenenc_bytes("x"),
            Err(Error::Truncated("x"))
        );
        assert_eq!(Reader::new(&[0xFB]).lenenc("x"), Err(Error::Value { what: "x", value: 0xFB }));
        assert_eq!(Reader::new(b"abc").nul_bytes("x"), Err(Error::Truncated("x")));
    }
}
