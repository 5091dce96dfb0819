//! What the store holds about a group, and what follows from it for each member.
//!
//! The record is the only truth about who may write. It changes by compare-and-set, one plan at a time, and an
//! agent's [`Assignment`] is a pure function of it: whoever runs the controller, and however often it is replaced,
//! every agent is told the same. Nothing here knows what the engines are doing; that is the `World`.

use crate::topology::{Durability, Service};
use crate::{Epoch, GroupName, NodeName, Position};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One life of an agent process. Registered in the store before the agent may be told anything, so that a deposed
/// controller cannot instruct a restarted agent (which has forgotten what it promised).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Session(pub u64);

/// A primary: a node in one life of its agent. A restarted agent never goes on in an epoch it once led.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incumbent {
    pub node: NodeName,
    pub session: Session,
    /// Which of its processes ([`Life::number`]): what is in memory alone is gone with it (S9).
    #[serde(default)]
    pub process: u64,
    pub epoch: Epoch,
}

/// One life of an engine's process, as its agent counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Life {
    pub session: Session,
    pub number: u64,
}

/// A process that is to be ended in order and started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Any later life will do, whatever began it.
    pub life: Life,
    /// Even while it is a recorded acker: nobody can stand in for it, and commits wait until it is back.
    pub in_set: bool,
}

/// A group that is being upgraded, one instance at a time ([`crate::upgrade`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// Stop before another release would lead: until then there is a way back.
    pub replicas_only: bool,
    /// An operator accepts that nobody can take over while the only replica restarts.
    pub accept_no_standby: bool,
}

/// Why an epoch was claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimKind {
    /// The incumbent is believed dead, or must not go on: replicas stop receiving, the best of them is chosen.
    Takeover { to: Option<NodeName> },
    /// The incumbent hands over in order: it lets transactions finish and closes while `to` goes on receiving.
    Handover { to: NodeName },
}

/// An epoch that has begun without a writer. Renewals of the incumbent's lease are refused from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub kind: ClaimKind,
    /// Who may still be writing in the epoch before. `None` only if there never was a primary.
    pub from: Option<Incumbent>,
    /// The incumbent's last reported position: a lower bound of what it had, for the report of what was lost.
    pub known: Option<Position>,
    /// An operator accepts that acknowledged writes may be lost.
    pub accept_loss: bool,
}

/// Where a group stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Never had a primary.
    New,
    /// No writer in this epoch yet.
    Claimed(Claim),
    /// `primary` may write while it holds the lease of this epoch.
    Led { primary: Incumbent },
}

/// How a node takes part in acknowledging. Every node that *could* acknowledge is recorded, in whatever state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acker {
    /// Recorded; being made synchronous in the database, or not caught up yet.
    Joining,
    /// Synchronous in the database and caught up: the recorded sync set (S5).
    Member,
    /// Out of the sync set; may still acknowledge until its agent or the primary confirms otherwise.
    Leaving,
}

/// Whether `sync` durability holds (S5). Always `Held` under `async`, where nothing is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assurance {
    /// Every acknowledged write is on a recorded acker.
    Held,
    /// The primary does not wait for acknowledgements.
    Degraded,
    /// It waits again, but what was written meanwhile is not yet known to be on an acker.
    Restoring,
}

/// Whether the controller acts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Automatic,
    Paused,
}

/// An operator's wish, stored with the record so that it survives the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Planned; refused or dropped with a reason when it cannot be done without loss.
    Switchover { to: Option<NodeName> },
    /// Take over now although the primary is not known to be dead.
    Failover { to: Option<NodeName>, accept_loss: bool },
}

