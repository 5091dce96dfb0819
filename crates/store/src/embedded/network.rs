//! Raft's messages over a transport that the binary brings along.
//!
//! Guarantees: a message says from which store directory to which it goes ([`StoreId`]), so a voter whose
//! directory was wiped, or a host of another deployment, is refused instead of believed. Every call is bounded in
//! time. Deliberately absent: addresses, HTTP, TLS.

use super::types::{Envelope, PROTOCOL, RpcKind, StoreId, Types, Voter};
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the longest message a voter sends or answers; the binary's limit for these bodies.
pub const MESSAGE_BYTES: usize = 6 << 20;

/// Carries messages between voters. Ids are resolved by whoever implements it. It need not bound its time, the
/// callers do, but a call that is dropped must not block later ones.
#[async_trait::async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Calls [`super::Embedded::handle`] on voter `to` and returns its answer.
    async fn send(&self, to: u64, kind: RpcKind, body: Vec<u8>) -> Result<Vec<u8>, TransportError>;
}

/// Why a message was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// It did not get there, or no answer came back.
    #[error("voter {to} is not reachable: {what}")]
    Unreachable { to: u64, what: String },
    /// The voter answered with an error of [`super::Embedded::handle`].
    #[error("voter {to} refused: {what}")]
    Refused { to: u64, what: String },
}

/// Who sends, and how.
#[derive(Clone)]
pub(crate) struct Sender {
    pub transport: Arc<dyn Transport>,
    pub cluster: Arc<str>,
    pub from: u64,
    pub from_store: StoreId,
    /// A lost message must not keep a follower from hearing of its leader for long.
    pub timeout: Duration,
}

impl Sender {
    /// Sends one message and waits for its answer, at most `timeout`.
    pub(crate) async fn call<B: Serialize, A: DeserializeOwned>(
        &self,
        (to, to_store): (u64, Option<StoreId>),
        kind: RpcKind,
        body: B,
        timeout: Duration,
    ) -> Result<A, TransportError> {
        let envelope = Envelope {
            protocol: PROTOCOL,
            cluster: self.cluster.to_string(),
            from: self.from,
            from_store: self.from_store,
            to,
            to_store,
            body,
        };
        let unreachable = |what: String| TransportError::Unreachable { to, what };
        let bytes = postcard::to_stdvec(&envelope).map_err(|e| unreachable(e.to_string()))?;
        let answer = tokio::time::timeout(timeout, self.transport.send(to, kind, bytes)).await;
        let answer = answer.map_err(|_| unreachable(format!("no answer within {timeout:?}")))??;
        postcard::from_bytes(&answer).map_err(|e| unreachable(format!("its answer is malformed: {e}")))
    }
}

/// Opens a [`Peer`] for each other voter.
pub(crate) struct Peers(pub Sender);

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Voter) -> Peer {
        Peer { sender: self.0.clone(), to: (target, Some(node.store)) }
    }
}

/// One other voter.
pub(crate) struct Peer {
    sender: Sender,
    to: (u64, Option<StoreId>),
}

impl Peer {
    async fn call<B: Serialize, A: DeserializeOwned, E: std::error::Error>(
        &self,
        kind: RpcKind,
        body: B,
        timeout: Duration,
    ) -> Result<A, RPCError<u64, Voter, E>> {
        self.sender.call(self.to, kind, body, timeout).await.map_err(|e| match e {
            // Worth a pause: nobody is there, or it will not change its mind soon.
            TransportError::Refused { .. } => RPCError::Unreachable(Unreachable::new(&e)),
            TransportError::Unreachable { .. } => RPCError::Network(NetworkError::new(&e)),
        })
    }
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Voter, RaftError<u64>>> {
        // openraft allows one heartbeat interval, which a slow fsync on the other side would exceed.
        self.call(RpcKind::Append, rpc, option.hard_ttl().max(self.sender.timeout)).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Voter, RaftError<u64>>> {
        self.call(RpcKind::Vote, rpc, option.hard_ttl()).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RPCError<u64, Voter, RaftError<u64, InstallSnapshotError>>>
    {
        type Answer = Result<InstallSnapshotResponse<u64>, InstallSnapshotError>;
        let answer: Answer = self.call(RpcKind::Snapshot, rpc, option.hard_ttl()).await?;
        answer.map_err(|e| RPCError::RemoteError(RemoteError::new(self.to.0, RaftError::APIError(e))))
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.sender.timeout))
    }
}
