//! The position of Redis and Valkey: how far which replication histories are contained (ADR 0018).
//!
//! Guarantees: offsets of different histories are never compared; what is said to be contained is contained, however
//! little each side knows of the past; reading and writing round-trip.
//! Does not know: how the histories became known. A server itself remembers one earlier history, its driver more.

use super::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A replication id: what one primacy wrote, and before that all that its primary had. 160 bits, drawn anew at each
/// promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryId([u8; ID_BYTES]);

const ID_BYTES: usize = 20;
/// More histories than this are not remembered; who is that far behind is copied anew.
const HISTORIES_MAX: usize = 64;

/// One data set: for each history that it contains a part of, how many bytes of it.
///
/// Offsets go on over promotions, so what a history grew out of has no larger offset than the history itself. All that
/// have the largest offset are names of the same data.
#[derive(Debug, Clone, Default)]
struct Line(BTreeMap<HistoryId, u64>);

/// See the file's contract. One line for an instance; more only where the positions of several were united.
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct RedisPosition {
    /// None of them contains another.
    lines: Vec<Line>,
}

impl Line {
    fn new(entries: impl IntoIterator<Item = (HistoryId, u64)>) -> Line {
        let mut line = Line::default();
        line.learn(entries);
        line
    }
    fn learn(&mut self, entries: impl IntoIterator<Item = (HistoryId, u64)>) {
        for (id, offset) in entries {
            let known = self.0.entry(id).or_default();
            *known = (*known).max(offset);
        }
        while self.0.len() > HISTORIES_MAX {
            let oldest = self.0.iter().min_by_key(|(id, offset)| (**offset, **id)).map(|(id, _)| *id);
            oldest.and_then(|id| self.0.remove(&id));
        }
    }
    fn offset(&self) -> u64 {
        self.0.values().copied().max().unwrap_or(0)
    }
    fn contains(&self, other: &Line) -> bool {
        let all = other.offset();
        other.0.iter().any(|(id, offset)| *offset == all && self.0.get(id).is_some_and(|known| *known >= all))
    }
    /// How far both are the same, as far as they know.
    fn common(&self, other: &Line) -> u64 {
        let both = self.0.iter().filter_map(|(id, mine)| other.0.get(id).map(|theirs| *mine.min(theirs)));
        both.max().unwrap_or(0)
    }
    /// The last history first.
    fn ordered(&self) -> Vec<(HistoryId, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(id, offset)| (*id, *offset)).collect();
        all.sort_by_key(|(id, offset)| (std::cmp::Reverse(*offset), *id));
        all
    }
}

impl RedisPosition {
    /// The data at `offset` of `history`. Of what that grew out of, `past` says how much belongs to it; a part that
    /// lies beyond `offset` was not reached.
    pub fn at(
        history: HistoryId,
        offset: u64,
        past: impl IntoIterator<Item = (HistoryId, u64)>,
    ) -> RedisPosition {
        let reached = past.into_iter().map(|(id, end)| (id, end.min(offset)));
        RedisPosition { lines: vec![Line::new(reached.chain([(history, offset)]))] }
    }
    /// How far `history` is contained.
    pub fn known(&self, history: HistoryId) -> Option<u64> {
        self.lines.iter().filter_map(|line| line.0.get(&history)).copied().max()
    }
    /// All histories known, with how far they are contained.
    pub fn histories(&self) -> impl Iterator<Item = (HistoryId, u64)> + '_ {
        self.lines.iter().flat_map(|line| line.0.iter().map(|(id, offset)| (*id, *offset)))
    }
    /// Bytes of its history. Says nothing about another history.
    pub fn offset(&self) -> u64 {
        self.lines.iter().map(Line::offset).max().unwrap_or(0)
    }
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
    pub(super) fn contains(&self, other: &Self) -> bool {
        other.lines.iter().all(|theirs| self.lines.iter().any(|mine| mine.contains(theirs)))
    }
    /// Adds all of `other`, and what it knows.
    pub(super) fn unite(&mut self, other: &Self) {
        for theirs in &other.lines {
            let mut whole = theirs.clone();
            self.lines.retain(|mine| {
                let within = whole.contains(mine);
                if within {
                    whole.learn(mine.0.clone());
                }
                !within
            });
            match self.lines.iter_mut().find(|mine| mine.contains(theirs)) {
                Some(mine) => mine.learn(theirs.0.clone()),
                None => self.lines.push(whole),
            }
        }
    }
    /// The longest history that is in both, as far as they know.
    pub(super) fn common(&self, other: &Self) -> Self {
        let shared = |mine: &Line, theirs: &Line| {
            let both = mine.0.iter().filter_map(|(id, n)| theirs.0.get(id).map(|m| (*id, *n.min(m))));
            Line::new(both)
        };
        let pairs = self.lines.iter().flat_map(|a| other.lines.iter().map(move |b| shared(a, b)));
        let longest = pairs.filter(|line| !line.0.is_empty()).max_by_key(Line::offset);
        RedisPosition { lines: longest.into_iter().collect() }
    }
    /// Bytes of the replication stream, heartbeats included: exact since the last history that both know, else an
    /// upper bound.
    pub(super) fn missing_in(&self, other: &Self) -> u64 {
        let missing = |mine: &Line| {
            let there = other
                .lines
                .iter()
                .map(|theirs| if theirs.contains(mine) { mine.offset() } else { theirs.common(mine) });
            mine.offset() - there.max().unwrap_or(0)
        };
        self.lines.iter().map(missing).sum()
    }
    /// The last history of each line, its id cut to the part that tells histories apart at a glance.
    pub(super) fn brief(&self) -> String {
        let last = |line: &Line| {
            line.ordered().first().map(|(id, offset)| format!("{}…:{offset}", &id.to_string()[..8]))
        };
        self.lines.iter().filter_map(last).collect::<Vec<_>>().join("+")
    }
}

