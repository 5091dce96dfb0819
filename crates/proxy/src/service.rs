//! Listeners, the pump of snapshots, and the handle to both.

use crate::gate::{Role, Routing};
use crate::shared::{Gauge, Shared, Stats, User, count};
use crate::{Password, mysql, resp};
use holdfast_core::topology::{Engine, Family, ReadConsistency};
use holdfast_core::{Epoch, GroupName, RouteSnapshot, UserName, ZoneName, limits};
use holdfast_wire::{caching_sha2, native_password};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4_096;
/// After a failed accept (out of descriptors), before the next.
const ACCEPT_PAUSE_MS: u64 = 50;
/// A refused client has this long to take its error before the connection is reset.
const FAREWELL_MS: u64 = 500;
/// Bytes of a refused client's that are read and thrown away meanwhile.
const FAREWELL_BYTES: usize = 64 << 10;

/// A snapshot and when it was received. The control plane sends it again, with a new time, before
/// `snapshot.valid_for_ms` has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub snapshot: RouteSnapshot,
    pub received: Instant,
}

/// Bounds of one proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Client connections of each listener.
    pub connections: usize,
    /// Bytes of held and of long buffered commands, over all sessions.
    pub held_bytes: usize,
    /// How long a command is held, in ms.
    pub hold_ms: u64,
    /// How long a client may take to log in, in ms.
    pub login_ms: u64,
    /// How long a read waits at a reader for what its session wrote, in ms, at least 1.
    pub read_wait_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: limits::PROXY_CONNECTIONS,
            held_bytes: limits::PROXY_HELD_BYTES,
            hold_ms: limits::HOLD_MS,
            login_ms: limits::PROXY_LOGIN_MS,
            read_wait_ms: limits::READ_WAIT_MS,
        }
    }
}

/// The group's engine on the proxy's own host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEngine {
    /// As routes name it.
    pub addr: SocketAddr,
    /// The same engine's Unix socket.
    pub socket: PathBuf,
}

/// What a proxy is made from.
#[derive(Debug, Clone)]
pub struct Options {
    pub group: GroupName,
    /// Whose clients it speaks to.
    pub engine: Engine,
    /// The proxy's own: its readers come first.
    pub zone: ZoneName,
    /// What reads on the read/write port may see; anything but `Strong` lets them go to readers.
    pub read_consistency: ReadConsistency,
    /// Reached through its Unix socket where that works, else like any other.
    pub local: Option<LocalEngine>,
    pub rw_listen: SocketAddr,
    pub ro_listen: Option<SocketAddr>,
    pub users: Vec<(UserName, Password)>,
    /// Offered to clients if given.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub routes: watch::Receiver<Option<Arc<Route>>>,
    pub limits: Limits,
    /// Told to clients. `None`: what the engine says, and before that one like it.
    pub server_version: Option<String>,
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {addr}; is the port taken, or the address not this host's?")]
    Listen { addr: SocketAddr, source: io::Error },
}

/// A bound proxy. [`Service::run`] serves until told to stop.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
    listeners: Vec<(TcpListener, Role)>,
    routes: watch::Receiver<Option<Arc<Route>>>,
}

/// Watches and closes a proxy.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    rw_addr: SocketAddr,
    ro_addr: Option<SocketAddr>,
}

impl Handle {
    pub fn stats(&self) -> Stats {
        self.shared.counters.read()
    }
    /// Where the read/write port listens.
    pub fn rw_addr(&self) -> SocketAddr {
        self.rw_addr
    }
    /// Where the read port listens.
    pub fn ro_addr(&self) -> Option<SocketAddr> {
        self.ro_addr
    }
    /// What the proxy routes by.
    pub fn route(&self) -> Option<Arc<Routing>> {
        self.shared.routing()
    }
    /// Whether that may still route writes.
    pub fn is_fresh(&self) -> bool {
        self.shared.is_fresh()
    }
    /// Epochs up to this one were closed by this host's own agent.
    pub(crate) fn closed_through(&self) -> Option<Epoch> {
        self.shared.closed_through()
    }
    /// Cuts every connection to a writer of `epoch` or an older one, and holds writes until a snapshot brings a
    /// newer epoch. When this returns, no byte passes any more (S2, S3).
    pub fn close_gate(&self, epoch: Epoch) {
        self.shared.close(epoch);
    }
}

/// Binds a port.
pub fn listen(addr: SocketAddr) -> Result<TcpListener, Error> {
    let bind = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| Error::Listen { addr, source })
}

