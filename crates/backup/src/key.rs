//! Keys, and what is derived from them. See docs/repository-format.md.
//!
//! Guarantees: no key is printed. Does not know: where a key comes from or who may have it.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom as _, SystemRandom};

pub(crate) const KEY_BYTES: usize = 32;
pub(crate) const TAG_BYTES: usize = 16;
pub(crate) const HASH_BYTES: usize = 16;

/// Why a text is no key.
#[derive(Debug, thiserror::Error)]
#[error("a repository key is 64 hexadecimal digits, as `holdfast repo key` makes them; this is {0}")]
pub struct NotAKey(String);

/// What opens a repository. Kept by its owner; nobody can make up for its loss.
#[derive(Clone, PartialEq, Eq)]
pub struct RepositoryKey([u8; KEY_BYTES]);

impl std::fmt::Debug for RepositoryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RepositoryKey({})", self.id())
    }
}

impl RepositoryKey {
    /// For a repository that its owner chose not to encrypt: known to everybody.
    pub const PLAIN: RepositoryKey = RepositoryKey([0; KEY_BYTES]);

    pub fn generate() -> RepositoryKey {
        RepositoryKey(random())
    }
    pub fn from_text(text: &str) -> Result<RepositoryKey, NotAKey> {
        let text = text.trim();
        match from_hex::<KEY_BYTES>(text) {
            Some(bytes) if bytes == [0; KEY_BYTES] => Err(NotAKey("all zeros, which everybody knows".into())),
            Some(bytes) => Ok(RepositoryKey(bytes)),
            None => Err(NotAKey(format!("{} characters of something else", text.chars().count()))),
        }
    }
    /// The key itself, to be shown once to its owner.
    pub fn to_text(&self) -> String {
        hex(&self.0)
    }
    /// True for [`RepositoryKey::PLAIN`].
    pub fn is_plain(&self) -> bool {
        *self == Self::PLAIN
    }
    pub fn id(&self) -> KeyId {
        let whole = derive(&self.0, &[b"holdfast 1 key id"]);
        let mut id = [0; 8];
        id.copy_from_slice(&whole[..8]);
        KeyId(id)
    }
    pub(crate) fn hash_key(&self) -> [u8; KEY_BYTES] {
        derive(&self.0, &[b"holdfast 1 block hash"])
    }
    pub(crate) fn aead(&self) -> LessSafeKey {
        aead(&self.0)
    }
}

/// Tells keys apart and says nothing about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyId(pub(crate) [u8; 8]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// The key of one backup, in clear. Never leaves the process but wrapped.
#[derive(Clone)]
pub(crate) struct DataKey(pub(crate) [u8; KEY_BYTES]);

impl DataKey {
    pub(crate) fn generate() -> DataKey {
        DataKey(random())
    }
    pub(crate) fn object_key(&self, name: &str) -> LessSafeKey {
        aead(&derive(&self.0, &[b"holdfast 1 object ", name.as_bytes()]))
    }
}

pub(crate) fn aead(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the length is right"))
}

/// Seals in place and appends the tag.
pub(crate) fn seal(key: &LessSafeKey, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut Vec<u8>) {
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), text)
        .expect("far shorter than AES-GCM's limit");
}

/// Opens in place; the text without its tag, or `None` if a bit of anything is not as it was sealed.
pub(crate) fn open<'a>(
    key: &LessSafeKey,
    nonce: [u8; NONCE_LEN],
    aad: &[u8],
    sealed: &'a mut [u8],
) -> Option<&'a [u8]> {
    key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), sealed).ok().map(|t| &*t)
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the kernel always has randomness after boot");
    bytes
}

struct Length;
impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

fn derive(from: &[u8], info: &[&[u8]]) -> [u8; KEY_BYTES] {
    let mut out = [0; KEY_BYTES];
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(from)
        .expand(info, Length)
        .and_then(|key| key.fill(&mut out))
        .expect("one block of output is always allowed");
    out
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0; N];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_and_does_not_print_itself() {
        let key = RepositoryKey::generate();
        let text = key.to_text();
        assert_eq!(RepositoryKey::from_text(&format!("{text}\n")).unwrap(), key);
        assert!(!format!("{key:?}").contains(&text[..16]));
        for bad in ["", "00", &text[1..], &"g".repeat(64), &"0".repeat(64), &"é".repeat(32)] {
            assert!(RepositoryKey::from_text(bad).is_err(), "{bad}");
        }
        assert!(RepositoryKey::PLAIN.is_plain() && !key.is_plain());
    }

    #[test]
    fn derived_keys_are_those_of_the_specification() {
        // Computed with another implementation of HKDF-SHA256.
        assert_eq!(RepositoryKey::PLAIN.id().to_string(), "ac94f24692c77460");
    }
}
