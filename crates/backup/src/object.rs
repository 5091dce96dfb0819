//! Sealed objects: the header, and frames that open only where they were written. See docs/repository-format.md.
//!
//! Guarantees: what opens is what was sealed, bit by bit, at this place of this object; the error names object and
//! place. Does not know: what is in a frame, where objects are kept.

use crate::Error;
use crate::key::{self, DataKey, KEY_BYTES, KeyId, RepositoryKey, TAG_BYTES, random};
use ring::aead::{LessSafeKey, NONCE_LEN};

pub(crate) const HEADER_BYTES: usize = 80;
/// Content of a frame in a pack.
pub(crate) const FRAME_BYTES_MAX: usize = 1 << 20;
/// Content of a part of a manifest: a million files, or a hundred thousand of a terabyte together.
pub(crate) const PART_BYTES_MAX: usize = 512 << 20;
const MAGIC: &[u8; 8] = b"HOLDFAST";
const VERSION: u8 = 1;
const ASSOCIATED: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Manifest,
    Pack,
    Proof,
    Log,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Kind::Manifest => b'M',
            Kind::Pack => b'P',
            Kind::Proof => b'R',
            Kind::Log => b'L',
        }
    }
}

/// Seals and opens the frames of one object.
pub(crate) struct Seal {
    name: String,
    key: LessSafeKey,
}

impl Seal {
    /// A new object, and its header.
    pub(crate) fn begin(
        repository: &RepositoryKey,
        data: &DataKey,
        kind: Kind,
        name: &str,
    ) -> (Seal, Vec<u8>) {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&[VERSION, kind.byte(), 0, 0]);
        header.extend_from_slice(&repository.id().0);
        let nonce: [u8; NONCE_LEN] = random();
        let mut wrapped = data.0.to_vec();
        key::seal(&repository.aead(), nonce, &header, &mut wrapped);
        header.extend_from_slice(&nonce);
        header.extend_from_slice(&wrapped);
        (Seal { name: name.to_owned(), key: data.object_key(name) }, header)
    }

    /// An object that exists, by its header.
    pub(crate) fn read(
        repository: &RepositoryKey,
        kind: Kind,
        name: &str,
        header: &[u8],
    ) -> Result<Seal, Error> {
        let bad = |at, what: &str| Error::damaged(name, at, what);
        let header: &[u8; HEADER_BYTES] = header
            .get(..HEADER_BYTES)
            .and_then(|h| h.try_into().ok())
            .ok_or_else(|| bad(0, "it is shorter than its header"))?;
        if &header[..8] != MAGIC {
            return Err(bad(0, "it does not begin like an object of a repository"));
        }
        if header[8] != VERSION {
            // A flipped bit and a newer version look the same here; both are named.
            return Err(bad(8, &format!("its version is {}, this program reads {VERSION}", header[8])));
        }
        if header[9] != kind.byte() || header[10..12] != [0, 0] {
            return Err(bad(9, "it is of another kind than its name says"));
        }
        let mut id = [0; 8];
        id.copy_from_slice(&header[12..20]);
        if KeyId(id) != repository.id() {
            return Err(Error::WrongKey {
                name: name.to_owned(),
                written: KeyId(id),
                given: repository.id(),
            });
        }
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&header[ASSOCIATED..ASSOCIATED + NONCE_LEN]);
        let mut wrapped = header[ASSOCIATED + NONCE_LEN..].to_vec();
        let plain = key::open(&repository.aead(), nonce, &header[..ASSOCIATED], &mut wrapped);
        let data: [u8; KEY_BYTES] = plain
            .and_then(|k| k.try_into().ok())
            .ok_or_else(|| bad(ASSOCIATED as u64, "its data key does not open: the header is damaged"))?;
        Ok(Seal { name: name.to_owned(), key: DataKey(data).object_key(name) })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `packed` (a zstd frame) becomes a frame at `offset`.
    pub(crate) fn seal(&self, offset: u64, packed: &mut Vec<u8>) {
        key::seal(&self.key, nonce(offset), self.name.as_bytes(), packed);
    }

    /// The content of the frame at `offset`. `sealed` is used up.
    pub(crate) fn open(
        &self,
        offset: u64,
        sealed: &mut [u8],
        content_max: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let bad = |what: &str| Error::damaged(&self.name, offset, what);
        if sealed.len() < TAG_BYTES {
            return Err(bad("a frame is cut off"));
        }
        let packed = key::open(&self.key, nonce(offset), self.name.as_bytes(), sealed)
            .ok_or_else(|| bad("a frame is not what was written"))?;
        let stated = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten();
        let size = stated.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= content_max);
        let size = size.ok_or_else(|| bad("a frame does not state a size that is allowed"))?;
        into.clear();
        into.reserve(size);
        let got =
            zstd::bulk::Decompressor::new().and_then(|mut zstd| zstd.decompress_to_buffer(packed, into));
        match got {
            Ok(n) if n == size => Ok(()),
            _ => Err(bad("a frame does not unpack")),
        }
    }
}

