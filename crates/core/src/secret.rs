//! A password that does not show itself: `Debug` is redacted, there is no `Display` and no `Serialize`, so it
//! reaches neither logs nor the store by accident. Not wiped from memory: whoever reads a process's memory has
//! the engine's data as well.

use std::fmt;

/// A secret in clear. Ask for it by [`Password::expose`], where it is about to be used.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Password {
        Password(secret.into())
    }
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_does_not_print_itself() {
        let shown = format!("{:?}", Password::new("s3cret"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
