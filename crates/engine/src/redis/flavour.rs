//! What differs between Redis and Valkey. It is little: both speak of `redis_version`, and every command and setting that
//! the driver uses has the same name.
//!
//! Guarantees: a server that is another flavour, or too old, is refused.
//! Does not know: anything else about the server.

use super::info::Info;
use crate::Error;
use holdfast_core::topology::Engine;

/// See the module.
#[derive(Debug)]
pub(super) struct Flavour {
    pub(super) server: &'static str,
    name: &'static str,
    /// Where `INFO` has the version.
    version: &'static str,
    /// Only the other one has this field.
    foreign: &'static [&'static str],
    oldest: (u32, u32),
}

static REDIS: Flavour = Flavour {
    server: "redis-server",
    name: "Redis",
    version: "redis_version",
    foreign: &["valkey_version"],
    oldest: (7, 0),
};
static VALKEY: Flavour = Flavour {
    server: "valkey-server",
    name: "Valkey",
    version: "valkey_version",
    foreign: &[],
    oldest: (8, 0),
};

/// The flavour of an engine of this family.
pub(super) fn of(engine: Engine) -> Result<&'static Flavour, Error> {
    match engine {
        Engine::Redis => Ok(&REDIS),
        Engine::Valkey => Ok(&VALKEY),
        Engine::MariaDb | Engine::MySql => {
            Err(Error::BadSpec(format!("{} is not run by the driver of the Redis family", engine.word())))
        }
    }
}

impl Flavour {
    /// The server's version, if it is this flavour's and not too old.
    pub(super) fn version(&self, info: &Info) -> Result<String, Error> {
        let own = info.maybe::<String>(self.version);
        let foreign = self.foreign.iter().any(|f| info.maybe::<String>(f).is_some());
        let Some(version) = own.filter(|_| !foreign) else {
            return Err(Error::BadSpec(format!(
                "the server is not {}; choose the right `engine`",
                self.name
            )));
        };
        if number(&version).is_none_or(|v| v < self.oldest) {
            let (major, minor) = self.oldest;
            return Err(Error::BadSpec(format!(
                "{} {version} is too old; {major}.{minor} or later is needed",
                self.name
            )));
        }
        Ok(version)
    }
    /// Why a server of version `mine` cannot follow a primary: an older one does not read a newer one's data.
    pub(super) fn must_not_follow(&self, mine: &str, primary: &Info) -> Option<String> {
        match self.version(primary) {
            Err(_) => Some(format!(
                "the primary is not {} of a version that is known: flavours never mix",
                self.name
            )),
            Ok(theirs) if number(&theirs) > number(mine) => {
                Some(format!("the primary's version {theirs} is later than {mine}: upgrade replicas first"))
            }
            Ok(_) => None,
        }
    }
}

/// Major and minor.
fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|p| p.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_wire::resp::value::Value;

    fn info(text: &str) -> Info {
        Info::read(&Value::Bulk(text.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn flavours_are_told_apart() {
        let redis = info("redis_version:7.0.15\r\n");
        let valkey = info("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\n");
        assert_eq!(REDIS.version(&redis).unwrap(), "7.0.15");
        assert_eq!(VALKEY.version(&valkey).unwrap(), "8.1.1");
        assert!(REDIS.version(&valkey).is_err() && VALKEY.version(&redis).is_err());
        assert!(REDIS.version(&info("redis_version:6.2.14\r\n")).is_err());
    }

    #[test]
    fn nobody_follows_a_later_version() {
        let later = info("redis_version:7.2.1\r\n");
        assert!(REDIS.must_not_follow("7.0.15", &later).is_some());
        assert!(REDIS.must_not_follow("7.4.0", &later).is_none());
        assert!(VALKEY.must_not_follow("8.0.0", &later).is_some());
    }
}
