//! A directory, of this disk or of a network file system.

use super::{Error, Listed, Storage, failure, listed};
use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload, path::Path as Name};
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};
use tokio::runtime::Handle;

/// A directory.
pub struct Directory {
    root: PathBuf,
    /// Device and inode: what is at the same path later may be the mount point of a file system that is away.
    identity: (u64, u64),
    store: LocalFileSystem,
    runtime: Handle,
}

impl Directory {
    /// `root` is created if it does not exist. Calls run on `runtime`, and must not come from its own threads (but
    /// may from `spawn_blocking`).
    pub fn open(root: &Path, runtime: Handle) -> Result<Directory, Error> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Failed {
            doing: "opening",
            name: root.display().to_string(),
            source,
        };
        std::fs::create_dir_all(root).map_err(|e| failed(e.into()))?;
        let store = LocalFileSystem::new_with_prefix(root).map_err(|e| failed(e.into()))?.with_fsync(true);
        let identity = identity(root).map_err(|e| failed(e.into()))?;
        Ok(Directory { root: root.to_owned(), identity, store, runtime })
    }

    fn put(&self, doing: &'static str, name: &str, object: Vec<u8>, mode: PutMode) -> Result<(), Error> {
        // Directories that are missing are made: none below another root.
        let same = identity(&self.root).is_ok_and(|now| now == self.identity);
        if !same {
            let source = "the directory is not the one that was opened; is its file system mounted?".into();
            return Err(Error::Failed { doing, name: name.to_owned(), source });
        }
        let payload = PutPayload::from(Bytes::from(object));
        let put = self.runtime.block_on(self.store.put_opts(&Name::from(name), payload, mode.into()));
        put.map(|_| ()).map_err(|e| failure(doing, name, e))
    }
}

fn identity(root: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(root)?;
    Ok((meta.dev(), meta.ino()))
}

/// Directories below one another: `proofs/SERVICE/ID` are three.
const DEPTH_MAX: usize = 8;

/// The library writes under the final name followed by `#` and a number, and renames.
fn sweep(dir: &Path, before_unix_ms: i64) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            sweep(&entry.path(), before_unix_ms)?;
        } else if entry.file_name().to_string_lossy().contains('#') && modified_ms(&meta) < before_unix_ms {
            std::fs::remove_file(entry.path())?;
        }
    }
    // Stays if something is in it. Who writes a file into it at this moment makes it again.
    let _ = std::fs::remove_dir(dir);
    Ok(())
}

/// Appends the objects of a directory. Only what was listed and is gone a moment later was removed; whatever else
/// cannot be looked at may be what somebody needs, and fails.
fn below(dir: &Path, name: &str, depth_left: usize, list: &mut Vec<Listed>) -> std::io::Result<()> {
    let within = |e: std::io::Error| std::io::Error::new(e.kind(), format!("{}: {e}", dir.display()));
    if depth_left == 0 {
        return Err(within(std::io::Error::other("no repository has directories as deep as this")));
    }
    for entry in std::fs::read_dir(dir).map_err(within)? {
        let entry = entry.map_err(within)?;
        let path = entry.path();
        let meta = match std::fs::symlink_metadata(&path) {
            // A link may lead to another disk; one that leads nowhere is not an object that was removed.
            Ok(meta) if meta.is_symlink() => std::fs::metadata(&path).map_err(within)?,
            Err(e) if e.kind() == NotFound => continue,
            meta => meta.map_err(within)?,
        };
        let own = entry.file_name();
        let own = own.to_str().ok_or_else(|| within(std::io::Error::other("a name in it is not UTF-8")))?;
        let name = if name.is_empty() { own.to_owned() } else { format!("{name}/{own}") };
        if meta.is_dir() {
            match below(&path, &name, depth_left - 1, list) {
                // Swept, since it was empty.
                Err(_) if gone(&path) => {}
                done => done?,
            }
        } else if !own.contains('#') {
            list.push(Listed { name, bytes: meta.len(), modified_unix_ms: modified_ms(&meta) });
        }
    }
    Ok(())
}

fn gone(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|e| e.kind() == NotFound)
}

fn modified_ms(meta: &std::fs::Metadata) -> i64 {
    use std::os::unix::fs::MetadataExt as _;
    meta.mtime().saturating_mul(1_000).saturating_add(meta.mtime_nsec() / 1_000_000)
}

impl Storage for Directory {
    fn create(&self, name: &str, object: Vec<u8>) -> Result<(), Error> {
        self.put("writing", name, object, PutMode::Create)
    }
    fn replace(&self, name: &str, object: Vec<u8>) -> Result<(), Error> {
        self.put("writing", name, object, PutMode::Overwrite)
    }
    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let get = async { self.store.get(&Name::from(name)).await?.bytes().await };
        Ok(self.runtime.block_on(get).map_err(|e| failure("reading", name, e))?.into())
    }
    fn read_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        // On threads of its own already: a positioned read needs no detour through the runtime.
        use std::os::unix::fs::FileExt as _;
        let fail = |e: std::io::Error| match e.kind() {
            NotFound => Error::Absent(name.to_owned()),
            _ => Error::Failed { doing: "reading", name: name.to_owned(), source: e.into() },
        };
        let path =
            self.store.path_to_filesystem(&Name::from(name)).map_err(|e| failure("reading", name, e))?;
        let file = std::fs::File::open(path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        let length = length.min(size.saturating_sub(offset));
        let mut out = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut out, offset).map_err(fail)?;
        Ok(out)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, Error> {
        let failed =
            |e: std::io::Error| Error::Failed { doing: "listing", name: prefix.into(), source: e.into() };
        let mut list = Vec::new();
        let top = self.root.join(prefix);
        match below(&top, prefix, DEPTH_MAX, &mut list) {
            // Nothing is there yet, or not any more. That the repository itself is gone is another thing.
            Err(_) if gone(&top) => _ = std::fs::symlink_metadata(&self.root).map_err(failed)?,
            done => done.map_err(failed)?,
        }
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }
    fn stat(&self, name: &str) -> Result<Listed, Error> {
        let head = self.runtime.block_on(self.store.head(&Name::from(name)));
        Ok(listed(&head.map_err(|e| failure("looking at", name, e))?))
    }
    fn remove(&self, name: &str) -> Result<(), Error> {
        // Without the runtime: what is dropped on one of its threads removes its pin, and must not wait for it there.
        let fail = |e: std::io::Error| match e.kind() {
            NotFound => Ok(()),
            _ => Err(Error::Failed { doing: "removing", name: name.to_owned(), source: e.into() }),
        };
        let path =
            self.store.path_to_filesystem(&Name::from(name)).map_err(|e| failure("removing", name, e))?;
        let parent = path.parent().unwrap_or(&self.root);
        let removed = std::fs::remove_file(&path);
        removed.and_then(|()| std::fs::File::open(parent)?.sync_all()).or_else(fail)
    }
    fn sweep(&self, prefix: &str, before_unix_ms: i64) -> Result<(), Error> {
        let failed = |e: std::io::Error| match e.kind() {
            NotFound => Ok(()),
            _ => Err(Error::Failed { doing: "sweeping", name: prefix.into(), source: e.into() }),
        };
        sweep(&self.root.join(prefix), before_unix_ms).or_else(failed)
    }
    fn location(&self) -> String {
        self.root.display().to_string()
    }
}
