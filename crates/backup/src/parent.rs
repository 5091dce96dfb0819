//! What an earlier backup has, so that it need not be stored again.
//!
//! Guarantees: a block is found only if its hash is the same and its pack is there, whole and worth keeping; memory is
//! bounded by one segment for each open file. A parent that cannot be read finds nothing, and the backup becomes a
//! full one. Does not know: what will be asked.

use crate::Error;
use crate::id::PackId;
use crate::manifest::{Cut, Entry, SegmentAt, Summary, What};
use crate::map::{Frame, Hash, SEGMENT_BLOCKS_MAX, Segment};
use crate::pipeline::At;
use crate::prune::Condemned;
use crate::repository::{Frames, Repository};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A pack of which less than this share is still used is not relied upon any more, so that it becomes free in time.
const WORTH_KEEPING_PERCENT: u64 = 25;
/// Blocks of one file cut by content that are remembered: 48 MiB of memory for 32 GiB of content.
const CONTENT_BLOCKS_MAX: usize = 1 << 20;

/// A block: its hash, its place if that can be relied upon, its length.
type Was = (Hash, Option<At>, u32);
type Files = HashMap<String, (Cut, Vec<SegmentAt>)>;

pub(crate) struct Parent {
    frames: Arc<Frames>,
    pub(crate) packs: Vec<PackId>,
    pub(crate) bytes: Vec<u64>,
    pub(crate) raws: Vec<u64>,
    /// Is there, whole, and will stay.
    there: Vec<bool>,
    /// And is worth keeping for one more backup.
    usable: Vec<bool>,
    numbers: HashMap<PackId, u32>,
    files: Files,
}

impl Parent {
    /// Takes stock of `summary`'s packs.
    pub(crate) fn new(
        repository: &Repository,
        summary: &Summary,
        entries: Vec<Entry>,
        condemned: &Condemned,
    ) -> Result<Parent, Error> {
        let there = present(repository, summary)?;
        let worth = |used: u64, raw: u64| used * 100 >= raw * WORTH_KEEPING_PERCENT;
        let there: Vec<bool> = summary
            .packs
            .iter()
            .map(|p| there.get(&p.id) == Some(&p.bytes) && !condemned.packs.contains(&p.id))
            .collect();
        let usable = summary.packs.iter().zip(&there).map(|(p, there)| *there && worth(p.used, p.raw));
        let files = entries.into_iter().filter_map(|e| match e.what {
            What::File { cut, segments, .. } => Some((e.path, (cut, segments))),
            What::Directory | What::Link { .. } => None,
        });
        Ok(Parent {
            frames: Arc::new(Frames::new(repository.clone())),
            packs: summary.packs.iter().map(|p| p.id.clone()).collect(),
            bytes: summary.packs.iter().map(|p| p.bytes).collect(),
            raws: summary.packs.iter().map(|p| p.raw).collect(),
            usable: usable.collect(),
            there,
            numbers: summary.packs.iter().zip(0..).map(|(p, n)| (p.id.clone(), n)).collect(),
            files: files.collect(),
        })
    }

    /// What is known of a file. It can be asked for once.
    pub(crate) fn file(&mut self, path: &str, cut: Cut) -> Known {
        let Some((_, segments)) = self.files.remove(path).filter(|(before, _)| *before == cut) else {
            return Known::Nothing;
        };
        match cut {
            Cut::Pages => Known::Pages { segments, loaded: None },
            Cut::Content => Known::Content(self.by_hash(&segments)),
        }
    }

    fn by_hash(&self, segments: &[SegmentAt]) -> HashMap<Hash, At> {
        let mut known = HashMap::new();
        for segment in segments {
            for (hash, at, _) in self.load(segment).into_iter().flatten() {
                if known.len() >= CONTENT_BLOCKS_MAX {
                    return known;
                }
                known.extend(at.filter(|at| *at != At::Zeros).map(|at| (hash, at)));
            }
        }
        known
    }

    /// The blocks of a segment; without a place where they cannot be relied upon. Nothing if it cannot be read.
    fn load(&self, at: &SegmentAt) -> Option<Vec<Was>> {
        let SegmentAt(pack, offset, sealed, _) = *at;
        // A map may be read once more even where its pack is about to be left.
        if !self.there[pack as usize] {
            return None;
        }
        match self.frames.segment(&self.packs[pack as usize], offset, sealed) {
            Ok(segment) => Some(self.places(&segment)),
            Err(e) => {
                tracing::warn!(error = &e as &dyn std::error::Error, "a map is not relied upon: stored anew");
                None
            }
        }
    }

    fn places(&self, segment: &Segment) -> Vec<Was> {
        let number = |pack: u32| {
            let number = *self.numbers.get(&segment.packs[pack as usize])?;
            self.usable[number as usize].then_some(number)
        };
        let frame = |f: &Frame| number(f.pack).map(|pack| (pack, *f));
        let frames: Vec<Option<(u32, Frame)>> = segment.frames.iter().map(frame).collect();
        let place = |at: Option<(u32, u32)>| match at {
            None => Some(At::Zeros),
            Some((frame, offset)) => {
                frames[frame as usize].map(|(pack, frame)| At::Old { pack, frame, offset })
            }
        };
        segment.blocks.iter().map(|b| (b.hash, place(b.at), b.length)).collect()
    }
}

/// What the parent has of one file.
pub(crate) enum Known {
    Nothing,
    Pages { segments: Vec<SegmentAt>, loaded: Option<Loaded> },
    Content(HashMap<Hash, At>),
}

pub(crate) struct Loaded {
    number: usize,
    blocks: Vec<Was>,
}

impl Known {
    /// Where block `number` of the file lies already, if it has this hash.
    pub(crate) fn find(&mut self, parent: &Parent, number: u64, hash: &Hash) -> Option<At> {
        match self {
            Known::Nothing => None,
            Known::Content(known) => known.get(hash).copied(),
            Known::Pages { segments, loaded } => {
                let number = usize::try_from(number).ok()?;
                let (segment, block) = (number / SEGMENT_BLOCKS_MAX, number % SEGMENT_BLOCKS_MAX);
                if loaded.as_ref().is_none_or(|l| l.number != segment) {
                    let blocks = segments.get(segment).and_then(|at| parent.load(at)).unwrap_or_default();
                    *loaded = Some(Loaded { number: segment, blocks });
                }
                let (known, at, _) = loaded.as_ref()?.blocks.get(block)?;
                at.filter(|_| known == hash)
            }
        }
    }

    /// The segment that was looked into last, if it has just these blocks.
    pub(crate) fn same(&self, parent: &Parent, blocks: &[crate::pipeline::Placed]) -> Option<SegmentAt> {
        let Known::Pages { segments, loaded: Some(loaded) } = self else { return None };
        let same = loaded.blocks.len() == blocks.len()
            && loaded.blocks.iter().zip(blocks).all(|(was, b)| *was == (b.hash, Some(b.at), b.length));
        segments.get(loaded.number).copied().filter(|at| same && parent.usable[at.0 as usize])
    }
}

/// The packs that are there, with their sizes.
pub(crate) fn present(repository: &Repository, summary: &Summary) -> Result<BTreeMap<PackId, u64>, Error> {
    let mut backups: Vec<_> = summary.packs.iter().map(|p| &p.id.backup).collect();
    backups.sort();
    backups.dedup();
    let mut there = BTreeMap::new();
    for backup in backups {
        for object in repository.storage.list(&format!("{}/{backup}", crate::id::PACKS))? {
            there.extend(PackId::of_object(&object.name).map(|id| (id, object.bytes)));
        }
    }
    Ok(there)
}
