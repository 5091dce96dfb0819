//! `holdfast run`: puts together what this host is for, from the topology file, and takes it apart again in order.

use crate::agent::backups::Backups;
use crate::agent::link::ControllerLink;
use crate::agent::rejoin::Rejoin;
use crate::agent::{self, Agent, Instance};
use crate::api::server::{self, Host};
use crate::archive::Archive;
use crate::backup;
use crate::cli::Exit;
use crate::clock::{Clock, unix_ms, unix_s};
use crate::config::{Config, secrets};
use crate::faults::{self, Faults};
use crate::http::{Access, Client, ClientOptions, Server, ServerOptions};
use crate::pki;
use crate::proxies::Proxies;
use crate::routes::{Receivers, RouteKeeper};
use crate::sentinel::{self, PictureKeeper};
use crate::voter::Voter;
use holdfast_core::record::Session;
use holdfast_core::topology::{Family, Node, PasswordSource, Service, Topology};
use holdfast_core::{GroupName, NodeName, UserName};
use holdfast_engine::mysql::MySqlEngine;
use holdfast_engine::redis::RedisEngine;
use holdfast_engine::{Account, Engine, Spec, UserAccount};
use miette::{IntoDiagnostic, Report, WrapErr, miette};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

/// This node's engines, by their service.
type Engines = BTreeMap<GroupName, Arc<dyn Engine>>;

/// How long engines may take to shut down in order.
const STOP: Duration = Duration::from_secs(10);

/// Runs this host until SIGTERM or Ctrl-C.
pub async fn run(config: &Config, name: &str) -> Result<Exit, Report> {
    let topology = &config.topology;
    let node = find_node(topology, name)?;
    crate::logging::start();
    die_with_parent();
    raise_open_files();
    let _file_size = outlive_file_size_limit();
    let tls = pki::host_tls(topology, &node.name, unix_s()).map_err(Report::new)?;
    if let Some(left) = tls.as_ref().map(|t| t.days_left(unix_s())).filter(|left| *left < pki::WARN_DAYS) {
        tracing::warn!("this host's certificate ends in {left} days; `holdfast init --renew` makes new ones");
    }
    let clock = Clock::start();
    let client = Client::new(ClientOptions { tls: tls.as_ref().map(|t| t.client.clone()), token: None });
    let link = Arc::new(ControllerLink::new(client.clone(), topology.clone()));

    let server =
        ServerOptions { addr: topology.api_addr(&node), tls: tls.as_ref().map(|t| t.server.clone()) };
    let api = Server::bind(server).await.into_diagnostic()?;

    let mut tasks = JoinSet::new();
    let voter = match node.voter {
        true => Some(Arc::new(
            Voter::open(topology, &node, client, clock).await.into_diagnostic().wrap_err("the store")?,
        )),
        false => None,
    };
    let (keeps_out, kept_out) = oneshot::channel();
    let voting = voter.clone().map(|voter| {
        tasks.spawn(async move {
            let _ = keeps_out.send(voter.run().await);
        })
    });

    let (keeper, routes) = RouteKeeper::new(link.clone(), topology.services.iter().map(|s| s.name.clone()));
    tasks.spawn(keeper.run());
    let engines = make_engines(topology, &node)?;
    let proxy_threads = Proxies::start().into_diagnostic().wrap_err("the proxies' threads")?;
    let proxies = start_proxies(&proxy_threads, topology, &node, &routes, tls.as_ref(), &engines).await?;
    let pictures = start_sentinel(&proxy_threads, topology, &node, &link, &routes, &proxies, tls.as_ref());
    if let Some(pictures) = pictures.await? {
        tasks.spawn(pictures.run());
    }
    let agent = make_agent(config, &node, clock, &link, &proxies, engines)?;
    tasks.spawn(agent.clone().run());

    let host = Host {
        node: node.name.clone(),
        topology: Arc::new(topology.clone()),
        voter: voter.as_ref().map(|v| (v.store(), v.office())),
        agent: agent.clone(),
        proxies: Arc::new(proxies),
        certificate_ends_unix_s: tls.as_ref().map(|t| t.ends_unix_s),
        access: Access::new(topology, tls.as_ref().map(|t| t.tokens.clone())),
        faults: make_faults(config, &node, &agent),
    };
    tasks.spawn(api.run(server::router(host), std::future::pending()));
    tracing::info!(node = %node.name, api = %topology.api_addr(&node), "running");

    let refused = tokio::select! {
        () = asked_to_stop() => None,
        Ok(why) = kept_out => Some(why),
    };
    tracing::info!("stopping");
    agent.stop(STOP).await;
    if let (Some(voter), Some(voting)) = (&voter, voting) {
        // Its end would be news otherwise.
        voting.abort();
        voter.shutdown().await;
    }
    tasks.shutdown().await;
    drop(proxy_threads);
    match refused {
        None => Ok(Exit::Ok),
        Some(why) => Err(miette!("the store keeps this node out: {why}")),
    }
}

