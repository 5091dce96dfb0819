//! From what the engine's driver shows to what a report says.

use holdfast_core::report::{Observed, Process, Stream, Upstream};
use holdfast_core::topology::{Service, Topology};
use holdfast_core::{NodeName, limits};
use holdfast_engine::{Observation, ProcessState, ThreadState};
use std::net::SocketAddr;

/// `Some` if there is no engine to look at.
pub fn process(state: &ProcessState) -> Option<Process> {
    match state {
        ProcessState::NotStarted => Some(Process::Starting),
        ProcessState::Running { .. } => None,
        ProcessState::Exited { how, .. } => Some(Process::Exited { how: how.clone() }),
    }
}

/// Names instead of addresses and server ids; what is no member's has none.
pub fn observed(o: Observation, service: &Service, topology: &Topology) -> Observed {
    let possible = o.ackers.possible();
    let ackers = topology.nodes.iter().filter(|n| possible.contains(&n.id)).map(|n| n.name.clone()).collect();
    let mut unsafe_settings = o.unsafe_settings;
    if !o.foreign_replicas.is_empty() {
        let who: Vec<&str> = o.foreign_replicas.iter().map(String::as_str).collect();
        unsafe_settings.push(format!("replicas that are no members are connected ({})", who.join(", ")));
    }
    Observed {
        at: holdfast_core::Millis(0),
        process: Process::Running,
        version: o.version,
        writable: o.writable,
        acknowledges: o.upstream.as_ref().is_some_and(|u| u.acknowledges),
        upstream: o.upstream.map(|u| upstream(u, service, topology)),
        received: o.received,
        applied: o.applied,
        drained: o.drained,
        waits_for_ack: o.waits_for_ack,
        ackers,
        admits: o.admits,
        connections: o.client_connections,
        retained: o.retained,
        unjudged: o.unjudged_transactions,
        unsafe_settings,
        free_disk_bytes: o.free_disk_bytes,
    }
}

/// `ER_MASTER_FATAL_ERROR_READING_BINLOG`, of which these are the reasons that no new attempt mends.
const FATAL_FROM_UPSTREAM: u32 = 1236;
const NOT_IN_ITS_LOG: [&str; 2] = ["required binlog files have been purged", "not in the master's binlog"];

fn upstream(u: holdfast_engine::Upstream, service: &Service, topology: &Topology) -> Upstream {
    let stream = match (&u.io, u.silent_ms) {
        (ThreadState::Running, Some(ms)) if ms >= limits::STREAM_SILENT_AFTER_MS => {
            Stream::Broken { why: format!("nothing came for {ms} ms, not even a heartbeat") }
        }
        (ThreadState::Running, _) => Stream::Up,
        (ThreadState::Copying { received_bytes, data_bytes }, _) => {
            Stream::Copying { received_bytes: *received_bytes, data_bytes: *data_bytes }
        }
        (ThreadState::Connecting { last_error }, _) => {
            Stream::Broken { why: last_error.clone().unwrap_or_else(|| "connecting".into()) }
        }
        (ThreadState::Failed { code: FATAL_FROM_UPSTREAM, text }, _)
            if NOT_IN_ITS_LOG.iter().any(|w| text.contains(w)) =>
        {
            Stream::Refused { why: text.clone() }
        }
        // A thread that gave up (`--master-retry-count`) receives nothing more by itself, exactly like a stopped one.
        (ThreadState::Stopped | ThreadState::Failed { .. }, _) => Stream::Off,
    };
    let apply_error = match u.sql {
        ThreadState::Failed { code, text } => Some(format!("{code}: {text}")),
        ThreadState::Running
        | ThreadState::Connecting { .. }
        | ThreadState::Copying { .. }
        | ThreadState::Stopped => None,
    };
    Upstream {
        node: u.addr.and_then(|a| member_at(a, service, topology)),
        stream,
        apply_error,
        lag_ms: u.lag_ms,
    }
}

fn member_at(addr: SocketAddr, service: &Service, topology: &Topology) -> Option<NodeName> {
    let host = topology.nodes.iter().find(|n| n.address == addr.ip())?;
    (addr.port() == service.engine_port && service.members.contains(&host.name)).then(|| host.name.clone())
}
