//! Making a backup: files in, packs and one manifest out.
//!
//! Guarantees: the manifest is written last, and only by [`Writer::commit`]; before that, and after any failure, no
//! backup exists. Files may come interleaved. Memory is bounded by the number of files open at once. Does not know:
//! what the files are.

use crate::cut::Cutter;
use crate::id::{self, BackupId};
use crate::key::{DataKey, HASH_BYTES};
use crate::manifest::{self, Cut, Entry, FILES_MAX, FORMAT, Pack, SegmentAt, Summary, What};
use crate::map::SEGMENT_BLOCKS_MAX;
use crate::object::{self, FRAME_BYTES_MAX, Kind, PART_BYTES_MAX, Seal};
use crate::parent::{self, Known, Parent};
use crate::pin::Pin;
use crate::pipeline::{self, At, Outcome, PackAt, Pipeline, Placed, Run};
use crate::progress::Progress;
use crate::prune::Condemned;
use crate::repository::Repository;
use crate::{Error, storage};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Of zstd: the knee of size over time on database pages.
pub(crate) const LEVEL: i32 = 3;
/// Files that may be open at once: each holds a frame and a map.
const OPEN_FILES_MAX: usize = 64;

/// What is known before a backup begins.
#[derive(Debug, Clone)]
pub struct Begin {
    pub service: String,
    pub engine: String,
    pub version: String,
    pub method: String,
    pub origin: String,
    pub now_unix_ms: u64,
    /// Rely on nothing that is in the repository.
    pub full: bool,
    /// Compressing threads.
    pub threads: usize,
    pub progress: Arc<Progress>,
}

/// What is known when its producer has said that it is complete.
#[derive(Debug, Clone, Default)]
pub struct Completion {
    pub position: Option<String>,
    pub facts: BTreeMap<String, String>,
    pub now_unix_ms: u64,
}

/// A file that is open, of one [`Writer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(u32);

struct OpenFile {
    path: String,
    mode: Option<u32>,
    cut: Cut,
    cutter: Cutter,
    filing: Filing,
}

/// Where the blocks of an open file go.
struct Filing {
    known: Known,
    size: u64,
    blocks_before: u64,
    /// Content of the frame that is being filled.
    frame: Vec<u8>,
    /// Blocks in it are the last `in_frame` of `blocks`.
    in_frame: usize,
    blocks: Vec<Placed>,
}

/// See the module.
pub struct Writer {
    repository: Repository,
    begin: Begin,
    id: BackupId,
    sequence: u64,
    data_key: DataKey,
    hash_key: [u8; 32],
    // The pipeline goes first: while it writes, the pin stands.
    pipeline: Pipeline,
    pin: Pin,
    parent: Option<Parent>,
    parent_id: Option<BackupId>,
    open: BTreeMap<FileId, OpenFile>,
    /// Files that are closed, by the order of their opening.
    closed: BTreeMap<FileId, Entry>,
    others: Vec<Entry>,
    paths: BTreeSet<String>,
    next_file: u32,
}

impl Repository {
    /// Begins a backup.
    pub fn begin(&self, begin: Begin) -> Result<Writer, Error> {
        if !id::is_service(&begin.service) {
            return Err(Error::BadService(begin.service));
        }
        let listing = self.list(Some(&begin.service))?;
        let sequence = listing.backups.iter().map(|b| b.sequence).max().unwrap_or(0) + 1;
        let mut candidate = listing.backups.last().filter(|_| !begin.full).map(|b| b.id.clone());
        // What was found wrong in it would be shared.
        if let Some(last) = &candidate
            && self.is_doubtful(&begin.service, last)?
        {
            tracing::warn!(backup = %last, "its last proof is not good: this backup is a full one");
            candidate = None;
        }
        let id = BackupId::new(begin.now_unix_ms);
        let uses = candidate.iter().chain([&id]).cloned().collect();
        let (pin, condemned) = Pin::set(self, &id, "backup", uses)?;
        let parent = match &candidate {
            Some(candidate) => self.parent(&begin.service, candidate, &condemned)?,
            None => None,
        };
        let data_key = DataKey::generate();
        let options = pipeline::Options {
            repository: self.clone(),
            id: id.clone(),
            data_key: data_key.clone(),
            parent_packs: parent.as_ref().map(|p| p.packs.clone()).unwrap_or_default(),
            threads: begin.threads,
            level: LEVEL,
            progress: begin.progress.clone(),
        };
        Ok(Writer {
            repository: self.clone(),
            hash_key: self.key.hash_key(),
            pipeline: Pipeline::start(options)?,
            parent_id: candidate.filter(|_| parent.is_some()),
            begin,
            id,
            sequence,
            data_key,
            pin,
            parent,
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
            others: Vec::new(),
            paths: BTreeSet::new(),
            next_file: 0,
        })
    }

