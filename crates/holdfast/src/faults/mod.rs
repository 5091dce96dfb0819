//! Faults on an operator's word: this host's agent breaks it, for a while, so that a drill can prove what its users would
//! see.
//!
//! Guarantees: nothing is broken unless the topology file says `drills = true`; one fault at a time; each heals by itself
//! after its time, carried out by a process of its own ([`breaker`]) that goes on when the agent is stopped or killed,
//! and by the kernel where it can. What cannot be done is refused before anything is broken.
//! Does not know: who is primary, and what a drill wants to see.

pub mod breaker;
mod net_cut;
mod order;

use crate::agent::Agent;
use breaker::{Breaker, Outcome};
use holdfast_core::topology::{Management, Node, Service, Topology};
use holdfast_core::{GroupName, limits};
use holdfast_drill::fault::Fault;
use holdfast_drill::ground::is_here;
use holdfast_engine::ProcessState;
use order::{Cut, Deed, Order};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Why nothing was broken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this is no staging deployment: nothing is broken here")]
    Off,
    #[error("there is no fault {0:?}")]
    Unknown(String),
    #[error("a fault lasts 1 to {max} s, not {0}", max = limits::FAULT_S_MAX)]
    Lasts(u64),
    #[error("{0} is broken already: {1} for another {2} s; one fault at a time")]
    Busy(String, &'static str, u64),
    #[error("{node} has no instance of {service}")]
    NoInstance { node: String, service: String },
    #[error("the engine of {0} does not run")]
    NotRunning(GroupName),
    #[error("{0} shares its machine, and so its network, with {1}: it cannot be cut off")]
    SharedMachine(String, String),
    #[error("{0} has nobody to be cut off from")]
    Alone(String),
    #[error("what was to be broken changed in that moment; try again")]
    Changed,
    #[error("could not start the process that would heal it")]
    Spawn(#[source] std::io::Error),
    #[error("it cannot be done on this host: {0}")]
    Breaker(String),
}

impl Error {
    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Off => "where that is wanted, and never where the data matters: `drills = true` at the top of the \
                           topology file, on every host, and `holdfast run` started again"
                .into(),
            Error::Unknown(_) => format!("faults: {}", Fault::ALL.map(Fault::name).join(", ")),
            Error::Breaker(_) => {
                "cutting a host off takes nftables (`nft`), and `holdfast run` as root; filling a disk and stopping an \
                 engine take the right to do that"
                    .into()
            }
            Error::SharedMachine(..) => "only hosts with machines of their own can be cut off".into(),
            _ => return None,
        })
    }
}

/// What is asked of this host.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub fault: String,
    /// Whose engine; only where it hits one.
    pub service: Option<String>,
    pub for_s: u64,
    /// Only look whether it could be done.
    pub rehearsal: bool,
}

/// What will happen.
#[derive(Debug, Clone)]
pub struct Armed {
    pub fault: Fault,
    /// For people.
    pub does: String,
    pub begins_in_ms: u64,
    /// From now; `None`: what was killed does not heal by itself.
    pub ends_in_ms: Option<u64>,
}

/// What the agent knows of its host.
pub struct Options {
    /// The topology file says so.
    pub allowed: bool,
    pub node: Node,
    pub topology: Arc<Topology>,
    pub agent: Arc<Agent>,
}

/// See the module.
pub struct Faults {
    options: Options,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What is broken and until when.
    present: Option<(Fault, Instant)>,
    /// Waits for the processes that heal.
    breakers: JoinSet<()>,
}

/// In a member's directory.
const FILLER: &str = "holdfast-drill.filler";

impl Faults {
    pub fn new(options: Options) -> Faults {
        if options.allowed {
            tracing::warn!(
                node = %options.node.name,
                "this is a staging deployment (`drills = true`): operators may break this host"
            );
        }
        options.topology.services.iter().for_each(|s| unfill(&options.node, s));
        Faults { options, state: Mutex::default() }
    }

