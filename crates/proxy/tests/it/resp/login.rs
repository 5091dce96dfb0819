//! Who a client is.

use super::{Client, PASSWORD, Redis, USER, front, front_with};
use holdfast_core::UserName;
use holdfast_proxy::{Limits, Password};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_in_with_a_password() {
    let redis = Redis::start();
    let front = front(&redis).await;
    let mut client = Client::stranger(front.addr).await;
    assert_eq!(client.ask("GET k").await, "-NOAUTH Authentication required.");
    assert!(client.ask("HELLO 3").await.starts_with("-NOAUTH HELLO must be called"));
    assert_eq!(client.ask("HELLO 4").await, "-NOPROTO unsupported protocol version");
    for wrong in [&["AUTH", USER, "wrong"][..], &["AUTH", "nobody", PASSWORD], &["AUTH", PASSWORD]] {
        let args: Vec<&[u8]> = wrong.iter().map(|a| a.as_bytes()).collect();
        let said = client.command(&args).await;
        assert_eq!(said, "-WRONGPASS invalid username-password pair or user is disabled.");
    }
    assert_eq!(client.ask("AUTH").await, "-ERR wrong number of arguments for 'auth' command");
    assert_eq!(client.command(&[b"AUTH", USER.as_bytes(), PASSWORD.as_bytes()]).await, "OK");
    assert_eq!(client.ask("ACL WHOAMI").await, USER);
    assert_eq!(client.ask("RESET").await, "RESET");
    assert_eq!(client.ask("GET k").await, "-NOAUTH Authentication required.");
    assert_eq!(front.handle.stats().errors_login, 3);
    // No stranger has a connection to the engine, nor a large command.
    let mut stranger = Client::stranger(front.addr).await;
    stranger.send_bytes(b"*2\r\n$4\r\nAUTH\r\n$100000\r\n").await;
    assert_eq!(stranger.reply().await, "-ERR Protocol error: invalid bulk length");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_logs_in_and_chooses_the_protocol() {
    let redis = Redis::start();
    let front = front(&redis).await;
    let mut client = Client::stranger(front.addr).await;
    let hello = [&b"HELLO"[..], b"3", b"AUTH", USER.as_bytes(), PASSWORD.as_bytes(), b"SETNAME", b"worker"];
    let said = client.command(&hello).await;
    assert!(said.starts_with("{server: redis, version: 7."), "{said}");
    assert_eq!(client.ask("CLIENT GETNAME").await, "worker");
    assert_eq!(client.ask("HGETALL none").await, "{}");
    assert!(client.ask("HELLO 2").await.starts_with("[server, redis"));
    assert_eq!(client.ask("HGETALL none").await, "[]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_user_as_at_the_engine() {
    let redis = Redis::start();
    let default = |password: &str| vec![(UserName::new("default").unwrap(), Password::new(password))];
    // Without a password everybody is this user.
    let open = front_with(&redis, |options| options.users = default("")).await;
    assert_eq!(Client::stranger(open.addr).await.ask("SET k v").await, "OK");
    // With one, it is enough to say that (`requirepass`).
    redis.ask("CONFIG SET requirepass secret");
    let closed = front_with(&redis, |options| options.users = default("secret")).await;
    let mut client = Client::stranger(closed.addr).await;
    assert!(client.ask("GET k").await.starts_with("-NOAUTH"));
    assert_eq!(client.ask("AUTH secret").await, "OK");
    assert_eq!(client.ask("GET k").await, "v");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_has_not_forever_and_a_crowd_is_turned_away() {
    let redis = Redis::start();
    let limits = Limits { login_ms: 200, connections: 2, ..Limits::default() };
    let front = front_with(&redis, |options| options.limits = limits).await;
    let mut idle = Client::stranger(front.addr).await;
    assert!(idle.is_closed().await);
    let (mut a, mut b) = (Client::connect(front.addr).await, Client::connect(front.addr).await);
    let mut third = Client::stranger(front.addr).await;
    assert_eq!(third.reply().await, "-ERR max number of clients reached: this proxy port is limited to 2");
    assert_eq!((a.ask("PING").await, b.ask("PING").await), ("PONG".into(), "PONG".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_told_by_its_first_byte() {
    let redis = Redis::start();
    let front = front_with(&redis, |options| options.tls = Some(crate::front::tls())).await;
    assert_eq!(Client::connect(front.addr).await.ask("SET k v").await, "OK");
    let port = front.addr.port().to_string();
    let cli = move |more: &[&str]| {
        std::process::Command::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &port, "--user", USER, "--pass", PASSWORD, "--no-auth-warning"])
            .args(more)
            .output()
            .unwrap()
            .stdout
    };
    let said = tokio::task::spawn_blocking(move || {
        (
            cli(&["--tls", "--insecure", "GET", "k"]),
            cli(&["--tls", "--insecure", "-3", "HGETALL", "k2"]),
            cli(&["GET", "k"]),
        )
    });
    let (tls, tls3, plain) = said.await.unwrap();
    assert_eq!((&*tls, &*tls3, &*plain), (&b"v\n"[..], &b"\n"[..], &b"v\n"[..]));
}
