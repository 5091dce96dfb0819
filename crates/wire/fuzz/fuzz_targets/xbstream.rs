//! Any bytes, in any pieces, can be read; the pieces make no difference.
#![no_main]
use holdfast_wire::xbstream::{Error, Event, XbStream};
use libfuzzer_sys::fuzz_target;

fn read(data: &[u8], step: usize) -> Result<Vec<(String, usize)>, Error> {
    let (mut stream, mut ended, mut bytes_seen) = (XbStream::default(), Vec::new(), 0);
    for mut input in data.chunks(step) {
        loop {
            match stream.next(&mut input)? {
                Event::More => break,
                Event::Data { bytes, .. } => bytes_seen += bytes.len(),
                Event::End { path } => ended.push((path.to_owned(), bytes_seen)),
            }
        }
    }
    stream.finish().map(|()| ended)
}

fuzz_target!(|data: &[u8]| {
    let whole = read(data, usize::MAX);
    for step in [1, 7, 64] {
        assert_eq!(read(data, step).is_ok(), whole.is_ok());
        if let Ok(files) = read(data, step) {
            assert_eq!(Ok(files), whole);
        }
    }
});
