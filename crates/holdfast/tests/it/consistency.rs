//! What reads on the read/write port see while primaries come and go.

use crate::stage::{counted, logs, stage, wait_for};
use holdfast_core::topology::Engine;
use holdfast_drill::sandbox::{PASSWORD, USER, signal};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

/// Clients of each proxy have done something since, and not only what was under way.
async fn go_on(proxies: &[SocketAddr]) {
    for proxy in proxies {
        let before = counted(*proxy, "commands").await;
        wait_for("clients to go on", async || counted(*proxy, "commands").await > before + 500).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_redis_reads_what_it_wrote_through_failovers() {
    let mut stage = stage(3, |o| {
        o.engine = Engine::Redis;
        o.service_lines = "cool_down_s = 1\nread_consistency = \"session\"".into();
    })
    .await;
    let proxies = stage.sandbox.proxies();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/consistency/client.py");
    let mut clients = tokio::process::Command::new("/usr/bin/python3");
    clients.args([script, USER, PASSWORD]).args(proxies.iter().map(SocketAddr::to_string));
    clients.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut clients = clients.spawn().unwrap();
    go_on(&proxies).await;
    for _ in 0..2 {
        stage.sandbox.holdfast(&["switchover"]).await.unwrap();
        go_on(&proxies).await;
        let primary = stage.sandbox.primary().await.unwrap();
        signal(stage.sandbox.engine_pid(&primary).unwrap(), Signal::KILL);
        go_on(&proxies).await;
        stage.healthy().await;
    }
    drop(clients.stdin.take());
    let out =
        tokio::time::timeout(Duration::from_secs(30), clients.wait_with_output()).await.unwrap().unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let (reads, writes) = (seen["reads"].as_u64().unwrap(), seen["writes"].as_u64().unwrap());
    assert!(reads > 1_000 && writes > 500, "{seen}");
    assert_eq!(seen["stale"], serde_json::json!([]), "{}", logs(stage.sandbox.dir()));
    let mut away = 0;
    for proxy in &proxies {
        away += counted(*proxy, "reads_at_replicas").await;
    }
    assert!(away > reads / 2, "{away} of {reads} reads were answered by replicas");
    stage.end().await;
}
