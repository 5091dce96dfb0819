//! The Sentinel's interface, with the clients that people have: redis-py, Perl's Redis.pm, redis-cli.

use crate::stage::{Stage, stage, wait_for};
use holdfast_core::topology::Engine;
use holdfast_drill::sandbox::{PASSWORD, SERVICE, Sandbox, USER, signal};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const PORT: u16 = 26_379;

async fn redis_stage() -> Stage {
    stage(3, |o| {
        o.engine = Engine::Redis;
        o.sentinel = Some(PORT);
        o.service_lines = "cool_down_s = 1".into();
    })
    .await
}

/// A program whose lines are kept.
struct Running {
    _child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    fn start(program: &str, args: &[String]) -> Running {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{program} is missing: make setup ({e})"));
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = out.next_line().await {
                kept.lock().unwrap().push(line);
            }
        });
        Running { _child: child, lines }
    }
    fn has(&self, line: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|l| l == line)
    }
    /// The last number that it printed.
    fn number(&self) -> u64 {
        self.lines.lock().unwrap().last().map_or(0, |l| l.parse().unwrap())
    }
}

/// What redis-cli prints.
async fn cli(at: SocketAddr, args: &[&str]) -> String {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let mut command = Command::new("redis-cli");
    command.args(["-h", &ip, "-p", &port, "--no-auth-warning"]).args(args).kill_on_drop(true);
    String::from_utf8(command.output().await.unwrap().stdout).unwrap().trim_end().to_string()
}

async fn named(at: SocketAddr) -> Option<SocketAddr> {
    let said = cli(at, &["SENTINEL", "get-master-addr-by-name", SERVICE]).await;
    let (ip, port) = said.split_once('\n')?;
    Some(SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap()))
}

fn sentinel_of(sandbox: &Sandbox, node: &str) -> SocketAddr {
    let place = sandbox.node_names().position(|n| n == node).unwrap();
    sandbox.sentinels()[place]
}

