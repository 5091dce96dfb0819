//! The client's side of a login: greeting, TLS if asked for, and the proof of the password. No engine is involved.

use crate::client::ClientStream;
use crate::mysql::backend::write_packet;
use crate::mysql::errors::{self, ClientError};
use crate::shared::{Shared, Slot};
use holdfast_core::topology::Engine;
use holdfast_wire::greeting::Greeting;
use holdfast_wire::login::{AuthSwitch, FirstPacket, HandshakeResponse};
use holdfast_wire::native_password::{self, NONCE_BYTES};
use holdfast_wire::packet::{HEADER_BYTES, Header};
use holdfast_wire::prover::Method;
use holdfast_wire::{Capabilities, Status, caching_sha2};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Bytes of a login packet: names, and attributes of at most 64 KiB.
const LOGIN_BYTES_MAX: usize = 72 << 10;
/// Bytes of a client's connection attributes that are kept to be shown to the next server as well.
const ATTRIBUTES_BYTES_MAX: usize = 1 << 10;
/// utf8mb4_general_ci.
const COLLATION: u8 = 45;

/// What clients are offered. Not there: compression (bytes stream through as they are), metadata caching and
/// expired-password handling (they tie a client to one server's memory).
const OFFERED: Capabilities = Capabilities(
    Capabilities::FOUND_ROWS.0
        | Capabilities::LONG_FLAG.0
        | Capabilities::CONNECT_WITH_DB.0
        | Capabilities::NO_SCHEMA.0
        | Capabilities::ODBC.0
        | Capabilities::LOCAL_FILES.0
        | Capabilities::IGNORE_SPACE.0
        | Capabilities::PROTOCOL_41.0
        | Capabilities::INTERACTIVE.0
        | Capabilities::IGNORE_SIGPIPE.0
        | Capabilities::TRANSACTIONS.0
        | Capabilities::RESERVED.0
        | Capabilities::SECURE_CONNECTION.0
        | Capabilities::MULTI_STATEMENTS.0
        | Capabilities::MULTI_RESULTS.0
        | Capabilities::PS_MULTI_RESULTS.0
        | Capabilities::PLUGIN_AUTH.0
        | Capabilities::CONNECT_ATTRS.0
        | Capabilities::PLUGIN_AUTH_LENENC_DATA.0
        | Capabilities::SESSION_TRACK.0
        | Capabilities::DEPRECATE_EOF.0,
);
/// What the engines of the flavours have beside that.
const OFFERED_BY_MARIADB: Capabilities = Capabilities(
    Capabilities::MARIADB_PROGRESS.0
        | Capabilities::MARIADB_STMT_BULK.0
        | Capabilities::MARIADB_EXTENDED_METADATA.0,
);
const OFFERED_BY_MYSQL: Capabilities = Capabilities::CLIENT_MYSQL;

fn offered(engine: Engine) -> Capabilities {
    OFFERED.with(match engine {
        Engine::MySql => OFFERED_BY_MYSQL,
        _ => OFFERED_BY_MARIADB,
    })
}

/// What clients are asked for first, as the engine would. Either is taken.
fn preferred(engine: Engine) -> Method {
    match engine {
        Engine::MySql => Method::CachingSha2,
        _ => Method::NativePassword,
    }
}

/// A client that has proved who it is.
pub struct LoggedIn {
    pub stream: ClientStream,
    pub who: Who,
    /// What both sides agreed on.
    pub capabilities: Capabilities,
    pub schema: Option<Vec<u8>>,
    /// The number of the packet that ends the login.
    pub seq: u8,
}

/// A session's user, as needed to log in again elsewhere.
#[derive(Debug)]
pub struct Who {
    pub user: Vec<u8>,
    pub host: IpAddr,
    pub collation: u8,
    pub attributes: Option<Vec<u8>>,
    /// The nonce that the client's next proof answers (change of user).
    pub nonce: [u8; NONCE_BYTES],
}

/// Why a login ended without a session.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the client broke off")]
    Io(#[from] io::Error),
    /// To be told to the client, in the packet of this number.
    #[error("refused with error {}", .0.code)]
    Refused(ClientError, u8, Box<ClientStream>),
}

/// From the system's randomness by way of the keys of a hasher.
fn nonce() -> [u8; NONCE_BYTES] {
    let mut bytes = [0u8; NONCE_BYTES];
    for chunk in bytes.chunks_mut(4) {
        let random = RandomState::new().hash_one(chunk.len()).to_le_bytes();
        chunk.copy_from_slice(&random[..chunk.len()]);
    }
    native_password::nonce(bytes)
}

async fn read_packet(stream: &mut ClientStream) -> io::Result<Result<(u8, Vec<u8>), ()>> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).await?;
    let header = Header::read(&head).expect("four bytes were read");
    if header.len > LOGIN_BYTES_MAX {
        return Ok(Err(()));
    }
    let mut payload = vec![0; header.len];
    stream.read_exact(&mut payload).await?;
    Ok(Ok((header.seq, payload)))
}

