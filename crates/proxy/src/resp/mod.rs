//! The side of the proxy that speaks RESP, to clients of Redis and Valkey.

mod backend;
mod batch;
pub mod errors;
mod exchange;
mod long;
mod own;
mod plan;
mod rehome;
mod session;
mod split;
mod state;
mod table;

use crate::client::ClientStream;
use crate::gate::Role;
use crate::service::farewell;
use crate::shared::{Shared, Slot};
use session::Session;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// How a TLS connection begins; no command begins so.
const TLS_HANDSHAKE: u8 = 0x16;

/// Serves one client until it or its connection ends. TLS, if it is offered, is told from plain RESP by its first byte.
pub async fn serve(shared: Arc<Shared>, slot: Arc<Slot>, role: Role, stream: TcpStream, peer: SocketAddr) {
    let within = Duration::from_millis(shared.limits.login_ms);
    match tokio::time::timeout(within, Box::pin(open(shared.tls.clone(), stream))).await {
        Ok(Ok(stream)) => Session::new(shared, slot, role, stream).run().await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "client left before its first command"),
        Err(_) => tracing::debug!(%peer, "no first command in time"),
    }
}

/// A client's stream once it has begun; in clear at once where no TLS is offered.
pub async fn open(
    tls: Option<Arc<rustls::ServerConfig>>,
    stream: TcpStream,
) -> std::io::Result<ClientStream> {
    let Some(tls) = tls else { return Ok(ClientStream::Plain(stream)) };
    let mut first = [0; 1];
    stream.peek(&mut first).await?;
    if first[0] != TLS_HANDSHAKE {
        return Ok(ClientStream::Plain(stream));
    }
    Ok(ClientStream::Tls(Box::new(tokio_rustls::TlsAcceptor::from(tls).accept(stream).await?)))
}

/// Tells a client that the listener has as many connections as it may.
pub async fn refuse(stream: TcpStream, limit: usize) {
    farewell(stream, &errors::too_many_clients(limit).reply()).await;
}
