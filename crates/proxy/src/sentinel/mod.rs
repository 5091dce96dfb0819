//! The side of the proxy that answers as a Redis Sentinel: it tells clients of Redis and Valkey where the primary's engine
//! is, and when there is another one. Nothing of the clients' data goes through here.
//!
//! Guarantees: a primary is named only while a proxy on this host would send it a write: its gate is open, the route has not
//! run out, and this host's agent has not closed the epoch (S1, S2). Who asks a node that is cut off is told nothing, and
//! asks the next one. Everything is bounded: clients, bytes of a command, subscriptions, and what waits for a slow client.
//! Deliberately absent: votes and configuration by command. Who decides is the controller; what there is, the topology file.

mod command;
mod entries;
mod events;
mod facts;
mod glob;
mod reply;
mod session;

pub use facts::{MemberPicture, Picture, Pictured};

use crate::resp;
use crate::service::{self, Handle, Route, accept, listen};
use command::Doors;
use events::{Event, Tracker};
use facts::Known;
use holdfast_core::secret::Password;
use holdfast_core::{GroupName, NodeName, limits};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Events that a subscriber may be behind; one that is further behind is disconnected.
const EVENTS: usize = 512;
/// A route that runs out, or a gate that this host closes, is noticed within this time.
const LOOK_MS: u64 = 200;

/// A host that answers as a Sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeName,
    /// 40 hexadecimal digits, for ever the same.
    pub id: String,
    pub addr: SocketAddr,
    pub voter: bool,
}

/// A service that clients ask for.
#[derive(Debug, Clone)]
pub struct Master {
    pub name: GroupName,
    /// The members' engines.
    pub members: Vec<(NodeName, SocketAddr)>,
    pub routes: watch::Receiver<Option<Arc<Route>>>,
    /// Of this host's proxy: what its agent has closed is not named.
    pub proxy: Handle,
}

/// The answer to a wish for a switchover; on refusal, why.
pub type Answer = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Who may ask for a switchover, and who is asked. What is behind it must not run on the proxies' threads.
pub trait Operators: Send + Sync {
    /// `None`: everybody who can reach this port is an operator. Else whether this is an operator's token.
    fn knows(&self, token: &str) -> Option<bool>;
    /// Asks for a planned switchover, one that loses nothing. Bounded in time.
    fn switch_over(&self, group: &GroupName) -> Answer;
}

/// What a Sentinel's interface is made from.
#[derive(Clone)]
pub struct Options {
    pub listen: SocketAddr,
    /// All hosts that answer as Sentinels, this one among them.
    pub peers: Vec<Peer>,
    pub me: NodeName,
    pub masters: Vec<Master>,
    /// What the controller last said of members and hosts.
    pub pictures: watch::Receiver<Option<Arc<Pictured>>>,
    pub password: Option<Password>,
    pub operators: Arc<dyn Operators>,
    /// Offered to clients if given.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Of this program, for `INFO`.
    pub version: &'static str,
    /// Clients at one time.
    pub connections: usize,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("listen", &self.listen).field("me", &self.me).finish_non_exhaustive()
    }
}

/// What all sessions share.
struct Shared {
    known: Known,
    doors: Doors,
    operators: Arc<dyn Operators>,
    tls: Option<Arc<rustls::ServerConfig>>,
    version: &'static str,
    events: broadcast::Sender<Arc<Event>>,
    started: Instant,
    clients: AtomicU64,
    clients_total: AtomicU64,
    commands: AtomicU64,
}

/// A bound Sentinel's interface. [`Service::run`] serves until told to stop.
pub struct Service {
    shared: Arc<Shared>,
    listener: TcpListener,
    addr: SocketAddr,
    connections: usize,
}

impl Service {
    /// Binds the port. Clients can connect from here on; they are served by [`Service::run`].
    pub async fn bind(options: Options) -> Result<Service, service::Error> {
        let listener = listen(options.listen)?;
        let addr = listener.local_addr().unwrap_or(options.listen);
        let shared = Shared {
            known: Known::new(options.me, options.peers, options.masters, options.pictures),
            doors: Doors { password: options.password },
            operators: options.operators,
            tls: options.tls,
            version: options.version,
            events: broadcast::Sender::new(EVENTS),
            started: Instant::now(),
            clients: AtomicU64::new(0),
            clients_total: AtomicU64::new(0),
            commands: AtomicU64::new(0),
        };
        Ok(Service { shared: Arc::new(shared), listener, addr, connections: options.connections })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown` completes; then every connection closes.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        let news = Arc::new(Notify::new());
        for routes in self.shared.known.routes() {
            tasks.spawn(tell(routes, news.clone()));
        }
        tasks.spawn(tell(self.shared.known.pictures(), news.clone()));
        tasks.spawn(watch(self.shared.clone(), news));
        let (shared, limit) = (self.shared, self.connections);
        let serve = move |stream, peer, place: Option<service::Place>| {
            let shared = shared.clone();
            async move {
                match place {
                    Some(_place) => serve(shared, stream, peer).await,
                    None => resp::refuse(stream, limit).await,
                }
            }
        };
        tasks.spawn(accept(self.listener, limit, serve));
        shutdown.await;
        tasks.shutdown().await;
    }
}

/// Wakes the watcher whenever something new is known.
async fn tell<T>(mut news: watch::Receiver<T>, watcher: Arc<Notify>) {
    while news.changed().await.is_ok() {
        watcher.notify_one();
    }
}

/// Publishes what changes.
async fn watch(shared: Arc<Shared>, news: Arc<Notify>) {
    let mut tracker = Tracker::default();
    loop {
        let facts = shared.known.facts(Instant::now());
        for event in tracker.look(&facts) {
            tracing::debug!(channel = event.channel, "{}", event.text);
            // Without subscribers there is nobody to tell.
            let _ = shared.events.send(Arc::new(event));
        }
        let _ = tokio::time::timeout(Duration::from_millis(LOOK_MS), news.notified()).await;
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    let within = Duration::from_millis(limits::PROXY_LOGIN_MS);
    match tokio::time::timeout(within, Box::pin(resp::open(shared.tls.clone(), stream))).await {
        Ok(Ok(stream)) => {
            let id = shared.clients_total.fetch_add(1, Ordering::Relaxed) + 1;
            let _counted = Counted::new(&shared);
            session::Session::new(shared.clone(), id, peer, stream).run().await;
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "client left before its first command"),
        Err(_) => tracing::debug!(%peer, "no first command in time"),
    }
}

/// One of the present clients.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Counted {
        shared.clients.fetch_add(1, Ordering::Relaxed);
        Counted(shared.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}
