//! How far a log was received or applied, as a **partial order**: of two positions, neither may contain the other.
//! Such divergence is never tie-broken (S6).

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// What MariaDB calls the binlog state: for each replication domain and each server that ever wrote in it, the
/// last sequence number of that server.
///
/// This is a vector clock, and unlike a bare GTID position (the last GTID of each domain) it tells divergence from
/// lag: `0-2-200` does not contain `0-1-105` unless server 1 is known up to 105. A sequence number alone proves
/// nothing about the events below it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct MariaDbPosition {
    domains: BTreeMap<u32, BTreeMap<u32, u64>>,
}

/// Why a text is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MariaDB GTID (domain-server-sequence)")]
pub struct Error(pub String);

impl MariaDbPosition {
    /// Adds one GTID: everything that `server` wrote in `domain` up to `sequence`.
    pub fn add(&mut self, domain: u32, server: u32, sequence: u64) {
        let known = self.domains.entry(domain).or_default().entry(server).or_default();
        *known = (*known).max(sequence);
    }
    /// All `(domain, server, sequence)`, ordered.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, u64)> + '_ {
        self.domains.iter().flat_map(|(d, servers)| servers.iter().map(move |(s, n)| (*d, *s, *n)))
    }
    fn sequence(&self, domain: u32, server: u32) -> u64 {
        self.domains.get(&domain).and_then(|s| s.get(&server)).copied().unwrap_or(0)
    }
    /// Highest sequence in each domain with its server: what `gtid_slave_pos` wants.
    pub fn last_per_domain(&self) -> impl Iterator<Item = (u32, u32, u64)> + '_ {
        self.domains
            .iter()
            .filter_map(|(d, servers)| servers.iter().max_by_key(|(_, n)| **n).map(|(s, n)| (*d, *s, *n)))
    }
    fn contains(&self, other: &Self) -> bool {
        other.iter().all(|(d, s, n)| self.sequence(d, s) >= n)
    }
}

impl std::str::FromStr for MariaDbPosition {
    type Err = Error;
    /// Reads `0-1-5,0-2-7`: any number of GTIDs, white space around them allowed, empty means nothing.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut out = Self::default();
        for gtid in text.split(',').map(str::trim).filter(|g| !g.is_empty()) {
            let mut parts = gtid.split('-');
            let mut next = || parts.next().ok_or_else(|| Error(gtid.into()));
            let (d, s, n) = (next()?, next()?, next()?);
            let bad = |_| Error(gtid.into());
            out.add(d.parse().map_err(bad)?, s.parse().map_err(bad)?, n.parse().map_err(bad)?);
            if parts.next().is_some() {
                return Err(Error(gtid.into()));
            }
        }
        Ok(out)
    }
}

