//! A deployment on this machine: real processes of the real binary, real engines, one directory. What `holdfast dev`
//! runs and what drills break.
//!
//! It starts the binary, never links it, and asks it only through its own command line, as a user would. When it is
//! dropped, everything it started is gone; if it is killed, the kernel takes its children along.

use crate::deployment::{Deployment, Host, Site};
use crate::disk::SmallDisk;
use crate::drills;
use crate::fault::{Fault, Harm};
use crate::ground::{Cut, Ground, Place, Vantage, Ways};
use crate::ledger::Account;
use crate::operator::{self, Operator};
use holdfast_core::limits;
use holdfast_core::topology::{Engine, Family};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Child;
use tokio::time::Instant;

/// Why a sandbox could not be made or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not {what} {path}")]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("could not start {exe}")]
    Spawn {
        exe: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{addr} is in use; is another sandbox or server running?")]
    InUse { addr: SocketAddr },
    #[error("no free loopback network for a sandbox: 127.0.1 to 127.0.250 are in use")]
    NoNetwork,
    #[error(
        "{0} needs network namespaces: run as root, on a kernel with namespaces, veth and bridge, with iproute2 and util-linux"
    )]
    NoNamespaces(&'static str),
    #[error("`{tool}` failed: {says}; drills in network namespaces need root, iproute2 and nftables")]
    Network { tool: String, says: String },
    #[error("could not mount a small file system on {path}: {says}; drills of full disks need root")]
    Mount { path: PathBuf, says: String },
    #[error(transparent)]
    Operator(#[from] operator::Error),
    #[error("node {node} ended: {how}; its log is {log}")]
    Ended { node: String, how: String, log: PathBuf },
    #[error("the sandbox has no {0}")]
    Missing(String),
}

/// What a sandbox is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// The binary to run.
    pub exe: PathBuf,
    pub dir: PathBuf,
    pub network: Network,
    /// Members of the service.
    pub nodes: u8,
    /// Hosts without an instance. If there are any, only they vote.
    pub witnesses: u8,
    /// An application's host, [`APP`]: a proxy and nothing else.
    pub app: bool,
    /// A host that the topology file does not know. Operators stand there, if there is one.
    pub desk: bool,
    /// Each member's files are on a file system of this size.
    pub disk_mib: Option<u32>,
    /// Certificates between the hosts, tokens for people.
    pub tls: bool,
    /// The hosts answer as Sentinels, on this port.
    pub sentinel: Option<u16>,
    pub engine: Engine,
    /// Where its programs are; `None`: found through `PATH`.
    pub programs: Option<PathBuf>,
    /// Another service, [`PARTNER`], at home on the second of two members: each is the standby of what the other serves, and
    /// the witnesses vote beside them.
    pub partner: Option<Partner>,
    /// `sync` or `async`.
    pub durability: String,
    /// The proxies' read/write port; read port, engine port and API port follow.
    pub port: u16,
    /// More lines for the top of the topology file.
    pub top_lines: String,
    /// More lines for its `[sentinel]`.
    pub sentinel_lines: String,
    /// More lines for the service's table in the topology file.
    pub service_lines: String,
    /// More lines for its engine options.
    pub engine_lines: String,
}

/// The other service of a mutual standby.
#[derive(Debug, Clone)]
pub struct Partner {
    pub engine: Engine,
    /// As for [`Options::programs`].
    pub programs: Option<PathBuf>,
}

impl Options {
    /// `nodes` members that vote themselves, sync, no certificates, on a loopback network of their own.
    pub fn new(exe: impl Into<PathBuf>, dir: impl Into<PathBuf>, nodes: u8) -> Options {
        Options {
            exe: exe.into(),
            dir: dir.into(),
            network: Network::Loopback(None),
            nodes,
            witnesses: 0,
            app: false,
            desk: false,
            disk_mib: None,
            tls: false,
            sentinel: None,
            engine: Engine::MariaDb,
            programs: None,
            partner: None,
            durability: "sync".into(),
            port: 3306,
            top_lines: String::new(),
            sentinel_lines: String::new(),
            service_lines: String::new(),
            engine_lines: String::new(),
        }
    }
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let hosts = usize::from(self.nodes + self.witnesses);
        NAMES.into_iter().take(hosts).chain(self.app.then_some(APP))
    }
    fn ports(&self) -> Vec<u16> {
        let services =
            std::iter::once(self.port).chain(self.partner.is_some().then(|| partner_port(self.port)));
        let ports = services.flat_map(|port| [port, port + 1, port + 2]);
        ports.chain([API_PORT]).chain(self.sentinel).collect()
    }
}

