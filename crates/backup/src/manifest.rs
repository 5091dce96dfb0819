//! The manifest of a backup: what it is of, and which maps its files have. See docs/repository-format.md.

use crate::Error;
use crate::id::{BackupId, PackId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// The version of the repository format.
pub const FORMAT: u32 = 1;
/// Files, directories and links of one backup.
pub(crate) const FILES_MAX: usize = 1 << 20;
const PATH_BYTES_MAX: usize = 1024;

/// What a backup is, without its list of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub format: u32,
    pub id: BackupId,
    pub service: String,
    /// Orders the backups of a service, whatever clocks say.
    pub sequence: u64,
    pub engine: String,
    pub version: String,
    pub method: String,
    /// Where it was made: a node, or a directory.
    pub origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    pub started_unix_ms: u64,
    pub finished_unix_ms: u64,
    pub files: u64,
    pub raw_bytes: u64,
    /// What this backup added to the repository.
    pub new_bytes: u64,
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    pub packs: Vec<Pack>,
}

/// A pack that a backup needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    pub(crate) id: PackId,
    pub(crate) bytes: u64,
    pub(crate) raw: u64,
    pub(crate) used: u64,
}

/// Where blocks of a file end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cut {
    /// Every 16 KiB: for files that are changed in place.
    Pages,
    /// Where the content says so: for dumps and other files in which things move.
    Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<u32>,
    #[serde(flatten)]
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum What {
    File { size: u64, cut: Cut, segments: Vec<SegmentAt> },
    Directory,
    Link { target: String },
}

/// Where the map of a segment lies: pack (index in the summary), offset, sealed length, bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentAt(pub(crate) u32, pub(crate) u32, pub(crate) u32, pub(crate) u64);

/// Refuses a path that could lead anywhere but below the directory that is restored to.
pub(crate) fn check_path(path: &str) -> Result<(), Error> {
    let bad = |why| Err(Error::BadPath { path: path.chars().take(200).collect(), why });
    if path.len() > PATH_BYTES_MAX {
        return bad("it is too long");
    }
    if path.contains('\0') {
        return bad("it has a zero byte");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return bad("it is not a plain relative path");
    }
    Ok(())
}

pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

pub(crate) fn decode<T: DeserializeOwned>(name: &str, json: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(json)
        .map_err(|e| Error::damaged(name, 0, &format!("it says what it cannot mean: {e}")))
}

/// The list of files of one manifest, consistent with itself and its summary.
pub(crate) fn decode_entries(name: &str, summary: &Summary, json: &[u8]) -> Result<Vec<Entry>, Error> {
    let entries: Vec<Entry> = decode(name, json)?;
    let bad = |what: &str| Err(Error::damaged(name, 0, what));
    if entries.len() > FILES_MAX {
        return bad("it lists more files than a backup may have");
    }
    for entry in &entries {
        check_path(&entry.path)?;
        if let What::File { size, segments, .. } = &entry.what {
            let mut left = *size;
            for SegmentAt(pack, _, _, span) in segments {
                if *pack as usize >= summary.packs.len() || *span > left {
                    return bad("a file's maps do not fit it");
                }
                left -= span;
            }
            if left != 0 {
                return bad("a file's maps do not cover it");
            }
        }
    }
    match tree_fault(&entries) {
        Some(path) => bad(&format!("{path:?} comes twice, or lies below what is no directory")),
        None => Ok(entries),
    }
}

/// An entry that no tree of files can have: a restore would write one over the other, or through a link.
pub(crate) fn tree_fault(entries: &[Entry]) -> Option<&str> {
    let mut kinds: HashMap<&str, bool> = HashMap::with_capacity(entries.len());
    for entry in entries {
        if kinds.insert(&entry.path, matches!(entry.what, What::Directory)).is_some() {
            return Some(&entry.path);
        }
    }
    let below = |path: &str| {
        path.match_indices('/').any(|(at, _)| kinds.get(&path[..at]).is_some_and(|is_dir| !is_dir))
    };
    entries.iter().map(|e| e.path.as_str()).find(|path| below(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_their_directory() {
        for good in ["a", "db/t.ibd", "x@0024y/..z", "a b/ü"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/.", "a/", "a\0b", &"x/".repeat(600)] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn entries_make_a_tree() {
        let entry = |path: &str, what| Entry { path: path.into(), mode: None, what };
        let file = || What::File { size: 0, cut: Cut::Pages, segments: Vec::new() };
        let link = || What::Link { target: "/etc".into() };
        let good =
            [entry("a", What::Directory), entry("a/b", file()), entry("c/d", file()), entry("a.b", link())];
        assert_eq!(tree_fault(&good), None);
        let bad: [(&str, Vec<Entry>); 4] = [
            ("a", vec![entry("a", file()), entry("a", link())]),
            ("l/passwd", vec![entry("l", link()), entry("l/passwd", file())]),
            ("l/x/passwd", vec![entry("l/x/passwd", file()), entry("l", link())]),
            ("a/b", vec![entry("a", file()), entry("a/b", What::Directory)]),
        ];
        for (fault, entries) in bad {
            assert_eq!(tree_fault(&entries), Some(fault));
        }
    }

    #[test]
    fn entries_are_as_the_specification_says() {
        let file = Entry {
            path: "a".into(),
            mode: None,
            what: What::File { size: 5, cut: Cut::Pages, segments: vec![SegmentAt(0, 80, 90, 5)] },
        };
        let text = r#"{"path":"a","kind":"file","size":5,"cut":"pages","segments":[[0,80,90,5]]}"#;
        assert_eq!(String::from_utf8(encode(&file)).unwrap(), text);
        let link = Entry { path: "l".into(), mode: Some(0o777), what: What::Link { target: "a".into() } };
        let text = r#"{"path":"l","mode":511,"kind":"link","target":"a"}"#;
        assert_eq!(String::from_utf8(encode(&link)).unwrap(), text);
        assert_eq!(serde_json::from_str::<Entry>(text).unwrap(), link);
    }
}
