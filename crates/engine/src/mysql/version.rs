//! Who may follow whom.
//!
//! Guarantees: the rule of both vendors: a replica is of its primary's release or a later one, and of its kind.
//! Does not know: what a version brings. An unreadable one is refused (S11).

use super::raw;
use holdfast_wire::greeting::Greeting;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A primary that does not greet within this is not asked; following it will show whether it answers at all.
const GREETING: Duration = Duration::from_millis(300);

/// What a server calls itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    mariadb: bool,
    /// Patch levels of one release replicate both ways.
    release: (u32, u32),
}

impl Version {
    fn read(text: &str) -> Option<Version> {
        let mariadb = text.contains("MariaDB");
        // For clients that know no version beyond MySQL's 5.
        let number = text.strip_prefix("5.5.5-").filter(|_| mariadb).unwrap_or(text);
        let mut parts = number.split(|c: char| !c.is_ascii_digit());
        let mut next = || parts.next()?.parse().ok();
        Some(Version { mariadb, release: (next()?, next()?) })
    }
}

/// Why a server of version `mine` must not follow one of version `theirs`.
pub(super) fn must_not_follow(mine: &str, theirs: &str) -> Option<String> {
    let (Some(me), Some(they)) = (Version::read(mine), Version::read(theirs)) else {
        return Some(format!("the versions {mine:?} and {theirs:?} cannot be compared"));
    };
    if me.mariadb != they.mariadb {
        return Some(format!(
            "{mine} and {theirs} are not the same kind of server; they never mix in one group"
        ));
    }
    (me.release < they.release).then(|| {
        format!(
            "{mine} is older than its primary, {theirs}, and could not apply what that writes: upgrade it"
        )
    })
}

/// How the server at `addr` calls itself, if it answers now.
pub(super) async fn of(addr: SocketAddr) -> Option<String> {
    let greeting = async {
        let mut stream = TcpStream::connect(addr).await.ok()?;
        let (_, payload) = raw::read(&mut stream).await.ok()?;
        Greeting::parse(&payload).ok()
    };
    let greeting = timeout(GREETING, greeting).await.ok()??;
    Some(String::from_utf8_lossy(&greeting.server_version).into_owned())
}

#[cfg(test)]
mod tests {
    use super::must_not_follow;

    #[test]
    fn a_replica_is_as_new_as_its_primary_and_of_its_kind() {
        let maria = "5.5.5-10.11.19-MariaDB-0+deb12u1-log";
        for (mine, theirs) in [
            ("9.7.4-2", "8.4.3"),
            ("8.4.3", "8.4.9"),
            ("10.11.19-MariaDB-log", maria),
            ("11.8.3-MariaDB", maria),
        ] {
            assert_eq!(must_not_follow(mine, theirs), None, "{mine} {theirs}");
        }
        for (mine, theirs) in [
            ("8.4.3", "9.7.4-2"),
            ("9.7.4", "9.10.0"),
            ("9.7.4", maria),
            (maria, "9.7.4"),
            ("10.11.19-MariaDB", "5.5.5-11.8.3-MariaDB"),
            ("x", "9.7.4"),
        ] {
            assert!(must_not_follow(mine, theirs).is_some(), "{mine} {theirs}");
        }
    }
}
