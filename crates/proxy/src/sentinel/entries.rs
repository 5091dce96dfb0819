//! How masters, replicas and Sentinels are described: the fields that clients and monitoring read, with what is true here.
//! Where there is no primary to be named, its address is empty: an old one would be believed.

use super::facts::{Facts, MasterFacts, Primary, ReplicaFacts, SentinelFacts};
use super::reply::Row;
use holdfast_core::limits;
use std::net::SocketAddr;

/// The ip and port of the primary, if it may be named.
pub fn address(master: &MasterFacts) -> Option<(String, String)> {
    match &master.primary {
        Primary::Open(at) => Some(split(at.addr)),
        Primary::Switching | Primary::None | Primary::Unknown => None,
    }
}

fn split(addr: SocketAddr) -> (String, String) {
    (addr.ip().to_string(), addr.port().to_string())
}

/// The word of `INFO`.
pub fn status(master: &MasterFacts) -> &'static str {
    match &master.primary {
        Primary::Open(_) => "ok",
        Primary::Switching | Primary::Unknown => "sdown",
        Primary::None => "odown",
    }
}

fn known_as(name: String, (ip, port): (String, String), id: &str, flags: String) -> Row {
    vec![
        ("name", name),
        ("ip", ip),
        ("port", port),
        ("runid", id.to_string()),
        ("flags", flags),
        ("link-pending-commands", "0".into()),
        ("link-refcount", "1".into()),
    ]
}

/// Hosts report by themselves: nobody pings them, and a report is as good as a reply.
fn heard(ms_ago: Option<u64>, row: &mut Row) {
    let ago = ms_ago.unwrap_or(0).to_string();
    row.push(("last-ping-sent", "0".into()));
    row.push(("last-ok-ping-reply", ago.clone()));
    row.push(("last-ping-reply", ago));
    row.push(("down-after-milliseconds", limits::SILENT_AFTER_MS.to_string()));
}

pub fn master(m: &MasterFacts, facts: &Facts) -> Row {
    let flags = match &m.primary {
        Primary::Open(_) => "master",
        Primary::Switching => "master,s_down,failover_in_progress",
        Primary::None => "master,s_down,o_down",
        Primary::Unknown => "master,s_down,disconnected",
    };
    let at = address(m).unwrap_or((String::new(), "0".into()));
    let mut row = known_as(m.name.to_string(), at, "", flags.into());
    heard(None, &mut row);
    row.extend([
        ("info-refresh", "0".into()),
        ("role-reported", "master".into()),
        ("role-reported-time", "0".into()),
        ("config-epoch", m.epoch.0.to_string()),
        ("num-slaves", m.replicas.len().to_string()),
        ("num-other-sentinels", facts.others.len().to_string()),
        ("quorum", facts.quorum().to_string()),
        ("failover-timeout", limits::OPEN_MS.to_string()),
        ("parallel-syncs", m.replicas.len().to_string()),
    ]);
    row
}

pub fn replica(r: &ReplicaFacts, m: &MasterFacts) -> Row {
    let flags = match (r.is_up(), r.seen.is_some()) {
        (true, _) => "slave",
        (false, true) => "slave,s_down",
        (false, false) => "slave,s_down,disconnected",
    };
    let at = split(r.addr);
    let mut row = known_as(r.addr.to_string(), at, "", flags.into());
    heard(r.heard_ms_ago, &mut row);
    let (host, port) = address(m).unwrap_or(("?".into(), "0".into()));
    row.extend([
        ("info-refresh", r.heard_ms_ago.unwrap_or(0).to_string()),
        ("role-reported", "slave".into()),
        ("role-reported-time", "0".into()),
        ("master-link-down-time", "0".into()),
        ("master-link-status", if r.follows() { "ok" } else { "err" }.into()),
        ("master-host", host),
        ("master-port", port),
        ("slave-priority", "100".into()),
        ("slave-repl-offset", r.seen.map_or(0, |s| s.offset).to_string()),
        ("replica-announced", "1".into()),
    ]);
    row
}

pub fn sentinel(s: &SentinelFacts, facts: &Facts) -> Row {
    let flags = match (s.is_up(), s.heard_ms_ago) {
        (true, _) => "sentinel",
        (false, Some(_)) => "sentinel,s_down",
        (false, None) => "sentinel,s_down,disconnected",
    };
    let at = split(s.addr);
    let mut row = known_as(s.addr.to_string(), at, &s.id, flags.into());
    heard(s.heard_ms_ago, &mut row);
    row.extend([
        ("last-hello-message", s.heard_ms_ago.unwrap_or(0).to_string()),
        ("voted-leader", facts.leader.clone().unwrap_or("?".into())),
        ("voted-leader-epoch", "0".into()),
    ]);
    row
}