    fn parent(&self, service: &str, id: &BackupId, condemned: &Condemned) -> Result<Option<Parent>, Error> {
        if condemned.backups.contains(id) {
            return Ok(None);
        }
        match self.manifest(service, id) {
            Ok((summary, entries)) => Parent::new(self, &summary, entries, condemned).map(Some),
            Err(e @ (Error::Damaged { .. } | Error::NoBackup { .. })) => {
                tracing::warn!(error = &e as &dyn std::error::Error, "this backup is a full one");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

impl Writer {
    pub fn id(&self) -> &BackupId {
        &self.id
    }
    /// The backup that this one shares unchanged blocks with.
    pub fn parent(&self) -> Option<&BackupId> {
        self.parent_id.as_ref()
    }

    /// Opens a file. Each path comes once.
    pub fn open(&mut self, path: &str, mode: Option<u32>, cut: Cut) -> Result<FileId, Error> {
        self.enter(path)?;
        if self.open.len() >= OPEN_FILES_MAX {
            return Err(Error::TooMuch {
                what: "the number of files open at once",
                max: OPEN_FILES_MAX as u64,
            });
        }
        let known = self.parent.as_mut().map_or(Known::Nothing, |p| p.file(path, cut));
        let filing =
            Filing { known, size: 0, blocks_before: 0, frame: Vec::new(), in_frame: 0, blocks: Vec::new() };
        let file = FileId(self.next_file);
        self.next_file += 1;
        self.open.insert(file, OpenFile { path: path.into(), mode, cut, cutter: Cutter::new(cut), filing });
        Ok(file)
    }

    /// The next bytes of a file.
    pub fn write(&mut self, file: FileId, bytes: &[u8]) -> Result<(), Error> {
        self.begin.progress.check()?;
        self.begin.progress.add_raw(bytes.len() as u64);
        let Writer { open, pipeline, parent, hash_key, begin, .. } = self;
        let open = open.get_mut(&file).ok_or_else(|| not_open(file))?;
        let mut place =
            Place { file, pipeline, parent: parent.as_ref(), hash_key, progress: &begin.progress };
        open.cutter.push(bytes, |block| place.block(&mut open.filing, block))
    }

    /// How much of an open file was written.
    pub fn written(&self, file: FileId) -> Result<u64, Error> {
        let open = self.open.get(&file).ok_or_else(|| not_open(file))?;
        Ok(open.filing.size + open.cutter.held() as u64)
    }

    pub fn close(&mut self, file: FileId) -> Result<(), Error> {
        let mut ended = self.open.remove(&file).ok_or_else(|| not_open(file))?;
        let progress = self.begin.progress.clone();
        let mut place = Place {
            file,
            pipeline: &mut self.pipeline,
            parent: self.parent.as_ref(),
            hash_key: &self.hash_key,
            progress: &progress,
        };
        ended.cutter.finish(|block| place.block(&mut ended.filing, block))?;
        place.end_run(&mut ended.filing)?;
        let what = What::File { size: ended.filing.size, cut: ended.cut, segments: Vec::new() };
        self.closed.insert(file, Entry { path: ended.path, mode: ended.mode, what });
        Ok(())
    }

    pub fn directory(&mut self, path: &str, mode: Option<u32>) -> Result<(), Error> {
        self.enter(path)?;
        self.others.push(Entry { path: path.into(), mode, what: What::Directory });
        Ok(())
    }

    pub fn link(&mut self, path: &str, target: &str) -> Result<(), Error> {
        self.enter(path)?;
        self.others.push(Entry { path: path.into(), mode: None, what: What::Link { target: target.into() } });
        Ok(())
    }

    fn enter(&mut self, path: &str) -> Result<(), Error> {
        manifest::check_path(path)?;
        if self.paths.len() >= FILES_MAX {
            return Err(Error::TooMuch { what: "the number of files", max: FILES_MAX as u64 });
        }
        if !self.paths.insert(path.to_owned()) {
            return Err(Error::BadInput(format!("{path:?} comes twice")));
        }
        Ok(())
    }

    /// Makes it a backup. Call it only when whoever produced the files has said that they are complete.
    pub fn commit(self, completion: Completion) -> Result<Summary, Error> {
        let Writer {
            repository,
            begin,
            id,
            sequence,
            data_key,
            pipeline,
            pin,
            parent,
            open,
            closed,
            others,
            ..
        } = self;
        if let Some(file) = open.values().next() {
            return Err(Error::BadInput(format!("{:?} was not closed", file.path)));
        }
        let mut outcome = pipeline.finish()?;
        begin.progress.check()?;
        let packs = packs(&id, &outcome.packs, parent.as_ref());
        let new_bytes =
            outcome.packs.iter().filter(|(at, _)| matches!(at, PackAt::New(_))).map(|(_, u)| u.bytes);
        let new_bytes = new_bytes.sum();
        let files = closed.len() as u64;
        let entries = entries(closed, others, &mut outcome);
        if let Some(path) = manifest::tree_fault(&entries) {
            return Err(Error::BadInput(format!("{path:?} lies below what is no directory")));
        }
        let sizes = entries.iter().map(|e| if let What::File { size, .. } = e.what { size } else { 0 });
        let summary = Summary {
            format: FORMAT,
            id: id.clone(),
            service: begin.service,
            sequence,
            engine: begin.engine,
            version: begin.version,
            method: begin.method,
            origin: begin.origin,
            position: completion.position,
            started_unix_ms: begin.now_unix_ms,
            finished_unix_ms: completion.now_unix_ms,
            files,
            raw_bytes: sizes.sum(),
            new_bytes,
            facts: completion.facts,
            packs,
        };
        publish(&repository, &data_key, &pin, &summary, &entries)?;
        Ok(summary)
    }
}

fn not_open(file: FileId) -> Error {
    Error::BadInput(format!("file {} is not open", file.0))
}

/// The packs that are used, and at which index of the summary each stands.
fn packs(id: &BackupId, usage: &BTreeMap<PackAt, pipeline::Usage>, parent: Option<&Parent>) -> Vec<Pack> {
    let pack = |(at, usage): (&PackAt, &pipeline::Usage)| match (at, parent) {
        (PackAt::Old(n), Some(parent)) => {
            let n = *n as usize;
            Pack {
                id: parent.packs[n].clone(),
                bytes: parent.bytes[n],
                raw: parent.raws[n],
                used: usage.used,
            }
        }
        (PackAt::Old(number) | PackAt::New(number), _) => {
            let id = id::PackId { backup: id.clone(), number: *number };
            Pack { id, bytes: usage.bytes, raw: usage.raw, used: usage.used }
        }
    };
    usage.iter().map(pack).collect()
}

fn entries(closed: BTreeMap<FileId, Entry>, others: Vec<Entry>, outcome: &mut Outcome) -> Vec<Entry> {
    let indices: BTreeMap<PackAt, u32> = outcome.packs.keys().copied().zip(0..).collect();
    let mut closed = closed;
    for (file, pack, offset, sealed, span) in outcome.segments.drain(..) {
        let entry = closed.get_mut(&FileId(file)).map(|e| &mut e.what);
        if let Some(What::File { segments, .. }) = entry {
            segments.push(SegmentAt(indices[&pack], offset, sealed, span));
        }
    }
    let mut entries: Vec<Entry> = closed.into_values().chain(others).collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

/// The moment at which the backup begins to exist.
fn publish(
    repository: &Repository,
    data_key: &DataKey,
    pin: &Pin,
    summary: &Summary,
    entries: &[Entry],
) -> Result<(), Error> {
    let name = id::manifest_object(&summary.service, &summary.id);
    let contents = [manifest::encode(summary), manifest::encode(&entries)];
    if let Some(part) = contents.iter().find(|c| c.len() > PART_BYTES_MAX) {
        tracing::debug!(bytes = part.len(), "the manifest is too large");
        return Err(Error::TooMuch { what: "the manifest, in bytes,", max: PART_BYTES_MAX as u64 });
    }
    let (seal, header) = Seal::begin(&repository.key, data_key, Kind::Manifest, &name);
    let object = object::parts(&seal, header, &contents, LEVEL);
    relied_upon(repository, pin, summary)?;
    repository.storage.create(&name, object)?;
    // Who was suspended between the look and the manifest may have been taken for dead in between.
    let still = relied_upon(repository, pin, summary).and_then(|()| {
        let condemned = Condemned::read(repository.storage.as_ref())?;
        let hit = condemned.backups.contains(&summary.id)
            || summary.packs.iter().any(|p| condemned.packs.contains(&p.id));
        if hit { Err(Error::TakenForDead) } else { Ok(()) }
    });
    if let Err(Error::TakenForDead | Error::Storage(storage::Error::Absent(_))) = &still {
        repository.storage.remove(&name)?;
    }
    still
}

/// Who was suspended for a day may have been taken for dead meanwhile, and what it relied upon removed.
fn relied_upon(repository: &Repository, pin: &Pin, summary: &Summary) -> Result<(), Error> {
    let there = parent::present(repository, summary)?;
    if let Some(gone) = summary.packs.iter().find(|p| there.get(&p.id) != Some(&p.bytes)) {
        return Err(storage::Error::Absent(gone.id.object()).into());
    }
    if pin.stands()? { Ok(()) } else { Err(Error::TakenForDead) }
}

/// Puts blocks of one file where they belong.
struct Place<'a> {
    file: FileId,
    pipeline: &'a mut Pipeline,
    parent: Option<&'a Parent>,
    hash_key: &'a [u8; 32],
    progress: &'a Progress,
}

impl Place<'_> {
    fn block(&mut self, f: &mut Filing, block: &[u8]) -> Result<(), Error> {
        let length = u32::try_from(block.len()).expect("a block is small");
        let number = f.blocks_before + f.blocks.len() as u64;
        f.size += u64::from(length);
        let placed = if is_zero(block) {
            Placed { hash: [0; HASH_BYTES], length, at: At::Zeros }
        } else {
            let mut hash = [0; HASH_BYTES];
            hash.copy_from_slice(&blake3::keyed_hash(self.hash_key, block).as_bytes()[..HASH_BYTES]);
            match self.parent.and_then(|p| f.known.find(p, number, &hash)) {
                Some(at) => Placed { hash, length, at },
                None => self.new_block(f, hash, block)?,
            }
        };
        f.in_frame += usize::from(matches!(placed.at, At::New { .. }));
        f.blocks.push(placed);
        if f.blocks.len() == SEGMENT_BLOCKS_MAX {
            self.end_run(f)?;
        }
        Ok(())
    }

    fn new_block(&mut self, f: &mut Filing, hash: [u8; HASH_BYTES], block: &[u8]) -> Result<Placed, Error> {
        if f.frame.len() + block.len() > FRAME_BYTES_MAX {
            self.end_frame(f)?;
        }
        self.progress.add_new(block.len() as u64);
        let offset = u32::try_from(f.frame.len()).expect("a frame is a MiB");
        f.frame.extend_from_slice(block);
        Ok(Placed { hash, length: block.len() as u32, at: At::New { frame: OPEN_FRAME, offset } })
    }

    fn end_frame(&mut self, f: &mut Filing) -> Result<(), Error> {
        if f.frame.is_empty() {
            return Ok(());
        }
        let (number, buffer) = self.pipeline.frame(std::mem::take(&mut f.frame))?;
        f.frame = buffer;
        // The last blocks that are new: old ones may stand between them.
        for block in f.blocks.iter_mut().rev() {
            if f.in_frame == 0 {
                break;
            }
            if let At::New { frame, .. } = &mut block.at {
                *frame = number;
                f.in_frame -= 1;
            }
        }
        Ok(())
    }

    fn end_run(&mut self, f: &mut Filing) -> Result<(), Error> {
        self.end_frame(f)?;
        if f.blocks.is_empty() {
            return Ok(());
        }
        let blocks = std::mem::take(&mut f.blocks);
        f.blocks_before += blocks.len() as u64;
        let same_as = self.parent.and_then(|p| f.known.same(p, &blocks));
        self.pipeline.run(Run { file: self.file.0, blocks, same_as })
    }
}

/// The number of a frame that has none yet.
const OPEN_FRAME: u64 = u64::MAX;

fn is_zero(block: &[u8]) -> bool {
    // Most blocks differ at once; the comparison of the rest is a memcmp.
    block.first() == Some(&0) && block[..block.len() - 1] == block[1..]
}
