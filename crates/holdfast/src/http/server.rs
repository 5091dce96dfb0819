//! The accept loop: one port, HTTP/1.1, with or without TLS. It tells each request who its peer is and bounds what a
//! peer can hold: connections, handshake, head. It knows no routes.

use super::access::{Identity, Peer};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use holdfast_core::{NodeName, limits};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 1_024;
/// Of one remote address, so that no single host can lock the others out.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 256;
const HANDSHAKE_MS: u64 = 5_000;
/// From the first byte wanted to the last of the head; also how long an idle connection is kept.
const HEAD_MS: u64 = 15_000;
const HEAD_BYTES: usize = 64 << 10;
/// Requests in flight when the server is stopped may take this long.
const STOP_MS: u64 = 2_000;
/// After a failed accept (such as no file descriptors left), for others to finish.
const ACCEPT_PAUSE_MS: u64 = 100;
/// A peer that vanished without a word is noticed after about this long.
const PEER_GONE_MS: u64 = 15_000;

/// Why the API does not listen. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the API would listen on {0} without certificates; run `holdfast init` and add `[tls]` to the topology file"
    )]
    Exposed(SocketAddr),
    #[error(
        "the API cannot listen on {addr}; is another holdfast running, or is the address not this host's?"
    )]
    Bind { addr: SocketAddr, source: std::io::Error },
}

/// Where to listen.
#[derive(Debug, Clone)]
pub struct Options {
    /// Port 0 chooses a free one.
    pub addr: SocketAddr,
    /// [`crate::pki::HostTls::server`]. Without, only loopback addresses are accepted.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// A bound port, not yet served.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    gate: Arc<Gate>,
}

/// What the tasks of all connections share.
struct Gate {
    tls: Option<TlsAcceptor>,
    connections: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Server {
    pub async fn bind(options: Options) -> Result<Server, Error> {
        let Options { addr, tls } = options;
        if tls.is_none() && !addr.ip().is_loopback() {
            return Err(Error::Exposed(addr));
        }
        let failed = |source| Error::Bind { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let gate = Gate {
            tls: tls.map(TlsAcceptor::from),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            by_address: Mutex::default(),
        };
        Ok(Server { listener, addr, gate: Arc::new(gate) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `stop` resolves, then lets requests in flight finish for [`STOP_MS`].
    pub async fn run(self, router: Router, stop: impl Future<Output = ()>) {
        let router = router.layer(DefaultBodyLimit::max(limits::API_BODY_BYTES));
        let service = TowerToHyperService::new(router);
        let (stopping, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        if let Some(place) = self.gate.admit(from.ip().to_canonical()) {
                            let (gate, service, stopped) = (self.gate.clone(), service.clone(), stopped.clone());
                            tasks.spawn(async move { gate.serve(stream, from, service, stopped, place).await });
                        } else {
                            tracing::warn!(%from, "connection refused: too many are open");
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the API cannot accept a connection; trying on");
                        tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    }
                },
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
        drop(self.listener);
        let _ = stopping.send(true);
        let all_done = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_millis(STOP_MS), all_done).await.is_err() {
            tasks.shutdown().await;
        }
    }
}

/// A connection's share of the limits; given back when dropped.
struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.gate.by_address.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

impl Gate {
    fn admit(self: &Arc<Gate>, address: IpAddr) -> Option<Place> {
        let permit = self.connections.clone().try_acquire_owned().ok()?;
        let mut by_address = self.by_address.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let count = by_address.entry(address).or_default();
        // Nodes on loopback addresses and everything else of a machine can share one address.
        if *count >= CONNECTIONS_PER_ADDRESS_MAX && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Place { gate: self.clone(), address, _permit: permit })
    }

    async fn serve(
        self: Arc<Gate>,
        stream: TcpStream,
        from: SocketAddr,
        service: TowerToHyperService<Router>,
        stopped: watch::Receiver<bool>,
        _place: Place,
    ) {
        if let Err(error) = tune(&stream) {
            tracing::debug!(%from, %error, "a connection ended before it began");
            return;
        }
        let Some(acceptor) = &self.tls else {
            return talk(stream, Peer { addr: from, identity: Identity::Anonymous }, service, stopped).await;
        };
        match tokio::time::timeout(Duration::from_millis(HANDSHAKE_MS), acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let identity = identity(&stream);
                talk(stream, Peer { addr: from, identity }, service, stopped).await;
            }
            Ok(Err(error)) => tracing::debug!(%from, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%from, "TLS handshake took too long"),
        }
    }
}

fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let third = Duration::from_millis(PEER_GONE_MS / 3);
    let keepalive = socket2::TcpKeepalive::new().with_time(third).with_interval(third).with_retries(2);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_millis(PEER_GONE_MS)))
}

fn identity(stream: &tokio_rustls::server::TlsStream<TcpStream>) -> Identity {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let name = certificate.and_then(|der| crate::pki::common_name(der));
    match name.and_then(|name| NodeName::new(&name).ok()) {
        Some(name) => Identity::Node(name),
        None => Identity::Anonymous,
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: Peer,
    service: TowerToHyperService<Router>,
    mut stopped: watch::Receiver<bool>,
) {
    let from = peer.addr;
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        hyper::service::Service::call(&service, request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEAD_MS))
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let stop = async {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    tokio::pin!(connection, stop);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = &mut stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%from, %error, "a connection ended early");
    }
}
