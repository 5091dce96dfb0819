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
    let cell = |name| g.cell(0, name).unwrap_or_default();
    let mut out = Unsafe::default();
    let mut must = |fine: bool, says: String| out.unless(fine, || says);
    let lost = HOST_CRASH;
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
            timeout_ms >= ACK_TIMEOUT_SAFE_MS,
            format!(
                "rpl_semi_sync_master_timeout is {timeout_ms} ms: after that, commits go on without a replica"
            ),
        );
        must(
            cell("wait_no_slave") == "1",
            "rpl_semi_sync_master_wait_no_slave is off: without a replica, commits do not wait".into(),
        );
    }
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
