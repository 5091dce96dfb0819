//! Three voters: agreement, takeover, restart, partition, watches, membership, speed.

use crate::harness::{Cluster, is_done, put, until, write};
use holdfast_store::embedded::{ChangeError, HandOverError};
use holdfast_store::{Error, Expect, Outcome, Store, Txn};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn commits_reach_every_voter_and_followers_name_the_leader() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    assert_eq!(cluster.commit(write("k", Expect::Absent, Some(b"1"))).await, Outcome::Done { revision: 1 });
    let conflict = Outcome::Conflict { key: "k".into(), actual: Some(1) };
    assert_eq!(cluster.commit(write("k", Expect::Absent, Some(b"2"))).await, conflict);
    let read = cluster.get(leader).get("k").await.unwrap().unwrap();
    assert_eq!((&*read.bytes, read.revision), (&b"1"[..], 1));
    assert_eq!(cluster.get(leader).get("none").await.unwrap(), None);
    for id in [1, 2, 3] {
        cluster.sees(id, "k", b"1").await;
        if id != leader {
            let refused = Err(Error::NotLeader { leader: Some(leader) });
            assert_eq!(cluster.get(id).commit(put("k", b"x")).await, refused);
            assert!(matches!(cluster.get(id).get("k").await, Err(Error::NotLeader { .. })));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_catches_up_later() {
    let cluster = Cluster::started(3).await;
    cluster.commit(put("before", b"1")).await;
    let old = cluster.leader().await;
    let start = Instant::now();
    cluster.stop(old).await;
    let new = cluster.leader().await;
    let takeover = start.elapsed();
    assert_ne!(new, old);
    assert!(takeover < Duration::from_secs(3), "{takeover:?}");
    println!("takeover: {takeover:?}");
    // Established: what the old leader committed is here.
    assert!(cluster.get(new).local().get("before").is_some());
    cluster.commit(put("after", b"2")).await;
    cluster.start(old).await;
    cluster.sees(old, "after", b"2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_all_voters_restart() {
    let cluster = Cluster::started(3).await;
    for n in 0..50_u32 {
        assert!(is_done(&cluster.commit(put(&format!("k{n}"), &n.to_le_bytes())).await));
    }
    let term = cluster.get(cluster.leader().await).leadership().borrow().term;
    let stores: Vec<_> = [1, 2, 3].map(|id| cluster.get(id).store_id()).into();
    for id in [1, 2, 3] {
        cluster.stop(id).await;
    }
    cluster.start_all().await;
    let leader = cluster.get(cluster.leader().await);
    assert!(leader.leadership().borrow().term >= term, "a vote was forgotten");
    assert_eq!([1, 2, 3].map(|id| cluster.get(id).store_id()).to_vec(), stores);
    for n in 0..50_u32 {
        assert_eq!(*leader.get(&format!("k{n}")).await.unwrap().unwrap().bytes, n.to_le_bytes());
    }
    assert_eq!(leader.local().revision(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_resumes_in_its_term_leads_only_with_everything_it_committed() {
    let cluster = Cluster::started(1).await;
    for round in 1..=10_u32 {
        let n = u64::from(round).to_le_bytes();
        assert!(is_done(&cluster.commit(put("k", &n)).await));
        cluster.stop(1).await;
        let voter = cluster.start(1).await;
        let mut leadership = voter.leadership();
        timeout(Duration::from_secs(5), leadership.wait_for(|l| l.is_me)).await.unwrap().unwrap();
        assert_eq!(voter.local().get("k").map(|v| v.bytes.to_vec()), Some(n.to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_leader_refuses_and_its_write_is_lost_or_kept_by_all() {
    let cluster = Cluster::started(3).await;
    cluster.commit(put("k", b"before")).await;
    let old = cluster.leader().await;
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
    cluster.isolate(old);
    // Proposed before it noticed: the outcome is unknown, and said to be.
    let error = cluster.get(old).commit(put("unknown", b"?")).await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    let new = cluster.leader_of(&others).await;
    assert!(is_done(&cluster.get(new).commit(put("k", b"after")).await.unwrap()));
    // Cut off long enough to know: it says so, and does not answer reads from its old state.
    let cut_off = cluster.get(old);
    until("the old leader notices", || async { (!cut_off.leadership().borrow().is_me).then_some(()) }).await;
    assert_eq!(cut_off.commit(put("no", b"")).await, Err(Error::NoQuorum));
    assert_eq!(cut_off.get("k").await, Err(Error::NoQuorum));

    cluster.heal();
    cluster.sees(old, "k", b"after").await;
    let known = cluster.get(cluster.leader().await).get("unknown").await.unwrap();
    for id in [1, 2, 3] {
        assert_eq!(cluster.get(id).local().get("unknown").cloned(), known);
        assert_eq!(cluster.get(id).local().get("no"), None);
    }
}

/// Four clients write while every voter in turn, and often the leader, is cut off: what was acknowledged is there,
/// what was said not to be written is not, and all voters agree.
#[tokio::test(flavor = "multi_thread")]
async fn answers_hold_under_partitions() {
    let cluster = Arc::new(Cluster::started(3).await);
    let end = Instant::now() + Duration::from_secs(7);
    let mut clients = JoinSet::new();
    for client in 0..4_u64 {
        let cluster = cluster.clone();
        clients.spawn(async move {
            let (mut written, mut refused, mut unknown) = (vec![], vec![], 0);
            for n in 0_u64.. {
                if Instant::now() > end {
                    break;
                }
                let key = format!("c{client}-{n}");
                match cluster.get(1 + (client + n) % 3).commit(put(&key, b"x")).await {
                    Ok(outcome) => written.extend(is_done(&outcome).then_some(key)),
                    Err(error) if error.is_unknown() => unknown += 1,
                    Err(Error::NotLeader { .. }) => {
                        refused.push(key);
                        sleep(Duration::from_millis(2)).await;
                    }
                    Err(_) => refused.push(key),
                }
            }
            (written, refused, unknown)
        });
    }
    for round in 0_u64.. {
        if Instant::now() > end {
            break;
        }
        cluster.isolate(if round % 2 == 0 { cluster.leader().await } else { 1 + round % 3 });
        sleep(Duration::from_millis(900)).await;
        cluster.heal();
        sleep(Duration::from_millis(300)).await;
    }
    let (mut written, mut refused, mut unknown) = (vec![], vec![], 0);
    for (w, r, u) in clients.join_all().await {
        written.extend(w);
        refused.extend(r);
        unknown += u;
    }
    cluster.commit(put("last", b"x")).await;
    for id in [1, 2, 3] {
        cluster.sees(id, "last", b"x").await;
    }
    println!("written {}, refused {}, unknown {unknown}", written.len(), refused.len());
    assert!(written.len() > 100 && !refused.is_empty());
    let state = cluster.get(1).local();
    assert!(written.iter().all(|key| state.get(key).is_some()), "an acknowledged write is lost");
    assert!(refused.iter().all(|key| state.get(key).is_none()), "a refused write happened");
    assert_eq!(cluster.get(2).local(), state);
    assert_eq!(cluster.get(3).local(), state);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_committed() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    for id in [1, 2, 3].into_iter().filter(|id| *id != leader) {
        cluster.stop(id).await;
    }
    let alone = cluster.get(leader);
    let error = alone.commit(put("k", b"")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. } | Error::NoQuorum), "{error}");
    assert_eq!(alone.local().get("k"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_wake_on_every_voter() {
    let cluster = Cluster::started(3).await;
    let mut watches = [1, 2, 3].map(|id| cluster.get(id).watch());
    for watch in &mut watches {
        watch.borrow_and_update();
    }
    cluster.commit(put("k", b"1")).await;
    for (id, mut watch) in (1..).zip(watches) {
        let woken = watch.wait_for(|_| cluster.get(id).local().get("k").is_some());
        timeout(Duration::from_secs(5), woken).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_increments_lose_nothing() {
    const CLIENTS: u64 = 16;
    const EACH: u64 = 25;
    let cluster = Cluster::started(3).await;
    let leader = cluster.get(cluster.leader().await);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let store = leader.clone();
        clients.spawn(async move {
            let mut done = 0;
            while done < EACH {
                let now = store.get("n").await.unwrap();
                let (count, expect) = now.map_or((0, Expect::Absent), |v| {
                    (u64::from_le_bytes((*v.bytes).try_into().unwrap()), Expect::Revision(v.revision))
                });
                let next = write("n", expect, Some(&(count + 1).to_le_bytes()));
                done += u64::from(is_done(&store.commit(next).await.unwrap()));
            }
        });
    }
    clients.join_all().await;
    let total = leader.get("n").await.unwrap().unwrap();
    assert_eq!(u64::from_le_bytes((*total.bytes).try_into().unwrap()), CLIENTS * EACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_are_replicated_and_a_follower_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::new(3);
    cluster.tune = |options| {
        options.snapshot_every = 20;
        options.keep_entries = 0;
    };
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let away = if leader == 1 { 2 } else { 1 };
    cluster.formed(away).await;
    cluster.stop(away).await;
    let megabyte = vec![7; 1 << 20];
    for n in 0..4 {
        assert!(is_done(&cluster.commit(put(&format!("big{n}"), &megabyte)).await));
    }
    for n in 0..60_u32 {
        cluster.commit(put("small", &n.to_le_bytes())).await;
    }
    cluster.start(away).await;
    cluster.sees(away, "big3", &megabyte).await;
    cluster.sees(away, "small", &59_u32.to_le_bytes()).await;
    // What it installed is on its disk, too.
    cluster.stop(away).await;
    cluster.start(away).await;
    assert_eq!(cluster.get(away).local().get("big0").map(|v| v.bytes.len()), Some(1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn voters_are_changed_one_by_one() {
    let mut cluster = Cluster::started(3).await;
    cluster.commit(put("k", b"1")).await;
    let leader = cluster.leader().await;
    let leaving = if leader == 3 { 2 } else { 3 };
    cluster.addresses.remove(&leaving);
    cluster.addresses.insert(4, "127.0.0.4:1".into());
    let wanted = cluster.addresses.clone();
    let early = cluster.get(leader).change_voters(&wanted).await;
    assert!(matches!(early, Err(ChangeError::NoAnswer { id: 4, .. })), "{early:?}");
    cluster.start(4).await;
    cluster.get(leader).change_voters(&wanted).await.unwrap();
    cluster.sees(4, "k", b"1").await;
    cluster.formed(4).await;
    let ids: Vec<u64> = cluster.get(leader).voters().into_keys().collect();
    assert_eq!(ids, wanted.keys().copied().collect::<Vec<_>>());
    // The leader still has the old file, the new voter the new one.
    assert!(cluster.get(leader).mismatch().is_some());
    until("the new voter agrees", || async { cluster.get(4).mismatch().is_none().then_some(()) }).await;
    // The new one counts: with the leader gone, it makes the majority.
    cluster.stop(leaving).await;
    cluster.stop(leader).await;
    let other = cluster.running().into_iter().find(|id| *id != 4).unwrap();
    cluster.leader_of(&[4, other]).await;
    assert!(is_done(&cluster.commit(put("k", b"2")).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_shutdown_answer_at_once() {
    let cluster = Cluster::started(1).await;
    let store = cluster.get(1);
    assert!(matches!(store.commit(put("", b"")).await, Err(Error::Refused(_))));
    assert_eq!(store.commit(Txn::default()).await, Ok(Outcome::Done { revision: 0 }));
    cluster.stop(1).await;
    assert!(matches!(store.commit(put("k", b"")).await, Err(Error::Stopped { .. })));
    assert!(matches!(store.get("k").await, Err(Error::Stopped { .. })));
    assert!(store.leadership().borrow().stopped.is_some());
}

/// A failover waits for two or three commits in a row. Measured here on a debug build; the bound is generous,
/// because other tests share the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_takes_a_few_milliseconds() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.get(cluster.leader().await);
    let mut times = Vec::new();
    for n in 0..100_u32 {
        let start = Instant::now();
        assert!(is_done(&leader.commit(put("k", &n.to_le_bytes())).await.unwrap()));
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("commit: median {:?}, p99 {:?}", times[50], times[98]);
    assert!(times[50] < Duration::from_millis(50), "{:?}", times[50]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leadership_is_handed_to_a_named_voter() {
    let cluster = Cluster::started(3).await;
    cluster.commit(put("before", b"1")).await;
    for _ in 0..4 {
        let old = cluster.leader().await;
        let to = old % 3 + 1;
        // A busy follower may stand before the one that was asked: then it is asked again.
        until("the named voter leads", || async {
            let leader = cluster.leader().await;
            if leader != to {
                let _ = cluster.get(leader).hand_over(to).await;
            }
            (cluster.leader().await == to).then_some(())
        })
        .await;
        assert!(cluster.get(to).local().get("before").is_some());
        assert!(is_done(&cluster.commit(put("after", b"2")).await));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_lead_is_handed_nothing() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let (gone, left) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let voter = cluster.get(leader);
    assert_eq!(voter.hand_over(leader).await, Err(HandOverError::NotAVoter(leader)));
    assert_eq!(voter.hand_over(9).await, Err(HandOverError::NotAVoter(9)));
    assert_eq!(cluster.get(left).hand_over(gone).await, Err(HandOverError::NotLeader));
    cluster.stop(gone).await;
    assert!(matches!(voter.hand_over(gone).await, Err(HandOverError::NotAsked(_))));
    // It fell silent for nothing: somebody leads all the same.
    assert!(is_done(&cluster.commit(put("k", b"1")).await));
}
