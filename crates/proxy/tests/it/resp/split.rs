//! Reads on the read/write port that leave the primary.

use super::{Client, Redis, for_redis};
use crate::engine::eventually;
use crate::front::Front;
use holdfast_core::Gate;
use holdfast_core::topology::ReadConsistency;

struct Scene {
    primary: Redis,
    replica: Redis,
    front: Front,
}

async fn scene(consistency: ReadConsistency) -> Scene {
    let primary = Redis::start();
    let replica = Redis::replica_of(&primary);
    let front = Front::start_with(|options| {
        for_redis(options);
        options.read_consistency = consistency;
    })
    .await;
    let scene = Scene { primary, replica, front };
    scene.route(1);
    scene
}

impl Scene {
    fn route(&self, epoch: u64) {
        let readers = vec![self.replica.endpoint("a")];
        self.front.route(epoch, Gate::Open, Some(self.primary.endpoint("a")), readers, 600_000);
    }
    /// From now on the two have not the same: the replica is nobody's, and says of itself that it is a primary.
    fn sever(&self) {
        self.replica.wait_for_all_of(&self.primary);
        self.replica.ask("REPLICAOF NO ONE");
        self.replica.ask("SET who replica");
        self.primary.ask("SET who primary");
    }
    /// Reads that a replica answered, that first asked how far it is, that found it too far behind, that came back.
    fn counts(&self) -> [u64; 4] {
        let stats = self.front.handle.stats();
        [stats.reads_at_replicas, stats.reads_waited, stats.reads_late, stats.reads_returned]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_leave_and_nothing_else_does() {
    let s = scene(ReadConsistency::Eventual).await;
    s.sever();
    let mut client = Client::connect(s.front.addr).await;
    assert_eq!(client.ask("GET who").await, "replica");
    client.pipeline(&["GET who", "STRLEN who", "TYPE who"]).await;
    assert_eq!(client.replies(3).await, ["replica", ":7", "string"]);
    assert_eq!(s.counts(), [4, 0, 0, 0]);
    // What may depend on the server, on an earlier answer or on what is written beside it stays.
    assert!(client.ask("ROLE").await.starts_with("[master, "));
    assert_eq!(client.ask("EVAL_RO return(redis.call('get','who')) 0").await, "primary");
    client.pipeline(&["SET k 1", "GET who"]).await;
    assert_eq!(client.replies(2).await, ["OK", "primary"]);
    client.pipeline(&["MULTI", "GET who", "EXEC"]).await;
    assert_eq!(client.replies(3).await[2], "[primary]");
    assert_eq!(client.ask("WATCH k").await, "OK");
    assert_eq!(client.ask("GET who").await, "primary");
    assert_eq!(client.ask("UNWATCH").await, "OK");
    assert_eq!(client.ask("GET who").await, "replica");
    // So do reads of a client that caches what it reads: it hears of changes where they are made.
    let mut caches = Client::connect3(s.front.addr).await;
    assert_eq!(caches.ask("GET who").await, "replica");
    assert_eq!(caches.ask("CLIENT TRACKING ON").await, "OK");
    assert_eq!(caches.ask("GET who").await, "primary");
    // The session is the same there.
    assert_eq!(client.ask("SELECT 3").await, "OK");
    assert_eq!(client.ask("GET who").await, "nil");
    s.replica.ask("SWAPDB 0 3");
    assert_eq!(client.ask("GET who").await, "replica");
    assert_eq!(client.ask("RESET").await, "RESET");
    assert!(client.ask("GET who").await.starts_with("-NOAUTH"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_strong_all_stay() {
    let s = scene(ReadConsistency::Strong).await;
    s.sever();
    assert_eq!(Client::connect(s.front.addr).await.ask("GET who").await, "primary");
    assert_eq!(s.counts(), [0; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_sees_what_it_wrote() {
    let s = scene(ReadConsistency::Session).await;
    let mut client = Client::connect(s.front.addr).await;
    // Who wrote nothing needs nothing.
    assert_eq!(client.ask("GET k").await, "nil");
    assert_eq!(s.counts(), [1, 0, 0, 0]);
    for n in 0..50 {
        assert_eq!(client.ask(&format!("SET k {n}")).await, "OK");
        assert_eq!(client.ask("GET k").await, n.to_string());
    }
    let [at_replica, asked, late, returned] = s.counts();
    assert_eq!((at_replica + late, asked, late), (51, 50, returned), "each was read at one of the two");
    s.replica.wait_for_all_of(&s.primary);
    assert_eq!(client.ask("GET k").await, "49");
    assert_eq!(client.ask("GET k").await, "49");
    let [now_at_replica, now_asked, now_late, _] = s.counts();
    assert_eq!((now_at_replica, now_late), (at_replica + 2, late));
    assert!(now_asked <= asked + 1, "how far it has come is remembered");

    // A replica that gets nothing more: a session reads its own writes, and others as before.
    let mut other = Client::connect(s.front.addr).await;
    s.replica.ask("CONFIG SET masteruser nobody masterauth wrong");
    s.primary.ask("CLIENT KILL TYPE replica");
    eventually("it is alone", || s.replica.ask("INFO replication").contains("master_link_status:down")).await;
    let writes = ["SET k new", "INCR n", "EVAL return(redis.call('set','k','new')) 0"];
    for command in writes {
        client.ask(command).await;
        assert_eq!(client.ask("GET k").await, "new", "after {command}");
        assert_eq!(other.ask("GET k").await, "49");
    }
    client.pipeline(&["MULTI", "SET k newer", "EXEC"]).await;
    assert_eq!(client.replies(3).await[2], "[OK]");
    client.pipeline(&["GET k", "GET n"]).await;
    assert_eq!(client.replies(2).await, ["newer", "1"]);
    // A long one, too, which streams through.
    let long = "x".repeat(300_000);
    assert_eq!(client.ask(&format!("SET long {long}")).await, "OK");
    assert_eq!(client.ask("STRLEN long").await, ":300000");
    assert_eq!(other.ask("STRLEN long").await, ":0");
    // Who listens is not asked about between its messages.
    let mut listens = Client::connect(s.front.addr).await;
    assert_eq!(listens.ask("SET x 1").await, "OK");
    assert_eq!(listens.ask("SUBSCRIBE c").await, "[subscribe, c, :1]");
    // And after a change of the primary's connection.
    s.route(2);
    assert_eq!(client.ask("GET k").await, "newer");
    assert_eq!(client.ask("GET k").await, "newer");
    assert_eq!(other.ask("GET k").await, "49");
    eventually("it listens again", || s.primary.ask("PUBLISH c hello") == "1").await;
    assert_eq!(listens.reply().await, "[message, c, hello]");
    let roles = s.primary.calls("role");
    assert_eq!(listens.ask("PING").await, "[pong, ]");
    assert_eq!(s.primary.calls("role"), roles);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_ask_reads_at_the_primary() {
    let s = scene(ReadConsistency::Session).await;
    for engine in [&s.primary, &s.replica] {
        engine.ask("ACL SETUSER app -role");
    }
    let mut client = Client::connect(s.front.addr).await;
    assert_eq!(client.ask("GET k").await, "nil");
    assert_eq!(s.counts()[0], 1, "it wrote nothing");
    for n in 0..5 {
        assert_eq!(client.ask(&format!("SET k {n}")).await, "OK");
        assert_eq!(client.ask("GET k").await, n.to_string());
    }
    assert_eq!(s.counts()[0], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_is_never_why_a_client_gets_an_error() {
    let mut s = scene(ReadConsistency::Eventual).await;
    s.primary.ask("SET k v");
    s.replica.wait_for_all_of(&s.primary);
    let mut client = Client::connect(s.front.addr).await;
    assert_eq!(client.ask("GET k").await, "v");
    assert_eq!(s.counts()[0], 1);
    // It dies with a read under way.
    s.replica.pause();
    let all = s.front.handle.stats().commands + 2;
    client.pipeline(&["GET k", "STRLEN k"]).await;
    eventually("they are under way", || s.front.handle.stats().commands == all).await;
    s.replica.kill();
    assert_eq!(client.replies(2).await, ["v", ":1"]);
    assert_eq!(client.ask("GET k").await, "v");
    assert_eq!(Client::connect(s.front.addr).await.ask("GET k").await, "v");
    let [at_replica, _, _, returned] = s.counts();
    assert_eq!((at_replica, returned), (1, 2));
    // One of which nothing is heard any more, until the route says so.
    s.replica = Redis::replica_of(&s.primary);
    s.route(2);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while s.counts()[0] == 1 {
        assert_eq!(client.ask("GET k").await, "v");
        assert!(tokio::time::Instant::now() < deadline, "the new replica is read from");
    }
    assert_eq!(s.counts()[0], 2);
    s.replica.pause();
    client.send("GET k").await;
    assert_eq!(client.maybe_reply(std::time::Duration::from_millis(100)).await, None);
    s.front.route(2, Gate::Open, Some(s.primary.endpoint("a")), vec![], 600_000);
    assert_eq!(client.reply().await, "v");
    s.replica.go_on();
    // One that does not know the command, or lets nobody use it. A mistake of the client's is one everywhere.
    s.replica.ask("ACL SETUSER app -strlen");
    s.route(2);
    let mut other = Client::connect(s.front.addr).await;
    other.pipeline(&["GET k", "STRLEN k", "GET k"]).await;
    assert_eq!(other.replies(3).await, ["v", ":1", "v"]);
    let said = Client::connect(s.front.addr).await.ask("LLEN k").await;
    assert!(said.starts_with("-WRONGTYPE"), "{said}");
    // One without data of its own to answer from.
    let empty = Redis::start_with(&["--replica-serve-stale-data", "no", "--replicaof", "127.0.0.1", "1"]);
    s.replica = empty;
    s.route(2);
    let before = s.counts()[0];
    assert_eq!(Client::connect(s.front.addr).await.ask("GET k").await, "v");
    assert_eq!(s.counts()[0], before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_while_there_is_no_primary_and_a_cut_is_seen_after_them() {
    let s = scene(ReadConsistency::Eventual).await;
    let mut client = Client::connect(s.front.addr).await;
    assert_eq!(client.ask("SET k v").await, "OK");
    s.replica.wait_for_all_of(&s.primary);
    assert_eq!(client.ask("GET k").await, "v");
    let readers = vec![s.replica.endpoint("a")];
    s.front.route(2, Gate::Closed, None, readers.clone(), 600_000);
    assert_eq!(client.ask("GET k").await, "v");
    eventually("the primary's end is closed", || !s.primary.ask("CLIENT LIST").contains("user=app")).await;
    client.send("SET k w").await;
    assert_eq!(client.maybe_reply(std::time::Duration::from_millis(100)).await, None, "it is held");
    s.route(2);
    assert_eq!(client.reply().await, "OK");
    // One that is not listed is left.
    s.front.route(2, Gate::Open, Some(s.primary.endpoint("a")), vec![], 600_000);
    assert_eq!(client.ask("GET k").await, "w");
    eventually("it is left", || !s.replica.ask("CLIENT LIST").contains("user=app")).await;
}
