//! Commands as a person types them: words on a line, with quotes.

use crate::resp::Error;

/// The words of a line, as engines split it: blanks separate, `"…"` knows escapes, `'…'` only `\'`. A quote must be
/// followed by a blank or the end.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii();
    while !rest.is_empty() {
        let (word, tail) = word(rest)?;
        words.push(word);
        rest = tail.trim_ascii_start();
    }
    Ok(words)
}

fn word(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), Error> {
    let mut word = Vec::new();
    while let Some((first, tail)) = rest.split_first() {
        match first {
            quote @ (b'"' | b'\'') => {
                let tail = quoted(*quote, tail, &mut word)?;
                return match tail.first() {
                    Some(next) if !next.is_ascii_whitespace() => Err(Error::Quotes),
                    _ => Ok((word, tail)),
                };
            }
            blank if blank.is_ascii_whitespace() => break,
            other => word.push(*other),
        }
        rest = tail;
    }
    Ok((word, rest))
}

/// Reads up to the closing quote; what follows it.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Error> {
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, tail @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex(*high) << 4 | hex(*low));
                tail
            }
            [b'\\', escaped, tail @ ..] if quote == b'"' => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                tail
            }
            [b'\\', b'\'', tail @ ..] if quote == b'\'' => {
                word.push(b'\'');
                tail
            }
            [end, tail @ ..] if *end == quote => return Ok(tail),
            [other, tail @ ..] => {
                word.push(*other);
                tail
            }
            [] => return Err(Error::Quotes),
        };
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        letter => (letter | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<String>, Error> {
        Ok(split(line.as_bytes())?.iter().map(|w| w.escape_ascii().to_string()).collect())
    }

    #[test]
    fn lines_are_split_as_engines_do() {
        assert_eq!(words("\r\n").unwrap(), [""; 0]);
        assert_eq!(words("  SET  k v \r\n").unwrap(), ["SET", "k", "v"]);
        assert_eq!(words(r#"SET "a b\x41\n" 'it\'s \n'"#).unwrap(), ["SET", r"a bA\n", r"it\'s \\n"]);
        assert_eq!(words(r#"a"b" """#).unwrap(), ["ab", ""]);
        for bad in [r#"GET "a"#, r"GET 'a", r#"GET "a"b"#, r#"GET "a\"#] {
            assert_eq!(words(bad), Err(Error::Quotes), "{bad}");
        }
    }
}
