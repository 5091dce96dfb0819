//! How far a backup, restore or check has come. Written by its threads, read by whoever shows it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counters that only grow, and a way to stop.
#[derive(Debug, Default)]
pub struct Progress {
    raw: AtomicU64,
    new: AtomicU64,
    stored: AtomicU64,
    expected: AtomicU64,
    stop: AtomicBool,
}

/// A reading of [`Progress`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Content that was read, or written by a restore.
    pub raw: u64,
    /// Content that the repository did not have.
    pub new: u64,
    /// What was put into the repository.
    pub stored: u64,
    /// Content there will be; 0 if not known.
    pub expected: u64,
}

impl Progress {
    pub fn read(&self) -> Reading {
        Reading {
            raw: self.raw.load(Relaxed),
            new: self.new.load(Relaxed),
            stored: self.stored.load(Relaxed),
            expected: self.expected.load(Relaxed),
        }
    }
    pub fn expect(&self, bytes: u64) {
        self.expected.store(bytes, Relaxed);
    }
    /// Asks the work to end with [`crate::Error::Stopped`], soon.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
    /// So much more was read. Fails once [`Progress::stop`] was called.
    pub fn read_raw(&self, bytes: u64) -> Result<(), crate::Error> {
        self.add_raw(bytes);
        self.check()
    }
    pub(crate) fn check(&self) -> Result<(), crate::Error> {
        if self.stop.load(Relaxed) { Err(crate::Error::Stopped) } else { Ok(()) }
    }
    pub(crate) fn add_raw(&self, bytes: u64) {
        self.raw.fetch_add(bytes, Relaxed);
    }
    pub(crate) fn add_new(&self, bytes: u64) {
        self.new.fetch_add(bytes, Relaxed);
    }
    pub(crate) fn add_stored(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Relaxed);
    }
}
