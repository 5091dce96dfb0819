//! What the Sentinel's interface of this host is made from: addresses and names from the topology, routes as the proxies get
//! them, pictures of members and hosts from the controller, and the way to ask for a switchover.
//!
//! Guarantees: requests run on this host's own threads, not on the proxies' (a pooled connection that busy clients hold up
//! would hold up leases). Who may ask for a switchover here may do it at the API too: whoever shows the operator's token, and
//! without certificates whoever is on this machine.

use crate::agent::link::{ControllerLink, Error};
use crate::api::people::{MemberStatus, Status};
use crate::config::secrets;
use crate::pki::Tokens;
use crate::routes::Receivers;
use holdfast_core::topology::{Family, Node, Sentinel, Topology};
use holdfast_core::{GroupName, NodeName, limits};
use holdfast_proxy::sentinel::{Answer, Master, MemberPicture, Operators, Options, Peer, Picture, Pictured};
use ring::digest;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

/// Hexadecimal digits of a Sentinel's id.
const ID_DIGITS: usize = 40;

/// What of this host it stands on.
pub struct Ground<'a> {
    pub topology: &'a Topology,
    pub node: &'a Node,
    pub link: &'a Arc<ControllerLink>,
    pub routes: &'a Receivers,
    pub proxies: &'a [(GroupName, holdfast_proxy::Handle)],
    /// `None`: the API runs without certificates.
    pub tokens: Option<Tokens>,
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// The interface of this host, and who keeps its pictures fresh. Call on the runtime that requests are to run on.
pub fn make(sentinel: &Sentinel, ground: Ground<'_>) -> Result<(Options, PictureKeeper), secrets::Error> {
    let Ground { topology, node, link, routes, proxies, tokens, tls } = ground;
    let (sender, pictures) = watch::channel(None);
    let at = |n: &Node| SocketAddr::new(n.address, sentinel.port);
    let peer = |n: &Node| Peer { node: n.name.clone(), id: id(topology, n), addr: at(n), voter: n.voter };
    let master = |s: &holdfast_core::topology::Service| {
        let member = |name: &NodeName| {
            let host = topology.node(name)?;
            Some((name.clone(), SocketAddr::new(host.address, s.engine_port)))
        };
        let proxy = proxies.iter().find(|(group, _)| *group == s.name);
        Some(Master {
            name: s.name.clone(),
            members: s.members.iter().filter_map(member).collect(),
            routes: routes.get(&s.name)?.clone(),
            proxy: proxy?.1.clone(),
        })
    };
    let redis = topology.services.iter().filter(|s| s.engine.family() == Family::Redis);
    let options = Options {
        listen: at(node),
        peers: topology.nodes.iter().map(peer).collect(),
        me: node.name.clone(),
        masters: redis.filter_map(master).collect(),
        pictures,
        password: sentinel.password.as_ref().map(secrets::resolve).transpose()?,
        operators: Arc::new(Desk { link: link.clone(), tokens, runtime: Handle::current() }),
        tls,
        version: env!("CARGO_PKG_VERSION"),
        connections: limits::PROXY_CONNECTIONS,
    };
    Ok((options, PictureKeeper { link: link.clone(), sender }))
}

/// The same in every life of every host that has this name in this deployment.
fn id(topology: &Topology, node: &Node) -> String {
    let text = format!("{}/{}", topology.name, node.name);
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    let mut id: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    id.truncate(ID_DIGITS);
    id
}

struct Desk {
    link: Arc<ControllerLink>,
    tokens: Option<Tokens>,
    runtime: Handle,
}

impl Operators for Desk {
    fn knows(&self, token: &str) -> Option<bool> {
        self.tokens.as_ref().map(|t| t.is_operator(token))
    }

    fn switch_over(&self, group: &GroupName) -> Answer {
        let (link, group) = (self.link.clone(), group.clone());
        let asked = self.runtime.spawn(async move { link.switch_over(&group).await });
        Box::pin(async move {
            match asked.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(Error::Refused(e))) => Err(match e.problem().and_then(|p| p.detail.clone()) {
                    Some(why) => why,
                    None => crate::agent::chain(&e),
                }),
                Ok(Err(e)) => Err(format!("{}; see `holdfast status`", crate::agent::chain(&e))),
                Err(_) => Err("this node is stopping; ask another one".into()),
            }
        })
    }
}

/// Asks the controller how members and hosts are.
pub struct PictureKeeper {
    link: Arc<ControllerLink>,
    sender: watch::Sender<Option<Arc<Pictured>>>,
}

impl PictureKeeper {
    /// Runs until aborted.
    pub async fn run(self) {
        loop {
            let asked = Instant::now();
            match self.link.status().await {
                // As old as the question: the answer may have taken its time.
                Ok(status) => {
                    let pictured = Pictured { picture: picture(&status), received: asked };
                    let _ = self.sender.send(Some(Arc::new(pictured)));
                }
                Err(e) => {
                    tracing::debug!(error = &e as &dyn std::error::Error, "no picture from the controller");
                }
            }
            let next = asked + Duration::from_millis(limits::SENTINEL_PICTURE_EVERY_MS);
            tokio::time::sleep_until(next.max(asked + asked.elapsed())).await;
        }
    }
}

fn picture(status: &Status) -> Picture {
    let name = |text: &str| NodeName::new(text).ok();
    let member = |group: &GroupName, m: &MemberStatus| {
        let running = m.state == "running";
        let follows = matches!(m.role.as_str(), "replica" | "sync replica" | "joining sync");
        Some(((group.clone(), name(&m.node)?), MemberPicture { running, follows, offset: offset(m) }))
    };
    let members = status.services.iter().flat_map(|s| {
        let group = GroupName::new(&s.service).ok();
        s.members.iter().filter_map(move |m| member(group.as_ref()?, m))
    });
    Picture {
        controller: name(&status.controller),
        heard_ms_ago: status.nodes.iter().filter_map(|n| Some((name(&n.node)?, n.heard_ms_ago?))).collect(),
        members: members.collect(),
    }
}

/// The end of what `status` shows of a position: `<history>…:<offset>`.
fn offset(m: &MemberStatus) -> u64 {
    let digits = m.position.as_deref().and_then(|p| p.rsplit(':').next());
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}
