//! Map frames: which blocks a segment of a file consists of, and where they lie. See docs/repository-format.md.
//!
//! Guarantees: what decodes is consistent in itself, and decoding takes memory in proportion to its input. Does not
//! know: files, keys.

use crate::id::{BackupId, ID_BYTES, PackId};
use crate::key::HASH_BYTES;
use crate::object::FRAME_BYTES_MAX;

/// Blocks of one segment.
pub(crate) const SEGMENT_BLOCKS_MAX: usize = 4096;
const ZEROS: u32 = u32::MAX;

pub(crate) type Hash = [u8; HASH_BYTES];

/// A frame, by where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Frame {
    /// Index in the segment's packs.
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) sealed: u32,
    pub(crate) content: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) hash: Hash,
    /// Index in the segment's frames, and where in the frame; `None`: all zero bytes.
    pub(crate) at: Option<(u32, u32)>,
    pub(crate) length: u32,
}

/// What a map frame says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Segment {
    pub(crate) packs: Vec<PackId>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) blocks: Vec<Block>,
}

impl Segment {
    /// Bytes of the file that it covers.
    pub(crate) fn span(&self) -> u64 {
        self.blocks.iter().map(|b| u64::from(b.length)).sum()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(12 + self.packs.len() * 31 + self.frames.len() * 16 + self.blocks.len() * 28);
        let count = |n: usize| u32::try_from(n).expect("a segment is small").to_le_bytes();
        out.extend_from_slice(&count(self.packs.len()));
        for pack in &self.packs {
            out.extend_from_slice(pack.backup.as_str().as_bytes());
            out.extend_from_slice(&pack.number.to_le_bytes());
        }
        out.extend_from_slice(&count(self.frames.len()));
        for f in &self.frames {
            [f.pack, f.offset, f.sealed, f.content]
                .iter()
                .for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }
        out.extend_from_slice(&count(self.blocks.len()));
        // By columns: the hashes cannot be compressed, everything else almost to nothing.
        self.blocks.iter().for_each(|b| out.extend_from_slice(&b.hash));
        let mut column = |of: fn(&Block) -> u32| {
            self.blocks.iter().for_each(|b| out.extend_from_slice(&of(b).to_le_bytes()));
        };
        column(|b| b.at.map_or(ZEROS, |(frame, _)| frame));
        column(|b| b.at.map_or(0, |(_, offset)| offset));
        column(|b| b.length);
        out
    }

    /// `None` if it is not consistent.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Segment> {
        let mut r = Reader(bytes);
        let packs = (0..r.count(ID_BYTES + 4)?).map(|_| r.pack()).collect::<Option<Vec<_>>>()?;
        let frames = (0..r.count(16)?)
            .map(|_| {
                let frame = Frame {
                    pack: r.number()?,
                    offset: r.number()?,
                    sealed: r.number()?,
                    content: r.number()?,
                };
                let fits = (frame.pack as usize) < packs.len() && frame.content as usize <= FRAME_BYTES_MAX;
                fits.then_some(frame)
            })
            .collect::<Option<Vec<_>>>()?;
        let n = r.count(HASH_BYTES + 12)?;
        if n > SEGMENT_BLOCKS_MAX {
            return None;
        }
        let hashes = (0..n).map(|_| r.take(HASH_BYTES)?.try_into().ok()).collect::<Option<Vec<Hash>>>()?;
        let mut column = || (0..n).map(|_| r.number()).collect::<Option<Vec<u32>>>();
        let (at, offsets, lengths) = (column()?, column()?, column()?);
        let blocks = (0..n)
            .map(|i| {
                let (hash, length) = (hashes[i], lengths[i]);
                if length == 0 {
                    return None;
                }
                if at[i] == ZEROS {
                    return Some(Block { hash, at: None, length });
                }
                let end = u64::from(offsets[i]) + u64::from(length);
                let inside = end <= u64::from(frames.get(at[i] as usize)?.content);
                inside.then_some(Block { hash, at: Some((at[i], offsets[i])), length })
            })
            .collect::<Option<Vec<_>>>()?;
        r.0.is_empty().then_some(Segment { packs, frames, blocks })
    }
}

/// An entry of a pack's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) offset: u32,
    pub(crate) sealed: u32,
    pub(crate) content: u32,
    pub(crate) is_map: bool,
}

pub(crate) fn encode_index(entries: &[IndexEntry]) -> Vec<u8> {
    let mut out = u32::try_from(entries.len()).expect("a pack is small").to_le_bytes().to_vec();
    for e in entries {
        let numbers = [e.offset, e.sealed, e.content, u32::from(e.is_map)];
        numbers.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    }
    out
}

pub(crate) fn decode_index(bytes: &[u8]) -> Option<Vec<IndexEntry>> {
    let mut r = Reader(bytes);
    let entries = (0..r.count(16)?)
        .map(|_| {
            let (offset, sealed, content) = (r.number()?, r.number()?, r.number()?);
            let is_map = [false, true].get(r.number()? as usize).copied()?;
            Some(IndexEntry { offset, sealed, content, is_map })
        })
        .collect::<Option<Vec<_>>>()?;
    r.0.is_empty().then_some(entries)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    fn number(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    /// A count of things of `each` bytes, which must still be there.
    fn count(&mut self, each: usize) -> Option<usize> {
        let n = self.number()? as usize;
        (n.checked_mul(each)? <= self.0.len()).then_some(n)
    }
    fn pack(&mut self) -> Option<PackId> {
        let backup = std::str::from_utf8(self.take(ID_BYTES)?).ok().and_then(BackupId::parse)?;
        Some(PackId { backup, number: self.number()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> BackupId {
        BackupId::parse("20261124T030308Z-0a1b2c3d4e").unwrap()
    }

    fn segments() -> impl Strategy<Value = Segment> {
        let block = (any::<Hash>(), any::<bool>(), 0u32..3, 1u32..20_000);
        proptest::collection::vec(block, 0..50).prop_map(|blocks| Segment {
            packs: vec![PackId { backup: id(), number: 7 }],
            frames: (0..3).map(|n| Frame { pack: 0, offset: 80 + n, sealed: 9, content: 1 << 20 }).collect(),
            blocks: blocks
                .into_iter()
                .map(|(hash, zero, frame, length)| Block {
                    hash,
                    at: (!zero).then_some((frame, length)),
                    length,
                })
                .collect(),
        })
    }

    proptest! {
        #[test]
        fn a_segment_survives_its_encoding(segment in segments()) {
            prop_assert_eq!(Segment::decode(&segment.encode()), Some(segment));
        }
        #[test]
        fn no_bytes_make_it_panic_or_grow(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = (Segment::decode(&bytes), decode_index(&bytes));
        }
        #[test]
        fn damage_is_refused_or_still_consistent(segment in segments(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut bytes = segment.encode();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Some(s) = Segment::decode(&bytes) {
                prop_assert!(s.blocks.iter().all(|b| b.at.is_none_or(|(f, _)| (f as usize) < s.frames.len())));
            }
        }
    }
}
