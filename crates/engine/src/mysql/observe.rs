//! One look at the engine: one round trip, then pure reading of what came back.
//!
//! Guarantees: bounded in time; a position that cannot be read is an error, never an empty position (S11).
//! Does not know: what the facts mean for the group.

use super::flavour::{self, Look, Replication};
use super::sql::Table;
use super::{Heard, MySqlEngine, State};
use crate::{Ackers, Error, Observation, ThreadState, Upstream};
use holdfast_core::NodeName;
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

impl MySqlEngine {
    pub(super) async fn look(&self) -> Result<Observation, Error> {
        let tables = self.watch("observing", self.flavour.look().to_owned()).await?;
        self.seen(&tables)
    }

    /// A look with a verb's patience.
    pub(super) async fn look_before(&self, doing: &'static str) -> Result<Observation, Error> {
        let tables = self.act(doing, self.flavour.look()).await?;
        self.seen(&tables)
    }

    fn seen(&self, tables: &[Table]) -> Result<Observation, Error> {
        let mut look = self.flavour.read_look(tables, self.sync())?;
        self.acknowledge_in_silence(&look);
        let own = self.sessions.ids().len() as u32;
        let unsafe_settings = std::mem::take(&mut look.unsafe_settings);
        let mut state = self.state();
        let mut seen = read(look, &mut state, Instant::now(), &self.spec.peers, own);
        seen.unsafe_settings = unsafe_settings;
        seen.free_disk_bytes = super::datadir::free_bytes(&self.at.data);
        Ok(seen)
    }
}

fn read(
    look: Look,
    state: &mut State,
    now: Instant,
    peers: &BTreeMap<u32, NodeName>,
    own_connections: u32,
) -> Observation {
    let mut received = look.applied.clone();
    if let Some(r) = &look.replication {
        received = received.union(&r.received);
    }
    if let Some(residue) = &state.residue {
        received = received.union(&residue.position);
    }
    let drained = look.applied == received;
    if drained {
        state.residue = None;
    }
    let (ackers, foreign) = ackers(&look, peers);
    let certain: BTreeSet<u32> = ackers.certain().difference(&foreign).copied().collect();
    Observation {
        server_id: flavour::node_of(look.server_id),
        writable: look.writable,
        drained,
        upstream: upstream(&look, state, now, drained),
        acknowledges: look.acknowledges,
        waits_for_ack: look.waits_for_ack,
        ack_waiters: look.ack_waiters,
        ackers_connected: certain.iter().filter_map(|id| peers.get(id).cloned()).collect(),
        foreign_replicas: foreign.iter().map(|id| format!("server id {id}")).collect(),
        client_connections: look
            .connections
            .saturating_sub(own_connections)
            .saturating_sub(ackers.connected.len() as u32),
        ackers,
        version: look.version,
        applied: Some(look.applied),
        received: Some(received),
        unsafe_settings: Vec::new(),
        free_disk_bytes: None,
        unjudged_transactions: state.unjudged_transactions,
        retained: state.retained,
        admits: None,
    }
}

/// Members replicate under an id of their own kind; whoever does not is a stranger, whatever its number.
fn ackers(look: &Look, peers: &BTreeMap<u32, NodeName>) -> (Ackers, BTreeSet<u32>) {
    let member = |id: u32| {
        let node = flavour::node_of(id);
        (id != node && peers.contains_key(&node)).then_some(node)
    };
    let (mut connected, mut foreign) = (BTreeSet::new(), BTreeSet::new());
    for &id in &look.replicas {
        connected.insert(member(id).unwrap_or(id));
        if member(id).is_none() {
            foreign.insert(id);
        }
    }
    (Ackers { connected, count: look.ackers }, foreign)
}

fn upstream(look: &Look, state: &mut State, now: Instant, drained: bool) -> Option<Upstream> {
    let Some(r) = look.replication.as_ref().filter(|r| !r.host.is_empty()) else {
        state.heard = None;
        return None;
    };
    let receives = r.io == ThreadState::Running;
    if !receives {
        state.heard = None;
    } else {
        let sign = (r.heartbeats, r.file.clone(), r.offset, r.received.clone());
        if state.heard.as_ref().is_none_or(|h| h.sign != sign) {
            state.heard = Some(Heard { sign, at: now });
        }
    }
    Some(told(r, state, now, drained && receives, look.acknowledging))
}

fn told(r: &Replication, state: &State, now: Instant, level: bool, acknowledges: bool) -> Upstream {
    Upstream {
        addr: r.host.parse().ok().map(|ip| std::net::SocketAddr::new(ip, r.port)),
        host: r.host.clone(),
        port: r.port,
        io: r.io.clone(),
        sql: r.sql.clone(),
        lag_ms: if level { Some(0) } else { r.lag_s.map(|s| s * 1_000) },
        silent_ms: state.heard.as_ref().map(|h| now.duration_since(h.at).as_millis() as u64),
        acknowledges,
    }
}
