//! Many clients, and clients that do not behave.

use crate::client::Client;
use crate::engine::{Engine, eventually};
use crate::front::Front;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::Duration;
use tokio::io::AsyncReadExt;

const CLIENTS: usize = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let engine =
        Engine::start_with(&["--max-connections=2100", "--open-files-limit=5000", "--back-log=2000"]);
    let front = Front::open_to(&engine).await;
    let mut clients = Vec::with_capacity(CLIENTS);
    while clients.len() < CLIENTS {
        let some: Vec<_> = (0..50).map(|_| tokio::spawn(Client::connect(front.addr))).collect();
        for client in some {
            clients.push(client.await.unwrap());
        }
    }
    assert_eq!(front.handle.stats().connections as usize, CLIENTS);
    // All of them move at once and are served again.
    front.open(2, &engine);
    for client in &mut clients {
        client.send_query("SELECT 1").await;
    }
    for client in &mut clients {
        assert_eq!(client.result().await.unwrap()[0][0], "1");
    }
    assert_eq!(front.handle.stats().rehomed as usize, CLIENTS);
    drop(clients);
    eventually("all are gone", || front.handle.stats().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_up_only_itself() {
    let engine = Engine::start();
    let front = Front::open_to(&engine).await;
    let mut greedy = Client::connect(front.addr).await;
    greedy.send_query("SELECT REPEAT('x', 50000000)").await;
    let stuck = || {
        engine
            .sql("SELECT STATE FROM information_schema.PROCESSLIST WHERE INFO LIKE '%REPEAT%' AND USER='app'")
            == "Writing to net"
    };
    eventually("the engine waits for the proxy, which waits for the client", stuck).await;
    let mut other = Client::connect(front.addr).await;
    assert_eq!(other.value("SELECT 1").await, "1");
    // A cut does not wait for the client either.
    front.close(2);
    eventually("the engine's end is closed", || {
        engine.sql(
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE '%REPEAT%' AND USER='app'",
        ) == "0"
    })
    .await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), greedy.stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok() && rest.len() < 50_000_000, "broken off");
}
