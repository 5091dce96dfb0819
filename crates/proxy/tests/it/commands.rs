//! Every kind of command behaves as against the server.

use crate::client::{As, CAPABILITIES, Client, Refused, packets, read_packet, send};
use crate::engine::{Engine, OTHER, PASSWORD, USER, eventually};
use crate::front::Front;
use holdfast_wire::login::ChangeUser;
use holdfast_wire::packet::HEADER_BYTES;
use holdfast_wire::reply::ErrPacket;
use holdfast_wire::{Capabilities, command, native_password};
use std::net::SocketAddr;
use std::process::{Command, Output};
use tokio::io::AsyncWriteExt;

fn run(program: &str, args: Vec<String>) -> tokio::task::JoinHandle<Output> {
    let program = program.to_string();
    tokio::task::spawn_blocking(move || Command::new(program).args(args).output().unwrap())
}

fn mariadb(addr: SocketAddr, more: &[&str]) -> tokio::task::JoinHandle<Output> {
    let mut args = vec!["--no-defaults".into(), "-h127.0.0.1".into(), format!("-P{}", addr.port())];
    args.extend([format!("-u{USER}"), format!("-p{PASSWORD}"), "-N".into(), "-D".into(), "d".into()]);
    args.extend(more.iter().map(|a| a.to_string()));
    run("mariadb", args)
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Runs a command that names a statement as the how-manieth prepared it is. The reply, without the statement's id.
async fn run_with_ids(client: &mut Client, payload: &[u8], ids: &mut Vec<u32>) -> Vec<u8> {
    let mut payload = payload.to_vec();
    if command::names_statement(payload[0]) && payload[1] != 0xFF {
        let id = ids[usize::from(payload[1]) - 1];
        payload[1..5].copy_from_slice(&id.to_le_bytes());
    }
    let mut reply = client.command(&payload).await.unwrap();
    if payload[0] == command::STMT_PREPARE && reply[HEADER_BYTES] == 0 {
        ids.push(u32::from_le_bytes(*reply[5..].first_chunk().unwrap()));
        reply[5..9].fill(0);
    }
    reply
}

/// The same commands, directly and through the proxy, under several capabilities: the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_are_the_servers_own_byte_for_byte() {
    let engine = Engine::start();
    engine.sql("CREATE TABLE d.t (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(20))");
    let front = Front::open_to(&engine).await;
    let mut direct = Client::connect(engine.addr).await;
    direct.query("CREATE PROCEDURE two() BEGIN SELECT 1; SELECT 2; END").await.unwrap();
    let script: &[&[u8]] = &[
        b"\x03SELECT 1, 'x', NULL",
        b"\x03SELECT 1; SELECT 2; SET @a = 1; SELECT @a",
        b"\x03INSERT INTO t (v) VALUES ('a'), ('b')",
        b"\x03UPDATE t SET v = 'c'",
        b"\x03DELETE FROM t; ALTER TABLE t AUTO_INCREMENT = 1",
        b"\x03SET NAMES latin1",
        b"\x03BEGIN",
        b"\x03COMMIT",
        b"\x03nonsense",
        b"\x03SELECT 1; nonsense; SELECT 2",
        b"\x03CALL two()",
        b"\x03USE mysql",
        b"\x02d",
        b"\x04t\0",
        b"\x0e",
        b"\x1b\0\0",
        b"\x1b\x01\0",
        b"\x16SELECT ?, 2 FROM t WHERE id = ?",
        b"\x16SELECT 1",
        b"\x16INSERT INTO t (v) VALUES ('z')",
        b"\x17\x03\0\0\0\0\x01\0\0\0",
        b"\x17\x02\0\0\0\0\x01\0\0\0",
        b"\x17\x02\0\0\0\x01\x01\0\0\0",
        b"\x1c\x02\0\0\0\x01\0\0\0",
        b"\x1a\x02\0\0\0",
        b"\x17\xff\xff\xff\xff\0\x01\0\0\0",
        b"\x16SELECT * FROM nowhere",
        b"\x1f",
        b"\x0d",
        b"\x99",
    ];
    let plain = CAPABILITIES;
    for capabilities in [plain, plain.with(Capabilities::DEPRECATE_EOF), plain.with(Capabilities::FOUND_ROWS)]
    {
        let log_in = |addr| Client::log_in(addr, As { capabilities, ..As::default() });
        let (mut direct, mut through) =
            (log_in(engine.addr).await.unwrap(), log_in(front.addr).await.unwrap());
        let (mut direct_ids, mut through_ids) = (Vec::new(), Vec::new());
        for payload in script {
            engine.sql("TRUNCATE d.t");
            let expected = run_with_ids(&mut direct, payload, &mut direct_ids).await;
            engine.sql("TRUNCATE d.t");
            let got = run_with_ids(&mut through, payload, &mut through_ids).await;
            assert_eq!(got, expected, "{}", payload.escape_ascii());
        }
        assert_eq!(through_ids, [1, 2, 3]);
    }
    assert_eq!(front.handle.stats().errors_protocol, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_packets_stream_through() {
    let engine = Engine::start();
    let front = Front::open_to(&engine).await;
    let mut client = Client::connect(front.addr).await;
    // Around the frame's limit, and over several frames; each way.
    for len in [100_000usize, 900_000, (1 << 24) - 1 - 17, (1 << 24) - 17, 40_000_000] {
        let sql = format!("SELECT LENGTH('{}')", "x".repeat(len));
        assert_eq!(client.value(&sql).await, len.to_string());
        client.send_query(&format!("SELECT REPEAT('y', {len})")).await;
        let reply = client.reply(command::QUERY).await.unwrap();
        assert_eq!(reply.iter().filter(|b| **b == b'y').count(), len + usize::from(reply.contains(&b'R')));
    }
    // Half a packet stays with the proxy; the engine hears nothing of it.
    client.stream.write_all(b"\x20\0\0\0\x03DROP TABLE").await.unwrap();
    drop(client);
    eventually("the session is over", || front.handle.stats().connections == 0).await;
    assert_eq!(front.handle.stats().held_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_load_from_the_client() {
    let engine = Engine::start_with(&["--local-infile=1"]);
    engine.sql("CREATE TABLE d.t (a INT PRIMARY KEY, b VARCHAR(200))");
    let front = Front::open_to(&engine).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.csv");
    let rows: String = (0..20_000).map(|i| format!("{i}\t{}\n", "r".repeat(100))).collect();
    std::fs::write(&file, rows).unwrap();
    let load = format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE t; SELECT COUNT(*) FROM t", file.display());
    let out = mariadb(front.addr, &["--local-infile=1", "-e", &load]).await.unwrap();
    assert_eq!(text(&out).trim(), "20000");
    // A file that is not there: the client sends an empty one, and the session goes on.
    let mut client = Client::log_in(
        front.addr,
        As { capabilities: CAPABILITIES.with(Capabilities::LOCAL_FILES), ..As::default() },
    )
    .await
    .unwrap();
    client.send(b"\x03LOAD DATA LOCAL INFILE 'no' INTO TABLE t").await;
    assert_eq!(read_packet(&mut client.stream).await.unwrap(), (1, b"\xfbno".to_vec()));
    send(&mut client.stream, 2, b"").await;
    assert_eq!(read_packet(&mut client.stream).await.unwrap().1[0], 0);
    assert_eq!(client.value("SELECT 7").await, "7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_works_with_the_id_of_the_handshake() {
    let engine = Engine::start();
    let front = Front::open_to(&engine).await;
    let mut victim = Client::connect(front.addr).await;
    let id = victim.greeting.connection_id;
    victim.send_query("SELECT SLEEP(30)").await;
    let sleeping = || {
        engine.sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP%'")
            == "1"
    };
    eventually("it sleeps", sleeping).await;
    // What `mariadb` sends on Ctrl-C.
    let out = mariadb(front.addr, &["-e", &format!("KILL QUERY {id}")]).await.unwrap();
    assert_eq!(text(&out), "");
    assert_eq!(victim.result().await.unwrap_err().0, 1317);
    assert_eq!(victim.value("SELECT 5").await, "5");

    // The engine's own ids work as well, and its rules hold.
    let mut other =
        Client::log_in(front.addr, As { user: OTHER, password: "", ..As::default() }).await.unwrap();
    assert_eq!(other.query(&format!("KILL {id}")).await.unwrap_err().0, 1095);
    assert_eq!(victim.value("SELECT 6").await, "6");
    let mut admin = Client::connect(front.addr).await;
    let backend_id = other.value("SELECT CONNECTION_ID()").await;
    admin.query(&format!("KILL QUERY {backend_id}")).await.unwrap();

    // COM_PROCESS_KILL ends the connection; it is not mended.
    let mut kill = vec![command::PROCESS_KILL];
    kill.extend_from_slice(&id.to_le_bytes());
    let reply = admin.command(&kill).await.unwrap();
    assert_eq!(packets(&reply)[0][0], 0);
    assert!(victim.command(b"\x03SELECT 1").await.is_err());
    let Refused(code, ..) = admin.query(&format!("KILL {id}")).await.unwrap_err();
    assert_eq!(code, 1094);

    // An engine's id that is a session's ends that session for good, too.
    let mut idle = Client::connect(front.addr).await;
    let backend_id = idle.value("SELECT CONNECTION_ID()").await;
    admin.query(&format!("KILL {backend_id}")).await.unwrap();
    assert!(idle.command(b"\x03SELECT 1").await.is_err());

    // A held command can be interrupted too.
    front.close(2);
    other.send_query("SELECT 1").await;
    eventually("it is held", || front.handle.stats().held == 1).await;
    let other_id = other.greeting.connection_id;
    let mut second = vec![command::PROCESS_KILL];
    second.extend_from_slice(&other_id.to_le_bytes());
    assert_eq!(packets(&admin.command(&second).await.unwrap())[0][0], 0xFF, "not its owner");
    let mut same =
        Client::log_in(engine.addr, As { user: OTHER, password: "", ..As::default() }).await.unwrap();
    assert_eq!(
        same.query(&format!("KILL {other_id}")).await.unwrap_err().0,
        1094,
        "the engine does not know it"
    );
    front.open(2, &engine);
    assert_eq!(other.result().await.unwrap()[0][0], "1");
    let mut twin =
        Client::log_in(front.addr, As { user: OTHER, password: "", ..As::default() }).await.unwrap();
    front.close(3);
    other.send_query("SELECT 2").await;
    eventually("it is held", || front.handle.stats().held == 1).await;
    twin.query(&format!("KILL QUERY {other_id}")).await.unwrap();
    assert_eq!(other.result().await.unwrap_err().0, 1317);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_change_its_user() {
    let engine = Engine::start();
    let front = Front::open_to(&engine).await;
    let mut client = Client::connect(front.addr).await;
    client.query("SET @x = 1, SESSION wait_timeout = 77").await.unwrap();
    let change = |client: &Client, user: &str, password: &str| ChangeUser {
        user: user.into(),
        auth: native_password::prove(password.as_bytes(), &client.greeting.nonce),
        schema: Some(b"d".to_vec()),
        collation: Some(45),
        auth_plugin: Some(native_password::NAME.to_vec()),
        attributes: None,
    };
    let payload = change(&client, OTHER, "").build(client.capabilities);
    // An empty answer is a proof of an empty password.
    let reply = client.command(&payload).await.unwrap();
    assert_eq!(packets(&reply)[0][0], 0);
    let who = client
        .value("SELECT CONCAT_WS(' ', SUBSTRING_INDEX(USER(), '@', 1), @x, @@wait_timeout, DATABASE())");
    assert_eq!(who.await, "other 28800 d");
    let payload = change(&client, USER, PASSWORD).build(client.capabilities);
    assert_eq!(packets(&client.command(&payload).await.unwrap())[0][0], 0);
    let payload = change(&client, USER, "wrong").build(client.capabilities);
    let reply = client.command(&payload).await.unwrap();
    assert_eq!(ErrPacket::parse(packets(&reply)[0]).unwrap().code, 1045);
    assert!(client.command(b"\x0e").await.is_err(), "closed, as the server does");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_carried_is_refused_in_words() {
    let engine = Engine::start();
    let front = Front::open_to(&engine).await;
    let mut client = Client::connect(front.addr).await;
    for code in [command::BINLOG_DUMP, command::REGISTER_SLAVE, command::BINLOG_DUMP_GTID, command::MULTI] {
        let reply = client.command(&[code, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        assert_eq!(ErrPacket::parse(packets(&reply)[0]).unwrap().code, 1047);
    }
    let reply = client.command(b"\x17\x63\0\0\0\0\x01\0\0\0").await.unwrap();
    assert_eq!(ErrPacket::parse(packets(&reply)[0]).unwrap().code, 1243);
    assert_eq!(client.value("SELECT 1").await, "1");
    // Two commands at once are served one after the other.
    client.stream.write_all(b"\x09\0\0\0\x03SELECT 1\x09\0\0\0\x03SELECT 2").await.unwrap();
    let mut replies = Vec::new();
    while replies.len() < 2 * (HEADER_BYTES + 1) || packets(&replies).len() < 10 {
        let mut more = [0; 4_096];
        let n = tokio::io::AsyncReadExt::read(&mut client.stream, &mut more).await.unwrap();
        assert_ne!(n, 0);
        replies.extend_from_slice(&more[..n]);
    }
    assert_eq!((packets(&replies)[3], packets(&replies)[8]), (&b"\x011"[..], &b"\x012"[..]));
    // A packet out of order ends the session.
    client.stream.write_all(b"\x01\0\0\x05\x0e").await.unwrap();
    let reply = client.reply(command::PING).await.unwrap();
    assert_eq!(ErrPacket::parse(packets(&reply)[0]).unwrap().code, 1156);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pymysql_and_sysbench_work() {
    let engine = Engine::start();
    engine.sql("CREATE DATABASE sbtest");
    let front = Front::open_to(&engine).await;
    let script = r#"
import pymysql, sys
con = pymysql.connect(host='127.0.0.1', port=int(sys.argv[1]), user=sys.argv[2], password=sys.argv[3], database='d')
c = con.cursor()
c.execute("CREATE TABLE p (a INT, b TEXT)")
print(c.executemany("INSERT INTO p VALUES (%s, %s)", [(1, "a@b"), (2, None)]))
con.commit()
c.execute("SELECT * FROM p ORDER BY a")
print(c.fetchall())
con.ping()
con.select_db('mysql')
c.execute("SELECT DATABASE()")
print(c.fetchone()[0])
"#;
    let args = ["-c", script, &front.addr.port().to_string(), USER, PASSWORD].map(String::from).to_vec();
    let out = run("/usr/bin/python3", args).await.unwrap();
    assert_eq!(text(&out), "2\n((1, 'a@b'), (2, None))\nmysql\n");
    for (mode, command) in [("auto", "prepare"), ("auto", "run"), ("disable", "run")] {
        let mut args = vec!["oltp_read_write".to_string(), "--mysql-host=127.0.0.1".into()];
        args.extend([format!("--mysql-port={}", front.addr.port()), format!("--mysql-user={USER}")]);
        args.extend([
            format!("--mysql-password={PASSWORD}"),
            "--table-size=200".into(),
            "--events=50".into(),
        ]);
        args.extend([
            "--time=20".into(),
            "--threads=4".into(),
            format!("--db-ps-mode={mode}"),
            command.into(),
        ]);
        let out = run("sysbench", args).await.unwrap();
        assert!(out.status.success(), "{}", text(&out));
    }
    assert_eq!(front.handle.stats().errors_protocol, 0);
}
