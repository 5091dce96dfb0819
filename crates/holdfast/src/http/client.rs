//! The client's side: JSON and streams to one host at a time, with a bound on every wait and every answer, and errors
//! that tell whether the other side can have acted. It retries nothing and chooses no host.

use super::problem::{NOT_LEADER, Problem};
use bytes::Bytes;
use futures_util::TryStreamExt;
use holdfast_core::secret::Password;
use holdfast_core::{NodeName, limits};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};

const CONNECT_MS: u64 = 500;
/// Less than the server keeps idle connections, so that it is the client who closes.
const IDLE_MS: u64 = 5_000;
const IDLE_PER_HOST_MAX: usize = 8;
/// A stream that stands still for this long is broken.
const STREAM_STALLED_MS: u64 = 30_000;
const VANISHED_MS: u64 = 15_000;

/// What went wrong, by what it means for the caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was sent: nothing was done.
    #[error("{target} cannot be reached")]
    Unreachable { target: Target, source: reqwest::Error },
    /// The request may have been received and carried out.
    #[error("{target} did not answer in time or broke off; whether it did what was asked is unknown")]
    NoAnswer { target: Target, source: reqwest::Error },
    /// The other side understood and said no.
    #[error("{target} refused: {problem}")]
    Refused { target: Target, problem: Box<Problem> },
    /// The answer is not what this version understands.
    #[error("{target} answered something else than expected ({why}); do both run the same version?")]
    Garbled { target: Target, why: String },
    #[error("there is no node {0} in the topology")]
    UnknownNode(NodeName),
    #[error(
        "a token is not sent to {0} without TLS; run this command on that host, or add `[tls]` to the topology file"
    )]
    TokenInClear(SocketAddr),
}

impl Error {
    pub fn unknown_node(node: &NodeName) -> Error {
        Error::UnknownNode(node.clone())
    }
    /// What the other side said, if it refused.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Error::Refused { problem, .. } => Some(problem),
            _ => None,
        }
    }
    pub fn is_refusal(&self) -> bool {
        self.problem().is_some()
    }
    /// [`Problem::code`].
    pub fn code(&self) -> Option<&str> {
        self.problem().map(|p| p.code.as_str())
    }
    pub fn is_not_leader(&self) -> bool {
        self.code() == Some(NOT_LEADER)
    }
    /// The number of the node that leads, as the other side knows it.
    pub fn leader(&self) -> Option<u64> {
        self.problem()?.leader
    }
}

/// A host to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub node: NodeName,
    pub addr: SocketAddr,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.node, self.addr)
    }
}

/// How to talk.
#[derive(Debug, Default)]
pub struct Options {
    /// [`crate::pki::HostTls::client`] or [`crate::pki::authority_tls`]. Without, plain HTTP.
    pub tls: Option<rustls::ClientConfig>,
    /// A person's token.
    pub token: Option<Password>,
}

/// A pool of connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    /// For requests with a bound on the whole.
    whole: reqwest::Client,
    /// For streams: a bound on standing still.
    streams: reqwest::Client,
    scheme: &'static str,
    token: Option<Password>,
}