/// A group's row in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    pub group: GroupName,
    pub epoch: Epoch,
    pub stage: Stage,
    pub ackers: BTreeMap<NodeName, Acker>,
    pub assurance: Assurance,
    /// How often each member was a primary that did not wait, and ceased to be. Where it is the proxies that wait, each
    /// time some may still act on what they were told before ([`crate::limits::ROUTES_TURNED_MS`]).
    #[serde(default)]
    pub relaxed: BTreeMap<NodeName, u64>,
    /// What the primary had when it was promoted. An acker is only promoted if it has that too: writes from before
    /// were acknowledged by the ackers of that time.
    pub floor: Option<Position>,
    /// What the primary had when the last acker left that nobody stood in for, unacknowledged writes included: an acker
    /// that came later is only promoted if it has that too.
    #[serde(default)]
    pub left_behind: Option<Position>,
    pub mode: Mode,
    pub wish: Option<Wish>,
    /// Members whose data an operator wants rebuilt from a donor, each with the session that shall do it.
    pub reinit: BTreeMap<NodeName, Session>,
    /// Members whose process is to be restarted.
    #[serde(default)]
    pub restart: BTreeMap<NodeName, Restart>,
    #[serde(default)]
    pub upgrade: Option<Upgrade>,
    /// A primary has been open once: the accounts of the topology exist.
    #[serde(default)]
    pub founded: bool,
    /// Tells this history from that of another deployment of the same name, whose transactions may have the same ids: the
    /// session of the first primary. 0 in records of earlier releases.
    #[serde(default)]
    pub lineage: u64,
    /// The epoch that the last takeover began (S12), until its cool-down is over.
    pub last_takeover: Option<Epoch>,
    /// A takeover that nobody asked for moved it from its home ([`Service::home`]); whoever moves it by hand after that
    /// means it to stay.
    #[serde(default)]
    pub displaced: bool,
    /// How often it was handed back since then, in vain.
    #[serde(default)]
    pub hand_backs_failed: u32,
    /// The plan that made this record; 0 before the first.
    pub plan: u64,
}

/// What a member is to be. Carried to the agent with the epoch and the revision of the record it follows from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Nothing to do yet: stay closed.
    Idle,
    /// Close, stop receiving, apply what was received, report.
    Halt,
    /// Let open transactions finish (bounded), close, report the final position.
    Yield,
    /// Write, while the lease of this epoch is held.
    Lead {
        /// Only the agent life that was chosen may open.
        session: Session,
        /// The process that was chosen ([`Incumbent::process`]).
        #[serde(default)]
        process: u64,
        wait_for_ack: bool,
        /// No primary was open yet: create the accounts.
        found: bool,
        /// Members that may replicate from it; `None`: its engine makes no difference.
        #[serde(default)]
        admits: Option<BTreeSet<NodeName>>,
    },
    /// Replicate from `primary`.
    Follow {
        primary: NodeName,
        acknowledges: bool,
        /// A handover waits for this member: report every change at once.
        hurry: bool,
        /// Rebuild from a donor even if the histories fit.
        reclone: bool,
        /// End this life of the process, and begin the next.
        #[serde(default)]
        restart: Option<Life>,
    },
    /// Make itself fit to follow `primary`, and do not connect yet: where whoever is connected acknowledges, it is
    /// recorded first (S5).
    Prepare {
        primary: NodeName,
        reclone: bool,
        /// The record still counts it among those that could acknowledge.
        recorded: bool,
        /// As for [`Role::Follow`].
        #[serde(default)]
        restart: Option<Life>,
    },
}

/// See [`Role`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub group: GroupName,
    pub epoch: Epoch,
    /// Revision of the group's record in the store; grows with every change.
    pub revision: u64,
    pub role: Role,
    /// How often this member was a primary that did not wait, and ceased to be ([`GroupRecord::relaxed`]).
    #[serde(default)]
    pub relaxed: u64,
    /// [`GroupRecord::lineage`].
    #[serde(default)]
    pub lineage: u64,
    /// All members of the group, for S14.
    pub members: Vec<NodeName>,
}

impl GroupRecord {
    /// A group that the topology names and the store does not know yet.
    pub fn new(service: &Service) -> GroupRecord {
        GroupRecord {
            group: service.name.clone(),
            epoch: Epoch(0),
            stage: Stage::New,
            ackers: BTreeMap::new(),
            assurance: match service.durability {
                Durability::Sync => Assurance::Degraded,
                Durability::Async => Assurance::Held,
            },
            relaxed: BTreeMap::new(),
            floor: None,
            left_behind: None,
            mode: Mode::Automatic,
            wish: None,
            reinit: BTreeMap::new(),
            restart: BTreeMap::new(),
            upgrade: None,
            founded: false,
            lineage: 0,
            last_takeover: None,
            displaced: false,
            hand_backs_failed: 0,
            plan: 0,
        }
    }

    /// Of a primary that did not wait for acknowledgements: from now on it does, or another is the primary.
    pub(crate) fn ceases_to_be_relaxed(&mut self, primary: &NodeName) {
        *self.relaxed.entry(primary.clone()).or_default() += 1;
    }