    /// Breaks this host shortly after it has answered, or only looks whether it could.
    pub async fn arm(&self, wanted: &Wanted) -> Result<Armed, Error> {
        if !self.options.allowed {
            return Err(Error::Off);
        }
        let fault = Fault::named(&wanted.fault).ok_or_else(|| Error::Unknown(wanted.fault.clone()))?;
        if !(1..=limits::FAULT_S_MAX).contains(&wanted.for_s) {
            return Err(Error::Lasts(wanted.for_s));
        }
        let mut state = self.state.lock().await;
        while state.breakers.try_join_next().is_some() {}
        let now = Instant::now();
        if let Some((present, until)) = state.present.filter(|(_, until)| *until > now) {
            let left = until.duration_since(now).as_secs() + 1;
            return Err(Error::Busy(self.options.node.name.to_string(), present.name(), left));
        }
        let order = self.order(fault, wanted)?;
        let does = self.says(fault, &order);
        let lasts = if fault.passes() { wanted.for_s * 1_000 } else { 0 };
        let ends_in_ms = limits::FAULT_BEGINS_AFTER_MS + lasts;
        // From now on, also if whoever asks goes away before the answer.
        state.present = Some((fault, now + Duration::from_millis(ends_in_ms)));
        let started = self.start(fault, wanted, &order).await;
        if started.is_err() || wanted.rehearsal {
            state.present = None;
        }
        let breaker = started?;
        if !wanted.rehearsal {
            tracing::warn!(node = %self.options.node.name, fault = fault.name(), "drill: {does}");
            state.breakers.spawn(async move {
                match breaker.ended().await {
                    Outcome::Healed => tracing::warn!(fault = fault.name(), "drill: over"),
                    Outcome::Failed(how) => {
                        tracing::error!(fault = fault.name(), "drill: the breaker failed: {how}")
                    }
                }
            });
        }
        Ok(Armed {
            fault,
            does,
            begins_in_ms: limits::FAULT_BEGINS_AFTER_MS,
            ends_in_ms: fault.passes().then_some(ends_in_ms),
        })
    }

    async fn start(&self, fault: Fault, wanted: &Wanted, order: &Order) -> Result<Breaker, Error> {
        let breaker = Breaker::start(order).await?;
        // The number of a process that has ended meanwhile may be another's by now.
        if self.order(fault, wanted).ok().as_ref() != Some(order) {
            breaker.call_off().await;
            return Err(Error::Changed);
        }
        Ok(breaker)
    }

    fn order(&self, fault: Fault, wanted: &Wanted) -> Result<Order, Error> {
        let agent = Deed::Stop { pid: std::process::id() };
        let deeds = match fault {
            Fault::KillEngine => vec![Deed::Kill { pid: self.engine_pid(self.service(wanted)?)? }],
            Fault::PauseEngine => vec![Deed::Stop { pid: self.engine_pid(self.service(wanted)?)? }],
            Fault::PauseAgent => vec![agent],
            Fault::Partition => vec![self.cut(true, true)?],
            Fault::Deaf => vec![self.cut(true, false)?],
            Fault::Mute => vec![self.cut(false, true)?],
            Fault::FillDisk => vec![Deed::Fill { path: filler(&self.options.node, self.service(wanted)?) }],
            // The network first, so that no socket says goodbye; the agent sees nothing of its engines' ends.
            Fault::KillHost => {
                let engines =
                    self.options.agent.instances().iter().filter_map(|i| pid(&i.engine().exits().borrow()));
                let engines = engines.map(|pid| Deed::Kill { pid });
                let kill = Deed::Kill { pid: std::process::id() };
                [self.cut(true, true)?, agent].into_iter().chain(engines).chain([kill]).collect()
            }
        };
        Ok(Order { rehearsal: wanted.rehearsal, lasts_s: wanted.for_s, deeds })
    }

    /// The service whose engine is meant: the named one, or the only one there is.
    fn service(&self, wanted: &Wanted) -> Result<&Service, Error> {
        let mut mine = self.options.agent.instances().iter().map(|i| i.service());
        let found = match &wanted.service {
            Some(name) => mine.find(|s| s.name.as_str() == name),
            None => mine.next().filter(|_| mine.next().is_none()),
        };
        found.ok_or_else(|| Error::NoInstance {
            node: self.options.node.name.to_string(),
            service: wanted.service.clone().unwrap_or_else(|| "exactly one service".into()),
        })
    }

