//! How backups are shown: tables, and a line that moves while one is made.

use super::output::table;
use crate::archive::walk::Walked;
use crate::clock::{Clock, utc};
use crate::{say, sayln};
use holdfast_backup::{Checked, Listing, Progress, ProgressReading, Proof, Pruned, Run, Summary};
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

const REDRAW: Duration = Duration::from_millis(500);

/// `12.3 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

pub fn listing(listing: &Listing, proofs: &BTreeMap<String, Vec<Proof>>, logs: &BTreeMap<String, Vec<Run>>) {
    let row = |b: &Summary| {
        let proven = proofs.get(b.id.as_str()).and_then(|p| p.last());
        vec![
            b.service.clone(),
            b.id.to_string(),
            utc(b.finished_unix_ms).chars().take(19).collect(),
            b.method.clone(),
            size(b.raw_bytes),
            size(b.new_bytes),
            b.position.clone().unwrap_or_else(|| "-".into()),
            match proven {
                None => "-".into(),
                Some(p) if !p.good => "FAILED".into(),
                Some(p) if opened_by_engine(p) => "yes".into(),
                Some(_) => "blocks".into(),
            },
        ]
    };
    let rows: Vec<Vec<String>> = listing.backups.iter().map(row).collect();
    let head = ["SERVICE", "BACKUP", "FINISHED (UTC)", "METHOD", "SIZE", "NEW", "POSITION", "PROVEN"];
    say!("{}", table(&head, &rows));
    logs.iter().for_each(|(service, runs)| kept_log(service, runs));
    unreadable(&listing.unreadable);
}

fn kept_log(service: &str, runs: &[Run]) {
    let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return };
    let begin = first.first.first_unix_ms.unwrap_or(first.first.began_unix_ms);
    let bytes = size(runs.iter().map(|r| r.stored_bytes).sum());
    let until = last.seen_unix_ms.max(begin);
    sayln!("  {service}: log kept from {} to {} ({bytes} in {} runs)", utc(begin), utc(until), runs.len());
    for run in runs {
        if let Some(why) = &run.first.gap {
            sayln!("  ! {service}: no log before {}: {why}", utc(run.first.began_unix_ms));
        }
    }
}

pub fn unreadable(objects: &[(String, holdfast_backup::Error)]) {
    for (name, e) in objects {
        sayln!("  ! {name}: {}", crate::agent::chain(e));
    }
}

pub fn made(b: &Summary, took_ms: u64) {
    sayln!(
        "{}: backup {} of {} ({} new in the repository) in {:.1} s{}",
        b.service,
        b.id,
        size(b.raw_bytes),
        size(b.new_bytes),
        took_ms as f64 / 1e3,
        b.position.as_ref().map_or(String::new(), |p| format!(", at {p}"))
    );
}

/// Where a restored directory stands.
pub fn stands(b: &Summary, walked: Option<&Walked>) {
    match walked {
        None => b.position.iter().for_each(|position| sayln!("  it stands at {position}")),
        Some(walked) => {
            let last = walked.last_unix_ms.map_or(String::new(), |ms| format!(", the last of {}", utc(ms)));
            sayln!("  {} transactions of the kept log replayed{last}", walked.transactions);
            sayln!("  it stands at {}", walked.reached.position().brief());
        }
    }
}

pub fn shown(b: &Summary, proofs: &[Proof]) {
    sayln!("{} {}", b.service, b.id);
    let line = |name: &str, value: &str| sayln!("  {name:<14} {value}");
    line("engine", &format!("{} {}", b.engine, b.version));
    line("method", &format!("{} from {}", b.method, b.origin));
    line("position", b.position.as_deref().unwrap_or("-"));
    line("started", &utc(b.started_unix_ms));
    line("finished", &utc(b.finished_unix_ms));
    line("size", &format!("{} in {} files", size(b.raw_bytes), b.files));
    line("new", &format!("{} in the repository", size(b.new_bytes)));
    for (name, value) in &b.facts {
        line(name, value);
    }
    for proof in proofs {
        proved(proof);
    }
}

/// A directory of files has no engine that could say more than that every byte is as it was.
fn opened_by_engine(p: &Proof) -> bool {
    p.found.contains_key("tables")
}