/// What the hosts stand on; see [`Ground`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Hosts are 127.0.N.11, .12, …; `None` looks for a free N.
    Loopback(Option<u8>),
    Namespaces,
}

/// See the module.
pub struct Sandbox {
    options: Options,
    ground: Ground,
    nodes: Vec<Node>,
    disks: Vec<SmallDisk>,
    operator: Operator,
    site: Site,
    partner: Option<(Operator, Site)>,
}

struct Node {
    name: String,
    process: Option<Child>,
}

/// The service every sandbox has, and its user.
pub const SERVICE: &str = "shop";
/// See [`Options::partner`].
pub const PARTNER: &str = "stock";
pub const USER: &str = "app";
pub const DATABASE: &str = "shop";
/// Only ever listens on loopback or in a namespace.
pub const PASSWORD: &str = "sandbox";

/// The application's host.
pub const APP: &str = "app";

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const STOP: Duration = Duration::from_secs(15);
/// Sandboxes have no longer one than the default of `cool_down_s`.
const COOL_DOWN: Duration = Duration::from_millis(limits::COOL_DOWN_MS);
const REJOIN: Duration = Duration::from_secs(120);

impl Sandbox {
    /// Writes the topology and starts every node. Use [`Sandbox::wait_healthy`] before you use it.
    pub async fn start(options: Options) -> Result<Sandbox, Error> {
        std::fs::create_dir_all(&options.dir).map_err(|e| file("create", &options.dir, e))?;
        let dir = options.dir.canonicalize().map_err(|e| file("find", &options.dir, e))?;
        // Not where it leads if it is a link: others may be put in its place.
        let there = |p: PathBuf| {
            let (parent, name) = (p.parent().filter(|up| *up != Path::new("")), p.file_name());
            let parent = parent.unwrap_or(Path::new(".")).canonicalize();
            let found = parent.map(|up| name.map_or(up.clone(), |name| up.join(name)));
            found.and_then(|at| at.metadata().map(|_| at)).map_err(|e| file("find", &p, e))
        };
        let programs = options.programs.map(&there).transpose()?;
        let mut partner = options.partner;
        if let Some(partner) = &mut partner {
            partner.programs = partner.programs.take().map(&there).transpose()?;
        }
        let mut options = Options { dir, programs, partner, ..options };
        // The agents' API listens beyond loopback only with certificates.
        options.tls |= options.network == Network::Namespaces;
        let hosts = options.names().count() + usize::from(options.desk);
        let ground = match options.network {
            Network::Loopback(net) => Ground::loopback(net, hosts, &options.ports())?,
            Network::Namespaces => Ground::namespaces(hosts).await?,
        };
        let nodes: Vec<Node> = options.names().map(|n| Node { name: n.to_string(), process: None }).collect();
        let operator = Operator {
            entry: ground.entry(hosts - 1),
            exe: options.exe.clone(),
            globals: vec!["--config".into(), options.dir.join("holdfast.toml").into()],
            service: SERVICE.into(),
        };
        let site = site(&options, &ground, &nodes, (options.engine, options.port));
        let partner = options.partner.as_ref().map(|partner| {
            let site = self::site(&options, &ground, &nodes, (partner.engine, partner_port(options.port)));
            (Operator { service: PARTNER.into(), ..operator.clone() }, site)
        });
        let mut sandbox = Sandbox { ground, nodes, disks: Vec::new(), operator, site, partner, options };
        if let Some(mib) = sandbox.options.disk_mib {
            let dirs = sandbox.members().map(|n| sandbox.options.dir.join(n)).collect::<Vec<_>>();
            for dir in dirs {
                sandbox.disks.push(SmallDisk::mount(dir, mib)?);
            }
        }
        sandbox.write("holdfast.toml", &sandbox.topology())?;
        sandbox.write("app.password", PASSWORD)?;
        sandbox.write("replication.password", "sandbox-replication")?;
        if sandbox.options.tls {
            sandbox.holdfast(&["init"]).await?;
        }
        for at in 0..sandbox.nodes.len() {
            sandbox.start_node(at)?;
        }
        Ok(sandbox)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.options.dir.join(name);
        std::fs::write(&path, text).map_err(|e| file("write", &path, e))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).map_err(|e| file("protect", &path, e))
    }

    fn topology(&self) -> String {
        let Options { dir, engine, programs, partner, port, top_lines, .. } = &self.options;
        let dir = dir.display();
        let mut text = format!(
            "# Written by the sandbox; every host of it reads this file.\nname = \"sandbox\"\napi_port = {API_PORT}\n{top_lines}\n"
        );
        if self.options.tls {
            text += &format!("\n[tls]\ndir = \"{dir}/tls\"\n");
        }
        if let Some(port) = self.options.sentinel {
            text += &format!("\n[sentinel]\nport = {port}\n{}\n", self.options.sentinel_lines);
        }
        let members = usize::from(self.options.nodes);
        for (at, node) in self.nodes.iter().enumerate() {
            // An even number of voters adds no safety: the last node of an even sandbox does not vote.
            let vote = match self.options.witnesses {
                _ if node.name == APP => false,
                _ if partner.is_some() => true,
                0 => at < members - (members + 1) % 2,
                1.. => at >= members,
            };
            let (name, address) = (&node.name, self.ground.address(at));
            text += &format!(
                "\n[[node]]\nname = \"{name}\"\nid = {}\naddress = \"{address}\"\nzone = \"zone-{name}\"\nvoter = {vote}\ndata_dir = \"{dir}/{name}\"\n",
                at + 1
            );
        }
        let mut members: Vec<String> = self.members().map(|n| format!("\"{n}\"")).collect();
        text += &self.service_text(SERVICE, (*engine, programs.as_deref()), &members, *port);
        if let Some(partner) = partner {
            members.reverse();
            let port = partner_port(*port);
            text +=
                &self.service_text(PARTNER, (partner.engine, partner.programs.as_deref()), &members, port);
        }
        text
    }

    fn service_text(
        &self,
        name: &str,
        (engine, programs): (Engine, Option<&Path>),
        members: &[String],
        port: u16,
    ) -> String {
        let Options { dir, durability, service_lines, engine_lines, .. } = &self.options;
        let (option, grant) = match engine.family() {
            Family::MySql => ("innodb_buffer_pool_size = \"64M\"", format!("ALL PRIVILEGES ON {DATABASE}.*")),
            Family::Redis => ("maxmemory = \"256mb\"", "~* &* +@all".to_owned()),
        };
        let programs = programs.map(|p| format!("programs = \"{}\"\n", p.display())).unwrap_or_default();
        let strategy = if self.options.partner.is_some() { "mutual-standby" } else { "hot-standby" };
        let (engine, dir) = (engine.word(), dir.display());
        let (read_port, engine_port) = (port + 1, port + 2);
        format!(
            "\n[[service]]\nname = \"{name}\"\nengine = \"{engine}\"\nstrategy = \"{strategy}\"\n{programs}durability = \"{durability}\"\nmembers = [{}]\nport = {port}\nread_port = {read_port}\nengine_port = {engine_port}\n{service_lines}\n\
             [service.engine_options]\n{option}\n{engine_lines}\n\n\
             [service.replication]\nuser = \"holdfast_repl\"\npassword_file = \"{dir}/replication.password\"\n\n\
             [[service.user]]\nname = \"{USER}\"\npassword_file = \"{dir}/app.password\"\ngrants = [\"{grant}\"]\n",
            members.join(", ")
        )
    }

    fn start_node(&mut self, at: usize) -> Result<(), Error> {
        let node = &mut self.nodes[at];
        let log = self.options.dir.join(format!("{}.log", node.name));
        let out = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| file("open", &log, e))?;
        let err = out.try_clone().map_err(|e| file("open", &log, e))?;
        let mut command = self.ground.command(at, &self.options.exe);
        command
            .arg("--config")
            .arg(self.options.dir.join("holdfast.toml"))
            .args(["run", "--node", &node.name]);
        command.stdin(Stdio::null()).stdout(out).stderr(err).kill_on_drop(true).process_group(0);
        command.env("HOLDFAST_DIES_WITH_PARENT", "1");
        let child =
            command.spawn().map_err(|source| Error::Spawn { exe: self.options.exe.clone(), source })?;
        node.process = Some(child);
        Ok(())
    }

    pub fn config(&self) -> PathBuf {
        self.options.dir.join("holdfast.toml")
    }
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }
    pub fn node_names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|n| n.name.as_str())
    }
    /// The hosts that hold data.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        self.node_names().take(self.options.nodes.into())
    }
    /// The members' read/write addresses, in the order of the nodes.
    pub fn proxies(&self) -> Vec<SocketAddr> {
        (0..usize::from(self.options.nodes)).map(|p| self.proxy_at(p)).collect()
    }
    /// A host's own read/write address.
    pub fn proxy(&self, node: &str) -> Result<SocketAddr, Error> {
        Ok(self.proxy_at(self.at(node)?))
    }
    fn proxy_at(&self, place: Place) -> SocketAddr {
        SocketAddr::new(self.ground.address(place), self.options.port)
    }
    /// An engine's own address.
    pub fn engine(&self, node: &str) -> Result<SocketAddr, Error> {
        let at = self.at(node)?;
        Ok(SocketAddr::new(self.ground.address(at), self.options.port + 2))
    }
    /// Where the hosts answer as Sentinels.
    pub fn sentinels(&self) -> Vec<SocketAddr> {
        let at = |port| (0..self.nodes.len()).map(move |p| SocketAddr::new(self.ground.address(p), port));
        self.options.sentinel.into_iter().flat_map(at).collect()
    }
    pub fn durability(&self) -> &str {
        &self.options.durability
    }

    /// The host where clients stand, and operators unless they have a desk: the application's, else the last.
    pub fn client(&self) -> &str {
        &self.nodes.last().expect("a sandbox has nodes").name
    }
    /// A thread on a host, for clients.
    pub fn vantage(&self, node: &str) -> Result<Vantage, Error> {
        self.ground.vantage(self.at(node)?)
    }
    /// True if hosts can be cut off from each other.
    pub fn can_cut(&self) -> bool {
        self.ground.can_cut()
    }
    /// Cuts some hosts off from all others; returns what [`Sandbox::mend`] takes back.
    pub async fn cut(&mut self, nodes: &[&str], ways: Ways) -> Result<Cut, Error> {
        let side = nodes.iter().map(|n| self.at(n)).collect::<Result<_, _>>()?;
        let cut = Cut { side, ways };
        self.ground.cut(cut.clone()).await?;
        Ok(cut)
    }
    pub async fn mend(&mut self, cut: &Cut) -> Result<(), Error> {
        self.ground.mend(cut).await
    }
    /// True if members have file systems of their own.
    pub fn has_disks(&self) -> bool {
        !self.disks.is_empty()
    }
    /// A member's small file system.
    pub fn disk(&self, node: &str) -> Result<&SmallDisk, Error> {
        let dir = self.options.dir.join(node);
        let disk = self.disks.iter().find(|d| d.path() == dir);
        disk.ok_or_else(|| Error::Missing(format!("file system of its own for {node}")))
    }

    fn at(&self, node: &str) -> Result<usize, Error> {
        self.nodes.iter().position(|n| n.name == node).ok_or_else(|| Error::Missing(format!("node {node}")))
    }

    /// Pid of a node's `holdfast run`, while it runs.
    pub fn pid(&self, node: &str) -> Result<u32, Error> {
        let at = self.at(node)?;
        self.nodes[at]
            .process
            .as_ref()
            .and_then(Child::id)
            .ok_or_else(|| Error::Missing(format!("process of node {node}")))
    }

    /// Pid of a node's engine, from the file the engine writes.
    pub fn engine_pid(&self, node: &str) -> Result<u32, Error> {
        let path = self.options.dir.join(node).join(SERVICE).join("run").join("db.pid");
        let text = std::fs::read_to_string(&path).map_err(|e| file("read", &path, e))?;
        text.trim().parse().map_err(|_| Error::Missing(format!("pid in {}", path.display())))
    }

    /// SIGKILL to a node's `holdfast run`; the kernel takes its engines along.
    pub async fn kill_node(&mut self, node: &str) -> Result<(), Error> {
        let at = self.at(node)?;
        if let Some(mut process) = self.nodes[at].process.take() {
            let _ = process.kill().await;
        }
        Ok(())
    }

    /// Starts a node that was killed.
    pub fn restart_node(&mut self, node: &str) -> Result<(), Error> {
        let at = self.at(node)?;
        self.start_node(at)
    }

    /// Each service: who asks about it, and what it is.
    pub fn services(&self) -> impl Iterator<Item = (&Operator, &Site)> {
        std::iter::once((&self.operator, &self.site)).chain(self.partner.as_ref().map(|(o, s)| (o, s)))
    }
    /// Who asks this deployment.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }
    /// See [`Operator::holdfast`].
    pub async fn holdfast(&self, args: &[&str]) -> Result<String, operator::Error> {
        self.operator.holdfast(args).await
    }
    /// See [`Operator::service`].
    pub async fn service(&self) -> Result<Value, operator::Error> {
        self.operator.service().await
    }
    /// See [`Operator::history`].
    pub async fn history(&self) -> Result<Vec<Value>, operator::Error> {
        self.operator.history().await
    }
    /// The node that leads right now.
    pub async fn primary(&self) -> Result<String, operator::Error> {
        self.operator.primary().await
    }

    /// Waits until all services are healthy, or a node that should run does not. Returns the first.
    pub async fn wait_healthy(&mut self, bound: Duration) -> Result<Value, Error> {
        let Sandbox { operator, partner, nodes, options, .. } = self;
        if let Some((operator, _)) = partner {
            operator.wait_healthy(bound, || check_running(nodes, &options.dir)).await?;
        }
        operator.wait_healthy(bound, || check_running(nodes, &options.dir)).await
    }

    /// An error if a node that should run does not.
    pub fn check_running(&mut self) -> Result<(), Error> {
        check_running(&mut self.nodes, &self.options.dir)
    }

    /// Starts every node whose process has ended by itself, as a supervisor would.
    pub fn supervise(&mut self) -> Result<(), Error> {
        for at in 0..self.nodes.len() {
            let process = self.nodes[at].process.as_mut();
            if process.is_some_and(|p| matches!(p.try_wait(), Ok(Some(_)))) {
                self.start_node(at)?;
            }
        }
        Ok(())
    }

    /// Stops every node in order: clients cut, engines shut down.
    pub async fn stop(mut self) -> Result<(), Error> {
        for node in &self.nodes {
            if let Some(pid) = node.process.as_ref().and_then(Child::id) {
                signal(pid, rustix::process::Signal::TERM);
            }
        }
        let end = Instant::now() + STOP;
        for node in &mut self.nodes {
            let Some(process) = &mut node.process else { continue };
            if tokio::time::timeout_at(end, process.wait()).await.is_err() {
                let _ = process.kill().await;
            }
        }
        Ok(())
    }
}

