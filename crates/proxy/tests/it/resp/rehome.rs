//! Idle sessions on another server.

use super::{Client, Redis, front, open};
use crate::engine::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_the_same_elsewhere() {
    let (mut a, b) = (Redis::start(), Redis::start());
    b.ask("-n 5 SET k five");
    let front = front(&a).await;
    let mut client = Client::connect3(front.addr).await;
    for command in ["SELECT 5", "CLIENT SETNAME worker", "CLIENT NO-EVICT on"] {
        assert_eq!(client.ask(command).await, "OK");
    }
    a.kill();
    open(&front, 2, &b);
    assert_eq!(client.ask("GET k").await, "five");
    assert_eq!(client.ask("HGETALL none").await, "{}", "still RESP3");
    let info = client.ask("CLIENT INFO").await;
    for part in ["name=worker", "db=5", "user=app", "resp=3"] {
        assert!(info.contains(part), "{info}");
    }
    assert_eq!(front.handle.stats().rehomed, 1);
    // A reset session has none of it.
    assert_eq!(client.ask("RESET").await, "RESET");
    assert!(client.ask("GET k").await.starts_with("-NOAUTH"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_ends_an_idle_connection_is_connected_again() {
    let redis = Redis::start();
    let front = front(&redis).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.ask("SELECT 2").await, "OK");
    redis.ask("CLIENT KILL USER app");
    assert_eq!(client.ask("SET k v").await, "OK");
    assert_eq!(redis.ask("-n 2 GET k"), "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wait_does_not_promise_for_another_server() {
    let (a, b) = (Redis::start(), Redis::start());
    let front = front(&a).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.ask("SET k v").await, "OK");
    open(&front, 2, &b);
    let said = client.ask("WAIT 0 10").await;
    assert!(said.starts_with("-OUTCOMEUNKNOWN shop: the session moved"), "{said}");
    assert_eq!(client.ask("SET k v").await, "OK");
    assert_eq!(client.ask("WAIT 0 10").await, ":0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_is_told_to_forget() {
    let (a, b) = (Redis::start(), Redis::start());
    let front = front(&a).await;
    let (mut client, mut other) = (Client::connect3(front.addr).await, Client::connect(front.addr).await);
    assert_eq!(client.ask("CLIENT TRACKING ON").await, "OK");
    assert_eq!(client.ask("GET k").await, "nil");
    assert_eq!(other.ask("SET k 1").await, "OK");
    assert_eq!(client.reply().await, "push[invalidate, [k]]", "without a command");
    open(&front, 2, &b);
    assert_eq!(client.reply().await, "push[invalidate, nil]");
    assert_eq!(client.ask("GET k").await, "nil");
    b.ask("SET k 2");
    assert_eq!(client.reply().await, "push[invalidate, [k]]");
    eventually("all is counted", || front.handle.stats().rehomed >= 1).await;
}
