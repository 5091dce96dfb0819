//! MySQL's replication position: a set of global transaction ids, untagged and tagged (8.3).
//!
//! Guarantees: intervals are kept ordered, disjoint and apart, so that equal sets have one form and one text; what is
//! no set is refused, and so is a set that could not be counted.
//! Does not know: which server a UUID is; a set is compared with a set.

use super::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A server's UUID, as 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(u128);

/// Up to [`TAG_CHARS_MAX`] of `a-z 0-9 _`, not beginning with a digit; empty: untagged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tag(String);

/// Who numbers transactions: each server its own, and each of its tags apart.
pub type Source = (Uuid, Tag);

const TAG_CHARS_MAX: usize = 32;
/// The last number that a server gives.
const NUMBER_MAX: u64 = i64::MAX as u64 - 1;
/// Texts with more intervals are no position of a healthy server.
const INTERVALS_MAX: usize = 1 << 20;

/// See the file's contract.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct GtidSet {
    /// First to last number of each interval, by its first.
    sources: BTreeMap<Source, BTreeMap<u64, u64>>,
}

impl GtidSet {
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }
    fn intervals(&self) -> impl Iterator<Item = (&Source, u64, u64)> {
        self.sources
            .iter()
            .flat_map(|(source, all)| all.iter().map(move |(first, last)| (source, *first, *last)))
    }
    /// All single ids, ordered.
    pub fn gtids(&self) -> impl Iterator<Item = String> + '_ {
        self.intervals()
            .flat_map(|(source, first, last)| (first..=last).map(move |n| format!("{}:{n}", Named(source))))
    }
    /// Adds one id.
    pub fn add_one(&mut self, source: Source, number: u64) {
        self.add(source, number, number);
    }
    /// All intervals, by source.
    pub fn by_source(&self) -> impl Iterator<Item = (&Source, impl ExactSizeIterator<Item = (u64, u64)>)> {
        self.sources.iter().map(|(source, all)| (source, all.iter().map(|(first, last)| (*first, *last))))
    }
    fn add(&mut self, source: Source, first: u64, last: u64) {
        let all = self.sources.entry(source).or_default();
        let (mut first, mut last) = (first, last);
        // Whatever touches the new one becomes part of it.
        while let Some((&f, &l)) = all.range(..=last.saturating_add(1)).next_back() {
            if l.saturating_add(1) < first {
                break;
            }
            all.remove(&f);
            (first, last) = (first.min(f), last.max(l));
        }
        all.insert(first, last);
    }
    /// Adds all of `other`.
    pub(super) fn unite(&mut self, other: &Self) {
        other.intervals().for_each(|(source, first, last)| self.add(source.clone(), first, last));
    }
    pub(super) fn contains(&self, other: &Self) -> bool {
        other.intervals().all(|(source, first, last)| {
            let mine = self.sources.get(source).and_then(|all| all.range(..=first).next_back());
            mine.is_some_and(|(_, l)| *l >= last)
        })
    }
    /// What is in `self` and not in `other`.
    pub fn without(&self, other: &Self) -> GtidSet {
        let mut out = GtidSet::default();
        for (source, first, last) in self.intervals() {
            let mut from = first;
            for (&f, &l) in other.sources.get(source).into_iter().flat_map(|all| all.range(..=last)) {
                if l < from {
                    continue;
                }
                if f > from {
                    out.add(source.clone(), from, f - 1);
                }
                from = l + 1;
            }
            if from <= last {
                out.add(source.clone(), from, last);
            }
        }
        out
    }
    /// How many transactions there are in it.
    pub fn count(&self) -> u64 {
        self.intervals().fold(0, |n, (_, first, last)| n.saturating_add(last - first + 1))
    }
    pub(super) fn missing_in(&self, other: &Self) -> u64 {
        self.without(other).count()
    }
    /// The last number of each source, its UUID cut to the part that tells servers apart at a glance.
    pub(super) fn brief(&self) -> String {
        let last = |(source, all): (&Source, &BTreeMap<u64, u64>)| {
            let (uuid, tag) = (source.0.to_string(), &source.1.0);
            let colon = if tag.is_empty() { "" } else { ":" };
            format!("{}…{colon}{tag}:{}", &uuid[..8], all.last_key_value().map_or(0, |(_, l)| *l))
        };
        self.sources.iter().map(last).collect::<Vec<_>>().join(",")
    }
}

impl Uuid {
    pub fn from_bytes(bytes: [u8; 16]) -> Uuid {
        Uuid(u128::from_be_bytes(bytes))
    }
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let h = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
    }
}

impl std::str::FromStr for Uuid {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let hyphens = [8, 13, 18, 23];
        let fits = text.len() == 36
            && text.bytes().enumerate().all(|(i, b)| match hyphens.contains(&i) {
                true => b == b'-',
                false => b.is_ascii_hexdigit(),
            });
        let digits = || text.replace('-', "");
        if fits { u128::from_str_radix(&digits(), 16).map(Uuid).map_err(|_| ()) } else { Err(()) }
    }
}

impl std::str::FromStr for Tag {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.to_ascii_lowercase();
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let begins = text.bytes().next().is_some_and(|b| fits(b) && !b.is_ascii_digit());
        if begins && text.len() <= TAG_CHARS_MAX && text.bytes().all(fits) { Ok(Tag(text)) } else { Err(()) }
    }
}

/// `UUID` or `UUID:tag`.
struct Named<'a>(&'a Source);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (uuid, Tag(tag)) = self.0;
        if tag.is_empty() { uuid.fmt(f) } else { write!(f, "{uuid}:{tag}") }
    }
}

fn interval(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (1 <= first && first <= last && last <= NUMBER_MAX).then_some((first, last))
}

impl std::str::FromStr for GtidSet {
    type Err = Error;
    /// Reads `UUID:1-5:9:tag:1-3,UUID:7`: white space around the parts allowed, empty means nothing.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut out = Self::default();
        let mut intervals = 0;
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let bad = || Error::set(part);
            let mut words = part.split(':').map(str::trim);
            let uuid: Uuid = words.next().and_then(|w| w.parse().ok()).ok_or_else(bad)?;
            let mut tag = Tag::default();
            let mut ends_well = false;
            for word in words {
                ends_well = word.starts_with(|c: char| c.is_ascii_digit());
                if ends_well {
                    let (first, last) = interval(word).ok_or_else(bad)?;
                    out.add((uuid, tag.clone()), first, last);
                    intervals += 1;
                } else {
                    tag = word.parse().map_err(|()| bad())?;
                }
            }
            if !ends_well || intervals > INTERVALS_MAX {
                return Err(bad());
            }
        }
        Ok(out)
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last: Option<Uuid> = None;
        for ((uuid, Tag(tag)), all) in &self.sources {
            match last {
                Some(u) if u == *uuid => {}
                Some(_) => write!(f, ",{uuid}")?,
                None => write!(f, "{uuid}")?,
            }
            last = Some(*uuid);
            if !tag.is_empty() {
                write!(f, ":{tag}")?;
            }
            for (first, last) in all {
                if first == last { write!(f, ":{first}")? } else { write!(f, ":{first}-{last}")? }
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for GtidSet {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}
impl From<GtidSet> for String {
    fn from(p: GtidSet) -> String {
        p.to_string()
    }
}
