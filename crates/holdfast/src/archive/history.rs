//! Which transactions of a kept log count, and from where on. Pure.
//!
//! A failover may leave transactions behind that only its old primary had; a restore may go back behind some. Both show in
//! the log as a run that begins before the end of the one before. What counts at a moment is what the runs say that were
//! there by then, each up to where a later one of them parted.
//!
//! Guarantees: what is called reached was in the copy or came since; nothing is taken from a branch that was given up.

use super::gtid;
use holdfast_backup::Run;
use holdfast_core::Position;
use holdfast_core::position::{GtidSet, MariaDbPosition};
use holdfast_wire::binlog::Gtid;
use std::collections::BTreeMap;

/// How far a restore is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To the end of what was kept.
    Latest,
    /// Everything that was committed up to then: milliseconds since 1970.
    Moment(u64),
    /// This transaction, alone in a position, and all before it.
    Upto(Position),
    /// All before it, without it.
    Before(Position),
}

/// Why no history leads to what is wanted. Nothing was restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("no log of this service was kept; `archive = true` in [repository] keeps one from then on")]
    NoLog,
    #[error(
        "the backup holds {position}, which is not in the kept log: the log ends before it, or a failover left it behind"
    )]
    NotInLog { position: String },
    #[error(
        "the kept log begins after this backup: between {reached} and {from} something is missing{}",
        why.as_ref().map_or(String::new(), |w| format!(" ({w})"))
    )]
    Gap { reached: String, from: String, why: Option<String> },
    #[error(
        "the kept log tells nothing of that moment: it ends at {}; `--at latest` restores to its end",
        crate::clock::utc(*ends_unix_ms)
    )]
    Beyond { ends_unix_ms: u64 },
    #[error("the kept log has no transaction {0} after this backup")]
    NoTransaction(String),
    #[error(
        "the backup is from before {}, when the log of this deployment began to be kept; the next backup leads on",
        crate::clock::utc(*began_unix_ms)
    )]
    Earlier { began_unix_ms: u64 },
    #[error("no backup is from before that; `holdfast backup list` shows those there are")]
    NoBackupBefore,
    #[error("this backup's position is not known to be of an engine whose log can be replayed")]
    NoPosition,
}

/// What a copy has, and what came since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    /// Of each domain the last transaction: server and sequence. In the history that counts, sequences only grow.
    MariaDb(BTreeMap<u32, (u32, u64)>),
    MySql(GtidSet),
}

impl Reached {
    /// What a copy has that stands at a position.
    pub fn at(position: &Position) -> Option<Reached> {
        match position {
            Position::MariaDb(p) => {
                Some(Reached::MariaDb(p.last_per_domain().map(|(d, s, n)| (d, (s, n))).collect()))
            }
            Position::MySql(set) => Some(Reached::MySql(set.clone())),
            Position::Redis(_) => None,
        }
    }
    pub fn has(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (Reached::MariaDb(last), Gtid::MariaDb { domain, sequence, .. }) => {
                last.get(domain).is_some_and(|(_, n)| n >= sequence)
            }
            (Reached::MySql(set), gtid) => {
                let has = Position::MySql(set.clone());
                has.contains(&gtid::alone(&has, gtid))
            }
            (Reached::MariaDb(_), _) => false,
        }
    }
    pub fn add(&mut self, gtid: &Gtid) {
        match (&mut *self, gtid) {
            (Reached::MariaDb(last), Gtid::MariaDb { domain, server, sequence }) => {
                last.insert(*domain, (*server, *sequence));
            }
            (Reached::MySql(set), gtid) => {
                let mut all = Position::MySql(std::mem::take(set));
                gtid::add(&mut all, gtid);
                if let Position::MySql(all) = all {
                    *set = all;
                }
            }
            (Reached::MariaDb(_), _) => {}
        }
    }
    /// Whether a log that begins after `from` leaves nothing out.
    pub fn covers(&self, from: &Position) -> bool {
        match (self, from) {
            (Reached::MariaDb(last), Position::MariaDb(from)) => {
                from.last_per_domain().all(|(d, _, n)| last.get(&d).is_some_and(|(_, m)| *m >= n))
            }
            (Reached::MySql(set), from) => Position::MySql(set.clone()).contains(from),
            (Reached::MariaDb(_), _) => false,
        }
    }
    pub fn position(&self) -> Position {
        match self {
            Reached::MariaDb(last) => {
                let mut p = MariaDbPosition::default();
                last.iter().for_each(|(d, (s, n))| p.add(*d, *s, *n));
                Position::MariaDb(p)
            }
            Reached::MySql(set) => Position::MySql(set.clone()),
        }
    }
}

