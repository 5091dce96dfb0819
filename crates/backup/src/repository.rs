//! A repository: making one, finding out what it holds.
//!
//! Guarantees: what is listed is authenticated; what cannot be read is listed as that. Does not know: how backups are
//! made, restored or removed.

use crate::id::{self, BackupId, DESCRIPTOR, PackId};
use crate::key::{DataKey, RepositoryKey, hex, random};
use crate::manifest::{self, Entry, FORMAT, Summary};
use crate::object::{self, HEADER_BYTES, Kind, Seal};
use crate::storage::{self, Storage};
use crate::{Error, Proof, Proofs};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Backups in one listing.
pub(crate) const BACKUPS_MAX: usize = 100_000;
/// A summary usually fits.
const SUMMARY_GUESS_BYTES: u64 = 64 << 10;

/// A repository, opened with its key. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) key: RepositoryKey,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Repository({})", self.storage.location())
    }
}

#[derive(Serialize, Deserialize)]
struct Descriptor {
    format: u32,
    repository: String,
    key: String,
}

/// Every backup there is, readable or not.
#[derive(Debug, Default)]
pub struct Listing {
    /// By service and sequence.
    pub backups: Vec<Summary>,
    /// Manifests that cannot be read: object and reason.
    pub unreadable: Vec<(String, Error)>,
}

impl Repository {
    /// Makes a repository where nothing is yet.
    pub fn create(storage: Arc<dyn Storage>, key: RepositoryKey) -> Result<Repository, Error> {
        if !storage.list("")?.is_empty() {
            return Err(Error::NotEmpty(storage.location()));
        }
        storage.prove()?;
        let descriptor =
            Descriptor { format: FORMAT, repository: hex(&random::<16>()), key: key.id().to_string() };
        let line = String::from_utf8(manifest::encode(&descriptor)).expect("JSON is text");
        let text = format!("{line}\n{}\n", checksum(&line));
        match storage.create(DESCRIPTOR, text.into_bytes()) {
            Err(storage::Error::Exists(_)) => return Err(Error::NotEmpty(storage.location())),
            made => made?,
        }
        Ok(Repository { storage, key })
    }

    /// Opens a repository; refuses a key that is not its own.
    pub fn open(storage: Arc<dyn Storage>, key: RepositoryKey) -> Result<Repository, Error> {
        let repository = Repository { storage, key };
        repository.check_descriptor()?;
        Ok(repository)
    }

    pub(crate) fn check_descriptor(&self) -> Result<(), Error> {
        let bytes = match self.storage.read(DESCRIPTOR) {
            Err(storage::Error::Absent(_)) => return Err(Error::NotARepository(self.storage.location())),
            bytes => bytes?,
        };
        let bad = |what: &str| Error::damaged(DESCRIPTOR, 0, what);
        let text = std::str::from_utf8(&bytes).map_err(|_| bad("it is no text"))?;
        let (line, sum) = text.split_once('\n').ok_or_else(|| bad("it has one line"))?;
        if sum != format!("{}\n", checksum(line)) {
            return Err(bad("its checksum does not fit"));
        }
        let descriptor: Descriptor = manifest::decode(DESCRIPTOR, line.as_bytes())?;
        if descriptor.format != FORMAT {
            let what = format!("it is of format {}; this program reads {FORMAT}", descriptor.format);
            return Err(bad(&what));
        }
        if descriptor.key != self.key.id().to_string() {
            let written = crate::key::from_hex(&descriptor.key).ok_or_else(|| bad("its key id is none"))?;
            let written = crate::key::KeyId(written);
            return Err(Error::WrongKey { name: DESCRIPTOR.into(), written, given: self.key.id() });
        }
        Ok(())
    }

    /// The same repository, reached in another way.
    pub fn on(&self, storage: Arc<dyn Storage>) -> Repository {
        Repository { storage, key: self.key.clone() }
    }
    pub fn key(&self) -> &RepositoryKey {
        &self.key
    }
    /// For people.
    pub fn location(&self) -> String {
        self.storage.location()
    }

