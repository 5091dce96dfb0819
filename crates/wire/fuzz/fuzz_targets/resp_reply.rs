//! A reply ends at the same place however it is cut, and every byte up to there is taken.
#![no_main]
use holdfast_wire::resp::reply::{Frame, Scanner};
use libfuzzer_sys::fuzz_target;

/// Feeds in pieces; where each reply ended and what it was, or `None` for an error.
fn run(bytes: &[u8], piece: usize) -> Option<Vec<(usize, Frame)>> {
    let (mut scanner, mut found) = (Scanner::default(), Vec::new());
    let (mut at, mut to) = (0, 0);
    while at < bytes.len() {
        to = to.max((at + piece).min(bytes.len()));
        let (taken, frame) = scanner.feed(&bytes[at..to]).ok()?;
        at += taken;
        match frame {
            Some(frame) => found.push((at, frame)),
            None => assert_eq!(at, to),
        }
    }
    Some(found)
}

fuzz_target!(|data: &[u8]| {
    let [piece, bytes @ ..] = data else { return };
    let whole = run(bytes, bytes.len().max(1));
    assert_eq!(run(bytes, usize::from(*piece).max(1)), whole);
    assert_eq!(run(bytes, 1), whole);
});
