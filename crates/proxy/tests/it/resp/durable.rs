//! A write is answered once replicas have it.

use super::{Client, Redis, for_redis, short_hold};
use crate::engine::eventually;
use crate::front::Front;
use holdfast_core::{Epoch, Gate, GroupName, RouteSnapshot};
use holdfast_proxy::Options;
use std::time::Duration;

const A_WHILE: Duration = Duration::from_millis(400);

/// A proxy whose gate is open to `redis` under epoch 1, with so many replicas to wait for.
async fn front(redis: &Redis, acks: u32, change: impl FnOnce(&mut Options)) -> Front {
    let front = Front::start_with(|options| {
        for_redis(options);
        change(options);
    })
    .await;
    route(&front, 1, redis, acks);
    front
}

fn route(front: &Front, epoch: u64, redis: &Redis, acks: u32) {
    front.tell(RouteSnapshot {
        group: GroupName::new("shop").unwrap(),
        epoch: Epoch(epoch),
        gate: Gate::Open,
        writer: Some(redis.endpoint("a")),
        readers: vec![],
        acks,
        valid_for_ms: 600_000,
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_replica_keeps_every_write_from_being_acknowledged() {
    let primary = Redis::start();
    let replica = Redis::replica_of(&primary);
    let front = front(&primary, 1, |_| ()).await;
    let mut client = Client::connect3(front.addr).await;
    let mut popper = Client::connect(front.addr).await;
    assert_eq!(client.ask("SET k 1").await, "OK");
    popper.send("BLPOP q 0").await;
    eventually("it blocks", || primary.ask("INFO clients").contains("blocked_clients:1")).await;
    replica.wait_for_all_of(&primary);
    replica.pause();
    for command in ["SET k 2", "EVAL return{redis.call('incr','n'),redis.call('get','k')} 0"] {
        client.send(command).await;
        assert_eq!(client.maybe_reply(A_WHILE).await, None, "{command}");
    }
    primary.ask("RPUSH q item");
    assert_eq!(popper.maybe_reply(A_WHILE).await, None, "popped and not confirmed");
    assert_eq!((primary.ask("GET k"), primary.ask("LLEN q")), ("2".to_string(), "0".to_string()));
    // Who only reads waits for nobody.
    assert_eq!(Client::connect(front.addr).await.ask("GET k").await, "2");
    replica.go_on();
    assert_eq!(client.replies(2).await, ["OK", "[:1, 2]"]);
    assert_eq!(popper.reply().await, "[q, item]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_question_for_a_pipeline_and_replies_in_order() {
    let primary = Redis::start();
    let replica = Redis::replica_of(&primary);
    let front = front(&primary, 1, |_| ()).await;
    let mut client = Client::connect(front.addr).await;
    let mut commands = vec!["GET k"];
    commands.extend(vec!["INCR k"; 100]);
    commands.extend(["LPUSH k x", "MULTI", "INCR k", "EXEC", "GET k"]);
    client.pipeline(&commands).await;
    let replies = client.replies(commands.len()).await;
    assert_eq!((&*replies[0], &*replies[1], &*replies[100]), ("nil", ":1", ":100"));
    assert!(replies[101].starts_with("-WRONGTYPE"));
    assert_eq!(replies[102..], ["OK", "QUEUED", "[:101]", "101"]);
    let calls = primary.calls("wait");
    assert!((1..=3).contains(&calls), "{calls} for one pipeline");
    // Nothing is asked where nothing was written.
    client.pipeline(&["GET k", "PING", "MULTI"]).await;
    client.replies(3).await;
    assert_eq!(primary.calls("wait"), calls);
    assert_eq!(client.ask("INCR k").await, "QUEUED");
    assert_eq!(primary.calls("wait"), calls, "not inside a transaction");
    assert_eq!(client.ask("EXEC").await, "[:102]");
    assert_eq!(primary.calls("wait"), calls + 1);
    assert_eq!(replica.ask("GET k"), "102");
    // A long value is one as well.
    assert_eq!(client.ask(&format!("SET k {}", "x".repeat(200_000))).await, "OK");
    assert_eq!(primary.calls("wait"), calls + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_confirmed_in_time_is_an_error() {
    let primary = Redis::start();
    let replica = Redis::replica_of(&primary);
    let front = front(&primary, 1, short_hold).await;
    let mut client = Client::connect(front.addr).await;
    replica.pause();
    client.pipeline(&["GET k", "SET k 1", "GET k", "LPUSH k x", "MULTI", "INCR k", "EXEC", "GET k"]).await;
    let replies = client.replies(8).await;
    let told = "-UNCONFIRMED shop: written on the primary, not confirmed by 1 replica(s) within 700 ms. It may be lost with the primary: its outcome is UNKNOWN; check before repeating it";
    assert_eq!(replies[..3], ["nil", told, "1"]);
    assert!(replies[3].starts_with("-WRONGTYPE"), "it changed nothing: {}", replies[3]);
    assert_eq!(replies[4..], ["OK", "QUEUED", told, "2"]);
    assert_eq!(front.handle.stats().errors_unconfirmed, 2);
    // The session goes on, and so does the next write once there is a replica.
    client.send("INCR k").await;
    replica.go_on();
    assert_eq!(client.reply().await, ":3");
}

/// Having blocked for longer than replicas get to confirm leaves them as long as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_blocked_for_long_is_waited_for_as_well() {
    let primary = Redis::start();
    let replica = Redis::replica_of(&primary);
    let front = front(&primary, 1, short_hold).await;
    let mut popper = Client::connect(front.addr).await;
    popper.send("BLPOP q 0").await;
    assert_eq!(popper.maybe_reply(Duration::from_millis(1_000)).await, None, "longer than the 700 ms");
    replica.pause();
    primary.ask("RPUSH q item");
    assert_eq!(popper.maybe_reply(Duration::from_millis(300)).await, None, "popped and not confirmed");
    replica.go_on();
    assert_eq!(popper.reply().await, "[q, item]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_degrade_lets_writes_go() {
    let primary = Redis::start();
    let front = front(&primary, 1, |_| ()).await;
    let mut client = Client::connect(front.addr).await;
    client.send("SET k 1").await;
    assert_eq!(client.maybe_reply(A_WHILE).await, None, "there is no replica at all");
    route(&front, 1, &primary, 0);
    assert_eq!(client.reply().await, "OK");
    assert_eq!(client.ask("SET k 2").await, "OK");
    // And back.
    route(&front, 1, &primary, 1);
    client.send("SET k 3").await;
    assert_eq!(client.maybe_reply(A_WHILE).await, None);
    let replica = Redis::replica_of(&primary);
    assert_eq!(client.reply().await, "OK");
    assert_eq!(replica.ask("GET k"), "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_dies_before_the_replicas_confirmed() {
    let mut primary = Redis::start();
    let replica = Redis::replica_of(&primary);
    let front = front(&primary, 1, |_| ()).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.ask("SET k 1").await, "OK");
    replica.pause();
    client.pipeline(&["GET k", "SET k 2", "GET k"]).await;
    assert_eq!(client.reply().await, "1");
    eventually("it is executed", || primary.ask("GET k") == "2").await;
    primary.kill();
    let said = client.reply().await;
    assert!(said.starts_with("-OUTCOMEUNKNOWN"), "{said}");
    replica.go_on();
    replica.ask("REPLICAOF NO ONE");
    route(&front, 2, &replica, 0);
    let read = client.reply().await;
    assert!(read == "1" || read == "2", "{read}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_cannot_be_kept_is_said_to_be_so() {
    let primary = Redis::start();
    let _replica = Redis::replica_of(&primary);
    let limits = holdfast_proxy::Limits { held_bytes: 1 << 20, ..Default::default() };
    let front = front(&primary, 1, |options| options.limits = limits).await;
    let mut client = Client::connect(front.addr).await;
    let half = "x".repeat(500_000);
    assert_eq!(client.ask(&format!("SET half {half}")).await, "OK");
    assert_eq!(client.ask("GETDEL half").await, half);
    assert_eq!(client.ask(&format!("SET large {half}{half}{half}")).await, "OK");
    client.pipeline(&["GETDEL large", "GET large"]).await;
    let said = client.replies(2).await;
    assert!(said[0].starts_with("-UNCONFIRMED shop: the reply is too large"), "{}", said[0]);
    assert_eq!(said[1], "nil");
    assert_eq!(front.handle.stats().held_bytes, 0);
}
