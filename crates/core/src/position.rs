//! How far a log was received or applied, as a **partial order**: of two positions, neither may contain the other.
//! Such divergence is never tie-broken (S6).

mod gtid_set;
mod mariadb;
mod redis;

pub use gtid_set::{GtidSet, Source, Tag, Uuid};
pub use mariadb::MariaDbPosition;
pub use redis::{HistoryId, RedisPosition};

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;

/// Why a text is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct Error {
    text: String,
    expected: &'static str,
}

impl Error {
    fn gtid(text: &str) -> Error {
        Error { text: text.into(), expected: "a MariaDB GTID (domain-server-sequence)" }
    }
    fn set(text: &str) -> Error {
        Error { text: text.into(), expected: "a MySQL GTID set (UUID:1-5:9:tag:1-3)" }
    }
    fn history(text: &str) -> Error {
        Error { text: text.into(), expected: "a Redis position (ID:OFFSET<ID:OFFSET)" }
    }
}

/// An engine-typed position. Positions of different engines are incomparable, even empty ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    MariaDb(MariaDbPosition),
    MySql(GtidSet),
    /// Of Valkey as well.
    Redis(RedisPosition),
}

impl Position {
    /// A MariaDB position from its text form.
    pub fn mariadb(text: &str) -> Result<Position, Error> {
        text.parse().map(Position::MariaDb)
    }
    /// A MySQL position from its text form.
    pub fn mysql(text: &str) -> Result<Position, Error> {
        text.parse().map(Position::MySql)
    }
    /// A position of Redis or Valkey from its text form.
    pub fn redis(text: &str) -> Result<Position, Error> {
        text.parse().map(Position::Redis)
    }
    /// Of the same engine, with nothing in it.
    pub fn nothing(&self) -> Position {
        match self {
            Position::MariaDb(_) => Position::MariaDb(MariaDbPosition::default()),
            Position::MySql(_) => Position::MySql(GtidSet::default()),
            Position::Redis(_) => Position::Redis(RedisPosition::default()),
        }
    }
    /// For people: the last transaction of each domain or source, or the last history's offset. Says less than the
    /// position.
    pub fn brief(&self) -> String {
        match self {
            Position::MariaDb(p) => {
                let last: Vec<String> = p.last_per_domain().map(|(d, s, n)| format!("{d}-{s}-{n}")).collect();
                last.join(",")
            }
            Position::MySql(set) => set.brief(),
            Position::Redis(p) => p.brief(),
        }
    }
    /// Nothing received yet.
    pub fn is_empty(&self) -> bool {
        match self {
            Position::MariaDb(p) => p.is_empty(),
            Position::MySql(set) => set.is_empty(),
            Position::Redis(p) => p.is_empty(),
        }
    }
    /// True if everything in `other` is in `self`.
    pub fn contains(&self, other: &Position) -> bool {
        matches!(self.partial_cmp(other), Some(Ordering::Equal | Ordering::Greater))
    }
    /// Received ∪ applied: the least position that contains both. What is of another engine adds nothing.
    #[must_use]
    pub fn union(&self, other: &Position) -> Position {
        let mut both = self.clone();
        match (&mut both, other) {
            (Position::MariaDb(both), Position::MariaDb(other)) => both.unite(other),
            (Position::MySql(both), Position::MySql(other)) => both.unite(other),
            (Position::Redis(both), Position::Redis(other)) => both.unite(other),
            (Position::MariaDb(_) | Position::MySql(_) | Position::Redis(_), _) => {}
        }
        both
    }
    /// The greatest position that both contain. Of different engines: nothing.
    #[must_use]
    pub fn common(&self, other: &Position) -> Position {
        match (self, other) {
            (Position::MariaDb(a), Position::MariaDb(b)) => Position::MariaDb(a.common(b)),
            (Position::MySql(a), Position::MySql(b)) => Position::MySql(a.without(&a.without(b))),
            (Position::Redis(a), Position::Redis(b)) => Position::Redis(a.common(b)),
            (Position::MariaDb(_) | Position::MySql(_) | Position::Redis(_), _) => self.nothing(),
        }
    }
    /// How much of `self` is not in `other`, in [`Position::unit`]s. Of MySQL: exact. Of MariaDB: exact where each
    /// server's sequence numbers are contiguous since the last common one; an upper bound otherwise. Of Redis: exact
    /// since the last history that both know. Of different engines: all.
    pub fn missing_in(&self, other: &Position) -> u64 {
        match (self, other) {
            (Position::MariaDb(a), Position::MariaDb(b)) => a.missing_in(b),
            (Position::MySql(a), Position::MySql(b)) => a.missing_in(b),
            (Position::Redis(a), Position::Redis(b)) => a.missing_in(b),
            (Position::MariaDb(a), _) => a.missing_in(&MariaDbPosition::default()),
            (Position::MySql(a), _) => a.missing_in(&GtidSet::default()),
            (Position::Redis(a), _) => a.missing_in(&RedisPosition::default()),
        }
    }
    /// What [`Position::missing_in`] counts, for people.
    pub fn unit(&self) -> &'static str {
        match self {
            Position::MariaDb(_) | Position::MySql(_) => "transactions",
            Position::Redis(_) => "bytes of the replication stream",
        }
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let contain = match (self, other) {
            (Position::MariaDb(a), Position::MariaDb(b)) => (a.contains(b), b.contains(a)),
            (Position::MySql(a), Position::MySql(b)) => (a.contains(b), b.contains(a)),
            (Position::Redis(a), Position::Redis(b)) => (a.contains(b), b.contains(a)),
            _ => (false, false),
        };
        match contain {
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
            Position::MySql(set) => set.fmt(f),
            Position::Redis(p) => p.fmt(f),
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
        assert_eq!(at("0-1-105").missing_in(&at("0-1-100,0-2-200")), 5);
        assert_eq!(at("0-1-100,0-2-108").missing_in(&at("0-1-100")), 8);
        assert_eq!(at("0-1-100").missing_in(&at("0-1-100,0-2-108")), 0);
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["x", "0-1", "0-1-2-3", "0--1-2", "-0-1-2", "0-1-99999999999999999999999"] {
            assert!(Position::mariadb(text).is_err(), "{text}");
        }
    }

