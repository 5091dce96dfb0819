//! The index file of a binary or relay log: the log's files, oldest first.

use std::path::{Path, PathBuf};

/// The files that an index names, in order.
pub(super) fn files(index: &Path) -> std::io::Result<Vec<PathBuf>> {
    let text = match std::fs::read_to_string(index) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let dir = index.parent().unwrap_or(Path::new("."));
    Ok(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| dir.join(l)).collect())
}
