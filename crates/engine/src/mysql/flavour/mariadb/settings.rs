//! Which of MariaDB's options are Holdfast's, and with which values its promises do not hold.

use crate::mysql::flavour::options::Owned;
use crate::mysql::flavour::{ACK_TIMEOUT_SAFE_MS, HOST_CRASH, Unsafe};
use crate::mysql::sql::Table;

pub(super) const OWNED: Owned = Owned {
    names: &[
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
    ],
    families: &["gtid-", "rpl-semi-sync-", "replicate-", "wsrep-", "grant-tables"],
};

/// Settings with which a promise does not hold.
pub(super) fn unsafe_settings(g: &Table, sync: bool) -> Vec<String> {
    let mut out = Unsafe::default();
    let mut is = |name: &str, cell: &str, good: &str, then: &str| out.unless_is(g, name, cell, good, then);
    is("sync_binlog", "sync_binlog", "1", HOST_CRASH);
    is("binlog_format", "binlog_format", "ROW", "replicas can diverge");
    is("gtid_domain_id", "gtid_domain", "0", "positions of the group cannot be compared");
    if sync {
        if g.cell(0, "acknowledges") == Some("1") {
            let acknowledged = format!("{HOST_CRASH} that this replica acknowledged");
            is("sync_relay_log", "sync_relay_log", "1", &acknowledged);
        }
        let shown = "clients see writes that can be lost";
        is("rpl_semi_sync_master_wait_point", "wait_point", "AFTER_SYNC", shown);
    }
    let mut switched = |name: &str, cell: &str, on: bool, then: &str| {
        let (good, is) = if on { ("1", "off") } else { ("0", "on") };
        out.unless(g.cell(0, cell) == Some(good), || format!("{name} is {is}: {then}"));
    };
    switched("log_bin", "log_bin", true, "nothing can replicate from this instance");
    let others = "after a failover the others cannot follow this instance";
    switched("log_slave_updates", "log_slave_updates", true, others);
    switched("gtid_strict_mode", "gtid_strict", true, "a diverged history goes unnoticed");
    let discards = "a restart discards what was received and acknowledged";
    switched("relay_log_recovery", "relay_log_recovery", false, discards);
    if sync {
        let waits = "without a replica, commits do not wait";
        switched("rpl_semi_sync_master_wait_no_slave", "wait_no_slave", true, waits);
    }
    let flushes = g.cell(0, "flush_log").unwrap_or_default();
    out.unless(matches!(flushes, "1" | "3"), || {
        format!("innodb_flush_log_at_trx_commit is {flushes}, not 1: {HOST_CRASH}")
    });
    let timeout_ms = g.number::<u64>(0, "ack_timeout").unwrap_or(0);
    out.unless(!sync || timeout_ms >= ACK_TIMEOUT_SAFE_MS, || {
        format!(
            "rpl_semi_sync_master_timeout is {timeout_ms} ms: after that, commits go on without a replica"
        )
    });
    out.0
}

#[cfg(test)]
mod tests {
    use super::OWNED;
    use crate::mysql::flavour::options::add;

    fn option_name(name: &str) -> Result<String, crate::Error> {
        let mut out = Vec::new();
        add(&[(name.to_owned(), "1".to_owned())].into(), &OWNED, &mut out)?;
        Ok(out.concat())
    }

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
        for (name, normal) in [
            ("innodb_buffer_pool_size", "--innodb-buffer-pool-size=1"),
            ("max_connections", "--max-connections=1"),
        ] {
            assert_eq!(option_name(name).unwrap(), normal);
        }
    }
}
