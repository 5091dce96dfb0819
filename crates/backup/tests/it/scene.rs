//! Files that look like a database's, and a repository to put them in.

use holdfast_backup::storage::Directory;
use holdfast_backup::{
    Begin, Completion, Cut, Error, Progress, Repository, RepositoryKey, Retention, Storage, Summary,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub const NOW: u64 = 1_795_489_388_000;
pub const PAGE: usize = 16 << 10;

/// Content by path.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Half of it can be compressed.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = vec![0; bytes];
    for half in out.chunks_mut(512) {
        let random = half.len() / 2;
        for byte in &mut half[..random] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 24) as u8;
        }
    }
    out
}

/// A few tables, one of them with holes, an empty file, and a dump.
pub fn database(seed: u64) -> Files {
    let mut holes = noise(40 * PAGE, seed + 3);
    holes[PAGE..30 * PAGE].fill(0);
    Files::from([
        ("shop/orders.ibd".to_owned(), noise(150 * PAGE, seed)),
        ("shop/items.ibd".to_owned(), noise(3 * PAGE + 77, seed + 1)),
        ("shop/empty.frm".to_owned(), Vec::new()),
        ("shop/zeros.ibd".to_owned(), vec![0; 5 * PAGE + 5]),
        ("ibdata1".to_owned(), holes),
        ("dump.sql".to_owned(), noise(700_000, seed + 2)),
    ])
}

pub fn cut(path: &str) -> Cut {
    if path.ends_with(".sql") { Cut::Content } else { Cut::Pages }
}

pub fn begin(service: &str) -> Begin {
    Begin {
        service: service.into(),
        engine: "mariadb".into(),
        version: "10.11".into(),
        method: "test".into(),
        origin: "here".into(),
        now_unix_ms: NOW,
        full: false,
        threads: 2,
        progress: Arc::new(Progress::default()),
    }
}

/// Two files at a time, in uneven pieces, as a parallel stream would bring them.
pub fn store(repository: &Repository, begin: Begin, files: &Files) -> Result<Summary, Error> {
    let mut writer = repository.begin(begin)?;
    let all: Vec<_> = files.iter().collect();
    for pair in all.chunks(2) {
        let mut open = Vec::new();
        for (path, bytes) in pair {
            open.push((writer.open(path, None, cut(path))?, bytes.chunks(100_003)));
        }
        while !open.is_empty() {
            let mut still = Vec::new();
            for (file, mut pieces) in open {
                match pieces.next() {
                    Some(piece) => {
                        writer.write(file, piece)?;
                        still.push((file, pieces));
                    }
                    None => writer.close(file)?,
                }
            }
            open = still;
        }
    }
    let position = Some("0-1-7".to_owned());
    writer.commit(Completion { position, facts: BTreeMap::new(), now_unix_ms: NOW + 5_000 })
}

pub fn restored(repository: &Repository, backup: &Summary) -> Result<Files, Error> {
    let dir = tempfile::tempdir().unwrap();
    let reading = repository.read(&backup.service, &backup.id, "test", NOW)?;
    reading.restore(dir.path(), 2, &Progress::default())?;
    Ok(tree(dir.path()))
}

pub fn tree(root: &Path) -> Files {
    let mut files = Files::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                todo.push(path);
            } else if path.is_file() {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// A repository in a directory of its own.
pub struct Scene {
    pub dir: tempfile::TempDir,
    pub key: RepositoryKey,
    pub repository: Repository,
    runtime: tokio::runtime::Runtime,
}

impl Scene {
    pub fn new() -> Scene {
        Scene::with_key(RepositoryKey::generate())
    }
    pub fn with_key(key: RepositoryKey) -> Scene {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let storage = Arc::new(Directory::open(&dir.path().join("repo"), runtime.handle().clone()).unwrap());
        let repository = Repository::create(storage, key.clone()).unwrap();
        Scene { dir, key, repository, runtime }
    }
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(Directory::open(&self.path(), self.runtime.handle().clone()).unwrap())
    }
    /// On one of its own threads.
    pub fn on_the_runtime(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.block_on(self.runtime.spawn(work)).unwrap();
    }
    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("repo")
    }
    /// Every file of the repository.
    pub fn objects(&self) -> Vec<std::path::PathBuf> {
        tree(&self.path()).into_keys().map(|name| self.path().join(name)).collect()
    }
}

pub fn last(last: u32) -> Retention {
    Retention { last, ..Retention::default() }
}
