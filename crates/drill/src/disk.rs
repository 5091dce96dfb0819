//! File systems that are filled to the last byte: any, by a file, and a small one of its own for a sandbox's host.

use crate::sandbox::{Error, file};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A tmpfs; unmounted when it is dropped. If this process is killed, the mount stays until `umount`.
pub struct SmallDisk {
    path: PathBuf,
}

const FILLER: &str = "filler";
/// Less is written, not reserved.
const BLOCK: u64 = 4_096;

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
        fill(&path, || true).map_err(|e| file("fill", &path, e))
    }

    /// Makes room again.
    pub fn empty(&self) -> Result<(), Error> {
        let path = self.path.join(FILLER);
        empty(&path).map_err(|e| file("remove", &path, e))
    }
}

/// Creates a file that leaves no room on its file system, unless `go_on` says no before. What can be reserved is
/// reserved, the rest written.
pub fn fill(path: &Path, go_on: impl Fn() -> bool) -> std::io::Result<()> {
    let mut filler = std::fs::File::create(path)?;
    let (mut length, mut step) = (0, rustix::fs::fstatvfs(&filler).map(|s| s.f_bfree * s.f_frsize)?);
    while step >= BLOCK && go_on() {
        match rustix::fs::fallocate(&filler, FallocateFlags::empty(), length, step) {
            Ok(()) => length += step,
            Err(Errno::NOSPC | Errno::FBIG | Errno::INTR) => step /= 2,
            // Not on every file system.
            Err(_) => break,
        }
    }
    filler.seek(SeekFrom::End(0))?;
    for block in [1 << 16, 1 << 9, 1] {
        while go_on() && filler.write_all(&vec![0; block]).is_ok() {}
    }
    Ok(())
}

/// Makes room again.
pub fn empty(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).stdin(Stdio::null()).status();
    }
}