    /// All backups, or those of one service.
    pub fn list(&self, service: Option<&str>) -> Result<Listing, Error> {
        if let Some(name) = service
            && !id::is_service(name)
        {
            return Err(Error::BadService(name.to_owned()));
        }
        let prefix = service.map_or(id::BACKUPS.to_owned(), |s| format!("{}/{s}", id::BACKUPS));
        let mut listing = Listing::default();
        let objects = self.storage.list(&prefix)?;
        if objects.len() > BACKUPS_MAX {
            return Err(Error::TooManyBackups { prefix, max: BACKUPS_MAX });
        }
        for object in objects {
            let summary = match id::of_manifest_object(&object.name) {
                Some((service, id)) => self.summary(&service, &id),
                None => Err(Error::damaged(&object.name, 0, "its name is not that of a backup")),
            };
            match summary {
                Ok(summary) => listing.backups.push(summary),
                // Removed since it was listed.
                Err(Error::NoBackup { .. }) => {}
                Err(e) => listing.unreadable.push((object.name, e)),
            }
        }
        listing.backups.sort_by(|a, b| (&a.service, a.sequence, &a.id).cmp(&(&b.service, b.sequence, &b.id)));
        Ok(listing)
    }

    /// What one backup is.
    pub fn summary(&self, service: &str, id: &BackupId) -> Result<Summary, Error> {
        let name = id::manifest_object(service, id);
        let json = match self.head(Kind::Manifest, &name) {
            Err(Error::Storage(storage::Error::Absent(_))) => {
                return Err(Error::NoBackup { service: service.to_owned(), id: id.clone() });
            }
            json => json?,
        };
        self.checked(&name, service, id, manifest::decode(&name, &json)?)
    }

    /// The first part of an object of parts, without the rest.
    pub(crate) fn head(&self, kind: Kind, name: &str) -> Result<Vec<u8>, Error> {
        let mut head = self.storage.read_range(name, 0, SUMMARY_GUESS_BYTES)?;
        let seal = Seal::read(&self.key, kind, name, &head)?;
        let length = head.get(HEADER_BYTES..HEADER_BYTES + 4).and_then(|b| b.try_into().ok());
        let whole = HEADER_BYTES + 4 + length.map_or(0, u32::from_le_bytes) as usize;
        if whole > head.len() && head.len() as u64 == SUMMARY_GUESS_BYTES {
            head = self.storage.read_range(name, 0, whole as u64)?;
        }
        Ok(object::part(&seal, &head, HEADER_BYTES)?.0)
    }

    fn checked(&self, name: &str, service: &str, id: &BackupId, summary: Summary) -> Result<Summary, Error> {
        let fits = summary.format == FORMAT && summary.service == service && summary.id == *id;
        fits.then_some(summary).ok_or_else(|| Error::damaged(name, 0, "it is the summary of something else"))
    }

    /// Summary and files of one backup.
    pub(crate) fn manifest(&self, service: &str, id: &BackupId) -> Result<(Summary, Vec<Entry>), Error> {
        let name = id::manifest_object(service, id);
        let object = match self.storage.read(&name) {
            Err(storage::Error::Absent(_)) => {
                return Err(Error::NoBackup { service: service.to_owned(), id: id.clone() });
            }
            object => object?,
        };
        let seal = Seal::read(&self.key, Kind::Manifest, &name, &object)?;
        let (json, next) = object::part(&seal, &object, HEADER_BYTES)?;
        let summary = self.checked(&name, service, id, manifest::decode(&name, &json)?)?;
        let (json, end) = object::part(&seal, &object, next)?;
        if end != object.len() {
            return Err(Error::damaged(&name, end as u64, "something follows its end"));
        }
        let entries = manifest::decode_entries(&name, &summary, &json)?;
        Ok((summary, entries))
    }

    /// The last backup of a service. Refuses where one cannot be read: that one may be the last.
    pub fn latest(&self, service: &str) -> Result<Summary, Error> {
        let mut listing = self.list(Some(service))?;
        match (listing.backups.pop(), listing.unreadable.pop()) {
            (_, Some((name, e))) => Err(Error::LastUnclear { name, source: Box::new(e) }),
            (Some(summary), None) => Ok(summary),
            (None, None) => Err(Error::NoBackupYet(service.to_owned())),
        }
    }

