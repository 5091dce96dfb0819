//! Any bytes are a value or an error, and a value is the same however it arrives.
#![no_main]
use holdfast_wire::resp::reply::Scanner;
use holdfast_wire::resp::value::Value;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [cut, bytes @ ..] = data else { return };
    let whole = Value::next(&mut Scanner::default(), &mut 0, bytes);
    let (mut scanner, mut seen) = (Scanner::default(), 0);
    let cut = usize::from(*cut).min(bytes.len());
    match Value::next(&mut scanner, &mut seen, &bytes[..cut]) {
        Ok(None) => assert_eq!(Value::next(&mut scanner, &mut seen, bytes), whole),
        early => assert_eq!(early, whole),
    }
});