    fn set(text: &str) -> Position {
        Position::mysql(text).unwrap()
    }
    const A: &str = "7c0715d2-e7b4-11f1-b245-02fc00000001";

    #[test]
    fn a_gap_and_a_tag_are_part_of_a_set() {
        let at = |rest: &str| set(&format!("{A}:{rest}"));
        assert_eq!(at("1-5:7").partial_cmp(&at("1-6")), None);
        assert!(at("1-7") > at("1-5:7"));
        assert_eq!(at("1-5").partial_cmp(&at("tag:1-5")), None);
        assert!(at("1-5:tag:1-5").contains(&at("tag:2")));
        assert_eq!(at("1-5:9:tag:1-5").missing_in(&at("2-3")), 9);
        assert_eq!(at("1-3:4-5:5").to_string(), format!("{A}:1-5"));
        // As the server prints it, with line breaks.
        let both = set(&format!("{A}:1-2:foo:1,\n{}:3", A.replace('7', "8")));
        assert_eq!(both.to_string(), format!("{A}:1-2:foo:1,{}:3", A.replace('7', "8")));
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for rest in [
            "",
            ":",
            ":0",
            ":5-3",
            ":1-",
            ":tag",
            ":1:x y:1",
            ":1-99999999999999999999",
            ":1-9223372036854775807",
            ":9x:1",
        ] {
            assert!(Position::mysql(&format!("{A}{rest}")).is_err(), "{rest}");
        }
        for text in ["x", "7c0715d2-e7b4-11f1-b245-02fc0000000:1", "0-1-5"] {
            assert!(Position::mysql(text).is_err(), "{text}");
        }
    }

