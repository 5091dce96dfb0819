//! Everyday commands, many at once, large ones, and those that are not carried.

use super::{Client, Redis, front, front_with};
use crate::engine::eventually;
use holdfast_proxy::LocalEngine;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_are_the_engines() {
    let redis = Redis::start();
    let front = front(&redis).await;
    let mut client = Client::connect(front.addr).await;
    for (command, reply) in [
        ("SET k v", "OK"),
        ("GET k", "v"),
        ("get none", "nil"),
        ("INCR n", ":1"),
        ("LPUSH l a b", ":2"),
        ("LRANGE l 0 -1", "[b, a]"),
        ("INCR k", "-ERR value is not an integer or out of range"),
        ("NOSUCH x", "-ERR unknown command 'NOSUCH', with args beginning with: 'x'"),
        ("PING", "PONG"),
        ("ECHO hi", "hi"),
        ("EVAL return{1,{2},KEYS[1]} 1 x", "[:1, [:2], x]"),
        ("SELECT 99", "-ERR DB index is out of range"),
        ("CLIENT SETNAME me", "OK"),
        ("CLIENT GETNAME", "me"),
        ("EXEC", "-ERR EXEC without MULTI"),
        ("WAIT 0 10", ":0"),
        ("CONFIG SET notify-keyspace-events KEA", "OK"),
        ("CLIENT REPLY ON", "OK"),
    ] {
        assert_eq!(client.ask(command).await, reply, "{command}");
    }
    // As a person types it, with bytes that are no command between.
    client.send_bytes(b"\r\n*0\r\nSET \"a b\" 'c d'\r\n\r\nGET \"a b\"\nPING\r\n").await;
    assert_eq!(client.replies(3).await, ["OK", "c d", "PONG"]);
    assert_eq!(client.ask("QUIT").await, "OK");
    assert!(client.is_closed().await);
    eventually("the engine's end is closed", || !redis.ask("CLIENT LIST").contains("user=app")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_at_once() {
    let redis = Redis::start();
    let local = LocalEngine { addr: redis.addr, socket: redis.socket() };
    for local in [None, Some(local)] {
        redis.ask("FLUSHALL");
        let front = front_with(&redis, |options| options.local = local).await;
        let client = Client::connect(front.addr).await;
        let (mut from, mut to) = client.stream.into_inner().into_split();
        let mut bytes = Vec::new();
        for n in 0..10_000 {
            let n = format!("{n:05}");
            holdfast_wire::resp::put_command(&mut bytes, &[b"SET", n.as_bytes(), n.as_bytes()]);
            holdfast_wire::resp::put_command(&mut bytes, &[b"GET", n.as_bytes()]);
        }
        let sent = tokio::spawn(async move {
            to.write_all(&bytes).await.unwrap();
            to
        });
        for n in 0..10_000 {
            let expected = format!("+OK\r\n$5\r\n{n:05}\r\n");
            let mut reply = vec![0; expected.len()];
            from.read_exact(&mut reply).await.unwrap();
            assert_eq!(reply, expected.as_bytes());
        }
        drop(sent.await.unwrap());
        assert_eq!(redis.ask("DBSIZE"), "10000");
        assert_eq!(front.handle.stats().commands, 20_001);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_in_any_pieces() {
    let redis = Redis::start();
    let front = front(&redis).await;
    let (mut a, mut b) = (Client::connect(front.addr).await, Client::connect(front.addr).await);
    a.pipeline(&["MULTI", "SET x 1", "INCR x", "EXEC", "GET x"]).await;
    assert_eq!(a.replies(5).await, ["OK", "QUEUED", "QUEUED", "[OK, :2]", "2"]);
    for (command, reply) in
        [("WATCH x", "OK"), ("MULTI", "OK"), ("SELECT 3", "QUEUED"), ("SET x 5", "QUEUED")]
    {
        assert_eq!(a.ask(command).await, reply);
    }
    assert_eq!(b.ask("SET x 9").await, "OK");
    assert_eq!(a.ask("EXEC").await, "nil");
    assert_eq!(a.ask("GET x").await, "9", "still in the first database");
    a.pipeline(&["MULTI", "SELECT 3", "EXEC"]).await;
    assert_eq!(a.replies(3).await[2], "[OK]");
    assert_eq!(a.ask("GET x").await, "nil");
    assert_eq!(a.ask("MULTI").await, "OK");
    assert_eq!(a.ask("DISCARD").await, "OK");
    // What is not carried spoils the transaction that it stands in.
    assert_eq!(a.ask("MULTI").await, "OK");
    assert_eq!(a.ask("SET y 1").await, "QUEUED");
    assert!(a.ask("REPLICAOF NO ONE").await.starts_with("-ERR REPLICAOF inside MULTI is not carried"));
    assert!(a.ask("EXEC").await.starts_with("-EXECABORT shop: the transaction was discarded"));
    assert_eq!(a.ask("GET y").await, "nil");
    assert_eq!(a.ask("PING").await, "PONG");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_break_holdfast_is_refused() {
    let redis = Redis::start();
    let front = front(&redis).await;
    let mut client = Client::connect(front.addr).await;
    for command in [
        "REPLICAOF NO ONE",
        "SLAVEOF 127.0.0.1 1",
        "SHUTDOWN NOSAVE",
        "DEBUG SLEEP 0",
        "FAILOVER",
        "CLUSTER NODES",
        "PSYNC ? -1",
        "SAVE",
        "CONFIG SET appendonly yes",
        "CONFIG SET maxmemory 0 replica-read-only no",
        "CONFIG REWRITE",
        "ACL SETUSER x",
        "MODULE LOAD x",
        "CLIENT REPLY OFF",
        "CLIENT PAUSE 100",
        "CLIENT TRACKING ON",
        "CLIENT TRACKING ON REDIRECT 1",
    ] {
        let reply = client.ask(command).await;
        assert!(
            reply.starts_with("-ERR ") && reply.contains("is not carried by Holdfast's proxy: "),
            "{reply}"
        );
    }
    assert_eq!(
        client.ask("replicaof no one").await,
        "-ERR REPLICAOF is not carried by Holdfast's proxy: Holdfast decides who is primary and who follows whom (`holdfast switchover`)"
    );
    assert_eq!(client.ask("CONFIG GET appendonly").await, "[appendonly, no]");
}

/// The commands of a category, as the engine has them.
fn commands(redis: &Redis, category: &str) -> Vec<String> {
    let list = redis.ask(&format!("COMMAND LIST FILTERBY ACLCAT {category}"));
    list.lines().filter(|name| !name.contains('|')).map(str::to_string).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_writes_is_taken_for_a_read() {
    let redis = Redis::start();
    let (writes, reads) = (commands(&redis, "write"), commands(&redis, "read"));
    assert!(writes.len() > 90 && reads.len() > 70);
    // On the read port at the writer, what the table calls a write is refused.
    let front = front(&redis).await;
    let mut client = Client::connect(front.handle.ro_addr().unwrap()).await;
    for name in &writes {
        let reply = client.ask(name).await;
        assert!(reply.starts_with("-READONLY"), "{name} writes: {reply}");
    }
    for name in reads.iter().filter(|name| !writes.contains(name)) {
        let reply = client.ask(name).await;
        assert!(!reply.starts_with("-READONLY"), "{name} only reads: {reply}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_stream_through() {
    const LARGE: usize = 100_000_000;
    let redis = Redis::start();
    let front = front(&redis).await;
    let mut client = Client::connect(front.addr).await;
    client.send_bytes(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${LARGE}\r\n").as_bytes()).await;
    let piece = vec![b'x'; 1_000_000];
    for _ in 0..LARGE / piece.len() / 2 {
        client.send_bytes(&piece).await;
    }
    // The half that was sent is the engine's, not the proxy's.
    let at_engine = || {
        let memory = redis.ask("INFO memory");
        let used = memory.lines().find_map(|l| l.strip_prefix("used_memory:")?.parse::<usize>().ok());
        used.unwrap() > LARGE / 2
    };
    eventually("the engine has what was sent", at_engine).await;
    for _ in 0..LARGE / piece.len() / 2 {
        client.send_bytes(&piece).await;
    }
    client.send_bytes(b"\r\n*2\r\n$6\r\nSTRLEN\r\n$1\r\nk\r\n").await;
    assert_eq!(client.replies(2).await, ["OK", &format!(":{LARGE}")]);
    // Back again, to a client that does not read for a while: the engine keeps it.
    client.pipeline(&["GET k", "PING"]).await;
    let waits = || {
        let clients = redis.ask("CLIENT LIST");
        clients.lines().any(|l| l.contains("user=app") && l.contains("cmd=get") && omem(l) > LARGE / 2)
            || clients
                .lines()
                .any(|l| l.contains("user=app") && l.contains("cmd=ping") && omem(l) > LARGE / 2)
    };
    eventually("the engine waits for the client", waits).await;
    let reply = client.reply().await;
    assert_eq!((reply.len(), client.reply().await.as_str()), (LARGE, "PONG"));
    // Many arguments are as long.
    let mut mset = vec!["MSET".to_string()];
    (0..20_000).for_each(|n| mset.extend([format!("key:{n}"), format!("value:{n}")]));
    assert_eq!(client.ask(&mset.join(" ")).await, "OK");
    assert_eq!(client.ask("GET key:19999").await, "value:19999");
}

/// Bytes that the engine keeps for a client.
fn omem(line: &str) -> usize {
    let field = line.split(' ').find_map(|f| f.strip_prefix("omem="));
    field.unwrap_or("0").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_command_is_answered_and_ended() {
    let redis = Redis::start();
    let front = front(&redis).await;
    for (bytes, error) in [
        (&b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\n"[..], "-ERR Protocol error: invalid bulk length"),
        (b"*1\r\n+PING\r\n", "-ERR Protocol error: expected '$', got '+'"),
        (b"*a\r\n", "-ERR Protocol error: invalid multibulk length"),
        (b"GET \"k\r\n", "-ERR Protocol error: unbalanced quotes in request"),
        (&[b'a'; 20_000], "-ERR Protocol error: too big inline request"),
    ] {
        let mut client = Client::connect(front.addr).await;
        // What came before is served.
        client.send("SET before 1").await;
        client.send_bytes(bytes).await;
        assert_eq!(client.replies(2).await, ["OK", error]);
        assert!(client.is_closed().await);
    }
    assert_eq!(front.handle.stats().errors_protocol, 5);
    // Half a command is no command.
    let mut client = Client::connect(front.addr).await;
    client.send_bytes(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$5\r\nab").await;
    drop(client);
    // One whose client ends its side still has its reply.
    let mut client = Client::connect(front.addr).await;
    client.send_bytes(b"SET last 1\r\nGET last\r\n").await;
    client.stream.get_mut().shutdown().await.unwrap();
    assert_eq!(client.replies(3).await, ["OK", "1", "closed"]);
    eventually("all are gone", || front.handle.stats().connections == 0).await;
    assert_eq!(redis.ask("EXISTS half"), "0");
    let mut slow = Client::connect(front.addr).await;
    for byte in b"*2\r\n$3\r\nGET\r\n$6\r\nbefore\r\n" {
        slow.send_bytes(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(slow.reply().await, "1");
}
