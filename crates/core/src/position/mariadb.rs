//! MariaDB's replication position, as a vector clock (ADR 0004).
//!
//! Guarantees: reading and writing round-trip; what is no GTID is refused.
//! Does not know: which positions are worth comparing.

use super::Error;
use serde::{Deserialize, Serialize};
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
    pub(super) fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }
    pub(super) fn contains(&self, other: &Self) -> bool {
        other.iter().all(|(d, s, n)| self.sequence(d, s) >= n)
    }
    /// What both have: of each server, the lesser of its two numbers.
    pub(super) fn common(&self, other: &Self) -> Self {
        let mut out = Self::default();
        for (d, s, n) in self.iter() {
            let both = n.min(other.sequence(d, s));
            if both > 0 {
                out.add(d, s, both);
            }
        }
        out
    }
    /// Adds all of `other`.
    pub(super) fn unite(&mut self, other: &Self) {
        other.iter().for_each(|(d, s, n)| self.add(d, s, n));
    }
    /// How many transactions of `self` are not in `other`; exact where each server's numbers are contiguous since the
    /// last common one, else an upper bound.
    pub(super) fn missing_in(&self, other: &Self) -> u64 {
        // The sequence of a domain runs on over primaries, so a server's own numbers have gaps: what server 2 wrote
        // after server 1 stopped at 100 starts at 101.
        let common = |d: u32| {
            let theirs = other.domains.get(&d).into_iter().flatten();
            theirs.filter(|(s, m)| self.sequence(d, **s) >= **m).map(|(_, m)| *m).max().unwrap_or(0)
        };
        self.iter()
            .map(|(d, s, n)| {
                let known = other.sequence(d, s);
                if known >= n { 0 } else { n.saturating_sub(known.max(common(d))) }
            })
            .sum()
    }
}

impl std::str::FromStr for MariaDbPosition {
    type Err = Error;
    /// Reads `0-1-5,0-2-7`: any number of GTIDs, white space around them allowed, empty means nothing.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut out = Self::default();
        for gtid in text.split(',').map(str::trim).filter(|g| !g.is_empty()) {
            let mut parts = gtid.split('-');
            let mut next = || parts.next().ok_or_else(|| Error::gtid(gtid));
            let (d, s, n) = (next()?, next()?, next()?);
            let bad = |_| Error::gtid(gtid);
            out.add(d.parse().map_err(bad)?, s.parse().map_err(bad)?, n.parse().map_err(bad)?);
            if parts.next().is_some() {
                return Err(Error::gtid(gtid));
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
