//! Logins: good, bad, and not logins at all.

use crate::client::{As, Client, Refused, read_packet, send};
use crate::engine::{Engine, OTHER, PASSWORD, USER};
use crate::front::Front;
use holdfast_proxy::Limits;
use holdfast_wire::Capabilities;
use holdfast_wire::reply::ErrPacket;
use std::process::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_judged_by_proxy_and_engine() {
    let engine = Engine::start();
    let front = Front::open_to(&engine).await;
    let log_in = |who| Client::log_in(front.addr, who);

    let Refused(code, state, text) = log_in(As { password: "wrong", ..As::default() }).await.err().unwrap();
    assert_eq!((code, &*state), (1045, "28000"));
    assert_eq!(text, format!("Access denied for user '{USER}'@'127.0.0.1' (using password: YES)"));
    let Refused(code, _, text) =
        log_in(As { user: "nobody", password: "", ..As::default() }).await.err().unwrap();
    assert_eq!((code, text.ends_with("(using password: NO)")), (1045, true));
    let Refused(code, state, text) =
        log_in(As { schema: Some("nowhere"), ..As::default() }).await.err().unwrap();
    assert_eq!((code, &*state, &*text), (1049, "42000", "Unknown database 'nowhere'"));

    let mut client = log_in(As { user: OTHER, password: "", ..As::default() }).await.unwrap();
    assert_eq!(client.value("SELECT CONCAT(SUBSTRING_INDEX(USER(), '@', 1), DATABASE())").await, "otherd");
    // A client of MySQL 8 begins with a method of its own.
    let mut client = log_in(As { plugin: b"caching_sha2_password", ..As::default() }).await.unwrap();
    assert_eq!(client.value("SELECT 1").await, "1");
    let version = engine.sql("SELECT VERSION()");
    let greeted = String::from_utf8(Client::connect(front.addr).await.greeting.server_version).unwrap();
    assert!(greeted.contains(&version), "{greeted} is the engine's {version}");
    assert_eq!(front.handle.stats().errors_login, 2);
}

#[tokio::test]
async fn what_is_not_a_login_is_refused_and_bounded() {
    let limits = Limits { connections: 2, login_ms: 300, ..Limits::default() };
    let front = Front::start_with(|o| o.limits = limits).await;

    let mut garbage = TcpStream::connect(front.addr).await.unwrap();
    read_packet(&mut garbage).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n").await.unwrap();
    let (_, payload) = read_packet(&mut garbage).await.unwrap();
    assert_eq!(ErrPacket::parse(&payload).unwrap().code, 1043);
    assert_eq!(garbage.read(&mut [0; 9]).await.unwrap(), 0, "closed");

    let mut short = TcpStream::connect(front.addr).await.unwrap();
    read_packet(&mut short).await.unwrap();
    send(&mut short, 1, b"\x05").await;
    let (seq, payload) = read_packet(&mut short).await.unwrap();
    assert_eq!((seq, ErrPacket::parse(&payload).unwrap().code), (2, 1043));
    drop(short);

    crate::engine::eventually("both places are free", || front.handle.stats().connections == 0).await;
    let mut half = TcpStream::connect(front.addr).await.unwrap();
    let mut silent = TcpStream::connect(front.addr).await.unwrap();
    read_packet(&mut half).await.unwrap();
    read_packet(&mut silent).await.unwrap();
    half.write_all(b"\x50\0\0\x01abc").await.unwrap();
    let Refused(code, state, _) = Client::log_in(front.addr, As::default()).await.err().unwrap();
    assert_eq!((code, &*state), (1040, "08004"));
    assert_eq!(half.read(&mut [0; 9]).await.unwrap_or(0), 0, "closed when the time was over");
    assert_eq!(silent.read(&mut [0; 9]).await.unwrap_or(0), 0, "closed when the time was over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_ask_for_tls() {
    let engine = Engine::start();
    let front = Front::start_with(|o| o.tls = Some(crate::front::tls())).await;
    front.open(1, &engine);
    assert!(Client::connect(front.addr).await.greeting.capabilities.has(Capabilities::SSL));
    let (addr, run) = (front.addr, |more: &'static [&str], addr: std::net::SocketAddr| {
        Command::new("mariadb")
            .args(["--no-defaults", "-h127.0.0.1", "-N", &format!("-P{}", addr.port()), &format!("-u{USER}")])
            .arg(format!("-p{PASSWORD}"))
            .args(more)
            .args(["-e", "\\s; SELECT LENGTH(REPEAT('x', 1000000)), REPEAT('y', 200000)"])
            .output()
            .unwrap()
    });
    let out = tokio::task::spawn_blocking(move || run(&["--ssl"], addr)).await.unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("Cipher in use is TLS_"), "{text}{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("1000000") && text.contains(&"y".repeat(200_000)));
    let out = tokio::task::spawn_blocking(move || run(&["--skip-ssl"], addr)).await.unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("Not in use"));
}
