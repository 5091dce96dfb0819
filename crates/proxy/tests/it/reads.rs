//! The read port.

use crate::client::{Client, Refused};
use crate::engine::Engine;
use crate::front::Front;
use holdfast_core::Gate;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_spread_and_follow_the_list() {
    let (w, r1, r2) = (Engine::start(), Engine::start(), Engine::start());
    let front = Front::start().await;
    let addr = front.handle.ro_addr().unwrap();
    let port = |e: &Engine| e.addr.port().to_string();
    let route = |readers: &[(&Engine, &str)]| {
        let readers = readers.iter().map(|(e, zone)| e.endpoint(zone)).collect();
        front.route(1, Gate::Open, Some(w.endpoint("a")), readers, 600_000);
    };
    route(&[(&r1, "a"), (&r2, "a")]);
    let mut clients = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(addr).await;
        seen.push(client.value("SELECT @@port").await);
        clients.push(client);
    }
    for reader in [&r1, &r2] {
        assert_eq!(seen.iter().filter(|p| **p == port(reader)).count(), 2, "{seen:?}");
    }
    // A session inside a transaction stays; the others leave with their reader.
    let stays = seen.iter().position(|p| *p == port(&r1)).unwrap();
    clients[stays].query("BEGIN").await.unwrap();
    clients[stays].query("SELECT * FROM mysql.db LIMIT 1").await.unwrap();
    route(&[(&r2, "b")]);
    for (i, client) in clients.iter_mut().enumerate() {
        let expected =
            if i == stays && client.value("SELECT @@in_transaction").await == "1" { &r1 } else { &r2 };
        assert_eq!(client.value("SELECT @@port").await, port(expected));
    }
    clients[stays].query("COMMIT").await.unwrap();
    assert_eq!(clients[stays].value("SELECT @@port").await, port(&r2));

    // Without readers the writer serves, but takes no writes by this port.
    route(&[]);
    let client = &mut clients[0];
    assert_eq!(client.value("SELECT @@port").await, port(&w));
    let Refused(code, ..) = client.query("CREATE TABLE d.t (a INT)").await.unwrap_err();
    assert_eq!(code, 1792);
    route(&[(&r1, "a")]);
    assert_eq!(client.value("SELECT @@port").await, port(&r1));
    // Reads go on when the route has run out.
    front.route(1, Gate::Closed, None, vec![r1.endpoint("a")], 0);
    assert_eq!(client.value("SELECT @@port").await, port(&r1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_reader_is_passed_over() {
    let (w, mut dead) = (Engine::start(), Engine::start());
    let front = Front::start().await;
    front.route(1, Gate::Open, Some(w.endpoint("a")), vec![dead.endpoint("a")], 600_000);
    let mut client = Client::connect(front.handle.ro_addr().unwrap()).await;
    assert_eq!(client.value("SELECT @@port").await, dead.addr.port().to_string());
    dead.kill();
    assert_eq!(client.value("SELECT @@port").await, w.addr.port().to_string());
}
