//! Fencing: what happens to what is under way when the gate closes or the server dies.

use super::{Client, Redis, front, open};
use crate::engine::eventually;
use holdfast_core::{Epoch, Gate};

const UNKNOWN: &str = "-OUTCOMEUNKNOWN shop: the connection to the primary was lost while the command ran. It may or may not have taken effect; check before repeating it";

/// The engine has received what the client sent, and does not answer.
async fn sent(engine: &Redis, client: &mut Client, front: &crate::front::Front, commands: &[&str]) {
    engine.pause();
    let before = front.handle.stats().commands;
    client.pipeline(commands).await;
    let all = before + commands.len() as u64;
    eventually("they are under way", || front.handle.stats().commands == all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_in_flight_are_unknown_and_reads_go_again() {
    let (mut a, b) = (Redis::start(), Redis::start());
    b.ask("SET k b");
    let front = front(&a).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.ask("SET k a").await, "OK");
    sent(&a, &mut client, &front, &["GET k", "SET k 2", "GET k", "PUBLISH c m", "PING"]).await;
    a.kill();
    assert_eq!(client.maybe_reply(std::time::Duration::from_millis(50)).await, None, "held");
    open(&front, 2, &b);
    assert_eq!(client.replies(5).await, ["b", UNKNOWN, "b", UNKNOWN, "PONG"]);
    assert_eq!(front.handle.stats().errors_outcome_unknown, 2);
    assert_eq!(b.ask("GET k"), "b", "nothing was repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_epoch_cuts_what_is_in_flight() {
    let (a, b) = (Redis::start(), Redis::start());
    let front = front(&a).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.ask("PING").await, "PONG");
    sent(&a, &mut client, &front, &["INCR n", "GET n"]).await;
    front.close(2);
    assert_eq!(client.reply().await, UNKNOWN);
    open(&front, 2, &b);
    assert_eq!(client.reply().await, "nil");
    a.go_on();
    eventually("its end is closed", || !a.ask("CLIENT LIST").contains("user=app")).await;
    // Blocked is in flight, too.
    client.send("BLPOP q 0").await;
    eventually("it blocks", || b.ask("INFO clients").contains("blocked_clients:1")).await;
    front.close(3);
    assert_eq!(client.reply().await, UNKNOWN);
    // A read that blocks goes again.
    open(&front, 3, &b);
    client.send("XREAD BLOCK 0 STREAMS s $").await;
    eventually("it blocks", || b.ask("INFO clients").contains("blocked_clients:1")).await;
    open(&front, 4, &a);
    eventually("it blocks there", || a.ask("INFO clients").contains("blocked_clients:1")).await;
    a.ask("XADD s 1-1 f v");
    assert_eq!(client.reply().await, "[[s, [[1-1, [f, v]]]]]");
    // A reply that has begun can only be broken off.
    a.ask("SETRANGE large 50000000 x");
    client.send("GET large").await;
    let mut some = [0; 1_000];
    tokio::io::AsyncReadExt::read_exact(&mut client.stream, &mut some).await.unwrap();
    front.close(5);
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_across_a_cut() {
    let (a, b) = (Redis::start(), Redis::start());
    let front = front(&a).await;
    let mut client = Client::connect(front.addr).await;
    client.pipeline(&["MULTI", "SET k 1"]).await;
    assert_eq!(client.replies(2).await, ["OK", "QUEUED"]);
    open(&front, 2, &b);
    client.pipeline(&["SET k 2", "EXEC", "GET k", "MULTI", "SET k 3", "EXEC"]).await;
    let said = client.replies(6).await;
    let lost = "-EXECABORT shop: the transaction was discarded by a change of primary or an earlier error. NOTHING of it was executed; run the whole transaction again";
    assert_eq!(said, [lost, lost, "nil", "OK", "QUEUED", "[OK]"]);
    assert_eq!(front.handle.stats().errors_transaction_lost, 1);

    client.pipeline(&["MULTI", "SET k 4"]).await;
    assert_eq!(client.replies(2).await, ["OK", "QUEUED"]);
    open(&front, 3, &a);
    client.pipeline(&["DISCARD", "PING"]).await;
    assert_eq!(client.replies(2).await, ["OK", "PONG"], "it wanted no more than had happened");

    // Watched keys count as changed.
    assert_eq!(client.ask("WATCH k").await, "OK");
    open(&front, 4, &b);
    assert_eq!(client.ask("GET k").await, "3");
    client.pipeline(&["MULTI", "SET k 5", "EXEC", "GET k", "MULTI", "SET k 6", "EXEC"]).await;
    assert_eq!(client.replies(7).await, ["OK", "QUEUED", "nil", "3", "OK", "QUEUED", "[OK]"]);
    client.pipeline(&["WATCH k", "UNWATCH", "MULTI", "EXEC"]).await;
    assert_eq!(client.replies(4).await[3], "[]");

    // An EXEC in flight is of unknown outcome.
    sent(&b, &mut client, &front, &["MULTI", "SET k 7", "EXEC", "GET k"]).await;
    open(&front, 5, &a);
    assert_eq!(client.replies(4).await, [UNKNOWN, UNKNOWN, UNKNOWN, "nil"]);
    b.go_on();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_the_gate_is_done_when_it_returns() {
    let redis = Redis::start();
    let front = front(&redis).await;
    let mut writers = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(front.addr).await;
        writers.push(tokio::spawn(async move {
            let mut sent = 0u64;
            while client.ask("INCR n").await.starts_with(':') {
                sent += 1;
            }
            sent
        }));
    }
    eventually("they write", || redis.ask("GET n").parse::<u64>().is_ok_and(|n| n > 50)).await;
    front.handle.close_gate(Epoch(1));
    // What the engine had already received is executed before it answers this.
    let count: u64 = redis.ask("GET n").parse().unwrap();
    front.route(1, Gate::Open, Some(redis.endpoint("b")), vec![], 600_000);
    assert_eq!(redis.ask("GET n"), count.to_string(), "the same epoch does not open what was closed");
    // Each gets an error in time: what it had in flight, or what it sent then was held.
    let mut acknowledged = 0;
    for writer in writers {
        acknowledged += writer.await.unwrap();
    }
    assert!(acknowledged <= count, "{acknowledged} acknowledged of {count}");
    open(&front, 2, &redis);
    assert_eq!(Client::connect(front.addr).await.ask("PING").await, "PONG");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_drains_open_transactions_and_holds_the_rest() {
    let (a, b) = (Redis::start(), Redis::start());
    let front = front(&a).await;
    let (mut inside, mut outside) = (Client::connect(front.addr).await, Client::connect(front.addr).await);
    assert_eq!(outside.ask("PING").await, "PONG");
    assert_eq!(inside.ask("MULTI").await, "OK");
    front.route(2, Gate::Draining, Some(a.endpoint("a")), vec![], 600_000);
    outside.send("SET out 1").await;
    eventually("the other is held", || front.handle.stats().held == 1).await;
    inside.pipeline(&["SET in 1", "EXEC"]).await;
    assert_eq!(inside.replies(2).await, ["QUEUED", "[OK]"]);
    inside.send("SET in 2").await;
    eventually("now both are held", || front.handle.stats().held == 2).await;
    front.close(2);
    open(&front, 2, &b);
    assert_eq!((inside.reply().await, outside.reply().await), ("OK".to_string(), "OK".to_string()));
    assert_eq!((a.ask("GET in"), a.ask("EXISTS out")), ("1".to_string(), "0".to_string()));
    assert_eq!((b.ask("GET in"), b.ask("GET out")), ("2".to_string(), "1".to_string()));
    assert_eq!(front.handle.stats().cut, 0, "{:?}", front.handle.stats());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_item_waits_on_across_a_switchover() {
    let (a, b) = (Redis::start(), Redis::start());
    let front = front(&a).await;
    let (mut client, mut other) = (Client::connect(front.addr).await, Client::connect(front.addr).await);
    client.pipeline(&["INCR n", "BLPOP q 0", "INCR n"]).await;
    assert_eq!(client.reply().await, ":1");
    eventually("it blocks", || a.ask("INFO clients").contains("blocked_clients:1")).await;
    front.route(2, Gate::Draining, Some(a.endpoint("a")), vec![], 600_000);
    eventually("it is held", || front.handle.stats().held == 1).await;
    assert!(a.ask("INFO clients").contains("blocked_clients:0"));
    front.close(2);
    open(&front, 2, &b);
    b.ask("RPUSH q item");
    assert_eq!(client.replies(2).await, ["[q, item]", ":1"]);
    assert_eq!((a.ask("GET n"), b.ask("GET n")), ("1".to_string(), "1".to_string()));
    // Another client's wish is its own.
    let id = client.ask("CLIENT ID").await;
    client.send("BLPOP q 0").await;
    eventually("it blocks", || b.ask("INFO clients").contains("blocked_clients:1")).await;
    assert_eq!(other.ask(&format!("CLIENT UNBLOCK {} ERROR", &id[1..])).await, ":1");
    assert_eq!(client.reply().await, "-UNBLOCKED client unblocked via CLIENT UNBLOCK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_command_that_broke_off_was_not_executed() {
    let (a, b) = (Redis::start(), Redis::start());
    let front = front(&a).await;
    let mut client = Client::connect(front.addr).await;
    client.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n").await;
    client.send_bytes(&[b'x'; 500_000]).await;
    eventually("it has begun", || a.ask("CLIENT LIST").contains("user=app")).await;
    open(&front, 2, &b);
    client.send_bytes(&[b'x'; 500_000]).await;
    client.send_bytes(b"\r\n").await;
    let said = client.reply().await;
    assert!(said.starts_with("-TRYAGAIN") && said.contains("NOT executed"), "{said}");
    assert_eq!(client.ask("EXISTS k").await, ":0");
    assert_eq!(a.ask("EXISTS k"), "0");
}
