//! Names of things in the topology. A name is 1 to 63 characters of `a-z 0-9 -`, starting with a letter, so
//! that it can stand in a host name, a metric label, a path and a URL without quoting. User names follow the
//! database's rule instead.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a string is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a name must not be empty")]
    Empty,
    #[error("a name has at most {max} characters, this one has {len}")]
    TooLong { len: usize, max: usize },
    #[error("a name starts with a letter a-z and goes on with a-z, 0-9 or '-'; found {0:?}")]
    BadCharacter(char),
    #[error("a user name has no control characters; found {0:?}")]
    Control(char),
}

fn check_label(s: &str) -> Result<(), Error> {
    if s.is_empty() {
        return Err(Error::Empty);
    }
    if s.len() > 63 {
        return Err(Error::TooLong { len: s.len(), max: 63 });
    }
    for (i, c) in s.chars().enumerate() {
        let fits = c.is_ascii_lowercase() || (i > 0 && (c.is_ascii_digit() || c == '-'));
        if !fits {
            return Err(Error::BadCharacter(c));
        }
    }
    Ok(())
}

/// MariaDB allows 128 characters, MySQL 32; the smaller limit keeps a topology portable between flavours.
fn check_user(s: &str) -> Result<(), Error> {
    if s.is_empty() {
        return Err(Error::Empty);
    }
    if s.chars().count() > 32 {
        return Err(Error::TooLong { len: s.chars().count(), max: 32 });
    }
    match s.chars().find(|c| c.is_control()) {
        Some(c) => Err(Error::Control(c)),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schemars(with = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks and wraps a name.
            pub fn new(s: &str) -> Result<Self, Error> {
                $check(s)?;
                Ok(Self(s.into()))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(s: String) -> Result<Self, Error> {
                Self::new(&s)
            }
        }
        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(s: &str) -> Result<Self, Error> {
                Self::new(s)
            }
        }
        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0.to_string()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(/// A host that runs `holdfast run`.
    NodeName, check_label);
name_type!(/// A group: the instances of one dataset. A one-group service and its group share the name.
    GroupName, check_label);
name_type!(/// A data centre within a region.
    ZoneName, check_label);
name_type!(/// A city.
    RegionName, check_label);
name_type!(/// A database user of the topology file.
    UserName, check_user);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        assert!(NodeName::new("db-1").is_ok());
        assert_eq!(NodeName::new(""), Err(Error::Empty));
        assert_eq!(NodeName::new("1db"), Err(Error::BadCharacter('1')));
        assert_eq!(NodeName::new("DB"), Err(Error::BadCharacter('D')));
        assert!(matches!(NodeName::new(&"a".repeat(64)), Err(Error::TooLong { len: 64, .. })));
        assert!(serde_json::from_str::<NodeName>("\"no_underscore\"").is_err());
        assert!(UserName::new("App_1").is_ok());
    }
}
