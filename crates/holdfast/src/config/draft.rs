//! The file as its own kind of value: every field typed and with its place, `None` where it did not fit (that was
//! reported when it was read). The rules look at drafts, so that one bad field hides no other mistake; a draft
//! without a hole becomes the topology.

use super::report::{Finding, Findings};
use super::repository::{self, Place};
use super::shape::{At, Record};
use holdfast_backup::Retention;
use holdfast_core::topology::{
    Durability, Engine, HandBack, Management, Node, PasswordSource, ReadConsistency, ReplicationUser,
    Sentinel, Service, Strategy, Topology, User, WhenNoSyncReplica,
};
use holdfast_core::{GroupName, NodeName, RegionName, UserName, ZoneName};
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct File {
    pub name: Option<At<String>>,
    pub api_port: Option<At<u16>>,
    pub allow_plaintext: bool,
    pub drills: Option<At<bool>>,
    /// The file has a `[tls]` section, perhaps a wrong one.
    pub wants_tls: bool,
    pub tls_dir: Option<At<PathBuf>>,
    pub sentinel: Option<SentinelDraft>,
    pub repository: Option<Place>,
    pub retention: Retention,
    /// A backup is proven after it was made.
    pub verify: bool,
    pub schedule: Option<At<String>>,
    pub wants_repository: bool,
    pub nodes: Vec<NodeDraft>,
    pub services: Vec<ServiceDraft>,
}

#[derive(Debug)]
pub(super) struct SentinelDraft {
    pub span: Range<usize>,
    pub port: Option<At<u16>>,
    pub password: Option<At<PasswordSource>>,
    /// It mentions one, perhaps a wrong one.
    pub wants_password: bool,
}

#[derive(Debug)]
pub(super) struct NodeDraft {
    pub span: Range<usize>,
    pub name: Option<At<NodeName>>,
    pub id: Option<At<u32>>,
    pub id_given: bool,
    pub region: Option<At<RegionName>>,
    pub zone: Option<At<ZoneName>>,
    pub address: Option<At<IpAddr>>,
    pub voter: Option<At<bool>>,
    pub data_dir: Option<At<PathBuf>>,
    pub capacity: Units,
}

/// What a node has, or a service takes.
#[derive(Debug, Default)]
pub(super) struct Units {
    pub memory_mib: Option<At<u64>>,
    pub load: Option<At<u64>>,
}

#[derive(Debug)]
pub(super) struct ServiceDraft {
    pub name: Option<At<GroupName>>,
    pub engine: Option<Engine>,
    pub strategy: Option<Strategy>,
    pub durability: Option<At<Durability>>,
    /// `None` also where the file has none.
    pub sync_replicas: Option<At<usize>>,
    pub when_no_sync_replica: Option<At<WhenNoSyncReplica>>,
    pub members: Option<At<Vec<At<NodeName>>>>,
    pub engine_port: Option<At<u16>>,
    pub port: Option<At<u16>>,
    pub read_port: Option<At<u16>>,
    pub cross_region_failover: Option<At<bool>>,
    pub cool_down_s: Option<At<u64>>,
    /// `None` also where the file has none.
    pub hand_back: Option<At<String>>,
    pub hand_back_after_s: Option<At<u64>>,
    pub needs: Units,
    pub read_consistency: Option<At<ReadConsistency>>,
    pub read_lag_ms: Option<At<u64>>,
    pub read_wait_ms: Option<At<u64>>,
    pub managed: bool,
    pub management: Option<At<Management>>,
    pub programs: Option<At<PathBuf>>,
    pub engine_options: Vec<(At<String>, String)>,
    pub replication: Option<AccountDraft>,
    pub users: Vec<AccountDraft>,
}

#[derive(Debug)]
pub(super) struct AccountDraft {
    pub name: Option<At<UserName>>,
    pub password: Option<At<PasswordSource>>,
    pub grants: Vec<At<String>>,
}

