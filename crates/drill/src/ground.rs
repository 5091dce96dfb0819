//! Where the hosts of a sandbox stand: addresses, the network between them, and a way to be a client on any of them.
//!
//! On *loopback* every host is an address of this machine; nothing can come between two hosts. In *namespaces* every
//! host has a network namespace with one address, behind one bridge in a namespace of its own: a partition is a rule on
//! that bridge. A namespace lives as long as a child process that waits for the end of its standard input; when this
//! process ends, however it ends, nothing is left.

use crate::sandbox::{API_PORT, Error};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A host of a sandbox, by its place in the topology file.
pub type Place = usize;

/// See the module.
pub enum Ground {
    /// Hosts are 127.0.`net`.11, .12, …
    Loopback {
        net: u8,
        /// Keeps the network to this sandbox as long as it lives.
        _reservation: TcpListener,
    },
    Namespaces(Box<Namespaces>),
}

/// One namespace for each host and one for the bridge.
pub struct Namespaces {
    fabric: Namespace,
    places: Vec<Namespace>,
    cuts: Vec<Cut>,
}

/// Nothing passes between the hosts of one side and the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub side: BTreeSet<Place>,
    pub ways: Ways,
}

/// Which packets a cut stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    Both,
    /// Only what leaves the side: it hears the others and they do not hear it.
    Out,
    /// Only what reaches the side.
    In,
}

struct Namespace {
    holder: Child,
    pid: u32,
}

/// Runs tasks whose sockets belong to one host.
pub struct Vantage {
    handle: Handle,
    _end: Option<oneshot::Sender<()>>,
}

const NAMESPACE_READY: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// True if namespaces can be made here.
pub async fn available() -> bool {
    Ground::namespaces(1).await.is_ok()
}

/// Whether an address is this machine's, and no loopback address: those are every machine's. Asks the kernel how it would
/// get there, and sends nothing.
pub fn is_here(address: IpAddr) -> bool {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from =
        UdpSocket::bind((any, 0)).and_then(|s| s.connect((address, API_PORT)).and_then(|()| s.local_addr()));
    !address.is_loopback() && from.is_ok_and(|from| from.ip() == address)
}

impl Ground {
    /// A loopback network that nobody has reserved; `ports` must be free on every host.
    pub fn loopback(net: Option<u8>, hosts: usize, ports: &[u16]) -> Result<Ground, Error> {
        let (net, reservation) = match net {
            Some(net) => {
                let addr = reservation(net);
                (net, TcpListener::bind(addr).map_err(|_| Error::InUse { addr })?)
            }
            None => free_network(hosts, ports)?,
        };
        for (place, port) in (0..hosts).flat_map(|p| ports.iter().map(move |port| (p, *port))) {
            let addr = SocketAddr::new(loopback(net, place), port);
            TcpListener::bind(addr).map_err(|_| Error::InUse { addr })?;
        }
        Ok(Ground::Loopback { net, _reservation: reservation })
    }

    /// A namespace for each host. Needs root and the kernel's veth and bridge.
    pub async fn namespaces(hosts: usize) -> Result<Ground, Error> {
        let fabric = Namespace::make().await?;
        fabric.ip("link add bridge type bridge\nlink set bridge up\nlink set lo up\n").await?;
        let mut places = Vec::new();
        for place in 0..hosts {
            let host = Namespace::make().await?;
            let port = port(place);
            let pid = host.pid;
            fabric
                .ip(&format!(
                    "link add {port} type veth peer name eth0 netns {pid}\nlink set {port} master bridge\nlink set {port} up\n"
                ))
                .await?;
            let at = address(place);
            host.ip(&format!("addr add {at}/24 dev eth0\nlink set eth0 up\nlink set lo up\n")).await?;
            places.push(host);
        }
        Ok(Ground::Namespaces(Box::new(Namespaces { fabric, places, cuts: Vec::new() })))
    }

    pub fn address(&self, place: Place) -> IpAddr {
        match self {
            Ground::Loopback { net, .. } => loopback(*net, place),
            Ground::Namespaces(_) => address(place),
        }
    }

    /// True if hosts can be cut off from each other.
    pub fn can_cut(&self) -> bool {
        matches!(self, Ground::Namespaces(_))
    }

    /// A command that will run on a host.
    pub fn command(&self, place: Place, program: impl AsRef<OsStr>) -> Command {
        match self {
            Ground::Loopback { .. } => Command::new(program),
            Ground::Namespaces(n) => n.places[place].command(program),
        }
    }

    /// The words that start a program on a host; none where it starts by itself.
    pub fn entry(&self, place: Place) -> Vec<OsString> {
        match self {
            Ground::Loopback { .. } => Vec::new(),
            Ground::Namespaces(n) => n.places[place].entry().map(OsString::from).to_vec(),
        }
    }

    /// A thread on a host; ends with the last task when it is dropped.
    pub fn vantage(&self, place: Place) -> Result<Vantage, Error> {
        match self {
            Ground::Loopback { .. } => Ok(Vantage::here()),
            Ground::Namespaces(n) => n.places[place].vantage(),
        }
    }

    /// Cuts in addition to what is cut already.
    pub async fn cut(&mut self, cut: Cut) -> Result<(), Error> {
        let Ground::Namespaces(n) = self else { return Err(Error::NoNamespaces("a partition")) };
        n.cuts.push(cut);
        n.apply().await
    }

