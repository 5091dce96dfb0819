//! What only a returning instance has: found, counted and kept before anything is discarded (S10).
//!
//! Guarantees: transactions are counted one by one; the file exists, durably, before its count is told; what waits to
//! be judged stays until it has been compared with a history.
//! Does not know: whether the loss is acceptable, nor how a log is read: that is the flavour's.

use super::flavour::Save;
use super::{MySqlEngine, blocking, datadir, io};
use crate::{Error, Saved};
use holdfast_core::Position;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

impl MySqlEngine {
    pub(super) async fn save_what_only_we_have(&self, theirs: &Position) -> Result<Option<Saved>, Error> {
        let flavour = self.flavour;
        let job = Save {
            at: self.at.clone(),
            programs: self.spec.programs(),
            index: self.logs().binlog,
            theirs: theirs.clone(),
        };
        let saved = blocking(move || {
            let saved = flavour.save(&job)?;
            datadir::remove_dir(&job.at.pending())?;
            Ok(saved)
        })
        .await?;
        self.state().unjudged_transactions = 0;
        Ok(saved)
    }
}

/// Puts the content under a free name; the same content saved twice stays one file. Only its owner may read it.
pub(super) fn place(dir: &Path, name: &str, extension: &str, content: &[u8]) -> Result<PathBuf, Error> {
    const SAME_NAMES_MAX: usize = 1_000;
    for n in 0..SAME_NAMES_MAX {
        let suffix = if n == 0 { String::new() } else { format!(".{n}") };
        let path = dir.join(format!("only-here.{name}{suffix}.{extension}"));
        match fs::read(&path) {
            Ok(there) if there == content => return Ok(path),
            Ok(_) => continue,
            Err(_) => {}
        }
        let part = dir.join("placing.part");
        let write = || {
            let mut file = File::create(&part)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&part, &path)
        };
        write().map_err(io("saving", &path))?;
        datadir::sync_dir(dir)?;
        return Ok(path);
    }
    Err(Error::Precondition(format!("{} already holds {SAME_NAMES_MAX} files named {name}", dir.display())))
}
