//! From a backup back to files.
//!
//! Guarantees: every block that is written has the hash that was recorded; the destination appears whole or not at all;
//! what is restored stays in the repository meanwhile. Memory is bounded. Does not know: what the files are.

use crate::Error;
use crate::id::BackupId;
use crate::key::HASH_BYTES;
use crate::manifest::{Entry, SegmentAt, Summary, What};
use crate::map::{Block, Frame, Segment};
use crate::object::FRAME_BYTES_MAX;
use crate::pin::Pin;
use crate::progress::Progress;
use crate::repository::{Frames, Repository};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Frames next to each other are fetched together, up to this much.
const FETCH_BYTES_MAX: u64 = 4 << 20;
/// Fetched runs and opened frames that each thread keeps.
const FETCHES_KEPT: usize = 4;
const FRAMES_KEPT: usize = 16;
/// Left free on the file system.
const ROOM_BYTES: u64 = 64 << 20;

/// A backup that is being read; nobody removes it meanwhile.
pub struct Reading {
    repository: Repository,
    pub summary: Summary,
    entries: Vec<Entry>,
    _pin: Pin,
}

impl Repository {
    /// Holds a backup for reading. `purpose` is shown to whoever wants to remove it.
    pub fn read(
        &self,
        service: &str,
        id: &BackupId,
        purpose: &str,
        now_unix_ms: u64,
    ) -> Result<Reading, Error> {
        let session = BackupId::new(now_unix_ms);
        let (pin, condemned) = Pin::set(self, &session, purpose, vec![id.clone(), session.clone()])?;
        let (summary, entries) = self.manifest(service, id)?;
        let needs = summary.packs.iter().any(|p| condemned.packs.contains(&p.id));
        if needs || condemned.backups.contains(id) {
            return Err(Error::BeingRemoved(id.clone()));
        }
        Ok(Reading { repository: self.clone(), summary, entries, _pin: pin })
    }
}

/// Files beside their destination, until [`Staged::finish`] puts them there. Removed if that never happens.
#[derive(Debug)]
pub struct Staged {
    staging: PathBuf,
    destination: PathBuf,
    done: bool,
    /// The staging directory, locked: two restores to one place would mix their files.
    _lock: File,
}

impl Staged {
    /// `destination` does not exist or is empty, and is not the root of a file system.
    pub fn begin(destination: &Path) -> Result<Staged, Error> {
        let destination = std::path::absolute(destination).map_err(Error::io("resolving", destination))?;
        let parent = destination.parent().unwrap_or(Path::new("/")).to_owned();
        fs::create_dir_all(&parent).map_err(Error::io("creating", &parent))?;
        if let Ok(mut there) = fs::read_dir(&destination) {
            if there.next().is_some() {
                return Err(Error::Occupied(destination));
            }
            let device = |p: &Path| fs::metadata(p).map(|m| m.dev()).map_err(Error::io("looking at", p));
            if device(&destination)? != device(&parent)? {
                return Err(Error::MountPoint(destination));
            }
        } else if fs::symlink_metadata(&destination).is_ok() {
            return Err(Error::Occupied(destination));
        }
        let mut name = destination.file_name().unwrap_or_default().to_owned();
        name.push(".restoring");
        let staging = parent.join(name);
        let lock = lock(&staging)?;
        clear(&staging).map_err(Error::io("removing what an interrupted restore left in", &staging))?;
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&staging, closed).map_err(Error::io("protecting", &staging))?;
        Ok(Staged { staging, destination, done: false, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.staging
    }

    /// Everything is durable and under its name when this returns.
    pub fn finish(mut self) -> Result<(), Error> {
        let sync = |p: &Path| -> std::io::Result<()> { Ok(rustix::fs::syncfs(File::open(p)?)?) };
        sync(&self.staging).map_err(Error::io("syncing", &self.staging))?;
        fs::rename(&self.staging, &self.destination)
            .map_err(Error::io("putting in place", &self.destination))?;
        self.done = true;
        let parent = self.destination.parent().unwrap_or(Path::new("/"));
        File::open(parent).and_then(|d| d.sync_all()).map_err(Error::io("syncing", parent))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_dir_all(&self.staging);
        }
    }
}

/// Makes the staging directory if it is not there, and locks it. Who else restores to the same place is refused.
fn lock(staging: &Path) -> Result<File, Error> {
    match fs::create_dir(staging) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io("creating", staging)(e));
        }
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(staging, flags, Mode::empty());
    let dir = File::from(opened.map_err(|e| Error::io("opening", staging)(e.into()))?);
    match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Err(Error::StagingHeld(staging.to_owned())),
        locked => locked.map_err(|e| Error::io("locking", staging)(e.into()))?,
    }
    // Between opening and locking, its last holder may have put it in place or removed it.
    let place = |m: fs::Metadata| (m.dev(), m.ino());
    let held = dir.metadata().map(place).map_err(Error::io("looking at", staging))?;
    if fs::symlink_metadata(staging).map(place).ok() != Some(held) {
        return Err(Error::StagingHeld(staging.to_owned()));
    }
    Ok(dir)
}

