//! A reply ends at the same place, with the same outcome, however it is cut.
#![no_main]
use holdfast_wire::Capabilities;
use holdfast_wire::tracker::{Event, Outcome, Tracker};
use libfuzzer_sys::fuzz_target;

/// Feeds in pieces; where it ended and how, or `None` for an error.
fn run(command: u8, caps: Capabilities, bytes: &[u8], piece: usize) -> Option<(usize, bool, usize, Outcome)> {
    let mut tracker = Tracker::new(command, caps);
    let (mut from, mut to, mut events) = (0, 0, 0);
    loop {
        let step = tracker.feed(&bytes[from..to]).ok()?;
        assert!(step.consumed <= to - from);
        from += step.consumed;
        match step.event {
            Event::More if to == bytes.len() => return Some((from, false, events, tracker.outcome())),
            Event::More => to = (to + piece).min(bytes.len()),
            Event::Done => return Some((from, true, events, tracker.outcome())),
            _ => events += 1,
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [command, piece, flags, bytes @ ..] = data else { return };
    let mut caps = Capabilities::PROTOCOL_41;
    if flags & 1 != 0 {
        caps = caps.with(Capabilities::DEPRECATE_EOF);
    }
    if flags & 2 != 0 {
        caps = caps.with(Capabilities::MARIADB_PROGRESS);
    }
    let whole = run(*command, caps, bytes, bytes.len().max(1));
    assert_eq!(run(*command, caps, bytes, usize::from(*piece).max(1)), whole);
    assert_eq!(run(*command, caps, bytes, 1), whole);
});
