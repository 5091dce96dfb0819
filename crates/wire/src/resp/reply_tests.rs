//! Replies of every type, whole and in pieces.

use super::*;
use proptest::prelude::*;

/// All replies in `bytes`, fed in pieces: their ends and frames.
fn scan(bytes: &[u8], piece: usize) -> Result<Vec<(usize, Frame)>, Error> {
    let (mut scanner, mut found) = (Scanner::default(), Vec::new());
    let (mut at, mut to) = (0, 0);
    while at < bytes.len() {
        to = to.max((at + piece).min(bytes.len()));
        let (taken, frame) = scanner.feed(&bytes[at..to])?;
        at += taken;
        if let Some(frame) = frame {
            assert!(scanner.is_between());
            found.push((at, frame));
        } else {
            assert_eq!(at, to, "all is taken");
        }
    }
    Ok(found)
}

/// Kind, head and nullness of each reply.
fn check(bytes: &[u8], expected: &[(char, &str, bool)]) {
    let whole = scan(bytes, bytes.len()).unwrap();
    let read: Vec<_> = whole
        .iter()
        .map(|(_, f)| (char::from(f.kind), std::str::from_utf8(f.head.bytes()).unwrap(), f.is_null))
        .collect();
    assert_eq!(read, expected);
    assert_eq!(whole.last().map(|(end, _)| *end), Some(bytes.len()));
    for piece in 1..bytes.len() {
        assert_eq!(scan(bytes, piece).unwrap(), whole, "in pieces of {piece}");
    }
}

#[test]
fn the_second_version() {
    check(
        b"+OK\r\n-ERR no\r\n:-12\r\n$3\r\na\r\n\r\n$-1\r\n$0\r\n\r\n*0\r\n*-1\r\n*2\r\n$7\r\nmessage\r\n*2\r\n:1\r\n$-1\r\n+\r\n",
        &[
            ('+', "OK", false),
            ('-', "ERR no", false),
            (':', "-12", false),
            ('$', "", false),
            ('$', "", true),
            ('$', "", false),
            ('*', "", false),
            ('*', "", true),
            ('*', "message", false),
            ('+', "", false),
        ],
    );
}

#[test]
fn the_third_version() {
    check(
        b"_\r\n#t\r\n,1.5\r\n(12345678901234567890123\r\n!5\r\nERR x\r\n=7\r\ntxt:abc\r\n%2\r\n+a\r\n:1\r\n+b\r\n%1\r\n+c\r\n_\r\n~1\r\n+x\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n",
        &[
            ('_', "", true),
            ('#', "", false),
            (',', "", false),
            ('(', "", false),
            ('!', "", false),
            ('=', "", false),
            ('%', "", false),
            ('~', "", false),
            ('>', "invalidate", false),
        ],
    );
}

#[test]
fn attributes_come_before_what_they_are_of() {
    check(
        b"|1\r\n+ttl\r\n*2\r\n:1\r\n$-1\r\n|1\r\n+a\r\n|1\r\n+b\r\n:0\r\n:1\r\n:42\r\n*1\r\n|1\r\n+in\r\n*-1\r\n+first\r\n",
        &[(':', "42", false), ('*', "", false)],
    );
}

#[test]
fn heads_are_bounded() {
    let mut bytes = vec![b'-'];
    bytes.extend([b'e'; 1_000]);
    bytes.extend(b"\r\n");
    let frame = scan(&bytes, 7).unwrap()[0].1;
    assert_eq!(frame.head.bytes(), [b'e'; HEAD_BYTES]);
    let integer = scan(b":-42\r\n", 1).unwrap()[0].1;
    assert_eq!(integer.head.number(), Some(-42));
}

#[test]
fn what_is_no_reply_is_an_error() {
    for (bytes, error) in [
        (&b"hello\r\n"[..], Error::ReplyType(b'h')),
        (b"$?\r\n;3\r\nabc\r\n", Error::ReplyLength),
        (b"*?\r\n", Error::ReplyLength),
        (b"$1234567890123456789\r\n", Error::ReplyLength),
        (b"*1\r\n\r\n", Error::ReplyType(b'\r')),
    ] {
        assert_eq!(scan(bytes, bytes.len()), Err(error));
        assert_eq!(scan(bytes, 1), Err(error));
    }
    // However much is announced, nothing is kept and nothing overflows.
    let huge = b"*999999999999999999\r\n".repeat(50);
    assert_eq!(scan(&huge, huge.len()), Err(Error::ReplyLength));
}

#[derive(Debug, Clone)]
enum Value {
    Line(u8, Vec<u8>),
    Text(u8, Vec<u8>),
    Null,
    Many(u8, Vec<Value>),
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Line(kind, text) => {
                out.push(*kind);
                out.extend(text);
                out.extend(b"\r\n");
            }
            Value::Text(kind, text) => {
                crate::resp::put_header(out, *kind, text.len());
                out.extend(text);
                out.extend(b"\r\n");
            }
            Value::Null => out.extend(b"$-1\r\n"),
            Value::Many(kind, values) => {
                let of_pairs = *kind == b'%';
                crate::resp::put_header(out, *kind, values.len());
                for value in values {
                    value.write(out);
                    if of_pairs {
                        out.extend(b"+second\r\n");
                    }
                }
            }
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let text = || proptest::collection::vec(any::<u8>(), 0..20);
    let line = proptest::collection::vec(b' '..b'~', 0..20);
    let leaf = prop_oneof![
        (proptest::sample::select(&b"+-:_#,("[..]), line).prop_map(|(k, t)| Value::Line(k, t)),
        (proptest::sample::select(&b"$!="[..]), text()).prop_map(|(k, t)| Value::Text(k, t)),
        Just(Value::Null),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        (proptest::sample::select(&b"*~%>"[..]), proptest::collection::vec(inner, 0..5))
            .prop_map(|(k, v)| Value::Many(k, v))
    })
}

proptest! {
    #[test]
    fn what_was_written_ends_there(values in proptest::collection::vec(value(), 1..5), piece in 1usize..40) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for value in &values {
            value.write(&mut bytes);
            ends.push(bytes.len());
        }
        let found = scan(&bytes, piece).unwrap();
        prop_assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), ends);
        prop_assert_eq!(found, scan(&bytes, bytes.len()).unwrap());
    }

    #[test]
    fn pieces_do_not_matter(bytes in proptest::collection::vec(
        prop_oneof![proptest::sample::select(&b"+-:$*%~>|_\r\n0123"[..]), any::<u8>()], 0..60), piece in 1usize..20,
    ) {
        prop_assert_eq!(scan(&bytes, piece), scan(&bytes, bytes.len().max(1)));
    }
}
