//! Hosts talking: real certificates, real connections, on loopback.

use axum::Router;
use axum::routing::{get, post};
use futures_util::StreamExt;
use holdfast::http::{
    Access, Client, ClientOptions, Error, Peer, Problem, Role, Server, ServerError, ServerOptions, Target,
};
use holdfast::{config, pki};
use holdfast_core::NodeName;
use holdfast_core::secret::Password;
use holdfast_core::topology::Topology;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

const BOUND: Duration = Duration::from_secs(5);
const DAY_S: i64 = 86_400;
/// 2026-01-01; certificates are made for this time and checked against it where the test says so.
const THEN_S: i64 = 1_767_225_600;

fn topology(dir: &Path) -> Topology {
    let text = format!(
        "name = \"t\"\n[tls]\ndir = \"{d}\"\n[[node]]\nname = \"a\"\naddress = \"127.0.0.1\"\ndata_dir = \"{d}/a\"\n\
         [[node]]\nname = \"b\"\naddress = \"127.0.0.2\"\ndata_dir = \"{d}/b\"\nvoter = false\n",
        d = dir.display()
    );
    config::parse("t.toml", &text).expect("a good file").topology
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

#[expect(clippy::disallowed_methods, reason = "certificates are checked by rustls against the real time")]
fn now_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.expect("after 1970").as_secs()).expect("before the year 292 billion")
}

/// A server with one route for each role, which say who asked.
struct Running {
    target: Target,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

async fn start(access: Access, tls: Option<&pki::HostTls>) -> Running {
    let addr = "127.0.0.1:0".parse().expect("an address");
    let options = ServerOptions { addr, tls: tls.map(|t| t.server.clone()) };
    let server = Server::bind(options).await.expect("a free port");
    let who = async |axum::Extension(peer): axum::Extension<Peer>| axum::Json(format!("{:?}", peer.identity));
    let counted = async |body: axum::body::Body| {
        let mut chunks = body.into_data_stream();
        let mut bytes = 0;
        while let Some(chunk) = chunks.next().await {
            bytes += chunk.map_err(|e| Problem::unavailable(e.to_string()))?.len();
        }
        Ok::<_, Problem>(axum::Json(bytes))
    };
    let router = Router::new()
        .route("/node", get(who).layer(access.layer(Role::Node)))
        .route("/operator", post(who).layer(access.layer(Role::Operator)))
        .route("/viewer", get(who).layer(access.layer(Role::Viewer)))
        .route("/public", get(who))
        .route("/big", get(async || vec![7u8; 8 << 20]))
        .route("/count", post(counted))
        .route("/echo", post(async |body: axum::body::Bytes| body))
        .route("/slow", get(async || std::future::pending::<()>().await))
        .route("/leader", get(async || Problem::not_leader(Some(3)).hint("ask there")));
    let target = Target { node: node("a"), addr: server.addr() };
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(router, async {
        let _ = stopped.await;
    }));
    Running { target, stop: Some(stop), task }
}

impl Running {
    async fn code(&self, client: &Client, path: &str) -> Option<String> {
        let answer: Result<String, Error> = match path {
            "/operator" => client.post(&self.target, path, &(), BOUND).await,
            _ => client.get(&self.target, path, BOUND).await,
        };
        match answer {
            Ok(_) => None,
            Err(error) => Some(error.code().unwrap_or_else(|| panic!("{error:?}")).to_owned()),
        }
    }
}

fn client(tls: Option<rustls::ClientConfig>, token: Option<&str>) -> Client {
    Client::new(ClientOptions { tls, token: token.map(Password::new) })
}