impl Service {
    /// Binds the ports. Clients can connect from here on; they are served by [`Service::run`].
    pub async fn bind(options: Options) -> Result<(Service, Handle), Error> {
        let mut listeners = vec![(listen(options.rw_listen)?, Role::ReadWrite)];
        if let Some(addr) = options.ro_listen {
            listeners.push((listen(addr)?, Role::Read));
        }
        let addr = |i: usize, asked| listeners.get(i).and_then(|(l, _)| l.local_addr().ok()).unwrap_or(asked);
        let rw_addr = addr(0, options.rw_listen);
        let ro_addr = options.ro_listen.map(|asked| addr(1, asked));
        let users = options
            .users
            .into_iter()
            .map(|(name, password)| {
                let stored = native_password::stored(password.expose().as_bytes());
                let stored_sha2 = caching_sha2::stored(password.expose().as_bytes());
                (name.as_str().as_bytes().to_vec(), User { password, stored, stored_sha2 })
            })
            .collect();
        let shared = Arc::new(Shared::new(
            options.group,
            options.engine,
            options.zone,
            options.read_consistency,
            options.local,
            options.limits,
            users,
            options.tls,
            options.server_version,
        ));
        let handle = Handle { shared: shared.clone(), rw_addr, ro_addr };
        Ok((Service { shared, listeners, routes: options.routes }, handle))
    }

    /// Serves until `shutdown` completes; then every session is dropped and its connections close.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        tasks.spawn(pump(self.shared.clone(), self.routes));
        for (listener, role) in self.listeners {
            let shared = self.shared.clone();
            let limit = shared.limits.connections;
            let serve = move |stream, peer, place| serve(shared.clone(), stream, peer, role, place);
            tasks.spawn(accept(listener, limit, serve));
        }
        shutdown.await;
        tasks.shutdown().await;
    }
}

/// Hands snapshots on. Ends when the control plane's end is dropped; the last snapshot then runs out by itself.
async fn pump(shared: Arc<Shared>, mut routes: watch::Receiver<Option<Arc<Route>>>) {
    loop {
        let route = routes.borrow_and_update().clone();
        if let Some(route) = route {
            let s = &route.snapshot;
            let routing = Routing {
                epoch: s.epoch,
                gate: s.gate,
                writer: s.writer.clone(),
                readers: s.readers.clone(),
                acks: s.acks,
            };
            shared.set_route(routing, route.received + Duration::from_millis(s.valid_for_ms));
        }
        if routes.changed().await.is_err() {
            return;
        }
    }
}

/// Accepts clients for ever. One for whom there is no place is served without, to be told so.
pub async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    limit: usize,
    serve: impl Fn(TcpStream, SocketAddr, Option<Place>) -> F,
) {
    let mut sessions = JoinSet::new();
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    let _ = socket2::SockRef::from(&stream).set_keepalive(true);
                    sessions.spawn(serve(stream, peer, Place::take(&open, limit)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client; is the limit of open files too low?");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            },
            Some(_) = sessions.join_next() => {}
        }
    }
}

/// One of a listener's places for clients.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>, limit: usize) -> Option<Place> {
        open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1))
            .is_ok()
            .then(|| Place(open.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, role: Role, place: Option<Place>) {
    let Some(_place) = place else {
        count(&shared.counters.errors_connections);
        let limit = shared.limits.connections;
        match shared.engine.family() {
            Family::MySql => mysql::refuse(stream, limit).await,
            Family::Redis => resp::refuse(stream, limit).await,
        }
        return;
    };
    count(&shared.counters.connections_total);
    let _gauge = Gauge::new(&shared, |c| &c.connections);
    let slot = shared.register();
    let _registered = Registered { shared: shared.clone(), slot: slot.clone() };
    match shared.engine.family() {
        Family::MySql => mysql::serve(shared, slot, role, stream, peer).await,
        Family::Redis => resp::serve(shared, slot, role, stream, peer).await,
    }
}

struct Registered {
    shared: Arc<Shared>,
    slot: Arc<crate::shared::Slot>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.unregister(&self.slot);
    }
}

/// Sends a last packet and gives the client a moment to read it: closing at once while its bytes are unread would
/// reset the connection and destroy the error on its way.
pub async fn farewell<S: AsyncReadExt + AsyncWriteExt + Unpin>(mut stream: S, packet: &[u8]) {
    let goodbye = async {
        stream.write_all(packet).await?;
        stream.shutdown().await?;
        let mut thrown_away = 0;
        let mut bytes = [0; 512];
        while thrown_away < FAREWELL_BYTES {
            match stream.read(&mut bytes).await? {
                0 => break,
                n => thrown_away += n,
            }
        }
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(Duration::from_millis(FAREWELL_MS), goodbye).await;
}
