//! One look at the engine: one round trip, then pure reading of what came back.
//!
//! Guarantees: bounded in time; a position that cannot be read is an error, never an empty position (S11).
//! Does not know: what the facts mean for the group.

use super::flavour::mariadb as flavour;
use super::sql::Table;
use super::{Heard, MySqlEngine, State};
use crate::{Ackers, Error, Observation, ThreadState, Upstream};
use holdfast_core::position::MariaDbPosition;
use holdfast_core::topology::Durability;
use holdfast_core::{NodeName, Position};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// The raw answer to [`flavour::LOOK`] and its companions.
struct Look<'a> {
    globals: &'a Table,
    status: BTreeMap<&'a str, &'a str>,
    hosts: &'a Table,
    replication: &'a Table,
}

impl MySqlEngine {
    pub(super) async fn look(&self) -> Result<Observation, Error> {
        let sql = [flavour::LOOK, flavour::LOOK_STATUS, "SHOW SLAVE HOSTS; SHOW ALL SLAVES STATUS"].concat();
        let tables = self.watch("observing", sql).await?;
        let [globals, status, hosts, replication] = &tables[..] else {
            return Err(Error::Log(format!("four result sets were asked for, {} came", tables.len())));
        };
        let status = status.rows.iter().filter_map(|r| match &r[..] {
            [Some(name), Some(value)] => Some((name.as_str(), value.as_str())),
            _ => None,
        });
        let look = Look { globals, status: status.collect(), hosts, replication };
        let own = self.sessions.ids().len() as u32;
        let mut state = self.state();
        let mut seen = read(&look, &mut state, Instant::now(), &self.spec.peers, own)?;
        seen.unsafe_settings = unsafe_settings(globals, self.spec.durability);
        seen.free_disk_bytes = free_bytes(&self.at.data);
        Ok(seen)
    }
}

fn read(
    look: &Look<'_>,
    state: &mut State,
    now: Instant,
    peers: &BTreeMap<u32, NodeName>,
    own_connections: u32,
) -> Result<Observation, Error> {
    let g = look.globals;
    let slave_pos = position(g.cell(0, "slave_pos"))?;
    let mut applied = position(g.cell(0, "binlog_state"))?;
    slave_pos.iter().for_each(|(d, s, n)| applied.add(d, s, n));
    let io_pos = position(look.replication.cell(0, "Gtid_IO_Pos"))?;
    let mut received = applied.clone();
    io_pos.iter().for_each(|(d, s, n)| received.add(d, s, n));
    if let Some(residue) = &state.residue {
        residue.position.iter().for_each(|(d, s, n)| received.add(d, s, n));
    }
    let (applied, received) = (Position::MariaDb(applied), Position::MariaDb(received));
    let drained = applied == received;
    if drained {
        state.residue = None;
    }
    let (ackers, foreign) = ackers(look, peers);
    let status = |name| look.status.get(name).copied().unwrap_or("0");
    let number = |name| status(name).parse::<u32>().unwrap_or(0);
    let certain: BTreeSet<u32> = ackers.certain().difference(&foreign).copied().collect();
    Ok(Observation {
        version: g.cell(0, "version").unwrap_or_default().to_owned(),
        server_id: flavour::node_of(g.number(0, "server_id").unwrap_or(0)),
        writable: !g.on(0, "read_only"),
        drained,
        upstream: upstream(look, state, now, drained),
        acknowledges: g.on(0, "acknowledges"),
        waits_for_ack: g.on(0, "waits") && status("Rpl_semi_sync_master_status") == "ON",
        ack_waiters: number("Rpl_semi_sync_master_wait_sessions"),
        ackers_connected: certain.iter().filter_map(|id| peers.get(id).cloned()).collect(),
        foreign_replicas: foreign,
        client_connections: number("Threads_connected")
            .saturating_sub(own_connections)
            .saturating_sub(ackers.connected.len() as u32),
        ackers,
        applied,
        received,
        unsafe_settings: Vec::new(),
        free_disk_bytes: None,
        unjudged_transactions: state.unjudged_transactions,
        retained: state.retained,
    })
}

/// A position is there, even if empty. Its absence would mean that we asked wrongly.
pub(super) fn position(text: Option<&str>) -> Result<MariaDbPosition, Error> {
    text.unwrap_or_default().parse().map_err(|e| Error::Log(format!("{e}")))
}

/// Members replicate under an id of their own kind; whoever does not is a stranger, whatever its number.
fn ackers(look: &Look<'_>, peers: &BTreeMap<u32, NodeName>) -> (Ackers, BTreeSet<u32>) {
    let ids = (0..look.hosts.rows.len()).filter_map(|r| look.hosts.number::<u32>(r, "Server_id"));
    let member = |id: u32| {
        let node = flavour::node_of(id);
        (id != node && peers.contains_key(&node)).then_some(node)
    };
    let (mut connected, mut foreign) = (BTreeSet::new(), BTreeSet::new());
    for id in ids {
        connected.insert(member(id).unwrap_or(id));
        if member(id).is_none() {
            foreign.insert(id);
        }
    }
    let count = look.status.get("Rpl_semi_sync_master_clients").and_then(|n| n.parse().ok()).unwrap_or(0);
    (Ackers { connected, count }, foreign)
}

