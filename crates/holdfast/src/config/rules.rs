//! What the fields of a topology must mean together. Each rule is a function over the draft that pushes what it
//! finds; a hole in the draft is no second mistake. Pure: whether a password can be read on this host is asked
//! elsewhere.

use super::draft::{File, NodeDraft, ServiceDraft};
use super::grants;
use super::options;
use super::placement;
use super::report::{Finding, Findings, quoted, suggestion};
use super::repository;
use super::shape::At;
use holdfast_core::NodeName;
use holdfast_core::topology::{Durability, Engine, Family, PasswordSource, ReadConsistency};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Database accounts that belong to the server itself.
const RESERVED_USERS: [&str; 5] = ["root", "mysql", "mariadb.sys", "mysql.sys", "mysql.session"];
/// Where nobody is, who clients are that only give a password: it cannot be the account of replicas.
const PASSWORD_ONLY: &str = "default";
/// Directories that other software owns; Holdfast deletes within its own when it reclones.
const FOREIGN_DIRS: [&str; 24] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/lib/mysql",
    "/var/lib/redis",
    "/var/lib/valkey",
];

pub(super) fn check(file: &File, out: &mut Findings) {
    unique_nodes(file, out);
    node_ids(file, out);
    voters(file, out);
    exposure(file, out);
    drills(file, out);
    scheduled(file, out);
    data_dirs(file, out);
    unique("service", file.services.iter().filter_map(|s| s.name.as_ref()), out);
    for service in &file.services {
        members(service, file, out);
        durability(service, out);
        reads(service, out);
        spread(service, file, out);
        accounts(service, file.allow_plaintext, out);
        options::check(service, out);
    }
    placement::check(file, out);
    sentinel(file, out);
    ports(file, out);
}

fn sentinel(file: &File, out: &mut Findings) {
    let Some(sentinel) = &file.sentinel else { return };
    if let Some(password) = &sentinel.password {
        plaintext(password, file.allow_plaintext, out);
    }
    let redis = |s: &ServiceDraft| s.engine.is_none_or(|e| e.family() == Family::Redis);
    if !file.services.iter().any(redis) {
        out.push(
            Finding::warning("unused-field", "no service here is of Redis or Valkey")
                .at(&sentinel.span, "has no master to tell of")
                .hint("remove it"),
        );
    }
}

/// The file of a staging deployment is easily copied to where it does not belong.
fn drills(file: &File, out: &mut Findings) {
    if let Some(drills) = file.drills.as_ref().filter(|d| d.value) {
        let finding = Finding::warning("drills", "operators may break the hosts of this deployment");
        let hint = "right for staging; take it out where the data matters";
        out.push(finding.at(&drills.span, "every agent does what `holdfast drill` says").hint(hint));
    }
}

fn unique<'a, T: Ord + Display + 'a>(
    what: &str,
    values: impl Iterator<Item = &'a At<T>>,
    out: &mut Findings,
) {
    let mut first: BTreeMap<&T, &Range<usize>> = BTreeMap::new();
    for at in values {
        match first.get(&at.value) {
            None => {
                first.insert(&at.value, &at.span);
            }
            Some(earlier) => out.push(
                Finding::error(
                    "duplicate",
                    format!("two {what}s are called {}", quoted(&at.value.to_string())),
                )
                .at(&at.span, "again here")
                .at(earlier, "first here")
                .hint(format!("every {what} has a name of its own")),
            ),
        }
    }
}

fn scheduled(file: &File, out: &mut Findings) {
    let Some(at) = &file.schedule else { return };
    if repository::schedule(&at.value).is_none() {
        let hint = "`\"03:15\"` for a time of day, UTC, or `\"6h\"` for every six hours, up to `\"672h\"`";
        let says = format!("{} is no schedule", quoted(&at.value));
        out.push(Finding::error("invalid-schedule", says).at(&at.span, "here").hint(hint));
    }
    if !file.wants_repository {
        out.push(
            Finding::error("missing-field", "backups are scheduled, and no repository is named")
                .at(&at.span, "scheduled here")
                .hint("add a [repository] section"),
        );
    }
    for service in &file.services {
        if let (Some(name), Some(engine)) = (&service.name, &service.engine)
            && *engine != Engine::MariaDb
        {
            let says = format!("{} is not backed up by the schedule", quoted(name.value.as_str()));
            let hint =
                "hot backups are MariaDB's only so far; `holdfast backup cold` copies a stopped member";
            out.push(Finding::warning("not-backed-up", says).at(&name.span, "of another engine").hint(hint));
        }
    }
}

