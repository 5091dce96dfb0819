//! The login method `caching_sha2_password`: the client proves that it knows the password without sending it; a server
//! that has never seen this user log in asks for the password itself, which then goes over a secure channel or under
//! the server's RSA key.
//!
//! proof = SHA256(password) XOR SHA256(SHA256(SHA256(password)) ‖ nonce); an empty password is proved by an empty answer.

use crate::native_password::NONCE_BYTES;
use rsa::pkcs8::DecodePublicKey as _;
use rsa::rand_core::CryptoRngCore;
use sha2::{Digest, Sha256};

/// Its name on the wire.
pub const NAME: &[u8] = b"caching_sha2_password";
/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;
/// What a server says beside OK and ERR is behind this byte.
pub const MORE: u8 = 0x01;
/// Server: the proof is right.
pub const PROVED: u8 = 0x03;
/// Server: send the password itself.
pub const SEND_PASSWORD: u8 = 0x04;
/// Client: send the key under which the password may travel.
pub const ASK_KEY: u8 = 0x02;

/// Why a password cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the server's RSA key cannot be read")]
    Key(#[from] rsa::pkcs8::spki::Error),
    #[error("the password cannot be encrypted under the server's RSA key")]
    Encrypt(#[from] rsa::Error),
}

fn sha256(parts: &[&[u8]]) -> [u8; PROOF_BYTES] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|p| hash.update(p));
    hash.finalize().into()
}

fn xor(a: [u8; PROOF_BYTES], b: &[u8]) -> [u8; PROOF_BYTES] {
    std::array::from_fn(|i| a[i] ^ b.get(i).copied().unwrap_or(0))
}

/// The client's answer to `nonce`; empty for an empty password.
pub fn prove(password: &[u8], nonce: &[u8; NONCE_BYTES]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = sha256(&[password]);
    xor(sha256(&[&sha256(&[&once]), nonce]), &once).to_vec()
}

/// What a server keeps for proofs: SHA256(SHA256(password)); `None` for an empty password.
pub fn stored(password: &[u8]) -> Option<[u8; PROOF_BYTES]> {
    (!password.is_empty()).then(|| sha256(&[&sha256(&[password])]))
}

/// The server's check of an answer to `nonce`. Takes the same time for every wrong answer of the right length.
pub fn check(stored: Option<&[u8; PROOF_BYTES]>, nonce: &[u8; NONCE_BYTES], answer: &[u8]) -> bool {
    // Clients answer for an empty password with nothing, or with its end mark.
    let Some(stored) = stored else { return matches!(answer, [] | [0]) };
    if answer.len() != PROOF_BYTES {
        return false;
    }
    let once = xor(sha256(&[stored, nonce]), answer);
    sha256(&[&once]).iter().zip(stored).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

/// The password as it goes over a channel that nobody can listen to.
pub fn in_clear(password: &[u8]) -> Vec<u8> {
    [password, &[0]].concat()
}

/// The password under the server's public key (PEM).
pub fn under_key(
    password: &[u8],
    nonce: &[u8; NONCE_BYTES],
    pem: &[u8],
    random: &mut impl CryptoRngCore,
) -> Result<Vec<u8>, Error> {
    let key = rsa::RsaPublicKey::from_public_key_pem(String::from_utf8_lossy(pem).trim())?;
    let mixed: Vec<u8> = in_clear(password).iter().zip(nonce.iter().cycle()).map(|(p, n)| p ^ n).collect();
    Ok(key.encrypt(random, rsa::Oaep::new::<sha1::Sha1>(), &mixed)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_the_password_proves_itself(password: Vec<u8>, other: Vec<u8>, nonce: [u8; 20]) {
            let kept = stored(&password);
            prop_assert!(check(kept.as_ref(), &nonce, &prove(&password, &nonce)));
            if password != other {
                prop_assert!(!check(kept.as_ref(), &nonce, &prove(&other, &nonce)));
            }
        }
        #[test]
        fn a_bad_key_is_refused(pem: Vec<u8>) {
            prop_assert!(under_key(b"x", &[7; 20], &pem, &mut rsa::rand_core::OsRng).is_err());
        }
    }

    #[test]
    fn what_went_under_the_key_is_the_password_mixed_with_the_nonce() {
        use rsa::pkcs8::EncodePublicKey as _;
        let mut random = rsa::rand_core::OsRng;
        let key = rsa::RsaPrivateKey::new(&mut random, 1024).unwrap();
        let pem = key.to_public_key().to_public_key_pem(rsa::pkcs8::LineEnding::LF).unwrap();
        let nonce = *b"abcdefghijklmnopqrst";
        let sent =
            under_key(b"a password of more than twenty bytes", &nonce, pem.as_bytes(), &mut random).unwrap();
        let mixed = key.decrypt(rsa::Oaep::new::<sha1::Sha1>(), &sent).unwrap();
        let read: Vec<u8> = mixed.iter().zip(nonce.iter().cycle()).map(|(p, n)| p ^ n).collect();
        assert_eq!(read, b"a password of more than twenty bytes\0");
    }
}