pub(super) fn file(mut r: Record, out: &mut Findings) -> File {
    let (wants_tls, wants_repository) = (r.mentions("tls"), r.mentions("repository"));
    let mut backup = r.one("backup");
    File {
        name: r.text("name"),
        api_port: r.port("api_port"),
        allow_plaintext: r.flag("allow_plaintext_passwords").is_some_and(|f| f.value),
        drills: r.flag("drills"),
        wants_tls,
        tls_dir: r.one("tls").and_then(|mut tls| tls.path("dir")),
        sentinel: r.one("sentinel").map(|r| sentinel(r, out)),
        repository: r.one("repository").and_then(|mut r| repository::place(&mut r, out)),
        wants_repository,
        retention: backup.as_mut().map_or(repository::RETENTION, repository::retention),
        verify: backup.as_mut().is_some_and(|r| r.flag("verify").is_some_and(|at| at.value)),
        schedule: backup.and_then(|mut r| r.text("schedule")),
        nodes: r.many("node").into_iter().enumerate().map(|(place, r)| node(place, r)).collect(),
        services: r.many("service").into_iter().map(|r| service(r, out)).collect(),
    }
}

fn sentinel(mut r: Record, out: &mut Findings) -> SentinelDraft {
    SentinelDraft {
        wants_password: mentions_password(&r),
        password: password(&mut r, out),
        port: r.port("port"),
        span: r.span,
    }
}

fn node(place: usize, mut r: Record) -> NodeDraft {
    let id_given = r.mentions("id");
    let counted = u32::try_from(place + 1).expect("the number of nodes is limited");
    let id = match r.number("id") {
        Some(at) => u32::try_from(at.value).ok().map(|n| at.map(|_| n)),
        None if id_given => None,
        None => Some(At { value: counted, span: r.span.clone(), given: false }),
    };
    let region = named(r.text("region"), RegionName::new);
    let zone = match (r.mentions("zone"), &region) {
        (true, _) | (_, None) => named(r.text("zone"), ZoneName::new),
        (false, Some(region)) => {
            let (value, span) = (format!("{}-1", region.value), region.span.clone());
            named(Some(At { value, span, given: false }), ZoneName::new)
        }
    };
    NodeDraft {
        name: named(r.text("name"), NodeName::new),
        id,
        id_given,
        region,
        zone,
        address: r.address("address"),
        voter: r.flag("voter"),
        data_dir: r.path("data_dir"),
        capacity: r.one("capacity").map_or_else(Units::default, units),
        span: r.span,
    }
}

fn units(mut r: Record) -> Units {
    Units { memory_mib: r.number("memory_mib"), load: r.number("load") }
}

fn named<T, E>(text: Option<At<String>>, name: impl Fn(&str) -> Result<T, E>) -> Option<At<T>> {
    let at = text?;
    let value = name(&at.value).ok()?;
    Some(at.map(|_| value))
}

