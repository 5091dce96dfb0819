//! A command ends at the same place, with the same arguments, however it is cut.
#![no_main]
use holdfast_wire::resp::command::{Args, Bounds, Kind, Scanner};
use holdfast_wire::resp::inline;
use libfuzzer_sys::fuzz_target;

const BOUNDS: Bounds = Bounds { args: 1_000, arg_bytes: 1 << 20, inline_bytes: 1 << 10 };

/// Feeds in pieces; where each command ended, or `None` for an error.
fn run(bytes: &[u8], piece: usize) -> Option<Vec<(usize, Kind)>> {
    let (mut scanner, mut found, mut begin) = (Scanner::default(), Vec::new(), 0);
    let (mut at, mut to) = (0, 0);
    while at < bytes.len() {
        to = to.max((at + piece).min(bytes.len()));
        let (taken, kind) = scanner.feed(&bytes[at..to], &BOUNDS).ok()?;
        assert!(taken <= to - at);
        at += taken;
        if let Some(kind) = kind {
            let command = &bytes[begin..at];
            match kind {
                Kind::Array => {
                    let name = command.get(scanner.name());
                    assert_eq!(Args::of(command).next(), name);
                }
                Kind::Inline => drop(inline::split(command)),
                Kind::Nothing => {}
            }
            found.push((at, kind));
            begin = at;
        }
    }
    Some(found)
}

fuzz_target!(|data: &[u8]| {
    let [piece, bytes @ ..] = data else { return };
    let whole = run(bytes, bytes.len().max(1));
    assert_eq!(run(bytes, usize::from(*piece).max(1)), whole);
    assert_eq!(run(bytes, 1), whole);
    Args::of(bytes).for_each(drop);
});