/// Removes all that is in a directory, and leaves the directory: the lock is on it.
fn clear(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A segment of a file, to be restored by whoever is free.
struct Task {
    file: usize,
    offset: u64,
    at: SegmentAt,
}

impl Reading {
    /// Writes every file below `into`, an empty directory.
    pub fn restore(&self, into: &Path, threads: usize, progress: &Progress) -> Result<(), Error> {
        self.check_room(into)?;
        let (links, others): (Vec<&Entry>, Vec<&Entry>) =
            self.entries.iter().partition(|e| matches!(e.what, What::Link { .. }));
        others.into_iter().try_for_each(|entry| create(into, entry))?;
        let open = |entry: &Entry| {
            let path = into.join(&entry.path);
            File::options().write(true).open(&path).map(Some).map_err(Error::io("opening", &path))
        };
        self.each_segment(threads, progress, &open)?;
        // Links last: nothing is ever written through one.
        links.into_iter().try_for_each(|entry| create(into, entry))?;
        self.set_modes(into)
    }

    /// Reads and checks every block, and writes nothing.
    pub fn check(&self, threads: usize, progress: &Progress) -> Result<(), Error> {
        self.each_segment(threads, progress, &|_| Ok(None))
    }

    fn check_room(&self, into: &Path) -> Result<(), Error> {
        let stat = rustix::fs::statvfs(into).map_err(|e| Error::io("looking at", into)(e.into()))?;
        let (free_bytes, needed_bytes) = (stat.f_bavail * stat.f_frsize, self.summary.raw_bytes + ROOM_BYTES);
        if free_bytes < needed_bytes {
            return Err(Error::NoRoom { path: into.to_owned(), needed_bytes, free_bytes });
        }
        Ok(())
    }

    fn each_segment(
        &self,
        threads: usize,
        progress: &Progress,
        open: &(dyn Fn(&Entry) -> Result<Option<File>, Error> + Sync),
    ) -> Result<(), Error> {
        progress.expect(self.summary.raw_bytes);
        let mut tasks = Vec::new();
        for (file, entry) in self.entries.iter().enumerate() {
            let What::File { segments, .. } = &entry.what else { continue };
            let mut offset = 0;
            for at in segments {
                tasks.push(Task { file, offset, at: *at });
                offset += at.3;
            }
        }
        let frames = Arc::new(Frames::new(self.repository.clone()));
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failure = Mutex::new(None);
        let work = || {
            let mut hand = Hand::new(&frames, self.repository.key.hash_key());
            while let Some(task) = tasks.get(next.fetch_add(1, Relaxed)).filter(|_| !failed.load(Relaxed)) {
                let entry = &self.entries[task.file];
                let done = progress.check().and_then(|()| {
                    let file = open(entry)?;
                    let pack = &self.summary.packs[task.at.0 as usize].id;
                    hand.segment(task, pack, file.as_ref(), &entry.path, progress)
                });
                if let Err(e) = done {
                    failed.store(true, Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                }
            }
        };
        std::thread::scope(|scope| (0..threads.max(1)).for_each(|_| _ = scope.spawn(work)));
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Last, since a directory may be closed to its own writer.
    fn set_modes(&self, into: &Path) -> Result<(), Error> {
        for entry in self.entries.iter().rev() {
            if let Some(mode) = entry.mode.filter(|_| !matches!(entry.what, What::Link { .. })) {
                let path = into.join(&entry.path);
                fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))
                    .map_err(Error::io("setting the mode of", &path))?;
            }
        }
        Ok(())
    }
}

fn create(into: &Path, entry: &Entry) -> Result<(), Error> {
    let path = into.join(&entry.path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io("creating", parent))?;
    }
    match &entry.what {
        What::File { size, .. } => {
            let make = || File::options().write(true).create_new(true).open(&path)?.set_len(*size);
            make().map_err(Error::io("creating", &path))
        }
        What::Directory => fs::create_dir_all(&path).map_err(Error::io("creating", &path)),
        What::Link { target } => {
            std::os::unix::fs::symlink(target, &path).map_err(Error::io("creating", &path))
        }
    }
}

/// What one thread works with.
struct Hand<'a> {
    frames: &'a Frames,
    hash_key: [u8; 32],
    /// Pack, offset, sealed bytes.
    fetched: VecDeque<(crate::id::PackId, u32, Vec<u8>)>,
    /// Pack, offset, content.
    opened: VecDeque<(crate::id::PackId, u32, Vec<u8>)>,
}

