//! The log as the archive reads it.

use crate::rig::{insert, now, rig};
use holdfast_core::Position;
use holdfast_core::topology::{Durability, Engine};
use holdfast_engine::{Error, LogFrom, ReadLog as _};
use holdfast_wire::binlog::{Groups, HEADER_BYTES, Header};
use mysql_async::prelude::Queryable as _;

on_both!(
    a_log_is_read_from_where_it_is_known_and_goes_on,
    a_large_event_comes_in_parts,
    a_log_that_lacks_what_comes_next_says_so,
);

/// Reads until so many transactions are whole; their bytes.
async fn read(log: &mut LogFrom, transactions: usize) -> Vec<u8> {
    let (mut groups, mut whole, mut all) = (Groups::default(), 0, Vec::new());
    let mut event = Vec::new();
    while whole < transactions {
        let part = log.stream.next().await.unwrap();
        assert_eq!(part.begins, event.is_empty());
        event.extend_from_slice(&part.bytes);
        if part.ends {
            let header = Header::read(&event).unwrap();
            assert_eq!(header.bytes as usize, event.len());
            let turn = groups.next(&header, &event[HEADER_BYTES..]).unwrap();
            assert_eq!(turn.ended_before, None);
            whole += usize::from(turn.ended.is_some());
            if groups.open().is_some() || turn.ended.is_some() {
                all.extend_from_slice(&event);
            }
            event.clear();
        }
    }
    all
}

async fn a_log_is_read_from_where_it_is_known_and_goes_on(flavour: Engine) {
    let rig = rig(flavour, Durability::Async);
    let primary = rig.primary(1).await;
    let mut app = rig.app(1).await;
    let before = now(&primary).await.applied.unwrap();
    insert(&mut app, 1..=5).await;
    let middle = now(&primary).await.applied.unwrap();
    insert(&mut app, 6..=10).await;

    let mut log = primary.log_after(Some(&before)).await.unwrap();
    assert_eq!(log.from, before);
    let bytes = read(&mut log, 10).await;
    // Byte for byte as they are in the file.
    let mut root = rig.root_conn(1).await;
    root.query_drop("FLUSH BINARY LOGS").await.unwrap();
    let file = std::fs::read(rig.root(1).join("data/binlog.000001")).unwrap();
    assert!(file.windows(bytes.len()).any(|w| w == bytes), "what was sent is in the file");

    // It goes on, over a new file.
    insert(&mut app, 11..=12).await;
    read(&mut log, 2).await;
    // From the middle, from what only another has, and from now.
    let mut log = primary.log_after(Some(&middle)).await.unwrap();
    read(&mut log, 7).await;
    let other = match flavour {
        Engine::MariaDb => Position::mariadb("0-77-1000").unwrap(),
        _ => Position::mysql("7c0715d2-e7b4-11f1-b245-02fc00000001:1-9:blue:1").unwrap(),
    };
    let log = primary.log_after(Some(&middle.union(&other))).await.unwrap();
    assert_eq!(log.from, middle);
    let mut log = primary.log_after(None).await.unwrap();
    assert_eq!(Some(log.from.clone()), now(&primary).await.applied);
    insert(&mut app, [13]).await;
    read(&mut log, 1).await;
}

async fn a_large_event_comes_in_parts(flavour: Engine) {
    let rig = rig(flavour, Durability::Async);
    let primary = rig.primary(1).await;
    let mut root = rig.root_conn(1).await;
    root.query_drop("CREATE TABLE shop.big (v LONGBLOB)").await.unwrap();
    root.query_drop("SET GLOBAL max_allowed_packet=67108864").await.unwrap();
    let mut app = rig.app(1).await;
    let mut log = primary.log_after(None).await.unwrap();
    app.query_drop("INSERT INTO big VALUES (REPEAT('x', 40000000))").await.unwrap();
    let bytes = read(&mut log, 1).await;
    assert!(bytes.len() > 40_000_000);
}

async fn a_log_that_lacks_what_comes_next_says_so(flavour: Engine) {
    let rig = rig(flavour, Durability::Async);
    let primary = rig.primary(1).await;
    let mut app = rig.app(1).await;
    let before = now(&primary).await.applied.unwrap();
    insert(&mut app, 1..=2).await;
    let mut root = rig.root_conn(1).await;
    root.query_drop("FLUSH BINARY LOGS").await.unwrap();
    insert(&mut app, 3..=4).await;
    root.query_drop("PURGE BINARY LOGS TO 'binlog.000002'").await.unwrap();
    let mut log = primary.log_after(Some(&before)).await.unwrap();
    let refused = loop {
        match log.stream.next().await {
            Ok(part) => assert!(Groups::default().next(&Header::read(&part.bytes).unwrap(), b"").is_ok()),
            Err(e) => break e,
        }
    };
    assert!(matches!(refused, Error::LogLacks(_)), "{refused:?}");
}
