//! Looking at every byte of a repository.
//!
//! Guarantees: a bit that is not as it was written is found, and its object and place are named, with the backups that
//! suffer. Changes nothing. Does not know: whether an engine can start on what is restored.

use crate::Error;
use crate::id::{self, BackupId, PACKS, PROOFS, PackId};
use crate::manifest::{Summary, What};
use crate::map::{self, IndexEntry};
use crate::object::{FRAME_BYTES_MAX, HEADER_BYTES, Kind, Seal};
use crate::progress::Progress;
use crate::repository::{Frames, Repository};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Damages listed; there may be more.
const FINDINGS_MAX: usize = 1_000;
/// Content of an index: a pack that was closed by its size alone may have a million frames.
const INDEX_BYTES_MAX: usize = 32 << 20;

/// What a check found.
#[derive(Debug, Default)]
pub struct Checked {
    pub packs: usize,
    pub frames: usize,
    pub bytes: u64,
    pub backups: usize,
    /// Of kept logs.
    pub segments: usize,
    pub findings: Vec<Finding>,
}

/// Something that is not as it was written.
#[derive(Debug)]
pub struct Finding {
    pub error: Error,
    /// Backups that cannot be restored because of it.
    pub backups: Vec<BackupId>,
}

#[derive(Default)]
struct Packs {
    frames: BTreeMap<PackId, BTreeSet<(u32, u32)>>,
    damaged: BTreeMap<PackId, Vec<Error>>,
}

impl Repository {
    /// Reads everything.
    pub fn check(&self, threads: usize, progress: &Progress) -> Result<Checked, Error> {
        let mut checked = Checked::default();
        let mut findings = Vec::new();
        let mut find = |error: Error, backups: Vec<BackupId>| findings.push(Finding { error, backups });
        if let Err(e) = self.check_descriptor() {
            find(e, Vec::new());
        }
        let listing = self.list(None)?;
        checked.backups = listing.backups.len();
        for (name, e) in listing.unreadable {
            find(e, id::of_manifest_object(&name).map(|(_, id)| id).into_iter().collect());
        }
        for proof in self.storage.list(PROOFS)? {
            if let Err(e) = self.proof(&proof.name) {
                find(e, Vec::new());
            }
        }
        let packs = self.check_packs(threads, progress, &mut checked)?;
        for (pack, errors) in packs.damaged {
            let suffer = listing.backups.iter().filter(|b| b.packs.iter().any(|p| p.id == pack));
            let suffer: Vec<BackupId> = suffer.map(|b| b.id.clone()).collect();
            errors.into_iter().for_each(|e| find(e, suffer.clone()));
        }
        let frames = Frames::new(self.clone());
        for backup in &listing.backups {
            progress.check()?;
            if let Err(e) = self.check_backup(backup, &frames, &packs.frames) {
                find(e, vec![backup.id.clone()]);
            }
        }
        let (segments, bytes) = self.check_logs(&mut |e| find(e, Vec::new()))?;
        (checked.segments, checked.bytes) = (segments, checked.bytes + bytes);
        findings.truncate(FINDINGS_MAX);
        checked.findings = findings;
        Ok(checked)
    }

    fn check_packs(
        &self,
        threads: usize,
        progress: &Progress,
        checked: &mut Checked,
    ) -> Result<Packs, Error> {
        let objects = self.storage.list(PACKS)?;
        checked.packs = objects.len();
        checked.bytes = objects.iter().map(|o| o.bytes).sum();
        progress.expect(checked.bytes);
        let (next, packs) = (AtomicUsize::new(0), Mutex::new(Packs::default()));
        let work = || {
            while let Some(object) = objects.get(next.fetch_add(1, Relaxed)) {
                if progress.check().is_err() {
                    return;
                }
                let Some(id) = PackId::of_object(&object.name) else { continue };
                let outcome = self.check_pack(&id);
                let mut packs = packs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                match outcome {
                    Ok((entries, damaged)) => {
                        let places = entries.iter().map(|e| (e.offset, e.sealed)).collect();
                        packs.frames.insert(id.clone(), places);
                        if !damaged.is_empty() {
                            packs.damaged.insert(id, damaged);
                        }
                    }
                    Err(e) => _ = packs.damaged.insert(id, vec![e]),
                }
                progress.add_raw(object.bytes);
            }
        };
        std::thread::scope(|scope| (0..threads.max(1)).for_each(|_| _ = scope.spawn(work)));
        progress.check()?;
        let packs = packs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        checked.frames = packs.frames.values().map(BTreeSet::len).sum();
        Ok(packs)
    }

