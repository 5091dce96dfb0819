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

/// The history that leads to `target`, from a copy at `start`, in order. `runs` are in order.
pub fn legs(runs: &[Run], start: &Position, target: &Target) -> Result<Vec<Leg>, Refused> {
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
                r.first.began_unix_ms <= *ms || r.first.first_unix_ms.is_some_and(|first| first <= *ms)
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
    if !upto.contains(start) {
        return Err(Refused::NotInLog { position: start.to_string() });
    }
    let mut legs: Vec<Leg> = Vec::new();
    let mut limit: Option<Position> = None;
    for (run, from, _) in known[..count].iter().rev() {
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