impl fmt::Display for MariaDbPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (d, s, n)) in self.iter().enumerate() {
            write!(f, "{}{d}-{s}-{n}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl TryFrom<String> for MariaDbPosition {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}
impl From<MariaDbPosition> for String {
    fn from(p: MariaDbPosition) -> String {
        p.to_string()
    }
}

/// An engine-typed position. Positions of different engines are incomparable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    MariaDb(MariaDbPosition),
}

impl Position {
    /// A MariaDB position from its text form.
    pub fn mariadb(text: &str) -> Result<Position, Error> {
        text.parse().map(Position::MariaDb)
    }
    /// For people: the last transaction of each domain. Says less than the position.
    pub fn brief(&self) -> String {
        match self {
            Position::MariaDb(p) => {
                let last: Vec<String> = p.last_per_domain().map(|(d, s, n)| format!("{d}-{s}-{n}")).collect();
                last.join(",")
            }
        }
    }
    /// Nothing received yet.
    pub fn is_empty(&self) -> bool {
        match self {
            Position::MariaDb(p) => p.domains.is_empty(),
        }
    }
    /// True if everything in `other` is in `self`.
    pub fn contains(&self, other: &Position) -> bool {
        matches!(self.partial_cmp(other), Some(Ordering::Equal | Ordering::Greater))
    }
    /// Received ∪ applied: the least position that contains both.
    pub fn union(&self, other: &Position) -> Position {
        match (self, other) {
            (Position::MariaDb(a), Position::MariaDb(b)) => {
                let mut both = a.clone();
                b.iter().for_each(|(d, s, n)| both.add(d, s, n));
                Position::MariaDb(both)
            }
        }
    }
    /// How many transactions of `self` are not in `other`. Exact where each server's sequence numbers are
    /// contiguous since the last common one; an upper bound otherwise.
    pub fn transactions_missing_in(&self, other: &Position) -> u64 {
        match (self, other) {
            // The sequence of a domain runs on over primaries, so a server's own numbers have gaps: what server 2
            // wrote after server 1 stopped at 100 starts at 101.
            (Position::MariaDb(a), Position::MariaDb(b)) => a
                .iter()
                .map(|(d, s, n)| {
                    let common = b.sequence(d, s).max(b.domains.get(&d).map_or(0, |theirs| {
                        theirs
                            .iter()
                            .filter(|(srv, m)| a.sequence(d, **srv) >= **m)
                            .map(|(_, m)| *m)
                            .max()
                            .unwrap_or(0)
                    }));
                    if b.sequence(d, s) >= n { 0 } else { n.saturating_sub(common) }
                })
                .sum(),
        }
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let (Position::MariaDb(a), Position::MariaDb(b)) = (self, other);
        match (a.contains(b), b.contains(a)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Greater),
            (false, true) => Some(Ordering::Less),
            (false, false) => None,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::MariaDb(p) => p.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Position {
        Position::mariadb(text).unwrap()
    }

    #[test]
    fn a_higher_sequence_is_not_a_superset() {
        assert_eq!(at("0-1-105").partial_cmp(&at("0-1-100,0-2-200")), None);
        assert!(at("0-1-105,0-2-200").contains(&at("0-1-105")));
        assert!(at("0-1-100") < at("0-1-100,0-2-101"));
        assert!(at("0-1-1").contains(&at("")));
    }

    #[test]
    fn missing_transactions_are_counted_from_the_last_common_one() {
        assert_eq!(at("0-1-105").transactions_missing_in(&at("0-1-100,0-2-200")), 5);
        assert_eq!(at("0-1-100,0-2-108").transactions_missing_in(&at("0-1-100")), 8);
        assert_eq!(at("0-1-100").transactions_missing_in(&at("0-1-100,0-2-108")), 0);
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["x", "0-1", "0-1-2-3", "0--1-2", "-0-1-2", "0-1-99999999999999999999999"] {
            assert!(Position::mariadb(text).is_err(), "{text}");
        }
    }

    fn any_position() -> impl Strategy<Value = Position> {
        proptest::collection::vec((0u32..2, 1u32..4, 1u64..6), 0..5).prop_map(|gtids| {
            let mut p = MariaDbPosition::default();
            gtids.into_iter().for_each(|(d, s, n)| p.add(d, s, n));
            Position::MariaDb(p)
        })
    }

    proptest! {
        #[test]
        fn the_order_is_partial(a in any_position(), b in any_position(), c in any_position()) {
            prop_assert_eq!(a.partial_cmp(&a), Some(Ordering::Equal));
            prop_assert_eq!(a.partial_cmp(&b), b.partial_cmp(&a).map(Ordering::reverse));
            if a <= b && b <= c { prop_assert!(a <= c); }
            if a <= b && b <= a { prop_assert_eq!(&a, &b); }
            let u = a.union(&b);
            prop_assert!(u.contains(&a) && u.contains(&b));
            if c.contains(&a) && c.contains(&b) { prop_assert!(c.contains(&u)); }
        }
        #[test]
        fn text_round_trips(a in any_position()) {
            prop_assert_eq!(at(&a.to_string()), a);
        }
    }
}
