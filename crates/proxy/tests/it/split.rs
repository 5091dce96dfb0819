//! Reads on the read/write port that leave the primary, in front of real replicas.

use crate::client::{As, CAPABILITIES, Client, Refused, packets};
use crate::engine::{Engine, eventually};
use crate::front::Front;
use crate::group::{Flavour, Group, here};
use holdfast_core::topology::ReadConsistency::{Eventual, Session, Strong};
use holdfast_core::{Epoch, Gate};
use holdfast_wire::{Capabilities, command};
use std::time::Duration;
use tokio::time::Instant;

/// Everything that needs one primary and one replica: they are slow to make.
async fn reads_leave(flavour: Flavour) {
    let group = Group::start(flavour, 1);
    what_leaves(&group).await;
    state_follows(&group).await;
    statements_are_in_two_places(&group).await;
    diagnostics_are_where_the_statement_was(&group).await;
    own_writes_are_seen(&group).await;
    eventual_reads_do_not_wait(&group).await;
    a_readers_no_is_not_the_last_word(&group).await;
    a_read_away_can_be_killed_and_does_not_hold_up_a_cut(&group).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_leave_a_mariadb_primary() {
    reads_leave(Flavour::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_leave_a_mysql_primary() {
    reads_leave(Flavour::MySql).await;
}

async fn what_leaves(group: &Group) {
    let sql = "CREATE TABLE IF NOT EXISTS d.t (id INT PRIMARY KEY AUTO_INCREMENT, v INT); \
               CREATE FUNCTION d.f(x INT) RETURNS INT DETERMINISTIC NO SQL RETURN x; \
               CREATE VIEW d.v AS SELECT name, d.f(1) AS one FROM d.here";
    group.primary.sql(sql);
    group.level().await;
    let strong = group.front(Strong, 100, &[(0, "a")]).await;
    let mut client = Client::connect(strong.addr).await;
    assert_eq!(here(&mut client).await, "p");
    assert_eq!(strong.handle.stats().reads_at_replicas, 0);

    let front = group.front(Eventual, 100, &[(0, "a")]).await;
    let mut client = Client::connect(front.addr).await;
    for sql in [
        "SELECT name FROM here",
        "/* why */ (SELECT UPPER(name) FROM `here` WHERE name <> 'it''s @x')",
        "WITH x AS (SELECT name FROM here) SELECT * FROM x",
        "SELECT name FROM v",
    ] {
        assert_eq!(client.value(sql).await.to_lowercase(), "r1", "{sql}");
    }
    for sql in [
        "SELECT name FROM here FOR UPDATE",
        "SELECT name FROM here LOCK IN SHARE MODE",
        "SELECT name FROM here WHERE f(1) = 1",
        "SELECT name, @x := 1 FROM here",
        "SELECT name, @@port FROM here",
        "SELECT name, LAST_INSERT_ID() FROM here",
        "SELECT name, SLEEP(0) FROM here",
        "SELECT SQL_CALC_FOUND_ROWS name FROM here",
        "SELECT /*+ NO_MERGE(t) */ name FROM here AS t",
        "SELECT name /*! , 1 */ FROM here",
        "SELECT name FROM here; SELECT 1",
        "SELECT name, (SELECT COUNT(*) FROM information_schema.tables) FROM here",
    ] {
        assert_eq!(client.query(sql).await.unwrap()[0][0], "p", "{sql}");
    }
    // Transactions stay, however they are opened.
    for (open, close) in [
        ("BEGIN", "COMMIT"),
        ("START TRANSACTION READ ONLY", "ROLLBACK"),
        ("SET autocommit=0", "SET autocommit=1"),
        ("XA START 'x'", "XA END 'x'; XA ROLLBACK 'x'"),
        ("LOCK TABLES here READ", "UNLOCK TABLES"),
        ("DO GET_LOCK('l', 0)", ""),
    ] {
        let mut client = Client::connect(front.addr).await;
        assert_eq!(here(&mut client).await, "r1");
        client.query(open).await.unwrap();
        assert_eq!(here(&mut client).await, "p", "{open}");
        for sql in close.split("; ").filter(|sql| !sql.is_empty()) {
            client.query(sql).await.unwrap();
        }
        assert_eq!(here(&mut client).await, if close.is_empty() { "p" } else { "r1" }, "{close}");
    }
    // A temporary table could hide any other; a user variable hides none.
    client.query("SET @x = 1").await.unwrap();
    assert_eq!(here(&mut client).await, "r1");
    client.query("CREATE TEMPORARY TABLE here (name VARCHAR(9))").await.unwrap();
    assert!(client.query("SELECT name FROM here").await.unwrap().is_empty());
    assert_eq!(front.handle.stats().errors_protocol, 0);
}

async fn state_follows(group: &Group) {
    group
        .primary
        .sql("CREATE DATABASE e; CREATE TABLE e.here (name VARCHAR(9)); INSERT INTO e.here VALUES ('e')");
    group.level().await;
    let front = group.front(Eventual, 100, &[(0, "a")]).await;
    for capabilities in [CAPABILITIES, CAPABILITIES.with(Capabilities::SESSION_TRACK)] {
        let mut client = Client::log_in(front.addr, As { capabilities, ..As::default() }).await.unwrap();
        assert_eq!(client.value("SELECT CONCAT(name, 1 || 0) FROM here").await, "r11");
        client.query("SET SESSION sql_mode='PIPES_AS_CONCAT', time_zone='+05:00'").await.unwrap();
        assert_eq!(client.value("SELECT CONCAT(name, 1 || 0) FROM here").await, "r110");
        assert_eq!(
            client.value("SELECT CONCAT(name, FROM_UNIXTIME(0)) FROM here").await,
            "r11970-01-01 05:00:00"
        );
        client.query("SET timestamp=7").await.unwrap();
        assert_eq!(client.value("SELECT CONCAT(name, UNIX_TIMESTAMP()) FROM here").await, "r17");
        client.query("SET timestamp=DEFAULT").await.unwrap();
        assert_eq!(client.value("SELECT CONCAT(name, UNIX_TIMESTAMP() > 1000000) FROM here").await, "r11");
        client.query("SET NAMES latin1").await.unwrap();
        assert_eq!(client.value("SELECT CONCAT(name, LENGTH('é')) FROM here").await, "r12");
        client.command(&[&[command::INIT_DB], &b"e"[..]].concat()).await.unwrap();
        assert_eq!(client.value("SELECT name FROM here").await, "e");
        client.query("USE d").await.unwrap();
        assert_eq!(client.value("SELECT name FROM here").await, "r1");
        client.command(&[command::RESET_CONNECTION]).await.unwrap();
        assert_eq!(client.value("SELECT CONCAT(name, 1 || 0) FROM here").await, "r11");
        // The client may ask for read-write transactions; a reader's stay read-only.
        client.query("SET SESSION TRANSACTION READ WRITE").await.unwrap();
        assert_eq!(client.value("SELECT name FROM here").await, "r1");
    }
    assert_eq!(front.handle.stats().reads_returned, 0);
}

async fn statements_are_in_two_places(group: &Group) {
    let front = group.front(Eventual, 100, &[(0, "a")]).await;
    let mut client = Client::connect(front.addr).await;
    // A row's header, its NULLs, the length of its one column.
    let text = |reply: Vec<u8>| String::from_utf8_lossy(&packets(&reply)[3][3..]).to_string();
    let id = client.prepare("SELECT CONCAT(name, ?) FROM here").await;
    let insert = client.prepare("INSERT INTO t (v) VALUES (?)").await;
    assert_eq!(text(client.execute(id, 7, true).await.unwrap()), "r17");
    client.query("BEGIN").await.unwrap();
    // The primary has not seen it, nor the types of its parameters.
    assert_eq!(text(client.execute(id, 8, false).await.unwrap()), "p8");
    client.execute(insert, 1, true).await.unwrap();
    client.query("COMMIT").await.unwrap();
    assert_eq!(text(client.execute(id, 9, false).await.unwrap()), "r19");
    // Its names mean what they meant, wherever it is prepared again.
    let other = client.prepare("SELECT CONCAT(name, ?) FROM here AS x").await;
    client.query("USE e").await.unwrap();
    assert_eq!(text(client.execute(id, 1, false).await.unwrap()), "r11");
    client.query("BEGIN").await.unwrap();
    assert_eq!(text(client.execute(other, 2, true).await.unwrap()), "p2");
    client.query("COMMIT").await.unwrap();
    assert_eq!(client.value("SELECT name FROM here").await, "e");
    assert_eq!(client.value("SELECT name FROM here FOR UPDATE").await, "e");
    // Closed in both.
    let open = |engine: &Engine| {
        let status = engine.sql("SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'");
        status.split_whitespace().last().unwrap().parse::<u32>().unwrap()
    };
    for id in [id, other, insert] {
        client.send(&[&[command::STMT_CLOSE][..], &id.to_le_bytes()].concat()).await;
    }
    for engine in [&group.primary, &group.replicas[0]] {
        eventually("statements are closed", || open(engine) == 0).await;
    }
    // A replica that goes away takes nothing with it.
    let id = client.prepare("SELECT CONCAT(name, ?) FROM d.here").await;
    group.route(&front, 1, &[]);
    assert_eq!(text(client.execute(id, 3, true).await.unwrap()), "p3");
    assert_eq!(front.handle.stats().errors_state_lost, 0);
}

async fn diagnostics_are_where_the_statement_was(group: &Group) {
    let front = group.front(Eventual, 100, &[(0, "a")]).await;
    let mut client = Client::connect(front.addr).await;
    assert_eq!(client.value("SELECT CONCAT(name, CAST('x' AS SIGNED)) FROM here").await, "r10");
    assert_eq!(client.query("SHOW WARNINGS").await.unwrap()[0][1], "1292");
    assert_eq!(client.value("SHOW COUNT(*) WARNINGS").await, "1");
    client.query("SELECT 1 UNION SELECT 2 UNION SELECT 3").await.unwrap();
    assert_eq!(client.value("SELECT FOUND_ROWS()").await, "3");
    client.query("DO 1 + 'x'").await.unwrap();
    assert_eq!(client.query("SHOW WARNINGS").await.unwrap().len(), 1);
    client.query("INSERT INTO t (v) VALUES (1), (2)").await.unwrap();
    assert_eq!(client.value("SELECT ROW_COUNT()").await, "2");
}

/// With a replica that does not apply, then with one that does.
async fn own_writes_are_seen(group: &Group) {
    group.level().await;
    group.stop_applying(0);
    let front = group.front(Session, 50, &[(0, "a")]).await;
    let tracking = CAPABILITIES.with(Capabilities::SESSION_TRACK).with(Capabilities::DEPRECATE_EOF);
    let mut last = 0;
    for capabilities in [CAPABILITIES, tracking] {
        let mut client = Client::log_in(front.addr, As { capabilities, ..As::default() }).await.unwrap();
        assert_eq!(here(&mut client).await, "r1", "it has written nothing yet");
        let write = client.prepare("INSERT INTO t (v) VALUES (?)").await;
        let read = client.prepare("SELECT COUNT(*) FROM t WHERE v = ?").await;
        for i in 0..40 {
            let v = 1_000 + last + i;
            match i % 4 {
                0 => drop(client.query(&format!("INSERT INTO t (v) VALUES ({v})")).await.unwrap()),
                1 => drop(client.execute(write, v, i == 1).await.unwrap()),
                2 => {
                    client.query("BEGIN").await.unwrap();
                    client.query(&format!("INSERT INTO t (v) VALUES ({v})")).await.unwrap();
                    client.query("COMMIT").await.unwrap();
                }
                // Nobody says where this one is in the log.
                _ => {
                    let sql =
                        format!("INSERT INTO t (v) VALUES ({v}); INSERT INTO t (id) VALUES (1); SELECT 1");
                    client.query(&sql).await.unwrap();
                }
            }
            assert_eq!(client.value(&format!("SELECT COUNT(*) FROM t WHERE v = {v}")).await, "1", "{i}");
            let reply = client.execute(read, v, i == 0).await.unwrap();
            let row = if capabilities == tracking { 2 } else { 3 };
            assert_eq!(packets(&reply)[row][2..10], 1u64.to_le_bytes(), "{i}");
        }
        last += 40;
    }
    let stats = front.handle.stats();
    assert!(
        stats.reads_late >= 1 && stats.reads_late <= 60,
        "a late reader is not waited for each time: {stats:?}"
    );
    group.go_on(0);
    // The same with replication at work: the reads come back to the replica, and still see everything.
    let before = front.handle.stats().reads_at_replicas;
    let mut client = Client::connect(front.addr).await;
    let mut v = 100_000;
    eventually_async("reads are a replica's again", async || {
        v += 1;
        client.query(&format!("INSERT INTO t (v) VALUES ({v})")).await.unwrap();
        assert_eq!(client.value(&format!("SELECT COUNT(*) FROM t WHERE v = {v}")).await, "1");
        front.handle.stats().reads_at_replicas >= before + 50
    })
    .await;
    assert!(front.handle.stats().reads_waited > 0);
    // What the text does not show: a write in a function, and one before an error.
    group.primary.sql(
        "DELIMITER //\n\
         CREATE FUNCTION d.w(x INT) RETURNS INT DETERMINISTIC MODIFIES SQL DATA\n\
         BEGIN INSERT INTO d.t (v) VALUES (x); RETURN x; END//\n\
         CREATE PROCEDURE d.p(x INT) BEGIN INSERT INTO d.t (v) VALUES (x); SELECT * FROM d.nowhere; END//",
    );
    group.level().await;
    for round in 0..20 {
        let v = 200_000 + 2 * round;
        client.query(&format!("SELECT w({v})")).await.unwrap();
        assert_eq!(client.value(&format!("SELECT COUNT(*) FROM t WHERE v = {v}")).await, "1");
        client.query(&format!("CALL p({})", v + 1)).await.unwrap_err();
        assert_eq!(client.value(&format!("SELECT COUNT(*) FROM t WHERE v = {}", v + 1)).await, "1");
    }
}

async fn eventually_async(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        if check().await {
            return;
        }
    }
    panic!("not within 30 s: {what}");
}

async fn eventual_reads_do_not_wait(group: &Group) {
    group.level().await;
    group.stop_applying(0);
    let front = group.front(Eventual, 50, &[(0, "a")]).await;
    let mut client = Client::connect(front.addr).await;
    client.query("INSERT INTO t (v) VALUES (555555)").await.unwrap();
    assert_eq!(client.value("SELECT COUNT(*) FROM t WHERE v = 555555").await, "0", "as the replica has it");
    assert_eq!(client.value("SELECT COUNT(*) FROM t WHERE v = 555555 FOR UPDATE").await, "1");
    group.go_on(0);
    group.level().await;
    assert_eq!(client.value("SELECT COUNT(*) FROM t WHERE v = 555555").await, "1");
}

async fn a_readers_no_is_not_the_last_word(group: &Group) {
    let front = group.front(Eventual, 50, &[(0, "a")]).await;
    let mut client = Client::connect(front.addr).await;
    group.local(&group.primary, "CREATE TABLE d.only (a INT); INSERT INTO d.only VALUES (5)");
    assert_eq!(client.value("SELECT a FROM only").await, "5");
    let id = client.prepare("SELECT a + ? FROM only").await;
    client.execute(id, 1, true).await.unwrap();
    assert_eq!(client.query("SELECT a FROM nowhere").await.unwrap_err().0, 1146);
    assert!(front.handle.stats().reads_returned >= 3);
    // A write that hides in a view.
    group.primary.sql("CREATE VIEW d.hidden AS SELECT d.w(300000) AS x");
    group.level().await;
    client.query("SELECT x FROM hidden").await.unwrap();
    assert_eq!(group.primary.sql("SELECT COUNT(*) FROM d.t WHERE v = 300000"), "1");
    // The replica's connection goes away between two reads.
    assert_eq!(here(&mut client).await, "r1");
    let replica = &group.replicas[0];
    let ids = replica.sql("SELECT id FROM information_schema.processlist WHERE user = 'app' AND db = 'd'");
    for id in ids.split_whitespace() {
        replica.sql(&format!("KILL {id}"));
    }
    assert_eq!(client.value("SELECT COUNT(*) FROM here").await, "1");
    assert_eq!(here(&mut client).await, "r1", "there is a new one");
}

async fn a_read_away_can_be_killed_and_does_not_hold_up_a_cut(group: &Group) {
    group.primary.sql("CREATE TABLE d.n (i INT)");
    group.primary.sql(&format!("INSERT INTO d.n VALUES {}(1)", "(1),".repeat(999)));
    group.level().await;
    let replica = &group.replicas[0];
    let running = || {
        replica.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%d.n c%'") == "2"
    };
    let long = "SELECT COUNT(*) FROM d.n a, d.n b, d.n c, d.n e WHERE a.i + b.i + c.i + e.i > 5";
    let front = group.front(Eventual, 50, &[(0, "a")]).await;
    let (mut reader, mut killer) = (Client::connect(front.addr).await, Client::connect(front.addr).await);
    reader.query("SET @x = 1").await.unwrap();
    reader.send_query(long).await;
    eventually("it reads", running).await;
    killer.query(&format!("KILL QUERY {}", reader.greeting.connection_id)).await.unwrap();
    let Refused(code, ..) = reader.result().await.unwrap_err();
    assert_eq!(code, 1317);
    assert_eq!(reader.value("SELECT @x").await, "1", "the primary's connection is untouched");

    // The epoch ends while a read is away: the parked connection to the primary is cut at once, the read is not.
    reader.send_query(long).await;
    eventually("it reads", running).await;
    let sessions = || {
        group
            .primary
            .sql("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app' AND db = 'd'")
    };
    front.handle.close_gate(Epoch(1));
    eventually("the primary has no sessions", || sessions() == "0").await;
    assert!(running());
    let addr = front.addr;
    group.route(&front, 2, &[(0, "a")]);
    let mut other = Client::connect(addr).await;
    other.query(&format!("KILL QUERY {}", reader.greeting.connection_id)).await.unwrap();
    assert_eq!(reader.result().await.unwrap_err().0, 1317);
    let Refused(code, _, text) = reader.query("SELECT @x").await.unwrap_err();
    assert_eq!(code, 1927, "{text}");

    // Killed whole.
    reader.send_query(long).await;
    eventually("it reads", running).await;
    other.query(&format!("KILL {}", reader.greeting.connection_id)).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut reader.stream, &mut rest);
    tokio::time::timeout(std::time::Duration::from_secs(10), ended)
        .await
        .expect("the client's connection ends")
        .unwrap();
    eventually("the replica has nothing to do", || !running()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_near_even_and_drained() {
    let group = Group::start(Flavour::MariaDb, 3);
    let front = group.front(Eventual, 50, &[(0, "a"), (1, "a"), (2, "b")]).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::connect(front.addr).await);
    }
    async fn where_all_are(clients: &mut [Client]) -> Vec<String> {
        let mut all = Vec::new();
        for client in clients {
            all.push(here(client).await);
        }
        all.sort();
        all
    }
    let even = ["r1", "r1", "r1", "r1", "r2", "r2", "r2", "r2"];
    assert_eq!(where_all_are(&mut clients).await, even, "the own zone's, evenly");
    // One falls behind: its sessions leave it, also those that do nothing.
    let at = |i: usize| {
        let engine: &Engine = &group.replicas[i];
        engine.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app' AND db = 'd'")
    };
    group.route(&front, 1, &[(1, "a"), (2, "b")]);
    eventually("it is drained", || at(0) == "0").await;
    assert_eq!(where_all_are(&mut clients).await, ["r2"; 8]);
    group.route(&front, 1, &[(2, "b")]);
    assert_eq!(where_all_are(&mut clients).await, ["r3"; 8]);
    group.route(&front, 1, &[]);
    assert_eq!(where_all_are(&mut clients).await, ["p"; 8]);
    group.route(&front, 1, &[(0, "a"), (1, "a"), (2, "b")]);
    assert_eq!(where_all_are(&mut clients).await, even);
    group.route(&front, 1, &[(0, "a"), (2, "b")]);
    assert_eq!(where_all_are(&mut clients).await, ["r1"; 8]);
    group.route(&front, 1, &[(0, "a"), (1, "a"), (2, "b")]);
    assert_eq!(where_all_are(&mut clients).await, even, "one that is back gets its share");
    // A route that has run out bounds nobody's lag.
    front.route(1, Gate::Open, Some(group.primary.endpoint("a")), vec![group.replicas[0].endpoint("a")], 0);
    clients[0].send_query("SELECT name FROM d.here").await;
    eventually("it is held", || front.handle.stats().held == 1).await;
    group.route(&front, 1, &[(0, "a")]);
    clients[0].result().await.unwrap();
    assert_eq!(here(&mut clients[0]).await, "r1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_reader_costs_no_error() {
    let mut group = Group::start(Flavour::MariaDb, 2);
    let front = group.front(Session, 50, &[(0, "a"), (1, "a")]).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(front.addr).await;
        assert!(here(&mut client).await.starts_with('r'));
        clients.push(client);
    }
    group.replicas[0].kill();
    for client in &mut clients {
        assert!(["p", "r2"].contains(&&*here(client).await));
        assert_eq!(here(client).await, "r2");
    }
    group.replicas[1].kill();
    for client in &mut clients {
        assert_eq!(here(client).await, "p");
        client.query("CREATE TABLE IF NOT EXISTS d.x (a INT)").await.unwrap();
        assert_eq!(client.value("SELECT COUNT(*) FROM d.x").await, "0");
    }
}

/// Reads go on while there is no primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_without_a_primary() {
    let mut group = Group::start(Flavour::MariaDb, 1);
    let front = group.front(Session, 50, &[(0, "a")]).await;
    let mut client = Client::connect(front.addr).await;
    client.query("CREATE TABLE t (a INT)").await.unwrap();
    client.query("INSERT INTO t VALUES (1)").await.unwrap();
    group.level().await;
    assert_eq!(client.value("SELECT a FROM t").await, "1");
    group.primary.kill();
    let reader = group.replicas[0].endpoint("a");
    front.route(2, Gate::Closed, None, vec![reader.clone()], 600_000);
    for _ in 0..5 {
        assert_eq!(here(&mut client).await, "r1");
    }
    client.send_query("INSERT INTO t VALUES (2)").await;
    eventually("it is held", || front.handle.stats().held == 1).await;
    group.replicas[0].sql("STOP SLAVE; SET GLOBAL read_only=0");
    let writer: Front = front;
    writer.route(3, Gate::Open, Some(reader), vec![], 600_000);
    client.result().await.unwrap();
    assert_eq!(client.value("SELECT COUNT(*) FROM t").await, "2");
}
