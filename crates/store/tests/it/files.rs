//! The file: bounded, locked, and refused when it is damaged or somebody else's.

use crate::harness::{Cluster, grant, is_done, put, renew};
use holdfast_store::embedded::{DiskError, Embedded, Error};
use holdfast_store::{LeaseOp, Store, Txn};
use std::path::PathBuf;

const FILE_BYTES_MAX: u64 = 16 << 20;

fn file(cluster: &Cluster, id: u64) -> PathBuf {
    cluster.dir(id).join("store.redb")
}

async fn open(cluster: &Cluster, id: u64) -> Result<Embedded, Error> {
    Embedded::open(cluster.options(id), cluster.transport(id)).await
}

fn disk_error(opened: Result<Embedded, Error>) -> DiskError {
    match opened.err() {
        Some(Error::Disk(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tens_of_thousands_of_renewals_keep_the_file_small() {
    let mut cluster = Cluster::new(1);
    cluster.tune = |options| {
        options.snapshot_every = 1_000;
        options.keep_entries = 200;
    };
    cluster.start_all().await;
    cluster.leader().await;
    let store = cluster.get(1);
    let holder = |n: usize| format!("n{n}");
    for n in 0..64 {
        cluster.commit(grant(&holder(n), 1, Some("n1"))).await;
    }
    // 64 renewals per transaction, many transactions at once: each entry carries some hundred.
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        clients.spawn(async move {
            let leases: Vec<LeaseOp> =
                (0..64).map(|n| renew(&format!("n{n}"), 1, "n1").leases.remove(0)).collect();
            for _ in 0..500 {
                let txn = Txn { writes: vec![], leases: leases.clone() };
                assert!(is_done(&store.commit(txn).await.unwrap()));
            }
        });
    }
    clients.join_all().await;
    assert_eq!(store.local().lease("n0").unwrap().renewals, 4_001);
    let bytes = std::fs::metadata(file(&cluster, 1)).unwrap().len();
    println!("file: {} KiB after {} entries", bytes >> 10, *store.watch().borrow());
    assert!(bytes < FILE_BYTES_MAX, "{bytes} bytes");
    cluster.stop(1).await;
    cluster.start(1).await;
    cluster.leader().await;
    assert_eq!(cluster.get(1).local().lease("n0").unwrap().renewals, 4_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused() {
    let cluster = Cluster::started(1).await;
    assert!(matches!(disk_error(open(&cluster, 1).await), DiskError::Locked { .. }));
    cluster.stop(1).await;
    cluster.start(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_deployment_or_node_is_refused() {
    let cluster = Cluster::started(1).await;
    cluster.stop(1).await;
    let mut options = cluster.options(1);
    options.cluster = "other".into();
    let foreign = Embedded::open(options, cluster.transport(1)).await;
    assert!(matches!(disk_error(foreign), DiskError::Foreign { .. }));
    let mut options = cluster.options(1);
    options.id = 2;
    options.voters.insert(2, "127.0.0.2:1".into());
    let other = Embedded::open(options, cluster.transport(2)).await;
    assert!(matches!(disk_error(other), DiskError::OtherNode { found: 1, expected: 2, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_refused_and_never_replaced() {
    let cluster = Cluster::started(1).await;
    for n in 0..200_u32 {
        cluster.commit(put(&format!("k{n}"), &[7; 300])).await;
    }
    cluster.stop(1).await;
    let path = file(&cluster, 1);
    let good = std::fs::read(&path).unwrap();
    let len = good.len();

    let mut damaged: Vec<(String, Vec<u8>)> = vec![
        ("empty".into(), vec![]),
        ("not a database".into(), b"hello".to_vec()),
        ("zeros".into(), vec![0; len]),
    ];
    for kept in [1, 100, 4_096, 20_000, len / 2, len - 4_096] {
        damaged.push((format!("cut at {kept}"), good[..kept].to_vec()));
    }
    for (what, bytes) in damaged {
        std::fs::write(&path, &bytes).unwrap();
        let error = disk_error(open(&cluster, 1).await);
        let text = error.to_string();
        assert!(matches!(error, DiskError::Damaged { .. }), "{what}: {error:?} {text}");
        assert!(text.contains("store.redb"), "{what}: {text}");
        assert_eq!(std::fs::read(&path).unwrap().len(), bytes.len(), "{what}: the file was changed");
    }

    // A byte changed anywhere either does not matter (free space) or is noticed; it never changes what is read.
    for at in (0..len).step_by(len / 60 + 1) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        std::fs::write(&path, &bytes).unwrap();
        let Ok(store) = open(&cluster, 1).await else { continue };
        let mut leadership = store.leadership();
        let settled = leadership.wait_for(|l| l.is_me || l.stopped.is_some()).await.unwrap().clone();
        if settled.is_me {
            let state = store.local();
            assert_eq!(state.range("k").count(), 200, "byte {at} of {len}");
            assert!(state.range("k").all(|(_, value)| *value.bytes == [7; 300]), "byte {at} of {len}");
        }
        store.shutdown().await.unwrap();
    }
    std::fs::write(&path, &good).unwrap();
    cluster.start(1).await;
    cluster.leader().await;
    assert_eq!(cluster.get(1).local().range("k").count(), 200);
}