/// Logs a client in.
pub async fn log_in(
    shared: &Shared,
    slot: &Arc<Slot>,
    stream: TcpStream,
    host: IpAddr,
) -> Result<LoggedIn, Error> {
    let nonce = nonce();
    let tls = shared.tls.clone();
    let offered = offered(shared.engine);
    let offered = if tls.is_some() { offered.with(Capabilities::SSL) } else { offered };
    let greeting = Greeting {
        server_version: shared.server_version().to_vec(),
        connection_id: slot.id,
        nonce,
        capabilities: offered,
        collation: COLLATION,
        status: Status::AUTOCOMMIT,
        auth_plugin: preferred(shared.engine).name().to_vec(),
    };
    let mut stream = ClientStream::Plain(stream);
    write_packet(&mut stream, 0, &greeting.build()).await?;
    let bad = |stream, seq| Error::Refused(errors::bad_handshake(), seq, Box::new(stream));
    let Ok((mut seq, payload)) = read_packet(&mut stream).await? else { return Err(bad(stream, 1)) };
    let Ok(mut first) = FirstPacket::parse(&payload) else { return Err(bad(stream, seq.wrapping_add(1))) };
    if let FirstPacket::TlsRequest(_) = first {
        stream = match (tls, stream) {
            (Some(tls), ClientStream::Plain(tcp)) => {
                ClientStream::Tls(Box::new(tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await?))
            }
            (_, stream) => return Err(bad(stream, seq.wrapping_add(1))),
        };
        let Ok((next, payload)) = read_packet(&mut stream).await? else { return Err(bad(stream, 2)) };
        seq = next;
        let Ok(inner) = FirstPacket::parse(&payload) else { return Err(bad(stream, seq.wrapping_add(1))) };
        first = inner;
    }
    let FirstPacket::Response(response) = first else { return Err(bad(stream, seq.wrapping_add(1))) };
    authenticate(shared, stream, host, response, nonce, seq.wrapping_add(1)).await
}

async fn authenticate(
    shared: &Shared,
    mut stream: ClientStream,
    host: IpAddr,
    r: HandshakeResponse,
    nonce: [u8; NONCE_BYTES],
    seq: u8,
) -> Result<LoggedIn, Error> {
    let proof = Proof { plugin: r.auth_plugin.as_deref(), auth: r.auth, nonce, seq };
    let (ok, proof) = prove(shared, &mut stream, &r.user, proof).await?;
    if !ok {
        let denied = errors::access_denied(&r.user, host, !proof.auth.is_empty());
        return Err(Error::Refused(denied, proof.seq, Box::new(stream)));
    }
    let who = Who {
        user: r.user,
        host,
        collation: r.collation,
        attributes: r.attributes.filter(|a| a.len() <= ATTRIBUTES_BYTES_MAX),
        nonce: proof.nonce,
    };
    let capabilities = r.capabilities.both(offered(shared.engine));
    Ok(LoggedIn { stream, who, capabilities, schema: r.schema, seq: proof.seq })
}

/// A client's answer to a nonce.
pub struct Proof<'a> {
    pub plugin: Option<&'a [u8]>,
    pub auth: Vec<u8>,
    pub nonce: [u8; NONCE_BYTES],
    /// The number of the next packet.
    pub seq: u8,
}

/// Checks a proof; a client that used a method which is not known here is asked again. The password itself is never
/// asked for: what a proof is checked against is known here.
pub async fn prove<'a>(
    shared: &Shared,
    stream: &mut ClientStream,
    user: &[u8],
    mut proof: Proof<'a>,
) -> io::Result<(bool, Proof<'a>)> {
    let known = shared.users.get(user);
    let check = |method, p: &Proof<'_>| {
        known.is_some_and(|u| match method {
            Method::NativePassword => native_password::check(u.stored.as_ref(), &p.nonce, &p.auth),
            Method::CachingSha2 => caching_sha2::check(u.stored_sha2.as_ref(), &p.nonce, &p.auth),
        })
    };
    let preferred = preferred(shared.engine);
    let mut method = proof.plugin.map_or(Some(preferred), Method::named);
    let whole = match method {
        Some(Method::NativePassword) => proof.auth.len() == NONCE_BYTES,
        Some(Method::CachingSha2) => proof.auth.len() == caching_sha2::PROOF_BYTES,
        None => false,
    };
    if !whole && !method.is_some_and(|m| check(m, &proof)) {
        // Another method, or an answer that is none: some clients begin with a method of their own.
        method = Some(preferred);
        proof.nonce = nonce();
        let switch = AuthSwitch { plugin: preferred.name().to_vec(), data: proof.nonce.to_vec() };
        write_packet(stream, proof.seq, &switch.build()).await?;
        let Ok((seq, auth)) = read_packet(stream).await? else { return Ok((false, proof)) };
        proof.auth = auth;
        proof.seq = seq.wrapping_add(1);
    }
    let ok = method.is_some_and(|m| check(m, &proof));
    if ok && method == Some(Method::CachingSha2) && proof.auth.len() == caching_sha2::PROOF_BYTES {
        write_packet(stream, proof.seq, &[caching_sha2::MORE, caching_sha2::PROVED]).await?;
        proof.seq = proof.seq.wrapping_add(1);
    }
    Ok((ok, proof))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_printable_and_new() {
        let (a, b) = (nonce(), nonce());
        assert_ne!(a, b);
        assert!(a.iter().all(|c| (b'%'..=b't').contains(c)));
    }
}