fn nonce(offset: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&offset.to_le_bytes());
    nonce
}

/// Packs content for a frame.
pub(crate) fn pack(content: &[u8], level: i32) -> Vec<u8> {
    zstd::bulk::compress(content, level).expect("memory for a frame")
}

/// An object of parts: a manifest, a proof or a segment of a log.
pub(crate) fn parts(seal: &Seal, mut object: Vec<u8>, contents: &[Vec<u8>], level: i32) -> Vec<u8> {
    for content in contents {
        let mut packed = pack(content, level);
        let length = u32::try_from(packed.len() + TAG_BYTES).expect("a part is bounded by PART_BYTES_MAX");
        object.extend_from_slice(&length.to_le_bytes());
        seal.seal(object.len() as u64, &mut packed);
        object.extend_from_slice(&packed);
    }
    object
}

/// Opens the part at `at`, and says where the next one is.
pub(crate) fn part(seal: &Seal, object: &[u8], at: usize) -> Result<(Vec<u8>, usize), Error> {
    let short = || Error::damaged(seal.name(), at as u64, "it is cut off");
    let begin = at + 4;
    let length = object.get(at..begin).and_then(|b| b.try_into().ok()).ok_or_else(short)?;
    let end = begin + u32::from_le_bytes(length) as usize;
    let mut sealed = object.get(begin..end).ok_or_else(short)?.to_vec();
    let mut content = Vec::new();
    seal.open(begin as u64, &mut sealed, PART_BYTES_MAX, &mut content)?;
    Ok((content, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> (RepositoryKey, Vec<u8>) {
        let (repository, data) = (RepositoryKey::generate(), DataKey::generate());
        let (seal, header) = Seal::begin(&repository, &data, Kind::Manifest, "backups/a/b");
        let object = parts(&seal, header, &[b"one".to_vec(), vec![7; 5_000]], 3);
        (repository, object)
    }

    fn read(key: &RepositoryKey, name: &str, object: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let seal = Seal::read(key, Kind::Manifest, name, object)?;
        let (one, next) = part(&seal, object, HEADER_BYTES)?;
        let (two, end) = part(&seal, object, next)?;
        assert_eq!(end, object.len());
        Ok((one, two))
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let (key, object) = sealed();
        assert_eq!(read(&key, "backups/a/b", &object).unwrap(), (b"one".to_vec(), vec![7; 5_000]));
        for bit in 0..object.len() * 8 {
            let mut bent = object.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&key, "backups/a/b", &bent).is_err(), "bit {bit}");
        }
        for cut in 0..object.len() {
            assert!(read(&key, "backups/a/b", &object[..cut]).is_err(), "cut {cut}");
        }
    }

    #[test]
    fn an_object_opens_only_under_its_name_and_key() {
        let (key, object) = sealed();
        assert!(matches!(read(&key, "backups/a/c", &object), Err(Error::Damaged { .. })));
        let other = read(&RepositoryKey::generate(), "backups/a/b", &object);
        assert!(matches!(other, Err(Error::WrongKey { .. })));
        assert!(Seal::read(&key, Kind::Pack, "backups/a/b", &object).is_err());
    }
}