    /// Takes one cut back.
    pub async fn mend(&mut self, cut: &Cut) -> Result<(), Error> {
        let Ground::Namespaces(n) = self else { return Ok(()) };
        if let Some(at) = n.cuts.iter().position(|c| c == cut) {
            n.cuts.remove(at);
        }
        n.apply().await
    }
}

impl Namespaces {
    /// One transaction: what passed before passes until all new rules hold.
    async fn apply(&self) -> Result<(), Error> {
        let mut rules = String::from(
            "add table bridge holdfast\ndelete table bridge holdfast\nadd table bridge holdfast\n\
             add chain bridge holdfast cuts { type filter hook forward priority 0; policy accept; }\n",
        );
        for cut in &self.cuts {
            let side: Vec<String> = cut.side.iter().map(|p| format!("\"{}\"", port(*p))).collect();
            let side = side.join(", ");
            if cut.ways != Ways::In {
                rules += &format!(
                    "add rule bridge holdfast cuts iifname {{ {side} }} oifname != {{ {side} }} drop\n"
                );
            }
            if cut.ways != Ways::Out {
                rules += &format!(
                    "add rule bridge holdfast cuts iifname != {{ {side} }} oifname {{ {side} }} drop\n"
                );
            }
        }
        self.fabric.feed(&["nft", "-f", "-"], &rules).await
    }
}

impl Namespace {
    async fn make() -> Result<Namespace, Error> {
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
        let holder = command.spawn().map_err(|source| Error::Spawn { exe: "unshare".into(), source })?;
        let pid = holder.id().ok_or(Error::NoNamespaces("a host"))?;
        let mut namespace = Namespace { holder, pid };
        let ready = async {
            let here = std::fs::read_link("/proc/self/ns/net").ok();
            while namespace.link().is_none_or(|there| Some(there) == here) {
                if namespace.holder.try_wait().is_ok_and(|ended| ended.is_some()) {
                    return false;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            true
        };
        match tokio::time::timeout(NAMESPACE_READY, ready).await {
            Ok(true) => Ok(namespace),
            Ok(false) | Err(_) => Err(Error::NoNamespaces("a host")),
        }
    }

    fn link(&self) -> Option<std::path::PathBuf> {
        std::fs::read_link(format!("/proc/{}/ns/net", self.pid)).ok()
    }

    fn entry(&self) -> [String; 3] {
        ["nsenter".into(), format!("--net=/proc/{}/ns/net", self.pid), "--".into()]
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let [enter, words @ ..] = self.entry();
        let mut command = Command::new(enter);
        command.args(words).arg(program);
        command
    }

    async fn ip(&self, batch: &str) -> Result<(), Error> {
        self.feed(&["ip", "-batch", "-"], batch).await
    }

    /// Runs a tool inside, with `input` as its standard input.
    async fn feed(&self, tool: &[&str], input: &str) -> Result<(), Error> {
        let mut command = self.command(tool[0]);
        command.args(&tool[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let spawned = command.kill_on_drop(true).spawn();
        let mut child = spawned.map_err(|source| Error::Spawn { exe: "nsenter".into(), source })?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child
            .wait_with_output()
            .await
            .map_err(|source| Error::Spawn { exe: "nsenter".into(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let says = String::from_utf8_lossy(&output.stderr).trim().to_string();
        Err(Error::Network { tool: tool.join(" "), says })
    }

    fn vantage(&self) -> Result<Vantage, Error> {
        let path = format!("/proc/{}/ns/net", self.pid);
        let namespace = std::fs::File::open(&path)
            .map_err(|source| crate::sandbox::file("open", path.as_ref(), source))?;
        let (end, ended) = oneshot::channel();
        let (ready, made) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let inside = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            let runtime = inside
                .map_err(std::io::Error::from)
                .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
            let _ = ready.send(runtime.as_ref().map(|r| r.handle().clone()).map_err(|e| e.to_string()));
            if let Ok(runtime) = runtime {
                let _ = runtime.block_on(ended);
            }
        });
        match made.recv() {
            Ok(Ok(handle)) => Ok(Vantage { handle, _end: Some(end) }),
            Ok(Err(says)) => Err(Error::Network { tool: "a client's thread".into(), says }),
            Err(_) => Err(Error::NoNamespaces("a client")),
        }
    }
}

impl Vantage {
    /// Where this process stands.
    pub fn here() -> Vantage {
        Vantage { handle: Handle::current(), _end: None }
    }
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
    /// Runs `task` there and waits for it.
    pub async fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        match self.handle.spawn(task).await {
            Ok(done) => done,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
}

fn loopback(net: u8, place: Place) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, net, host_number(place)))
}

fn address(place: Place) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, host_number(place)))
}

fn host_number(place: Place) -> u8 {
    u8::try_from(11 + place).expect("a sandbox has few hosts")
}

/// The bridge's port to a host.
fn port(place: Place) -> String {
    format!("host{place}")
}

/// Bound while a sandbox has the network: two sandboxes that look at the same moment cannot both take it.
fn reservation(net: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, net, 10)), API_PORT)
}

/// The first network that nobody has reserved and on whose ports nobody listens.
fn free_network(hosts: usize, ports: &[u16]) -> Result<(u8, TcpListener), Error> {
    let unused = |net: u8, port: u16| {
        (0..hosts).all(|p| TcpListener::bind(SocketAddr::new(loopback(net, p), port)).is_ok())
    };
    (1..=250)
        .filter_map(|net| Some((net, TcpListener::bind(reservation(net)).ok()?)))
        .find(|(net, _)| ports.iter().all(|port| unused(*net, *port)))
        .ok_or(Error::NoNetwork)
}