/// Sends a signal to a process by its id; one that is gone already is no error.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn check_running(nodes: &mut [Node], dir: &Path) -> Result<(), Error> {
    for node in nodes {
        let Some(process) = &mut node.process else { continue };
        if let Ok(Some(status)) = process.try_wait() {
            let log = dir.join(format!("{}.log", node.name));
            return Err(Error::Ended { node: node.name.clone(), how: status.to_string(), log });
        }
    }
    Ok(())
}

/// The partner's read/write port, where the other's is `port`.
fn partner_port(port: u16) -> u16 {
    port + 10
}

fn site(options: &Options, ground: &Ground, nodes: &[Node], (engine, port): (Engine, u16)) -> Site {
    let at = |place: Place, port: u16| SocketAddr::new(ground.address(place), port);
    let member = |place: Place| place < usize::from(options.nodes);
    let host = |(place, node): (Place, &Node)| Host {
        node: node.name.clone(),
        proxy: at(place, port),
        engine: member(place).then(|| at(place, port + 2)),
    };
    Site {
        hosts: nodes.iter().enumerate().map(host).collect(),
        account: account(engine.family()),
        durability: options.durability.clone(),
        alone: true,
        cool_down: COOL_DOWN,
        rejoin: REJOIN,
        rto_ms: None,
    }
}

