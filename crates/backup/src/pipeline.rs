//! From frames and segments to packs: compression on all cores, packs in order, storage behind them.
//!
//! Guarantees: bounded memory (`IN_FLIGHT` frames, three packs); what was handed over first is placed first, so a
//! segment comes after its frames; the first failure ends everything and is the one reported. Does not know: files,
//! deduplication.

use crate::Error;
use crate::id::{BackupId, PackId};
use crate::key::{DataKey, TAG_BYTES};
use crate::manifest::SegmentAt;
use crate::map::{Block, Frame, Hash, IndexEntry, Segment, encode_index};
use crate::object::{self, FRAME_BYTES_MAX, Kind, Seal};
use crate::progress::Progress;
use crate::repository::Repository;
use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A pack is closed when it has this much.
pub(crate) const PACK_BYTES: usize = 32 << 20;
/// Also then: many small files make many small frames, and the index is a frame as well.
const INDEX_ENTRIES_MAX: usize = (FRAME_BYTES_MAX - 4) / 16;
/// Frames and segments handed over and not yet placed.
const IN_FLIGHT: usize = 8;
/// Packs of one backup: a petabyte.
const PACKS_MAX: u32 = 1 << 25;

/// Where a pack is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum PackAt {
    /// Index in the parent's summary.
    Old(u32),
    /// Number among those of this backup.
    New(u32),
}

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Zeros,
    Old {
        pack: u32,
        frame: Frame,
        offset: u32,
    },
    /// In a frame handed over before.
    New {
        frame: u64,
        offset: u32,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) hash: Hash,
    pub(crate) length: u32,
    pub(crate) at: At,
}

/// A run of blocks of one file.
pub(crate) struct Run {
    pub(crate) file: u32,
    pub(crate) blocks: Vec<Placed>,
    /// The parent's segment, if this one is the same block by block.
    pub(crate) same_as: Option<SegmentAt>,
}

enum Work {
    Frame(u64, Vec<u8>),
    Run(Run, Vec<u8>),
}

enum Packed {
    Frame { number: u64, content: u32, packed: Vec<u8>, buffer: Vec<u8> },
    Run(Run, Vec<u8>),
}

/// Bytes of a pack, of the content in it, and how much of that is used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) raw: u64,
    pub(crate) used: u64,
}

/// What was placed.
#[derive(Default)]
pub(crate) struct Outcome {
    /// File, pack, offset, sealed length, span: in the order of the runs.
    pub(crate) segments: Vec<(u32, PackAt, u32, u32, u64)>,
    pub(crate) packs: BTreeMap<PackAt, Usage>,
}

/// What is common to all stages.
pub(crate) struct Options {
    pub(crate) repository: Repository,
    pub(crate) id: BackupId,
    pub(crate) data_key: DataKey,
    pub(crate) parent_packs: Vec<PackId>,
    pub(crate) threads: usize,
    pub(crate) level: i32,
    pub(crate) progress: Arc<Progress>,
}

