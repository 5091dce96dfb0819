//! Founding, wiped voters, mixed-up hosts, recovery from a lost majority.

use crate::harness::{Cluster, is_done, put, until};
use holdfast_store::Store;
use holdfast_store::embedded::{
    DiskError, Embedded, Error, Formation, Refused, RpcKind, Waiting, recover_lost_quorum,
};
use std::collections::BTreeMap;

/// Waits until a voter stands where `fits` says.
async fn stands(voter: &Embedded, what: &str, fits: impl Fn(&Formation) -> bool) -> Formation {
    until(what, || async {
        let now = voter.formation().borrow().clone();
        fits(&now).then_some(now)
    })
    .await
}

/// Waits for exactly this voter.
fn misses(id: u64) -> impl Fn(&Formation) -> bool {
    move |now| matches!(now, Formation::Waiting(Waiting::Voters(missing)) if missing.keys().eq([&id]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_founded_only_when_all_voters_are_there() {
    let cluster = Cluster::new(3);
    let first = cluster.start(1).await;
    let second = cluster.start(2).await;
    let waits = misses(3);
    stands(&first, "waits for 3", &waits).await;
    stands(&second, "waits for 3", &waits).await;
    assert!(first.voters().is_empty());
    cluster.start(3).await;
    for id in [1, 2, 3] {
        cluster.formed(id).await;
        assert_eq!(cluster.get(id).mismatch(), None);
    }
    assert!(is_done(&cluster.commit(put("k", b"1")).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_voter_is_kept_out_and_told_why() {
    let cluster = Cluster::started(3).await;
    cluster.commit(put("k", b"1")).await;
    let wiped = cluster.leader().await;
    cluster.stop(wiped).await;
    std::fs::remove_dir_all(cluster.dir(wiped)).unwrap();
    let voter = cluster.start(wiped).await;
    let refused = stands(&voter, "refused", |f| matches!(f, Formation::Refused(_))).await;
    let Formation::Refused(refused) = refused else { unreachable!() };
    assert!(matches!(refused, Refused::Wiped { id, .. } if id == wiped), "{refused}");
    assert!(refused.to_string().contains("give this host a new id"), "{refused}");
    // The others go on, and the wiped one has learnt nothing and voted for nobody.
    assert!(is_done(&cluster.commit(put("k", b"2")).await));
    assert_eq!(voter.local().get("k"), None);
    assert_eq!(voter.leadership().borrow().term, 0);
}

/// The case a majority rule at founding would get wrong: two wiped voters must not found a second store while the
/// one that remembers is away.
#[tokio::test(flavor = "multi_thread")]
async fn two_wiped_voters_do_not_outvote_the_third() {
    let cluster = Cluster::started(3).await;
    cluster.commit(put("k", b"1")).await;
    for id in [1, 2, 3] {
        cluster.stop(id).await;
    }
    for id in [1, 2] {
        std::fs::remove_dir_all(cluster.dir(id)).unwrap();
    }
    let wiped = cluster.start(1).await;
    cluster.start(2).await;
    stands(&wiped, "waits for 3", misses(3)).await;
    cluster.start(3).await;
    for id in [1, 2] {
        stands(&cluster.get(id), "refused", |f| matches!(f, Formation::Refused(_))).await;
    }
    // The operator finds everything on the third.
    for id in [1, 2, 3] {
        cluster.stop(id).await;
    }
    recover_lost_quorum(&cluster.dir(3), 3, "test", "127.0.0.3:1").unwrap();
    let third = cluster.start(3).await;
    cluster.leader().await;
    assert_eq!(third.local().get("k").map(|v| v.bytes.to_vec()), Some(b"1".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_with_different_files_wait_and_say_so() {
    let mut cluster = Cluster::new(3);
    let first = cluster.start(1).await;
    cluster.addresses.remove(&3);
    cluster.start(2).await;
    let waits = |f: &Formation| matches!(f, Formation::Waiting(Waiting::SameTopology { peer: 2, theirs, .. }) if *theirs == [1, 2]);
    stands(&first, "notices the other file", waits).await;
    assert!(first.voters().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_malformed_messages_are_refused() {
    let cluster = Cluster::started(1).await;
    let voter = cluster.get(1);
    for kind in [RpcKind::Append, RpcKind::Vote, RpcKind::Snapshot, RpcKind::Probe] {
        assert!(voter.handle(kind, b"").await.unwrap_err().to_string().contains("empty"));
        assert!(voter.handle(kind, &[1, 255, 255, 255, 255, 255]).await.is_err());
        let newer = voter.handle(kind, &[9, 0, 0]).await.unwrap_err();
        assert!(newer.to_string().contains("version 9"), "{newer}");
    }
    // A deployment whose topology points at a host of this one.
    let mut other = Cluster::new(2);
    other.net = cluster.net.clone();
    let mut options = other.options(2);
    options.cluster = "other".into();
    let stranger = Embedded::open(options, other.transport(2)).await.unwrap();
    let Formation::Waiting(waiting) = stands(&stranger, "waits", misses(1)).await else { unreachable!() };
    assert!(waiting.to_string().contains("the deployment other, this is test"), "{waiting}");
    stranger.shutdown().await.unwrap();
    assert!(is_done(&cluster.commit(put("k", b"1")).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_no_voter_needs_no_store() {
    let cluster = Cluster::new(3);
    let error = Embedded::open(cluster.options(9), cluster.transport(9)).await.err().unwrap();
    assert!(matches!(error, Error::NotAVoter { id: 9 }));
    assert!(!cluster.dir(9).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_voter_goes_on_alone_when_an_operator_says_so() {
    let mut cluster = Cluster::started(3).await;
    cluster.commit(put("k", b"1")).await;
    for id in [1, 2, 3] {
        cluster.sees(id, "k", b"1").await;
    }
    let in_use = recover_lost_quorum(&cluster.dir(3), 3, "test", "127.0.0.3:1").unwrap_err();
    assert!(matches!(in_use, Error::Disk(DiskError::Locked { .. })), "{in_use}");
    for id in [1, 2, 3] {
        cluster.stop(id).await;
    }
    let missing = recover_lost_quorum(&cluster.root.path().join("none"), 3, "test", "").unwrap_err();
    assert!(matches!(missing, Error::Disk(_)), "{missing}");
    let recovered = recover_lost_quorum(&cluster.dir(3), 3, "test", "127.0.0.3:1").unwrap();
    assert_eq!(recovered.former.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    cluster.addresses = BTreeMap::from([(3, "127.0.0.3:1".to_owned())]);
    let alone = cluster.start(3).await;
    cluster.leader().await;
    assert_eq!(alone.local().get("k").map(|v| v.bytes.to_vec()), Some(b"1".to_vec()));
    assert!(is_done(&alone.commit(put("k", b"2")).await.unwrap()));
    assert_eq!(alone.voters().len(), 1);
    // A former voter that comes back by itself cannot disturb it.
    cluster.addresses.insert(1, "127.0.0.1:1".into());
    cluster.start(1).await;
    assert!(is_done(&alone.commit(put("k", b"3")).await.unwrap()));
    assert!(alone.leadership().borrow().is_me);
}
