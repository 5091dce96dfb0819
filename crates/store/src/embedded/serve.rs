//! Answering the other voters.
//!
//! Guarantees: nothing is believed that was not meant for this very directory; malformed input is an error, never
//! a panic.

use super::Embedded;
use super::types::{Envelope, PROTOCOL, ProbeAnswer, RpcKind, StoreId, Types};
use openraft::error::RaftError;
use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a message of another voter was not acted on. Its text is for that voter's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    #[error("the message is malformed: {0}")]
    Malformed(String),
    #[error(
        "the message has version {found}, this voter speaks {PROTOCOL}; run the same release on all voters"
    )]
    Protocol { found: u8 },
    #[error("the message is of the deployment {found}, this is {own}; check addresses in the topology file")]
    Foreign { found: String, own: String },
    #[error("the message is for node {to}, this is node {own}; check addresses in the topology file")]
    OtherNode { to: u64, own: u64 },
    #[error(
        "the message is for the store {to:?} of node {id}, which has now {own}: its directory was wiped or replaced"
    )]
    OtherStore { id: u64, to: Option<StoreId>, own: StoreId },
    #[error("node {from} is known by its store {known}, not {found}: its directory was wiped or replaced")]
    UnknownSender { from: u64, found: StoreId, known: StoreId },
    #[error("this voter has stopped: {0}")]
    Stopped(String),
}

impl Embedded {
    /// Answers a message that another voter's [`super::Transport`] carried here.
    pub async fn handle(&self, kind: RpcKind, body: &[u8]) -> Result<Vec<u8>, HandleError> {
        let raft = &self.0.raft;
        match kind {
            RpcKind::Append => {
                let request: AppendEntriesRequest<Types> = self.open_envelope(body, true)?;
                answer(&raft.append_entries(request).await.map_err(stopped)?)
            }
            RpcKind::Vote => {
                let request: VoteRequest<u64> = self.open_envelope(body, true)?;
                answer(&raft.vote(request).await.map_err(stopped)?)
            }
            RpcKind::Snapshot => {
                let request: InstallSnapshotRequest<Types> = self.open_envelope(body, true)?;
                answer(&match raft.install_snapshot(request).await {
                    Ok(response) => Ok(response),
                    Err(RaftError::APIError(error)) => Err(error),
                    Err(RaftError::Fatal(fatal)) => return Err(HandleError::Stopped(fatal.to_string())),
                })
            }
            RpcKind::Probe => {
                let () = self.open_envelope(body, false)?;
                answer(&self.describe())
            }
            RpcKind::Stand => {
                let () = self.open_envelope(body, true)?;
                let stood = raft.trigger().elect().await;
                answer(&stood.map_err(|fatal| HandleError::Stopped(fatal.to_string()))?)
            }
        }
    }

    /// Who this voter is and what it is part of.
    pub fn describe(&self) -> ProbeAnswer {
        let formed = self.voters();
        ProbeAnswer {
            id: self.0.options.id,
            store: self.0.disk.store,
            configured: self.0.options.voters.keys().copied().collect(),
            formed: (!formed.is_empty()).then_some(formed),
        }
    }

    /// Takes the message out, if it is for this directory.
    fn open_envelope<B: DeserializeOwned>(&self, body: &[u8], addressed: bool) -> Result<B, HandleError> {
        if body.len() > super::MESSAGE_BYTES {
            return Err(HandleError::Malformed(format!("it has {} bytes", body.len())));
        }
        // The version first: the rest may look different in another one.
        match body.first() {
            Some(&PROTOCOL) => {}
            Some(&found) => return Err(HandleError::Protocol { found }),
            None => return Err(HandleError::Malformed("it is empty".into())),
        }
        let malformed = |e: postcard::Error| HandleError::Malformed(e.to_string());
        let envelope: Envelope<B> = postcard::from_bytes(body).map_err(malformed)?;
        let options = &self.0.options;
        if envelope.cluster != options.cluster {
            return Err(HandleError::Foreign { found: envelope.cluster, own: options.cluster.clone() });
        }
        if envelope.to != options.id {
            return Err(HandleError::OtherNode { to: envelope.to, own: options.id });
        }
        if !addressed {
            return Ok(envelope.body);
        }
        let own = self.0.disk.store;
        if envelope.to_store != Some(own) {
            return Err(HandleError::OtherStore { id: options.id, to: envelope.to_store, own });
        }
        if let Some(known) = self.voters().get(&envelope.from)
            && known.store != envelope.from_store
        {
            let (found, known) = (envelope.from_store, known.store);
            return Err(HandleError::UnknownSender { from: envelope.from, found, known });
        }
        Ok(envelope.body)
    }
}

fn stopped(error: RaftError<u64>) -> HandleError {
    HandleError::Stopped(error.to_string())
}

fn answer<T: Serialize>(value: &T) -> Result<Vec<u8>, HandleError> {
    postcard::to_stdvec(value).map_err(|e| HandleError::Malformed(e.to_string()))
}
