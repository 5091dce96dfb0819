//! MariaDB 10.11 and later: its command line, its programs, its words for replication.
//!
//! Guarantees: a server started with [`arguments`] is read-only, does not replicate, and keeps what it has committed
//! or received over a crash (S9). Options that these promises rest on cannot be overridden.

use crate::Error;
use crate::mysql::{Layout, Spec};
use holdfast_core::limits;
use holdfast_core::topology::Durability;
use std::path::Path;

pub(crate) const SERVER: &str = "mariadbd";
pub(crate) const INSTALL: &str = "mariadb-install-db";
pub(crate) const BACKUP: &str = "mariabackup";
pub(crate) const UNSTREAM: &str = "mbstream";
pub(crate) const BINLOG: &str = "mariadb-binlog";

/// Practically infinite, in ms: an acknowledgement is waited for until the caller decides otherwise. The largest
/// value the server takes without overflowing its own arithmetic (49 days).
pub(crate) const ACK_TIMEOUT_MS: u64 = 4_294_967_295;
/// Below this an acknowledgement timeout counts as a way out of durability.
pub(crate) const ACK_TIMEOUT_SAFE_MS: u64 = 86_400_000;
/// How often an upstream with nothing to send sends a heartbeat, as the server wants it: in s.
pub(crate) const HEARTBEAT_S: f64 = limits::HEARTBEAT_MS as f64 / 1_000.0;
/// Options whose value Holdfast's promises rest on. An option of the user's own may not be one of them.
const OWNED: &[&str] = &[
    "bind-address",
    "binlog-do-db",
    "binlog-format",
    "binlog-ignore-db",
    "bootstrap",
    "chroot",
    "datadir",
    "defaults-extra-file",
    "defaults-file",
    "defaults-group-suffix",
    "encrypt-binlog",
    "init-file",
    "init-rpl-role",
    "init-slave",
    "innodb-flush-log-at-trx-commit",
    "innodb-read-only",
    "log-basename",
    "log-bin",
    "log-bin-index",
    "log-error",
    "log-slave-updates",
    "log-replica-updates",
    "master-info-file",
    "master-retry-count",
    "networking",
    "no-defaults",
    "pid-file",
    "port",
    "print-defaults",
    "read-only",
    "relay-log",
    "relay-log-index",
    "relay-log-info-file",
    "relay-log-purge",
    "relay-log-recovery",
    "report-host",
    "report-port",
    "server-id",
    "slave-net-timeout",
    "slave-start",
    "socket",
    "sync-binlog",
    "sync-relay-log",
    "tmpdir",
    "tc-heuristic-recover",
    "user",
    "wsrep-on",
];
const OWNED_FAMILIES: &[&str] = &["gtid-", "rpl-semi-sync-", "replicate-", "wsrep-", "grant-tables"];
const PREFIXES: &[&str] = &["loose-", "skip-", "disable-", "enable-", "maximum-"];

/// Whether the crash recovery of the next start rolls back what was never acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// Transactions in the log that the engine had not committed are cut off the log and rolled back. Right where a
    /// commit was answered only after an acknowledgement.
    RollBackTail,
    /// They are committed. Right where commits were answered without one.
    CommitTail,
}

/// The server's command line.
pub(crate) fn arguments(
    spec: &Spec,
    at: &Layout,
    user: &str,
    recovery: Recovery,
) -> Result<Vec<String>, Error> {
    let sync = spec.durability == Durability::Sync;
    let mut out = vec!["--no-defaults".to_owned(), data_argument(at)];
    let mut add = |name: &str, value: &str| out.push(format!("--{name}={value}"));
    let path = |p: &Path| p.display().to_string();
    add("user", user);
    add("socket", &path(&at.socket));
    add("pid-file", &path(&at.pid_file));
    add("tmpdir", &path(&at.tmp));
    add("log-error", &path(&at.error_log));
    add("bind-address", &spec.listen.ip().to_string());
    add("port", &spec.listen.port().to_string());
    add("report-host", &spec.node.to_string());
    add("server-id", &follower_id(spec.server_id).to_string());
    // Defaults that the user may override.
    add("skip-name-resolve", "1");
    add("max-connections", "4096");
    add("max-binlog-size", "134217728");
    add("slave-parallel-threads", "4");
    add("slave-parallel-mode", "optimistic");
    add("character-set-server", "utf8mb4");
    for (name, value) in &spec.engine_options {
        let name = option_name(name)?;
        if value.chars().any(char::is_control) {
            return Err(Error::BadSpec(format!("the value of engine option {name} has a control character")));
        }
        add(&name, value);
    }
    // The last word is ours.
    add("log-bin", "binlog");
    add("log-slave-updates", "1");
    add("binlog-format", "ROW");
    add("relay-log", "relay");
    // At a start, what was received and not applied must stay where it is until somebody has decided about it.
    add("relay-log-recovery", "0");
    add("gtid-strict-mode", "1");
    add("sync-binlog", "1");
    add("innodb-flush-log-at-trx-commit", "1");
    // An acknowledgement must mean that the event survives a crash of the host.
    add("sync-relay-log", if sync { "1" } else { "10000" });
    add("rpl-semi-sync-master-wait-point", "AFTER_SYNC");
    add("rpl-semi-sync-master-timeout", &ACK_TIMEOUT_MS.to_string());
    add("rpl-semi-sync-master-wait-no-slave", "1");
    // Until it is promoted: a replica that waited for acknowledgements would never apply anything.
    add("rpl-semi-sync-master-enabled", "0");
    // A replica that leaves tries to tell its primary, however dead that is.
    add("rpl-semi-sync-slave-kill-conn-timeout", "1");
    add("slave-net-timeout", "4");
    add("master-retry-count", &limits::REPLICA_RETRIES.to_string());
    let roll_back = recovery == Recovery::RollBackTail;
    // Both are needed for the tail to be cut; the second alone changes nothing while no thread replicates.
    add("init-rpl-role", if roll_back { "SLAVE" } else { "MASTER" });
    add("rpl-semi-sync-slave-enabled", if roll_back { "1" } else { "0" });
    add("read-only", "1");
    out.push("--skip-slave-start".into());
    Ok(out)
}