fn unique_nodes(file: &File, out: &mut Findings) {
    unique("node", file.nodes.iter().filter_map(|n| n.name.as_ref()), out);
    for at in file.nodes.iter().filter_map(|n| n.name.as_ref()).filter(|at| at.value.as_str() == "ca") {
        out.push(
            Finding::error("invalid-name", "a node cannot be called `ca`")
                .at(&at.span, "taken by the certificate authority's files")
                .hint("choose another name"),
        );
    }
    let mut first = BTreeMap::new();
    for at in file.nodes.iter().filter_map(|n| n.address.as_ref()) {
        if let Some(earlier) = first.insert(at.value, &at.span) {
            out.push(
                Finding::error("duplicate", format!("two nodes have the address `{}`", at.value))
                    .at(&at.span, "again here")
                    .at(earlier, "first here")
                    .hint("one node is one host; on one machine, use loopback addresses 127.0.0.11, 127.0.0.12, …"),
            );
        }
    }
}

fn node_ids(file: &File, out: &mut Findings) {
    let numbered = |n: &&NodeDraft| n.id_given;
    if let (Some(with), Some(without)) =
        (file.nodes.iter().find(numbered), file.nodes.iter().find(|n| !n.id_given))
    {
        let span = with.id.as_ref().map_or(&with.span, |id| &id.span);
        out.push(
            Finding::error("missing-field", "some nodes have an `id` and some have none")
                .at(&without.span, "has none")
                .at(span, "has one")
                .hint(
                    "a number must stay with its host for ever: give every node an `id`, those without one the \
                     number they have run with so far, which `holdfast status` shows",
                ),
        );
        return;
    }
    let mut first = BTreeMap::new();
    for at in file.nodes.iter().filter_map(|n| n.id.as_ref()) {
        if let Some(earlier) = first.insert(at.value, &at.span) {
            out.push(
                Finding::error("duplicate", format!("two nodes have the id {}", at.value))
                    .at(&at.span, "again here")
                    .at(earlier, "first here")
                    .hint("a number belongs to one host for ever, also after the host is gone"),
            );
        }
    }
}

fn voters(file: &File, out: &mut Findings) {
    if file.nodes.is_empty() || file.nodes.iter().any(|n| n.voter.is_none()) {
        return;
    }
    let voting: Vec<&NodeDraft> =
        file.nodes.iter().filter(|n| n.voter.as_ref().is_some_and(|v| v.value)).collect();
    let hint = "an odd number, three or five, survives the loss of one or two; a voter needs neither data nor an \
                instance, so a small third host will do";
    let place = |n: &NodeDraft| match &n.voter {
        Some(voter) if voter.given => voter.span.clone(),
        _ => n.span.clone(),
    };
    let label = |finding: Finding| voting.iter().fold(finding, |f, n| f.at(&place(n), "votes"));
    match voting.len() {
        0 => {
            let finding = Finding::error("no-voter", "no node votes, so there is no store and no decision");
            let finding = file.nodes.iter().fold(finding, |f, n| f.at(&place(n), "does not vote"));
            out.push(finding.hint(hint));
        }
        2 => out.push(
            label(Finding::error("two-voters", "with two voters, the loss of either stops both")).hint(hint),
        ),
        n if n % 2 == 0 => {
            let message = format!("{n} voters survive no more losses than {} do", n - 1);
            out.push(label(Finding::warning("even-voters", message)).hint(hint));
        }
        _ => {}
    }
}

