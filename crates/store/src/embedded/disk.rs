//! One redb file per voter: identity, vote, log, snapshot.
//!
//! Guarantees: a vote, log entries and a snapshot are on disk (fsync) when the call returns; purging is not, it may
//! be undone by a crash, which only brings back entries that the snapshot covers. Every record carries a CRC, the
//! whole file is checked when it is opened, and a file that is damaged, foreign, too new or in use is refused, never
//! replaced. The applied state is not here: it is rebuilt from the snapshot and the committed log.
//! Deliberately absent: async. Callers run this where blocking is allowed.

use super::room::{self, Room};
use super::types::{Entry, LogId, SnapshotMeta, StoreId, Vote};
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};

/// Version of the file. A higher one is refused.
const FORMAT: u32 = 1;
const FILE: &str = "store.redb";
/// A file in the making; has never voted, so it is replaced without asking.
const NEW_FILE: &str = "store.redb.new";
const LOCK: &str = "store.lock";
/// redb's page cache. The log's tail and the snapshot are all it ever reads.
const CACHE_BYTES: usize = 16 << 20;
/// A snapshot is stored in pieces, so that no huge run of pages must be found for it.
const PIECE_BYTES: usize = 64 << 10;
/// Entries of one read for replication, so that one message stays small.
const READ_BYTES: usize = 4 << 20;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const SNAPSHOT: TableDefinition<u64, &[u8]> = TableDefinition::new("snapshot");

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{dir} is in use by another process; stop it first, two processes must never share a store")]
    Locked { dir: PathBuf },
    #[error(
        "{file} is damaged: {what}; nothing was changed. Keep the file. With a majority of the other voters alive, give this node a new id and let it join as a new voter; otherwise restore the file"
    )]
    Damaged { file: PathBuf, what: String },
    #[error("{file} has format {found}, this version reads {FORMAT}; start the version that wrote it")]
    Version { file: PathBuf, found: u32 },
    #[error(
        "{file} belongs to the deployment {found}, not to {expected}; nothing was changed, point data_dir at the right directory"
    )]
    Foreign { file: PathBuf, found: String, expected: String },
    #[error(
        "{file} belongs to node id {found}, this node has id {expected}; nothing was changed, ids are never reused, correct the topology file"
    )]
    OtherNode { file: PathBuf, found: u64, expected: u64 },
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the store's file failed")]
    Redb(#[source] Box<redb::Error>),
    #[error("the store's file failed before: {first}")]
    Failed { first: String },
    #[error("a record of the store cannot be {action}")]
    Codec {
        action: &'static str,
        #[source]
        source: postcard::Error,
    },
    #[error("the state cannot be written as a snapshot")]
    State(#[source] crate::state::CodecError),
    #[error("a record of the store is damaged: {what}")]
    Record { what: &'static str },
    #[error("the store's file is closed")]
    Closed,
}

macro_rules! from_redb {
    ($($kind:ident),*) => {$(
        impl From<redb::$kind> for Error {
            fn from(e: redb::$kind) -> Error {
                Error::Redb(Box::new(e.into()))
            }
        }
    )*};
}
from_redb!(StorageError, TableError, TransactionError, CommitError, SetDurabilityError);

/// Whose directory it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub cluster: String,
    pub id: u64,
}

/// First and last facts about the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogState {
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
}

/// An open store file.
#[derive(Debug)]
pub(crate) struct Disk {
    /// `None` once closed. Operations hold it for reading.
    db: RwLock<Option<Database>>,
    /// Held until drop; the operating system releases it with the process.
    lock: Mutex<Option<File>>,
    /// This directory's name, see [`StoreId`].
    pub store: StoreId,
    room: Room,
    /// The first failure. After one, redb refuses everything without saying why.
    failed: OnceLock<Failure>,
}

#[derive(Debug)]
struct Failure {
    says: String,
    lacked_room: bool,
}

impl Disk {
    /// Opens the directory's store, or creates one where there is none.
    pub(crate) fn open(dir: &Path, identity: &Identity) -> Result<Disk, Error> {
        fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        let lock = lock(dir)?;
        let path = dir.join(FILE);
        if !path.try_exists().map_err(io_error("look for", &path))? {
            create(dir, identity)?;
        }
        Disk::open_locked(lock, path, identity)
    }