/// How a server on our data names its directory: also how a leftover process is recognised.
pub(crate) fn data_argument(at: &Layout) -> String {
    format!("--datadir={}", at.data.display())
}

/// A replica skips events that carry its own server id, as if it had them. It need not have them: its tail may have
/// been rolled back, or it was cloned from a donor that lagged. So an instance replicates under another id than the
/// one it writes under, and no event is ever its own.
pub(crate) const fn follower_id(server_id: u32) -> u32 {
    server_id | FOLLOWER_BIT
}
pub(crate) const FOLLOWER_BIT: u32 = 1 << 31;

/// A replica's second connection to its primary, of a moment: under the id of the first it would end the first.
pub(crate) const fn late_acker_id(server_id: u32) -> u32 {
    follower_id(server_id) | 1 << 30
}

/// The highest node number: what is left of a server id beside the primacy.
pub(crate) const NODE_MAX: u32 = holdfast_core::limits::NODE_ID_MAX;

/// The id that an instance writes under. It changes with every primacy: a server that rolled back or cloned away a
/// tail of its own would else give out the same numbers again for other transactions, and a member that still has
/// the first ones would be taken for one that has the second.
pub(crate) const fn writer_id(server_id: u32, primacy: u64) -> u32 {
    // 24 bits of primacy: one a minute for thirty years.
    (((primacy & 0xff_ffff) as u32) << 7) | server_id
}

/// The node number in any id that an instance goes by.
pub(crate) const fn node_of(id: u32) -> u32 {
    id & NODE_MAX
}

/// Checks and normalises the name of an engine option of the user's own.
fn option_name(name: &str) -> Result<String, Error> {
    let normal = name.to_ascii_lowercase().replace('_', "-");
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if normal.is_empty() || normal.starts_with('-') || !normal.chars().all(fits) {
        return Err(Error::BadSpec(format!("{name:?} is not the name of an engine option")));
    }
    let mut bare = normal.as_str();
    while let Some(rest) = PREFIXES.iter().find_map(|p| bare.strip_prefix(p)) {
        bare = rest;
    }
    // The server takes any unambiguous beginning of a name.
    let owned = OWNED.iter().any(|o| o.starts_with(bare))
        || OWNED_FAMILIES.iter().any(|f| bare.starts_with(f) || f.starts_with(bare));
    if bare.is_empty() || owned {
        return Err(Error::BadSpec(format!(
            "engine option {name} is set by Holdfast itself, because its promises rest on it; remove it"
        )));
    }
    Ok(normal)
}

/// One round trip for a whole look. Replication comes last: what was applied is read before what was received, so
/// that `drained` errs on the careful side.
pub(crate) const LOOK: &str = "SELECT @@version AS version, @@server_id AS server_id, @@global.read_only AS read_only, \
     @@global.gtid_binlog_state AS binlog_state, @@global.gtid_slave_pos AS slave_pos, \
     @@global.rpl_semi_sync_master_enabled AS waits, @@global.rpl_semi_sync_slave_enabled AS acknowledges, \
     @@global.rpl_semi_sync_master_wait_point AS wait_point, @@global.rpl_semi_sync_master_timeout AS ack_timeout, \
     @@global.rpl_semi_sync_master_wait_no_slave AS wait_no_slave, @@global.sync_binlog AS sync_binlog, \
     @@global.innodb_flush_log_at_trx_commit AS flush_log, @@global.sync_relay_log AS sync_relay_log, \
     @@global.log_slave_updates AS log_slave_updates, @@global.log_bin AS log_bin, \
     @@global.binlog_format AS binlog_format, @@global.gtid_strict_mode AS gtid_strict, \
     @@global.gtid_domain_id AS gtid_domain, @@global.relay_log_recovery AS relay_log_recovery; ";

/// See [`LOOK`].
pub(crate) const LOOK_STATUS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', \
     'Rpl_semi_sync_master_clients', 'Rpl_semi_sync_master_status', 'Rpl_semi_sync_master_wait_sessions', \
     'Rpl_semi_sync_slave_status'); ";

#[cfg(test)]
mod tests {
    use super::option_name;

    #[test]
    fn options_that_promises_rest_on_are_refused() {
        for name in [
            "server_id",
            "read-only",
            "READ_ONLY",
            "loose_read_only",
            "skip-log-bin",
            "gtid_strict_mode",
            "read-onl",
            "rpl_semi_sync_master_timeout",
            "skip-grant-tables",
            "loose-skip-slave-start",
            "sync",
            "datadir",
            "skip-networking",
            "",
            "-x",
            "--x",
            "a b",
            "a=b",
            "x\n",
            "skip-",
        ] {
            assert!(option_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn other_options_pass() {
        for (name, normal) in
            [("innodb_buffer_pool_size", "innodb-buffer-pool-size"), ("max_connections", "max-connections")]
        {
            assert_eq!(option_name(name).unwrap(), normal);
        }
    }
}