/// redis-py and Redis.pm, of Debian's packages, each with a key of its own.
fn clients(sandbox: &Sandbox) -> [(Running, &'static str); 2] {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/sentinel/client");
    [("/usr/bin/python3", "py"), ("/usr/bin/perl", "pl")].map(|(program, ending)| {
        let mut args = vec![format!("{here}.{ending}")];
        args.extend([SERVICE, USER, PASSWORD, ending].map(String::from));
        args.extend(sandbox.sentinels().iter().map(SocketAddr::to_string));
        (Running::start(program, &args), ending)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinel_clients_follow_the_primary_through_a_failover_and_a_switchover() {
    let mut stage = redis_stage().await;
    let sandbox = &stage.sandbox;
    let sentinels = sandbox.sentinels();
    let first = sandbox.primary().await.unwrap();
    let old = sandbox.engine(&first).unwrap();
    for at in &sentinels {
        wait_for("every node to name the primary", async || named(*at).await == Some(old)).await;
        let known = async || {
            let replicas = cli(*at, &["SENTINEL", "replicas", SERVICE]).await;
            let quorum = cli(*at, &["SENTINEL", "ckquorum", SERVICE]).await;
            replicas.matches("master-link-status\nok").count() == 2 && quorum.starts_with("OK 3 usable")
        };
        wait_for("every node to know the replicas and voters", known).await;
    }
    let clients = clients(sandbox);
    for (client, name) in &clients {
        wait_for(&format!("a write by {name}"), async || client.number() > 10).await;
    }
    let watcher = sentinel_of(sandbox, if first == "a" { "b" } else { "a" });
    let listen = ["-h", &watcher.ip().to_string(), "-p", &PORT.to_string(), "PSUBSCRIBE", "*"];
    let events = Running::start("redis-cli", &listen.map(String::from));
    wait_for("the subscription", async || events.has("psubscribe")).await;

    signal(sandbox.engine_pid(&first).unwrap(), Signal::KILL);
    wait_for("another primary", async || named(watcher).await.is_some_and(|at| at != old)).await;
    let new = named(watcher).await.unwrap();
    let switched = |from: SocketAddr, to: SocketAddr| {
        format!("{SERVICE} {} {} {} {}", from.ip(), from.port(), to.ip(), to.port())
    };
    wait_for("+switch-master", async || events.has(&switched(old, new))).await;
    for channel in ["+sdown", "+odown", "+switch-master", "+slave"] {
        wait_for(channel, async || events.has(channel)).await;
    }
    writes_arrive(&clients, new).await;

    // A planned switchover, by Sentinel's own command.
    let service = stage.healthy().await;
    assert_eq!(stage.sandbox.engine(service["primary"].as_str().unwrap()).unwrap(), new);
    assert_eq!(cli(watcher, &["SENTINEL", "failover", SERVICE]).await, "OK");
    wait_for("the switchover", async || named(watcher).await.is_some_and(|at| at != new)).await;
    let third = named(watcher).await.unwrap();
    wait_for("+switch-master", async || events.has(&switched(new, third))).await;
    writes_arrive(&clients, third).await;
    stage.end().await;
}

/// Each client goes on, and what it was told is written, is at `primary`.
async fn writes_arrive(clients: &[(Running, &'static str)], primary: SocketAddr) {
    for (client, key) in clients {
        let there = async || {
            let said = cli(primary, &["--user", USER, "--pass", PASSWORD, "GET", key]).await;
            said.parse::<u64>().unwrap_or(0)
        };
        let before = there().await.max(client.number());
        wait_for(&format!("{key} to write again"), async || client.number() > before + 10).await;
        let acknowledged = client.number();
        wait_for(&format!("what {key} wrote"), async || there().await >= acknowledged).await;
    }
}

/// Frozen hosts are as good as cut off: nobody renews a route, and no member vouches.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_names_no_primary() {
    let mut stage = redis_stage().await;
    for leads in [false, true] {
        let primary = stage.sandbox.primary().await.unwrap();
        let engine = stage.sandbox.engine(&primary).unwrap();
        let replica = if primary == "a" { "b" } else { "a" };
        let alone = if leads { primary.as_str() } else { replica };
        let at = sentinel_of(&stage.sandbox, alone);
        wait_for("a primary", async || named(at).await.is_some()).await;
        let others: Vec<u32> = ["a", "b", "c"]
            .into_iter()
            .filter(|n| *n != alone)
            .map(|n| stage.sandbox.pid(n).unwrap())
            .collect();
        others.iter().for_each(|pid| signal(*pid, Signal::STOP));
        wait_for(&format!("{alone} to name nobody"), async || named(at).await.is_none()).await;
        let master = cli(at, &["SENTINEL", "master", SERVICE]).await;
        assert!(master.contains("s_down") && !master.contains(&engine.ip().to_string()), "{master}");
        let quorum = async || cli(at, &["SENTINEL", "ckquorum", SERVICE]).await.starts_with("NOQUORUM");
        wait_for("no quorum", quorum).await;
        others.iter().for_each(|pid| signal(*pid, Signal::CONT));
        wait_for("a primary again", async || named(at).await.is_some()).await;
        stage.healthy().await;
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_certificates_it_takes_tls_a_password_and_an_operators_token() {
    let mut stage = stage(3, |o| {
        o.engine = Engine::Redis;
        o.tls = true;
        o.sentinel = Some(PORT);
        o.sentinel_lines = "password = \"open\"".into();
        o.top_lines = "allow_plaintext_passwords = true".into();
    })
    .await;
    let sandbox = &stage.sandbox;
    let (at, tls) = (sandbox.sentinels()[0], sandbox.dir().join("tls"));
    let ca = tls.join("ca.pem");
    let secure = ["--tls", "--cacert", ca.to_str().unwrap()];
    let ask = async |more: &[&str]| cli(at, &[&secure[..], more].concat()).await;
    let get = ["SENTINEL", "get-master-addr-by-name", SERVICE];
    assert!(ask(&get).await.starts_with("NOAUTH"), "{}", ask(&get).await);
    let primary = sandbox.engine(&sandbox.primary().await.unwrap()).unwrap();
    let by_password = async || ask(&[&["--pass", "open"], &get[..]].concat()).await;
    let expected = format!("{}\n{}", primary.ip(), primary.port());
    wait_for("the primary by TLS", async || by_password().await == expected).await;
    // In clear it is the same.
    assert_eq!(cli(at, &[&["--pass", "open"], &get[..]].concat()).await, expected);

    let failover = ["SENTINEL", "failover", SERVICE];
    let refused = ask(&[&["--pass", "open"], &failover[..]].concat()).await;
    assert!(refused.contains("holdfast switchover"), "{refused}");
    let token = std::fs::read_to_string(tls.join("operator.token")).unwrap();
    let operator = ["--user", "operator", "--pass", token.trim()];
    assert_eq!(ask(&[&operator, &failover[..]].concat()).await, "OK");
    wait_for("the switchover", async || by_password().await != expected && !by_password().await.is_empty())
        .await;
    stage.healthy().await;
    stage.end().await;
}
