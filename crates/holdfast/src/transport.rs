//! Carries the store's messages over the API, so that a host needs one port.

use crate::http::{Client, Target};
use holdfast_core::topology::Topology;
use holdfast_store::embedded::{RpcKind, Transport, TransportError};
use std::collections::BTreeMap;
use std::time::Duration;

/// See the module.
pub struct HttpTransport {
    client: Client,
    voters: BTreeMap<u64, Target>,
}

impl HttpTransport {
    pub fn new(client: Client, topology: &Topology) -> HttpTransport {
        let voters = topology
            .nodes
            .iter()
            .filter(|n| n.voter)
            .map(|n| (u64::from(n.id), Target { node: n.name.clone(), addr: topology.api_addr(n) }))
            .collect();
        HttpTransport { client, voters }
    }
}

/// The store gives up on its own earlier; this only keeps a dead host from holding a connection.
const BOUND: Duration = Duration::from_secs(5);

#[async_trait::async_trait]
impl Transport for HttpTransport {
    async fn send(&self, to: u64, kind: RpcKind, body: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let unreachable = |what: String| TransportError::Unreachable { to, what };
        let target = self.voters.get(&to).ok_or_else(|| unreachable("it is not in the topology".into()))?;
        let path = format!("/v1/host/raft/{}", word(kind));
        match self.client.post_bytes(target, &path, body, BOUND).await {
            Ok(answer) => Ok(answer.to_vec()),
            Err(e) if e.is_refusal() => Err(TransportError::Refused { to, what: crate::agent::chain(&e) }),
            Err(e) => Err(unreachable(crate::agent::chain(&e))),
        }
    }
}

fn word(kind: RpcKind) -> &'static str {
    match kind {
        RpcKind::Append => "append",
        RpcKind::Vote => "vote",
        RpcKind::Snapshot => "snapshot",
        RpcKind::Probe => "probe",
        RpcKind::Stand => "stand",
    }
}

/// The last part of a path, back to what it stands for.
pub fn kind(word: &str) -> Option<RpcKind> {
    match word {
        "append" => Some(RpcKind::Append),
        "vote" => Some(RpcKind::Vote),
        "snapshot" => Some(RpcKind::Snapshot),
        "probe" => Some(RpcKind::Probe),
        "stand" => Some(RpcKind::Stand),
        _ => None,
    }
}
