//! Which versions meet: of a server elsewhere, of the programs on this host, and of what last used the data.
//!
//! Guarantees: data that a later version has used is never handed to an earlier one; data of an earlier release is brought
//! up to date before anything else is done with it, and what was interrupted is begun again.
//! Does not know: when to restart, nor who may follow whom: [`holdfast_core::version`] does.

use super::{Layout, MySqlEngine, blocking, datadir, io, raw};
use crate::Error;
use holdfast_core::version::{Version, must_not_succeed};
use holdfast_wire::greeting::Greeting;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A primary that does not greet within this is taken not to answer.
const GREETING: Duration = Duration::from_millis(300);

/// In the data directory: the last version that was started on it, and the last that it was brought up to date for.
const USED_BY: &str = "holdfast-used-by";
const UP_TO_DATE: &str = "holdfast-up-to-date";

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

impl MySqlEngine {
    pub(super) async fn installed_version(&self) -> Result<String, Error> {
        let (programs, server) = (self.spec.programs(), self.flavour.server());
        let found = programs.path(server);
        let version = self.installed.version(programs, server, &["--no-defaults", "--version"], read).await?;
        if Version::read(&version).is_some_and(|v| v.is_of(self.spec.engine)) {
            return Ok(version);
        }
        // MariaDB's package has a `mysqld`.
        Err(Error::BadSpec(format!(
            "{} is {version}, and the service is one of {}: name the directory of its programs with `programs` (`--programs` \
             of `dev` and `drill`)",
            found.display(),
            self.spec.engine.word()
        )))
    }

    /// Before a start: nothing older than what has used the data may be started on it.
    pub(super) async fn take_over_data(&self) -> Result<(), Error> {
        let version = self.installed_version().await?;
        let at = self.at.clone();
        blocking(move || {
            if let Some(last) = noted(&at, USED_BY)?
                && let Some(why) = must_not_succeed(&version, &last)
            {
                return Err(Error::BadSpec(why));
            }
            note(&at, USED_BY, &version)
        })
        .await
    }

    /// After a start, before anything else.
    pub(super) async fn bring_up_to_date(&self) -> Result<(), Error> {
        let version = self.installed_version().await?;
        let at = self.at.clone();
        let last = blocking(move || noted(&at, UP_TO_DATE)).await?;
        let last = last.or_else(|| self.flavour.up_to_date_for(&self.at));
        let read = |text: &str| Version::read(text);
        let same =
            last.as_deref().and_then(read).zip(read(&version)).is_some_and(|(a, b)| a.same_release(&b));
        if !same && let Some(mut upgrade) = self.flavour.upgrade(&self.spec.programs(), &self.at, &self.me) {
            tracing::info!(data = %self.at.data.display(), from = last, to = version, "upgrading what the data says of itself");
            upgrade.stdin(Stdio::null());
            let program = upgrade.get_program().to_string_lossy().into_owned();
            let running = tokio::process::Command::from(upgrade).kill_on_drop(true).output();
            let patience = Duration::from_millis(super::UPGRADE_MS);
            let output = timeout(patience, running)
                .await
                .map_err(|_| Error::Unresponsive { doing: "upgrading", after_ms: super::UPGRADE_MS })?
                .map_err(io("running", Path::new(&program)))?;
            if !output.status.success() {
                let words = datadir::last_lines(&[output.stdout, output.stderr].concat());
                return Err(Error::Program { program, words });
            }
        }
        let at = self.at.clone();
        blocking(move || note(&at, UP_TO_DATE, &version)).await
    }
}

/// What a copy is up to date for: what its donor was.
pub(super) fn note_copy(data: &Path, donor: &str) -> Result<(), Error> {
    [USED_BY, UP_TO_DATE].iter().try_for_each(|name| datadir::write_whole(&data.join(name), donor))
}

fn noted(at: &Layout, name: &str) -> Result<Option<String>, Error> {
    let path = at.data.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io("reading", &path)(e)),
    }
}

fn note(at: &Layout, name: &str, version: &str) -> Result<(), Error> {
    if noted(at, name)?.as_deref() == Some(version) {
        return Ok(());
    }
    datadir::write_whole(&at.data.join(name), version)
}

/// `mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)`
fn read(says: &str) -> Option<String> {
    let (_, rest) = says.split_once(" Ver ")?;
    Some(rest.split(" for ").next()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn programs_say_their_version() {
        for (says, version) in [
            (
                "mariadbd  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)\n",
                "10.11.19-MariaDB-0+deb12u1",
            ),
            (
                "/x/mariadbd  Ver 11.8.9-MariaDB-0+deb13u1 from Debian for debian-linux-gnu on x86_64 (-- Please help)",
                "11.8.9-MariaDB-0+deb13u1 from Debian",
            ),
            ("/x/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))\n", "9.7.4-2"),
        ] {
            assert_eq!(super::read(says).as_deref(), Some(version));
        }
        assert_eq!(super::read("command not found"), None);
    }
}
