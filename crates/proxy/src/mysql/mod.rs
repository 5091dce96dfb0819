//! The MySQL protocol's side of the proxy: login, sessions, and what a client is told.

mod backend;
pub mod errors;
mod exchange;
mod kill;
mod login;
mod outgoing;
mod reads;
mod rehome;
mod session;
mod split;
mod sql;
mod state;
mod statements;

use crate::gate::Role;
use crate::service::farewell;
use crate::shared::{Shared, Slot, count};
use login::log_in;
use session::Session;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Serves one client until it or its connection ends.
pub async fn serve(shared: Arc<Shared>, slot: Arc<Slot>, role: Role, stream: TcpStream, peer: SocketAddr) {
    let within = Duration::from_millis(shared.limits.login_ms);
    // The login is over before the session begins: boxed, its memory is given back.
    let login = Box::pin(log_in(&shared, &slot, stream, peer.ip()));
    match tokio::time::timeout(within, login).await {
        Ok(Ok(logged_in)) => Session::new(shared.clone(), slot, role, logged_in).run().await,
        Ok(Err(login::Error::Refused(error, seq, stream))) => {
            count(&shared.counters.errors_login);
            tracing::debug!(%peer, code = error.code, "login refused");
            farewell(*stream, &error.packet(seq)).await;
        }
        Ok(Err(login::Error::Io(error))) => tracing::debug!(%peer, %error, "client left during login"),
        Err(_) => {
            count(&shared.counters.errors_login);
            tracing::debug!(%peer, "login took too long");
        }
    }
}

/// Tells a client that the listener has as many connections as it may.
pub async fn refuse(stream: TcpStream, limit: usize) {
    farewell(stream, &errors::too_many_connections(limit).packet(0)).await;
}