pub(crate) struct Pipeline {
    work: Option<SyncSender<(u64, Work)>>,
    /// The right to hand over one more, each with a buffer to use again.
    credits: Receiver<Vec<u8>>,
    next: u64,
    frames: u64,
    packer: Option<JoinHandle<Option<Outcome>>>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Pipeline {
    pub(crate) fn start(options: Options) -> Result<Pipeline, Error> {
        let (work, workers) = mpsc::sync_channel(IN_FLIGHT);
        let (packed, packer) = mpsc::sync_channel(IN_FLIGHT);
        let (back, credits) = mpsc::sync_channel(IN_FLIGHT);
        (0..IN_FLIGHT).for_each(|_| _ = back.try_send(Vec::new()));
        let failure = Arc::new(Mutex::new(None));
        let spawned = |e| Error::io("starting a thread of", std::path::Path::new("the backup"))(e);
        let workers = Arc::new(Mutex::new(workers));
        for _ in 0..options.threads.max(1) {
            let (from, to, level) = (workers.clone(), packed.clone(), options.level);
            let thread = std::thread::Builder::new().name("compress".into());
            thread.spawn(move || compress(&from, &to, level)).map_err(spawned)?;
        }
        let failed = failure.clone();
        let packer = std::thread::Builder::new().name("pack".into()).spawn(move || {
            let outcome = Packer::new(options).and_then(|p| p.run(&packer, &back));
            outcome.map_err(|e| fail(&failed, e)).ok()
        });
        let packer = Some(packer.map_err(spawned)?);
        Ok(Pipeline { work: Some(work), credits, next: 0, frames: 0, packer, failure })
    }

    /// Hands a frame over; its number, and an empty buffer for the next.
    pub(crate) fn frame(&mut self, content: Vec<u8>) -> Result<(u64, Vec<u8>), Error> {
        let buffer = self.credit()?;
        let number = self.frames;
        self.frames += 1;
        self.send(Work::Frame(number, content))?;
        Ok((number, buffer))
    }

    /// Hands over a run whose frames were handed over before.
    pub(crate) fn run(&mut self, run: Run) -> Result<(), Error> {
        let buffer = self.credit()?;
        self.send(Work::Run(run, buffer))
    }

    fn credit(&mut self) -> Result<Vec<u8>, Error> {
        match self.credits.recv() {
            Ok(mut buffer) => {
                buffer.clear();
                Ok(buffer)
            }
            Err(_) => Err(self.why()),
        }
    }

    fn send(&mut self, work: Work) -> Result<(), Error> {
        let number = self.next;
        self.next += 1;
        let sent = self.work.as_ref().is_some_and(|to| to.send((number, work)).is_ok());
        if sent { Ok(()) } else { Err(self.why()) }
    }

    fn why(&mut self) -> Error {
        drop(self.work.take());
        if let Some(packer) = self.packer.take() {
            let _ = packer.join();
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(Error::Stopped)
    }

    /// All that was handed over is in the storage.
    pub(crate) fn finish(mut self) -> Result<Outcome, Error> {
        drop(self.work.take());
        match self.packer.take().map(JoinHandle::join) {
            Some(Ok(Some(outcome))) => Ok(outcome),
            _ => Err(self.why()),
        }
    }
}

impl Drop for Pipeline {
    /// Nothing is written any more when this returns.
    fn drop(&mut self) {
        fail(&self.failure, Error::Stopped);
        drop(self.work.take());
        if let Some(packer) = self.packer.take() {
            let _ = packer.join();
        }
    }
}

fn fail(failure: &Mutex<Option<Error>>, e: Error) {
    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
}

fn compress(from: &Mutex<Receiver<(u64, Work)>>, to: &SyncSender<(u64, Packed)>, level: i32) {
    let Ok(mut zstd) = zstd::bulk::Compressor::new(level) else { return };
    loop {
        let next = from.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, work)) = next else { return };
        let packed = match work {
            Work::Run(run, buffer) => Packed::Run(run, buffer),
            Work::Frame(frame, buffer) => {
                let Ok(packed) = zstd.compress(&buffer) else { return };
                Packed::Frame { number: frame, content: buffer.len() as u32, packed, buffer }
            }
        };
        if to.send((number, packed)).is_err() {
            return;
        }
    }
}

/// The pack that is being filled.
struct Open {
    number: u32,
    seal: Seal,
    bytes: Vec<u8>,
    index: Vec<IndexEntry>,
}

struct Packer {
    options: Options,
    open: Option<Open>,
    next_pack: u32,
    /// Frames whose run has not come yet.
    placed: HashMap<u64, (u32, Frame)>,
    outcome: Outcome,
    upload: Option<SyncSender<(String, Vec<u8>)>>,
    uploader: Option<JoinHandle<Result<(), Error>>>,
}

impl Packer {
    fn new(options: Options) -> Result<Packer, Error> {
        let (upload, packs) = mpsc::sync_channel::<(String, Vec<u8>)>(1);
        let (storage, progress) = (options.repository.storage.clone(), options.progress.clone());
        let put = move || {
            for (name, bytes) in packs {
                let length = bytes.len() as u64;
                storage.create(&name, bytes)?;
                progress.add_stored(length);
            }
            Ok(())
        };
        let uploader = std::thread::Builder::new().name("upload".into()).spawn(put);
        let uploader =
            uploader.map_err(Error::io("starting a thread of", std::path::Path::new("the backup")))?;
        Ok(Packer {
            options,
            open: None,
            next_pack: 0,
            placed: HashMap::new(),
            outcome: Outcome::default(),
            upload: Some(upload),
            uploader: Some(uploader),
        })
    }