    /// Opens the directory's store; an error if there is none.
    pub(crate) fn open_existing(dir: &Path, identity: &Identity) -> Result<Disk, Error> {
        Disk::open_locked(lock(dir)?, dir.join(FILE), identity)
    }

    fn open_locked(lock: File, path: PathBuf, identity: &Identity) -> Result<Disk, Error> {
        // An empty file would pass for a new database, and a voter would have forgotten its vote.
        if fs::metadata(&path).map_err(io_error("look at", &path))?.len() == 0 {
            return Err(Error::Damaged { file: path, what: "it is empty".into() });
        }
        let db = open_checked(&path)?;
        let store = check_identity(&db, &path, identity)?;
        let room = Room::of(&path).map_err(io_error("open", &path))?;
        room.keep();
        let (db, lock) = (RwLock::new(Some(db)), Mutex::new(Some(lock)));
        Ok(Disk { db, lock, store, room, failed: OnceLock::new() })
    }

    /// Waits for running operations, closes the file and gives the directory free.
    pub(crate) fn close(&self) -> Result<(), Error> {
        let db = self.db.write().unwrap_or_else(PoisonError::into_inner).take();
        let closed = db.map_or(Ok(()), Database::close);
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        closed.map_err(|e| Error::Redb(Box::new(e.into())))
    }

    pub(crate) fn save_vote(&self, vote: &Vote) -> Result<(), Error> {
        let record = encode(vote)?;
        self.write(Durability::Immediate, |txn| {
            txn.open_table(META)?.insert("vote", record.as_slice())?;
            Ok(())
        })
    }

    pub(crate) fn vote(&self) -> Result<Option<Vote>, Error> {
        self.meta("vote")
    }

    pub(crate) fn committed(&self) -> Result<Option<LogId>, Error> {
        Ok(self.meta::<Option<LogId>>("committed")?.flatten())
    }

    /// Appends entries and remembers, along with them, how far the log was known to be committed. Returns the bytes
    /// it took.
    pub(crate) fn append(&self, entries: &[Entry], committed: Option<LogId>) -> Result<u64, Error> {
        let records =
            entries.iter().map(|e| Ok((e.log_id.index, encode(e)?))).collect::<Result<Vec<_>, Error>>()?;
        let committed = encode(&committed)?;
        self.write(Durability::Immediate, |txn| {
            let mut log = txn.open_table(LOG)?;
            for (index, record) in &records {
                log.insert(index, record.as_slice())?;
            }
            txn.open_table(META)?.insert("committed", committed.as_slice())?;
            Ok(())
        })?;
        Ok(records.iter().map(|(_, record)| record.len() as u64).sum())
    }

    /// Removes entries from `index` on.
    pub(crate) fn truncate(&self, index: u64) -> Result<(), Error> {
        self.write(Durability::Immediate, |txn| {
            txn.open_table(LOG)?.retain_in(index.., |_, _| false)?;
            Ok(())
        })
    }

    /// Removes entries up to `upto`. Not fsynced, see the module.
    pub(crate) fn purge(&self, upto: &LogId) -> Result<(), Error> {
        let record = encode(upto)?;
        self.write(Durability::None, |txn| {
            txn.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?;
            txn.open_table(META)?.insert("purged", record.as_slice())?;
            Ok(())
        })
    }

    pub(crate) fn log_state(&self) -> Result<LogState, Error> {
        let purged = self.meta("purged")?;
        let last = self.read(|txn| match txn.open_table(LOG)?.last()? {
            Some((_, record)) => Ok(Some(decode::<Entry>(record.value())?.log_id)),
            None => Ok(None),
        })?;
        Ok(LogState { purged, last: last.or(purged) })
    }

    /// Entries of a range of indexes; with `bounded`, at least one and then no more than fit one message.
    pub(crate) fn entries(&self, range: RangeInclusive<u64>, bounded: bool) -> Result<Vec<Entry>, Error> {
        self.read(|txn| {
            let (mut entries, mut bytes) = (Vec::new(), 0);
            for item in txn.open_table(LOG)?.range(range)? {
                let (_, record) = item?;
                bytes += record.value().len();
                if bounded && bytes > READ_BYTES && !entries.is_empty() {
                    break;
                }
                entries.push(decode(record.value())?);
            }
            Ok(entries)
        })
    }

