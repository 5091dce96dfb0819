//! Sessions that move, and what they tell when part of them cannot.

use crate::client::{As, CAPABILITIES, Client, Refused, insert_id};
use crate::engine::{Engine, PASSWORD, USER, eventually};
use crate::front::Front;
use holdfast_wire::{Capabilities, command};
use mysql_async::prelude::Queryable;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_moves_with_its_state() {
    let (mut a, b) = (Engine::start(), Engine::start());
    for e in [&a, &b] {
        e.sql("CREATE TABLE d.t (id INT PRIMARY KEY AUTO_INCREMENT, v BIGINT); CREATE DATABASE e");
    }
    let front = Front::open_to(&a).await;
    let tracking = CAPABILITIES.with(Capabilities::SESSION_TRACK).with(Capabilities::DEPRECATE_EOF);
    for capabilities in [CAPABILITIES, tracking] {
        front.open(if capabilities == tracking { 3 } else { 1 }, &a);
        let mut client = Client::log_in(front.addr, As { capabilities, ..As::default() }).await.unwrap();
        client.query("SET NAMES latin1 COLLATE latin1_bin").await.unwrap();
        client
            .query("SET SESSION wait_timeout=4711, sql_mode='ANSI,TRADITIONAL', time_zone='+02:00'")
            .await
            .unwrap();
        client.query("SET character_set_results=NULL, long_query_time=1.5, timestamp=12").await.unwrap();
        client
            .query(
                "SET timestamp=DEFAULT, autocommit=0; SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            )
            .await
            .unwrap();
        let id = client.prepare("INSERT INTO d.t (v) VALUES (?)").await;
        let reply = client.execute(id, 10, true).await.unwrap();
        assert_eq!(insert_id(&reply), if capabilities == tracking { 2 } else { 1 });
        client.query("COMMIT").await.unwrap();
        client.query("USE e").await.unwrap();
        let state = "SELECT CONCAT_WS(' ', DATABASE(), @@collation_connection, @@character_set_client, \
                     @@character_set_results, @@wait_timeout, @@sql_mode, @@time_zone, @@long_query_time, \
                     @@autocommit, @@tx_isolation, LAST_INSERT_ID(), @@timestamp > 1000)";
        let before = client.value(state).await;
        assert!(before.starts_with("e latin1_bin latin1 4711 "), "{before}");
        client.query("COMMIT").await.unwrap();

        front.open(if capabilities == tracking { 4 } else { 2 }, &b);
        assert_eq!(client.value(state).await, before);
        assert_eq!(client.value("SELECT @@port").await, b.addr.port().to_string());
        // The client sends the types of its parameters once; the new server has never seen them.
        client.execute(id, 20, false).await.unwrap();
        client.query("COMMIT").await.unwrap();
        assert_eq!(b.sql("SELECT v FROM d.t ORDER BY id DESC LIMIT 1"), "20");
        let fresh = client.prepare("SELECT ?").await;
        assert_ne!(fresh, id, "a client's ids never collide");
    }
    a.kill();
    assert_eq!(front.handle.stats().errors_transaction_lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_does_not_notice_a_killed_primary() {
    let (mut a, b) = (Engine::start(), Engine::start());
    b.sql("CREATE TABLE d.t (a INT)");
    let front = Front::open_to(&a).await;
    let opts = mysql_async::OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(front.addr.port())
        .user(Some(USER))
        .pass(Some(PASSWORD))
        .db_name(Some("d"))
        .prefer_socket(false);
    let mut conn = mysql_async::Conn::new(opts).await.unwrap();
    conn.query_drop("CREATE TABLE t (a INT)").await.unwrap();
    let insert = conn.prep("INSERT INTO t VALUES (?)").await.unwrap();
    conn.exec_drop(&insert, (1,)).await.unwrap();
    a.kill();
    let (done, ()) = tokio::join!(conn.exec_drop(&insert, (2,)), async {
        eventually("it is held", || front.handle.stats().held == 1).await;
        front.close(2);
        front.open(2, &b);
    });
    done.unwrap();
    conn.exec_batch(&insert, [(3,), (4,)]).await.unwrap();
    let sum: Option<i32> = conn.exec_first("SELECT SUM(a) FROM t WHERE a > ?", (0,)).await.unwrap();
    assert_eq!(sum, Some(9));
    assert_eq!(conn.query::<i32, _>("SELECT a FROM t ORDER BY a").await.unwrap(), [2, 3, 4]);
    conn.disconnect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_is_told_once() {
    let engine = Engine::start();
    let front = Front::open_to(&engine).await;
    let mut client = Client::connect(front.addr).await;
    client.query("CREATE TABLE t (a INT)").await.unwrap();
    client.query("BEGIN").await.unwrap();
    client.query("INSERT INTO t VALUES (1)").await.unwrap();
    front.open(2, &engine);
    let Refused(code, state, text) = client.query("INSERT INTO t VALUES (2)").await.unwrap_err();
    assert_eq!((code, &*state), (1213, "40001"));
    assert!(text.contains("no commit was in flight"), "{text}");
    assert_eq!(client.value("SELECT COUNT(*) FROM t").await, "0");
    // ROLLBACK asks for no more than has happened.
    client.query("BEGIN").await.unwrap();
    client.query("INSERT INTO t VALUES (1)").await.unwrap();
    front.open(3, &engine);
    client.query("ROLLBACK").await.unwrap();
    assert_eq!(client.value("SELECT COUNT(*) FROM t").await, "0");
    // A statement that commits failed inside: nobody knows.
    client.query("BEGIN").await.unwrap();
    client.query("INSERT INTO t VALUES (1)").await.unwrap();
    client.query("CREATE TABLE t (a INT)").await.unwrap_err();
    front.open(4, &engine);
    let Refused(code, state, _) = client.query("SELECT 1").await.unwrap_err();
    assert_eq!((code, &*state), (1158, "08007"));
    assert_eq!(front.handle.stats().errors_transaction_lost, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_moved_is_named() {
    let engine = Engine::start();
    engine.sql("CREATE PROCEDURE d.hide() CREATE TEMPORARY TABLE hidden (a INT)");
    let front = Front::open_to(&engine).await;
    let mut epoch = 1;
    for (sql, named) in [
        ("CREATE TEMPORARY TABLE tt (a INT)", "a temporary table"),
        ("SELECT GET_LOCK('l', 0)", "a lock of GET_LOCK"),
        ("SET @x = 1", "a user variable"),
        ("LOCK TABLES mysql.user READ", "a table lock"),
        ("PREPARE p FROM 'SELECT 1'", "a statement of PREPARE"),
        ("CALL hide()", "changes made inside a routine"),
    ] {
        let mut client = Client::connect(front.addr).await;
        client.query(sql).await.unwrap();
        epoch += 1;
        front.open(epoch, &engine);
        let Refused(code, state, text) = client.query("SELECT 1").await.unwrap_err();
        assert_eq!((code, &*state), (1927, "70100"), "{sql}");
        assert!(text.contains(named) && text.contains("NOT executed"), "{sql}: {text}");
        assert_eq!(client.value("SELECT 5").await, "5", "goes on afresh");
        // What is given up in time does not stand in the way.
        client.query(sql).await.unwrap();
        client.command(&[command::RESET_CONNECTION]).await.unwrap();
        epoch += 1;
        front.open(epoch, &engine);
        assert_eq!(client.value("SELECT 6").await, "6");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_made_after_a_reset_moves_too() {
    let engine = Engine::start();
    let front = Front::open_to(&engine).await;
    let mut client = Client::connect(front.addr).await;
    client.query("SET SESSION wait_timeout=100, autocommit=0").await.unwrap();
    client.command(&[command::RESET_CONNECTION]).await.unwrap();
    client.query("SET SESSION lock_wait_timeout=7").await.unwrap();
    front.open(2, &engine);
    let state = client
        .value("SELECT CONCAT_WS(' ', @@wait_timeout, @@autocommit, @@lock_wait_timeout, DATABASE())")
        .await;
    assert_eq!(state, "28800 ON 7 d");
}