/// The same data, whatever else each of them knows of the past.
impl PartialEq for RedisPosition {
    fn eq(&self, other: &Self) -> bool {
        self.contains(other) && other.contains(self)
    }
}
impl Eq for RedisPosition {}

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for HistoryId {
    type Err = Error;
    /// 40 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::history(text);
        if text.len() != 2 * ID_BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut id = [0; ID_BYTES];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| bad())?;
        }
        Ok(HistoryId(id))
    }
}

impl std::str::FromStr for RedisPosition {
    type Err = Error;
    /// Reads `ID:OFFSET<ID:OFFSET+…`: the last history of a line first, what it grew out of after it; empty means
    /// nothing.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut out = Self::default();
        for line in text.split('+').filter(|_| !text.is_empty()) {
            let mut entries = BTreeMap::new();
            for entry in line.split('<') {
                let bad = || Error::history(entry);
                let (id, offset) = entry.split_once(':').ok_or_else(bad)?;
                let offset: i64 = offset.parse().map_err(|_| bad())?;
                let offset = u64::try_from(offset).map_err(|_| bad())?;
                if entries.insert(id.parse()?, offset).is_some() || entries.len() > HISTORIES_MAX {
                    return Err(bad());
                }
            }
            out.unite(&RedisPosition { lines: vec![Line(entries)] });
        }
        Ok(out)
    }
}