    /// Files a proof with the backup that it is of.
    pub fn record_proof(&self, proof: &Proof) -> Result<(), Error> {
        let (service, id) = (&proof.service, &proof.id);
        let name = format!("{}/{service}/{id}/{}", id::PROOFS, BackupId::new(proof.at_unix_ms));
        let (seal, header) = Seal::begin(&self.key, &DataKey::generate(), Kind::Proof, &name);
        let object = object::parts(&seal, header, &[manifest::encode(proof)], crate::writer::LEVEL);
        Ok(self.storage.create(&name, object)?)
    }

    /// The proofs of a service's backups.
    pub fn proofs(&self, service: &str) -> Result<Proofs, Error> {
        self.proofs_below(&format!("{}/{service}", id::PROOFS))
    }

    /// Whether the last proof of a backup failed, or cannot be read.
    pub(crate) fn is_doubtful(&self, service: &str, id: &BackupId) -> Result<bool, Error> {
        let proofs = self.proofs_below(&format!("{}/{service}/{id}", id::PROOFS))?;
        let last = proofs.of(id).last();
        Ok(!proofs.unreadable.is_empty() || last.is_some_and(|p| !p.good))
    }

    fn proofs_below(&self, prefix: &str) -> Result<Proofs, Error> {
        let mut proofs = Proofs::default();
        for object in self.storage.list(prefix)? {
            match self.proof(&object.name) {
                Ok(proof) => proofs.found.entry(proof.id.clone()).or_default().push(proof),
                // Removed since it was listed.
                Err(Error::Storage(storage::Error::Absent(_))) => {}
                Err(e @ Error::Storage(_)) => return Err(e),
                Err(e) => proofs.unreadable.push((object.name, e)),
            }
        }
        Ok(proofs)
    }

    pub(crate) fn proof(&self, name: &str) -> Result<Proof, Error> {
        let object = self.storage.read(name)?;
        let seal = Seal::read(&self.key, Kind::Proof, name, &object)?;
        let (json, end) = object::part(&seal, &object, HEADER_BYTES)?;
        let proof: Proof = manifest::decode(name, &json)?;
        let prefix = format!("{}/{}/{}/", id::PROOFS, proof.service, proof.id);
        if end != object.len() || !name.starts_with(&prefix) {
            return Err(Error::damaged(name, end as u64, "it is the proof of something else"));
        }
        Ok(proof)
    }
}

fn checksum(line: &str) -> String {
    hex(digest(&SHA256, line.as_bytes()).as_ref())
}

/// Reads frames of any pack, by place. Shared between threads.
pub(crate) struct Frames {
    repository: Repository,
    seals: Mutex<HashMap<PackId, Arc<Seal>>>,
}

impl Frames {
    pub(crate) fn new(repository: Repository) -> Frames {
        Frames { repository, seals: Mutex::default() }
    }

    pub(crate) fn seal(&self, pack: &PackId) -> Result<Arc<Seal>, Error> {
        let seals = || self.seals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seal) = seals().get(pack) {
            return Ok(seal.clone());
        }
        let name = pack.object();
        let header = self.repository.storage.read_range(&name, 0, HEADER_BYTES as u64)?;
        let seal = Arc::new(Seal::read(&self.repository.key, Kind::Pack, &name, &header)?);
        seals().insert(pack.clone(), seal.clone());
        Ok(seal)
    }

    /// Raw bytes of a pack.
    pub(crate) fn sealed(&self, pack: &PackId, offset: u32, length: u64) -> Result<Vec<u8>, Error> {
        let name = pack.object();
        let bytes = self.repository.storage.read_range(&name, u64::from(offset), length)?;
        if (bytes.len() as u64) < length {
            return Err(Error::damaged(&name, u64::from(offset) + bytes.len() as u64, "it is cut off"));
        }
        Ok(bytes)
    }

    pub(crate) fn segment(
        &self,
        pack: &PackId,
        offset: u32,
        sealed: u32,
    ) -> Result<crate::map::Segment, Error> {
        let mut bytes = self.sealed(pack, offset, u64::from(sealed))?;
        let mut content = Vec::new();
        self.seal(pack)?.open(u64::from(offset), &mut bytes, object::FRAME_BYTES_MAX, &mut content)?;
        crate::map::Segment::decode(&content)
            .ok_or_else(|| Error::damaged(&pack.object(), u64::from(offset), "a map contradicts itself"))
    }
}
