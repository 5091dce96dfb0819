//! Whatever a replica sends, it gets an answer, and without the password no log.
#![no_main]
use holdfast_wire::primary::{Identity, Primary, Step};
use holdfast_wire::prover::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packets: Vec<Vec<u8>>| {
    let (version, user, password) = ("9.7.4".into(), "u".into(), "a password that nobody guesses".into());
    let method = Method::CachingSha2;
    let is = Identity { version, server_id: 1, uuid: String::new(), method, user, password, checksum: true };
    let (mut primary, _) = Primary::new(is, [1; 20]);
    for packet in packets {
        assert!(!matches!(primary.step(1, &packet, 0), Step::Dump { .. }));
    }
});
