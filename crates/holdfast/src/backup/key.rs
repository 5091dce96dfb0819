//! Getting the repository's secrets from where they are kept. The only place that does.

use crate::config::repository::{Bucket, KeySource};
use crate::config::secrets;
use holdfast_backup::RepositoryKey;
use holdfast_backup::storage::{BucketPlace, Credentials};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const KEY_BYTES_MAX: usize = 1_024;
/// A vault that has not answered by then will not.
const COMMAND: std::time::Duration = std::time::Duration::from_secs(30);

/// Why there is no key. Nothing was read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the environment variable {0} with the repository key is not set")]
    NoVariable(String),
    #[error("there is no secret of the bucket's access key")]
    NoSecret(#[from] secrets::Error),
    #[error("{program}, which is to print the repository key, failed: {words}")]
    Command { program: String, words: String },
    #[error("what {origin} gives is no key")]
    NotAKey { origin: String, source: holdfast_backup::NotAKey },
}

pub async fn resolve(source: &KeySource) -> Result<RepositoryKey, Error> {
    match source {
        KeySource::Unencrypted => Ok(RepositoryKey::PLAIN),
        KeySource::File(path) => {
            let at = path.clone();
            let line = tokio::task::spawn_blocking(move || first_line(&at)).await.unwrap_or_else(|e| {
                Err(Error::Unreadable { path: path.clone(), source: std::io::Error::other(e) })
            });
            parse(&line?, path.display().to_string())
        }
        KeySource::Env(name) => match std::env::var(name) {
            Ok(text) => parse(&text, format!("the environment variable {name}")),
            Err(_) => Err(Error::NoVariable(name.clone())),
        },
        KeySource::Command(words) => command(words).await,
    }
}

/// A bucket with its secrets. Blocks.
pub fn bucket_place(bucket: &Bucket) -> Result<BucketPlace, Error> {
    let credentials = bucket.access.as_ref().map(|access| {
        let secret = secrets::resolve(&access.secret)?.expose().to_owned();
        Ok::<_, Error>(Credentials { id: access.id.clone(), secret })
    });
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| Error::Unreadable { path: path.clone(), source })
    };
    Ok(BucketPlace {
        bucket: bucket.name.clone(),
        prefix: bucket.prefix.clone(),
        endpoint: bucket.endpoint.clone(),
        region: bucket.region.clone(),
        authorities: bucket.ca_file.as_ref().map(read).transpose()?,
        credentials: credentials.transpose()?,
    })
}

fn first_line(path: &Path) -> Result<String, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(KEY_BYTES_MAX as u64).read_to_end(&mut text).map_err(unreadable)?;
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}

async fn command(words: &[String]) -> Result<RepositoryKey, Error> {
    let program = words.first().cloned().unwrap_or_default();
    let failed = |words: String| Error::Command { program: program.clone(), words };
    let run = tokio::process::Command::new(&program)
        .args(words.iter().skip(1))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(COMMAND, run).await {
        Ok(output) => output.map_err(|e| failed(e.to_string()))?,
        Err(_) => return Err(failed(format!("no answer within {} s", COMMAND.as_secs()))),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!("{}: {}", output.status, said.trim())));
    }
    let text: String = String::from_utf8_lossy(&output.stdout).chars().take(KEY_BYTES_MAX).collect();
    parse(text.lines().next().unwrap_or_default(), program.clone())
}

fn parse(text: &str, origin: String) -> Result<RepositoryKey, Error> {
    RepositoryKey::from_text(text).map_err(|source| Error::NotAKey { origin, source })
}
