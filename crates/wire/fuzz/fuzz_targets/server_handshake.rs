//! What servers send during a login.
#![no_main]
use holdfast_wire::Capabilities;
use holdfast_wire::greeting::Greeting;
use holdfast_wire::login::AuthSwitch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(greeting) = Greeting::parse(data) {
        let again = Greeting::parse(&greeting.build()).expect("what is built can be read");
        assert_eq!(again.nonce, greeting.nonce);
        assert_eq!(again.capabilities.without(Capabilities::default()), greeting.capabilities);
    }
    if let Ok(switch) = AuthSwitch::parse(data) {
        assert!(AuthSwitch::parse(&switch.build()).is_ok());
    }
});
