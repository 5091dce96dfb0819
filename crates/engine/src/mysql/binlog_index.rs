//! The index file of a binary or relay log: the log's files, oldest first.

use super::datadir;
use std::path::{Path, PathBuf};

/// What MySQL calls the index that is about to be one.
const NEXT: &str = "_crash_safe";

/// The files of an index up to the first that is missing, and whether none is. A file is named in the index before it is
/// made, so after a crash the last may be missing that never was: that too counts as missing.
pub(super) fn unbroken(index: &Path) -> std::io::Result<(Vec<PathBuf>, bool)> {
    let number = |f: &Path| f.extension()?.to_str()?.parse::<u64>().ok();
    let (mut unbroken, mut last) = (Vec::new(), None);
    for file in files(index)? {
        let number = number(&file);
        let follows = number.is_some() && last.is_none_or(|l: u64| number == l.checked_add(1));
        if !follows || !file.try_exists()? {
            return Ok((unbroken, false));
        }
        last = number;
        unbroken.push(file);
    }
    Ok((unbroken, true))
}

/// The files that an index names, in order.
pub(super) fn files(index: &Path) -> std::io::Result<Vec<PathBuf>> {
    let text = text(index)?.unwrap_or_default();
    let dir = index.parent().unwrap_or(Path::new("."));
    Ok(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| dir.join(l)).collect())
}

/// `None`: there is no index. MySQL replaces one by removing it and renaming the next: in between, which may be where a
/// server was killed, only the next is there; and while it is looked for, it may get its name.
fn text(index: &Path) -> std::io::Result<Option<String>> {
    for path in [index, &datadir::sibling(index, NEXT), index] {
        match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            text => return text.map(Some),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_a_missing_file_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("relay.index");
        for n in 3..=6 {
            std::fs::write(dir.path().join(format!("relay.{n:06}")), "").unwrap();
        }
        let given = |names: &[u32]| {
            let text: String = names.iter().map(|n| format!("./relay.{n:06}\n")).collect();
            std::fs::write(&index, text).unwrap();
            let (files, whole) = unbroken(&index).unwrap();
            (files.len(), whole)
        };
        assert_eq!(given(&[3, 4, 5, 6]), (4, true));
        assert_eq!(given(&[3, 4, 5, 6, 7]), (4, false));
        assert_eq!(given(&[3, 5, 6]), (1, false));
        assert_eq!(given(&[2, 3, 4]), (0, false));
        assert_eq!(given(&[]), (0, true));
    }
    #[test]
    fn an_index_that_is_being_replaced_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("binlog.index");
        assert!(files(&index).unwrap().is_empty());
        std::fs::write(datadir::sibling(&index, NEXT), "./binlog.000002\n").unwrap();
        assert_eq!(files(&index).unwrap(), [dir.path().join("./binlog.000002")]);
        std::fs::write(&index, "./binlog.000001\n./binlog.000002\n").unwrap();
        assert_eq!(files(&index).unwrap().len(), 2, "the one with the name counts");
    }
}
