//! The controller's half of the protocol without I/O: it remembers what was reported and when, by its own clock,
//! and makes the [`World`] that the decider sees. A new controller begins with nothing and assumes the worst:
//! every lease was renewed just before it came into office (S2).

use crate::choose::Blocker;
use crate::decide::{Verdict, decide};
use crate::record::{Assurance, ClaimKind, GroupRecord, Session, Stage};
use crate::report::InstanceReport;
use crate::topology::Topology;
use crate::world::World;
use crate::{Endpoint, Gate, GroupName, Millis, NodeName, Position, RouteSnapshot, Seen, limits};
use std::collections::BTreeMap;
use std::net::SocketAddr;

#[derive(Debug, Clone)]
struct Heard {
    at: Millis,
    session: Session,
    instances: Vec<InstanceReport>,
}

#[derive(Debug, Clone)]
struct Group {
    record: GroupRecord,
    revision: u64,
    record_since: Millis,
    lease_renewed: Millis,
    memory: Memory,
    cool_down_until: Option<Millis>,
}

/// What is remembered of one primary's time: another begins with none of it. As in [`World`].
#[derive(Debug, Clone, Default)]
struct Memory {
    absent: BTreeMap<NodeName, Absence>,
    unwell_since: BTreeMap<NodeName, Millis>,
    well_since: BTreeMap<NodeName, Millis>,
    had: Had,
    waited: Option<Position>,
    sent_back: BTreeMap<NodeName, Millis>,
}

/// Of an acker that does not acknowledge: what looks of the primary in a row have shown.
#[derive(Debug, Clone)]
struct Absence {
    /// The first of them.
    looked: Millis,
    /// Since the second, which is surely of after it stopped.
    since: Option<Millis>,
    /// The first since it is certain not to.
    certain: Option<Millis>,
    /// What the primary had in the second such.
    had: Option<Position>,
}

/// What the primary said it had, now and then: the earlier one is of [`limits::NEARLY_MS`] ago, or half as long.
#[derive(Debug, Clone, Default)]
struct Had {
    earlier: Option<Position>,
    later: Option<(Millis, Position)>,
}

impl Had {
    fn note(&mut self, has: &Position, now: Millis) {
        if self.later.as_ref().is_none_or(|(at, _)| now.since(*at) >= limits::NEARLY_MS / 2) {
            // After a gap in the reports it would be of any time.
            let recent = self.later.take().filter(|(at, _)| now.since(*at) <= limits::NEARLY_MS);
            self.earlier = recent.map(|(_, had)| had);
            self.later = Some((now, has.clone()));
        }
    }
}

/// See the module. One lives as long as one term in office.
#[derive(Debug, Clone)]
pub struct Controller {
    topology: Topology,
    since: Millis,
    heard: BTreeMap<NodeName, Heard>,
    groups: BTreeMap<GroupName, Group>,
    minute: Option<u16>,
}

impl Controller {
    /// Comes into office at `now`.
    pub fn new(topology: Topology, now: Millis) -> Controller {
        Controller { topology, since: now, heard: BTreeMap::new(), groups: BTreeMap::new(), minute: None }
    }

