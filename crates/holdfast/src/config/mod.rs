//! The topology file: TOML in, a checked [`Topology`] out, or every mistake at once with its place and a hint.
//!
//! Guarantees: no input makes it panic or take more than time linear in the file; what it returns satisfies all that
//! `holdfast_core::topology` promises about a topology. Deliberately absent: certificates are not opened and
//! passwords not read here (see `pki` and [`secrets`]); `load` only looks whether they could be.

pub mod document;
mod draft;
mod fields;
pub mod grants;
mod options;
mod placement;
mod report;
pub mod repository;
mod rules;
pub mod secrets;
mod shape;

pub use document::json_schema;
pub use report::{Finding, Report};

use holdfast_core::limits;
use holdfast_core::topology::{PasswordSource, Topology};
use report::Findings;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use toml::de::DeTable;

/// What a topology file says.
#[derive(Debug, Clone)]
pub struct Config {
    pub topology: Topology,
    /// Operators may break the hosts of this deployment.
    pub drills: bool,
    /// Where backups go, if the file says so.
    pub repository: Option<repository::Place>,
    /// How long they stay.
    pub retention: holdfast_backup::Retention,
    /// Scheduled ones are proven as well.
    pub verify: bool,
    /// Warnings only. May be empty.
    pub warnings: Report,
    /// Where each password is named, to warn about it.
    passwords: Vec<(Range<usize>, PasswordSource)>,
}

/// Reads and checks a topology file, and looks whether the passwords it names could be read on this host.
pub fn load(path: &Path) -> Result<Config, Report> {
    let name = path.display().to_string();
    let text = read(path, &name)?;
    let mut config = parse(&name, &text)?;
    let mut findings = Findings::default();
    config.warnings.findings.drain(..).for_each(|f| findings.push(f));
    for (span, source) in &config.passwords {
        if let Some(doubt) = secrets::doubt(source) {
            findings.push(Finding::warning(doubt.code, doubt.message).at(span, doubt.label).hint(doubt.hint));
        }
    }
    config.warnings = findings.into_report(&name, Some(&text));
    Ok(config)
}

/// Checks the text of a topology file that the user calls `name`. Pure.
pub fn parse(name: &str, text: &str) -> Result<Config, Report> {
    let mut findings = Findings::default();
    if text.len() > limits::TOPOLOGY_BYTES {
        findings.push(too_large());
        return Err(findings.into_report(name, None));
    }
    let (table, mistakes) = DeTable::parse_recoverable(text);
    if !mistakes.is_empty() {
        mistakes.iter().for_each(|m| findings.push(syntax(m, text)));
        return Err(findings.into_report(name, Some(text)));
    }
    let top = shape::record(&fields::FILE, table.get_ref(), 0..0, &mut findings);
    let file = draft::file(top, &mut findings);
    rules::check(&file, &mut findings);
    let accounts = file.services.iter().flat_map(|s| s.replication.iter().chain(&s.users));
    let sentinel = file.sentinel.iter().filter_map(|s| s.password.as_ref());
    let passwords = accounts
        .filter_map(|a| a.password.as_ref())
        .chain(sentinel)
        .map(|p| (p.span.clone(), p.value.clone()))
        .collect();
    let (drills, place) = (file.drills.as_ref().is_some_and(|d| d.value), file.repository.clone());
    let (retention, verify) = (file.retention, file.verify);
    let topology = draft::topology(file);
    match topology {
        Some(topology) if !findings.has_errors() => {
            let warnings = findings.into_report(name, Some(text));
            Ok(Config { topology, drills, repository: place, retention, verify, warnings, passwords })
        }
        _ => {
            if !findings.has_errors() {
                let message = "this file was not understood, and no reason was found: please report it";
                findings.push(Finding::error("internal", message));
            }
            Err(findings.into_report(name, Some(text)))
        }
    }
}

fn syntax(mistake: &toml::de::Error, text: &str) -> Finding {
    let span = mistake.span().unwrap_or(0..0);
    let span = span.start.min(text.len())..span.end.min(text.len());
    Finding::error("syntax", format!("not TOML: {}", mistake.message().replace('\n', ", "))).at(&span, "here")
}

fn too_large() -> Finding {
    Finding::error("too-large", format!("a topology file has at most {} bytes", limits::TOPOLOGY_BYTES))
        .hint("is this the right file?")
}

fn read(path: &Path, name: &str) -> Result<String, Report> {
    let fail = |finding: Finding, text: Option<&str>| {
        let mut findings = Findings::default();
        findings.push(finding);
        findings.into_report(name, text)
    };
    let unreadable = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "name the topology file with `--config`",
            std::io::ErrorKind::PermissionDenied => "run as the user that owns the file, or as root",
            _ => "is this the right file?",
        };
        fail(Finding::error("unreadable", format!("{name} cannot be read: {error}")).hint(hint), None)
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    // One byte more than allowed, so that an endless file is noticed without reading it.
    file.take(limits::TOPOLOGY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > limits::TOPOLOGY_BYTES {
        return Err(fail(too_large(), None));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let finding = Finding::error("not-utf-8", "a topology file is UTF-8 text")
            .at(&(at..at + char::REPLACEMENT_CHARACTER.len_utf8()), "these bytes are not")
            .hint("save the file as UTF-8");
        fail(finding, Some(&shown))
    })
}
