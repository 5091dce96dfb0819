//! What the programs on this host say of their version.
//!
//! Guarantees: asked once for each that are installed, and again when other files are found by their name.
//! Does not know: what a version brings.

use crate::Error;
use crate::files::{blocking, io, last_lines};
use crate::spec::Programs;
use holdfast_core::version::Version;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio::sync::Mutex;

/// Programs as they were when they said their version. Others by the same name differ in one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: PathBuf,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Installed(Mutex<Option<(Stamp, String)>>);

impl Installed {
    /// The version of the program `server`, which `read` finds in what it says when it is given `arguments`.
    pub(crate) async fn version(
        &self,
        programs: Programs,
        server: &'static str,
        arguments: &'static [&'static str],
        read: impl Fn(&str) -> Option<String> + Send + 'static,
    ) -> Result<String, Error> {
        let found = {
            let programs = programs.clone();
            blocking(move || stamp(&programs, server)).await?
        };
        let mut known = self.0.lock().await;
        if let Some((stamp, version)) = &*known
            && *stamp == found
        {
            return Ok(version.clone());
        }
        let version = blocking(move || ask(&programs.path(server), arguments, read)).await?;
        *known = Some((found, version.clone()));
        Ok(version)
    }
}

fn stamp(programs: &Programs, server: &str) -> Result<Stamp, Error> {
    let path = programs.find(server);
    let file = std::fs::canonicalize(&path).map_err(io("looking for", &path))?;
    let meta = std::fs::metadata(&file).map_err(io("looking at", &file))?;
    let changed = (meta.ctime(), meta.ctime_nsec());
    Ok(Stamp { inode: meta.ino(), bytes: meta.len(), changed, file })
}

fn ask(server: &Path, arguments: &[&str], read: impl Fn(&str) -> Option<String>) -> Result<String, Error> {
    let output =
        Command::new(server).args(arguments).stdin(Stdio::null()).output().map_err(io("running", server))?;
    let says = String::from_utf8_lossy(&output.stdout).into_owned();
    read(&says).filter(|v| Version::read(v).is_some()).ok_or_else(|| Error::Program {
        program: server.display().to_string(),
        words: format!(
            "it does not say its version: {}",
            last_lines(&[output.stdout, output.stderr].concat())
        ),
    })
}
