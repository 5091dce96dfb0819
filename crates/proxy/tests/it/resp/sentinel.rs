//! The Sentinel's interface over sockets: what it says by which route, and clients that do not behave.

use super::Client;
use crate::front::Front;
use holdfast_core::{Endpoint, Epoch, Gate, GroupName, NodeName, ZoneName};
use holdfast_proxy::sentinel::{
    Answer, Master, MemberPicture, Operators, Options, Peer, Picture, Pictured, Service,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

struct Nobody;

impl Operators for Nobody {
    fn knows(&self, _token: &str) -> Option<bool> {
        None
    }
    fn switch_over(&self, group: &GroupName) -> Answer {
        let says = format!("{group} has no replica that could");
        Box::pin(async move { Err(says) })
    }
}

fn endpoint(n: u8) -> Endpoint {
    Endpoint {
        node: NodeName::new(&format!("n{n}")).unwrap(),
        zone: ZoneName::new("z").unwrap(),
        addr: SocketAddr::from(([10, 0, 0, n], 6379)),
    }
}

struct Sentinel {
    front: Front,
    addr: SocketAddr,
    pictures: watch::Sender<Option<Arc<Pictured>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sentinel {
    async fn start(connections: usize) -> Sentinel {
        let front = Front::start_with(super::for_redis).await;
        let (pictures, receiver) = watch::channel(None);
        let peer = |n: u8| Peer {
            node: endpoint(n).node,
            id: format!("{n:040}"),
            addr: SocketAddr::from(([10, 0, 0, n], 26379)),
            voter: true,
        };
        let member = |n: u8| (endpoint(n).node, endpoint(n).addr);
        let master = Master {
            name: GroupName::new("shop").unwrap(),
            members: (1..=3).map(member).collect(),
            routes: front.routes(),
            proxy: front.handle.clone(),
        };
        let options = Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            peers: (1..=3).map(peer).collect(),
            me: endpoint(1).node,
            masters: vec![master],
            pictures: receiver,
            password: None,
            operators: Arc::new(Nobody),
            tls: None,
            version: "test",
            connections,
        };
        let service = Service::bind(options).await.unwrap();
        let addr = service.addr();
        let task = tokio::spawn(service.run(std::future::pending()));
        Sentinel { front, addr, pictures, task }
    }
    fn open(&self, epoch: u64, n: u8) {
        self.front.route(epoch, Gate::Open, Some(endpoint(n)), vec![], 600_000);
    }
    async fn client(&self) -> Client {
        Client::stranger(self.addr).await
    }
}

const NAMED: &str = "SENTINEL get-master-addr-by-name shop";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_names_whom_the_proxy_would_write_to() {
    let sentinel = Sentinel::start(10).await;
    let mut client = sentinel.client().await;
    assert_eq!(client.ask(NAMED).await, "nil", "no route yet");
    sentinel.open(1, 1);
    assert_eq!(client.ask(NAMED).await, "[10.0.0.1, 6379]");
    let mut listener = sentinel.client().await;
    assert_eq!(listener.ask("PSUBSCRIBE +switch*").await, "[psubscribe, +switch*, :1]");
    // This host's own agent closes the epoch: nobody else has said so yet.
    sentinel.front.handle.close_gate(Epoch(1));
    assert_eq!(client.ask(NAMED).await, "nil");
    sentinel.open(2, 2);
    assert_eq!(client.ask(NAMED).await, "[10.0.0.2, 6379]");
    assert_eq!(
        listener.reply().await,
        "[pmessage, +switch*, +switch-master, shop 10.0.0.1 6379 10.0.0.2 6379]"
    );
    for (gate, writer) in [(Gate::Draining, Some(endpoint(2))), (Gate::Closed, None)] {
        sentinel.front.route(3, gate, writer, vec![], 600_000);
        assert_eq!(client.ask(NAMED).await, "nil", "{gate:?}");
    }
    // One that nobody renews.
    sentinel.front.route(4, Gate::Open, Some(endpoint(3)), vec![], 300);
    tokio::time::timeout(Duration::from_secs(30), async { while client.ask(NAMED).await != "nil" {} })
        .await
        .unwrap();
    assert_eq!(client.ask("SENTINEL failover shop").await, "-NOGOODSLAVE shop has no replica that could");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_and_voters_are_as_the_last_picture_says() {
    let sentinel = Sentinel::start(10).await;
    sentinel.open(1, 1);
    let mut client = sentinel.client().await;
    let unknown = client.ask("SENTINEL replicas shop").await;
    assert_eq!(unknown.matches("slave,s_down,disconnected").count(), 2, "{unknown}");
    assert!(client.ask("SENTINEL ckquorum shop").await.starts_with("-NOQUORUM"));
    let shop = GroupName::new("shop").unwrap();
    let member = |n| {
        let picture = MemberPicture { running: n != 3, follows: true, offset: 5 };
        ((shop.clone(), endpoint(n).node), picture)
    };
    let picture = Picture {
        controller: Some(endpoint(2).node),
        heard_ms_ago: [1, 2].map(|n| (endpoint(n).node, 100)).into(),
        members: [2, 3].map(member).into(),
    };
    sentinel.pictures.send_replace(Some(Arc::new(Pictured { picture, received: Instant::now() })));
    let replicas = client.ask("SENTINEL replicas shop").await;
    assert!(replicas.contains("10.0.0.3, port, 6379, runid, , flags, slave,s_down,"), "{replicas}");
    assert!(replicas.contains("10.0.0.2, port, 6379, runid, , flags, slave, "), "{replicas}");
    assert!(client.ask("SENTINEL ckquorum shop").await.starts_with("OK 2 usable"));
    // It grows old.
    tokio::time::timeout(Duration::from_secs(60), async {
        while !client.ask("SENTINEL ckquorum shop").await.starts_with("-NOQUORUM") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_does_not_read_is_disconnected() {
    let sentinel = Sentinel::start(10).await;
    sentinel.open(1, 1);
    let mut other = sentinel.client().await;
    let mut slow = sentinel.client().await;
    // Each event comes once for each pattern, which is told with it.
    for n in 0..60 {
        slow.ask(&format!("PSUBSCRIBE {}", "*".repeat(4_000 + n))).await;
    }
    let mut epoch = 1;
    let gone = async {
        while !other.ask("INFO clients").await.contains("connected_clients:1\r\n") {
            epoch += 1;
            sentinel.open(epoch, 1 + (epoch % 2) as u8);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), gone).await.expect("it is disconnected");
    assert_eq!(other.ask("PING").await, "PONG");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_behave_are_told_so_and_left() {
    let sentinel = Sentinel::start(2).await;
    let mut first = sentinel.client().await;
    assert_eq!(first.ask("PING").await, "PONG");
    let long = format!("*2\r\n$4\r\nPING\r\n$5000\r\n{}", "x".repeat(5_000));
    let many = format!("*6\r\n{}", format!("$4000\r\n{}\r\n", "x".repeat(4_000)).repeat(6));
    for bad in [&long, &many, "*1\r\n+OK\r\n", "*99999\r\n", "PING \"\r\n", &"x".repeat(9_000)] {
        let mut client = sentinel.client().await;
        client.send_bytes(bad.as_bytes()).await;
        let says = client.reply().await;
        assert!(says.starts_with("-ERR Protocol error"), "{says}");
        assert!(client.is_closed().await);
        // Its place is free again.
        let free = async { while first.ask("INFO clients").await.contains("connected_clients:2") {} };
        tokio::time::timeout(Duration::from_secs(30), free).await.unwrap();
    }
    let mut second = sentinel.client().await;
    assert_eq!(second.ask("PING").await, "PONG");
    let mut third = sentinel.client().await;
    assert!(third.reply().await.contains("max number of clients"));
    assert!(third.is_closed().await);
    // A pipeline, and lines as by hand.
    first.pipeline(&["PING", NAMED, "PING x"]).await;
    assert_eq!(first.replies(3).await, ["PONG", "nil", "x"]);
    first.send_bytes(b"sentinel myid\r\n*0\r\nquit\r\n").await;
    assert_eq!(first.replies(2).await, [format!("{:040}", 1), "OK".to_string()]);
    assert!(first.is_closed().await);
}
