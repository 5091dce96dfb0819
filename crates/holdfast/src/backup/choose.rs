//! Which member of a service a backup is taken from. Pure.

use crate::api::people::{MemberStatus, ServiceStatus};

/// The fittest: a replica that nobody waits for, then one of several that acknowledge, then the only one, then the
/// primary; the least lag decides among equals. `None` if none runs.
pub fn fittest(service: &ServiceStatus) -> Option<&MemberStatus> {
    let alone = service.sync_set.len() < 2;
    let rank = |m: &MemberStatus| match m.role.as_str() {
        "replica" => Some(0),
        "sync replica" if !alone => Some(1),
        "sync replica" | "joining sync" => Some(2),
        "primary" => Some(3),
        _ => None,
    };
    let running = service.members.iter().filter(|m| m.state == "running");
    let ranked = running.filter_map(|m| Some((rank(m)?, m.lag_ms.unwrap_or(u64::MAX), m)));
    ranked.min_by(|a, b| (a.0, a.1, &a.2.node).cmp(&(b.0, b.1, &b.2.node))).map(|(.., m)| m)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(members: &[(&str, &str, Option<u64>)], sync_set: &[&str], expected: Option<&str>) {
        let member = |(node, role, lag): &(&str, &str, Option<u64>)| {
            let state = if *role == "rejoining" { "exited" } else { "running" };
            serde_json::json!({
                "node": node, "zone": "z", "address": "127.0.0.1:1", "role": role, "state": state,
                "writable": false, "lag_ms": lag, "connections": 0, "position": null, "activity": null,
                "trouble": null, "unsafe_settings": [], "lost": null, "version": "10.11",
            })
        };
        let service = serde_json::json!({
            "service": "s", "engine": "mariadb", "strategy": "hot-standby", "durability": "sync",
            "assurance": "held", "mode": "automatic", "epoch": 1, "primary": "a", "sync_set": sync_set,
            "state": "healthy", "findings": [], "port": 1, "read_port": 2,
            "members": members.iter().map(member).collect::<Vec<_>>(),
        });
        let service: ServiceStatus = serde_json::from_value(service).unwrap();
        assert_eq!(fittest(&service).map(|m| m.node.as_str()), expected);
    }

    #[test]
    fn nobody_waits_for_the_backups_source_if_that_can_be_had() {
        let a = ("a", "primary", None);
        check(&[a, ("b", "sync replica", Some(0)), ("c", "replica", Some(90))], &["b"], Some("c"));
        check(&[a, ("b", "sync replica", Some(5)), ("c", "sync replica", Some(1))], &["b", "c"], Some("c"));
        check(&[a, ("b", "sync replica", Some(0))], &["b"], Some("b"));
        check(&[a, ("b", "rejoining", None)], &[], Some("a"));
        check(&[("b", "rejoining", None)], &[], None);
    }
}