    fn engine_pid(&self, service: &Service) -> Result<u32, Error> {
        let instance = self.options.agent.instance(&service.name);
        let running = instance.and_then(|i| pid(&i.engine().exits().borrow()));
        running.ok_or_else(|| Error::NotRunning(service.name.clone()))
    }

    /// From all other hosts of the topology.
    fn cut(&self, incoming: bool, outgoing: bool) -> Result<Deed, Error> {
        let Options { node, topology, .. } = &self.options;
        let others = || topology.nodes.iter().filter(|n| n.name != node.name);
        if let Some(other) = others().find(|n| n.address.is_loopback() || is_here(n.address)) {
            return Err(Error::SharedMachine(node.name.to_string(), other.name.to_string()));
        }
        let peers: Vec<IpAddr> = others().map(|n| n.address).collect();
        if peers.is_empty() {
            return Err(Error::Alone(node.name.to_string()));
        }
        Ok(Deed::Cut(Cut { peers, incoming, outgoing }))
    }

    /// What will happen, for people.
    fn says(&self, fault: Fault, order: &Order) -> String {
        let name = self.options.node.name.as_str();
        let others = self.options.topology.nodes.iter().map(|n| n.name.as_str()).filter(|n| *n != name);
        let (others, lasts) = (others.collect::<Vec<_>>().join(", "), order.lasts_s);
        let here = self.options.agent.instances().iter().map(|i| i.group().as_str()).collect::<Vec<_>>();
        let engines = if here.is_empty() { "no engine".to_string() } else { here.join(", ") };
        match (fault, order.deeds.last()) {
            (Fault::KillEngine, Some(Deed::Kill { pid })) => format!("SIGKILL to the engine (process {pid})"),
            (Fault::PauseEngine, Some(Deed::Stop { pid })) => {
                format!("SIGSTOP to the engine (process {pid}), SIGCONT after {lasts} s")
            }
            (Fault::PauseAgent, _) => format!(
                "SIGSTOP to `holdfast run` (process {}), SIGCONT after {lasts} s; engines run on: {engines}",
                std::process::id()
            ),
            (Fault::Partition, _) => {
                format!("nothing passes between {name} ({engines}) and {others} for {lasts} s")
            }
            (Fault::Deaf, _) => format!("{name} ({engines}) hears nothing of {others} for {lasts} s"),
            (Fault::Mute, _) => format!("{others} hear nothing of {name} ({engines}) for {lasts} s"),
            (Fault::FillDisk, Some(Deed::Fill { path })) => {
                let (root, free) = order::file_system(path).unwrap_or_default();
                format!(
                    "{} takes the {} MiB that are free on the file system at {}, and is removed after {lasts} s",
                    path.display(),
                    free >> 20,
                    root.display()
                )
            }
            _ => format!(
                "nothing passes between {name} and {others} for {lasts} s; SIGKILL to its engines ({engines}) and to \
                 `holdfast run`, {}",
                supervisor()
            ),
        }
    }
}

fn pid(state: &ProcessState) -> Option<u32> {
    match state {
        ProcessState::Running { pid } => Some(*pid),
        ProcessState::NotStarted | ProcessState::Exited { .. } => None,
    }
}

/// On the file system that holds the engine's data.
fn filler(node: &Node, service: &Service) -> PathBuf {
    match &service.management {
        Management::Managed { .. } => node.data_dir.join(service.name.as_str()).join(FILLER),
        Management::Attached { data_dir, .. } => data_dir.join(FILLER),
    }
}

/// A supervisor that starts this program again may have ended the process that would have removed the file.
fn unfill(node: &Node, service: &Service) {
    if service.members.contains(&node.name) && std::fs::remove_file(filler(node, service)).is_ok() {
        tracing::warn!(service = %service.name, "drill: a file that filled the disk was left, and is removed");
    }
}

/// Who will start `holdfast run` again, as far as can be seen: systemd names its unit in the control group's path.
fn supervisor() -> String {
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let unit =
        group.lines().filter_map(|l| l.trim_end().rsplit('/').next()).find(|u| u.ends_with(".service"));
    match unit.filter(|u| !u.starts_with("user@")) {
        Some(unit) => format!("which systemd has to start again ({unit} needs `Restart=on-failure`)"),
        None => "which whoever started it has to start again: no systemd unit is seen".into(),
    }
}
