//! In front of MySQL: its login method on both sides, its session state.

use crate::engine::{Engine, OTHER, PASSWORD, USER, eventually};
use crate::front::Front;
use holdfast_core::topology;
use holdfast_proxy::LocalEngine;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, OptsBuilder};
use std::net::SocketAddr;

fn opts(addr: SocketAddr, user: &str, password: &str) -> OptsBuilder {
    OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(addr.port())
        .prefer_socket(false)
        .user(Some(user))
        .pass(Some(password))
        .db_name(Some("d"))
}

async fn front(local: Option<&Engine>) -> Front {
    Front::start_with(|o| {
        o.engine = topology::Engine::MySql;
        o.local = local.map(|e| LocalEngine { addr: e.addr, socket: e.socket() });
    })
    .await
}

async fn state(conn: &mut Conn) -> String {
    let sql = "SELECT CONCAT_WS(' ', DATABASE(), @@collation_connection, @@wait_timeout, @@sql_mode, @@time_zone, \
               @@autocommit, @@transaction_isolation)";
    conn.query_first(sql).await.unwrap().unwrap()
}

/// One pair of servers for all of it: they are slow to make.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_and_sessions_in_front_of_mysql() {
    let (mut a, b) = tokio::task::block_in_place(|| {
        std::thread::scope(|s| {
            let a = s.spawn(Engine::mysql);
            (Engine::mysql(), a.join().unwrap())
        })
    });
    let remote = front(None).await;
    remote.open(1, &a);
    let greeted = Conn::new(opts(remote.addr, USER, PASSWORD)).await.unwrap();
    assert!(greeted.server_version().0 >= 8);
    for (user, password) in [(USER, "wrong"), (USER, ""), ("nobody", "x"), (OTHER, "x")] {
        let refused = Conn::new(opts(remote.addr, user, password)).await.unwrap_err();
        assert!(matches!(&refused, Error::Server(e) if e.code == 1045), "{user}: {refused}");
    }
    // The server has never seen these users: the password goes under its RSA key, or over its Unix socket.
    let beside = front(Some(&b)).await;
    beside.open(1, &b);
    for (front, engine) in [(&remote, &a), (&beside, &b)] {
        for (user, password) in [(USER, PASSWORD), (OTHER, ""), (USER, PASSWORD)] {
            let mut conn = Conn::new(opts(front.addr, user, password)).await.unwrap();
            let port: u16 = conn.query_first("SELECT @@port").await.unwrap().unwrap();
            assert_eq!(port, engine.addr.port());
            let rows: Vec<(u32, String)> = conn.exec("SELECT ?, ?", (7, "x")).await.unwrap();
            assert_eq!(rows, [(7, "x".to_owned())]);
            conn.change_user(Default::default()).await.unwrap();
            assert_eq!(conn.query_first::<u8, _>("SELECT 1").await.unwrap(), Some(1));
        }
    }

    // A session moves with what it has set.
    let mut conn = Conn::new(opts(remote.addr, USER, PASSWORD)).await.unwrap();
    conn.query_drop("SET NAMES latin1 COLLATE latin1_bin").await.unwrap();
    conn.query_drop("SET SESSION wait_timeout=4711, sql_mode='ANSI,TRADITIONAL', time_zone='+02:00'")
        .await
        .unwrap();
    conn.query_drop("SET autocommit=0; SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE").await.unwrap();
    let prepared = conn.prep("SELECT @@port + ?").await.unwrap();
    let before = state(&mut conn).await;
    assert!(before.contains("latin1_bin 4711 "), "{before}");
    conn.query_drop("COMMIT").await.unwrap();
    remote.open(2, &b);
    assert_eq!(state(&mut conn).await, before);
    let port: Option<u16> = conn.exec_first(&prepared, (0,)).await.unwrap();
    assert_eq!(port, Some(b.addr.port()));
    conn.query_drop("COMMIT").await.unwrap();
    a.kill();
    eventually("a session has moved", || remote.handle.stats().rehomed >= 1).await;
    assert_eq!(remote.handle.stats().errors_state_lost, 0);
}

/// A reader's session may not write, where the primary serves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_port_does_not_write_on_a_mysql_primary() {
    let a = tokio::task::block_in_place(Engine::mysql);
    let front = front(None).await;
    front.open(1, &a);
    let read = front.handle.ro_addr().unwrap();
    let mut conn = Conn::new(opts(read, USER, PASSWORD)).await.unwrap();
    let refused = conn.query_drop("CREATE TABLE t (id INT)").await.unwrap_err();
    assert!(matches!(&refused, Error::Server(e) if e.code == 1792), "{refused}");
}
