//! Options of the user's own on the server's command line.
//!
//! Guarantees: an option that Holdfast's promises rest on is refused, however it is spelt.

use crate::Error;

/// Options whose value Holdfast's promises rest on. An option of the user's own may not be one of them.
pub(super) struct Owned {
    pub(super) names: &'static [&'static str],
    pub(super) families: &'static [&'static str],
}

const PREFIXES: &[&str] = &["loose-", "skip-", "disable-", "enable-", "maximum-"];

/// Checks and normalises the name of an engine option of the user's own.
fn name(name: &str, owned: &Owned) -> Result<String, Error> {
    let normal = name.to_ascii_lowercase().replace('_', "-");
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if normal.is_empty() || normal.starts_with('-') || !normal.chars().all(fits) {
        return Err(Error::BadSpec(format!("{name:?} is not the name of an engine option")));
    }
    let mut bare = normal.as_str();
    while let Some(rest) = PREFIXES.iter().find_map(|p| bare.strip_prefix(p)) {
        bare = rest;
    }
    // The server takes any unambiguous beginning of a name.
    let owned = owned.names.iter().any(|o| o.starts_with(bare))
        || owned.families.iter().any(|f| bare.starts_with(f) || f.starts_with(bare));
    if bare.is_empty() || owned {
        return Err(Error::BadSpec(format!(
            "engine option {name} is set by Holdfast itself, because its promises rest on it; remove it"
        )));
    }
    Ok(normal)
}

/// Adds the user's own options to a command line.
pub(super) fn add(
    options: &std::collections::BTreeMap<String, String>,
    owned: &Owned,
    out: &mut Vec<String>,
) -> Result<(), Error> {
    for (given, value) in options {
        let name = name(given, owned)?;
        if value.chars().any(char::is_control) {
            return Err(Error::BadSpec(format!("the value of engine option {name} has a control character")));
        }
        out.push(format!("--{name}={value}"));
    }
    Ok(())
}