fn upstream(look: &Look<'_>, state: &mut State, now: Instant, drained: bool) -> Option<Upstream> {
    let r = look.replication;
    let host = r.cell(0, "Master_Host").unwrap_or_default().to_owned();
    if host.is_empty() {
        state.heard = None;
        return None;
    }
    let port = r.number(0, "Master_Port").unwrap_or(0);
    let io = thread(r, "Slave_IO_Running", "Last_IO_Errno", "Last_IO_Error");
    let sign = ["Slave_received_heartbeats", "Master_Log_File", "Read_Master_Log_Pos", "Gtid_IO_Pos"]
        .map(|c| r.cell(0, c).unwrap_or_default())
        .join("/");
    if io != ThreadState::Running {
        state.heard = None;
    } else if state.heard.as_ref().is_none_or(|h| h.sign != sign) {
        state.heard = Some(Heard { sign, at: now });
    }
    let behind = r.number::<u64>(0, "Seconds_Behind_Master").map(|s| s * 1_000);
    Some(Upstream {
        addr: host.parse().ok().map(|ip| std::net::SocketAddr::new(ip, port)),
        host,
        port,
        sql: thread(r, "Slave_SQL_Running", "Last_SQL_Errno", "Last_SQL_Error"),
        lag_ms: if drained && io == ThreadState::Running { Some(0) } else { behind },
        silent_ms: state.heard.as_ref().map(|h| now.duration_since(h.at).as_millis() as u64),
        acknowledges: io == ThreadState::Running
            && look.globals.on(0, "acknowledges")
            && look.status.get("Rpl_semi_sync_slave_status") == Some(&"ON"),
        io,
    })
}

fn thread(r: &Table, running: &str, errno: &str, error: &str) -> ThreadState {
    let code = r.number(0, errno).unwrap_or(0);
    let text = r.cell(0, error).unwrap_or_default().to_owned();
    match r.cell(0, running) {
        Some("Yes") => ThreadState::Running,
        Some("Connecting" | "Preparing") => {
            ThreadState::Connecting { last_error: (code != 0).then(|| format!("{code}: {text}")) }
        }
        _ if code != 0 => ThreadState::Failed { code, text },
        _ => ThreadState::Stopped,
    }
}

/// Settings with which a promise does not hold.
fn unsafe_settings(g: &Table, durability: Durability) -> Vec<String> {
    let cell = |name| g.cell(0, name).unwrap_or_default();
    let sync = durability == Durability::Sync;
    let mut out = Vec::new();
    let mut must = |fine: bool, says: String| {
        if !fine {
            out.push(says);
        }
    };
    let lost = "a crash of the host can lose acknowledged writes";
    must(cell("log_bin") == "1", "log_bin is off: nothing can replicate from this instance".into());
    must(
        cell("log_slave_updates") == "1",
        "log_slave_updates is off: after a failover the others cannot follow this instance".into(),
    );
    must(cell("sync_binlog") == "1", format!("sync_binlog is {}, not 1: {lost}", cell("sync_binlog")));
    must(
        matches!(cell("flush_log"), "1" | "3"),
        format!("innodb_flush_log_at_trx_commit is {}, not 1: {lost}", cell("flush_log")),
    );
    must(
        cell("binlog_format") == "ROW",
        format!("binlog_format is {}, not ROW: replicas can diverge", cell("binlog_format")),
    );
    must(cell("gtid_strict") == "1", "gtid_strict_mode is off: a diverged history goes unnoticed".into());
    must(
        cell("gtid_domain") == "0",
        format!(
            "gtid_domain_id is {}, not 0: positions of the group cannot be compared",
            cell("gtid_domain")
        ),
    );
    must(
        cell("relay_log_recovery") == "0",
        "relay_log_recovery is on: a restart discards what was received and acknowledged".into(),
    );
    if sync {
        must(
            cell("sync_relay_log") == "1",
            format!(
                "sync_relay_log is {}, not 1: {lost} that this replica acknowledged",
                cell("sync_relay_log")
            ),
        );
        must(
            cell("wait_point") == "AFTER_SYNC",
            format!(
                "rpl_semi_sync_master_wait_point is {}, not AFTER_SYNC: clients see writes that can be lost",
                cell("wait_point")
            ),
        );
        let timeout_ms = g.number::<u64>(0, "ack_timeout").unwrap_or(0);
        must(
            timeout_ms >= flavour::ACK_TIMEOUT_SAFE_MS,
            format!(
                "rpl_semi_sync_master_timeout is {timeout_ms} ms: after that, commits go on without a replica"
            ),
        );
        must(
            cell("wait_no_slave") == "1",
            "rpl_semi_sync_master_wait_no_slave is off: without a replica, commits do not wait".into(),
        );
    }
    out
}

fn free_bytes(path: &std::path::Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
