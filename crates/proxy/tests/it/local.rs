//! The engine on the proxy's own host, through its Unix socket. That cutting works there too is in `cut`.

use crate::client::{As, Client};
use crate::engine::{Engine, OTHER, PASSWORD, USER, eventually};
use crate::front::Front;
use holdfast_core::Epoch;
use holdfast_proxy::LocalEngine;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_of_this_host_is_reached_by_its_socket() {
    let (here, there) = (Engine::start(), Engine::start());
    let front = Front::beside(&here).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.value("SELECT USER()").await, format!("{USER}@localhost"));
    // Longer than what either socket takes at once, in both directions.
    let long = "x".repeat(3 << 20);
    assert_eq!(client.value(&format!("SELECT LENGTH('{long}')")).await, long.len().to_string());
    assert_eq!(client.value("SELECT REPEAT('x', 3 << 20)").await, long);
    // The other host's engine is not here, and back.
    front.open(2, &there);
    assert_eq!(client.value("SELECT USER()").await, format!("{USER}@127.0.0.1"));
    front.open(3, &here);
    assert_eq!(client.value("SELECT USER()").await, format!("{USER}@localhost"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_socket_does_not_serve_the_network_does() {
    let engine = Engine::start();
    let there_is_none = LocalEngine { addr: engine.addr, socket: engine.socket().with_extension("none") };
    let front = Front::start_with(|options| options.local = Some(there_is_none)).await;
    front.open(1, &engine);
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.value("SELECT USER()").await, format!("{USER}@127.0.0.1"));

    // A namesake whom only the socket's side knows.
    engine.sql(&format!("CREATE USER '{USER}'@'localhost' IDENTIFIED BY 'another'"));
    let front = Front::beside(&engine).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.value("SELECT USER()").await, format!("{USER}@127.0.0.1"));
    let other = As { user: OTHER, password: "", ..As::default() };
    let mut client = Client::log_in(front.addr, other).await.unwrap();
    assert_eq!(client.value("SELECT USER()").await, format!("{OTHER}@localhost"));
    // What neither side takes is said once.
    let stranger = As { password: "not it", ..As::default() };
    assert_ne!(PASSWORD, stranger.password);
    assert_eq!(Client::log_in(front.addr, stranger).await.err().unwrap().0, 1045);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_socket_ends_the_statement_on_the_engine() {
    let engine = Engine::start();
    let front = Front::beside(&engine).await;
    let mut client = Client::connect(front.addr).await;
    client.query("BEGIN").await.unwrap();
    client.send_query("SELECT SLEEP(20)").await;
    let runs = || engine.sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER='app'") != "0";
    eventually("it runs", runs).await;
    front.handle.close_gate(Epoch(1));
    assert_eq!(client.result().await.unwrap_err().0, 1213, "a read in a transaction is rolled back");
    eventually("the engine has noticed", || !runs()).await;
}