pub fn proved(p: &Proof) {
    let at = utc(p.at_unix_ms);
    let took = p.took_ms as f64 / 1e3;
    let count = |name: &str| p.found.get(name).map_or("-", String::as_str).to_owned();
    if p.good && !opened_by_engine(p) {
        sayln!("  proven {at} in {took:.1} s: every block read; no engine looked");
    } else if p.good {
        let (tables, rows) = (count("tables"), count("rows"));
        sayln!("  proven {at} in {took:.1} s: {tables} tables, {rows} rows, all checked and read");
    } else {
        sayln!("  NOT proven {at}:");
        for (_, words) in p.found.iter().filter(|(name, _)| name.starts_with("wrong")) {
            sayln!("    {words}");
        }
    }
}

pub fn pruned(p: &Pruned, dry_run: bool) {
    let would = if dry_run { "would be " } else { "" };
    for (backup, reasons) in &p.kept {
        let why: Vec<String> = reasons.iter().map(|r| format!("{r:?}").to_lowercase()).collect();
        let why = if why.is_empty() { "no rules for this service".to_owned() } else { why.join(", ") };
        sayln!("  {} {}: {would}kept ({why})", backup.service, backup.id);
    }
    for backup in &p.removed {
        sayln!("  {} {}: {would}removed", backup.service, backup.id);
    }
    for (service, e) in &p.logs_unclear {
        sayln!("  ! the kept log of {service} stays as it is: {}", crate::agent::chain(e));
    }
    sayln!(
        "{} packs and {} parts of kept logs of {} {would}removed, {} pins of processes that are gone",
        p.packs,
        p.log_objects,
        size(p.bytes),
        p.stale_pins
    );
}

pub fn checked(c: &Checked) {
    for f in &c.findings {
        sayln!("  ! {}", crate::agent::chain(&f.error));
        for backup in &f.backups {
            sayln!("      backup {backup} cannot be restored whole");
        }
    }
    sayln!(
        "{} backups, {} packs, {} frames, {} segments of kept logs, {}: {}",
        c.backups,
        c.packs,
        c.frames,
        c.segments,
        size(c.bytes),
        if c.findings.is_empty() {
            "all as they were written".to_owned()
        } else {
            format!("{} damages", c.findings.len())
        }
    );
}

/// Draws a moving line while `work` runs, where somebody is looking. Ctrl-C, SIGTERM and a
/// terminal that is closed end the work in order.
pub async fn watched<T>(progress: Arc<Progress>, work: impl Future<Output = T>) -> T {
    let (clock, drawn) = (Clock::start(), std::io::stderr().is_terminal());
    let began = clock.now();
    // One future for the whole time: between two, a signal would be lost.
    let asked = interrupted();
    tokio::pin!(work, asked);
    let done = loop {
        tokio::select! {
            // The handlers are there before the work begins.
            biased;
            () = &mut asked => {
                progress.stop();
                break work.await;
            }
            done = &mut work => break done,
            () = tokio::time::sleep(REDRAW) => {
                if drawn {
                    let line = moving(&progress.read(), clock.now().since(began));
                    let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
                }
            }
        }
    };
    if drawn {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    done
}

/// Resolves when the work is to end.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let hangup = if ignores_hangup() { None } else { signal(SignalKind::hangup()).ok() };
    match hangup {
        None => crate::run::asked_to_stop().await,
        Some(mut hangup) => tokio::select! {
            () = crate::run::asked_to_stop() => {}
            _ = hangup.recv() => {}
        },
    }
}

/// Under `nohup` it stays ignored.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

fn moving(r: &ProgressReading, took_ms: u64) -> String {
    let rate = r.raw.saturating_mul(1_000) / took_ms.max(1);
    let mut line = format!("{} ({}/s)", size(r.raw), size(rate));
    if r.new > 0 || r.stored > 0 {
        line += &format!(", {} new, {} stored", size(r.new), size(r.stored));
    }
    if r.expected > 0 {
        let left_s = r.expected.saturating_sub(r.raw) / rate.max(1);
        line += &format!(", {} %", (r.raw.saturating_mul(100) / r.expected).min(100));
        line += &format!(", about {}:{:02} left", left_s / 60, left_s % 60);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_the_moving_line_are_short() {
        assert_eq!([0, 1_023, 1_024, 5 << 30].map(size), ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]);
        assert!(size(u64::MAX).ends_with(" PiB"));
        let r = ProgressReading { raw: 50 << 20, new: 1 << 20, stored: 0, expected: 100 << 20 };
        let line = "50.0 MiB (10.0 MiB/s), 1.0 MiB new, 0 B stored, 50 %, about 0:05 left";
        assert_eq!(moving(&r, 5_000), line);
        assert_eq!(moving(&ProgressReading::default(), 0), "0 B (0 B/s)");
    }
}
