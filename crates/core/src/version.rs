//! Versions of servers: who may follow whom, and which is the later one.
//!
//! Guarantees: the rule of both vendors: a replica is of its primary's release or a later one, and of its kind.
//! Does not know: what a version brings. One that cannot be read is not guessed at (S11).

/// What a server, or a program of it, calls itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    mariadb: bool,
    /// Patch levels of one release replicate both ways, and start on each other's data.
    release: (u32, u32),
    patch: u32,
}

impl Version {
    /// `10.11.19-MariaDB-0+deb12u1-log`, `9.7.4-2`, `5.5.5-10.11.19-MariaDB` …
    pub fn read(text: &str) -> Option<Version> {
        let mut parts = without_prefix(text).split(|c: char| !c.is_ascii_digit());
        let mut next = || parts.next()?.parse().ok();
        let release = (next()?, next()?);
        Some(Version { mariadb: is_mariadb(text), release, patch: next().unwrap_or(0) })
    }
    /// Of one release, whatever the patch level.
    pub fn same_release(&self, other: &Version) -> bool {
        (self.mariadb, self.release) == (other.mariadb, other.release)
    }
}

fn is_mariadb(text: &str) -> bool {
    text.contains("MariaDB")
}

/// MariaDB says it to clients that know no version beyond MySQL's 5.
fn without_prefix(text: &str) -> &str {
    text.strip_prefix("5.5.5-").filter(|_| is_mariadb(text)).unwrap_or(text)
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
    if one.mariadb != other.mariadb {
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
