//! A deployment on this machine: real processes of the real binary, real engines, one directory. What `holdfast dev`
//! runs and what drills break.
//!
//! It starts the binary, never links it, and asks it only through its own command line, as a user would. When it is
//! dropped, everything it started is gone; if it is killed, the kernel takes its children along.

use crate::disk::SmallDisk;
use crate::ground::{Cut, Ground, Place, Vantage, Ways};
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
    #[error("`holdfast {command}` failed: {says}")]
    Command { command: String, says: String },
    #[error("{what} did not come true within {waited_s} s; last seen: {last}")]
    Deadline { what: String, waited_s: u64, last: String },
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
    /// Each member's files are on a file system of this size.
    pub disk_mib: Option<u32>,
    /// Certificates between the hosts, tokens for people.
    pub tls: bool,
    /// As in the topology file: `mariadb` or `mysql`.
    pub engine: String,
    /// Where its programs are; `None`: found through `PATH`.
    pub programs: Option<PathBuf>,
    /// `sync` or `async`.
    pub durability: String,
    /// The proxies' read/write port; read port, engine port and API port follow.
    pub port: u16,
    /// More lines for the service's table in the topology file.
    pub service_lines: String,
    /// More lines for its engine options.
    pub engine_lines: String,
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
            disk_mib: None,
            tls: false,
            engine: "mariadb".into(),
            programs: None,
            durability: "sync".into(),
            port: 3306,
            service_lines: String::new(),
            engine_lines: String::new(),
        }
    }
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let hosts = usize::from(self.nodes + self.witnesses);
        NAMES.into_iter().take(hosts).chain(self.app.then_some(APP))
    }
    fn ports(&self) -> [u16; 4] {
        [API_PORT, self.port, self.port + 1, self.port + 2]
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
}

struct Node {
    name: String,
    process: Option<Child>,
}

/// The service every sandbox has, and its user.
pub const SERVICE: &str = "shop";
pub const USER: &str = "app";
pub const DATABASE: &str = "shop";
/// Only ever listens on loopback or in a namespace.
pub const PASSWORD: &str = "sandbox";

/// The application's host.
pub const APP: &str = "app";

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const STOP: Duration = Duration::from_secs(15);