    fn run(
        mut self,
        from: &Receiver<(u64, Packed)>,
        credits: &SyncSender<Vec<u8>>,
    ) -> Result<Outcome, Error> {
        let (mut early, mut next) = (BTreeMap::new(), 0);
        for (number, packed) in from {
            self.options.progress.check()?;
            // At most IN_FLIGHT are early.
            early.insert(number, packed);
            while let Some(packed) = early.remove(&next) {
                next += 1;
                let buffer = match packed {
                    Packed::Frame { number, content, packed, buffer } => {
                        let at = self.place(packed, content, false)?;
                        self.placed.insert(number, at);
                        buffer
                    }
                    Packed::Run(run, buffer) => {
                        self.place_run(run)?;
                        buffer
                    }
                };
                // Nobody waits for it any more where the writer has ended.
                let _ = credits.try_send(buffer);
            }
        }
        if !early.is_empty() {
            return Err(Error::Stopped);
        }
        self.close_pack()?;
        self.uploaded()?;
        Ok(std::mem::take(&mut self.outcome))
    }

    fn uploaded(&mut self) -> Result<(), Error> {
        drop(self.upload.take());
        match self.uploader.take().map(JoinHandle::join) {
            Some(Ok(done)) => done,
            _ => Err(Error::Stopped),
        }
    }

    fn place(&mut self, mut packed: Vec<u8>, content: u32, is_map: bool) -> Result<(u32, Frame), Error> {
        let full = |o: &Open| o.bytes.len() >= PACK_BYTES || o.index.len() >= INDEX_ENTRIES_MAX;
        if self.open.as_ref().is_some_and(full) {
            self.close_pack()?;
        }
        if self.open.is_none() {
            self.open = Some(self.begin_pack()?);
        }
        let open = self.open.as_mut().expect("it was just made");
        let offset = u32::try_from(open.bytes.len()).expect("a pack is far below 4 GiB");
        open.seal.seal(u64::from(offset), &mut packed);
        let sealed = u32::try_from(packed.len()).expect("a frame is about a MiB");
        open.bytes.extend_from_slice(&packed);
        open.index.push(IndexEntry { offset, sealed, content, is_map });
        let usage = self.outcome.packs.entry(PackAt::New(open.number)).or_default();
        usage.raw += u64::from(content);
        Ok((open.number, Frame { pack: 0, offset, sealed, content }))
    }

    fn begin_pack(&mut self) -> Result<Open, Error> {
        let number = self.next_pack;
        if number >= PACKS_MAX {
            return Err(Error::TooMuch { what: "the number of packs", max: u64::from(PACKS_MAX) });
        }
        self.next_pack += 1;
        let name = PackId { backup: self.options.id.clone(), number }.object();
        let (seal, header) =
            Seal::begin(&self.options.repository.key, &self.options.data_key, Kind::Pack, &name);
        let mut bytes = Vec::with_capacity(PACK_BYTES + FRAME_BYTES_MAX + FRAME_BYTES_MAX / 8);
        bytes.extend_from_slice(&header);
        Ok(Open { number, seal, bytes, index: Vec::new() })
    }

