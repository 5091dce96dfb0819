//! Whether the links of a copied tree stay within it.
//!
//! Guarantees: what is said to stay within does so wherever the tree is put. Errs on the side of saying that it does not.
//! Does not know: what the links are for.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Files by which InnoDB finds a tablespace elsewhere: links in all but name.
const ELSEWHERE: &str = "isl";

/// Whether a link leads out of its tree. `link` is its own path, relative to the root of the tree.
pub fn leads_outside(link: &Path, target: &Path) -> bool {
    let mut above = link.components().count().saturating_sub(1);
    let mut descended = false;
    for part in target.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(_) => descended = true,
            // After a name, `..` is not what it looks like: the name may be a link as well.
            Component::ParentDir if !descended && above > 0 => above -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

/// A link below `root`, or a file that the engine takes for one, that leads out of it.
pub fn first_outside(root: &Path) -> io::Result<Option<PathBuf>> {
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let own = path.strip_prefix(root).unwrap_or(&path);
            let outside = kind.is_symlink() && leads_outside(own, &std::fs::read_link(&path)?);
            if outside || (kind.is_file() && path.extension().is_some_and(|e| e == ELSEWHERE)) {
                return Ok(Some(path));
            }
            if kind.is_dir() {
                todo.push(path);
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_certainly_stays_within_does() {
        let outside = |link: &str, target: &str| leads_outside(Path::new(link), Path::new(target));
        for (link, target) in
            [("a", "b"), ("a", "./b/c"), ("d/a", "../b"), ("d/e/a", "../../b"), ("d/a", "..")]
        {
            assert!(!outside(link, target), "{link} -> {target}");
        }
        let bad = [
            ("a", "/etc"),
            ("a", ".."),
            ("a", "../b"),
            ("d/a", "../../b"),
            ("a", "d/../.."),
            ("d/a", "x/../b"),
        ];
        for (link, target) in bad {
            assert!(outside(link, target), "{link} -> {target}");
        }
    }
}
