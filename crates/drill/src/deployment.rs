//! What drills need of a deployment that they break, whoever made it: a sandbox of their own, or somebody's staging.

use crate::drills::Error;
use crate::fault::Fault;
use crate::ground::Vantage;
use crate::ledger::Account;
use crate::operator::Operator;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// A host of a deployment, as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub node: String,
    /// Its read/write port.
    pub proxy: SocketAddr,
    /// Its engine's own port, if it is a member.
    pub engine: Option<SocketAddr>,
}

/// What does not change about a service while it is drilled.
#[derive(Debug, Clone)]
pub struct Site {
    /// In the order of the topology file.
    pub hosts: Vec<Host>,
    pub account: Account,
    /// `sync` or `async`.
    pub durability: String,
    /// Nobody else writes.
    pub alone: bool,
    /// How long a failover of an uncertain death is put off after the last one (S12).
    pub cool_down: Duration,
    /// How long members may take to come back; a rebuild copies all data.
    pub rejoin: Duration,
    /// The longest outage allowed; `None`: what the drill promises.
    pub rto_ms: Option<u64>,
}

/// See the module.
#[expect(async_fn_in_trait, reason = "drills run where they are called, on one task")]
pub trait Deployment {
    /// A broken host, until it is healed.
    type Harm;

    fn site(&self) -> &Site;
    fn operator(&self) -> &Operator;
    /// Where clients stand whom no fault of a host breaks.
    fn clients(&self) -> Result<Vantage, Error>;
    /// Where clients stand that still reach `node` when it is cut off from the other hosts; `None` if nobody can.
    fn clients_of(&self, node: &str) -> Result<Option<Vantage>, Error>;
    /// What is missing to do this to a host.
    fn lacks(&self, fault: Fault) -> Option<&'static str>;
    /// Breaks a host. Where nobody may be there to heal it, it heals by itself after `lasts` at the latest.
    async fn strike(
        &mut self,
        fault: Fault,
        node: &str,
        lasts: Option<Duration>,
    ) -> Result<Self::Harm, Error>;
    /// Returns when the host is whole again. A killed process is its supervisor's business.
    async fn heal(&mut self, harm: Self::Harm) -> Result<(), Error>;
    /// Waits until the service is healthy.
    async fn wait_healthy(&mut self, bound: Duration) -> Result<Value, Error>;
}

impl Site {
    pub fn host(&self, node: &str) -> Result<&Host, Error> {
        self.hosts.iter().find(|h| h.node == node).ok_or_else(|| missing(format!("node {node}")))
    }
    /// An engine's own address.
    pub fn engine(&self, node: &str) -> Result<SocketAddr, Error> {
        self.host(node)?.engine.ok_or_else(|| missing(format!("engine on {node}")))
    }
    pub fn members(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|h| h.engine.is_some())
    }
    pub fn is_member(&self, node: &str) -> bool {
        self.members().any(|h| h.node == node)
    }
    pub fn engines(&self) -> Vec<SocketAddr> {
        self.members().filter_map(|h| h.engine).collect()
    }
    /// Proxies of hosts without data: nothing that is done to a member takes them along.
    pub fn apart(&self) -> impl Iterator<Item = SocketAddr> {
        self.hosts.iter().filter(|h| h.engine.is_none()).map(|h| h.proxy)
    }
    /// Where clients go that a host's end must not take along: hosts without data first.
    pub fn proxies_without(&self, victim: Option<&str>) -> Vec<SocketAddr> {
        let mut hosts: Vec<&Host> = self.hosts.iter().filter(|h| Some(h.node.as_str()) != victim).collect();
        hosts.sort_by_key(|h| h.engine.is_some());
        hosts.into_iter().map(|h| h.proxy).collect()
    }
}

fn missing(what: String) -> Error {
    crate::operator::Error::Missing(what).into()
}