    fn close_pack(&mut self) -> Result<(), Error> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let mut index = object::pack(&encode_index(&open.index), self.options.level);
        open.seal.seal(open.bytes.len() as u64, &mut index);
        open.bytes.extend_from_slice(&index);
        let length = u32::try_from(index.len()).expect("an index is small");
        open.bytes.extend_from_slice(&length.to_le_bytes());
        let usage = self.outcome.packs.entry(PackAt::New(open.number)).or_default();
        usage.bytes = open.bytes.len() as u64;
        let pack = (open.seal.name().to_owned(), open.bytes);
        let sent = self.upload.as_ref().is_some_and(|to| to.send(pack).is_ok());
        if sent {
            return Ok(());
        }
        self.uploaded()?;
        Err(Error::Stopped)
    }

    fn place_run(&mut self, run: Run) -> Result<(), Error> {
        let mut table = Table::default();
        let blocks: Vec<Block> =
            run.blocks.iter().map(|b| table.block(b, &self.placed, &mut self.outcome)).collect();
        for block in &run.blocks {
            if let At::New { frame, .. } = block.at {
                self.placed.remove(&frame);
            }
        }
        let packs = table.packs.iter().map(|at| self.pack_id(*at)).collect();
        let segment = Segment { packs, frames: table.frames, blocks };
        let span = segment.span();
        if let Some(SegmentAt(pack, offset, sealed, _)) = run.same_as {
            self.use_of(PackAt::Old(pack), 1);
            self.outcome.segments.push((run.file, PackAt::Old(pack), offset, sealed, span));
            return Ok(());
        }
        let content = segment.encode();
        let length = u32::try_from(content.len()).expect("a map is below a MiB");
        let (pack, frame) = self.place(object::pack(&content, self.options.level), length, true)?;
        self.use_of(PackAt::New(pack), u64::from(length));
        self.outcome.segments.push((run.file, PackAt::New(pack), frame.offset, frame.sealed, span));
        Ok(())
    }

    fn use_of(&mut self, pack: PackAt, bytes: u64) {
        self.outcome.packs.entry(pack).or_default().used += bytes;
    }

    fn pack_id(&self, at: PackAt) -> PackId {
        match at {
            PackAt::Old(n) => self.options.parent_packs[n as usize].clone(),
            PackAt::New(number) => PackId { backup: self.options.id.clone(), number },
        }
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        let _ = self.uploaded();
    }
}

/// The packs and frames that one segment points to, each once.
#[derive(Default)]
struct Table {
    packs: Vec<PackAt>,
    frames: Vec<Frame>,
    known_packs: HashMap<PackAt, u32>,
    known_frames: HashMap<(PackAt, u32), u32>,
}

impl Table {
    fn block(&mut self, b: &Placed, placed: &HashMap<u64, (u32, Frame)>, outcome: &mut Outcome) -> Block {
        let (pack, frame, offset) = match b.at {
            At::Zeros => return Block { hash: b.hash, at: None, length: b.length },
            At::Old { pack, frame, offset } => (PackAt::Old(pack), frame, offset),
            At::New { frame, offset } => {
                let (pack, frame) = placed[&frame];
                (PackAt::New(pack), frame, offset)
            }
        };
        outcome.packs.entry(pack).or_default().used += u64::from(b.length);
        let packs = &mut self.packs;
        let index = *self.known_packs.entry(pack).or_insert_with(|| {
            packs.push(pack);
            packs.len() as u32 - 1
        });
        let frames = &mut self.frames;
        let at = *self.known_frames.entry((pack, frame.offset)).or_insert_with(|| {
            frames.push(Frame { pack: index, ..frame });
            frames.len() as u32 - 1
        });
        Block { hash: b.hash, at: Some((at, offset)), length: b.length }
    }
}

const _: () =
    assert!(PACK_BYTES + 2 * FRAME_BYTES_MAX + TAG_BYTES < u32::MAX as usize, "offsets in a pack are u32");
const _: () = assert!(
    crate::map::SEGMENT_BLOCKS_MAX * (28 + 31 + 16) + 12 <= FRAME_BYTES_MAX,
    "a map is a frame, even if every block lies in a pack of its own"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::RepositoryKey;
    use crate::storage::Directory;

    #[test]
    fn the_index_of_a_pack_stays_small_enough_to_be_read() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let storage = Arc::new(Directory::open(dir.path(), runtime.handle().clone()).unwrap());
        let repository = Repository::create(storage, RepositoryKey::PLAIN).unwrap();
        let options = Options {
            repository: repository.clone(),
            id: BackupId::new(0),
            data_key: DataKey::generate(),
            parent_packs: Vec::new(),
            threads: 1,
            level: 1,
            progress: Arc::default(),
        };
        let mut packer = Packer::new(options).unwrap();
        let frame = object::pack(b"x", 1);
        for _ in 0..=INDEX_ENTRIES_MAX {
            packer.place(frame.clone(), 1, false).unwrap();
        }
        packer.close_pack().unwrap();
        packer.uploaded().unwrap();
        let checked = repository.check(1, &Progress::default()).unwrap();
        assert_eq!((checked.packs, checked.frames), (2, INDEX_ENTRIES_MAX + 1));
        assert!(checked.findings.is_empty(), "{:?}", checked.findings);
        let packs = repository.storage.list("packs").unwrap();
        let first = repository.storage.read(&packs[0].name).unwrap();
        assert!(first.len() < PACK_BYTES, "closed because of its index");
    }
}
