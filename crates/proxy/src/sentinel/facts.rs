//! What this node may say of services, members and hosts.
//!
//! Guarantees: who is primary follows from the route alone, as it does for a proxy, and never from a picture: pictures may
//! be a second old, and only say how replicas and hosts are. One that is older than its bound says nothing any more.

use super::{Master, Peer};
use crate::service::{Handle, Route};
use holdfast_core::{Endpoint, Epoch, Gate, GroupName, NodeName, limits};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a controller says of members and hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Picture {
    /// Where it is; `None` if its name is none.
    pub controller: Option<NodeName>,
    /// Milliseconds since a host's last report; a host that never reported is not here.
    pub heard_ms_ago: BTreeMap<NodeName, u64>,
    pub members: BTreeMap<(GroupName, NodeName), MemberPicture>,
}

/// One instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberPicture {
    /// It answers its agent, and the agent reports.
    pub running: bool,
    /// It replicates from the primary.
    pub follows: bool,
    /// Where it is in its history.
    pub offset: u64,
}

/// A picture and when it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pictured {
    pub picture: Picture,
    pub received: Instant,
}

/// Who may be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Primary {
    Open(Endpoint),
    /// A switchover has begun.
    Switching,
    /// A controller says that there is none.
    None,
    /// This node may not say: it knows no route, the route ran out, or its agent closed that epoch.
    Unknown,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterFacts {
    pub name: GroupName,
    pub epoch: Epoch,
    pub primary: Primary,
    /// All members but the primary; while there is none, but the last one that this node knew.
    pub replicas: Vec<ReplicaFacts>,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaFacts {
    pub addr: SocketAddr,
    /// `None`: nothing certain is known of it.
    pub seen: Option<MemberPicture>,
    /// Milliseconds since its host's last report.
    pub heard_ms_ago: Option<u64>,
}

impl ReplicaFacts {
    pub fn is_up(&self) -> bool {
        self.seen.is_some_and(|m| m.running)
    }
    pub fn follows(&self) -> bool {
        self.seen.is_some_and(|m| m.running && m.follows)
    }
}

/// Another host that answers as a Sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelFacts {
    pub id: String,
    pub addr: SocketAddr,
    pub voter: bool,
    /// Milliseconds since its last report to the controller.
    pub heard_ms_ago: Option<u64>,
}

impl SentinelFacts {
    pub fn is_up(&self) -> bool {
        self.heard_ms_ago.is_some_and(|ms| ms <= limits::SILENT_AFTER_MS)
    }
}

/// All that can be said at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// This host's own id.
    pub me: String,
    pub masters: Vec<MasterFacts>,
    pub others: Vec<SentinelFacts>,
    /// The id of the host whose controller decides, if that is known.
    pub leader: Option<String>,
    pub voters: usize,
    /// Voters that a controller hears.
    pub voters_heard: usize,
}

impl Facts {
    pub fn master(&self, name: &[u8]) -> Option<&MasterFacts> {
        self.masters.iter().find(|m| m.name.as_str().as_bytes() == name)
    }
    /// Voters without which nothing is decided.
    pub fn quorum(&self) -> usize {
        self.voters / 2 + 1
    }
}

/// Where facts come from.
pub struct Known {
    me: Peer,
    others: Vec<Peer>,
    masters: Vec<Followed>,
    pictures: watch::Receiver<Option<Arc<Pictured>>>,
}

struct Followed {
    master: Master,
    /// Place of the last primary among the members, plus one; 0 for none.
    last: AtomicUsize,
}

impl Known {
    pub fn new(
        me: NodeName,
        peers: Vec<Peer>,
        masters: Vec<Master>,
        pictures: watch::Receiver<Option<Arc<Pictured>>>,
    ) -> Known {
        let (mine, others): (Vec<Peer>, Vec<Peer>) = peers.into_iter().partition(|p| p.node == me);
        let me = mine.into_iter().next().expect("a host is among the hosts of its topology");
        let followed = |master| Followed { master, last: AtomicUsize::new(0) };
        Known { me, others, masters: masters.into_iter().map(followed).collect(), pictures }
    }

    /// Where this host answers.
    pub fn port(&self) -> u16 {
        self.me.addr.port()
    }
    pub fn routes(&self) -> Vec<watch::Receiver<Option<Arc<Route>>>> {
        self.masters.iter().map(|f| f.master.routes.clone()).collect()
    }
    pub fn pictures(&self) -> watch::Receiver<Option<Arc<Pictured>>> {
        self.pictures.clone()
    }

    pub fn facts(&self, now: Instant) -> Facts {
        let picture = self.pictures.borrow().clone();
        let picture = picture.as_deref().and_then(|p| current(p, now));
        let heard = |node: &NodeName| {
            let (picture, age) = picture?;
            picture.heard_ms_ago.get(node).map(|ms| ms.saturating_add(age))
        };
        let others: Vec<SentinelFacts> = self
            .others
            .iter()
            .map(|p| SentinelFacts {
                id: p.id.clone(),
                addr: p.addr,
                voter: p.voter,
                heard_ms_ago: heard(&p.node),
            })
            .collect();
        let is_heard = |p: &&Peer| heard(&p.node).is_some_and(|ms| ms <= limits::SILENT_AFTER_MS);
        let voters = || self.others.iter().chain([&self.me]).filter(|p| p.voter);
        let leader = picture.and_then(|(p, _)| p.controller.as_ref());
        let named = leader.and_then(|l| self.others.iter().chain([&self.me]).find(|p| p.node == *l));
        Facts {
            me: self.me.id.clone(),
            masters: self.masters.iter().map(|f| f.facts(picture, now)).collect(),
            others,
            leader: named.map(|p| p.id.clone()),
            voters: voters().count(),
            voters_heard: voters().filter(is_heard).count(),
        }
    }
}