impl fmt::Display for RedisPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, line) in self.lines.iter().enumerate() {
            f.write_str(if i > 0 { "+" } else { "" })?;
            for (j, (id, offset)) in line.ordered().into_iter().enumerate() {
                write!(f, "{}{id}:{offset}", if j > 0 { "<" } else { "" })?;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for RedisPosition {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}
impl From<RedisPosition> for String {
    fn from(p: RedisPosition) -> String {
        p.to_string()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Histories in the order of their promotion: what each grew out of, and where. 1 and 2 are rivals, 3 wrote nothing
    /// before 4 was promoted elsewhere, 5 has nothing to do with them.
    const BORN: [Option<(usize, u64)>; 6] =
        [None, Some((0, 5)), Some((0, 5)), Some((1, 9)), Some((3, 9)), None];

    fn id(history: usize) -> HistoryId {
        HistoryId([history as u8; ID_BYTES])
    }
    /// The data as a set of single bytes, each by who wrote it.
    pub fn bytes(history: usize, offset: u64) -> std::collections::BTreeSet<(usize, u64)> {
        match BORN[history] {
            Some((parent, fork)) => {
                let own = (fork + 1..=offset).map(|n| (history, n));
                bytes(parent, fork.min(offset)).into_iter().chain(own).collect()
            }
            None => (1..=offset).map(|n| (history, n)).collect(),
        }
    }
    fn past(history: usize) -> Vec<(HistoryId, u64)> {
        BORN[history].map_or_else(Vec::new, |(parent, fork)| {
            let mut all = past(parent);
            all.iter_mut().for_each(|(_, end)| *end = (*end).min(fork));
            all.push((id(parent), fork));
            all
        })
    }
    /// Of an instance that knows all of its past, or that forgot each part of it that `forgotten` has a bit for.
    pub fn position(history: usize, offset: u64, forgotten: u8) -> RedisPosition {
        let past = past(history);
        let known = past.iter().enumerate().filter(|(i, _)| forgotten & 1 << i == 0).map(|(_, p)| *p);
        RedisPosition::at(id(history), offset, known)
    }
    pub fn any_place() -> impl Strategy<Value = (usize, u64)> {
        (0..BORN.len(), 0u64..14)
    }

    #[test]
    fn another_history_is_divergence_however_far_it_goes() {
        let (long, short) = (position(5, 13, 0), position(0, 1, 0));
        assert!(!long.contains(&short) && !short.contains(&long));
        assert_eq!(long.missing_in(&short), 13);
    }

    #[test]
    fn a_follower_may_go_on_up_to_the_promotion() {
        let promoted = position(1, 8, 0);
        assert!(promoted.contains(&position(0, 5, 0)), "all that it had then");
        assert!(!promoted.contains(&position(0, 6, 0)), "its old primary wrote on");
        assert_eq!(position(0, 6, 0).missing_in(&promoted), 1);
        assert_eq!(position(1, 5, 0), position(0, 5, 0), "nothing was written yet");
        // Went over to the new history before it had all of the old one.
        let behind = RedisPosition::at(id(1), 3, past(1));
        assert!(position(0, 5, 0).contains(&behind) && !behind.contains(&position(0, 4, 0)));
    }

    #[test]
    fn what_is_no_position_is_refused() {
        let good = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
        for text in [
            good.to_owned(),
            format!("{good}:"),
            format!("{good}:-1"),
            format!("{good}:9223372036854775808"),
            format!("{}:1", &good[1..]),
            format!("{}g:1", &good[1..]),
            format!("{good}:1<"),
            format!("{good}:1+"),
            format!("{good}:1<{good}:1"),
            "0-1-5".to_owned(),
        ] {
            assert!(text.parse::<RedisPosition>().is_err(), "{text}");
        }
        assert!("".parse::<RedisPosition>().unwrap().is_empty());
        assert_eq!(format!("{good}:7").parse::<RedisPosition>().unwrap().brief(), "c0ffee00…:7");
    }

    #[test]
    fn the_oldest_histories_are_forgotten_first() {
        let many = (0u8..200).map(|n| (HistoryId([n; ID_BYTES]), u64::from(n)));
        let p = RedisPosition::at(id(255), 300, many);
        assert_eq!(p.histories().count(), HISTORIES_MAX);
        assert_eq!(p.known(HistoryId([199; ID_BYTES])), Some(199));
        assert_eq!(p.known(HistoryId([0; ID_BYTES])), None);
    }

    proptest! {
        /// Against the plainest model there is: the set of all bytes.
        #[test]
        fn what_is_contained_is_contained(a in any_place(), b in any_place(), f in 0u8..16, g in 0u8..16) {
            let (x, y) = (position(a.0, a.1, f), position(b.0, b.1, g));
            let (all, other) = (bytes(a.0, a.1), bytes(b.0, b.1));
            let within = all.is_superset(&other);
            prop_assert!(within || !x.contains(&y) || other.is_empty(), "however little they know");
            prop_assert!(x.missing_in(&y) >= all.difference(&other).count() as u64);
            let (x, y) = (position(a.0, a.1, 0), position(b.0, b.1, 0));
            if a.0 != 5 && b.0 != 5 {
                prop_assert_eq!(x.contains(&y), within || other.is_empty(), "with all they can know");
                prop_assert_eq!(x.missing_in(&y), all.difference(&other).count() as u64);
            }
        }
        #[test]
        fn knowledge_round_trips(a in any_place(), b in any_place(), f in 0u8..16) {
            let mut p = position(a.0, a.1, f);
            p.unite(&position(b.0, b.1, 0));
            let read: RedisPosition = p.to_string().parse().unwrap();
            prop_assert_eq!(&read, &p);
            prop_assert_eq!(read.to_string(), p.to_string());
        }
    }
}
