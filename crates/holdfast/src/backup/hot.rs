//! A backup of a running MariaDB, straight from its stream into the repository.

use super::{Error, Kind, blocking, check_room, cut, facts, tree_bytes};
use crate::clock::unix_ms;
use holdfast_backup::{Completion, FileId, Progress, Repository, Summary, Writer};
use holdfast_engine::mysql::backup::{HotBackup, POSITION_FILES, Source, position_in};
use holdfast_wire::xbstream::{Event, XbStream};
use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const READ_BYTES: usize = 1 << 20;
/// Of a file that is looked into on its way.
const SMALL_FILE_BYTES: usize = 64 << 10;

/// What is to be backed up.
#[derive(Debug, Clone)]
pub struct Hot {
    pub service: String,
    /// Unix socket of the running server.
    pub socket: PathBuf,
    /// Node or host, for people.
    pub origin: String,
    pub full: bool,
    /// Also read every table through, and record rows and checksums if nothing was written meanwhile.
    pub count: bool,
    /// The repository's directory, to look for room.
    pub repository_path: Option<PathBuf>,
}

/// What was made, and what may be said about it.
#[derive(Debug)]
pub struct Made {
    pub summary: Summary,
    pub note: Option<String>,
}

pub async fn backup(repository: &Repository, hot: Hot, progress: Arc<Progress>) -> Result<Made, Error> {
    let source = Arc::new(Source::new(&hot.socket)?);
    let before = source.describe().await?;
    let tables = source.tables().await?;
    let data_bytes = tree_bytes(&before.data_dir);
    progress.expect(data_bytes);
    let kind = Kind {
        service: hot.service.clone(),
        engine: "mariadb",
        version: before.version.clone(),
        method: "hot",
        origin: hot.origin.clone(),
        full: hot.full,
    };
    let begin = kind.begin(progress);
    let (repository, from, at) = (repository.clone(), source.clone(), hot.repository_path.clone());
    let (writer, position) = blocking(move || {
        let writer = repository.begin(begin)?;
        if let Some(at) = at.filter(|_| writer.parent().is_none()) {
            check_room(&at, data_bytes)?;
        }
        let scratch =
            tempfile::tempdir().map_err(super::io("creating", Path::new("a temporary directory")))?;
        copy(writer, from.stream(&scratch.path().join("stream"))?)
    })
    .await?;

    let after = source.describe().await?;
    let mut known = facts::tables(&tables, &source.tables().await?);
    known.insert("state-before".into(), before.state.clone());
    known.insert("state-after".into(), after.state.clone());
    let mut note = None;
    if hot.count {
        let counted = source.count().await?;
        if source.describe().await?.state == before.state {
            known.extend(facts::counts(&counted));
        } else {
            note = Some("rows were not recorded: the server was written to meanwhile".to_owned());
        }
    }
    let completion = Completion { position, facts: known, now_unix_ms: unix_ms() };
    let summary = blocking(move || Ok(writer.commit(completion)?)).await?;
    Ok(Made { summary, note })
}

/// Stores the whole stream. The writer is not committed yet.
fn copy(mut writer: Writer, mut stream: HotBackup) -> Result<(Writer, Option<String>), Error> {
    let mut files = Files::default();
    let mut parser = XbStream::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let n =
            stream.read(&mut buffer).map_err(super::io("reading the stream of", Path::new("the server")))?;
        if n == 0 {
            break;
        }
        let mut input = &buffer[..n];
        loop {
            match parser.next(&mut input)? {
                Event::More => break,
                Event::Data { path, bytes } => files.data(&mut writer, path, bytes)?,
                Event::End { path } => files.end(&mut writer, path)?,
            }
        }
    }
    // The program's own words come first: a stream that is cut off is only what follows from them.
    stream.finish()?;
    parser.finish()?;
    let position = files.small.values().find_map(|text| position_in(&String::from_utf8_lossy(text)));
    Ok((writer, position))
}

#[derive(Default)]
struct Files {
    open: HashMap<String, FileId>,
    /// Content of the files that say where the copy stands.
    small: BTreeMap<String, Vec<u8>>,
}

impl Files {
    fn file(&mut self, writer: &mut Writer, path: &str) -> Result<FileId, Error> {
        if let Some(file) = self.open.get(path) {
            return Ok(*file);
        }
        // The server's own mode: its group may read.
        let file = writer.open(path, Some(0o660), cut(path))?;
        self.open.insert(path.to_owned(), file);
        Ok(file)
    }

    fn data(&mut self, writer: &mut Writer, path: &str, bytes: &[u8]) -> Result<(), Error> {
        if POSITION_FILES.contains(&path) {
            let text = self.small.entry(path.to_owned()).or_default();
            text.extend_from_slice(&bytes[..bytes.len().min(SMALL_FILE_BYTES - text.len())]);
        }
        let file = self.file(writer, path)?;
        Ok(writer.write(file, bytes)?)
    }

    fn end(&mut self, writer: &mut Writer, path: &str) -> Result<(), Error> {
        let file = self.file(writer, path)?;
        self.open.remove(path);
        Ok(writer.close(file)?)
    }
}