/// Without certificates nobody but this machine may reach the API.
fn exposure(file: &File, out: &mut Findings) {
    let addresses: Vec<_> = file.nodes.iter().filter_map(|n| n.address.as_ref()).collect();
    let (inside, outside): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|at| at.value.is_loopback());
    if let (Some(inner), Some(outer)) = (inside.first(), outside.first()) {
        out.push(
            Finding::error(
                "unreachable-node",
                format!("`{}` cannot be reached by the other nodes", inner.value),
            )
            .at(&inner.span, "means every host's own self")
            .at(&outer.span, "is on the network")
            .hint("use addresses of one network, or loopback addresses for all nodes"),
        );
    }
    if !outside.is_empty() && !file.wants_tls {
        let finding = Finding::error(
            "exposed-api",
            "nodes talk over the network without certificates: anyone could command them",
        );
        let finding = outside.iter().fold(finding, |f, at| f.at(&at.span, "not a loopback address"));
        out.push(finding.hint(
            "add `[tls]` with `dir = \"/etc/holdfast/tls\"`, run `holdfast init` once and copy to each host its files",
        ));
    }
}

fn data_dirs(file: &File, out: &mut Findings) {
    for at in file.nodes.iter().filter_map(|n| n.data_dir.as_ref()) {
        if FOREIGN_DIRS.iter().any(|dir| Path::new(dir) == at.value) {
            out.push(
                Finding::error("unsafe-path", format!("{} is not Holdfast's own", shown(&at.value)))
                    .at(&at.span, "belongs to the system")
                    .hint("give Holdfast a directory of its own, such as \"/var/lib/holdfast\""),
            );
        }
    }
    let local = |n: &&NodeDraft| n.address.as_ref().is_some_and(|a| a.value.is_loopback());
    let dirs: Vec<_> = file.nodes.iter().filter(local).filter_map(|n| n.data_dir.as_ref()).collect();
    for (i, at) in dirs.iter().enumerate() {
        let overlaps =
            |other: &&&At<PathBuf>| at.value.starts_with(&other.value) || other.value.starts_with(&at.value);
        if let Some(earlier) = dirs[..i].iter().find(overlaps) {
            out.push(
                Finding::error("duplicate", "two nodes on this machine use the same data directory")
                    .at(&at.span, shown(&at.value))
                    .at(&earlier.span, shown(&earlier.value))
                    .hint("nodes on loopback addresses share one machine: set `data_dir` for each"),
            );
        }
    }
}

