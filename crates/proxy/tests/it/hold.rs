//! Commands that wait.

use crate::client::{As, Client, Refused};
use crate::engine::{Engine, eventually};
use crate::front::Front;
use holdfast_core::Gate;
use holdfast_proxy::Limits;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_held_until_the_gate_opens() {
    let engine = Engine::start();
    let front = Front::open_to(&engine).await;
    let mut client = Client::connect(front.addr).await;
    client.query("CREATE TABLE t (a INT)").await.unwrap();

    front.close(2);
    client.send_query("INSERT INTO t VALUES (1)").await;
    eventually("one is held", || front.handle.stats().held == 1).await;
    assert!(front.handle.stats().held_bytes > 20);
    // A login waits as well.
    let addr = front.addr;
    let late = tokio::spawn(async move { Client::connect(addr).await });
    eventually("two are held", || front.handle.stats().held == 2).await;
    assert_eq!(engine.sql("SELECT COUNT(*) FROM d.t"), "0");
    front.open(2, &engine);
    assert_eq!(client.result().await, Ok(vec![]));
    assert_eq!(late.await.unwrap().value("SELECT COUNT(*) FROM t").await, "1");
    let stats = front.handle.stats();
    assert_eq!((stats.held, stats.held_bytes, stats.held_total, stats.rehomed), (0, 0, 2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_has_an_end_and_a_size() {
    let engine = Engine::start();
    let limits = Limits { hold_ms: 300, held_bytes: 1_000, ..Limits::default() };
    let front = Front::start_with(|o| o.limits = limits).await;
    front.open(1, &engine);
    let (mut a, mut b) = (Client::connect(front.addr).await, Client::connect(front.addr).await);
    front.close(2);
    a.send_query("SELECT 1").await;
    let Refused(code, state, text) = b.query(&format!("SELECT '{}'", "x".repeat(2_000))).await.unwrap_err();
    assert_eq!((code, &*state), (1053, "08S01"));
    assert!(
        text.contains("shop") && text.contains("already holds") && text.contains("NOT executed"),
        "{text}"
    );
    let Refused(code, _, text) = a.result().await.unwrap_err();
    assert_eq!(code, 1053);
    assert_eq!(
        text,
        "shop: there is no primary at the moment; held for 300 ms. The statement was NOT executed; trying again is safe"
    );
    // The session lives on.
    front.open(2, &engine);
    assert_eq!(a.value("SELECT 7").await, "7");
    assert_eq!(b.value("SELECT 8").await, "8");
    front.close(3);
    let Refused(code, ..) = Client::log_in(front.addr, As::default()).await.err().unwrap();
    assert_eq!(code, 1053);
    assert_eq!(front.handle.stats().held, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_route_holds_and_a_renewed_one_lets_go() {
    let engine = Engine::start();
    let front = Front::start().await;
    let open = |valid_for_ms| front.route(1, Gate::Open, Some(engine.endpoint("a")), vec![], valid_for_ms);
    open(600_000);
    let mut client = Client::connect(front.addr).await;
    client.query("BEGIN").await.unwrap();
    open(0);
    // Inside a transaction, too: nothing may be written (S1). The transaction itself is not lost.
    client.send_query("SELECT 1").await;
    eventually("it is held", || front.handle.stats().held == 1).await;
    open(600_000);
    assert_eq!(client.result().await, Ok(vec![vec!["1".to_string()]]));
    assert_eq!(client.value("SELECT @@in_transaction").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_its_command_along() {
    let engine = Engine::start();
    let front = Front::open_to(&engine).await;
    let mut client = Client::connect(front.addr).await;
    client.query("CREATE TABLE t (a INT)").await.unwrap();
    front.close(2);
    client.send_query("INSERT INTO t VALUES (1)").await;
    eventually("it is held", || front.handle.stats().held == 1).await;
    drop(client);
    eventually("the session is over", || front.handle.stats().connections == 0).await;
    assert_eq!(front.handle.stats().held, 0);
    front.open(2, &engine);
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.value("SELECT COUNT(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_writer_is_waited_for() {
    let engine = Engine::start();
    let front = Front::open_to(&engine).await;
    let mut client = Client::connect(front.addr).await;
    client.query("CREATE TABLE t (a INT PRIMARY KEY)").await.unwrap();
    let id = client.prepare("INSERT INTO t VALUES (?)").await;
    engine.sql("SET GLOBAL read_only=1");
    client.send_query("INSERT INTO t VALUES (1)").await;
    eventually("it is held", || front.handle.stats().held == 1).await;
    engine.sql("SET GLOBAL read_only=0");
    assert_eq!(client.result().await, Ok(vec![]));
    // Several statements may have been executed in part: passed on.
    engine.sql("SET GLOBAL read_only=1");
    let Refused(code, ..) = client.query("INSERT INTO t VALUES (2); SELECT 1").await.unwrap_err();
    assert_eq!(code, 1290);
    let unlock = async {
        eventually("it is held", || front.handle.stats().held == 1).await;
        engine.sql("SET GLOBAL read_only=0");
    };
    let (executed, ()) = tokio::join!(client.execute(id, 3, true), unlock);
    executed.unwrap();
    assert_eq!(client.value("SELECT GROUP_CONCAT(a) FROM t").await, "1,3");
}
