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
        Ok(self.named(&version))
    }
    /// A version as it is told: with the name of what it is a version of.
    fn named(&self, version: &str) -> String {
        format!("{} {version}", self.name)
    }
    /// From what the program says of itself: `Redis server v=7.0.15 sha=…`, `Valkey server v=8.1.1 …`.
    pub(super) fn program_version(&self, says: &str) -> Option<String> {
        let number = says.split_ascii_whitespace().find_map(|word| word.strip_prefix("v="))?;
        says.starts_with(self.name).then(|| self.named(number))
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
        assert_eq!(REDIS.version(&redis).unwrap(), "Redis 7.0.15");
        assert_eq!(VALKEY.version(&valkey).unwrap(), "Valkey 8.1.1");
        assert!(REDIS.version(&valkey).is_err() && VALKEY.version(&redis).is_err());
        assert!(REDIS.version(&info("redis_version:6.2.14\r\n")).is_err());
        let says = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0";
        assert_eq!(REDIS.program_version(says).unwrap(), "Redis 7.0.15");
        assert_eq!(VALKEY.program_version(says), None);
    }
}