    /// The minute of the day (UTC), for services that go home at a time of it.
    pub fn tell_time(&mut self, minute: u16) {
        self.minute = Some(minute);
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// An agent's report, from the session that is registered in the store.
    pub fn report(&mut self, node: &NodeName, session: Session, instances: Vec<InstanceReport>, now: Millis) {
        // A report that was overtaken says nothing any more, least of all that a primary is closed.
        let latest = |all: &[InstanceReport]| all.iter().map(|r| r.taken).max();
        if self
            .heard
            .get(node)
            .is_some_and(|h| h.session == session && latest(&instances) < latest(&h.instances))
        {
            return;
        }
        let gap = |h: &Heard| h.session != session || now.since(h.at) >= limits::SILENT_AFTER_MS;
        if self.heard.get(node).is_some_and(gap) {
            // Whoever was silent has not been well.
            self.groups.values_mut().for_each(|g| _ = g.memory.well_since.remove(node));
        }
        for r in &instances {
            let own_word: Vec<NodeName> = self.quit_acknowledging(&r.group);
            if let Some(group) = self.groups.get_mut(&r.group) {
                group.sight_ackers(node, r, &own_word, now);
                group.sight_follower(node, r, now);
            }
        }
        self.heard.insert(node.clone(), Heard { at: now, session, instances });
    }

    /// Nodes that said last that they do not acknowledge, and promised not to without a new assignment.
    fn quit_acknowledging(&self, group: &GroupName) -> Vec<NodeName> {
        let Some(revision) = self.groups.get(group).map(|g| g.revision) else { return Vec::new() };
        let quit = |h: &Heard| {
            let own = h.instances.iter().find(|r| r.group == *group);
            own.is_some_and(|r| r.quit_acknowledging(revision))
        };
        self.heard.iter().filter(|(_, h)| quit(h)).map(|(n, _)| n.clone()).collect()
    }

    /// The record as the store has it now.
    pub fn record(&mut self, record: GroupRecord, revision: u64, now: Millis) {
        let since = self.since;
        let sent_back = self.sent_back_by(&record, now);
        let service = self.topology.service(&record.group);
        let cool_down_ms = service.map_or(limits::COOL_DOWN_MS, |s| s.cool_down_ms);
        let group = self.groups.entry(record.group.clone()).or_insert_with(|| Group {
            record: record.clone(),
            revision: 0,
            record_since: now,
            lease_renewed: since,
            memory: Memory::default(),
            cool_down_until: record.last_takeover.map(|_| now.plus(cool_down_ms)),
        });
        if revision <= group.revision {
            return;
        }
        if group.record.last_takeover != record.last_takeover {
            group.cool_down_until = record.last_takeover.map(|_| now.plus(cool_down_ms));
        }
        let new_primary = group.record.primary() != record.primary();
        if new_primary && record.primary().is_some() {
            group.memory = Memory::default();
            // The grant that came with the record counts as a renewal: the new holder may count from then on.
            group.lease_renewed = now;
        }
        group.memory.sent_back.extend(sent_back.into_iter().map(|n| (n, now)));
        // Whose part changed is counted anew: what it did under the part before may not have been seen yet.
        let same = |n: &NodeName| record.ackers.get(n).is_some_and(|a| group.record.ackers.get(n) == Some(a));
        group.memory.absent.retain(|n, _| same(n));
        if record.assurance != Assurance::Restoring {
            group.memory.waited = None;
        }
        group.record = record;
        group.revision = revision;
        group.record_since = now;
    }

    /// Who follows and acknowledges, and is not to any more by the new record.
    fn sent_back_by(&self, record: &GroupRecord, now: Millis) -> Vec<NodeName> {
        let (Some(known), Some(primary)) = (self.groups.get(&record.group), record.primary()) else {
            return Vec::new();
        };
        let follows = |n: &NodeName| {
            self.seen(n, &record.group, now)
                .fresh()
                .is_some_and(|r| r.follows(&primary.node) && r.seen.acknowledges)
        };
        record.sent_back_since(&known.record).filter(|n| follows(n)).cloned().collect()
    }

    /// A renewal of the group's lease was committed; `at` is when this host saw it.
    pub fn renewed(&mut self, group: &GroupName, at: Millis) {
        if let Some(g) = self.groups.get_mut(group) {
            g.lease_renewed = g.lease_renewed.max(at);
        }
    }

    pub fn groups(&self) -> impl Iterator<Item = (&GroupRecord, u64)> + Clone {
        self.groups.values().map(|g| (&g.record, g.revision))
    }
    pub fn group(&self, name: &GroupName) -> Option<(&GroupRecord, u64)> {
        self.groups.get(name).map(|g| (&g.record, g.revision))
    }
    /// A node's registered session as last heard.
    pub fn session(&self, node: &NodeName) -> Option<Session> {
        self.heard.get(node).map(|h| h.session)
    }

    /// Time since a node's last report to this controller.
    pub fn heard_ms_ago(&self, node: &NodeName, now: Millis) -> Option<u64> {
        self.heard.get(node).map(|h| now.since(h.at))
    }

    /// Everything known about a group; `None` if the topology or the store does not know it.
    pub fn world(&self, name: &GroupName, now: Millis) -> Option<World<'_>> {
        let service = self.topology.service(name)?;
        let group = self.groups.get(name)?;
        let absent = || group.memory.absent.iter();
        let members = service.members.iter().map(|n| (n.clone(), self.seen(n, name, now))).collect();
        Some(World {
            topology: &self.topology,
            service,
            record: &group.record,
            revision: group.revision,
            now,
            record_since: group.record_since,
            lease_renewed: group.lease_renewed,
            members,
            absent_since: absent().filter_map(|(n, a)| Some((n.clone(), a.since?))).collect(),
            unwell_since: group.memory.unwell_since.clone(),
            well_since: group.memory.well_since.clone(),
            primary_had: group.memory.had.earlier.clone(),
            primary_had_lately: group.memory.had.later.as_ref().map(|(_, had)| had.clone()),
            primary_waited: group.memory.waited.clone(),
            absent_had: absent().filter_map(|(n, a)| Some((n.clone(), a.had.clone()?))).collect(),
            sent_back: group.memory.sent_back.clone(),
            minute: self.minute,
            cool_down_until: group.cool_down_until,
            groups_failing: self.groups.values().filter(|g| self.fails(g, now)).count(),
            groups: self.groups.len(),
        })
    }