#[tokio::test]
async fn certificates_and_tokens_open_what_they_should_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (topology, now) = (topology(dir.path()), now_s());
    pki::init(dir.path(), &topology, now, false).unwrap();
    let tls = |name| pki::host_tls(&topology, &node(name), now).unwrap().expect("the topology has tls");
    let a = tls("a");
    let server = start(Access::new(&topology, Some(a.tokens.clone())), Some(&a)).await;
    let token = |who: &str| {
        std::fs::read_to_string(dir.path().join(format!("{who}.token"))).unwrap().trim().to_owned()
    };
    let person = |token: Option<&str>| client(Some(pki::authority_tls(dir.path(), now).unwrap()), token);
    let (viewer, operator) = (token("viewer"), token("operator"));
    assert_ne!(viewer, operator);
    let no = |code: &str| Some(code.to_owned());
    for (who, client, node, operator, viewer) in [
        ("another host", client(Some(tls("b").client), None), None, None, None),
        ("an operator", person(Some(&operator)), no("forbidden"), None, None),
        ("a viewer", person(Some(&viewer)), no("forbidden"), no("forbidden"), None),
        ("a stranger", person(None), no("forbidden"), no("unauthenticated"), no("unauthenticated")),
        ("a liar", person(Some("00")), no("forbidden"), no("unauthenticated"), no("unauthenticated")),
    ] {
        assert_eq!(server.code(&client, "/node").await, node, "{who}");
        assert_eq!(server.code(&client, "/operator").await, operator, "{who}");
        assert_eq!(server.code(&client, "/viewer").await, viewer, "{who}");
        assert_eq!(server.code(&client, "/public").await, None, "{who}");
    }
    let said: String =
        client(Some(tls("b").client), None).get(&server.target, "/public", BOUND).await.unwrap();
    assert_eq!(said, "Node(b)");

    // A host that left the topology keeps its certificate and loses its rights.
    let mut smaller = topology.clone();
    smaller.nodes.truncate(1);
    let stricter = start(Access::new(&smaller, Some(a.tokens.clone())), Some(&a)).await;
    assert_eq!(stricter.code(&client(Some(tls("b").client), None), "/node").await, no("forbidden"));

    // Another authority's host is not even answered, nor does it take our server for its own.
    let foreign_dir = tempfile::tempdir().unwrap();
    let foreign = self::topology(foreign_dir.path());
    pki::init(foreign_dir.path(), &foreign, now, false).unwrap();
    let foreign = pki::host_tls(&foreign, &node("b"), now).unwrap().expect("tls");
    let refused =
        client(Some(foreign.client), None).get::<String>(&server.target, "/public", BOUND).await.unwrap_err();
    assert!(matches!(refused, Error::Unreachable { .. } | Error::NoAnswer { .. }), "{refused:?}");
    // ... and the certificate of b, at another address, is not that of a.
    let moved = start(Access::new(&topology, Some(a.tokens.clone())), Some(&tls("b"))).await;
    let refused =
        client(Some(a.client), None).get::<String>(&moved.target, "/public", BOUND).await.unwrap_err();
    assert!(matches!(refused, Error::Unreachable { .. }), "{refused:?}");
}

#[tokio::test]
async fn without_certificates_this_machine_may_do_everything_and_nobody_else_may_connect() {
    let topology = config::parse("t.toml", "name = \"t\"\n[[node]]\nname = \"a\"\naddress = \"127.0.0.1\"\n")
        .unwrap()
        .topology;
    let server = start(Access::new(&topology, None), None).await;
    let client = client(None, None);
    for path in ["/node", "/operator", "/viewer", "/public"] {
        assert_eq!(server.code(&client, path).await, None, "{path}");
    }
    let exposed = ServerOptions { addr: "0.0.0.0:0".parse().unwrap(), tls: None };
    assert!(matches!(Server::bind(exposed).await.unwrap_err(), ServerError::Exposed(_)));
    // A page in a browser of this machine.
    for line in ["Origin: http://evil.example", "Host: evil.example"] {
        let host = if line.starts_with("Host") { "" } else { "Host: 127.0.0.1\r\n" };
        let mut raw = TcpStream::connect(server.target.addr).await.unwrap();
        raw.write_all(
            format!("GET /viewer HTTP/1.1\r\n{host}{line}\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
        let mut answer = String::new();
        raw.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("another origin"), "{answer}");
    }
}

#[tokio::test]
async fn answers_streams_and_refusals_arrive_as_they_are() {
    let topology = config::parse("t.toml", "name = \"t\"\n[[node]]\nname = \"a\"\naddress = \"127.0.0.1\"\n")
        .unwrap()
        .topology;
    let mut server = start(Access::new(&topology, None), None).await;
    let (client, target) = (client(None, None), server.target.clone());

    let refused = client.get::<()>(&target, "/leader", BOUND).await.unwrap_err();
    assert!(refused.is_not_leader() && refused.leader() == Some(3), "{refused:?}");
    let problem = refused.problem().expect("a refusal");
    assert_eq!((problem.status, problem.hint.as_deref()), (421, Some("ask there")));
    assert_eq!(client.get::<()>(&target, "/nothing", BOUND).await.unwrap_err().code(), Some("http"));

    let mut body = Vec::new();
    client.stream(&target, "/big").await.unwrap().read_to_end(&mut body).await.unwrap();
    assert_eq!(body.len(), 8 << 20);
    let garbled = client.get::<Vec<u8>>(&target, "/big", BOUND).await.unwrap_err();
    assert!(matches!(garbled, Error::Garbled { .. }), "too long for JSON: {garbled:?}");
    let garbled = client.get::<u32>(&target, "/public", BOUND).await.unwrap_err();
    assert!(matches!(garbled, Error::Garbled { .. }), "{garbled:?}");
    let sent: usize =
        client.post_stream(&target, "/count", tokio::io::repeat(1).take(9 << 20)).await.unwrap();
    assert_eq!(sent, 9 << 20);
    assert_eq!(&client.post_bytes(&target, "/echo", vec![1, 2, 3], BOUND).await.unwrap()[..], [1, 2, 3]);
    let too_much = client.post_bytes(&target, "/echo", vec![0; 5 << 20], BOUND).await.unwrap_err();
    assert!(
        too_much.problem().is_some_and(|p| p.status == 413) || matches!(too_much, Error::NoAnswer { .. }),
        "{too_much:?}"
    );

    let slow = client.get::<()>(&target, "/slow", Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(slow, Error::NoAnswer { .. }), "{slow:?}");

    // Stopping waits for no one for ever, and then nobody is there.
    let hanging = tokio::spawn({
        let (client, target) = (client.clone(), target.clone());
        async move { client.get::<()>(&target, "/slow", Duration::from_secs(60)).await }
    });
    let idle = TcpStream::connect(target.addr).await.unwrap();
    drop(server.stop.take());
    tokio::time::timeout(BOUND, &mut server.task).await.expect("stopped in time").unwrap();
    assert!(matches!(
        hanging.await.unwrap().unwrap_err(),
        Error::NoAnswer { .. } | Error::Unreachable { .. }
    ));
    drop(idle);
    let gone = client.get::<()>(&target, "/public", BOUND).await.unwrap_err();
    assert!(matches!(gone, Error::Unreachable { .. }), "{gone:?}");
}

#[tokio::test]
async fn a_token_never_travels_in_clear() {
    let target = Target { node: node("a"), addr: "192.0.2.1:7400".parse().unwrap() };
    let refused = client(None, Some("t")).get::<()>(&target, "/", BOUND).await.unwrap_err();
    assert!(matches!(refused, Error::TokenInClear(_)), "{refused:?}");
}

#[test]
fn init_adds_what_is_missing_and_overwrites_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("tls");
    let (mut topology, now) = (topology(&dir), THEN_S);
    let first = pki::init(&dir, &topology, now, false).unwrap();
    assert_eq!((first.created.len(), first.kept.len(), first.stale.len()), (5, 0, 0), "{first}");
    let contents = || -> Vec<(std::path::PathBuf, Vec<u8>)> {
        let mut all: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|e| e.unwrap().path())
            .map(|p| (p.clone(), std::fs::read(p).unwrap()))
            .collect();
        all.sort();
        all
    };
    let before = contents();
    assert_eq!(before.len(), 2 + 4 + 4);
    for (path, _) in &before {
        assert_eq!(
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            path.display()
        );
    }
    let second = pki::init(&dir, &topology, now, false).unwrap();
    assert_eq!((second.created.len(), second.kept.len()), (0, 5), "{second}");
    assert_eq!(contents(), before);

    // A node more, a node moved, a year gone by.
    let mut c = topology.nodes[1].clone();
    (c.name, c.id, c.address) = (node("c"), 3, "127.0.0.3".parse().unwrap());
    topology.nodes.push(c);
    topology.nodes[1].address = "127.0.0.9".parse().unwrap();
    let third = pki::init(&dir, &topology, now + 350 * DAY_S, false).unwrap();
    assert_eq!(third.created, [dir.join("c.pem")]);
    let reasons: Vec<&str> = third.stale.iter().map(|(_, why)| why.as_str()).collect();
    assert_eq!(reasons, ["it ends in 15 days", "it is not for the address 127.0.0.9"]);
    let renewed = pki::init(&dir, &topology, now + 350 * DAY_S, true).unwrap();
    assert_eq!(renewed.created, [dir.join("a.pem"), dir.join("b.pem")]);
    let host = pki::host_tls(&topology, &node("b"), now + 700 * DAY_S).unwrap().expect("tls");
    assert_eq!(host.days_left(now + 700 * DAY_S), 15);
}

