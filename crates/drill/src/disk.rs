//! A small file system of its own for a host's files, that can be filled to the last byte.

use crate::sandbox::{Error, file};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A tmpfs; unmounted when it is dropped. If this process is killed, the mount stays until `umount`.
pub struct SmallDisk {
    path: PathBuf,
}

const FILLER: &str = "filler";

impl SmallDisk {
    /// Needs root.
    pub fn mount(path: PathBuf, mib: u32) -> Result<SmallDisk, Error> {
        std::fs::create_dir_all(&path).map_err(|e| file("create", &path, e))?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(&path)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Error::Spawn { exe: "mount".into(), source })?;
        if output.status.success() {
            return Ok(SmallDisk { path });
        }
        let says = String::from_utf8_lossy(&output.stderr).trim().to_string();
        Err(Error::Mount { path, says })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file until nothing fits any more.
    pub fn fill(&self) -> Result<(), Error> {
        let path = self.path.join(FILLER);
        let mut filler = std::fs::File::create(&path).map_err(|e| file("create", &path, e))?;
        for block in [1 << 16, 1 << 9, 1] {
            while filler.write_all(&vec![0; block]).is_ok() {}
        }
        Ok(())
    }

    /// Makes room again.
    pub fn empty(&self) -> Result<(), Error> {
        let path = self.path.join(FILLER);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file("remove", &path, e)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).stdin(Stdio::null()).status();
    }
}