fn service(mut r: Record, out: &mut Findings) -> ServiceDraft {
    let engine = r.text("engine").and_then(|at| match at.value.as_str() {
        "mariadb" => Some(Engine::MariaDb),
        "mysql" => Some(Engine::MySql),
        "redis" => Some(Engine::Redis),
        "valkey" => Some(Engine::Valkey),
        _ => None,
    });
    let strategy = r.text("strategy").and_then(|at| match at.value.as_str() {
        "hot-standby" => Some(Strategy::HotStandby),
        "mutual-standby" => Some(Strategy::MutualStandby),
        _ => None,
    });
    let durability = r
        .text("durability")
        .map(|at| at.map(|text| if text == "async" { Durability::Async } else { Durability::Sync }));
    let when_no_sync_replica = r.text("when_no_sync_replica").map(|at| {
        at.map(|text| if text == "block" { WhenNoSyncReplica::Block } else { WhenNoSyncReplica::Degrade })
    });
    let read_consistency = r.text("read_consistency").map(|at| {
        at.map(|text| match &*text {
            "session" => ReadConsistency::Session,
            "eventual" => ReadConsistency::Eventual,
            _ => ReadConsistency::Strong,
        })
    });
    let (managed, management) = management(&mut r, out);
    ServiceDraft {
        name: named(r.text("name"), GroupName::new),
        engine,
        strategy,
        durability,
        sync_replicas: r
            .number("sync_replicas")
            .map(|at| at.map(|n| usize::try_from(n).unwrap_or(usize::MAX))),
        when_no_sync_replica,
        members: r.texts("members").map(|at| {
            at.map(|names| names.into_iter().filter_map(|name| named(Some(name), NodeName::new)).collect())
        }),
        engine_port: r.port("engine_port"),
        port: r.port("port"),
        read_port: r.port("read_port"),
        cross_region_failover: r.flag("cross_region_failover"),
        cool_down_s: r.number("cool_down_s"),
        hand_back: r.text("hand_back"),
        hand_back_after_s: r.number("hand_back_after_s"),
        needs: r.one("needs").map_or_else(Units::default, units),
        read_consistency,
        read_lag_ms: r.number("read_lag_ms"),
        read_wait_ms: r.number("read_wait_ms"),
        managed,
        management,
        programs: r.path("programs"),
        engine_options: r.options("engine_options"),
        replication: r.one("replication").map(|mut r| account("user", &mut r, out)),
        users: r.many("user").into_iter().map(|mut r| account("name", &mut r, out)).collect(),
    }
}

/// Whether the engine is managed, and how; the latter `None` if that part of the file is wrong.
fn management(r: &mut Record, out: &mut Findings) -> (bool, Option<At<Management>>) {
    let (wants_managed, wants_attached) = (r.mentions("managed"), r.mentions("attached"));
    let (managed, attached) = (r.one("managed"), r.one("attached"));
    match (managed, attached) {
        (Some(m), Some(a)) => {
            out.push(
                Finding::error("contradiction", "a service is either managed or attached")
                    .at(&a.span, "here it is attached")
                    .at(&m.span, "here it is managed")
                    .hint("remove one of the two"),
            );
            (true, None)
        }
        (_, Some(mut a)) => (false, attached_engine(&mut a)),
        (Some(mut m), None) => {
            let run_as = m.text("run_as").map(|at| at.value);
            (true, Some(At { value: Management::Managed { run_as }, span: m.span, given: true }))
        }
        (None, None) if wants_managed || wants_attached => (wants_managed, None),
        (None, None) => {
            let value = Management::Managed { run_as: None };
            (true, Some(At { value, span: r.span.clone(), given: false }))
        }
    }
}

fn attached_engine(a: &mut Record) -> Option<At<Management>> {
    let words = |at: At<Vec<At<String>>>| at.value.into_iter().map(|word| word.value).collect();
    let value = Management::Attached {
        socket: a.path("socket")?.value,
        data_dir: a.path("data_dir")?.value,
        stop_command: a.texts("stop_command").map(words)?,
        start_command: a.texts("start_command").map(words)?,
    };
    Some(At { value, span: a.span.clone(), given: true })
}

fn mentions_password(r: &Record) -> bool {
    ["password_file", "password_env", "password"].iter().any(|f| r.mentions(f))
}

fn password(r: &mut Record, out: &mut Findings) -> Option<At<PasswordSource>> {
    let file = r.path("password_file").map(|at| at.map(PasswordSource::File));
    let env = r.text("password_env").map(|at| at.map(PasswordSource::Env));
    let plain = r.text("password").map(|at| at.map(PasswordSource::Plain));
    let mut given: Vec<At<PasswordSource>> = [file, env, plain].into_iter().flatten().collect();
    if given.len() > 1 {
        let mut finding = Finding::error("contradiction", "a password has one source");
        for source in &given {
            finding = finding.at(&source.span, "one source");
        }
        out.push(finding.hint("keep one of `password_file`, `password_env` and `password`"));
        return None;
    }
    given.pop()
}

