//! What is recorded of a database beside its files, and what a verification compares. Pure.

use holdfast_engine::mysql::backup::Counted;
use ring::digest::{SHA256, digest};
use std::collections::{BTreeMap, BTreeSet};

/// Tables that a backup or a proof lists one by one; of more, only the digest is kept.
const LISTED_MAX: usize = 2_000;

/// The tables that were there both before and after, or nothing if some came or went.
pub fn tables(before: &[String], after: &[String]) -> BTreeMap<String, String> {
    let (before, after): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), after.iter().collect());
    if before != after {
        return BTreeMap::new();
    }
    BTreeMap::from([
        ("tables".to_owned(), before.len().to_string()),
        ("tables-digest".to_owned(), digest_of(before.into_iter())),
    ])
}

/// Rows and checksums, one by one and all together.
pub fn counts(counted: &[Counted]) -> BTreeMap<String, String> {
    let line = |c: &Counted| match c.checksum {
        Some(sum) => format!("{} rows, checksum {sum}", c.rows),
        None => format!("{} rows", c.rows),
    };
    let lines: BTreeMap<&String, String> = counted.iter().map(|c| (&c.table, line(c))).collect();
    let all = lines.iter().map(|(table, line)| format!("{table} {line}"));
    let mut facts = BTreeMap::from([
        ("rows".to_owned(), counted.iter().map(|c| c.rows).sum::<u64>().to_string()),
        ("rows-digest".to_owned(), digest_of(all)),
    ]);
    if lines.len() <= LISTED_MAX {
        facts.extend(lines.into_iter().map(|(table, line)| (format!("table {table}"), line)));
    }
    facts
}

/// What was recorded and is not what was found. What is only on one side says nothing.
pub fn differences(recorded: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> Vec<String> {
    let both = recorded.iter().filter_map(|(name, was)| Some((name, was, found.get(name)?)));
    let different = both.filter(|(_, was, is)| was != is);
    different.map(|(name, was, is)| format!("{name}: recorded was {was}, found is {is}")).collect()
}

fn digest_of(lines: impl Iterator<Item = impl AsRef<str>>) -> String {
    let text: String = lines.map(|line| format!("{}\n", line.as_ref())).collect();
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certain_is_recorded_and_compared() {
        let names = |n: &[&str]| n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert!(tables(&names(&["a.b"]), &names(&["a.b", "a.c"])).is_empty(), "one came meanwhile");
        let recorded = tables(&names(&["a.b", "a.c"]), &names(&["a.c", "a.b"]));
        assert_eq!(recorded["tables"], "2");
        assert!(differences(&recorded, &tables(&names(&["a.b", "a.c"]), &names(&["a.b", "a.c"]))).is_empty());
        let other = tables(&names(&["a.b", "a.d"]), &names(&["a.b", "a.d"]));
        assert_eq!(differences(&recorded, &other).len(), 1, "as many tables, another one");

        let count = |rows, checksum| counts(&[Counted { table: "a.b".into(), rows, checksum }]);
        assert!(differences(&count(3, Some(7)), &count(3, Some(7))).is_empty());
        assert_eq!(differences(&count(3, Some(7)), &count(3, Some(8))).len(), 2);
        assert!(differences(&BTreeMap::new(), &count(3, None)).is_empty());
    }
}