fn shown(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn members(service: &ServiceDraft, file: &File, out: &mut Findings) {
    let Some(members) = &service.members else { return };
    let known: BTreeSet<&NodeName> =
        file.nodes.iter().filter_map(|n| n.name.as_ref()).map(|n| &n.value).collect();
    let mut first: BTreeMap<&NodeName, &Range<usize>> = BTreeMap::new();
    for at in &members.value {
        if let Some(earlier) = first.insert(&at.value, &at.span) {
            out.push(
                Finding::error("duplicate", format!("{} is a member twice", quoted(at.value.as_str())))
                    .at(&at.span, "again here")
                    .at(earlier, "first here")
                    .hint("a node has at most one instance of a service"),
            );
        }
        // A node whose own name is unreadable would make every mention of it a second mistake.
        if !known.contains(&at.value) && file.nodes.iter().all(|n| n.name.is_some()) {
            let names = known.iter().map(|n| n.as_str()).take(20);
            out.push(
                Finding::error("missing-node", format!("there is no node {}", quoted(at.value.as_str())))
                    .at(&at.span, "not a `[[node]]` of this file")
                    .hint(suggestion(at.value.as_str(), names, "nodes of this file")),
            );
        }
    }
}

fn durability(service: &ServiceDraft, out: &mut Findings) {
    let (Some(durability), Some(members)) = (&service.durability, &service.members) else { return };
    let replicas = members.value.len().saturating_sub(1);
    match durability.value {
        Durability::Sync if replicas == 0 => {
            let place = if durability.given { &durability.span } else { &members.span };
            out.push(
                Finding::error("unmet-durability", "`sync` needs a replica, and this service has one member")
                    .at(place, "cannot be met")
                    .hint("add a member, or write `durability = \"async\"`"),
            );
        }
        Durability::Sync if service.engine.is_some_and(|e| e.family().admits_replicas()) => {
            if let Some(wanted) = &service.sync_replicas {
                out.push(
                    Finding::error(
                        "unused-field",
                        "every replica of this engine acknowledges, as long as it follows",
                    )
                    .at(&wanted.span, "has no effect")
                    .hint("remove it; one acknowledgement is enough for a write"),
                );
            }
        }
        Durability::Sync => {
            if let Some(wanted) = service.sync_replicas.as_ref().filter(|w| w.value > replicas) {
                let message = format!("{} sync replicas cannot be met", wanted.value);
                out.push(
                    Finding::error("unmet-durability", message)
                        .at(&wanted.span, "too many")
                        .at(&members.span, format!("{} members, one of them the primary", replicas + 1))
                        .hint(format!("at most {replicas}: members − 1")),
                );
            }
        }
        Durability::Async => {
            let unused = [
                service.sync_replicas.as_ref().map(|at| (&at.span, at.given)),
                service.when_no_sync_replica.as_ref().map(|at| (&at.span, at.given)),
            ];
            for (span, _) in unused.into_iter().flatten().filter(|(_, given)| *given) {
                out.push(
                    Finding::warning("unused-field", "this field means nothing under `async`")
                        .at(span, "has no effect")
                        .hint("remove it, or write `durability = \"sync\"`"),
                );
            }
        }
    }
}

/// Fields about reads that change nothing.
fn reads(service: &ServiceDraft, out: &mut Findings) {
    let (Some(consistency), Some(members)) = (&service.read_consistency, &service.members) else { return };
    let redis = service.engine.is_some_and(|e| e.family() == Family::Redis);
    if consistency.value != ReadConsistency::Strong && members.value.len() == 1 {
        out.push(
            Finding::warning("unused-field", "there is no replica that could serve reads")
                .at(&consistency.span, "has no effect")
                .hint("remove it, or add a member"),
        );
    }
    let waits = consistency.value == ReadConsistency::Session;
    if let Some(wait) = service.read_wait_ms.as_ref().filter(|w| w.given && (redis || !waits)) {
        let (says, hint) = match redis {
            true => ("reads of this engine's clients wait for no replica", "remove it"),
            false => {
                ("only under `session` do reads wait", "remove it, or write `read_consistency = \"session\"`")
            }
        };
        out.push(Finding::warning("unused-field", says).at(&wait.span, "has no effect").hint(hint));
    }
}

/// Members that one fire could destroy together, and failovers that nobody would allow.
fn spread(service: &ServiceDraft, file: &File, out: &mut Findings) {
    let Some(members) = &service.members else { return };
    let nodes: Vec<&NodeDraft> = members
        .value
        .iter()
        .filter_map(|m| file.nodes.iter().find(|n| n.name.as_ref().is_some_and(|name| name.value == m.value)))
        .collect();
    let sandbox = nodes.iter().all(|n| n.address.as_ref().is_some_and(|a| a.value.is_loopback()));
    let regions: BTreeSet<_> = nodes.iter().filter_map(|n| n.region.as_ref()).map(|r| &r.value).collect();
    let zones: BTreeSet<_> =
        nodes.iter().filter_map(|n| Some((&n.region.as_ref()?.value, &n.zone.as_ref()?.value))).collect();
    if nodes.len() > 1 && zones.len() == 1 && !sandbox {
        out.push(
            Finding::warning("one-zone", "all members are in one zone: its loss is the service's loss")
                .at(&members.span, "one zone")
                .hint("put a member elsewhere, or set `zone` on the nodes if they are in different data centres"),
        );
    }
    if let Some(cross) = service.cross_region_failover.as_ref().filter(|c| c.value && regions.len() == 1) {
        out.push(
            Finding::warning("unused-field", "all members are in one region")
                .at(&cross.span, "has no effect")
                .hint("remove it, or set `region` on the nodes"),
        );
    }
}

fn accounts(service: &ServiceDraft, allow_plaintext: bool, out: &mut Findings) {
    let mut first: BTreeMap<&str, &Range<usize>> = BTreeMap::new();
    for (is_user, account) in
        service.replication.iter().map(|a| (false, a)).chain(service.users.iter().map(|a| (true, a)))
    {
        if let Some(password) = &account.password {
            plaintext(password, allow_plaintext, out);
        }
        let redis = service.engine.is_some_and(|e| e.family() == Family::Redis);
        let check = if redis { grants::check_rules } else { grants::check };
        account.grants.iter().for_each(|grant| check(grant, out));
        let Some(name) = &account.name else { continue };
        let of_server = if redis {
            !is_user && name.value.as_str() == PASSWORD_ONLY
        } else {
            RESERVED_USERS.contains(&name.value.as_str())
        };
        let reserved = of_server || (is_user && name.value.as_str().starts_with("holdfast"));
        if reserved {
            out.push(
                Finding::error(
                    "invalid-name",
                    format!("the account {} is reserved", quoted(name.value.as_str())),
                )
                .at(&name.span, "belongs to the server or to Holdfast")
                .hint("choose another name, not beginning with `holdfast`"),
            );
        }
        if let Some(earlier) = first.insert(name.value.as_str(), &name.span) {
            out.push(
                Finding::error("duplicate", format!("two users are called {}", quoted(name.value.as_str())))
                    .at(&name.span, "again here")
                    .at(earlier, "first here")
                    .hint("give all grants in one `[[service.user]]`; the replication account is separate"),
            );
        }
    }
}

fn plaintext(password: &At<PasswordSource>, allowed: bool, out: &mut Findings) {
    let At { value: PasswordSource::Plain(_), span, .. } = password else { return };
    if !allowed {
        out.push(
            Finding::error("plaintext-password", "a password is written in this file")
                .at(span, "in clear")
                .hint(
                    "put it in a file readable by Holdfast alone and name that in `password_file`; for a sandbox, set \
                     `allow_plaintext_passwords = true` at the top",
                ),
        );
    }
}

/// One use of a port.
struct Listener<'a> {
    port: &'a At<u16>,
    what: String,
    /// Index of the service's members; `None` means every node.
    on: Option<BTreeSet<&'a NodeName>>,
}

