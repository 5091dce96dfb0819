//! What a proxy is told: an immutable picture of where a group's traffic goes.

use crate::{Epoch, GroupName, NodeName, ZoneName};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// One engine's client address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub node: NodeName,
    pub zone: ZoneName,
    pub addr: SocketAddr,
}

/// Whether commands may go to the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// New commands go to `writer`.
    Open,
    /// A switchover has begun: sessions inside a transaction may finish it on `writer`; everything else is held.
    Draining,
    /// Nothing goes to a writer: hold, and cut connections of older epochs.
    Closed,
}

/// Handed to proxies by watch and swapped atomically. A proxy never routes a write on anything else, such as an
/// engine's `read_only` flag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSnapshot {
    pub group: GroupName,
    /// Backend connections made under an older epoch are cut when this grows.
    pub epoch: Epoch,
    pub gate: Gate,
    /// `Some` unless `gate` is `Closed`.
    pub writer: Option<Endpoint>,
    /// Replicas fit for reads, best first. May be empty: reads then go to the writer.
    pub readers: Vec<Endpoint>,
    /// How many replicas must have a write before a client hears of it, where waiting for them is the proxy's part
    /// (Redis, Valkey: `WAIT`). MariaDB and MySQL wait by themselves.
    #[serde(default)]
    pub acks: u32,
    /// How long after its receipt this snapshot may route writes, in ms. The control plane renews it; a proxy
    /// that hears nothing for longer holds writes as if the gate were closed (S1).
    pub valid_for_ms: u64,
}
