//! Which crate may use which (ARCHITECTURE.md gives the reasons), and under which licences the others come. Reads
//! what cargo itself resolved.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Each crate of ours and those of ours it may use, also in tests.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("holdfast-core", &[]),
    ("holdfast-wire", &[]),
    ("holdfast-store", &["holdfast-core"]),
    ("holdfast-backup", &["holdfast-core"]),
    ("holdfast-engine", &["holdfast-core", "holdfast-wire"]),
    ("holdfast-proxy", &["holdfast-core", "holdfast-wire"]),
    ("holdfast-link", &["holdfast-core", "holdfast-engine"]),
    (
        "holdfast-drill",
        &["holdfast-core", "holdfast-wire", "holdfast-store", "holdfast-engine", "holdfast-proxy"],
    ),
    (
        "holdfast",
        &[
            "holdfast-core",
            "holdfast-wire",
            "holdfast-store",
            "holdfast-backup",
            "holdfast-engine",
            "holdfast-proxy",
            "holdfast-link",
            "holdfast-drill",
        ],
    ),
    // Only to write what is generated from the binary's own tables.
    ("xtask", &["holdfast"]),
];

/// Licences that ask no more of a user than ours do.
const LICENCES: [&str; 12] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "BSL-1.0",
    "Unlicense",
    "Unicode-3.0",
    "CDLA-Permissive-2.0",
];

pub fn check(root: &Path) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .current_dir(root)
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => {
            return vec![format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim())];
        }
        Err(error) => return vec![format!("cargo metadata: {error}")],
    };
    match serde_json::from_slice::<Value>(&output) {
        Ok(metadata) => list(&metadata["packages"]).iter().flat_map(package).collect(),
        Err(error) => vec![format!("cargo metadata: {error}")],
    }
}

fn package(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    if !package["source"].is_null() {
        let licence = package["license"].as_str().unwrap_or_default();
        let fits = permissive(licence);
        return if fits {
            vec![]
        } else {
            vec![format!("{name}: licence {licence:?} is not on the list in xtask")]
        };
    }
    let Some((_, allowed)) = ALLOWED.iter().find(|(ours, _)| *ours == name) else {
        return vec![format!(
            "{name}: a new crate; say in xtask/src/edges.rs which of ours it may use, and why"
        )];
    };
    list(&package["dependencies"])
        .iter()
        .filter(|dependency| !dependency["path"].is_null())
        .filter_map(|dependency| dependency["name"].as_str())
        .filter(|used| !allowed.contains(used))
        .map(|used| format!("{name} must not use {used}: see ARCHITECTURE.md for the edges"))
        .collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether a licence expression can be met with the list: `OR` needs one side, `AND` both.
fn permissive(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let expression = expression.trim();
    for (word, all) in [(" OR ", false), (" AND ", true)] {
        let parts = split(expression, word);
        if parts.len() > 1 {
            return if all {
                parts.iter().all(|p| permissive(p))
            } else {
                parts.iter().any(|p| permissive(p))
            };
        }
    }
    match expression.strip_prefix('(').and_then(|e| e.strip_suffix(')')) {
        Some(inner) => permissive(inner),
        None => LICENCES.contains(&expression),
    }
}

/// Splits at `word` outside parentheses. `OR` binds less than `AND`, so it is tried first.
fn split<'a>(expression: &'a str, word: &str) -> Vec<&'a str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    for (at, _) in expression.match_indices(word) {
        let before = &expression[start..at];
        if before.matches('(').count() == before.matches(')').count() {
            parts.push(before);
            start = at + word.len();
        }
    }
    parts.push(&expression[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_read_as_expressions() {
        for good in
            ["MIT", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "(MIT OR GPL-2.0) AND Unicode-3.0", "MIT AND ISC"]
        {
            assert!(permissive(good), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-2.0", "(GPL-2.0 OR AGPL-3.0) AND MIT", "MIT-like"] {
            assert!(!permissive(bad), "{bad}");
        }
    }

    #[test]
    fn a_forbidden_edge_is_named() {
        let used = |by: &str, name: &str| {
            let dependency = serde_json::json!({ "name": name, "path": "/x" });
            package(&serde_json::json!({ "name": by, "source": null, "dependencies": [dependency] })).len()
        };
        assert_eq!(used("holdfast-proxy", "holdfast-store"), 1);
        assert_eq!(used("holdfast-proxy", "holdfast-core"), 0);
        assert_eq!(used("holdfast-drill", "holdfast"), 1);
        assert_eq!(used("holdfast-new", "holdfast-core"), 1);
    }
}
