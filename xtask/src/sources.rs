//! Style as a test: what can be seen in a file without understanding it. Line lengths and formatting are rustfmt's,
//! the length of functions is clippy's.

use std::path::{Path, PathBuf};

const LINES_MAX: usize = 600;
/// Files that may be longer, each with its reason.
const LONGER: [(&str, &str); 0] = [];

/// Words that say nothing about what a thing is.
const HOLLOW_ENDINGS: [&str; 3] = ["Manager", "Helper", "Util"];
const HOLLOW_MODULES: [&str; 6] = ["utils", "util", "common", "helpers", "helper", "misc"];

pub fn check(root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    walk(root, &mut files);
    files.sort();
    let mut mistakes = Vec::new();
    for path in &files {
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        // Not text, not ours to judge.
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        match path.extension().and_then(|e| e.to_str()) {
            Some("rs") => rust(&name, &text, &mut mistakes),
            Some("md") => links(root, path, &name, &text, &mut mistakes),
            _ => {}
        }
        // What is read elsewhere cannot depend on where it was written.
        if text.contains(&*root.to_string_lossy()) && root.components().count() > 2 {
            mistakes.push(format!("{name}: names the directory it was written in"));
        }
    }
    mistakes.extend(unlisted_decisions(root));
    mistakes
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let generated = ["target", ".git", "corpus", "artifacts"].iter().any(|skip| name == *skip);
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !generated => walk(&path, files),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}

fn rust(name: &str, text: &str, mistakes: &mut Vec<String>) {
    if !text.starts_with("//!") {
        mistakes
            .push(format!("{name}:1: opens without `//!`: say what it guarantees and what it does not know"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX && !LONGER.iter().any(|(path, _)| *path == name) {
        mistakes.push(format!("{name}: {lines} lines; split it, or give the reason in xtask/src/sources.rs"));
    }
    let stem = Path::new(name).file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    if HOLLOW_MODULES.contains(&stem) {
        mistakes.push(format!("{name}: call the file after what is in it"));
    }
    for (at, line) in text.lines().enumerate() {
        if let Some(hollow) = hollow_name(line) {
            mistakes.push(format!(
                "{name}:{}: {hollow} says nothing about what it is; use the field's noun",
                at + 1
            ));
        }
    }
}

/// The name that a line gives to something, if it is an empty one.
fn hollow_name(line: &str) -> Option<&str> {
    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty());
    let kind = words.by_ref().find(|w| !matches!(*w, "pub" | "crate" | "super" | "in"))?;
    let name = words.next()?;
    let hollow = match kind {
        "struct" | "enum" | "trait" | "type" => HOLLOW_ENDINGS.iter().any(|end| name.ends_with(end)),
        "mod" => HOLLOW_MODULES.contains(&name),
        _ => false,
    };
    hollow.then_some(name)
}

/// Links of a page to other files must lead to one, inside the repository.
fn links(root: &Path, page: &Path, name: &str, text: &str, mistakes: &mut Vec<String>) {
    for (at, line) in text.lines().enumerate() {
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            let path = page.parent().unwrap_or(root).join(file);
            let inside =
                path.canonicalize().is_ok_and(|p| root.canonicalize().is_ok_and(|r| p.starts_with(r)));
            if !inside {
                mistakes
                    .push(format!("{name}:{}: leads to {target}, which is not in the repository", at + 1));
            }
        }
    }
}

/// A decision that is not in the list of decisions will not be found.
fn unlisted_decisions(root: &Path) -> Vec<String> {
    let dir = root.join("docs/adr");
    let list = std::fs::read_to_string(dir.join("README.md")).unwrap_or_default();
    let Ok(entries) = std::fs::read_dir(&dir) else { return vec![] };
    let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names
        .filter(|n| n.ends_with(".md") && n != "README.md" && !list.contains(&format!("({n})")))
        .map(|n| format!("docs/adr/{n}: not listed in docs/adr/README.md"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hollow_names_are_found_where_they_are_given() {
        for bad in ["struct LeaseManager {", "pub(crate) enum XHelper {", "pub mod utils;", "mod common {"] {
            assert!(hollow_name(bad).is_some(), "{bad}");
        }
        for good in
            ["struct Lease {", "// no Manager here", "let utils = 1;", "use other::LeaseManager;", "}"]
        {
            assert!(hollow_name(good).is_none(), "{good}");
        }
    }

    #[test]
    fn a_file_without_its_contract_is_named() {
        let mut mistakes = Vec::new();
        rust("src/a.rs", "fn main() {}\n", &mut mistakes);
        rust("src/utils.rs", &format!("//! x\n{}", "\n".repeat(LINES_MAX)), &mut mistakes);
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    }
}