/// A picture with its age in ms, unless it is too old to say anything.
fn current(p: &Pictured, now: Instant) -> Option<(&Picture, u64)> {
    let age = now.saturating_duration_since(p.received);
    let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    (ms <= limits::SENTINEL_PICTURE_VALID_MS).then_some((&p.picture, ms))
}

impl Followed {
    fn facts(&self, picture: Option<(&Picture, u64)>, now: Instant) -> MasterFacts {
        let Master { name, members, routes, proxy } = &self.master;
        let route = routes.borrow().clone();
        let primary = primary(route.as_deref(), Handle::closed_through(proxy), now);
        if let Primary::Open(at) = &primary
            && let Some(place) = members.iter().position(|(_, addr)| *addr == at.addr)
        {
            self.last.store(place + 1, Ordering::Relaxed);
        }
        let last = self.last.load(Ordering::Relaxed).checked_sub(1);
        let replica = |(node, addr): &(NodeName, SocketAddr)| ReplicaFacts {
            addr: *addr,
            seen: picture.and_then(|(p, _)| p.members.get(&(name.clone(), node.clone())).copied()),
            heard_ms_ago: picture.and_then(|(p, age)| Some(p.heard_ms_ago.get(node)?.saturating_add(age))),
        };
        let others = members.iter().enumerate().filter(|(place, _)| Some(*place) != last);
        MasterFacts {
            name: name.clone(),
            epoch: route.map_or(Epoch(0), |r| r.snapshot.epoch),
            primary,
            replicas: others.map(|(_, member)| replica(member)).collect(),
        }
    }
}

/// See [`Primary`]. The same rule as a proxy's for a session that has no connection yet.
pub fn primary(route: Option<&Route>, closed_through: Option<Epoch>, now: Instant) -> Primary {
    let Some(Route { snapshot, received }) = route else { return Primary::Unknown };
    let until = *received + Duration::from_millis(snapshot.valid_for_ms);
    if now >= until || closed_through.is_some_and(|closed| closed >= snapshot.epoch) {
        return Primary::Unknown;
    }
    match (snapshot.gate, &snapshot.writer) {
        (Gate::Open, Some(writer)) => Primary::Open(writer.clone()),
        (Gate::Draining, _) => Primary::Switching,
        (Gate::Open | Gate::Closed, _) => Primary::None,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use holdfast_core::{RouteSnapshot, ZoneName};

    pub fn name(text: &str) -> GroupName {
        GroupName::new(text).unwrap()
    }
    pub fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 6379))
    }
    pub fn endpoint(n: u8) -> Endpoint {
        let node = NodeName::new(&format!("n{n}")).unwrap();
        Endpoint { node, zone: ZoneName::new("z").unwrap(), addr: at(n) }
    }

    /// Three members of `shop`, of which `primary` is open; three voters.
    pub fn facts(primary: Primary) -> Facts {
        let lead = match &primary {
            Primary::Open(e) => e.addr,
            _ => at(1),
        };
        let seen = Some(MemberPicture { running: true, follows: true, offset: 77 });
        let replica = |n| ReplicaFacts { addr: at(n), seen, heard_ms_ago: Some(100) };
        let sentinel = |n: u8| SentinelFacts {
            id: format!("{n:040}"),
            addr: SocketAddr::from(([10, 0, 0, n], 26379)),
            voter: true,
            heard_ms_ago: Some(100),
        };
        Facts {
            me: format!("{:040}", 1),
            masters: vec![MasterFacts {
                name: name("shop"),
                epoch: Epoch(4),
                primary,
                replicas: (1..=3).map(replica).filter(|r| r.addr != lead).collect(),
            }],
            others: vec![sentinel(2), sentinel(3)],
            leader: Some(format!("{:040}", 2)),
            voters: 3,
            voters_heard: 3,
        }
    }

    fn route(gate: Gate, writer: Option<u8>, received: Instant) -> Route {
        let snapshot = RouteSnapshot {
            group: name("shop"),
            epoch: Epoch(4),
            gate,
            writer: writer.map(endpoint),
            readers: vec![],
            acks: 1,
            valid_for_ms: 2_500,
        };
        Route { snapshot, received }
    }

    #[test]
    fn a_primary_is_named_only_while_it_may_be_written_to() {
        let now = Instant::now();
        let open = route(Gate::Open, Some(1), now);
        let say = |r: &Route, closed: Option<u64>, ms| {
            primary(Some(r), closed.map(Epoch), now + Duration::from_millis(ms))
        };
        assert_eq!(say(&open, None, 2_499), Primary::Open(endpoint(1)));
        assert_eq!(say(&open, Some(3), 0), Primary::Open(endpoint(1)));
        assert_eq!(say(&open, None, 2_500), Primary::Unknown, "the route ran out");
        assert_eq!(say(&open, Some(4), 0), Primary::Unknown, "this host's agent closed the epoch");
        assert_eq!(say(&route(Gate::Draining, Some(1), now), None, 0), Primary::Switching);
        assert_eq!(say(&route(Gate::Closed, None, now), None, 0), Primary::None);
        assert_eq!(primary(None, None, now), Primary::Unknown);
    }

    #[test]
    fn an_old_picture_says_nothing() {
        let now = Instant::now();
        let p = Pictured { picture: Picture::default(), received: now };
        let after = |ms| current(&p, now + Duration::from_millis(ms)).map(|(_, age)| age);
        let valid = limits::SENTINEL_PICTURE_VALID_MS;
        assert_eq!(after(valid), Some(valid));
        assert_eq!(after(valid + 1), None);
    }
}
