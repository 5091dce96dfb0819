//! Commands that wait.

use super::{Client, Redis, front, front_with, open};
use crate::engine::eventually;
use holdfast_core::Gate;
use holdfast_proxy::Limits;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_held_until_the_gate_opens() {
    let (a, b) = (Redis::start(), Redis::start());
    let front = front(&a).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.ask("SET k a").await, "OK");
    front.close(2);
    client.pipeline(&["SET k b", "GET k", "MULTI", "INCR n", "EXEC"]).await;
    let addr = front.addr;
    let late = tokio::spawn(async move { Client::connect(addr).await.ask("GET k").await });
    eventually("both are held", || front.handle.stats().held == 2).await;
    assert!(front.handle.stats().held_bytes > 80);
    open(&front, 2, &b);
    assert_eq!(client.replies(5).await, ["OK", "b", "OK", "QUEUED", "[:1]"]);
    late.await.unwrap();
    let stats = front.handle.stats();
    assert_eq!((stats.held, stats.held_bytes, stats.held_total, stats.rehomed), (0, 0, 2, 1));
    assert_eq!((a.ask("GET k"), b.ask("GET k")), ("a".to_string(), "b".to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_has_an_end_and_a_size() {
    let redis = Redis::start();
    let limits = Limits { hold_ms: 400, held_bytes: 1_000, ..Limits::default() };
    let front = front_with(&redis, |options| options.limits = limits).await;
    let (mut a, mut b) = (Client::connect(front.addr).await, Client::connect(front.addr).await);
    front.close(2);
    a.pipeline(&["SET k 1", "GET k"]).await;
    let said = b.ask(&format!("SET k {}", "x".repeat(2_000))).await;
    assert!(said.starts_with("-TRYAGAIN shop: ") && said.contains("already holds"), "{said}");
    let told = "-TRYAGAIN shop: there is no primary at the moment; held for 400 ms. The command was NOT executed; trying again is safe";
    assert_eq!(a.replies(2).await, [told, told]);
    // A long command that was held is taken off the client's hands.
    b.send(&format!("SET k {}", "x".repeat(300_000))).await;
    assert!(b.reply().await.starts_with("-TRYAGAIN"));
    // A transaction of which a part failed is not executed.
    a.pipeline(&["MULTI", "SET k 2"]).await;
    assert_eq!(a.replies(2).await, [told, told]);
    open(&front, 2, &redis);
    a.pipeline(&["SET k 3", "EXEC", "GET k"]).await;
    let said = a.replies(3).await;
    assert!(said[0].starts_with("-EXECABORT") && said[1].starts_with("-EXECABORT"), "{said:?}");
    assert_eq!((said[2].as_str(), b.ask("GET k").await.as_str()), ("nil", "nil"));
    assert_eq!((front.handle.stats().held, front.handle.stats().held_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_route_holds_and_a_renewed_one_lets_go() {
    let redis = Redis::start();
    let front = front(&redis).await;
    let route = |valid_for_ms| front.route(1, Gate::Open, Some(redis.endpoint("a")), vec![], valid_for_ms);
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.ask("MULTI").await, "OK");
    assert_eq!(client.ask("SET k 1").await, "QUEUED");
    route(0);
    client.send("EXEC").await;
    eventually("it is held", || front.handle.stats().held == 1).await;
    assert_eq!(redis.ask("EXISTS k"), "0");
    route(600_000);
    assert_eq!(client.reply().await, "[OK]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_its_command_along() {
    let redis = Redis::start();
    let front = front(&redis).await;
    let mut client = Client::connect(front.addr).await;
    front.close(2);
    client.send("SET k 1").await;
    eventually("it is held", || front.handle.stats().held == 1).await;
    drop(client);
    eventually("the session is over", || front.handle.stats().connections == 0).await;
    open(&front, 2, &redis);
    assert_eq!(Client::connect(front.addr).await.ask("EXISTS k").await, ":0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_no_primary_is_waited_for() {
    let (primary, redis) = (Redis::start(), Redis::start());
    let front = front(&redis).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.ask("SET k 0").await, "OK");
    let port = primary.addr.port();
    redis.ask(&format!("REPLICAOF 127.0.0.1 {port}"));
    client.pipeline(&["SET k 1", "GET k", "INCR n"]).await;
    eventually("it is held", || front.handle.stats().held == 1).await;
    redis.ask("REPLICAOF NO ONE");
    assert_eq!(client.replies(3).await, ["OK", "1", ":1"]);
    // A transaction was not queued: the client is told by the engine, and nothing is repeated.
    redis.ask(&format!("REPLICAOF 127.0.0.1 {port}"));
    client.pipeline(&["MULTI", "SET k 2", "EXEC"]).await;
    let said = client.replies(3).await;
    assert!(said[1].starts_with("-READONLY") && said[2].starts_with("-EXECABORT"), "{said:?}");
}