/// The account of every sandbox.
pub fn account(family: Family) -> Account {
    Account { user: USER.into(), password: PASSWORD.into(), database: DATABASE.into(), family }
}

impl Deployment for Sandbox {
    type Harm = Harm;

    fn site(&self) -> &Site {
        &self.site
    }
    fn operator(&self) -> &Operator {
        &self.operator
    }
    fn clients(&self) -> Result<Vantage, drills::Error> {
        Ok(self.vantage(self.client())?)
    }
    fn clients_of(&self, node: &str) -> Result<Option<Vantage>, drills::Error> {
        Ok(Some(self.vantage(node)?))
    }
    fn lacks(&self, fault: Fault) -> Option<&'static str> {
        match fault {
            _ if fault.possible(self) => None,
            Fault::FillDisk => Some("members with file systems of their own"),
            _ => Some("network namespaces, so: root"),
        }
    }
    /// It heals when it is told to: if this process dies, so does the sandbox.
    async fn strike(&mut self, fault: Fault, node: &str, _: Option<Duration>) -> Result<Harm, drills::Error> {
        Ok(fault.strike(self, node).await?)
    }
    async fn heal(&mut self, harm: Harm) -> Result<(), drills::Error> {
        Ok(harm.heal(self).await?)
    }
    async fn wait_healthy(&mut self, bound: Duration) -> Result<Value, drills::Error> {
        Ok(Sandbox::wait_healthy(self, bound).await?)
    }
}

pub(crate) const API_PORT: u16 = 7400;

pub(crate) fn file(what: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { what, path: path.to_path_buf(), source }
}
