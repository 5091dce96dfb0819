//! Engine options of the user's own, and those that Holdfast must set itself.

use super::draft::ServiceDraft;
use super::report::{Finding, Findings, quoted};
use holdfast_core::topology::{Engine, Family};
use std::collections::BTreeMap;

/// Options whose change would take the ground from under a safety rule or a path Holdfast relies on. A name ending
/// in `*` stands for all that begin so.
const OWN: [&str; 24] = [
    "basedir",
    "bind_address",
    "binlog_format",
    "datadir",
    "defaults*",
    "gtid_*",
    "init_file",
    "init_rpl_role",
    "log_bin*",
    "log_slave_updates",
    "log_basename",
    "pid_file",
    "plugin_load*",
    "port",
    "read_only",
    "relay_log*",
    "rpl_semi_sync_*",
    "server_id",
    "skip_grant_tables",
    "skip_log_bin",
    "skip_networking",
    "skip_slave_start",
    "socket",
    "user",
];

pub(super) fn check(service: &ServiceDraft, out: &mut Findings) {
    let redis = service.engine.is_some_and(|e| e.family() == Family::Redis);
    let mut first = BTreeMap::new();
    for (name, _) in &service.engine_options {
        let plain = if redis { as_setting(&name.value) } else { normal(&name.value) };
        let taken = if redis { holdfast_engine::redis::is_own_setting(&plain) } else { owned(&plain) };
        if !plain.starts_with(|c: char| c.is_ascii_alphabetic())
            || !plain.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        {
            out.push(
                Finding::error("invalid-name", format!("{} is not an engine option", quoted(&name.value)))
                    .at(&name.span, "not a name")
                    .hint("write the option's name without leading dashes: `max_connections = 500`"),
            );
        } else if taken {
            out.push(
                Finding::error("reserved-option", format!("Holdfast sets {} itself", quoted(&name.value)))
                    .at(&name.span, "cannot be set here")
                    .hint("remove it: another value would break replication, fencing or supervision"),
            );
        }
        if let Some(earlier) = first.insert(plain, &name.span) {
            out.push(
                Finding::error("duplicate", format!("the option {} is given twice", quoted(&name.value)))
                    .at(&name.span, "again here")
                    .at(earlier, "first here"),
            );
        }
    }
    if let (false, Some((name, _))) = (service.managed, service.engine_options.first()) {
        out.push(
            Finding::error("unused-field", "engine options of an attached engine would have no effect")
                .at(&name.span, "Holdfast does not start this engine")
                .hint(format!(
                    "set them where the engine is configured, such as a file below /etc/{}",
                    where_else(service)
                )),
        );
    }
}

fn where_else(service: &ServiceDraft) -> &'static str {
    match service.engine {
        Some(Engine::Redis) => "redis",
        Some(Engine::Valkey) => "valkey",
        Some(Engine::MariaDb | Engine::MySql) | None => "mysql",
    }
}

/// As a server of the Redis family has it in its file.
fn as_setting(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// As the server reads it: `-` and `_` are the same, prefixes such as `loose-` change nothing about what is meant.
fn normal(name: &str) -> String {
    let mut plain = name.to_ascii_lowercase().replace('-', "_");
    while let Some(rest) =
        ["loose_", "maximum_", "enable_", "disable_"].iter().find_map(|p| plain.strip_prefix(p))
    {
        plain = rest.to_owned();
    }
    plain
}

fn owned(plain: &str) -> bool {
    // The server accepts any unambiguous prefix of an option's name; refusing prefixes of ours from five letters on
    // costs no real option.
    OWN.iter().any(|own| match own.strip_suffix('*') {
        Some(start) => {
            plain.starts_with(start) || plain.strip_prefix("skip_").is_some_and(|p| p.starts_with(start))
        }
        None => plain == *own || (plain.len() >= 5 && own.starts_with(plain)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_our_own_options_are_recognised() {
        for ours in [
            "server-id",
            "SERVER_ID",
            "loose-read-only",
            "rpl_semi_sync_master_timeout",
            "log-bin",
            "skip-log-bin",
            "datad",
        ] {
            assert!(owned(&normal(ours)), "{ours}");
        }
        for theirs in ["innodb_buffer_pool_size", "max-connections", "sync_binlog", "log_warnings", "portal"]
        {
            assert!(!owned(&normal(theirs)), "{theirs}");
        }
    }
}
