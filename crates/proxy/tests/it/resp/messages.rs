//! Subscriptions, and who only listens.

use super::{Client, Redis, front, open};
use crate::engine::eventually;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_is_one_on_the_next_primary() {
    let (mut a, b) = (Redis::start(), Redis::start());
    let front = front(&a).await;
    let mut client = Client::connect(front.addr).await;
    client.pipeline(&["SUBSCRIBE c d", "PSUBSCRIBE p*", "SSUBSCRIBE s", "UNSUBSCRIBE d"]).await;
    let confirmed =
        ["[subscribe, c, :1]", "[subscribe, d, :2]", "[psubscribe, p*, :3]", "[ssubscribe, s, :1]"];
    assert_eq!(client.replies(4).await, confirmed);
    assert_eq!(client.reply().await, "[unsubscribe, d, :2]");
    a.ask("PUBLISH c 1");
    assert_eq!(client.reply().await, "[message, c, 1]");
    let said = client.ask("GET k").await;
    assert!(said.starts_with("-ERR Can't execute 'get': only"), "{said}");
    assert_eq!(client.ask("PING").await, "[pong, ]");

    a.kill();
    open(&front, 2, &b);
    eventually("it is there without having said a word", || {
        b.ask("PUBLISH d x") == "0" && b.ask("PUBSUB NUMSUB c").ends_with('1')
    })
    .await;
    b.ask("PUBLISH c 2");
    b.ask("PUBLISH p1 3");
    b.ask("SPUBLISH s 4");
    let messages = ["[message, c, 2]", "[pmessage, p*, p1, 3]", "[smessage, s, 4]"];
    assert_eq!(client.replies(3).await, messages);

    client.pipeline(&["UNSUBSCRIBE", "PUNSUBSCRIBE p*", "SUNSUBSCRIBE", "GET k"]).await;
    let ended = ["[unsubscribe, c, :1]", "[punsubscribe, p*, :0]", "[sunsubscribe, s, :0]", "nil"];
    assert_eq!(client.replies(4).await, ended);
    assert_eq!(client.ask("UNSUBSCRIBE").await, "[unsubscribe, nil, :0]");
    assert_eq!(client.ask("SET k v").await, "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_third_version_messages_come_between() {
    let (a, b) = (Redis::start(), Redis::start());
    let front = front(&a).await;
    let mut client = Client::connect3(front.addr).await;
    client.pipeline(&["SUBSCRIBE c", "SET k v", "GET k"]).await;
    assert_eq!(client.replies(3).await, ["push[subscribe, c, :1]", "OK", "v"]);
    a.ask("PUBLISH c 1");
    assert_eq!(client.reply().await, "push[message, c, 1]");
    open(&front, 2, &b);
    eventually("it is there", || b.ask("PUBSUB NUMSUB c").ends_with('1')).await;
    client.pipeline(&["PUBLISH c 2", "GET k"]).await;
    let mut said = client.replies(3).await;
    said.sort();
    assert_eq!(said, [":1", "nil", "push[message, c, 2]"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_the_engine_dismissed_is_told_by_the_end() {
    let redis = Redis::start();
    let front = front(&redis).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.ask("SUBSCRIBE c").await, "[subscribe, c, :1]");
    redis.ask("CLIENT KILL USER app");
    assert!(client.is_closed().await, "messages may be lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_subscriptions_are_refused() {
    let redis = Redis::start();
    let front = front(&redis).await;
    let mut client = Client::connect(front.addr).await;
    let names: Vec<_> = (0..600).map(|n| format!("{n:0>80}")).collect();
    let command = format!("SUBSCRIBE {}", names.join(" "));
    for round in 0..14 {
        client.send(&command.replace("00000000", &format!("{round:08}"))).await;
        let first = client.reply().await;
        if first.starts_with("-ERR too many subscriptions") {
            assert!(round > 5, "{round}");
            return;
        }
        client.replies(names.len() - 1).await;
    }
    panic!("no bound");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_monitors_goes_on_elsewhere() {
    let (a, b) = (Redis::start(), Redis::start());
    let front = front(&a).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.ask("MONITOR").await, "OK");
    a.ask("SET k 1");
    assert!(client.reply().await.ends_with("\"SET\" \"k\" \"1\""));
    open(&front, 2, &b);
    let seen = || {
        b.ask("ECHO x");
        b.ask("CLIENT LIST").contains("cmd=monitor")
    };
    eventually("it monitors there", seen).await;
    b.ask("SET k 2");
    loop {
        let said = client.maybe_reply(Duration::from_secs(10)).await.unwrap();
        assert!(said.contains(" [0 "), "{said}");
        if said.ends_with("\"SET\" \"k\" \"2\"") {
            break;
        }
    }
    client.send("RESET").await;
    while client.reply().await != "RESET" {}
    assert!(client.ask("GET k").await.starts_with("-NOAUTH"));
}
