//! Tokens for people. A token is 256 random bits, so its plain SHA-256 tells nothing about it and hosts keep only
//! that; and since hashes are compared, the time a comparison takes tells nothing either.

use super::Error;
use super::init::{create, read};
use ring::digest;
use std::path::Path;

const TOKEN_BYTES: usize = 32;
/// Longer ones are not even hashed.
const SHOWN_BYTES_MAX: usize = 256;

/// Hashes of the tokens that a host accepts.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    viewer: Option<String>,
    operator: Option<String>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("viewer", &self.viewer.is_some())
            .field("operator", &self.operator.is_some())
            .finish()
    }
}

impl Tokens {
    /// Those whose hashes are in `dir`. A missing file means that no such token is accepted.
    pub fn load(dir: &Path) -> Result<Tokens, Error> {
        let hash = |who: &str| {
            let path = dir.join(format!("{who}.token.sha256"));
            if !path.exists() {
                return Ok(None);
            }
            let text = read(&path)?.trim().to_ascii_lowercase();
            let fits =
                text.len() == 2 * digest::SHA256_OUTPUT_LEN && text.bytes().all(|b| b.is_ascii_hexdigit());
            if fits {
                Ok(Some(text))
            } else {
                Err(Error::Malformed { path, what: "a SHA-256 in hexadecimal" })
            }
        };
        Ok(Tokens { viewer: hash("viewer")?, operator: hash("operator")? })
    }
    pub fn is_viewer(&self, token: &str) -> bool {
        matches(&self.viewer, token)
    }
    pub fn is_operator(&self, token: &str) -> bool {
        matches(&self.operator, token)
    }
}

fn matches(hash: &Option<String>, token: &str) -> bool {
    token.len() <= SHOWN_BYTES_MAX && hash.as_ref().is_some_and(|h| *h == sha256(token))
}

fn sha256(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Makes a token and its hash where there is none; a lost hash is made again. True if something was made.
pub(super) fn make(dir: &Path, who: &str) -> Result<bool, Error> {
    let path = dir.join(format!("{who}.token"));
    let hash_path = dir.join(format!("{who}.token.sha256"));
    let existed = path.exists() && hash_path.exists();
    if !path.exists() {
        let mut bytes = [0; TOKEN_BYTES];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
            .map_err(|_| Error::Random)?;
        create(&path, &format!("{}\n", hex(&bytes)))?;
        // A hash left over from another token would refuse this one.
        if hash_path.exists() {
            std::fs::remove_file(&hash_path)
                .map_err(|source| Error::Unwritable { path: hash_path.clone(), source })?;
        }
    }
    if !hash_path.exists() {
        create(&hash_path, &format!("{}\n", sha256(read(&path)?.trim())))?;
    }
    Ok(!existed)
}