    /// A controller that has just come into office knows nobody: silence would be its own, not the agents'.
    pub fn settling(&self, name: &GroupName, now: Millis) -> bool {
        let new = now.since(self.since) < limits::SETTLE_MS && self.heard.len() < self.topology.nodes.len();
        let heard_all = |w: World<'_>| w.members.values().all(|m| m.fresh().is_some());
        new && !self.world(name, now).is_some_and(heard_all)
    }

    /// What to do about a group, once this controller has had time to hear from the agents.
    pub fn verdict(&self, name: &GroupName, now: Millis) -> Verdict {
        let Some(world) = self.world(name, now) else { return Verdict::Healthy };
        if self.settling(name, now) {
            let says = "this controller has just taken office and waits for the agents' first reports";
            return Verdict::Wait(vec![Blocker::new("new-controller", says)]);
        }
        decide(&world)
    }

    fn seen(&self, node: &NodeName, group: &GroupName, now: Millis) -> Seen<InstanceReport> {
        let Some(heard) = self.heard.get(node) else { return Seen::Never };
        let Some(report) = heard.instances.iter().find(|r| r.group == *group) else { return Seen::Never };
        let age_ms = now.since(heard.at);
        if age_ms < limits::SILENT_AFTER_MS {
            Seen::Fresh(report.clone())
        } else {
            Seen::Stale { value: report.clone(), age_ms }
        }
    }

    fn fails(&self, group: &Group, now: Millis) -> bool {
        match &group.record.stage {
            Stage::New => false,
            Stage::Claimed(claim) => matches!(claim.kind, ClaimKind::Takeover { .. }),
            Stage::Led { primary } => match self.seen(&primary.node, &group.record.group, now) {
                Seen::Fresh(r) => r.seen.ended(),
                Seen::Stale { .. } | Seen::Never => true,
            },
        }
    }