#[test]
fn wrong_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let topology = topology(dir.path());
    let load = |name: &str, at| pki::host_tls(&topology, &node(name), at).map(|_| ()).unwrap_err();
    assert!(matches!(load("a", THEN_S), pki::Error::Unreadable { .. }));
    pki::init(dir.path(), &topology, THEN_S, false).unwrap();
    assert!(pki::host_tls(&topology, &node("a"), THEN_S).is_ok());
    assert!(matches!(load("a", THEN_S + 370 * DAY_S), pki::Error::Expired { days: 5, .. }));
    assert!(matches!(load("a", THEN_S - 10 * DAY_S), pki::Error::NotYetValid { days: 10, .. }));
    let file = |name: &str| dir.path().join(name);
    std::fs::copy(file("a.pem"), file("b.pem")).unwrap();
    assert!(matches!(load("b", THEN_S), pki::Error::SomebodyElse { .. }));
    std::fs::copy(file("b.key"), file("a.key")).unwrap();
    assert!(matches!(load("a", THEN_S), pki::Error::Mismatch { .. }));
    std::fs::write(file("a.pem"), "garbage").unwrap();
    assert!(matches!(load("a", THEN_S), pki::Error::Malformed { .. }));
    assert!(matches!(
        pki::init(dir.path(), &topology, THEN_S, false).unwrap_err(),
        pki::Error::Malformed { .. }
    ));
    std::fs::remove_file(file("ca.key")).unwrap();
    assert!(matches!(
        pki::init(dir.path(), &topology, THEN_S, false).unwrap_err(),
        pki::Error::HalfAuthority { .. }
    ));
    std::fs::write(file("viewer.token.sha256"), "xyz").unwrap();
    assert!(matches!(pki::Tokens::load(dir.path()).unwrap_err(), pki::Error::Malformed { .. }));
}
