//! Somebody's own deployment, that may be broken on an operator's word: real hosts which this process neither started nor
//! can reach otherwise than through their API and their service's ports.
//!
//! Guarantees: a host is broken by its own agent, with a time after which that heals by itself, whatever becomes of this
//! process. Nothing is broken before clients have been seen to write through every proxy and to reach every engine.
//! Does not know: what else runs on these hosts, and who else writes.

use crate::deployment::{Deployment, Host, Site};
use crate::drills::{self, Drill};
use crate::fault::Fault;
use crate::ground::{Vantage, is_here};
use crate::ledger::{self, Account};
use crate::operator::{self, Operator};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::Instant;

/// Why a deployment is not drilled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Operator(#[from] operator::Error),
    /// Nothing was broken.
    #[error("{user} cannot use {what} at {addr}")]
    Client {
        what: &'static str,
        addr: SocketAddr,
        user: String,
        #[source]
        source: Box<crate::client::Error>,
    },
    /// Nothing was broken.
    #[error("{0}")]
    Unfit(String),
}

/// What is known beforehand.
#[derive(Debug, Clone)]
pub struct Options {
    pub operator: Operator,
    pub account: Account,
    /// How long what is broken stays so.
    pub lasts: Duration,
    /// The service's `cool_down_s`.
    pub cool_down: Duration,
    /// How long members may take to come back.
    pub rejoin: Duration,
    /// The longest outage allowed; `None`: what the drill promises.
    pub rto_ms: Option<u64>,
}

/// See the module.
pub struct Staging {
    operator: Operator,
    site: Site,
    lasts: Duration,
    /// The node on whose host this process runs, if it does.
    here: Option<String>,
}

/// A host that is broken.
#[must_use = "it is whole again only when its time is over"]
#[derive(Debug)]
pub struct Broken {
    until: Instant,
}

/// An agent that was stopped, or a host that was cut off, takes this long to be heard of again.
const BACK: Duration = Duration::from_millis(500);
/// A controller that moves to another host looks at everything anew.
const WELL: Duration = Duration::from_secs(10);
/// Below it, a second failure in a row leaves nobody who could take over.
const MEMBERS_FOR_TWO: usize = 3;

impl Staging {
    /// Asks the deployment what it is made of and whether it is well.
    pub async fn find(options: Options) -> Result<Staging, Error> {
        let Options { operator, account, lasts, cool_down, rejoin, rto_ms } = options;
        let status = operator.json(&["status"]).await?;
        if operator.service_in(&status)?["mode"] != "automatic" {
            let says =
                format!("automatic failover of {} is paused; `holdfast resume` first", operator.service);
            return Err(Error::Unfit(says));
        }
        let service = match operator.wait_healthy(WELL, || Ok(())).await {
            Err(operator::Error::Deadline { last, .. }) => {
                return Err(Error::Unfit(format!("{} is not healthy: {last}", operator.service)));
            }
            seen => seen?,
        };
        let hosts = hosts(&status, &service)?;
        if hosts.iter().filter(|h| h.engine.is_some()).count() < 2 {
            return Err(Error::Unfit(format!("{} has one member: nobody could take over", operator.service)));
        }
        let here = hosts.iter().find(|h| is_here(h.proxy.ip())).map(|h| h.node.clone());
        let durability = service["durability"].as_str().unwrap_or_default().to_string();
        let site = Site { hosts, account, durability, alone: false, cool_down, rejoin, rto_ms };
        Ok(Staging { operator, site, lasts, here })
    }

    /// Whether the drill can be run from here on this deployment.
    pub fn suits(&self, drill: Drill) -> Result<(), Error> {
        if drill == Drill::DoubleFailure && self.site.members().count() < MEMBERS_FOR_TWO {
            let says = format!("{} needs at least {MEMBERS_FOR_TWO} members", drill.name());
            return Err(Error::Unfit(says));
        }
        let Some(fault) = drill.fault() else { return Ok(()) };
        let any = drill == Drill::KillStoreLeader;
        self.stands_apart_from(fault, |h| any || h.engine.is_some())
    }

    /// Whether random incidents can be run from here on this deployment.
    pub fn suits_random(&self) -> Result<(), Error> {
        if self.site.durability != "sync" {
            return Err(Error::Unfit(
                "random faults are judged by what `durability = \"sync\"` promises".into(),
            ));
        }
        if self.site.apart().next().is_none() {
            return Err(Error::Unfit(
                "every host holds data, and any may be struck: clients need the proxy of one that does not. Add a \
                 node that is no member, such as a witness or an application's host"
                    .into(),
            ));
        }
        self.stands_apart_from(Fault::KillHost, |h| h.engine.is_some())
    }

    /// Clients on the host that is broken would tell nothing of what the others see.
    fn stands_apart_from(&self, fault: Fault, may_be_struck: impl Fn(&Host) -> bool) -> Result<(), Error> {
        let here = self.here.as_ref().filter(|_| fault.takes_proxy());
        match self.site.hosts.iter().find(|h| Some(&h.node) == here && may_be_struck(h)) {
            None => Ok(()),
            Some(host) => Err(Error::Unfit(format!(
                "this is the host of {}, which may be the one to be broken; run this command elsewhere",
                host.node
            ))),
        }
    }

