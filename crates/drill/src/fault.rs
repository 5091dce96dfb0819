//! What can be broken on a host, and how that is done to and mended on a sandbox's.

use crate::ground::{Cut, Ways};
use crate::sandbox::{Error, Sandbox, signal};
use rustix::process::Signal;

/// One way to break a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the engine.
    KillEngine,
    /// SIGKILL to the agent, and with it to the engine and the proxy; in namespaces the network goes first, so that no
    /// socket says goodbye.
    KillHost,
    /// The host is cut off from all others, its own clients stay with it.
    Partition,
    /// The others hear the host and it does not hear them.
    Deaf,
    /// The host hears the others and they do not hear it.
    Mute,
    /// SIGSTOP to the engine.
    PauseEngine,
    /// SIGSTOP to the agent (and proxy and store member); the engine runs on.
    PauseAgent,
    /// Nothing fits on the host's file system any more.
    FillDisk,
}

/// A broken host.
#[must_use = "a host stays broken until it is healed"]
#[derive(Debug)]
pub struct Harm {
    fault: Fault,
    node: String,
    cut: Option<Cut>,
    paused: Option<u32>,
}

impl Fault {
    pub const ALL: [Fault; 8] = [
        Fault::KillEngine,
        Fault::KillHost,
        Fault::Partition,
        Fault::Deaf,
        Fault::Mute,
        Fault::PauseEngine,
        Fault::PauseAgent,
        Fault::FillDisk,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fault::KillEngine => "kill-engine",
            Fault::KillHost => "kill-host",
            Fault::Partition => "partition",
            Fault::Deaf => "deaf",
            Fault::Mute => "mute",
            Fault::PauseEngine => "pause-engine",
            Fault::PauseAgent => "pause-agent",
            Fault::FillDisk => "disk-full",
        }
    }

    pub fn named(name: &str) -> Option<Fault> {
        Fault::ALL.into_iter().find(|f| f.name() == name)
    }

    /// True if it happens to one engine and not to the whole host.
    pub fn hits_engine(self) -> bool {
        match self {
            Fault::KillEngine | Fault::PauseEngine | Fault::FillDisk => true,
            Fault::KillHost | Fault::Partition | Fault::Deaf | Fault::Mute | Fault::PauseAgent => false,
        }
    }

    /// True if it ends by itself; a killed process does not come back by itself.
    pub fn passes(self) -> bool {
        self != Fault::KillEngine
    }

    /// True if the sandbox can do this to a host.
    pub fn possible(self, sandbox: &Sandbox) -> bool {
        match self {
            Fault::Partition | Fault::Deaf | Fault::Mute => sandbox.can_cut(),
            Fault::FillDisk => sandbox.has_disks(),
            Fault::KillEngine | Fault::KillHost | Fault::PauseEngine | Fault::PauseAgent => true,
        }
    }

    /// True if the host's proxy is of no use to clients elsewhere.
    pub fn takes_proxy(self) -> bool {
        match self {
            Fault::KillHost | Fault::Partition | Fault::Deaf | Fault::Mute | Fault::PauseAgent => true,
            Fault::KillEngine | Fault::PauseEngine | Fault::FillDisk => false,
        }
    }

    pub async fn strike(self, sandbox: &mut Sandbox, node: &str) -> Result<Harm, Error> {
        let mut harm = Harm { fault: self, node: node.to_string(), cut: None, paused: None };
        match self {
            Fault::KillEngine => signal(sandbox.engine_pid(node)?, Signal::KILL),
            Fault::KillHost => {
                if sandbox.can_cut() {
                    harm.cut = Some(sandbox.cut(&[node], Ways::Both).await?);
                }
                sandbox.kill_node(node).await?;
            }
            Fault::Partition => harm.cut = Some(sandbox.cut(&[node], Ways::Both).await?),
            Fault::Deaf => harm.cut = Some(sandbox.cut(&[node], Ways::In).await?),
            Fault::Mute => harm.cut = Some(sandbox.cut(&[node], Ways::Out).await?),
            Fault::PauseEngine | Fault::PauseAgent => {
                let pid = match self {
                    Fault::PauseEngine => sandbox.engine_pid(node)?,
                    _ => sandbox.pid(node)?,
                };
                signal(pid, Signal::STOP);
                harm.paused = Some(pid);
            }
            Fault::FillDisk => sandbox.disk(node)?.fill()?,
        }
        Ok(harm)
    }
}

impl Harm {
    /// Undoes it. A killed engine is its agent's business.
    pub async fn heal(self, sandbox: &mut Sandbox) -> Result<(), Error> {
        if let Some(cut) = &self.cut {
            sandbox.mend(cut).await?;
        }
        if let Some(pid) = self.paused {
            signal(pid, Signal::CONT);
        }
        match self.fault {
            Fault::KillHost => sandbox.restart_node(&self.node),
            Fault::FillDisk => sandbox.disk(&self.node)?.empty(),
            Fault::KillEngine
            | Fault::Partition
            | Fault::Deaf
            | Fault::Mute
            | Fault::PauseEngine
            | Fault::PauseAgent => Ok(()),
        }
    }
}