    /// Its frames, and those that are damaged.
    fn check_pack(&self, id: &PackId) -> Result<(Vec<IndexEntry>, Vec<Error>), Error> {
        let name = id.object();
        let mut bytes = self.storage.read(&name)?;
        let bad = |at: usize, what: &str| Error::damaged(&name, at as u64, what);
        let seal = Seal::read(&self.key, Kind::Pack, &name, &bytes)?;
        let end = bytes.len().checked_sub(4).filter(|end| *end >= HEADER_BYTES);
        let end = end.ok_or_else(|| bad(bytes.len(), "it is cut off"))?;
        let length = bytes[end..].try_into().map_or(0, u32::from_le_bytes) as usize;
        let begin = end.checked_sub(length).filter(|at| *at >= HEADER_BYTES);
        let begin = begin.ok_or_else(|| bad(end, "the size of its index is impossible"))?;
        let mut content = Vec::new();
        seal.open(begin as u64, &mut bytes[begin..end], INDEX_BYTES_MAX, &mut content)?;
        let entries =
            map::decode_index(&content).ok_or_else(|| bad(begin, "its index contradicts itself"))?;
        let (mut at, mut damaged) = (HEADER_BYTES, Vec::new());
        for entry in &entries {
            let after = at + entry.sealed as usize;
            if entry.offset as usize != at || after > begin {
                return Err(bad(begin, "its index does not fit its frames"));
            }
            match seal.open(at as u64, &mut bytes[at..after], FRAME_BYTES_MAX, &mut content) {
                Ok(()) if content.len() == entry.content as usize => {}
                Ok(()) => damaged.push(bad(at, "a frame has another size than its index says")),
                Err(e) => damaged.push(e),
            }
            at = after;
        }
        if at != begin {
            return Err(bad(at, "something lies between its frames and its index"));
        }
        Ok((entries, damaged))
    }

    /// Everything that a backup points to is there.
    fn check_backup(
        &self,
        backup: &Summary,
        frames: &Frames,
        packs: &BTreeMap<PackId, BTreeSet<(u32, u32)>>,
    ) -> Result<(), Error> {
        let (summary, entries) = self.manifest(&backup.service, &backup.id)?;
        let there = |pack: &PackId, offset: u32, sealed: u32| match packs.get(pack) {
            // Damaged, which was said of the pack, or missing.
            None => self.storage.read_range(&pack.object(), 0, 1).map(|_| ()).map_err(Error::from),
            Some(places) if places.contains(&(offset, sealed)) => Ok(()),
            Some(_) => {
                Err(Error::damaged(&pack.object(), u64::from(offset), "a frame that is needed is missing"))
            }
        };
        for entry in &entries {
            let What::File { segments, .. } = &entry.what else { continue };
            for at in segments {
                let pack = &summary.packs[at.0 as usize].id;
                there(pack, at.1, at.2)?;
                let segment = frames.segment(pack, at.1, at.2)?;
                if segment.span() != at.3 {
                    let what = "a map covers another part of its file";
                    return Err(Error::damaged(&pack.object(), u64::from(at.1), what));
                }
                for f in &segment.frames {
                    there(&segment.packs[f.pack as usize], f.offset, f.sealed)?;
                }
            }
        }
        Ok(())
    }
}