impl Sandbox {
    /// Writes the topology and starts every node. Use [`Sandbox::wait_healthy`] before you use it.
    pub async fn start(options: Options) -> Result<Sandbox, Error> {
        std::fs::create_dir_all(&options.dir).map_err(|e| file("create", &options.dir, e))?;
        let dir = options.dir.canonicalize().map_err(|e| file("find", &options.dir, e))?;
        // Not where a link leads: others may be put in its place.
        let there = |p: PathBuf| {
            let found = p.metadata().and_then(|_| std::path::absolute(&p));
            found.map_err(|e| file("find", &p, e))
        };
        let programs = options.programs.map(there).transpose()?;
        let mut options = Options { dir, programs, ..options };
        // The agents' API listens beyond loopback only with certificates.
        options.tls |= options.network == Network::Namespaces;
        let hosts = options.names().count();
        let ground = match options.network {
            Network::Loopback(net) => Ground::loopback(net, hosts, &options.ports())?,
            Network::Namespaces => Ground::namespaces(hosts).await?,
        };
        let nodes = options.names().map(|n| Node { name: n.to_string(), process: None }).collect();
        let mut sandbox = Sandbox { ground, nodes, disks: Vec::new(), options };
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
        let Options { dir, engine, durability, port, service_lines, engine_lines, .. } = &self.options;
        let programs = self.options.programs.as_ref();
        let programs = programs.map(|p| format!("programs = \"{}\"\n", p.display())).unwrap_or_default();
        let dir = dir.display();
        let mut text = format!(
            "# Written by the sandbox; every host of it reads this file.\nname = \"sandbox\"\napi_port = {API_PORT}\n"
        );
        if self.options.tls {
            text += &format!("\n[tls]\ndir = \"{dir}/tls\"\n");
        }
        let members = usize::from(self.options.nodes);
        for (at, node) in self.nodes.iter().enumerate() {
            // An even number of voters adds no safety: the last node of an even sandbox does not vote.
            let vote = match self.options.witnesses {
                _ if node.name == APP => false,
                0 => at < members - (members + 1) % 2,
                1.. => at >= members,
            };
            let (name, address) = (&node.name, self.ground.address(at));
            text += &format!(
                "\n[[node]]\nname = \"{name}\"\nid = {}\naddress = \"{address}\"\nzone = \"zone-{name}\"\nvoter = {vote}\ndata_dir = \"{dir}/{name}\"\n",
                at + 1
            );
        }
        let members: Vec<String> = self.members().map(|n| format!("\"{n}\"")).collect();
        let (read_port, engine_port) = (port + 1, port + 2);
        text += &format!(
            "\n[[service]]\nname = \"{SERVICE}\"\nengine = \"{engine}\"\n{programs}durability = \"{durability}\"\nmembers = [{}]\nport = {port}\nread_port = {read_port}\nengine_port = {engine_port}\n{service_lines}\n\
             [service.engine_options]\ninnodb_buffer_pool_size = \"64M\"\n{engine_lines}\n\n\
             [service.replication]\nuser = \"holdfast_repl\"\npassword_file = \"{dir}/replication.password\"\n\n\
             [[service.user]]\nname = \"{USER}\"\npassword_file = \"{dir}/app.password\"\ngrants = [\"ALL PRIVILEGES ON {DATABASE}.*\"]\n",
            members.join(", ")
        );
        text
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
    pub fn durability(&self) -> &str {
        &self.options.durability
    }

    /// The host where clients and operators stand: the application's, else the last.
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

    /// Runs `holdfast ARGS` against this deployment and returns its standard output. Exit code 6 (attention) is no
    /// failure here.
    pub async fn holdfast(&self, args: &[&str]) -> Result<String, Error> {
        let mut command = self.ground.command(self.at(self.client())?, &self.options.exe);
        command.arg("--config").arg(self.config()).args(args).stdin(Stdio::null()).kill_on_drop(true);
        let output = command
            .output()
            .await
            .map_err(|source| Error::Spawn { exe: self.options.exe.clone(), source })?;
        if matches!(output.status.code(), Some(0 | 6)) {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let says = String::from_utf8_lossy(&output.stderr).trim().to_string();
        Err(Error::Command { command: args.join(" "), says })
    }

    async fn json(&self, command: &str) -> Result<Value, Error> {
        let text = self.holdfast(&[command, "-o", "json"]).await?;
        serde_json::from_str(&text)
            .map_err(|e| Error::Command { command: format!("{command} -o json"), says: e.to_string() })
    }
    /// The sandbox's service in `holdfast status -o json`.
    pub async fn service(&self) -> Result<Value, Error> {
        Ok(self.json("status").await?["services"][0].clone())
    }
    /// The node whose controller is in office; it is the store's leader.
    pub async fn controller(&self) -> Result<String, Error> {
        let status = self.json("status").await?;
        let named = status["controller"].as_str().ok_or_else(|| Error::Missing("controller".into()))?;
        Ok(named.to_string())
    }
    /// The plans of `holdfast history -o json`.
    pub async fn history(&self) -> Result<Vec<Value>, Error> {
        Ok(self.json("history").await?["plans"].as_array().cloned().unwrap_or_default())
    }

    /// The node that leads right now.
    pub async fn primary(&self) -> Result<String, Error> {
        let service = self.service().await?;
        let named = service["primary"].as_str().ok_or_else(|| Error::Missing("primary".into()))?;
        Ok(named.to_string())
    }

    /// Waits until the service is healthy: one open primary, everyone else replicating, the sync set full.
    pub async fn wait_healthy(&mut self, bound: Duration) -> Result<Value, Error> {
        let end = Instant::now() + bound;
        let mut last = String::from("nothing");
        while Instant::now() < end {
            self.check_running()?;
            match self.service().await {
                Ok(service) if healthy(&service) => return Ok(service),
                Ok(service) => last = summary(&service),
                Err(e) => last = e.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(Error::Deadline { what: "a healthy service".into(), waited_s: bound.as_secs(), last })
    }

    /// An error if a node that should run does not.
    pub fn check_running(&mut self) -> Result<(), Error> {
        for node in &mut self.nodes {
            let Some(process) = &mut node.process else { continue };
            if let Ok(Some(status)) = process.try_wait() {
                let log = self.options.dir.join(format!("{}.log", node.name));
                return Err(Error::Ended { node: node.name.clone(), how: status.to_string(), log });
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

fn healthy(service: &Value) -> bool {
    let members = service["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let role = |m: &Value, roles: &[&str]| roles.contains(&m["role"].as_str().unwrap_or_default());
    let sync = service["durability"] == "sync" && members.len() > 1;
    service["state"] == "healthy"
        && members.iter().filter(|m| role(m, &["primary"])).count() == 1
        && members.iter().all(|m| role(m, &["primary", "replica", "sync replica"]) && m["state"] == "running")
        && (!sync
            || service["assurance"] == "held"
                && service["sync_set"].as_array().is_some_and(|s| !s.is_empty()))
}

fn summary(service: &Value) -> String {
    let members = service["members"].as_array().cloned().unwrap_or_default();
    let each: Vec<String> = members
        .iter()
        .map(|m| {
            format!("{} {} {} {}", m["node"], m["role"], m["state"], m["trouble"].as_str().unwrap_or(""))
        })
        .collect();
    format!("{} {} [{}] {}", service["state"], service["assurance"], each.join("; "), service["findings"])
}

pub(crate) const API_PORT: u16 = 7400;

pub(crate) fn file(what: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { what, path: path.to_path_buf(), source }
}