impl Client {
    pub fn new(options: Options) -> Client {
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        // reqwest asks for a TLS configuration even where it is never used, because we gave it no provider.
        let tls = options.tls.unwrap_or_else(crate::pki::trust_nobody);
        let builder = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(Duration::from_millis(CONNECT_MS))
                .pool_idle_timeout(Duration::from_millis(IDLE_MS))
                .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
                .tcp_nodelay(true)
                .tcp_keepalive(Duration::from_millis(VANISHED_MS / 3))
                .tcp_user_timeout(Duration::from_millis(VANISHED_MS))
        };
        let stalled = Duration::from_millis(STREAM_STALLED_MS);
        Client {
            whole: builder().build().expect("the TLS configuration is rustls' own"),
            streams: builder().read_timeout(stalled).build().expect("the TLS configuration is rustls' own"),
            scheme,
            token: options.token,
        }
    }

    /// Asks for JSON. `bound` covers everything from connecting to the last byte.
    pub async fn get<A: DeserializeOwned>(
        &self,
        target: &Target,
        path: &str,
        bound: Duration,
    ) -> Result<A, Error> {
        let request = self.request(&self.whole, Method::GET, target, path)?.timeout(bound);
        json(target, &self.body(target, request).await?)
    }

    /// Sends JSON and gets some back.
    pub async fn post<Q: Serialize + Sync + ?Sized, A: DeserializeOwned>(
        &self,
        target: &Target,
        path: &str,
        body: &Q,
        bound: Duration,
    ) -> Result<A, Error> {
        let request = self.request(&self.whole, Method::POST, target, path)?.timeout(bound).json(body);
        json(target, &self.body(target, request).await?)
    }

    /// Sends bytes and gets some back.
    pub async fn post_bytes(
        &self,
        target: &Target,
        path: &str,
        body: impl Into<Bytes>,
        bound: Duration,
    ) -> Result<Bytes, Error> {
        let request = self.request(&self.whole, Method::POST, target, path)?;
        let request =
            request.header("content-type", "application/octet-stream").timeout(bound).body(body.into());
        self.body(target, request).await
    }

    /// Asks for a body of any length, to be read as it flows.
    pub async fn stream(&self, target: &Target, path: &str) -> Result<Body, Error> {
        let request = self.request(&self.streams, Method::GET, target, path)?;
        let answer = self.send(target, request).await?;
        let chunks = answer.bytes_stream().map_err(std::io::Error::other);
        Ok(Body(Box::pin(tokio_util::io::StreamReader::new(chunks))))
    }

    /// Sends a body of any length as it is read.
    pub async fn post_stream<A: DeserializeOwned>(
        &self,
        target: &Target,
        path: &str,
        body: impl AsyncRead + Send + 'static,
    ) -> Result<A, Error> {
        let chunks = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::new(body));
        let request = self.request(&self.streams, Method::POST, target, path)?;
        let request = request.header("content-type", "application/octet-stream").body(chunks);
        json(target, &self.body(target, request).await?)
    }

    fn request(
        &self,
        client: &reqwest::Client,
        method: Method,
        target: &Target,
        path: &str,
    ) -> Result<reqwest::RequestBuilder, Error> {
        let request = client.request(method, format!("{}://{}{path}", self.scheme, target.addr));
        match &self.token {
            None => Ok(request),
            Some(_) if self.scheme == "http" && !target.addr.ip().is_loopback() => {
                Err(Error::TokenInClear(target.addr))
            }
            Some(token) => Ok(request.bearer_auth(token.expose())),
        }
    }

    /// The answer of a host that did not refuse.
    async fn send(
        &self,
        target: &Target,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, Error> {
        let answer = request.send().await.map_err(|source| broken(target, source))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = limited(target, answer).await?;
        let problem = match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if !problem.code.is_empty() => Problem { status: status.as_u16(), ..problem },
            _ => {
                let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
                Problem::new(status, "http", status.to_string(), format!("{status} {text}").trim_end())
            }
        };
        Err(Error::Refused { target: target.clone(), problem: Box::new(problem) })
    }

    async fn body(&self, target: &Target, request: reqwest::RequestBuilder) -> Result<Bytes, Error> {
        let answer = self.send(target, request).await?;
        limited(target, answer).await
    }
}

async fn limited(target: &Target, mut answer: reqwest::Response) -> Result<Bytes, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|source| broken(target, source))? {
        if body.len() + chunk.len() > limits::API_BODY_BYTES {
            let why = format!("more than {} bytes", limits::API_BODY_BYTES);
            return Err(Error::Garbled { target: target.clone(), why });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

fn json<A: DeserializeOwned>(target: &Target, body: &[u8]) -> Result<A, Error> {
    serde_json::from_slice(body).map_err(|e| Error::Garbled { target: target.clone(), why: e.to_string() })
}

fn broken(target: &Target, source: reqwest::Error) -> Error {
    let (target, source) = (target.clone(), source.without_url());
    if source.is_connect() {
        Error::Unreachable { target, source }
    } else {
        Error::NoAnswer { target, source }
    }
}

/// A body as it flows.
pub struct Body(Pin<Box<dyn AsyncRead + Send>>);

impl AsyncRead for Body {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.0.as_mut().poll_read(cx, buf)
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body(…)")
    }
}
