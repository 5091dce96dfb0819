//! Many clients, and clients that do not behave.

use super::{Client, Redis, front, open};
use crate::engine::eventually;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CLIENTS: usize = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let redis = Redis::start_with(&["--maxclients", "3000"]);
    let front = front(&redis).await;
    let addr = front.addr;
    let mut clients = Vec::with_capacity(CLIENTS);
    while clients.len() < CLIENTS {
        let some: Vec<_> = (0..50)
            .map(|_| {
                tokio::spawn(async move {
                    let mut client = Client::connect(addr).await;
                    assert_eq!(client.ask("PING").await, "PONG");
                    client
                })
            })
            .collect();
        for client in some {
            clients.push(client.await.unwrap());
        }
    }
    assert_eq!(front.handle.stats().connections as usize, CLIENTS);
    // All of them move at once and are served again.
    open(&front, 2, &redis);
    for client in &mut clients {
        client.send("INCR n").await;
    }
    for client in &mut clients {
        assert!(client.reply().await.starts_with(':'));
    }
    assert_eq!(redis.ask("GET n"), CLIENTS.to_string());
    assert_eq!(front.handle.stats().rehomed as usize, CLIENTS);
    drop(clients);
    eventually("all are gone", || front.handle.stats().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_up_only_itself() {
    let redis = Redis::start();
    redis.ask("SETRANGE large 50000000 x");
    let front = front(&redis).await;
    let mut greedy = Client::connect(front.addr).await;
    greedy.pipeline(&["GET large"; 4]).await;
    let kept = || {
        let clients = redis.ask("CLIENT LIST");
        let line = clients.lines().find(|l| l.contains("user=app")).unwrap_or_default();
        let omem = line.split(' ').find_map(|f| f.strip_prefix("omem=")?.parse::<usize>().ok());
        omem.unwrap_or(0) > 150_000_000
    };
    eventually("the engine keeps what the client does not take", kept).await;
    let mut other = Client::connect(front.addr).await;
    assert_eq!(other.ask("PING").await, "PONG");
    // A cut does not wait for the client either.
    front.close(2);
    eventually("the engine's end is closed", || {
        !redis.ask("CLIENT LIST").lines().any(|l| l.contains("user=app") && l.contains("cmd=get"))
    })
    .await;
    assert!(greedy.is_closed().await, "broken off");
}