fn find_node(topology: &Topology, name: &str) -> Result<Node, Report> {
    let node = NodeName::new(name).ok().and_then(|n| topology.node(&n)).cloned();
    let names: Vec<String> = topology.nodes.iter().map(|n| n.name.to_string()).collect();
    node.ok_or_else(|| {
        miette!(help = format!("nodes: {}", names.join(", ")), "the topology has no node {name:?}")
    })
}

fn make_faults(config: &Config, node: &Node, agent: &Arc<Agent>) -> Arc<Faults> {
    Arc::new(Faults::new(faults::Options {
        allowed: config.drills,
        node: node.clone(),
        topology: Arc::new(config.topology.clone()),
        agent: agent.clone(),
    }))
}

/// Resolves at SIGTERM or Ctrl-C.
pub async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut term) => {
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

/// In a sandbox: if whoever started this process is killed, it must not live on unseen.
fn die_with_parent() {
    if std::env::var_os("HOLDFAST_DIES_WITH_PARENT").is_some() {
        let term = rustix::process::Signal::TERM;
        if let Err(e) = rustix::process::set_parent_process_death_signal(Some(term)) {
            tracing::warn!(error = &e as &dyn std::error::Error, "would live on if the sandbox were killed");
        }
    }
}

/// Thousands of clients need two descriptors each; the soft limit is often 1024.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        limit.current = limit.maximum;
        if let Err(e) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(error = &e as &dyn std::error::Error, "could not raise the limit of open files");
        }
    }
}

/// A limit on the size of files is an error of the write that meets it, like a full disk, and no reason to die.
fn outlive_file_size_limit() -> std::io::Result<tokio::signal::unix::Signal> {
    const SIGXFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(SIGXFSZ))
}

/// One proxy per service. The local engine is reached without going through the network.
async fn start_proxies(
    on: &Proxies,
    topology: &Topology,
    node: &Node,
    routes: &Receivers,
    tls: Option<&pki::HostTls>,
    engines: &Engines,
) -> Result<Vec<(GroupName, holdfast_proxy::Handle)>, Report> {
    let mut proxies = Vec::new();
    for service in &topology.services {
        let Some(receiver) = routes.get(&service.name) else { continue };
        let mut users = Vec::new();
        for user in &service.users {
            let password = secrets::resolve(&user.password).into_diagnostic();
            users.push((
                user.name.clone(),
                password.wrap_err_with(|| format!("the password of {}", user.name))?,
            ));
        }
        let options = holdfast_proxy::Options {
            group: service.name.clone(),
            engine: service.engine,
            zone: node.zone.clone(),
            read_consistency: service.read_consistency,
            local: engines.get(&service.name).map(|engine| holdfast_proxy::LocalEngine {
                addr: SocketAddr::new(node.address, service.engine_port),
                socket: engine.socket().to_owned(),
            }),
            rw_listen: SocketAddr::new(node.address, service.port),
            ro_listen: Some(SocketAddr::new(node.address, service.read_port)),
            users,
            tls: tls.map(|t| t.proxy.clone()),
            routes: receiver.clone(),
            limits: holdfast_proxy::Limits {
                read_wait_ms: service.read_wait_ms,
                ..holdfast_proxy::Limits::default()
            },
            server_version: None,
        };
        proxies.push(on.serve(options).await?);
    }
    Ok(proxies)
}

/// The Sentinel's interface, if there is to be one.
async fn start_sentinel(
    on: &Proxies,
    topology: &Topology,
    node: &Node,
    link: &Arc<ControllerLink>,
    routes: &Receivers,
    proxies: &[(GroupName, holdfast_proxy::Handle)],
    tls: Option<&pki::HostTls>,
) -> Result<Option<PictureKeeper>, Report> {
    let Some(sentinel) = &topology.sentinel else { return Ok(None) };
    let (tokens, tls) = (tls.map(|t| t.tokens.clone()), tls.map(|t| t.proxy.clone()));
    let ground = sentinel::Ground { topology, node, link, routes, proxies, tokens, tls };
    let made = sentinel::make(sentinel, ground).into_diagnostic();
    let (options, pictures) = made.wrap_err("the password of the Sentinel port")?;
    on.serve_sentinel(options).await?;
    Ok(Some(pictures))
}

/// The engines of the services that this node is a member of.
fn make_engines(topology: &Topology, node: &Node) -> Result<Engines, Report> {
    let mine = topology.services.iter().filter(|s| s.members.contains(&node.name));
    mine.map(|service| Ok((service.name.clone(), make_engine(topology, node, service)?))).collect()
}

