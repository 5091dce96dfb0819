//! RESP, the protocol of Redis and Valkey, versions 2 and 3: where a command ends, where a reply ends, and how both are
//! written.
//!
//! Guarantees: both scanners take bytes in any pieces, keep none of them, and need the same few words of memory for a
//! reply of a terabyte as for `+OK`; what they hold to be one command is what the engine holds to be one command.
//! Deliberately absent: what a command does. Streamed aggregates and strings (`*?`, `$?`), which no engine sends, are
//! refused.

pub mod command;
pub mod inline;
pub mod reply;
pub mod value;

mod number;

/// Why bytes are not RESP. The texts are what engines say, after `Protocol error: `.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("invalid multibulk length")]
    Count,
    #[error("invalid bulk length")]
    Length,
    #[error("expected '$', got '{}'", char::from(*.0).escape_default())]
    NotBulk(u8),
    #[error("too big inline request")]
    InlineTooLong,
    #[error("unbalanced quotes in request")]
    Quotes,
    #[error("unknown reply type '{}'", char::from(*.0).escape_default())]
    ReplyType(u8),
    #[error("invalid length in a reply")]
    ReplyLength,
}

/// Appends a command.
pub fn put_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    put_header(out, b'*', args.len());
    args.iter().for_each(|arg| put_bulk(out, arg));
}

/// Appends a bulk string.
pub fn put_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    put_header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends an error. Line breaks in it become blanks: they would end it.
pub fn put_error(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'-');
    out.extend(text.iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }));
    out.extend_from_slice(b"\r\n");
}

/// Appends the first line of an aggregate or a bulk string.
pub fn put_header(out: &mut Vec<u8>, kind: u8, n: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut n = n;
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_the_protocol_wants_it() {
        let mut out = Vec::new();
        put_command(&mut out, &[b"SET", b"", b"0123456789"]);
        put_error(&mut out, b"ERR two\r\nlines");
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$10\r\n0123456789\r\n-ERR two  lines\r\n");
    }
}
