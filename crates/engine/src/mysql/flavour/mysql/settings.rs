//! Which of MySQL's options are Holdfast's, and with which values its promises do not hold.

use crate::mysql::flavour::options::Owned;
use crate::mysql::flavour::{ACK_TIMEOUT_SAFE_MS, HOST_CRASH, Unsafe};
use crate::mysql::sql::Table;

pub(super) const OWNED: Owned = Owned {
    names: &[
        "bind-address",
        "binlog-do-db",
        "binlog-format",
        "binlog-ignore-db",
        "binlog-encryption",
        "chroot",
        "daemonize",
        "datadir",
        "defaults-extra-file",
        "defaults-file",
        "defaults-group-suffix",
        "early-plugin-load",
        "enforce-gtid-consistency",
        "init-file",
        "init-replica",
        "init-slave",
        "initialize",
        "initialize-insecure",
        "innodb-flush-log-at-trx-commit",
        "innodb-force-recovery",
        "innodb-read-only",
        "log-bin",
        "log-bin-index",
        "log-error",
        "log-replica-updates",
        "log-slave-updates",
        "networking",
        "no-defaults",
        "performance-schema",
        "persisted-globals-load",
        "pid-file",
        "port",
        "print-defaults",
        "read-only",
        "relay-log",
        "relay-log-index",
        "relay-log-purge",
        "relay-log-recovery",
        "replica-net-timeout",
        "replica-preserve-commit-order",
        "replica-start",
        "report-host",
        "report-port",
        "server-id",
        "slave-net-timeout",
        "slave-preserve-commit-order",
        "slave-start",
        "socket",
        "super-read-only",
        "sync-binlog",
        "sync-relay-log",
        "tc-heuristic-recover",
        "tmpdir",
        "user",
    ],
    families: &["gtid-", "rpl-semi-sync-", "replicate-", "grant-tables", "group-replication-"],
};

/// Settings with which a promise does not hold.
pub(super) fn unsafe_settings(g: &Table, sync: bool) -> Vec<String> {
    let mut out = Unsafe::default();
    let mut is = |name: &str, cell: &str, good: &str, then: &str| out.unless_is(g, name, cell, good, then);
    is("log_bin", "log_bin", "1", "nothing can replicate from this instance");
    is(
        "log_replica_updates",
        "log_replica_updates",
        "1",
        "after a failover the others cannot follow this instance",
    );
    is("sync_binlog", "sync_binlog", "1", HOST_CRASH);
    is("innodb_flush_log_at_trx_commit", "flush_log", "1", HOST_CRASH);
    is("binlog_format", "binlog_format", "ROW", "replicas can diverge");
    is("gtid_mode", "gtid_mode", "ON", "a diverged history goes unnoticed");
    is(
        "replica_preserve_commit_order",
        "commit_order",
        "1",
        "a read that waited for its session's writes can miss some",
    );
    is("performance_schema", "performance_schema", "1", "the silence of a primary goes unnoticed");
    is(
        "relay_log_recovery",
        "relay_log_recovery",
        "0",
        "a restart discards what was received and acknowledged",
    );
    if sync {
        if g.cell(0, "acknowledges") == Some("1") {
            let acknowledged = format!("{HOST_CRASH} that this replica acknowledged");
            is("sync_relay_log", "sync_relay_log", "1", &acknowledged);
        }
        is(
            "rpl_semi_sync_source_wait_point",
            "wait_point",
            "AFTER_SYNC",
            "clients see writes that can be lost",
        );
        is(
            "rpl_semi_sync_source_wait_no_replica",
            "wait_no_replica",
            "1",
            "without a replica, commits do not wait",
        );
        is(
            "rpl_semi_sync_source_wait_for_replica_count",
            "wait_count",
            "1",
            "Holdfast counts on one answer for each commit",
        );
        let timeout_ms = g.number::<u64>(0, "ack_timeout").unwrap_or(0);
        out.unless(timeout_ms >= ACK_TIMEOUT_SAFE_MS, || {
            format!(
                "rpl_semi_sync_source_timeout is {timeout_ms} ms: after that, commits go on without a replica"
            )
        });
    }
    out.0
}

#[cfg(test)]
mod tests {
    use super::OWNED;
    use crate::mysql::flavour::options;

    #[test]
    fn options_that_promises_rest_on_are_refused() {
        for name in [
            "super_read_only",
            "skip-replica-start",
            "gtid_mode",
            "loose-performance_schema",
            "rpl_semi_sync_source_timeout",
        ] {
            let given = [(name.to_owned(), "1".to_owned())].into();
            assert!(options::add(&given, &OWNED, &mut Vec::new()).is_err(), "{name}");
        }
        let given = [("innodb_buffer_pool_size".to_owned(), "1G".to_owned())].into();
        assert!(options::add(&given, &OWNED, &mut Vec::new()).is_ok());
    }
}