impl<'a> Hand<'a> {
    fn new(frames: &'a Frames, hash_key: [u8; 32]) -> Hand<'a> {
        Hand { frames, hash_key, fetched: VecDeque::new(), opened: VecDeque::new() }
    }

    fn segment(
        &mut self,
        task: &Task,
        pack: &crate::id::PackId,
        file: Option<&File>,
        path: &str,
        progress: &Progress,
    ) -> Result<(), Error> {
        let SegmentAt(_, offset, sealed, span) = task.at;
        let segment = self.frames.segment(pack, offset, sealed)?;
        if segment.span() != span {
            return Err(Error::damaged(
                &pack.object(),
                u64::from(offset),
                "a map covers another part of its file",
            ));
        }
        let hash_key = self.hash_key;
        let (mut at, mut blocks) = (task.offset, segment.blocks.as_slice());
        while let Some(first) = blocks.first() {
            let (run, rest) = blocks.split_at(run_length(blocks));
            blocks = rest;
            let length: usize = run.iter().map(|b| b.length as usize).sum();
            // Zero bytes are there already: the file has its size.
            if let Some((number, begin)) = first.at {
                let frame = segment.frames[number as usize];
                let pack = &segment.packs[frame.pack as usize];
                let content = &self.content(&segment, frame)?[begin as usize..begin as usize + length];
                if !as_recorded(&hash_key, run, content) {
                    let what = format!("a block of {path} at byte {at} is not what was backed up");
                    return Err(Error::damaged(&pack.object(), u64::from(frame.offset), &what));
                }
                if let Some(file) = file {
                    file.write_all_at(content, at).map_err(Error::io("writing", Path::new(path)))?;
                }
            }
            at += length as u64;
            progress.add_raw(length as u64);
        }
        Ok(())
    }

    /// The content of a frame, kept for the next block of it.
    fn content(&mut self, segment: &Segment, frame: Frame) -> Result<&[u8], Error> {
        let pack = &segment.packs[frame.pack as usize];
        let known = self.opened.iter().position(|(p, offset, _)| (p, *offset) == (pack, frame.offset));
        let opened = match known.and_then(|at| self.opened.remove(at)) {
            Some(opened) => opened,
            None => {
                let spare = if self.opened.len() < FRAMES_KEPT { None } else { self.opened.pop_front() };
                let mut content = spare.map(|(.., content)| content).unwrap_or_default();
                let mut sealed = self.sealed(segment, frame)?;
                self.frames.seal(pack)?.open(
                    u64::from(frame.offset),
                    &mut sealed,
                    FRAME_BYTES_MAX,
                    &mut content,
                )?;
                if content.len() != frame.content as usize {
                    let what = "a frame has another size than its map says";
                    return Err(Error::damaged(&pack.object(), u64::from(frame.offset), what));
                }
                (pack.clone(), frame.offset, content)
            }
        };
        self.opened.push_back(opened);
        Ok(self.opened.back().map_or(&[], |(.., content)| content))
    }

    /// The sealed bytes of a frame; its neighbours that this segment needs come with it.
    fn sealed(&mut self, segment: &Segment, frame: Frame) -> Result<Vec<u8>, Error> {
        let pack = &segment.packs[frame.pack as usize];
        let slice = |begin: u32, bytes: &[u8]| -> Option<Vec<u8>> {
            let from = frame.offset.checked_sub(begin)? as usize;
            Some(bytes.get(from..from.checked_add(frame.sealed as usize)?)?.to_vec())
        };
        let kept = self.fetched.iter().filter(|(p, ..)| p == pack);
        if let Some(sealed) = kept.filter_map(|(_, begin, bytes)| slice(*begin, bytes)).next() {
            return Ok(sealed);
        }
        let length = neighbours(&segment.frames, frame);
        let bytes = self.frames.sealed(pack, frame.offset, length)?;
        let sealed = bytes[..frame.sealed as usize].to_vec();
        if self.fetched.len() >= FETCHES_KEPT {
            self.fetched.pop_front();
        }
        self.fetched.push_back((pack.clone(), frame.offset, bytes));
        Ok(sealed)
    }
}

/// How many blocks from the first on lie behind one another in one frame (or are zero bytes).
fn run_length(blocks: &[Block]) -> usize {
    let follows = |pair: &&[Block]| match (pair[0].at, pair[1].at) {
        (None, None) => true,
        (Some((a, from)), Some((b, to))) => a == b && from + pair[0].length == to,
        _ => false,
    };
    1 + blocks.windows(2).take_while(follows).count()
}

fn as_recorded(hash_key: &[u8; 32], blocks: &[Block], mut content: &[u8]) -> bool {
    blocks.iter().all(|block| {
        let (bytes, rest) = content.split_at(block.length as usize);
        content = rest;
        blake3::keyed_hash(hash_key, bytes).as_bytes()[..HASH_BYTES] == block.hash
    })
}

/// Bytes from `first` on that consist of frames of this segment, without a gap.
fn neighbours(frames: &[Frame], first: Frame) -> u64 {
    let mut after: Vec<&Frame> =
        frames.iter().filter(|f| f.pack == first.pack && f.offset > first.offset).collect();
    after.sort_by_key(|f| f.offset);
    let mut length = u64::from(first.sealed);
    for f in after {
        let gap = u64::from(f.offset) != u64::from(first.offset) + length;
        if gap || length + u64::from(f.sealed) > FETCH_BYTES_MAX {
            break;
        }
        length += u64::from(f.sealed);
    }
    length
}
