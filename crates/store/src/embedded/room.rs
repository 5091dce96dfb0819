//! Space on the disk that a voter holds in reserve, so that it goes on voting when something else fills the disk.
//!
//! Guarantees: the file's length never changes by it; where the file system knows no reservation (copy on write), a
//! full disk stops the voter as without one.
//! Does not know: what is in the file.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes in reserve beyond the end of the file. The log is cut at 5,000 entries, of some 200 bytes mostly.
const RESERVE_BYTES: u64 = 16 << 20;
/// What `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    file: File,
    /// The file system takes the request and holds nothing for it.
    in_vain: AtomicBool,
}

impl Room {
    /// Of a file that exists. Nothing is reserved yet.
    pub(super) fn of(path: &Path) -> io::Result<Room> {
        let file = File::options().write(true).open(path)?;
        Ok(Room { file, in_vain: AtomicBool::new(false) })
    }

    /// Makes the reserve, if it was eaten into or given free: a shorter file does that, though it may be as long as before by
    /// now. A disk that has too little left is no error: it is asked again after the next write.
    pub(super) fn keep(&self) {
        let look = || self.file.metadata().map(|m| (m.len(), m.blocks() * BLOCK_BYTES));
        let is_there = |(len, held): (u64, u64)| held >= len + RESERVE_BYTES / 2;
        let Ok(now) = look() else { return };
        if is_there(now) || self.in_vain.load(Ordering::Relaxed) {
            return;
        }
        let reserved = fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, now.0 + RESERVE_BYTES);
        let in_vain = reserved.is_ok() && !look().is_ok_and(is_there)
            || reserved.is_err_and(|e| e == rustix::io::Errno::OPNOTSUPP);
        self.in_vain.store(in_vain, Ordering::Relaxed);
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
        // A shorter file gives it free, also if it is soon longer again.
        let file = File::options().write(true).open(&path).unwrap();
        for lengths in [&[50_000][..], &[40_000, 200_000]] {
            lengths.iter().for_each(|len| file.set_len(*len).unwrap());
            assert!(held() < RESERVE_BYTES, "{lengths:?}: {}", held());
            room.keep();
            assert!(held() > RESERVE_BYTES, "{lengths:?}: {}", held());
        }
        assert!(!room.in_vain.load(Ordering::Relaxed));
    }
}
