//! Who a peer is and what it may do. The decision, [`Access::authorize`], is pure; the layer only applies it.

use super::problem::Problem;
use crate::pki::Tokens;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::{Either, Ready, ready};
use holdfast_core::NodeName;
use holdfast_core::topology::Topology;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

/// The other end of a connection, in the extensions of each of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub addr: SocketAddr,
    pub identity: Identity,
}

impl Peer {
    pub fn is_loopback(&self) -> bool {
        self.addr.ip().to_canonical().is_loopback()
    }
}

/// How well a peer is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Showed a certificate of our authority with this name, and has its key.
    Node(NodeName),
    /// Showed none.
    Anonymous,
}

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Another host of the topology.
    Node,
    /// May change things.
    Operator,
    /// May look.
    Viewer,
    /// Anybody.
    Public,
}

/// Why a request was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error(
        "only the hosts of this topology may ask for this, with the certificate that `holdfast init` made"
    )]
    NotANode,
    #[error("a token is needed")]
    NoToken,
    #[error("the token is not valid here")]
    WrongToken,
    #[error("a viewer's token is not enough; this needs the operator's")]
    ViewerOnly,
    #[error("without certificates the API serves this machine only")]
    NotLocal,
    #[error("a web page of another origin may not use this API")]
    ForeignPage,
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Problem {
        let (status, code) = match denied {
            Denied::NoToken | Denied::WrongToken => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            _ => (StatusCode::FORBIDDEN, "forbidden"),
        };
        let problem = Problem::new(status, code, "access denied", denied.to_string());
        match denied {
            Denied::NoToken | Denied::WrongToken | Denied::ViewerOnly => problem.hint(
                "`holdfast init` wrote `viewer.token` and `operator.token`: pass one with `--token-file`",
            ),
            Denied::NotLocal => problem.hint("run `holdfast init` and add `[tls]` to the topology file"),
            Denied::NotANode | Denied::ForeignPage => problem,
        }
    }
}

/// Who may do what on this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access {
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    /// `None`: no certificates, so peers are on this machine and may do everything.
    tokens: Option<Tokens>,
    /// A certificate outlives its host's place in the topology; this does not.
    nodes: BTreeSet<NodeName>,
}

impl Access {
    /// `tokens` exactly if the API runs with certificates.
    pub fn new(topology: &Topology, tokens: Option<Tokens>) -> Access {
        let nodes = topology.nodes.iter().map(|n| n.name.clone()).collect();
        Access { rules: Arc::new(Rules { tokens, nodes }) }
    }

    /// Whether `peer`, showing `token`, may do what needs `needed`.
    pub fn authorize(&self, peer: &Peer, token: Option<&str>, needed: Role) -> Result<(), Denied> {
        if needed == Role::Public {
            return Ok(());
        }
        let Some(tokens) = &self.rules.tokens else {
            return if peer.is_loopback() { Ok(()) } else { Err(Denied::NotLocal) };
        };
        if matches!(&peer.identity, Identity::Node(name) if self.rules.nodes.contains(name)) {
            return Ok(());
        }
        if needed == Role::Node {
            return Err(Denied::NotANode);
        }
        let token = token.ok_or(Denied::NoToken)?;
        match (tokens.is_operator(token), needed) {
            (true, _) => Ok(()),
            (false, Role::Viewer) if tokens.is_viewer(token) => Ok(()),
            (false, _) if tokens.is_viewer(token) => Err(Denied::ViewerOnly),
            (false, _) => Err(Denied::WrongToken),
        }
    }

    /// Lets only requests through whose peer has `needed`.
    pub fn layer(&self, needed: Role) -> Guard {
        Guard { access: self.clone(), needed }
    }

    fn check(&self, request: &Request, needed: Role) -> Result<(), Denied> {
        if needed == Role::Public {
            return Ok(());
        }
        // No peer means no accept loop of ours.
        let peer = request.extensions().get::<Peer>().ok_or(Denied::NotLocal)?;
        if self.rules.tokens.is_none() && foreign_page(request.headers()) {
            return Err(Denied::ForeignPage);
        }
        self.authorize(peer, bearer(request.headers()), needed)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Without tokens, a browser on this machine could be made to send commands by any page it shows. Such requests name
/// a foreign origin, or (when the page rebound its own name to this address) a host that is a name.
fn foreign_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    let (name, _) = split_port(host);
    let direct = name.is_empty() || name == "localhost" || name.parse::<IpAddr>().is_ok();
    let same_origin = text(header::ORIGIN).is_none_or(|o| o.strip_prefix("http://") == Some(host));
    !direct || !same_origin
}

fn split_port(host: &str) -> (&str, &str) {
    match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((v6, port)) => (v6, port),
        None => host.rsplit_once(':').unwrap_or((host, "")),
    }
}

/// See [`Access::layer`].
#[derive(Debug, Clone)]
pub struct Guard {
    access: Access,
    needed: Role,
}

impl<S> tower_layer::Layer<S> for Guard {
    type Service = Guarded<S>;
    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.clone() }
    }
}

/// A service behind a [`Guard`].
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S: tower_service::Service<Request, Response = Response>> tower_service::Service<Request> for Guarded<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }
    fn call(&mut self, request: Request) -> Self::Future {
        match self.guard.access.check(&request, self.guard.needed) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(denied) => Either::Right(ready(Ok(Problem::from(denied).into_response()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn pages_of_other_origins_are_told_apart() {
        for own in [
            headers("127.0.0.11:7400", None),
            headers("localhost:7400", Some("http://localhost:7400")),
            headers("[::1]:7400", None),
            HeaderMap::new(),
        ] {
            assert!(!foreign_page(&own), "{own:?}");
        }
        for foreign in [
            headers("evil.example:7400", None),
            headers("127.0.0.11:7400", Some("http://evil.example")),
            headers("127.0.0.11:7400", Some("null")),
        ] {
            assert!(foreign_page(&foreign), "{foreign:?}");
        }
    }
}
