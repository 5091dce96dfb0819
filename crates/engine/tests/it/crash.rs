//! What a primary had alone when it crashed (S10).

use crate::rig::{applied, ids, insert, level, now, received, rig, seen};
use holdfast_core::Position;
use holdfast_core::topology::Durability::{Async, Sync};
use holdfast_core::topology::Engine::MariaDb;
use holdfast_engine::Engine as _;
use mysql_async::prelude::Queryable as _;

#[tokio::test]
async fn an_unacknowledged_tail_is_rolled_back_saved_and_counted() {
    let r = rig(MariaDb, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, true).await;
    seen(&one, "an acker", |o| o.ackers.count == 1).await;
    one.set_wait_for_ack(true).await.unwrap();
    insert(&mut r.app(1).await, 1..=5).await;
    level(&one, &two).await;
    two.stop_receiving().await.unwrap();
    seen(&one, "no acker", |o| o.ackers.count == 0).await;
    let acked = applied(&now(&one).await);
    for id in 6..=8 {
        let mut app = r.app(1).await;
        tokio::spawn(async move { app.query_drop(format!("INSERT INTO t VALUES ({id}, 'secret')")).await });
    }
    // The log takes two groups of commits while the first waits; the third transaction may be in the second group.
    let o = seen(&one, "waiting commits", |o| o.ack_waiters > 0 && applied(o).missing_in(&acked) > 1).await;
    let tail = applied(&o).missing_in(&acked);
    one.kill().await.unwrap();

    two.promote(false, 0).await.unwrap();
    two.open().await.unwrap();
    insert(&mut r.app(2).await, [100]).await;
    one.start().await.unwrap();
    let back = now(&one).await;
    assert_eq!((back.unjudged_transactions, &applied(&back)), (tail, &acked));
    let theirs = applied(&now(&two).await);
    assert!(theirs.contains(&applied(&back)), "{} has what {} has", theirs, applied(&back));
    let saved = one.save_divergence(&theirs).await.unwrap().expect("the tail is lost");
    assert_eq!((saved.transactions, saved.ids.len() as u64, saved.complete), (tail, tail, true));
    let text = std::fs::read_to_string(&saved.path).unwrap();
    assert_eq!(text.matches("@2='secret'").count() as u64, tail, "{text}");
    assert!(one.save_divergence(&theirs).await.unwrap().is_none());
    assert_eq!(now(&one).await.unjudged_transactions, 0);
    // No rebuilding: it just follows.
    one.follow(r.addr(2), true).await.unwrap();
    level(&two, &one).await;
    assert_eq!(ids(&mut r.app(1).await).await, [1, 2, 3, 4, 5, 100]);
}

#[tokio::test]
async fn a_tail_that_the_new_history_has_is_no_loss() {
    let r = rig(MariaDb, Sync);
    let one = r.primary(1).await;
    let two = r.replica(2, 1, false).await;
    level(&one, &two).await;
    one.set_wait_for_ack(true).await.unwrap();
    // Received by a replica that does not acknowledge.
    let mut app = r.app(1).await;
    tokio::spawn(async move { app.query_drop("INSERT INTO t VALUES (1, 'x')").await });
    seen(&one, "a waiting commit", |o| o.ack_waiters == 1).await;
    seen(&two, "it", |o| received(o).to_string() != "" && o.drained).await;
    let at = applied(&now(&one).await);
    seen(&two, "it", |o| applied(o) == at).await;
    one.kill().await.unwrap();
    two.stop_receiving().await.unwrap();
    two.promote(false, 0).await.unwrap();
    two.open().await.unwrap();
    one.start().await.unwrap();
    assert_eq!(now(&one).await.unjudged_transactions, 1);
    assert!(one.save_divergence(&at).await.unwrap().is_none());
    one.follow(r.addr(2), false).await.unwrap();
    level(&two, &one).await;
    assert_eq!(ids(&mut r.app(1).await).await, [1]);
}

/// A write that was answered without an acknowledgement, degraded or `async`, is not rolled back by its own primary.
#[tokio::test]
async fn what_was_answered_alone_survives_a_crash() {
    for durability in [Async, Sync] {
        let r = rig(MariaDb, durability);
        let one = r.primary(1).await;
        if durability == Sync {
            one.set_wait_for_ack(true).await.unwrap();
            one.set_wait_for_ack(false).await.unwrap();
        }
        insert(&mut r.app(1).await, 1..=20).await;
        let at = applied(&now(&one).await);
        one.kill().await.unwrap();
        one.start().await.unwrap();
        let back = now(&one).await;
        assert_eq!((&applied(&back), back.unjudged_transactions), (&at, 0));
        assert_eq!(ids(&mut r.app(1).await).await, (1..=20).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_divergence_is_counted_exactly_across_log_files() {
    let r = rig(MariaDb, Async);
    let one = r.primary(1).await;
    let mut app = r.app(1).await;
    insert(&mut app, 1..=10).await;
    let common = applied(&now(&one).await);
    let mut root = r.root_conn(1).await;
    for first in [11, 21, 31] {
        insert(&mut app, first..first + 10).await;
        root.query_drop("FLUSH NO_WRITE_TO_BINLOG BINARY LOGS").await.unwrap();
    }
    app.query_drop("CREATE TABLE u (i INT)").await.unwrap();
    app.query_drop("BEGIN").await.unwrap();
    app.query_drop("INSERT INTO u VALUES (1)").await.unwrap();
    app.query_drop("INSERT INTO u VALUES (2)").await.unwrap();
    app.query_drop("COMMIT").await.unwrap();
    let saved = one.save_divergence(&common).await.unwrap().unwrap();
    assert_eq!((saved.transactions, saved.complete), (32, true));
    // What was saved can be replayed elsewhere.
    let text = std::fs::read_to_string(&saved.path).unwrap();
    assert_eq!(text.matches("### INSERT INTO `shop`.`t`").count(), 30);
    assert_eq!(text.matches("### INSERT INTO `shop`.`u`").count(), 2);
    let again = one.save_divergence(&common).await.unwrap().unwrap();
    assert_eq!(again.path, saved.path, "the same is saved once");

    let oldest: (String, u64) = root.query_first("SHOW BINARY LOGS").await.unwrap().unwrap();
    root.query_drop("PURGE BINARY LOGS TO 'binlog.000002'").await.unwrap();
    assert_eq!(oldest.0, "binlog.000001");
    let partial = one.save_divergence(&Position::mariadb("").unwrap()).await.unwrap().unwrap();
    assert!(!partial.complete && partial.transactions < 42, "{partial:?}");
}
