//! `[repository]` and `[backup]`: where backups go, with which key, and how long they stay.

use super::draft::minute_of_day;
use super::report::{Finding, Findings};
use super::shape::{At, Record};
use holdfast_backup::Retention;
use holdfast_core::schedule::Schedule;
use holdfast_core::topology::PasswordSource;
use std::path::{Path, PathBuf};

/// Where backups go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub at: Location,
    pub key: KeySource,
    /// The log of every primary is kept there, continuously.
    pub archive: bool,
}

/// What holds the repository's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Directory(PathBuf),
    Bucket(Bucket),
}

/// A bucket of S3, or of a server that speaks its protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bucket {
    pub name: String,
    /// Empty for the whole bucket.
    pub prefix: String,
    /// Of a server that is not Amazon's.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// PEM certificates to trust, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Without: variables of the environment, or the role of the machine or container.
    pub access: Option<Access>,
}

/// An access key's id, and where its secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    pub id: String,
    pub secret: PasswordSource,
}

impl Location {
    /// What a person types: a path, or `s3://BUCKET/PREFIX`, which says no more than that.
    ///
    /// # Errors
    /// Why it is no place.
    pub fn parse(text: &str) -> Result<Location, String> {
        let Some(rest) = text.strip_prefix(S3) else { return Ok(Location::Directory(text.into())) };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        if let Some(why) = not_a_bucket(name).or_else(|| not_a_prefix(prefix)) {
            return Err(why);
        }
        let bucket = Bucket { name: name.into(), prefix: prefix.into(), ..Bucket::default() };
        Ok(Location::Bucket(bucket))
    }

    /// Whether both are the same place, however it is reached.
    pub fn is(&self, other: &Location) -> bool {
        match (self, other) {
            (Location::Bucket(a), Location::Bucket(b)) => (&a.name, &a.prefix) == (&b.name, &b.prefix),
            (a, b) => a == b,
        }
    }

    /// Where there is a disk to look at.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Location::Directory(path) => Some(path),
            Location::Bucket(_) => None,
        }
    }
}

const S3: &str = "s3://";

fn not_a_bucket(name: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let good = (3..=63).contains(&name.len()) && name.chars().all(fits);
    (!good).then(|| format!("{name:?} is no bucket: 3 to 63 of a-z, 0-9, `-` and `.`"))
}

fn not_a_prefix(prefix: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let part = |p: &str| !p.is_empty() && p != "." && p != ".." && p.chars().all(fits);
    let good = prefix.is_empty() || prefix.len() <= 256 && prefix.split('/').all(part);
    (!good).then(|| {
        format!("{prefix:?} is no prefix: names of a-z, A-Z, 0-9, `-`, `_` and `.`, with `/` between them")
    })
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
    let at = location(r, out)?;
    if given.len() == 1 { given.pop().map(|key| Place { at, key: key.value, archive }) } else { None }
}

fn location(r: &mut Record, out: &mut Findings) -> Option<Location> {
    let wrong = r.mentions("path") || r.mentions("s3");
    let hint = "`path = \"/…\"` for a directory, or a [repository.s3] section with a `bucket`";
    match (r.path("path"), r.one("s3")) {
        (Some(path), None) => Some(Location::Directory(path.value)),
        (None, Some(mut s3)) => bucket(&mut s3, out).map(Location::Bucket),
        (Some(path), Some(s3)) => {
            out.push(
                Finding::error("contradiction", "a repository is in one place")
                    .at(&path.span, "a directory")
                    .at(&s3.span, "a bucket")
                    .hint("keep one of them"),
            );
            None
        }
        // What is wrong with it was said.
        (None, None) if wrong => None,
        (None, None) => {
            out.push(
                Finding::error("missing-field", "no place is given for the repository")
                    .at(&r.span, "needs `path`, or [repository.s3]")
                    .hint(hint),
            );
            None
        }
    }
}

fn bucket(r: &mut Record, out: &mut Findings) -> Option<Bucket> {
    let mut sound = true;
    let mut check = |at: &At<String>, why: Option<String>| {
        if let Some(why) = why {
            out.push(Finding::error("not-a-place", why).at(&at.span, "here"));
            sound = false;
        }
    };
    let name = r.text("bucket")?;
    check(&name, not_a_bucket(&name.value));
    let prefix = r.text("prefix").filter(|at| at.given);
    if let Some(prefix) = &prefix {
        check(prefix, not_a_prefix(&prefix.value));
    }
    let endpoint = r.text("endpoint");
    if let Some(at) = &endpoint {
        let good = ["https://", "http://"]
            .iter()
            .any(|scheme| at.value.len() > scheme.len() && at.value.starts_with(scheme));
        check(
            at,
            (!good).then(|| format!("{:?} is no endpoint: it begins with https:// or http://", at.value)),
        );
    }
    let region = r.text("region").map(|at| at.value);
    let ca_file = r.path("ca_file").map(|at| at.value);
    let id = r.text("access_key");
    let file = r.path("secret_key_file").map(|at| at.map(PasswordSource::File));
    let env = r.text("secret_key_env").map(|at| at.map(PasswordSource::Env));
    let access = match (id, file.or(env)) {
        (Some(id), Some(secret)) => Some(Access { id: id.value, secret: secret.value }),
        (None, None) => None,
        (Some(At { span, .. }), None) | (None, Some(At { span, .. })) => {
            let says = "an access key has an id and a secret";
            let hint = "give `access_key`, and `secret_key_file` or `secret_key_env`; or neither, for AWS_… variables of \
                        the environment or the role of the machine";
            out.push(Finding::error("missing-field", says).at(&span, "the other is missing").hint(hint));
            return None;
        }
    };
    let prefix = prefix.map(|at| at.value).unwrap_or_default();
    let endpoint = endpoint.map(|at| at.value);
    sound.then_some(Bucket { name: name.value, prefix, endpoint, region, ca_file, access })
}

/// `03:15`, `6h`; `None` if that cannot be read.
pub(super) fn schedule(text: &str) -> Option<Schedule> {
    if let Some(minute) = minute_of_day(text) {
        return Some(Schedule::Daily { minute });
    }
    let hours = text.strip_suffix('h')?.parse::<u64>().ok()?;
    (1..=EVERY_H_MAX).contains(&hours).then_some(Schedule::Every { ms: hours * 3_600_000 })
}

/// Four weeks.
const EVERY_H_MAX: u64 = 672;

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