    /// Bytes of the log's records.
    pub(crate) fn log_bytes(&self) -> Result<u64, Error> {
        self.read(|txn| {
            let mut bytes = 0;
            for item in txn.open_table(LOG)?.iter()? {
                bytes += item?.1.value().len() as u64;
            }
            Ok(bytes)
        })
    }

    /// Replaces the snapshot, unless there is a newer one: one may be installed while an older one is still built.
    pub(crate) fn save_snapshot(&self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), Error> {
        let upto = meta.last_log_id;
        let meta = encode(&(meta, crc32fast::hash(data), data.len() as u64))?;
        self.write(Durability::Immediate, |txn| {
            if let Some(record) = txn.open_table(META)?.get("snapshot")? {
                let (current, ..) = decode::<(SnapshotMeta, u32, u64)>(record.value())?;
                if current.last_log_id > upto {
                    return Ok(());
                }
            }
            let mut pieces = txn.open_table(SNAPSHOT)?;
            pieces.retain(|_, _| false)?;
            for (number, piece) in (0_u64..).zip(data.chunks(PIECE_BYTES)) {
                pieces.insert(number, piece)?;
            }
            txn.open_table(META)?.insert("snapshot", meta.as_slice())?;
            Ok(())
        })
    }

    pub(crate) fn snapshot(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, Error> {
        self.read(|txn| {
            let Some((meta, crc, len)) = read_meta::<(SnapshotMeta, u32, u64)>(txn, "snapshot")? else {
                return Ok(None);
            };
            let mut data = Vec::new();
            for item in txn.open_table(SNAPSHOT)?.iter()? {
                data.extend_from_slice(item?.1.value());
            }
            if data.len() as u64 != len || crc32fast::hash(&data) != crc {
                return Err(Error::Record { what: "the snapshot" });
            }
            Ok(Some((meta, data)))
        })
    }

    /// Makes this directory another one, with a new vote and one more entry: see `recover`.
    pub(crate) fn rename(&self, store: StoreId, vote: &Vote, entry: &Entry) -> Result<(), Error> {
        let (id, vote, record) = (encode(&store)?, encode(vote)?, encode(entry)?);
        self.write(Durability::Immediate, |txn| {
            let mut meta = txn.open_table(META)?;
            meta.insert("store", id.as_slice())?;
            meta.insert("vote", vote.as_slice())?;
            txn.open_table(LOG)?.insert(entry.log_id.index, record.as_slice())?;
            Ok(())
        })
    }

    fn meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        self.read(|txn| read_meta(txn, key))
    }

    fn read<T>(&self, f: impl FnOnce(&redb::ReadTransaction) -> Result<T, Error>) -> Result<T, Error> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or(Error::Closed)?;
        let run = || f(&db.begin_read()?);
        run().map_err(|e| self.with_cause(e))
    }

    fn write(
        &self,
        durability: Durability,
        f: impl FnOnce(&redb::WriteTransaction) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or(Error::Closed)?;
        let run = || {
            let mut txn = db.begin_write()?;
            txn.set_durability(durability)?;
            f(&txn)?;
            Ok(txn.commit()?)
        };
        run().map_err(|e| self.with_cause(e))?;
        self.room.keep();
        Ok(())
    }

    /// The first failure of the file, if there was one.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.get().map(|f| f.says.as_str())
    }

    /// Whether the first failure was that the file could not grow. What was written before is sound then; after any
    /// other error of the disk, even what was synced may have to be doubted.
    pub(crate) fn lacked_room(&self) -> bool {
        self.failed.get().is_some_and(|f| f.lacked_room)
    }

    /// Remembers the first failure of the file, and names it instead of its consequences.
    fn with_cause(&self, error: Error) -> Error {
        match &error {
            Error::Redb(e) if matches!(**e, redb::Error::PreviousIo) => match self.failed.get() {
                Some(first) => Error::Failed { first: first.says.clone() },
                None => error,
            },
            Error::Redb(e) => {
                let lacked_room = matches!(&**e, redb::Error::Io(e) if room::is_lacking(e));
                self.failed.get_or_init(|| Failure { says: e.to_string(), lacked_room });
                error
            }
            _ => error,
        }
    }
}

fn read_meta<T: DeserializeOwned>(txn: &redb::ReadTransaction, key: &str) -> Result<Option<T>, Error> {
    match txn.open_table(META)?.get(key)? {
        Some(record) => decode(record.value()).map(Some),
        None => Ok(None),
    }
}

