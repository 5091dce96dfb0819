//! What clients send to log in.
#![no_main]
use holdfast_wire::Capabilities;
use holdfast_wire::login::{ChangeUser, FirstPacket};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(FirstPacket::Response(response)) = FirstPacket::parse(data)
        && response.capabilities.has(Capabilities::SECURE_CONNECTION)
    {
        let again = FirstPacket::parse(&response.build());
        if let Ok(FirstPacket::Response(again)) = again {
            assert_eq!(
                (again.user, again.schema, again.auth),
                (response.user, response.schema, response.auth)
            );
        }
    }
    if let Some((caps, rest)) = data.split_first_chunk::<8>() {
        let caps = Capabilities(u64::from_le_bytes(*caps));
        if let Ok(change) = ChangeUser::parse(rest, caps) {
            assert!(ChangeUser::parse(&change.build(caps), caps).is_ok());
        }
    }
});
