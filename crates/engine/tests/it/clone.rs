//! Copying a whole instance, and rejoining by it (S10).

use crate::rig::{Rig, applied, ids, insert, level, now, rig, seen};
use holdfast_core::topology::Durability::Async;
use holdfast_core::topology::Engine;
use holdfast_engine::mysql::MySqlEngine;
use holdfast_engine::{ClonePhase, CloneProgress, CopyByStream as _, Engine as _, Error};
use mysql_async::prelude::Queryable as _;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::watch;

on_both! {
    a_diverged_instance_is_saved_cloned_and_replicates_on,
    a_cut_stream_leaves_everything_as_it_was,
    a_writable_instance_is_never_replaced,
    copies_at_once_take_turns_and_receivers_that_leave_disturb_nobody,
}

async fn clone(from: &MySqlEngine, to: &MySqlEngine) -> Option<holdfast_engine::Saved> {
    let (progress, seen) = watch::channel(CloneProgress::default());
    let source = from.clone_source().await.unwrap();
    let saved = to.clone_into(source.reader, progress).await.unwrap();
    let end = *seen.borrow();
    assert!(
        end.phase == ClonePhase::Starting && end.received_bytes > 100_000 && end.data_bytes > 1 << 20,
        "{end:?}"
    );
    saved
}

async fn data(r: &Rig, id: u32) -> Vec<u32> {
    ids(&mut r.app(id).await).await
}

async fn a_diverged_instance_is_saved_cloned_and_replicates_on(flavour: Engine) {
    let r = rig(flavour, Async);
    let (one, two) = (r.primary(1).await, r.replica(2, 1, false).await);
    insert(&mut r.app(1).await, 1..=5).await;
    level(&one, &two).await;
    two.stop_receiving().await.unwrap();
    insert(&mut r.app(1).await, 6..=8).await;
    two.promote(false, 0).await.unwrap();
    two.open().await.unwrap();
    insert(&mut r.app(2).await, 100..=110).await;
    one.close(std::time::Duration::from_secs(1)).await.unwrap();
    let (ours, theirs) = (applied(&now(&one).await), applied(&now(&two).await));
    assert_eq!(ours.partial_cmp(&theirs), None, "both have what the other lacks");

    // Somebody writes while the copy is made.
    let mut app = r.app(2).await;
    let writer = tokio::spawn(async move {
        for id in 1_000..1_200 {
            app.query_drop(format!("INSERT INTO t VALUES ({id}, 'x')")).await.unwrap();
        }
    });
    let saved = clone(&two, &one).await.expect("three transactions were only here");
    assert_eq!((saved.transactions, saved.complete), (3, true));
    let o = now(&one).await;
    assert!(!o.writable && o.upstream.is_none() && o.drained && o.server_id == 1, "{o:?}");
    writer.await.unwrap();
    assert!(applied(&now(&two).await).contains(&applied(&o)));
    one.follow(r.addr(2), false).await.unwrap();
    level(&two, &one).await;
    assert_eq!(data(&r, 1).await, data(&r, 2).await);
    // Its position compares exactly, down to the servers that wrote long ago.
    let (a, b) = (now(&one).await, now(&two).await);
    assert_eq!(a.applied, b.applied);
    let first = if flavour == Engine::MySql { ours.to_string() } else { "0-1-".to_owned() };
    let first = first.split(':').next().unwrap();
    assert!(applied(&a).to_string().contains(first), "{}", applied(&a));
    assert!(!r.root(1).join("data.old").exists());

    // And it is a full member: it can lead, and be cloned from in turn.
    two.close(std::time::Duration::from_secs(1)).await.unwrap();
    level(&two, &one).await;
    one.stop_receiving().await.unwrap();
    one.promote(false, 0).await.unwrap();
    one.open().await.unwrap();
    insert(&mut r.app(1).await, [5_000]).await;
    two.follow(r.addr(1), false).await.unwrap();
    level(&one, &two).await;
    let three = r.up(3).await;
    assert!(clone(&two, &three).await.is_none());
    three.follow(r.addr(1), false).await.unwrap();
    level(&one, &three).await;
    assert_eq!(data(&r, 3).await, data(&r, 1).await);
}

async fn a_cut_stream_leaves_everything_as_it_was(flavour: Engine) {
    let r = rig(flavour, Async);
    let (one, two) = (r.primary(1).await, r.replica(2, 1, false).await);
    insert(&mut r.app(1).await, 1..=5).await;
    level(&one, &two).await;
    let mut source = one.clone_source().await.unwrap();
    let mut whole = Vec::new();
    source.reader.read_to_end(&mut whole).await.unwrap();
    let into = |bytes: &[u8]| {
        let stream: Pin<Box<dyn AsyncRead + Send>> = Box::pin(std::io::Cursor::new(bytes.to_vec()));
        two.clone_into(stream, watch::Sender::new(CloneProgress::default()))
    };
    for cut in [0, 3, 40, whole.len() / 2, whole.len() - 1] {
        let refused = into(&whole[..cut]).await.unwrap_err();
        assert!(matches!(refused, Error::Stream(_)), "{refused}");
    }
    let refused = into(b"\0\0\0\x09garbage=1").await.unwrap_err();
    assert!(matches!(refused, Error::Stream(_)), "{refused}");
    // A damaged byte inside is the unpacking program's to find.
    let mut bent = whole.clone();
    let middle = bent.len() / 2;
    bent[middle] ^= 0xff;
    assert!(into(&bent).await.is_err());
    level(&one, &two).await;
    assert_eq!(data(&r, 2).await, [1, 2, 3, 4, 5]);
    into(&whole).await.unwrap();
    two.follow(r.addr(1), false).await.unwrap();
    level(&one, &two).await;
}

async fn a_writable_instance_is_never_replaced(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    let source = one.clone_source().await.unwrap();
    let refused =
        one.clone_into(source.reader, watch::Sender::new(CloneProgress::default())).await.unwrap_err();
    assert!(matches!(refused, Error::Precondition(_)), "{refused}");
    assert!(seen(&one, "still writable", |o| o.writable).await.upstream.is_none());
}

async fn copies_at_once_take_turns_and_receivers_that_leave_disturb_nobody(flavour: Engine) {
    let r = rig(flavour, Async);
    let one = r.primary(1).await;
    insert(&mut r.app(1).await, 1..=5).await;
    let run = r.root(1).join("run");
    let process = || std::fs::read_to_string(run.join("db.pid")).unwrap();
    let before = process();
    for n in 0..12 {
        // It leaves while the server copies, or while what was copied is read.
        let mut left = one.clone_source().await.unwrap();
        let bytes = left.reader.read(&mut [0; 64]).await.unwrap();
        assert!(bytes > 0);
        tokio::time::sleep(std::time::Duration::from_millis(20 * n)).await;
    }
    let (two, three) = (r.up(2).await, r.up(3).await);
    let (to_two, to_three) = tokio::join!(clone(&one, &two), clone(&one, &three));
    assert!(to_two.is_none() && to_three.is_none());
    assert_eq!(data(&r, 2).await, [1, 2, 3, 4, 5]);
    assert_eq!(data(&r, 3).await, [1, 2, 3, 4, 5]);
    assert_eq!(process(), before, "the donor went on");
    assert!(!run.join("clone-source").exists(), "nothing is left of them");
}