/// CRC-32 and postcard.
fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let mut record = postcard::to_extend(value, vec![0; 4])
        .map_err(|source| Error::Codec { action: "written", source })?;
    let crc = crc32fast::hash(&record[4..]).to_le_bytes();
    record[..4].copy_from_slice(&crc);
    Ok(record)
}

fn decode<T: DeserializeOwned>(record: &[u8]) -> Result<T, Error> {
    let (crc, body) = record.split_first_chunk::<4>().ok_or(Error::Record { what: "it is too short" })?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(Error::Record { what: "its checksum does not fit" });
    }
    postcard::from_bytes(body).map_err(|source| Error::Codec { action: "read", source })
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// Takes the directory for this process.
fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { dir: dir.to_owned() }),
        Err(fs::TryLockError::Error(e)) => Err(io_error("lock", &path)(e)),
    }
}

/// Makes a complete new file beside and moves it into place, so that a crash leaves either none or a whole one.
fn create(dir: &Path, identity: &Identity) -> Result<(), Error> {
    let new = dir.join(NEW_FILE);
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &new)(e)),
        _ => {}
    }
    let db = Builder::new().set_cache_size(CACHE_BYTES).create(&new).map_err(|e| open_error(&new, e))?;
    let txn = db.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        meta.insert("format", encode(&FORMAT)?.as_slice())?;
        meta.insert("cluster", encode(&identity.cluster)?.as_slice())?;
        meta.insert("id", encode(&identity.id)?.as_slice())?;
        meta.insert("store", encode(&new_store_id()?)?.as_slice())?;
        txn.open_table(LOG)?;
        txn.open_table(SNAPSHOT)?;
    }
    txn.commit()?;
    db.close().map_err(|e| open_error(&new, e))?;
    let path = dir.join(FILE);
    fs::rename(&new, &path).map_err(io_error("move into place", &path))?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(io_error("sync", dir))
}

/// A random name for a new directory.
pub(crate) fn new_store_id() -> Result<StoreId, Error> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    File::open(source).and_then(|mut f| f.read_exact(&mut bytes)).map_err(io_error("read", source))?;
    Ok(StoreId(u128::from_le_bytes(bytes)))
}

/// Opens with redb's full check. redb may panic on a file that something else wrote into; that is damage, too.
fn open_checked(path: &Path) -> Result<Database, Error> {
    let open = || {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        builder.open(path).map_err(|e| open_error(path, e))
    };
    std::panic::catch_unwind(open)
        .unwrap_or_else(|_| Err(Error::Damaged { file: path.to_owned(), what: "it cannot be read".into() }))
}

fn open_error(path: &Path, error: redb::DatabaseError) -> Error {
    use redb::{DatabaseError, StorageError};
    let file = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => Error::Locked { dir: path.parent().unwrap_or(path).to_owned() },
        DatabaseError::UpgradeRequired(found) => Error::Version { file, found: found.into() },
        DatabaseError::Storage(StorageError::Corrupted(what)) => Error::Damaged { file, what },
        DatabaseError::Storage(StorageError::Io(e))
            if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Error::Damaged { file, what: e.to_string() }
        }
        DatabaseError::Storage(StorageError::Io(source)) => Error::Io { action: "open", path: file, source },
        other => Error::Redb(Box::new(other.into())),
    }
}

fn check_identity(db: &Database, path: &Path, identity: &Identity) -> Result<StoreId, Error> {
    let damaged = |what: &str| Error::Damaged { file: path.to_owned(), what: what.to_owned() };
    let txn = db.begin_read()?;
    let format: u32 =
        read_meta(&txn, "format").ok().flatten().ok_or_else(|| damaged("it is not a store of Holdfast"))?;
    if format != FORMAT {
        return Err(Error::Version { file: path.to_owned(), found: format });
    }
    let found: String = read_meta(&txn, "cluster")?.ok_or_else(|| damaged("it names no deployment"))?;
    if found != identity.cluster {
        let expected = identity.cluster.clone();
        return Err(Error::Foreign { file: path.to_owned(), found, expected });
    }
    let found: u64 = read_meta(&txn, "id")?.ok_or_else(|| damaged("it names no node"))?;
    if found != identity.id {
        return Err(Error::OtherNode { file: path.to_owned(), found, expected: identity.id });
    }
    read_meta(&txn, "store")?.ok_or_else(|| damaged("it has no store id"))
}
