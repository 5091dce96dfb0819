//! Transaction ids of the log and positions. Pure.

use holdfast_core::Position;
use holdfast_core::position::{Tag, Uuid};
use holdfast_wire::binlog::Gtid;

/// Adds a transaction. One of another engine changes nothing.
pub fn add(to: &mut Position, gtid: &Gtid) {
    match (to, gtid) {
        (Position::MariaDb(p), Gtid::MariaDb { domain, server, sequence }) => {
            p.add(*domain, *server, *sequence)
        }
        (Position::MySql(set), Gtid::MySql { uuid, tag, number }) => {
            let tag = if tag.is_empty() { Ok(Tag::default()) } else { tag.parse() };
            tag.into_iter().for_each(|tag| set.add_one((Uuid::from_bytes(*uuid), tag), *number));
        }
        (Position::MariaDb(_) | Position::MySql(_) | Position::Redis(_), _) => {}
    }
}

/// A transaction alone, as a position of its engine.
pub fn alone(like: &Position, gtid: &Gtid) -> Position {
    let mut one = like.nothing();
    add(&mut one, gtid);
    one
}
