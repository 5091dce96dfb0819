//! A deployment on loopback: real processes of the real binary, real engines, one directory. What `holdfast dev` runs
//! and what drills break.
//!
//! It starts the binary, never links it, and asks it only through its own command line, as a user would. When it is
//! dropped, everything it started is gone; if it is killed, the kernel takes its children along.

use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
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
    /// Hosts are 127.0.`net`.11, .12, …; `None` looks for a free one.
    pub net: Option<u8>,
    /// Members of the service.
    pub nodes: u8,
    /// Hosts without an instance. If there are any, only they vote.
    pub witnesses: u8,
    /// Certificates between the hosts, tokens for people.
    pub tls: bool,
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
    /// `nodes` members that vote themselves, sync, no certificates, on a network of their own.
    pub fn new(exe: impl Into<PathBuf>, dir: impl Into<PathBuf>, nodes: u8) -> Options {
        Options {
            exe: exe.into(),
            dir: dir.into(),
            net: None,
            nodes,
            witnesses: 0,
            tls: false,
            durability: "sync".into(),
            port: 3306,
            service_lines: String::new(),
            engine_lines: String::new(),
        }
    }
    fn hosts(&self) -> u8 {
        self.nodes + self.witnesses
    }
}

/// See the module.
pub struct Sandbox {
    options: Options,
    net: u8,
    nodes: Vec<Node>,
    /// Keeps the network to this sandbox as long as it lives.
    _reservation: TcpListener,
}

struct Node {
    name: String,
    process: Option<Child>,
}

/// The service every sandbox has, and its user.
pub const SERVICE: &str = "shop";
pub const USER: &str = "app";
pub const DATABASE: &str = "shop";
/// Only ever listens on loopback.
pub const PASSWORD: &str = "sandbox";

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const STOP: Duration = Duration::from_secs(15);

impl Sandbox {
    /// Writes the topology and starts every node. Use [`Sandbox::wait_healthy`] before you use it.
    pub async fn start(options: Options) -> Result<Sandbox, Error> {
        std::fs::create_dir_all(&options.dir).map_err(|e| file("create", &options.dir, e))?;
        let dir = options.dir.canonicalize().map_err(|e| file("find", &options.dir, e))?;
        let options = Options { dir, ..options };
        let (net, reservation) = match options.net {
            Some(net) => {
                let addr = reservation(net);
                (net, TcpListener::bind(addr).map_err(|_| Error::InUse { addr })?)
            }
            None => free_network(&options)?,
        };
        for node in 0..options.hosts() {
            for port in [options.port, options.port + 1, options.port + 2, API_PORT] {
                let addr = SocketAddr::new(address(net, node), port);
                TcpListener::bind(addr).map_err(|_| Error::InUse { addr })?;
            }
        }
        let nodes =
            NAMES.iter().take(options.hosts().into()).map(|n| Node { name: (*n).to_string(), process: None });
        let mut sandbox = Sandbox { net, nodes: nodes.collect(), options, _reservation: reservation };
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
        let Options { dir, durability, port, service_lines, engine_lines, .. } = &self.options;
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
            let vote =
                if self.options.witnesses > 0 { at >= members } else { at < members - (members + 1) % 2 };
            let (name, address) = (&node.name, address(self.net, at as u8));
            text += &format!(
                "\n[[node]]\nname = \"{name}\"\nid = {}\naddress = \"{address}\"\nzone = \"zone-{name}\"\nvoter = {vote}\ndata_dir = \"{dir}/{name}\"\n",
                at + 1
            );
        }
        let members: Vec<String> =
            self.nodes.iter().take(members).map(|n| format!("\"{}\"", n.name)).collect();
        let (read_port, engine_port) = (port + 1, port + 2);
        text += &format!(
            "\n[[service]]\nname = \"{SERVICE}\"\nengine = \"mariadb\"\ndurability = \"{durability}\"\nmembers = [{}]\nport = {port}\nread_port = {read_port}\nengine_port = {engine_port}\n{service_lines}\n\
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
        let mut command = Command::new(&self.options.exe);
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
    /// The proxies' read/write addresses, in the order of the nodes.
    pub fn proxies(&self) -> Vec<SocketAddr> {
        (0..self.options.nodes).map(|n| SocketAddr::new(address(self.net, n), self.options.port)).collect()
    }
    /// An engine's own address.
    pub fn engine(&self, node: &str) -> Result<SocketAddr, Error> {
        let at = self.at(node)?;
        Ok(SocketAddr::new(address(self.net, at as u8), self.options.port + 2))
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
        let mut command = Command::new(&self.options.exe);
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

    /// The sandbox's service in `holdfast status -o json`.
    pub async fn service(&self) -> Result<Value, Error> {
        let text = self.holdfast(&["status", "-o", "json"]).await?;
        let status: Value = serde_json::from_str(&text)
            .map_err(|e| Error::Command { command: "status -o json".into(), says: e.to_string() })?;
        Ok(status["services"][0].clone())
    }

    /// `holdfast history -o json`.
    pub async fn history(&self) -> Result<Vec<Value>, Error> {
        let text = self.holdfast(&["history", "-o", "json"]).await?;
        let history: Value = serde_json::from_str(&text)
            .map_err(|e| Error::Command { command: "history -o json".into(), says: e.to_string() })?;
        Ok(history["plans"].as_array().cloned().unwrap_or_default())
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

const API_PORT: u16 = 7400;

fn address(net: u8, node: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, net, 11 + node))
}

/// Bound while a sandbox has the network: two sandboxes that look at the same moment cannot both take it.
fn reservation(net: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, net, 10)), API_PORT)
}

/// The first network that nobody has reserved and on whose ports nobody listens.
fn free_network(options: &Options) -> Result<(u8, TcpListener), Error> {
    let unused = |net: u8, port: u16| {
        (0..options.hosts()).all(|n| TcpListener::bind(SocketAddr::new(address(net, n), port)).is_ok())
    };
    (1..=250)
        .filter_map(|net| Some((net, TcpListener::bind(reservation(net)).ok()?)))
        .find(|(net, _)| [API_PORT, options.port].into_iter().all(|port| unused(*net, port)))
        .ok_or(Error::NoNetwork)
}

fn file(what: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { what, path: path.to_path_buf(), source }
}
