//! The server's configuration: what Holdfast's promises rest on, and what is the user's.
//!
//! Guarantees: a managed server comes up as the replica of nobody, read-only (S9), with nobody but its driver and the
//! topology's users; an option that a promise rests on is refused, however it is spelt.
//! Does not know: when the server is started.

use super::{Layout, accounts};
use crate::{Error, Spec};
use std::collections::BTreeMap;

/// Where nobody answers: a server that follows this follows nobody, and takes no writes. Port 1 of the own host: the
/// kernel refuses at once, and no name is looked up.
pub(super) const NOWHERE: (&str, u16) = ("127.0.0.1", 1);
/// More replicas than there can be: while this many are wanted, a primary refuses writes.
pub(super) const SHUT: &str = "1000000";
/// What a replica may miss and still go on from where it was: at 1 MiB/s of writes a minute's absence. The user's to
/// change (`repl-backlog-size`).
const BACKLOG: &str = "64mb";
/// A primary that is silent for so long is connected to anew. Longer than a starved machine is silent.
const SILENCE_S: u32 = 20;

/// Settings whose value Holdfast's promises rest on; those that end in `*` stand for all that begin so.
const OWNED: &[&str] = &[
    "aclfile",
    "bind*",
    "cluster-*",
    "daemonize",
    "dbfilename",
    "dir",
    "dual-channel-replication-enabled",
    "include",
    "logfile",
    "masterauth",
    "masteruser",
    "min-replicas-*",
    "min-slaves-*",
    "pidfile",
    "port",
    "primaryauth",
    "primaryuser",
    "proc-title-template",
    "protected-mode",
    "rename-command",
    "repl-backlog-ttl",
    "repl-diskless-load",
    "repl-ping-*",
    "repl-timeout",
    "replica-announce*",
    "replica-read-only",
    "replicaof",
    "requirepass",
    "set-proc-title",
    "slave-announce*",
    "slave-read-only",
    "slaveof",
    "supervised",
    "tls-*",
    "unixsocket*",
    "user",
];

/// The whole configuration file of a managed server. Holds secrets.
pub(super) fn file(spec: &Spec, at: &Layout) -> Result<String, Error> {
    let path = |p: &std::path::Path| quoted(&p.to_string_lossy());
    let listen = spec.listen;
    let mut lines = vec![
        format!("bind {}", listen.ip()),
        format!("port {}", listen.port()),
        "protected-mode no".into(),
        format!("unixsocket {}", path(&at.socket)),
        "unixsocketperm 700".into(),
        format!("pidfile {}", path(&at.pid_file)),
        format!("logfile {}", path(&at.error_log)),
        format!("dir {}", path(&at.data)),
        "dbfilename dump.rdb".into(),
        format!("aclfile {}", path(&at.users)),
        "daemonize no".into(),
        // Its command line must go on naming the file.
        "set-proc-title no".into(),
        format!("replicaof {} {}", NOWHERE.0, NOWHERE.1),
        "replica-read-only yes".into(),
        format!("replica-announce-ip {}", listen.ip()),
        format!("replica-announce-port {}", listen.port()),
        format!("masteruser {}", quoted(&accounts::replica_name(spec, &spec.node))),
        format!("masterauth {}", quoted(&spec.replication.password)),
        // What was received is on the disk, whole, before the old data goes.
        "repl-diskless-load disabled".into(),
        "repl-diskless-sync-delay 0".into(),
        "repl-backlog-ttl 0".into(),
        "repl-ping-replica-period 1".into(),
        format!("repl-timeout {SILENCE_S}"),
    ];
    if !spec.engine_options.keys().any(|k| normal(k) == "repl-backlog-size") {
        lines.push(format!("repl-backlog-size {BACKLOG}"));
    }
    for (name, value) in &spec.engine_options {
        lines.push(option(name, value)?);
    }
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

fn option(given: &str, value: &str) -> Result<String, Error> {
    let name = normal(given);
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        return Err(Error::BadSpec(format!("{given:?} is not the name of an engine option")));
    }
    if is_own_setting(&name) {
        return Err(Error::BadSpec(format!(
            "engine option {given} is set by Holdfast itself, because its promises rest on it; remove it"
        )));
    }
    if value.chars().any(char::is_control) {
        return Err(Error::BadSpec(format!("the value of engine option {given} has a control character")));
    }
    // Several words are several arguments: `client-output-buffer-limit`, `save`.
    Ok(format!("{name} {}", if value.is_empty() { "\"\"" } else { value }))
}

fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// Whether a setting, in lower case and with hyphens, is one that only Holdfast gives a value.
pub fn is_own_setting(name: &str) -> bool {
    OWNED.iter().any(|own| match own.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *own,
    })
}

/// One argument, whatever is in it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What is looked at, at every look.
pub(super) const WATCHED: &[&str] = &[
    "appendfsync",
    "appendonly",
    "maxmemory-policy",
    "min-replicas-to-write",
    "repl-backlog-ttl",
    "repl-diskless-load",
    "replica-read-only",
];

/// Settings with which a promise does not hold, each said in full.
pub(super) fn unsafe_ones(settings: &BTreeMap<String, String>, sync: bool) -> Vec<String> {
    let is = |name: &str| settings.get(name).map_or("", String::as_str);
    let mut out = Vec::new();
    let mut must = |name: &str, good: bool, then: &str| {
        if !good {
            out.push(format!("{name} is {:?}: {then}", is(name)));
        }
    };
    must("replica-read-only", is("replica-read-only") == "yes", "clients can write to a replica");
    must(
        "repl-diskless-load",
        is("repl-diskless-load") == "disabled",
        "a resynchronisation that breaks off leaves this replica without data",
    );
    must(
        "repl-backlog-ttl",
        is("repl-backlog-ttl") == "0",
        "the history is forgotten while no replica is connected",
    );
    let shut = is("min-replicas-to-write");
    must("min-replicas-to-write", shut == "0" || shut == SHUT, "writes are refused while replicas are away");
    let keeps = is("maxmemory-policy") == "noeviction";
    must("maxmemory-policy", keeps || !sync, "what was acknowledged is discarded when memory is short");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_promise_rests_on_is_not_the_users() {
        for ours in ["replicaof", "SlaveOf", "min_replicas_max_lag", "bind-source-addr", "tls-port", "user"] {
            assert!(option(ours, "1").is_err(), "{ours}");
        }
        for bad in ["", "max memory", "a\nb"] {
            assert!(option(bad, "1").is_err(), "{bad:?}");
        }
        assert!(option("maxmemory", "1gb\nreplicaof x 1").is_err());
        assert_eq!(option("MaxMemory", "1gb").unwrap(), "maxmemory 1gb");
        assert_eq!(option("save", "").unwrap(), "save \"\"");
        assert_eq!(
            option("client_output_buffer_limit", "replica 1gb 0 0").unwrap(),
            "client-output-buffer-limit replica 1gb 0 0"
        );
    }

    #[test]
    fn secrets_are_one_argument() {
        assert_eq!(quoted("a\"b\\c d"), r#""a\"b\\c d""#);
    }
}