    /// What proxies are told about a group now. `valid_for_ms` counts from its receipt.
    pub fn route(&self, name: &GroupName, now: Millis) -> Option<RouteSnapshot> {
        let world = self.world(name, now)?;
        let endpoint = |n: &NodeName| {
            let node = self.topology.node(n)?;
            let addr = SocketAddr::new(node.address, world.service.engine_port);
            Some(Endpoint { node: n.clone(), zone: node.zone.clone(), addr })
        };
        let (gate, writer) = match &world.record.stage {
            Stage::New => (Gate::Closed, None),
            Stage::Claimed(claim) => match (&claim.kind, &claim.from) {
                (ClaimKind::Handover { .. }, Some(from)) => (Gate::Draining, endpoint(&from.node)),
                _ => (Gate::Closed, None),
            },
            Stage::Led { primary } => {
                // It says that it leads from before it is opened; what came in between would be refused.
                let open = |r: &InstanceReport| r.leads == Some(primary.epoch) && r.seen.writable;
                let open = world.fresh(&primary.node).is_some_and(open);
                if open { (Gate::Open, endpoint(&primary.node)) } else { (Gate::Closed, None) }
            }
        };
        let promised = world.sync() && world.record.assurance != Assurance::Degraded;
        let acks = world.service.admits_replicas() && promised;
        let writer_node = world.record.primary().map(|p| p.node.clone());
        let mut readers: Vec<(u64, Endpoint)> = world
            .fresh_members()
            .filter(|(n, r)| Some(*n) != writer_node.as_ref() && r.running() && r.seen.upstream.is_some())
            .filter(|(n, _)| !world.record.restart.contains_key(*n))
            // A connection on which nothing comes looks alive to an engine for long: its lag is at least that.
            .filter(|(n, _)| {
                let since = world.unwell_since.get(*n);
                since.is_none_or(|t| now.since(*t) <= world.service.read_lag_ms)
            })
            .filter_map(|(n, r)| {
                let lag = r.seen.upstream.as_ref().and_then(|u| u.lag_ms).unwrap_or(u64::MAX);
                (lag <= world.service.read_lag_ms).then_some(())?;
                Some((lag, endpoint(n)?))
            })
            .collect();
        readers.sort_by_key(|(lag, _)| *lag / 1_000);
        Some(RouteSnapshot {
            group: name.clone(),
            epoch: world.record.epoch,
            gate,
            writer,
            readers: readers.into_iter().map(|(_, e)| e).collect(),
            acks: u32::from(acks),
            valid_for_ms: limits::ROUTE_VALID_MS,
        })
    }
}

impl Group {
    /// Keeps since when a member follows, or does not: a new connection takes a moment, and is no reason to act. Nor is it one
    /// that it waits to be recorded, as it was told to.
    fn sight_follower(&mut self, node: &NodeName, r: &InstanceReport, now: Millis) {
        let follows = self.record.primary().is_some_and(|p| r.follows(&p.node));
        if follows {
            self.memory.well_since.entry(node.clone()).or_insert(now);
        } else {
            self.memory.well_since.remove(node);
        }
        if follows || r.ready || self.record.primary().is_none() {
            self.memory.unwell_since.remove(node);
        } else {
            self.memory.unwell_since.entry(node.clone()).or_insert(now);
        }
    }

    /// Keeps, for each recorded acker, since when it does not acknowledge: the primary does not see it, or it says so
    /// itself. Counted from the primary's *second* such look, because the first may have been taken before the acker
    /// stopped; what the primary had by then includes all that was ever acknowledged by it.
    fn sight_ackers(&mut self, node: &NodeName, r: &InstanceReport, own_word: &[NodeName], now: Millis) {
        let Some(p) = self.record.primary() else { return };
        if p.node != *node || r.leads != Some(p.epoch) {
            return;
        }
        if let Some(has) = &r.seen.applied {
            self.memory.had.note(has, now);
        }
        // An older assignment, still on its way, could make it stop waiting after that.
        let waits = r.seen.waits_for_ack && r.held >= self.revision;
        if self.record.assurance == Assurance::Restoring && waits {
            self.memory.waited = self.memory.waited.take().or_else(|| r.seen.applied.clone());
        } else {
            self.memory.waited = None;
        }
        for acker in self.record.ackers.keys() {
            let quit = own_word.contains(acker);
            if r.seen.ackers.contains(acker) && !quit {
                self.memory.absent.remove(acker);
                continue;
            }
            let first = || Absence { looked: r.seen.at, since: None, certain: None, had: None };
            let absence = self.memory.absent.entry(acker.clone()).or_insert_with(first);
            if r.seen.at > absence.looked {
                absence.since.get_or_insert(now);
            }
            // Out of sight it may connect again and acknowledge something, between two looks.
            let shut_out = r.seen.admits.as_ref().is_some_and(|admitted| !admitted.contains(acker));
            let given_up = absence.since.is_some_and(|t| now.since(t) >= limits::ACKER_GIVES_UP_AFTER_MS);
            if !(quit || shut_out || given_up) {
                (absence.certain, absence.had) = (None, None);
            } else if r.seen.at > *absence.certain.get_or_insert(r.seen.at) && absence.had.is_none() {
                absence.had = r.seen.applied.clone();
            }
        }
    }
}
