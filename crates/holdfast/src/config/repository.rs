//! `[repository]` and `[backup]`: where backups go, with which key, and how long they stay.

use super::report::{Finding, Findings};
use super::shape::{At, Record};
use holdfast_backup::Retention;
use std::path::PathBuf;

/// Where backups go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    pub key: KeySource,
    /// The log of every primary is kept there, continuously.
    pub archive: bool,
}

/// Where the repository key comes from. The key itself is never in the topology file: that is on every host and in
/// backups of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// First line of a file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// What a program prints: program and arguments.
    Command(Vec<String>),
    /// There is none; whoever can read the repository can read the data.
    Unencrypted,
}

/// `None` where it is wrong, which was reported.
pub(super) fn place(r: &mut Record, out: &mut Findings) -> Option<Place> {
    let mentioned = ["key_file", "key_env", "key_command", "unencrypted"].iter().any(|f| r.mentions(f));
    let words = |at: Vec<At<String>>| at.into_iter().map(|word| word.value).collect();
    let file = r.path("key_file").map(|at| at.map(KeySource::File));
    let env = r.text("key_env").map(|at| at.map(KeySource::Env));
    let command = r.texts("key_command").map(|at| at.map(|w| KeySource::Command(words(w))));
    let plain = r.flag("unencrypted").filter(|at| at.value).map(|at| at.map(|_| KeySource::Unencrypted));
    let mut given: Vec<At<KeySource>> = [file, env, command, plain].into_iter().flatten().collect();
    let hint = "`holdfast repo key` makes one; keep it where the repository is not: without it nothing can be restored";
    if given.len() > 1 {
        let mut finding = Finding::error("contradiction", "a repository key has one source");
        for source in &given {
            finding = finding.at(&source.span, "one source");
        }
        out.push(finding.hint("keep one of `key_file`, `key_env`, `key_command` and `unencrypted`"));
    } else if given.is_empty() && !mentioned {
        out.push(
            Finding::error("missing-field", "no key is given for the repository")
                .at(&r.span, "needs `key_file = \"/…\"`, or `unencrypted = true`")
                .hint(hint),
        );
    } else if given.is_empty() {
        out.push(
            Finding::error("missing-field", "the repository has neither a key nor `unencrypted = true`")
                .at(&r.span, "here")
                .hint(hint),
        );
    }
    let archive = r.flag("archive").is_some_and(|at| at.value);
    let path = r.path("path")?.value;
    if given.len() == 1 { given.pop().map(|key| Place { path, key: key.value, archive }) } else { None }
}

pub(super) fn retention(r: &mut Record) -> Retention {
    let mut number = |name| r.number(name).and_then(|at| u32::try_from(at.value).ok()).unwrap_or(0);
    Retention {
        last: number("keep_last"),
        daily: number("keep_daily"),
        weekly: number("keep_weekly"),
        monthly: number("keep_monthly"),
        within_days: number("keep_days"),
    }
}

/// Without a `[backup]` section, as its fields' defaults say.
pub const RETENTION: Retention = Retention { last: 7, daily: 7, weekly: 5, monthly: 12, within_days: 0 };
