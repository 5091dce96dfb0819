//! Versions of servers: who may follow whom, and which is the later one.
//!
//! Guarantees: the rule of both vendors: a replica is of its primary's release or a later one, and of its kind.
//! Does not know: what a version brings. One that cannot be read is not guessed at (S11).

use crate::topology::Engine;

/// What a server, or a program of it, calls itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    kind: Kind,
    /// Patch levels of one release replicate both ways, and start on each other's data.
    release: (u32, u32),
    patch: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    MySql,
    MariaDb,
    Redis,
    Valkey,
}

impl Version {
    /// `10.11.19-MariaDB-0+deb12u1-log`, `9.7.4-2`, `5.5.5-10.11.19-MariaDB`, `Redis 7.0.15`, `Valkey 8.1.1` …
    pub fn read(text: &str) -> Option<Version> {
        let mut parts = without_prefix(text).split(|c: char| !c.is_ascii_digit());
        let mut next = || parts.next()?.parse().ok();
        let release = (next()?, next()?);
        Some(Version { kind: kind(text), release, patch: next().unwrap_or(0) })
    }
    /// Of the engine, and not of one that has a program by the same name.
    pub fn is_of(&self, engine: Engine) -> bool {
        match self.kind {
            Kind::MySql => engine == Engine::MySql,
            Kind::MariaDb => engine == Engine::MariaDb,
            Kind::Redis => engine == Engine::Redis,
            Kind::Valkey => engine == Engine::Valkey,
        }
    }
    /// Of one release, whatever the patch level.
    pub fn same_release(&self, other: &Version) -> bool {
        (self.kind, self.release) == (other.kind, other.release)
    }
}

fn kind(text: &str) -> Kind {
    match text {
        _ if text.contains("MariaDB") => Kind::MariaDb,
        _ if text.starts_with("Redis ") => Kind::Redis,
        _ if text.starts_with("Valkey ") => Kind::Valkey,
        _ => Kind::MySql,
    }
}

/// MariaDB's is for clients that know no version beyond MySQL's 5; those of other kinds are names.
fn without_prefix(text: &str) -> &str {
    match kind(text) {
        Kind::MySql => text,
        Kind::MariaDb => text.strip_prefix("5.5.5-").unwrap_or(text),
        Kind::Redis | Kind::Valkey => text.split_once(' ').map_or(text, |(_, number)| number),
    }
}

/// The very same build, as far as the texts tell. A server adds to its version that it logs.
pub fn same(a: &str, b: &str) -> bool {
    let plain = |text| {
        let text: &str = without_prefix(text);
        text.strip_suffix("-log").unwrap_or(text).to_owned()
    };
    plain(a) == plain(b)
}

/// Why a server of version `mine` must not follow one of version `theirs`.
pub fn must_not_follow(mine: &str, theirs: &str) -> Option<String> {
    let (me, they) = match both(mine, theirs) {
        Ok(both) => both,
        Err(why) => return Some(why),
    };
    (me.release < they.release).then(|| {
        format!(
            "{mine} is older than its primary, {theirs}, and could not apply what that writes: upgrade it"
        )
    })
}

/// Why programs of version `next` must not be started on data that a server of version `last` has used.
pub fn must_not_succeed(next: &str, last: &str) -> Option<String> {
    let (next_one, last_one) = match both(next, last) {
        Ok(both) => both,
        Err(why) => return Some(why),
    };
    (next_one < last_one).then(|| {
        format!("{next} is older than {last}, which has used the data: there is no way back but a backup")
    })
}

fn both(a: &str, b: &str) -> Result<(Version, Version), String> {
    let (Some(one), Some(other)) = (Version::read(a), Version::read(b)) else {
        return Err(format!("the versions {a:?} and {b:?} cannot be compared"));
    };
    if one.kind != other.kind {
        return Err(format!("{a} and {b} are not the same kind of server; they never mix in one group"));
    }
    Ok((one, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARIA: &str = "5.5.5-10.11.19-MariaDB-0+deb12u1-log";

    #[test]
    fn a_replica_is_as_new_as_its_primary_and_of_its_kind() {
        for (mine, theirs) in [
            ("9.7.4-2", "8.4.3"),
            ("8.4.3", "8.4.9"),
            ("10.11.19-MariaDB-log", MARIA),
            ("11.8.3-MariaDB", MARIA),
            ("Redis 7.2.1", "Redis 7.0.15"),
            ("Valkey 8.0.2", "Valkey 8.0.9"),
        ] {
            assert_eq!(must_not_follow(mine, theirs), None, "{mine} {theirs}");
        }
        for (mine, theirs) in [
            ("8.4.3", "9.7.4-2"),
            ("9.7.4", "9.10.0"),
            ("9.7.4", MARIA),
            (MARIA, "9.7.4"),
            ("10.11.19-MariaDB", "5.5.5-11.8.3-MariaDB"),
            ("x", "9.7.4"),
            ("Redis 7.0.15", "Redis 7.2.1"),
            ("Redis 8.0.0", "Valkey 8.0.2"),
            ("9.7.4", "Redis 7.0.15"),
        ] {
            assert!(must_not_follow(mine, theirs).is_some(), "{mine} {theirs}");
        }
    }

    #[test]
    fn data_is_never_handed_to_an_older_server() {
        assert_eq!(must_not_succeed("11.8.9-MariaDB", MARIA), None);
        assert_eq!(must_not_succeed("9.7.4-2", "9.7.4-1"), None);
        assert!(must_not_succeed("9.7.4", "9.7.5").is_some());
        assert!(must_not_succeed("10.11.19-MariaDB", "11.8.9-MariaDB").is_some());
        assert!(must_not_succeed("9.7.4", MARIA).is_some());
    }

    #[test]
    fn a_server_and_its_program_are_the_same_build() {
        assert!(same(MARIA, "10.11.19-MariaDB-0+deb12u1"));
        assert!(!same(MARIA, "10.11.19-MariaDB-0+deb12u2"), "another package of the same release");
        assert!(same("9.7.4-2", "9.7.4-2"));
    }
}
