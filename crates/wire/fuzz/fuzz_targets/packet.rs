//! Framing: what is put together reads back, and any bytes can be read.
#![no_main]
use holdfast_wire::packet::{self, HEADER_BYTES, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((header, payload)) = packet::whole(data) {
        assert_eq!(header.len, payload.len());
        assert_eq!(&header.to_bytes()[..], &data[..HEADER_BYTES]);
    }
    let mut out = Vec::new();
    packet::put(&mut out, 7, data);
    assert_eq!(Header::read(&out).map(|h| h.seq), Some(7));
    assert_eq!(packet::whole(&out).map(|(_, p)| p), Some(data));
});
