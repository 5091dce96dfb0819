//! Fencing: what happens to what is under way when the gate closes or the server dies.

use crate::client::{Client, Refused};
use crate::engine::{Engine, eventually};
use crate::front::Front;
use holdfast_core::Epoch;

fn running(engine: &Engine, what: &str) -> bool {
    engine.sql("SELECT INFO FROM information_schema.PROCESSLIST WHERE COMMAND='Query'").contains(what)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_epoch_cuts_what_is_in_flight() {
    let (a, b) = (Engine::start(), Engine::start());
    let front = Front::open_to(&a).await;
    let mut client = Client::connect(front.addr).await;
    client.send_query("DO SLEEP(20)").await;
    eventually("it runs", || running(&a, "SLEEP(20)")).await;
    front.close(2);
    let Refused(code, state, text) = client.result().await.unwrap_err();
    assert_eq!((code, &*state), (1158, "08007"));
    assert!(text.contains("UNKNOWN"), "{text}");
    front.open(2, &b);
    assert_eq!(client.value("SELECT @@port").await, b.addr.port().to_string());

    // A read inside a transaction commits nothing.
    client.query("BEGIN").await.unwrap();
    client.send_query("SELECT SLEEP(20)").await;
    eventually("it runs", || running(&b, "SELECT SLEEP(20)")).await;
    front.close(3);
    assert_eq!(client.result().await.unwrap_err().0, 1213);

    // A reply that has begun can only be broken off.
    front.open(3, &b);
    client.send_query("SELECT REPEAT('x', 100000), SLEEP(seq * 10) FROM d.two").await;
    assert_eq!(client.result().await.unwrap_err().0, 1146);
    b.sql("CREATE TABLE d.two (seq INT); INSERT INTO d.two VALUES (0), (1)");
    client.send_query("SELECT REPEAT('x', 100000), SLEEP(seq * 10) FROM d.two").await;
    let mut some = [0; 1_000];
    tokio::io::AsyncReadExt::read_exact(&mut client.stream, &mut some).await.unwrap();
    front.close(4);
    let mut rest = Vec::new();
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut rest);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), ended).await;
    assert!(ended.is_ok(), "the client's connection is closed");
    assert!(front.handle.stats().cut >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_the_gate_is_done_when_it_returns() {
    let engine = Engine::start();
    closes(&engine, Front::open_to(&engine).await).await;
    engine.sql("DROP TABLE d.t");
    closes(&engine, Front::beside(&engine).await).await;
}

async fn closes(engine: &Engine, front: Front) {
    engine.sql("CREATE TABLE d.t (a INT)");
    let mut writers = Vec::new();
    for n in 0..8 {
        let mut client = Client::connect(front.addr).await;
        writers.push(tokio::spawn(async move {
            let mut sent = 0;
            while client.query(&format!("INSERT INTO t VALUES ({n})")).await.is_ok() {
                sent += 1;
            }
            sent
        }));
    }
    eventually("they write", || engine.sql("SELECT COUNT(*) FROM d.t").parse::<u64>().unwrap() > 50).await;
    front.handle.close_gate(Epoch(1));
    // What the engine had already received may still be under way; nothing new arrives.
    eventually("nothing runs", || !running(engine, "INSERT")).await;
    let count = engine.sql("SELECT COUNT(*) FROM d.t");
    // The same epoch again does not open what was closed.
    front.route(1, holdfast_core::Gate::Open, Some(engine.endpoint("b")), vec![], 600_000);
    assert_eq!(engine.sql("SELECT COUNT(*) FROM d.t"), count);
    let mut acknowledged = 0u64;
    for writer in writers {
        acknowledged +=
            tokio::time::timeout(std::time::Duration::from_secs(10), writer).await.unwrap().unwrap();
    }
    assert!(acknowledged <= count.parse().unwrap(), "{acknowledged} acknowledged of {count}");
    front.open(2, engine);
    assert_eq!(Client::connect(front.addr).await.value("SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_drains_open_transactions_and_holds_the_rest() {
    let (a, b) = (Engine::start(), Engine::start());
    for e in [&a, &b] {
        e.sql("CREATE TABLE d.t (a INT)");
    }
    let front = Front::open_to(&a).await;
    let (mut inside, mut outside) = (Client::connect(front.addr).await, Client::connect(front.addr).await);
    inside.query("BEGIN").await.unwrap();
    inside.query("INSERT INTO t VALUES (1)").await.unwrap();
    // The new epoch is claimed before the old primary is closed.
    front.drain(2, &a);
    outside.send_query("INSERT INTO t VALUES (2)").await;
    eventually("the other is held", || front.handle.stats().held == 1).await;
    inside.query("INSERT INTO t VALUES (3)").await.unwrap();
    inside.query("COMMIT").await.unwrap();
    inside.send_query("SELECT @@port").await;
    eventually("now both are held", || front.handle.stats().held == 2).await;
    front.close(2);
    front.open(2, &b);
    outside.result().await.unwrap();
    assert_eq!(inside.result().await.unwrap()[0][0], b.addr.port().to_string());
    assert_eq!(a.sql("SELECT GROUP_CONCAT(a) FROM d.t"), "1,3");
    assert_eq!(b.sql("SELECT GROUP_CONCAT(a) FROM d.t"), "2");
    assert_eq!(front.handle.stats().cut, 0, "idle connections are left, not cut: {:?}", front.handle.stats());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_leaves_the_outcome_unknown() {
    let (mut a, b) = (Engine::start(), Engine::start());
    let front = Front::open_to(&a).await;
    let mut client = Client::connect(front.addr).await;
    client.query("BEGIN").await.unwrap();
    client.query("COMMIT").await.unwrap();
    client.send_query("DO SLEEP(20)").await;
    eventually("it runs", || running(&a, "SLEEP(20)")).await;
    a.kill();
    assert_eq!(client.result().await.unwrap_err().0, 1158);
    client.send_query("SELECT @@port").await;
    eventually("the next is held", || front.handle.stats().held == 1).await;
    front.open(2, &b);
    assert_eq!(client.result().await.unwrap()[0][0], b.addr.port().to_string());
    assert_eq!(front.handle.stats().errors_outcome_unknown, 1);
}

/// Whoever was in no transaction and waits for no commit does not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_read_in_flight_is_asked_again() {
    let (mut a, b) = (Engine::start(), Engine::start());
    for e in [&a, &b] {
        e.sql("CREATE TABLE d.t (a INT)");
    }
    b.sql("INSERT INTO d.t VALUES (7)");
    let front = Front::open_to(&a).await;
    let (mut reader, mut prepared) = (Client::connect(front.addr).await, Client::connect(front.addr).await);
    let id = prepared.prepare("SELECT a FROM t WHERE a > ?").await;
    prepared.execute(id, 1, true).await.unwrap();
    let mut holder = Client::connect(a.addr).await;
    holder.query("LOCK TABLES t WRITE").await.unwrap();
    reader.send_query("SELECT a FROM t").await;
    let execute = tokio::spawn(async move { prepared.execute(id, 2, false).await.map(|reply| reply.len()) });
    let waiting =
        || a.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table%'");
    eventually("both run", || waiting() == "2").await;
    a.kill();
    eventually("both are held", || front.handle.stats().held == 2).await;
    front.open(2, &b);
    assert_eq!(reader.result().await.unwrap()[0][0], "7");
    execute.await.unwrap().unwrap();
    let stats = front.handle.stats();
    assert_eq!((stats.errors_outcome_unknown, stats.resent), (0, 2), "{stats:?}");
}
