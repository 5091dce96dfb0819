//! The decimal number that ends a header line, digit by digit.

/// A number that has not ended yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Number {
    value: u64,
    digits: u8,
    negative: bool,
    /// The carriage return was there: the line feed is all that is missing.
    ending: bool,
}

/// What one byte did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digit {
    More,
    /// The line is over. Negative numbers all mean "none".
    End(Option<u64>),
    Bad,
}

/// More digits than any length has.
const DIGITS_MAX: u8 = 18;

impl Number {
    pub fn push(&mut self, byte: u8) -> Digit {
        match byte {
            b'0'..=b'9' if !self.ending && self.digits < DIGITS_MAX => {
                self.value = self.value * 10 + u64::from(byte - b'0');
                self.digits += 1;
                Digit::More
            }
            b'-' if !self.ending && self.digits == 0 && !self.negative => {
                self.negative = true;
                Digit::More
            }
            b'\r' if !self.ending && self.digits > 0 => {
                self.ending = true;
                Digit::More
            }
            b'\n' if self.ending => Digit::End((!self.negative).then_some(self.value)),
            _ => Digit::Bad,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Digit {
        let mut number = Number::default();
        text.iter().fold(Digit::More, |last, byte| match last {
            Digit::More => number.push(*byte),
            over => over,
        })
    }

    #[test]
    fn numbers_end_with_their_line() {
        assert_eq!(read(b"0\r\n"), Digit::End(Some(0)));
        assert_eq!(read(b"536870912\r\n"), Digit::End(Some(536_870_912)));
        assert_eq!(read(b"-1\r\n"), Digit::End(None));
        assert_eq!(read(b"12\r"), Digit::More);
        for bad in
            [&b"\r\n"[..], b"-\r\n", b"--1\r\n", b"+1\r\n", b"1\n", b"1\rx", b"1x", b"1234567890123456789"]
        {
            assert_eq!(read(bad), Digit::Bad, "{}", bad.escape_ascii());
        }
    }
}