    /// Who was joining, or all that could acknowledge where writes now wait for nobody, and is not to any more.
    pub(crate) fn sent_back_since<'r>(&self, before: &'r GroupRecord) -> impl Iterator<Item = &'r NodeName> {
        let relaxed = self.assurance == Assurance::Degraded;
        let part = |r: &GroupRecord, n: &NodeName| r.ackers.get(n).copied();
        let was = move |n: &NodeName| {
            part(before, n) == Some(Acker::Joining) || relaxed && part(before, n) == Some(Acker::Member)
        };
        let is = move |n: &NodeName| matches!(part(self, n), Some(Acker::Joining | Acker::Member));
        before.ackers.keys().filter(move |n| was(n) && !is(n) && !self.is_to_leave(n))
    }

    /// The primary in office, if there is one.
    pub fn primary(&self) -> Option<&Incumbent> {
        match &self.stage {
            Stage::Led { primary } => Some(primary),
            Stage::New | Stage::Claimed(_) => None,
        }
    }

    /// The recorded sync set.
    pub fn sync_set(&self) -> BTreeSet<NodeName> {
        self.ackers.iter().filter(|(_, a)| **a == Acker::Member).map(|(n, _)| n.clone()).collect()
    }

    /// Fencing token of the group's lease in the store: grows at the claim and again when a primary is named, so
    /// that one epoch's claim and its lead are two different tokens.
    pub fn lease_token(&self) -> u64 {
        match self.stage {
            Stage::New => 0,
            Stage::Claimed(_) => self.epoch.0 * 2,
            Stage::Led { .. } => self.epoch.0 * 2 + 1,
        }
    }

    /// Who may renew the lease: node and session in one text.
    pub fn lease_holder(&self) -> Option<String> {
        self.primary().map(|p| lease_holder(&p.node, p.session))
    }

    /// What `node` is to be. Pure: the same for every controller.
    pub fn assignment(&self, service: &Service, revision: u64, node: &NodeName) -> Assignment {
        let role = match &self.stage {
            Stage::New => Role::Idle,
            Stage::Claimed(claim) => self.role_under_claim(service, claim, node),
            Stage::Led { primary } if primary.node == *node => Role::Lead {
                session: primary.session,
                process: primary.process,
                wait_for_ack: service.durability == Durability::Sync && self.assurance != Assurance::Degraded,
                found: !self.founded,
                admits: service.admits_replicas().then(|| self.admitted(service, node)),
            },
            Stage::Led { primary } => self.follow(service, primary, node, false),
        };
        Assignment {
            group: self.group.clone(),
            epoch: self.epoch,
            revision,
            role,
            relaxed: self.relaxed.get(node).copied().unwrap_or(0),
            lineage: self.lineage,
            members: service.members.clone(),
        }
    }

    fn role_under_claim(&self, service: &Service, claim: &Claim, node: &NodeName) -> Role {
        match (&claim.kind, &claim.from) {
            (ClaimKind::Handover { .. }, Some(from)) if from.node == *node => Role::Yield,
            (ClaimKind::Handover { to }, Some(from)) => self.follow(service, from, node, to == node),
            (ClaimKind::Handover { .. }, None) | (ClaimKind::Takeover { .. }, _) => Role::Halt,
        }
    }

    fn follow(&self, service: &Service, primary: &Incumbent, node: &NodeName, hurry: bool) -> Role {
        let acknowledges = self.acknowledges(node);
        // What a recorded acker received may be all there is of an acknowledged write: it leaves the set first.
        let recorded = self.ackers.contains_key(node);
        let reclone = self.reinit.contains_key(node) && !recorded;
        // Not in the middle of a handover.
        let due = |r: &&Restart| self.primary().is_some() && (r.in_set || !recorded);
        let restart = self.restart.get(node).filter(due).map(|r| r.life);
        let primary = primary.node.clone();
        if service.admits_replicas() && service.durability == Durability::Sync && !acknowledges {
            return Role::Prepare { primary, reclone, recorded, restart };
        }
        Role::Follow { primary, acknowledges, hurry, reclone, restart }
    }

    fn acknowledges(&self, node: &NodeName) -> bool {
        matches!(self.ackers.get(node), Some(Acker::Joining | Acker::Member))
    }

    /// Who may replicate from `primary`. Where nothing is promised, everybody.
    fn admitted(&self, service: &Service, primary: &NodeName) -> BTreeSet<NodeName> {
        let all = service.durability == Durability::Async;
        let members = service.members.iter().filter(|n| *n != primary && (all || self.acknowledges(n)));
        members.cloned().collect()
    }

    /// Leaves the sync set, if another can stand in, because its process or its data is about to be replaced.
    pub(crate) fn is_to_leave(&self, node: &NodeName) -> bool {
        self.reinit.contains_key(node) || self.restart.get(node).is_some_and(|r| !r.in_set)
    }
}

/// The lease holder's text form, as the store keeps it.
pub fn lease_holder(node: &NodeName, session: Session) -> String {
    format!("{node}/{}", session.0)
}
