//! Which backups are kept. Pure.

use crate::id::BackupId;
use crate::manifest::Summary;
use std::collections::{BTreeMap, BTreeSet};

const DAY_MS: u64 = 86_400_000;

/// How many backups of each kind are kept. The last backup of a service, and the last one that is proven, are kept
/// whatever the numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    pub last: u32,
    /// The last one of each of this many days that have one.
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    /// Every backup of this many days.
    pub within_days: u32,
}

/// Why a backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Last,
    Within,
    Daily,
    Weekly,
    Monthly,
    /// The last one whose last proof was good.
    Proven,
    /// Something reads or builds upon it now.
    InUse,
}

/// What is kept of one service's backups, given in any order. Backups from the future count as of now.
pub fn keep(
    backups: &[Summary],
    proven: &dyn Fn(&BackupId) -> bool,
    policy: &Retention,
    now_unix_ms: u64,
) -> BTreeMap<BackupId, BTreeSet<Reason>> {
    let mut sorted: Vec<&Summary> = backups.iter().collect();
    sorted.sort_by(|a, b| (b.sequence, &b.id).cmp(&(a.sequence, &a.id)));
    let mut kept: BTreeMap<BackupId, BTreeSet<Reason>> = BTreeMap::new();
    let mut reason = |backup: &Summary, why| _ = kept.entry(backup.id.clone()).or_default().insert(why);
    let last = policy.last.max(1) as usize;
    sorted.iter().take(last).for_each(|b| reason(b, Reason::Last));
    sorted.iter().find(|b| proven(&b.id)).into_iter().for_each(|b| reason(b, Reason::Proven));
    let window = u64::from(policy.within_days) * DAY_MS;
    let young = |b: &&&Summary| now_unix_ms.saturating_sub(b.finished_unix_ms) < window;
    sorted.iter().filter(young).for_each(|b| reason(b, Reason::Within));
    type Period = fn(u64) -> u64;
    let periods: [(u32, Period, Reason); 3] = [
        (policy.daily, |day| day, Reason::Daily),
        // Weeks begin on Monday; day 0 was a Thursday.
        (policy.weekly, |day| (day + 3) / 7, Reason::Weekly),
        (policy.monthly, month, Reason::Monthly),
    ];
    for (number, period, why) in periods {
        let mut seen = BTreeSet::new();
        for backup in &sorted {
            if seen.len() >= number as usize {
                break;
            }
            let at = backup.finished_unix_ms.min(now_unix_ms) / DAY_MS;
            if seen.insert(period(at)) {
                reason(backup, why);
            }
        }
    }
    kept
}

/// Months since the year 0 (civil-from-days by Howard Hinnant's published algorithm).
fn month(day: u64) -> u64 {
    let z = day.min(2_932_000) + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    // Here years begin in March.
    (yoe + era * 400) * 12 + mp
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::FORMAT;

    const NOW: u64 = 20_780 * DAY_MS + DAY_MS / 2;

    fn backup(sequence: u64, days_ago: u64) -> Summary {
        let id = format!("20261124T030308Z-{sequence:010x}");
        Summary {
            format: FORMAT,
            id: BackupId::parse(&id).unwrap(),
            service: "shop".into(),
            sequence,
            engine: String::new(),
            version: String::new(),
            method: String::new(),
            origin: String::new(),
            position: None,
            started_unix_ms: 0,
            finished_unix_ms: NOW - days_ago * DAY_MS,
            files: 0,
            raw_bytes: 0,
            new_bytes: 0,
            facts: BTreeMap::new(),
            packs: Vec::new(),
        }
    }

    fn kept(policy: Retention, days_ago: &[u64]) -> Vec<u64> {
        let backups: Vec<Summary> = (1..).zip(days_ago).map(|(n, d)| backup(n, *d)).collect();
        let keep = keep(&backups, &|_| false, &policy, NOW);
        backups
            .iter()
            .filter(|b| keep.contains_key(&b.id))
            .map(|b| NOW / DAY_MS - b.finished_unix_ms / DAY_MS)
            .collect()
    }

    #[test]
    fn each_rule_keeps_the_last_of_its_periods() {
        let none = Retention::default();
        let days: Vec<u64> = (0..100).rev().collect();
        assert_eq!(kept(none, &days), [0], "the last one always stays");
        assert_eq!(kept(Retention { last: 3, ..none }, &days), [2, 1, 0]);
        assert_eq!(kept(Retention { within_days: 4, ..none }, &days), [3, 2, 1, 0]);
        assert_eq!(kept(Retention { daily: 2, ..none }, &[1, 1, 0, 0]), [1, 0]);
        // 2026-11-23 was a Monday, day 20780; the Sundays before it are 1, 8, 15 days ago.
        assert_eq!(kept(Retention { weekly: 3, ..none }, &days), [8, 1, 0]);
        assert_eq!(kept(Retention { monthly: 3, ..none }, &days), [54, 23, 0]);
        assert_eq!(
            kept(Retention { daily: 3, ..none }, &[90, 40, 0]),
            [90, 40, 0],
            "days without one do not count"
        );
    }

    #[test]
    fn the_last_proven_one_stays() {
        let backups = [backup(1, 3), backup(2, 2), backup(3, 1), backup(4, 0)];
        let good = |id: &BackupId| *id == backups[0].id || *id == backups[1].id;
        let keep = keep(&backups, &good, &Retention { last: 1, ..Retention::default() }, NOW);
        let ids: Vec<_> = keep.keys().cloned().collect();
        assert_eq!(ids, [backups[1].id.clone(), backups[3].id.clone()]);
        assert_eq!(keep[&backups[1].id], BTreeSet::from([Reason::Proven]));
    }

    #[test]
    fn a_clock_that_jumped_changes_no_order() {
        // The newest by sequence says that it is the oldest.
        let backups = [backup(1, 1), backup(2, 0), backup(3, 400)];
        let keep = keep(&backups, &|_| false, &Retention { last: 1, ..Retention::default() }, NOW);
        assert_eq!(keep.keys().cloned().collect::<Vec<_>>(), [backups[2].id.clone()]);
    }
}