    #[test]
    fn positions_of_different_engines_are_never_compared() {
        assert_eq!(at("").partial_cmp(&set("")), None);
        assert_eq!(at("0-1-5").union(&set(&format!("{A}:1"))), at("0-1-5"));
        assert_eq!(set(&format!("{A}:1-5")).missing_in(&at("")), 5);
    }

    fn any_set() -> impl Strategy<Value = Position> {
        let gtid = (0u8..2, proptest::option::of("[ab_]"), 1u64..12, 0u64..4);
        proptest::collection::vec(gtid, 0..6).prop_map(|gtids| {
            let texts = gtids.into_iter().map(|(server, tag, first, more)| {
                let tag = tag.map(|t| format!("{t}:")).unwrap_or_default();
                format!("7c0715d2-e7b4-11f1-b245-02fc0000000{server}:{tag}{first}-{}", first + more)
            });
            set(&texts.collect::<Vec<_>>().join(","))
        })
    }

    fn any_mariadb() -> impl Strategy<Value = Position> {
        proptest::collection::vec((0u32..2, 1u32..4, 1u64..6), 0..5).prop_map(|gtids| {
            let mut p = MariaDbPosition::default();
            gtids.into_iter().for_each(|(d, s, n)| p.add(d, s, n));
            Position::MariaDb(p)
        })
    }

    fn any_redis() -> impl Strategy<Value = Position> {
        let place = redis::tests::any_place();
        let at = place.prop_map(|(history, offset)| redis::tests::position(history, offset, 0));
        proptest::option::of(at).prop_map(|p| Position::Redis(p.unwrap_or_default()))
    }

    fn any_position() -> impl Strategy<Value = Position> {
        prop_oneof![any_mariadb(), any_set(), any_redis()]
    }

    proptest! {
        #[test]
        fn the_order_is_partial(a in any_position(), b in any_position(), c in any_position()) {
            prop_assert_eq!(a.partial_cmp(&a), Some(Ordering::Equal));
            prop_assert_eq!(a.partial_cmp(&b), b.partial_cmp(&a).map(Ordering::reverse));
            if a <= b && b <= c { prop_assert!(a <= c); }
            if a <= b && b <= a { prop_assert_eq!(&a, &b); }
            let (u, mixed) = (a.union(&b), a.nothing() != b.nothing());
            prop_assert!(u.contains(&a) && (mixed || u.contains(&b)));
            if c.contains(&a) && c.contains(&b) { prop_assert!(c.contains(&u)); }
            let both = a.common(&b);
            prop_assert!(a.contains(&both) && (mixed || b.contains(&both)));
            if a.contains(&c) && b.contains(&c) { prop_assert!(both.contains(&c)); }
        }
        #[test]
        fn text_round_trips(a in any_position()) {
            let read = match &a {
                Position::MariaDb(_) => at(&a.to_string()),
                Position::MySql(_) => set(&a.to_string()),
                Position::Redis(_) => Position::redis(&a.to_string()).unwrap(),
            };
            prop_assert_eq!(read, a);
        }
        /// Against the plainest model there is: a set of single transactions.
        #[test]
        fn sets_count_and_compare_like_sets_of_single_transactions(a in any_set(), b in any_set()) {
            let singles = |p: &Position| match p {
                Position::MySql(s) => s.gtids().collect::<std::collections::BTreeSet<String>>(),
                Position::MariaDb(_) | Position::Redis(_) => unreachable!("only sets are made"),
            };
            let (x, y) = (singles(&a), singles(&b));
            prop_assert_eq!(a.contains(&b), x.is_superset(&y));
            prop_assert_eq!(a.missing_in(&b), x.difference(&y).count() as u64);
            prop_assert_eq!(singles(&a.union(&b)), x.union(&y).cloned().collect());
        }
        #[test]
        fn garbage_does_not_panic(text: String) {
            let _ = (Position::mysql(&text), Position::mariadb(&text), Position::redis(&text));
        }
    }
}