fn make_agent(
    config: &Config,
    node: &Node,
    clock: Clock,
    link: &Arc<ControllerLink>,
    proxies: &[(GroupName, holdfast_proxy::Handle)],
    engines: Engines,
) -> Result<Arc<Agent>, Report> {
    let topology = &config.topology;
    let session = new_session(node)?;
    let stir = Arc::new(Notify::new());
    let mut instances = Vec::new();
    for service in topology.services.iter().filter(|s| s.members.contains(&node.name)) {
        let Some(engine) = engines.get(&service.name) else { continue };
        let engine = engine.clone();
        let gate = proxies.iter().find(|(g, _)| *g == service.name).map(|(_, h)| h.clone());
        instances.push(Instance::new(agent::instance::Options {
            node: node.name.clone(),
            session,
            service: service.clone(),
            clock,
            lost_file: node.data_dir.join(service.name.as_str()).join("lost.json"),
            rejoin: Rejoin::new(service.name.clone(), topology.clone(), engine.clone(), link.clone()),
            engine,
            close_gate: Box::new(move |epoch| {
                if let Some(gate) = &gate {
                    gate.close_gate(epoch);
                }
            }),
            stir: stir.clone(),
        }));
    }
    let place = config.repository.as_ref().filter(|place| place.archive);
    let archive = |instance: &Arc<Instance>| {
        let kept = place.filter(|_| instance.engine().log().is_some())?;
        Some(Archive::new(instance.clone(), node.name.clone(), kept.clone()))
    };
    Ok(Agent::new(agent::Options {
        node: node.name.clone(),
        session,
        topology: topology.clone(),
        clock,
        link: link.clone(),
        archives: instances.iter().filter_map(archive).collect(),
        backups: make_backups(config, node, &stir),
        instances,
        stir,
    }))
}

fn make_backups(config: &Config, node: &Node, stir: &Arc<Notify>) -> Option<Arc<Backups>> {
    config.topology.backups?;
    let services = config.topology.services.iter().filter(|s| s.members.contains(&node.name));
    Some(Backups::new(agent::backups::Options {
        node: node.name.clone(),
        place: config.repository.clone()?,
        retention: config.retention,
        verify: config.verify,
        sockets: services.map(|s| (s.name.clone(), backup::socket_of(&node.data_dir, s))).collect(),
        stir: stir.clone(),
    }))
}

/// A number greater than that of every earlier life of this agent: kept in its data directory, and not below the wall
/// clock, so that a replaced directory does not begin again at one.
fn new_session(node: &Node) -> Result<Session, Report> {
    let path = node.data_dir.join("session");
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse::<u64>().unwrap_or(0),
        Err(_) => 0,
    };
    let session = unix_ms().max(before.saturating_add(1));
    let keep = || {
        std::fs::create_dir_all(&node.data_dir)?;
        let mut file = std::fs::File::create(&path)?;
        std::io::Write::write_all(&mut file, session.to_string().as_bytes())?;
        file.sync_all()
    };
    keep().into_diagnostic().wrap_err_with(|| format!("{} cannot be written", path.display()))?;
    Ok(Session(session))
}

fn make_engine(topology: &Topology, node: &Node, service: &Service) -> Result<Arc<dyn Engine>, Report> {
    let account = |name: &UserName, password: &PasswordSource| -> Result<Account, Report> {
        let password = secrets::resolve(password).into_diagnostic();
        let password = password.wrap_err_with(|| format!("the password of {name}"))?;
        Ok(Account { user: name.clone(), password: password.expose().to_string() })
    };
    let mut users = Vec::new();
    for user in &service.users {
        users
            .push(UserAccount { account: account(&user.name, &user.password)?, grants: user.grants.clone() });
    }
    let spec = Spec {
        engine: service.engine,
        programs: service.programs.clone(),
        group: service.name.clone(),
        node: node.name.clone(),
        server_id: node.id,
        data_dir: node.data_dir.join(service.name.as_str()),
        listen: SocketAddr::new(node.address, service.engine_port),
        management: service.management.clone(),
        durability: service.durability,
        engine_options: service.engine_options.clone(),
        replication: account(&service.replication.name, &service.replication.password)?,
        users,
        peers: topology.nodes.iter().map(|n| (n.id, n.name.clone())).collect(),
        addresses: topology
            .nodes
            .iter()
            .map(|n| (n.name.clone(), SocketAddr::new(n.address, service.engine_port)))
            .collect(),
    };
    let engine: Result<Arc<dyn Engine>, _> = match service.engine.family() {
        Family::MySql => MySqlEngine::new(spec).map(|e| Arc::new(e) as Arc<dyn Engine>),
        Family::Redis => RedisEngine::new(spec).map(|e| Arc::new(e) as Arc<dyn Engine>),
    };
    engine.into_diagnostic().wrap_err_with(|| format!("the engine of {}", service.name))
}
