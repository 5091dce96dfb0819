//! The login method `mysql_native_password`: the client proves that it knows the password without sending it.
//!
//! proof = SHA1(password) XOR SHA1(nonce ‖ SHA1(SHA1(password))); an empty password is proved by an empty answer.

use sha1::{Digest, Sha1};

/// Its name on the wire.
pub const NAME: &[u8] = b"mysql_native_password";
/// Bytes of the server's nonce.
pub const NONCE_BYTES: usize = 20;

/// A nonce from random bytes: clients take a zero byte for its end, and some a `$`.
pub fn nonce(random: [u8; NONCE_BYTES]) -> [u8; NONCE_BYTES] {
    random.map(|byte| b'%' + byte % 80)
}

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    parts.iter().for_each(|p| hash.update(p));
    hash.finalize().into()
}

fn xor(a: [u8; 20], b: &[u8]) -> [u8; 20] {
    std::array::from_fn(|i| a[i] ^ b.get(i).copied().unwrap_or(0))
}

/// The client's answer to `nonce`; empty for an empty password.
pub fn prove(password: &[u8], nonce: &[u8; NONCE_BYTES]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = sha1(&[password]);
    xor(sha1(&[nonce, &sha1(&[&once])]), &once).to_vec()
}

/// What a server keeps: SHA1(SHA1(password)); `None` for an empty password.
pub fn stored(password: &[u8]) -> Option<[u8; 20]> {
    (!password.is_empty()).then(|| sha1(&[&sha1(&[password])]))
}

/// The server's check of an answer to `nonce`. Takes the same time for every wrong answer of the right length.
pub fn check(stored: Option<&[u8; 20]>, nonce: &[u8; NONCE_BYTES], answer: &[u8]) -> bool {
    let Some(stored) = stored else { return answer.is_empty() };
    if answer.len() != 20 {
        return false;
    }
    let once = xor(sha1(&[nonce, stored]), answer);
    let twice = sha1(&[&once]);
    twice.iter().zip(stored).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_stored_form_is_what_the_server_shows() {
        // SELECT PASSWORD('secret') on MariaDB 10.11.
        let hex: String = stored(b"secret").unwrap().iter().map(|b| format!("{b:02X}")).collect();
        assert_eq!(hex, "14E65567ABDB5135D0CFD9A70B3032C179A49EE7");
        assert_eq!(stored(b""), None);
    }

    proptest! {
        #[test]
        fn only_the_password_proves_itself(password: Vec<u8>, other: Vec<u8>, nonce: [u8; 20]) {
            let kept = stored(&password);
            prop_assert!(check(kept.as_ref(), &nonce, &prove(&password, &nonce)));
            if password != other {
                prop_assert!(!check(kept.as_ref(), &nonce, &prove(&other, &nonce)));
            }
        }
    }
}