    /// How long what is broken stays so.
    pub fn lasts(&self) -> Duration {
        self.lasts
    }

    /// The hosts that the drill may break.
    pub async fn victims(&self, drill: Drill) -> Result<Vec<String>, Error> {
        if drill == Drill::KillStoreLeader {
            return Ok(vec![self.operator.controller().await?]);
        }
        Ok(self.site.members().map(|h| h.node.clone()).collect())
    }

    /// Makes the drills' tables anew and looks whether clients can do all that they will have to.
    pub async fn prepare(&self) -> Result<(), Error> {
        let account = &self.site.account;
        let unfit = |what, addr, source| {
            let source = Box::new(source);
            Error::Client { what, addr, user: account.user.clone(), source }
        };
        let proxies = self.site.proxies_without(None);
        for (at, proxy) in proxies.iter().enumerate() {
            let tried = match at {
                0 => ledger::begin(*proxy, account).await,
                _ => ledger::answers(*proxy, account).await,
            };
            tried.map_err(|e| unfit("the proxy", *proxy, e))?;
        }
        for engine in self.site.engines() {
            ledger::answers(engine, account).await.map_err(|e| unfit("the engine", engine, e))?;
        }
        Ok(())
    }

    /// Drops the drills' tables.
    pub async fn clear(&self) -> Result<(), Error> {
        let account = &self.site.account;
        let mut last = Error::Unfit("the service has no proxy".into());
        for addr in self.site.proxies_without(None) {
            match ledger::clear(addr, account).await {
                Ok(()) => return Ok(()),
                Err(source) => {
                    let source = Box::new(source);
                    last = Error::Client { what: "the proxy", addr, user: account.user.clone(), source };
                }
            }
        }
        Err(last)
    }
}

impl Deployment for Staging {
    type Harm = Broken;

    fn site(&self) -> &Site {
        &self.site
    }
    fn operator(&self) -> &Operator {
        &self.operator
    }
    fn clients(&self) -> Result<Vantage, drills::Error> {
        Ok(Vantage::here())
    }
    /// A host is cut off from the other hosts of the topology only: who stands on none of them reaches both sides.
    fn clients_of(&self, _: &str) -> Result<Option<Vantage>, drills::Error> {
        Ok(self.here.is_none().then(Vantage::here))
    }
    /// Whether a host has what it takes, its own agent says.
    fn lacks(&self, _: Fault) -> Option<&'static str> {
        None
    }

    async fn strike(
        &mut self,
        fault: Fault,
        node: &str,
        lasts: Option<Duration>,
    ) -> Result<Broken, drills::Error> {
        let lasts = lasts.unwrap_or(self.lasts).as_secs_f64().ceil().max(1.0);
        let service = self.operator.service.clone();
        let seconds = lasts.to_string();
        let strike = ["drill", "strike", node, fault.name(), "--service", &service, "--for", &seconds];
        let answer = self.operator.json(&strike).await?;
        let ends = answer["ends_in_ms"].as_u64().unwrap_or(0);
        Ok(Broken { until: Instant::now() + Duration::from_millis(ends) })
    }
    async fn heal(&mut self, harm: Broken) -> Result<(), drills::Error> {
        tokio::time::sleep_until(harm.until + BACK).await;
        Ok(())
    }
    async fn wait_healthy(&mut self, bound: Duration) -> Result<Value, drills::Error> {
        self.operator.wait_healthy(bound, || Ok(())).await
    }
}

/// Every node of a status, with its ports of a service.
fn hosts(status: &Value, service: &Value) -> Result<Vec<Host>, Error> {
    let missing = |what: String| Error::Operator(operator::Error::Missing(what));
    let port = service["port"].as_u64().and_then(|p| u16::try_from(p).ok());
    let port = port.ok_or_else(|| missing("port".into()))?;
    let mut hosts = Vec::new();
    for node in status["nodes"].as_array().into_iter().flatten() {
        let name = node["node"].as_str().unwrap_or_default().to_string();
        let address = node["address"].as_str().and_then(|a| a.parse::<IpAddr>().ok());
        let address = address.ok_or_else(|| missing(format!("address of {name}")))?;
        let mut members = service["members"].as_array().into_iter().flatten();
        let member = members.find(|m| m["node"] == name.as_str());
        let engine = member.and_then(|m| m["address"].as_str()?.parse().ok());
        hosts.push(Host { node: name, proxy: SocketAddr::new(address, port), engine });
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hosts_are_all_nodes_and_members_have_an_engine() {
        let service = json!({ "port": 3306, "members": [{ "node": "a", "address": "10.0.0.11:3308" }] });
        let status = json!({ "nodes": [
            { "node": "a", "address": "10.0.0.11" }, { "node": "w", "address": "fd00::7" },
        ]});
        let found = hosts(&status, &service).unwrap();
        assert_eq!(found[0].engine, "10.0.0.11:3308".parse().ok());
        assert_eq!((found[1].engine, found[1].proxy), (None, "[fd00::7]:3306".parse().unwrap()));
        let garbled = hosts(&json!({ "nodes": [{ "node": "a", "address": "a.example" }] }), &service);
        assert!(garbled.is_err());
    }
}
