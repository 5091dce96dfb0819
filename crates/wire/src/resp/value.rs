//! A reply of RESP2 as a value, for who wants to know what it says.
//!
//! Guarantees: bounded in depth; bytes that are no whole reply are an error.
//! Deliberately absent: RESP3, which nobody gets who does not ask for it.

use super::Error;
use super::reply::Scanner;

/// Replies are not nested deeper.
const DEPTH_MAX: usize = 16;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Simple(String),
    /// The engine's own words, the code first: `ERR …`, `LOADING …`.
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Value>),
}

impl Value {
    /// The first reply in `bytes` and how long it is; `None` if it has not ended yet. `scanner` follows it over several
    /// calls: `seen` bytes went by it before.
    pub fn next(
        scanner: &mut Scanner,
        seen: &mut usize,
        bytes: &[u8],
    ) -> Result<Option<(Value, usize)>, Error> {
        let (n, frame) = scanner.feed(&bytes[*seen..])?;
        *seen += n;
        if frame.is_none() {
            return Ok(None);
        }
        let end = std::mem::take(seen);
        let (value, rest) = value(&bytes[..end], DEPTH_MAX)?;
        if rest.is_empty() { Ok(Some((value, end))) } else { Err(Error::ReplyLength) }
    }

    /// What a string, a status or a number says.
    pub fn text(&self) -> Option<String> {
        match self {
            Value::Simple(text) => Some(text.clone()),
            Value::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Value::Int(n) => Some(n.to_string()),
            Value::Error(_) | Value::Nil | Value::Array(_) => None,
        }
    }
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }
    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }
    /// The parts of an array; of anything else, none.
    pub fn items(&self) -> &[Value] {
        match self {
            Value::Array(items) => items,
            _ => &[],
        }
    }
}

fn value(bytes: &[u8], depth: usize) -> Result<(Value, &[u8]), Error> {
    let depth = depth.checked_sub(1).ok_or(Error::ReplyLength)?;
    let end = bytes.windows(2).position(|w| w == b"\r\n").ok_or(Error::ReplyLength)?;
    let (head, rest) = (&bytes[..end], &bytes[end + 2..]);
    let (kind, line) = head.split_first().ok_or(Error::ReplyLength)?;
    let text = || String::from_utf8_lossy(line).into_owned();
    let number =
        || std::str::from_utf8(line).ok().and_then(|t| t.parse::<i64>().ok()).ok_or(Error::ReplyLength);
    match kind {
        b'+' => Ok((Value::Simple(text()), rest)),
        b'-' => Ok((Value::Error(text()), rest)),
        b':' => Ok((Value::Int(number()?), rest)),
        b'$' | b'*' if number()? < 0 => Ok((Value::Nil, rest)),
        b'$' => {
            let len = usize::try_from(number()?).map_err(|_| Error::ReplyLength)?;
            let string = rest.get(..len).ok_or(Error::ReplyLength)?;
            let rest = rest.get(len + 2..).ok_or(Error::ReplyLength)?;
            Ok((Value::Bulk(string.to_vec()), rest))
        }
        b'*' => {
            let (mut items, mut left) = (Vec::new(), rest);
            for _ in 0..number()? {
                let (item, rest) = value(left, depth)?;
                items.push(item);
                left = rest;
            }
            Ok((Value::Array(items), left))
        }
        other => Err(Error::ReplyType(*other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Option<(Value, usize)>, Error> {
        Value::next(&mut Scanner::default(), &mut 0, bytes)
    }

    #[test]
    fn all_kinds_are_read() {
        let bytes = b"*6\r\n+OK\r\n-ERR no\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n*1\r\n*-1\r\n+next\r\n";
        let (value, end) = read(bytes).unwrap().unwrap();
        let all = vec![
            Value::Simple("OK".into()),
            Value::Error("ERR no".into()),
            Value::Int(-7),
            Value::Bulk(b"a\r\n".to_vec()),
            Value::Nil,
            Value::Array(vec![Value::Nil]),
        ];
        assert_eq!((value, &bytes[end..]), (Value::Array(all), &b"+next\r\n"[..]));
    }

    #[test]
    fn pieces_are_waited_for_and_read_once() {
        let bytes = b"*2\r\n$5\r\nhello\r\n:1\r\n:2\r\n";
        for cut in 0..19 {
            let (mut scanner, mut seen) = (Scanner::default(), 0);
            assert_eq!(Value::next(&mut scanner, &mut seen, &bytes[..cut]).unwrap(), None, "{cut}");
            let (value, end) = Value::next(&mut scanner, &mut seen, bytes).unwrap().unwrap();
            assert_eq!((value.items().len(), end, seen), (2, 19, 0));
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = [b"*1\r\n".repeat(DEPTH_MAX), b":1\r\n".to_vec()].concat();
        assert!(read(&deep).is_err());
        assert!(read(&deep[4..]).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in proptest::collection::vec(prop_oneof![
            Just(b'*'), Just(b'$'), Just(b'-'), Just(b'1'), Just(b'\r'), Just(b'\n'), any::<u8>()], 0..60)) {
            let _ = read(&bytes);
        }
    }
}