/// A position of an engine from its text. `None` if that engine has none, or the text is none.
pub fn position(engine: &str, text: &str) -> Option<Position> {
    match engine {
        "mariadb" => Position::mariadb(text).ok(),
        "mysql" => Position::mysql(text).ok(),
        _ => None,
    }
}

/// A part of the history: a run, as far as it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    pub run: Run,
    pub from: Position,
    /// What later runs went on from: what is not in it was given up.
    pub limit: Option<Position>,
}

impl Leg {
    pub fn counts(&self, gtid: &Gtid) -> bool {
        self.limit.as_ref().is_none_or(|limit| limit.contains(&gtid::alone(limit, gtid)))
    }
}

/// The history that leads to `target`, in order, from a copy that stood at `start` and was complete at `made_unix_ms`. `runs`
/// are in order.
pub fn legs(runs: &[Run], start: &Position, made_unix_ms: u64, target: &Target) -> Result<Vec<Leg>, Refused> {
    let known: Vec<(&Run, Position, Position)> = runs
        .iter()
        .filter_map(|r| {
            let of = |text: &str| position(&r.first.engine, text);
            // Whose beginning was removed begins where its first segment ends.
            let from = if r.first.number == 0 { &r.first.from } else { &r.first.upto };
            Some((r, of(from)?, of(&r.last.upto)?))
        })
        .collect();
    let count = match target {
        Target::Latest => known.len(),
        Target::Moment(ms) => {
            let there = |(r, ..): &(&Run, _, _)| {
                // What it read again from the server may be from before it began.
                r.first.began_unix_ms <= *ms || r.dated_unix_ms.is_some_and(|first| first <= *ms)
            };
            known.iter().rposition(there).map_or(0, |at| at + 1)
        }
        Target::Upto(one) | Target::Before(one) => {
            let has = |(_, from, upto): &(_, Position, Position)| upto.contains(one) && !from.contains(one);
            known.iter().rposition(has).ok_or_else(|| Refused::NoTransaction(one.to_string()))? + 1
        }
    };
    let Some((last, _, upto)) = known[..count].last() else { return Err(Refused::NoLog) };
    if let Target::Moment(ms) = target {
        // What came right after is known to be all that came.
        let goes_on = known.get(count).is_some_and(|(next, ..)| next.first.gap.is_none());
        if *ms > last.seen_unix_ms && !goes_on {
            return Err(Refused::Beyond { ends_unix_ms: last.seen_unix_ms });
        }
    }
    // Another deployment of this name had a history of its own, in which the same ids are other transactions.
    let lineage = last.first.lineage;
    let ours = |(r, ..): &&(&Run, Position, Position)| r.first.lineage == lineage;
    let began = known[..count].iter().filter(ours).map(|(r, ..)| r.first.began_unix_ms).min();
    if let Some(began_unix_ms) = began.filter(|began| made_unix_ms < *began) {
        return Err(Refused::Earlier { began_unix_ms });
    }
    if !upto.contains(start) {
        return Err(Refused::NotInLog { position: start.to_string() });
    }
    let mut legs: Vec<Leg> = Vec::new();
    let mut limit: Option<Position> = None;
    for (run, from, _) in known[..count].iter().filter(ours).rev() {
        legs.push(Leg { run: (*run).clone(), from: from.clone(), limit: limit.clone() });
        limit = Some(limit.map_or_else(|| from.clone(), |limit| limit.common(from)));
    }
    legs.reverse();
    // What begins later than the copy is missing something, unless an earlier one leads there; that shows on the way.
    let reached = Reached::at(start).ok_or(Refused::NoPosition)?;
    let begins = legs.iter().rposition(|leg| reached.covers(&leg.from));
    match (begins, legs.first()) {
        (Some(at), _) => Ok(legs.split_off(at)),
        (None, Some(first)) => Err(gap(&reached, first)),
        (None, None) => Err(Refused::NoLog),
    }
}

