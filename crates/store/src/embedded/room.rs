//! Space on the disk that a voter holds in reserve, so that it goes on voting when something else fills the disk.
//!
//! Guarantees: the file's length never changes by it; where the file system knows no reservation (copy on write), a
//! full disk stops the voter as without one.
//! Does not know: what is in the file.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes in reserve beyond the end of the file. The log is cut at 5,000 entries, of some 200 bytes mostly.
const RESERVE_BYTES: u64 = 16 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    file: File,
    /// Length of the file when the reserve was last made.
    reserved_at: AtomicU64,
}

impl Room {
    /// Of a file that exists. Nothing is reserved yet.
    pub(super) fn of(path: &Path) -> io::Result<Room> {
        let file = File::options().write(true).open(path)?;
        Ok(Room { file, reserved_at: AtomicU64::new(0) })
    }

    /// Makes the reserve, if it was eaten into or given free by a shorter file. A disk that has too little left is no
    /// error: it is asked again after the next write.
    pub(super) fn keep(&self) {
        let Ok(len) = self.file.metadata().map(|m| m.len()) else { return };
        let at = self.reserved_at.load(Ordering::Relaxed);
        if at != 0 && (at..at + RESERVE_BYTES / 2).contains(&len) {
            return;
        }
        let reserved = fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, len + RESERVE_BYTES);
        self.reserved_at.store(reserved.map_or(0, |()| len), Ordering::Relaxed);
    }
}

/// True if `e` says that there is no more room, which may change, and not that the disk is broken.
pub(super) fn is_lacking(e: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_reserve_is_on_the_disk_and_not_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let room = Room::of(&path).unwrap();
        let held = || std::fs::metadata(&path).unwrap().blocks() * 512;
        room.keep();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 100_000);
        assert!(held() > RESERVE_BYTES, "{}", held());
        // A shorter file gives it free.
        File::options().write(true).open(&path).unwrap().set_len(50_000).unwrap();
        assert!(held() < RESERVE_BYTES, "{}", held());
        room.keep();
        assert!(held() > RESERVE_BYTES, "{}", held());
    }
}
