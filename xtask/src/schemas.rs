//! The files that are generated from the code and committed, so that readers and editors have them without building.

use holdfast::config::{document, json_schema};
use std::path::Path;

const TOPOLOGY_PAGE: &str = "docs/topology.md";

/// Each generated file with what should be in it.
fn generated(root: &Path) -> Result<Vec<(&'static str, String)>, String> {
    let page =
        std::fs::read_to_string(root.join(TOPOLOGY_PAGE)).map_err(|e| format!("{TOPOLOGY_PAGE}: {e}"))?;
    let page = document::renew(&page)
        .ok_or_else(|| format!("{TOPOLOGY_PAGE}: the two marks around the generated part are missing"))?;
    let api =
        holdfast::api::openapi::document().to_pretty_json().map_err(|e| format!("OpenAPI: {e}"))? + "\n";
    Ok(vec![
        ("schema/topology.schema.json", json_schema()),
        ("schema/openapi.json", api),
        (TOPOLOGY_PAGE, page),
    ])
}

pub fn write(root: &Path) -> Vec<String> {
    let files = match generated(root) {
        Ok(files) => files,
        Err(mistake) => return vec![mistake],
    };
    let write = |(name, text): (&str, String)| {
        let path = root.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|now| now == text) {
            return None;
        }
        std::fs::write(&path, text).err().map(|e| format!("{name}: {e}"))
    };
    files.into_iter().filter_map(write).collect()
}

pub fn check(root: &Path) -> Vec<String> {
    let files = match generated(root) {
        Ok(files) => files,
        Err(mistake) => return vec![mistake],
    };
    let current =
        |name: &str, text: &str| std::fs::read_to_string(root.join(name)).is_ok_and(|now| now == *text);
    files
        .into_iter()
        .filter(|(name, text)| !current(name, text))
        .map(|(name, _)| format!("{name} is stale; run `cargo xtask schemas` and commit it"))
        .collect()
}