fn account(name_field: &str, r: &mut Record, out: &mut Findings) -> AccountDraft {
    if !mentions_password(r) {
        out.push(
            Finding::error("missing-field", "no password is given for this user")
                .at(&r.span, "needs a password")
                .hint("add `password_file = \"/…\"` (a file on every host) or `password_env = \"…\"`"),
        );
    }
    AccountDraft {
        password: password(r, out),
        name: named(r.text(name_field), UserName::new),
        grants: r.texts("grants").map(|at| at.value).unwrap_or_default(),
    }
}

/// The topology, or `None` if a hole is left (which was reported when it was found).
pub(super) fn topology(file: File) -> Option<Topology> {
    Some(Topology {
        name: file.name?.value,
        api_port: file.api_port?.value,
        tls_dir: file.tls_dir.map(|at| at.value),
        sentinel: match file.sentinel {
            Some(draft) => Some(finished_sentinel(draft)?),
            None => None,
        },
        backups: match &file.schedule {
            Some(at) => Some(repository::schedule(&at.value)?),
            None => None,
        },
        nodes: file.nodes.into_iter().map(finished_node).collect::<Option<_>>()?,
        services: file.services.into_iter().map(finished_service).collect::<Option<_>>()?,
    })
}

fn finished_sentinel(draft: SentinelDraft) -> Option<Sentinel> {
    let password = match draft.password {
        None if draft.wants_password => return None,
        password => password.map(|at| at.value),
    };
    Some(Sentinel { port: draft.port?.value, password })
}

fn finished_node(draft: NodeDraft) -> Option<Node> {
    Some(Node {
        name: draft.name?.value,
        id: draft.id?.value,
        region: draft.region?.value,
        zone: draft.zone?.value,
        address: draft.address?.value,
        voter: draft.voter?.value,
        data_dir: draft.data_dir?.value,
    })
}

/// When a service goes home; `None` if that cannot be read.
pub(super) fn hand_back(text: &str) -> Option<HandBack> {
    match text {
        "auto" => Some(HandBack::Auto),
        "manual" => Some(HandBack::Manual),
        text => minute_of_day(text).map(HandBack::At),
    }
}

/// `03:15`
pub(super) fn minute_of_day(text: &str) -> Option<u16> {
    let digits =
        |t: &str| (t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse::<u16>().ok());
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes) = (digits(hours)??, digits(minutes)??);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

fn finished_service(draft: ServiceDraft) -> Option<Service> {
    let strategy = draft.strategy?;
    let hand_back = match &draft.hand_back {
        Some(at) => hand_back(&at.value)?,
        None if strategy == Strategy::MutualStandby => HandBack::Auto,
        None => HandBack::Manual,
    };
    let durability = draft.durability?.value;
    let sync_replicas = match durability {
        Durability::Sync => draft.sync_replicas.map_or(1, |at| at.value),
        Durability::Async => 0,
    };
    let replication = draft.replication?;
    let user = |draft: AccountDraft| {
        Some(User {
            name: draft.name?.value,
            password: draft.password?.value,
            grants: draft.grants.into_iter().map(|at| at.value).collect(),
        })
    };
    Some(Service {
        name: draft.name?.value,
        engine: draft.engine?,
        strategy,
        hand_back,
        hand_back_after_ms: draft.hand_back_after_s?.value * 1_000,
        durability,
        sync_replicas,
        when_no_sync_replica: draft.when_no_sync_replica?.value,
        members: draft.members?.value.into_iter().map(|at| at.value).collect(),
        engine_port: draft.engine_port?.value,
        port: draft.port?.value,
        read_port: draft.read_port?.value,
        management: draft.management?.value,
        programs: draft.programs.map(|at| at.value),
        users: draft.users.into_iter().map(user).collect::<Option<_>>()?,
        replication: ReplicationUser { name: replication.name?.value, password: replication.password?.value },
        cross_region_failover: draft.cross_region_failover?.value,
        cool_down_ms: draft.cool_down_s?.value * 1_000,
        read_consistency: draft.read_consistency?.value,
        read_lag_ms: draft.read_lag_ms?.value,
        read_wait_ms: draft.read_wait_ms?.value,
        engine_options: draft.engine_options.into_iter().map(|(name, value)| (name.value, value)).collect(),
    })
}
