//! Patterns of `PSUBSCRIBE`: `*`, `?`, `[a-c]`, `[^x]`, `\x`. In time proportional to pattern × text at worst.

/// True if the whole text fits the pattern.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last `*` does not fit: that `*` then takes one byte more.
    let mut again: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            again = Some((p, t));
            continue;
        }
        let fits = match (text.get(t), pattern.get(p)) {
            (None, None) => return true,
            (Some(byte), Some(_)) => one(&pattern[p..], *byte),
            _ => None,
        };
        match (fits, again) {
            (Some(len), _) => (p, t) = (p + len, t + 1),
            (None, Some((after, from))) if from < text.len() => {
                again = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// How long the pattern's first element is, if the byte fits it.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', set @ ..] => {
            let (len, fits) = class(set, byte);
            fits.then_some(len + 1)
        }
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// A `-` before the closing bracket is itself, as people mean it; engines take the bracket for the end of a range.
/// The length of a class without its first bracket, and whether the byte is in it. One that does not end, ends with the
/// pattern.
fn class(set: &[u8], byte: u8) -> (usize, bool) {
    let negated = set.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    while let Some(first) = set.get(at) {
        match (first, set.get(at + 1), set.get(at + 2)) {
            (b']', ..) => return (at + 1, found != negated),
            (b'\\', Some(escaped), _) => {
                found |= *escaped == byte;
                at += 2;
            }
            (low, Some(b'-'), Some(high)) if *high != b']' => {
                found |= (*low.min(high)..=*low.max(high)).contains(&byte);
                at += 3;
            }
            (single, ..) => {
                found |= *single == byte;
                at += 1;
            }
        }
    }
    (set.len(), found != negated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_engines_match() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("*", "+switch-master", true),
            ("", "x", false),
            ("+s*r", "+switch-master", true),
            ("+s*z", "+switch-master", false),
            ("*-*-*", "a-b", false),
            ("?sdown", "+sdown", true),
            ("?sdown", "sdown", false),
            ("[+-]sdown", "-sdown", true),
            ("[^+]sdown", "+sdown", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("\\*x", "*x", true),
            ("\\*x", "yx", false),
            ("[", "a", false),
            ("[a", "a", true),
            ("a\\", "a\\", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = b"*a".repeat(2_000);
        assert!(!matches(&pattern, &[b'a'; 1_999]));
    }

    proptest! {
        #[test]
        fn anything_is_matched_or_not(
            pattern in proptest::collection::vec(prop_oneof![
                Just(b'*'), Just(b'['), Just(b']'), Just(b'\\'), Just(b'-'), Just(b'^'), b'a'..b'd'], 0..20),
            text in proptest::collection::vec(b'a'..b'd', 0..20),
        ) {
            matches(&pattern, &text);
            let escaped: Vec<u8> = text.iter().flat_map(|b| [b'\\', *b]).collect();
            prop_assert!(matches(&escaped, &text));
        }
    }
}
