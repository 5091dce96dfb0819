//! Leases over real voters (S1, S2).

use crate::harness::{Cluster, grant, is_done, renew, until};
use holdfast_store::{Memory, Outcome, Store};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn an_old_token_cannot_renew() {
    let cluster = Cluster::started(3).await;
    assert!(is_done(&cluster.commit(grant("shop", 1, Some("n1"))).await));
    assert!(is_done(&cluster.commit(renew("shop", 1, "n1")).await));
    assert!(is_done(&cluster.commit(grant("shop", 2, Some("n2"))).await));
    let refused = Outcome::LeaseRefused { lease: "shop".into(), token: 2, holder: Some("n2".into()) };
    assert_eq!(cluster.commit(renew("shop", 1, "n1")).await, refused);
    let state = cluster.get(cluster.leader().await).local();
    assert_eq!(state.lease("shop").map(|l| (l.token, l.renewals)), Some((2, 3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_counts_from_no_earlier_than_the_last_renewal_was_sent() {
    let cluster = Cluster::started(3).await;
    cluster.commit(grant("shop", 1, Some("n1"))).await;
    let sent = Instant::now();
    assert!(is_done(&cluster.commit(renew("shop", 1, "n1")).await));
    let old = cluster.leader().await;
    for id in [1, 2, 3].into_iter().filter(|id| *id != old) {
        // A follower never finds a lease expired.
        let before = Instant::now();
        until("the grant arrives", || async { cluster.get(id).renewed_at("shop") }).await;
        assert!(cluster.get(id).renewed_at("shop").unwrap() >= before);
    }
    cluster.stop(old).await;
    let new = cluster.get(cluster.leader().await);
    let at = new.renewed_at("shop").unwrap();
    assert!(at >= sent, "a lease may not look older than it is");
    assert_eq!(new.local().lease("shop").unwrap().renewals, 2);
    assert_eq!(new.renewed_at("shop"), Some(at), "and it stays: time goes on from there");

    // Revoking entitles nobody, so it does not start the time anew.
    assert!(is_done(&new.commit(grant("shop", 2, None)).await.unwrap()));
    assert_eq!(new.renewed_at("shop"), Some(at));
    assert!(is_done(&new.commit(grant("shop", 2, Some("n2"))).await.unwrap()));
    assert!(new.renewed_at("shop").unwrap() > at);
    assert_eq!(new.renewed_at("other"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_lease_counts_from_the_start() {
    let cluster = Cluster::started(3).await;
    cluster.commit(grant("shop", 1, Some("n1"))).await;
    for id in [1, 2, 3] {
        cluster.stop(id).await;
    }
    let restarted = Instant::now();
    cluster.start_all().await;
    let leader = cluster.get(cluster.leader().await);
    assert!(leader.renewed_at("shop").unwrap() >= restarted);
}

#[tokio::test]
async fn memory_behaves_alike() {
    let store = Memory::new(7);
    let mut watch = store.watch();
    watch.borrow_and_update();
    assert!(is_done(&store.commit(grant("shop", 1, Some("n1"))).await.unwrap()));
    assert!(watch.has_changed().unwrap());
    let at = store.renewed_at("shop").unwrap();
    assert!(is_done(&store.commit(grant("shop", 2, None)).await.unwrap()));
    assert_eq!(store.renewed_at("shop"), Some(at));
    let refused = Outcome::LeaseRefused { lease: "shop".into(), token: 2, holder: None };
    assert_eq!(store.commit(renew("shop", 1, "n1")).await.unwrap(), refused);
    assert!(store.leadership().borrow().is_me);
    assert_eq!(store.get("none").await.unwrap(), None);
}
