//! What is known of the past of histories. The server remembers one earlier history and forgets it at its next promotion,
//! at a full resynchronisation and at a restart; others would then take common data for a divergence.
//!
//! Guarantees: what is remembered is true of the histories themselves, whatever becomes of this instance's data; durable
//! before [`Lineage::learn`] returns; bounded.
//! Does not know: which of it is of use.

use crate::Error;
use crate::files::{io, write_whole};
use holdfast_core::position::{HistoryId, RedisPosition};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Positions that are kept. Each brings a whole past; the last few matter.
const KEPT: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Lineage {
    path: PathBuf,
    /// The oldest first.
    positions: Vec<RedisPosition>,
}

impl Lineage {
    /// Reads what was kept. A line that cannot be read is left out: less is known then, nothing false.
    pub(super) fn open(path: PathBuf) -> Result<Lineage, Error> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(io("reading", &path)(e)),
        };
        let positions = text.lines().filter_map(|line| line.parse().ok()).collect();
        Ok(Lineage { path, positions })
    }

    /// How far `history` agrees with others.
    pub(super) fn of(&self, history: HistoryId) -> BTreeMap<HistoryId, u64> {
        let mut agrees = BTreeMap::new();
        for position in &self.positions {
            for (other, end) in shared(position, history) {
                let known: &mut u64 = agrees.entry(other).or_default();
                *known = (*known).max(end);
            }
        }
        agrees
    }

    /// Remembers what a position says of its past.
    pub(super) fn learn(&mut self, position: &RedisPosition) -> Result<(), Error> {
        let told = position.histories().flat_map(|(history, _)| {
            shared(position, history).map(move |(other, end)| (history, other, end))
        });
        let news = told
            .into_iter()
            .any(|(history, other, end)| self.of(history).get(&other).is_none_or(|known| *known < end));
        if !news {
            return Ok(());
        }
        self.positions.push(position.clone());
        let surplus = self.positions.len().saturating_sub(KEPT);
        self.positions.drain(..surplus);
        let lines: Vec<String> = self.positions.iter().map(|p| format!("{p}\n")).collect();
        write_whole(&self.path, &lines.concat())
    }
}

/// Two histories of one position are the same up to where the shorter of both is contained.
fn shared(position: &RedisPosition, history: HistoryId) -> impl Iterator<Item = (HistoryId, u64)> + '_ {
    let own = position.known(history);
    let others = position.histories().filter(move |(other, _)| *other != history);
    others.filter_map(move |(other, end)| Some((other, end.min(own?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> HistoryId {
        format!("{n:02x}").repeat(20).parse().unwrap()
    }
    fn at(text: &[(u8, u64)]) -> RedisPosition {
        let (first, past) = text.split_first().unwrap();
        RedisPosition::at(id(first.0), first.1, past.iter().map(|(n, end)| (id(*n), *end)))
    }

    #[test]
    fn a_past_is_remembered_over_restarts_and_only_as_far_as_it_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("histories");
        let mut lineage = Lineage::open(path.clone()).unwrap();
        lineage.learn(&at(&[(2, 150), (1, 100)])).unwrap();
        lineage.learn(&at(&[(3, 150), (2, 150)])).unwrap();
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        lineage.learn(&at(&[(2, 170), (1, 100)])).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written, "nothing new");
        let lineage = Lineage::open(path).unwrap();
        assert_eq!(lineage.of(id(2)), [(id(1), 100), (id(3), 150)].into());
        assert_eq!(lineage.of(id(1)), [(id(2), 100)].into());
        assert_eq!(lineage.of(id(9)), [].into());
    }

    #[test]
    fn it_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut lineage = Lineage::open(dir.path().join("histories")).unwrap();
        for n in 1..100 {
            lineage.learn(&at(&[(n + 1, u64::from(n) * 10), (n, u64::from(n) * 10)])).unwrap();
        }
        assert_eq!(lineage.positions.len(), KEPT);
        assert!(lineage.of(id(99)).contains_key(&id(98)) && lineage.of(id(2)).is_empty());
    }
}