/// The API and every proxy listen on every node, an engine on the nodes of its service.
fn ports(file: &File, out: &mut Findings) {
    let mut listeners: Vec<Listener<'_>> = Vec::new();
    if let Some(port) = &file.api_port {
        listeners.push(Listener { port, what: "the API, on every node".into(), on: None });
    }
    if let Some(port) = file.sentinel.as_ref().and_then(|s| s.port.as_ref()) {
        listeners.push(Listener { port, what: "the Sentinel port, on every node".into(), on: None });
    }
    for service in &file.services {
        let name = service.name.as_ref().map_or("?", |n| n.value.as_str());
        let members = service.members.iter().flat_map(|m| m.value.iter().map(|at| &at.value)).collect();
        let everywhere = [(&service.port, "read/write port"), (&service.read_port, "read port")];
        for (port, what) in everywhere {
            let Some(port) = port else { continue };
            listeners.push(Listener { port, what: format!("{name}'s {what}, on every node"), on: None });
        }
        if let Some(port) = &service.engine_port {
            listeners.push(Listener {
                port,
                what: format!("{name}'s engine, on its members"),
                on: Some(members),
            });
        }
    }
    let mut by_port: BTreeMap<u16, Vec<Listener<'_>>> = BTreeMap::new();
    for listener in listeners {
        let earlier = by_port.entry(listener.port.value).or_default();
        let clash = earlier.iter().find(|e| match (&e.on, &listener.on) {
            (Some(a), Some(b)) => !a.is_disjoint(b),
            _ => true,
        });
        if let Some(clash) = clash {
            // A default stands nowhere; the one that is written is the one to change.
            let (at, with) = if listener.port.given { (&listener, clash) } else { (clash, &listener) };
            let mut finding =
                Finding::error("port-clash", format!("port {} is used twice", listener.port.value))
                    .at(&at.port.span, at.what.clone());
            finding = match with.port.given {
                true => finding.at(&with.port.span, with.what.clone()),
                false => finding.at(&at.port.span, format!("by default also {}", with.what)),
            };
            out.push(finding.hint("give each its own port"));
        }
        earlier.push(listener);
    }
}