/// Something is missing before a leg.
pub fn gap(reached: &Reached, leg: &Leg) -> Refused {
    Refused::Gap {
        reached: reached.position().to_string(),
        from: leg.from.to_string(),
        why: leg.run.first.gap.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_backup::{BackupId, FORMAT, Segment};

    fn at(text: &str) -> Position {
        Position::mariadb(text).unwrap()
    }
    fn id(domain: u32, server: u32, sequence: u64) -> Gtid {
        Gtid::MariaDb { domain, server, sequence }
    }
    /// A run from one position to another, which began at a time and was seen until another.
    fn run(epoch: u64, from: &str, upto: &str, times: (u64, u64)) -> Run {
        let segment = |number, from: &str, upto: &str| Segment {
            format: FORMAT,
            service: "shop".into(),
            run: BackupId::new(0),
            number,
            epoch,
            sequence: 1,
            lineage: 5,
            engine: "mariadb".into(),
            version: String::new(),
            origin: String::new(),
            server_id: 1,
            file: String::new(),
            offset: 0,
            from: from.into(),
            upto: upto.into(),
            transactions: 1,
            bytes: 1,
            began_unix_ms: times.0,
            first_unix_ms: (number > 0).then_some(times.0 + 1),
            last_unix_ms: (number > 0).then_some(times.1),
            gap: None,
        };
        let (first, last) = (segment(0, from, from), segment(1, from, upto));
        Run { first, last, dated_unix_ms: Some(times.0 + 1), seen_unix_ms: times.1, stored_bytes: 1 }
    }
    fn gapped(mut run: Run) -> Run {
        run.first.gap = Some("purged".into());
        run
    }
    /// Epochs of the legs, and what each is limited to.
    fn found(runs: &[Run], start: &str, target: &Target) -> Result<Vec<(u64, Option<String>)>, Refused> {
        let legs = legs(runs, &at(start), u64::MAX, target)?;
        Ok(legs.iter().map(|l| (l.run.first.epoch, l.limit.as_ref().map(Position::to_string))).collect())
    }

    /// A primary that wrote up to 110, of which its successor had 100.
    fn failed_over() -> Vec<Run> {
        vec![run(1, "0-1-1", "0-1-110", (1_000, 2_000)), run(2, "0-1-100", "0-1-100,0-2-150", (2_500, 4_000))]
    }

    #[test]
    fn what_a_failover_left_behind_does_not_count_after_it() {
        let both = Ok(vec![(1, Some("0-1-100".into())), (2, None)]);
        assert_eq!(found(&failed_over(), "0-1-50", &Target::Latest), both);
        assert_eq!(found(&failed_over(), "0-1-50", &Target::Moment(3_000)), both);
        let legs = legs(&failed_over(), &at("0-1-50"), u64::MAX, &Target::Latest).unwrap();
        assert!(legs[0].counts(&id(0, 1, 100)) && !legs[0].counts(&id(0, 1, 101)));
        // Before it, it did.
        assert_eq!(found(&failed_over(), "0-1-50", &Target::Moment(2_000)), Ok(vec![(1, None)]));
        // Nor does a backup lead on that holds some of it.
        let refused = found(&failed_over(), "0-1-105", &Target::Latest).unwrap_err();
        assert!(matches!(refused, Refused::NotInLog { .. }), "{refused}");
        assert_eq!(found(&failed_over(), "0-1-105", &Target::Moment(2_000)), Ok(vec![(1, None)]));
    }

    #[test]
    fn a_copy_begins_where_the_log_goes_on() {
        assert_eq!(found(&failed_over(), "0-2-120", &Target::Latest), Ok(vec![(2, None)]));
        assert_eq!(found(&failed_over(), "0-1-100", &Target::Latest), Ok(vec![(2, None)]));
        let later = vec![run(1, "0-1-60", "0-1-110", (1_000, 2_000))];
        let refused = found(&later, "0-1-50", &Target::Latest).unwrap_err();
        assert!(matches!(&refused, Refused::NotInLog { .. } | Refused::Gap { .. }), "{refused}");
        assert!(refused.to_string().contains("between 0-1-50 and 0-1-60"), "{refused}");
        assert_eq!(found(&[], "0-1-50", &Target::Latest), Err(Refused::NoLog));
    }

    #[test]
    fn a_transaction_is_looked_for_where_it_was_written() {
        let upto = |text: &str| Target::Upto(at(text));
        assert_eq!(found(&failed_over(), "0-1-50", &upto("0-1-80")), Ok(vec![(1, None)]));
        // One that was left behind can still be had: it is asked for by name.
        assert_eq!(found(&failed_over(), "0-1-50", &upto("0-1-105")), Ok(vec![(1, None)]));
        assert_eq!(found(&failed_over(), "0-1-50", &upto("0-2-120")).map(|l| l.len()), Ok(2));
        let none = found(&failed_over(), "0-1-50", &upto("0-2-151"));
        assert_eq!(none, Err(Refused::NoTransaction("0-2-151".into())));
    }

    #[test]
    fn a_moment_is_known_where_something_is_known_to_follow() {
        let runs = failed_over();
        // Between two runs of which the later goes on from the earlier.
        assert_eq!(found(&runs, "0-1-50", &Target::Moment(2_400)), Ok(vec![(1, None)]));
        let refused = found(&runs, "0-1-50", &Target::Moment(4_001)).unwrap_err();
        assert_eq!(refused, Refused::Beyond { ends_unix_ms: 4_000 });
        let mut runs = failed_over();
        runs[1] = gapped(run(2, "0-1-130", "0-1-150", (2_500, 4_000)));
        let refused = found(&runs, "0-1-50", &Target::Moment(2_400)).unwrap_err();
        assert_eq!(refused, Refused::Beyond { ends_unix_ms: 2_000 });
    }

    #[test]
    fn what_a_later_run_read_again_counts_when_it_was_written() {
        // The repository was away from 2000 on; what was written since was read at 3000.
        let mut runs =
            vec![run(1, "0-1-1", "0-1-110", (1_000, 2_000)), run(1, "0-1-110", "0-1-190", (3_000, 4_000))];
        runs[1].dated_unix_ms = Some(2_100);
        assert_eq!(found(&runs, "0-1-50", &Target::Moment(2_050)).map(|legs| legs.len()), Ok(1));
        assert_eq!(found(&runs, "0-1-50", &Target::Moment(2_500)).map(|legs| legs.len()), Ok(2));
    }

    #[test]
    fn another_deployment_of_the_name_has_another_history() {
        let mut runs =
            vec![run(1, "0-1-1", "0-1-500", (1_000, 2_000)), run(1, "0-1-60", "0-1-600", (3_000, 4_000))];
        runs[1].first.lineage = 6;
        // The same ids, and other transactions: nothing of the one leads to the other.
        assert_eq!(
            legs(&runs, &at("0-1-50"), 1_500, &Target::Latest),
            Err(Refused::Earlier { began_unix_ms: 3_000 })
        );
        let legs = legs(&runs, &at("0-1-70"), 3_500, &Target::Latest).unwrap();
        assert_eq!(legs.iter().map(|l| l.run.first.lineage).collect::<Vec<_>>(), [6]);
        assert_eq!(found(&runs, "0-1-50", &Target::Moment(1_900)), Ok(vec![(1, None)]));
    }

    #[test]
    fn a_restore_into_the_past_begins_a_branch() {
        let mut runs = vec![run(1, "0-1-1", "0-1-110", (1_000, 2_000))];
        // Restored to 60, and written from there on.
        runs.push(run(2, "0-1-60", "0-1-60,0-3-70", (3_000, 4_000)));
        assert_eq!(
            found(&runs, "0-1-50", &Target::Moment(3_500)),
            Ok(vec![(1, Some("0-1-60".into())), (2, None)])
        );
        assert_eq!(found(&runs, "0-1-50", &Target::Moment(1_900)), Ok(vec![(1, None)]));
        assert_eq!(found(&runs, "0-1-90", &Target::Moment(1_900)), Ok(vec![(1, None)]));
    }

    #[test]
    fn sets_are_reached_exactly_and_domains_in_order() {
        let mut reached = Reached::at(&at("0-1-5,1-9-7")).unwrap();
        assert!(reached.has(&id(0, 2, 5)) && !reached.has(&id(0, 1, 6)) && !reached.has(&id(2, 1, 1)));
        assert!(reached.covers(&at("0-1-5")) && !reached.covers(&at("0-1-5,1-9-8")));
        reached.add(&id(0, 2, 6));
        assert_eq!(reached.position(), at("0-2-6,1-9-7"));
        let uuid = "7c0715d2-e7b4-11f1-b245-02fc00000001";
        let set = Position::mysql(&format!("{uuid}:1-3:5")).unwrap();
        let mut reached = Reached::at(&set).unwrap();
        let one = |number| Gtid::MySql {
            uuid: 0x7c0715d2_e7b4_11f1_b245_02fc00000001_u128.to_be_bytes(),
            tag: String::new(),
            number,
        };
        assert!(reached.has(&one(5)) && !reached.has(&one(4)));
        reached.add(&one(4));
        assert_eq!(reached.position(), Position::mysql(&format!("{uuid}:1-5")).unwrap());
    }
}
