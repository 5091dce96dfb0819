//! A client's part of a login, from the server's greeting to its OK: which method, and what it answers.
//!
//! Guarantees: a password leaves unencrypted only over a channel that the caller calls private.
//! Does not know: sockets, and what else is in the login packet.

use crate::codec::Error as Malformed;
use crate::greeting::Greeting;
use crate::login::AuthSwitch;
use crate::native_password::NONCE_BYTES;
use crate::{caching_sha2, native_password};

/// A login method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    NativePassword,
    CachingSha2,
}

impl Method {
    pub fn name(self) -> &'static [u8] {
        match self {
            Method::NativePassword => native_password::NAME,
            Method::CachingSha2 => caching_sha2::NAME,
        }
    }
    /// `None`: not known here.
    pub fn named(name: &[u8]) -> Option<Method> {
        [Method::NativePassword, Method::CachingSha2].into_iter().find(|m| m.name() == name)
    }
    /// The proof of a password.
    pub fn prove(self, password: &[u8], nonce: &[u8; NONCE_BYTES]) -> Vec<u8> {
        match self {
            Method::NativePassword => native_password::prove(password, nonce),
            Method::CachingSha2 => caching_sha2::prove(password, nonce),
        }
    }
}

/// Why a login cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the server's login does not go as expected")]
    Malformed(#[from] Malformed),
    #[error("the server asks for the login method {0:?}, which is not known here")]
    Method(String),
    #[error("the password cannot be sent")]
    Password(#[from] caching_sha2::Error),
}

/// What to do about a packet of the server's.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Answer with this packet.
    Answer(Vec<u8>),
    /// Read on.
    Wait,
    /// Logged in.
    Done,
    /// The packet is an error.
    Refused,
}

/// See the file's contract.
pub struct Prover<'a> {
    password: &'a [u8],
    /// Nobody else can listen.
    private: bool,
    method: Method,
    nonce: [u8; NONCE_BYTES],
    asked_key: bool,
}

impl<'a> Prover<'a> {
    pub fn new(greeting: &Greeting, password: &'a [u8], private: bool) -> Prover<'a> {
        let method = Method::named(&greeting.auth_plugin).unwrap_or(Method::NativePassword);
        Prover { password, private, method, nonce: greeting.nonce, asked_key: false }
    }
    /// The method and the proof for the login packet.
    pub fn first(&self) -> (Method, Vec<u8>) {
        (self.method, self.method.prove(self.password, &self.nonce))
    }
    /// After the login packet, for each packet of the server's.
    pub fn step(&mut self, reply: &[u8]) -> Result<Step, Error> {
        match reply {
            [0x00, ..] => Ok(Step::Done),
            [0xFF, ..] => Ok(Step::Refused),
            [0xFE, ..] => {
                let switch = AuthSwitch::parse(reply)?;
                let unknown = || Error::Method(String::from_utf8_lossy(&switch.plugin).into_owned());
                self.method = Method::named(&switch.plugin).ok_or_else(unknown)?;
                self.nonce = *switch.data.first_chunk().ok_or_else(unknown)?;
                Ok(Step::Answer(self.method.prove(self.password, &self.nonce)))
            }
            [caching_sha2::MORE, caching_sha2::PROVED] => Ok(Step::Wait),
            [caching_sha2::MORE, caching_sha2::SEND_PASSWORD] if self.private => {
                Ok(Step::Answer(caching_sha2::in_clear(self.password)))
            }
            [caching_sha2::MORE, caching_sha2::SEND_PASSWORD] => {
                self.asked_key = true;
                Ok(Step::Answer(vec![caching_sha2::ASK_KEY]))
            }
            [caching_sha2::MORE, pem @ ..] if self.asked_key => {
                self.asked_key = false;
                let random = &mut rsa::rand_core::OsRng;
                Ok(Step::Answer(caching_sha2::under_key(self.password, &self.nonce, pem, random)?))
            }
            other => {
                let value = other.first().copied().unwrap_or_default().into();
                Err(Malformed::Value { what: "the login's reply", value }.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Capabilities, Status};
    use proptest::prelude::*;

    fn greeting(plugin: &[u8]) -> Greeting {
        Greeting {
            server_version: b"9.7.4".to_vec(),
            connection_id: 1,
            nonce: [7; NONCE_BYTES],
            capabilities: Capabilities::PLUGIN_AUTH,
            collation: 45,
            status: Status::AUTOCOMMIT,
            auth_plugin: plugin.to_vec(),
        }
    }

    #[test]
    fn a_password_is_sent_only_where_nobody_listens() {
        let g = greeting(caching_sha2::NAME);
        let asks = [caching_sha2::MORE, caching_sha2::SEND_PASSWORD];
        assert_eq!(Prover::new(&g, b"secret", true).step(&asks).unwrap(), Step::Answer(b"secret\0".to_vec()));
        let mut open = Prover::new(&g, b"secret", false);
        assert_eq!(open.step(&asks).unwrap(), Step::Answer(vec![caching_sha2::ASK_KEY]));
        assert!(open.step(b"\x01no key").is_err());
    }

    #[test]
    fn the_server_chooses_the_method() {
        let mut p = Prover::new(&greeting(native_password::NAME), b"secret", false);
        assert_eq!(p.first(), (Method::NativePassword, native_password::prove(b"secret", &[7; 20])));
        let switch = AuthSwitch { plugin: caching_sha2::NAME.to_vec(), data: vec![9; 20] };
        let proof = caching_sha2::prove(b"secret", &[9; 20]);
        assert_eq!(p.step(&switch.build()).unwrap(), Step::Answer(proof));
        assert_eq!(p.step(&[caching_sha2::MORE, caching_sha2::PROVED]).unwrap(), Step::Wait);
        assert_eq!(p.step(&[0, 0, 0]).unwrap(), Step::Done);
        let other = AuthSwitch { plugin: b"dialog".to_vec(), data: vec![9; 20] };
        assert!(matches!(p.step(&other.build()), Err(Error::Method(m)) if m == "dialog"));
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(packets: Vec<Vec<u8>>) {
            let mut p = Prover::new(&greeting(b""), b"secret", false);
            for packet in packets { let _ = p.step(&packet); }
        }
    }
}
