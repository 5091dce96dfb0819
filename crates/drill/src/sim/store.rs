//! The store as its users see it: voters that elect a leader and replicate a log, each applying it to the real state
//! machine. Only a leader takes proposals, and what becomes of one shows when it is applied, or never.
//!
//! Beside them the ledger keeps what was ever applied anywhere, in order: the truth that the invariants look at.

use super::event::{Event, Message, Timer};
use super::raft::{Disk, Entry, Msg, Voter};
use super::{Power, Sabotage, Sim, invariants, office, tell};
use holdfast_core::Epoch;
use holdfast_core::plan::Plan;
use holdfast_core::record::{GroupRecord, Session};
use holdfast_store::state::{Expect, LeaseOp, Outcome, State, Txn, Write};
use std::sync::Arc;

const KEY: &str = "group/shop";
const LEASE: &str = "shop";
const TICK_MS: u64 = 60;

/// Who asks: one office of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    pub node: usize,
    pub term: u64,
}

/// A committed change, and what it was for.
#[derive(Debug, Clone)]
pub struct Change {
    pub by: Asker,
    pub txn: Arc<Txn>,
    pub what: Ask,
}

#[derive(Debug, Clone)]
pub enum Ask {
    /// A new group, or an operator's hand.
    Record {
        record: Arc<GroupRecord>,
    },
    Plan {
        plan: Arc<Plan>,
    },
    Renew {
        to: office::Asked,
        epoch: Epoch,
    },
    Register {
        agent: usize,
        session: Session,
    },
}

/// One voter's applied state.
#[derive(Default)]
pub struct Applied {
    state: State,
    pub record: Option<(Arc<GroupRecord>, u64)>,
    pub sessions: Vec<Session>,
}

impl Applied {
    fn new(hosts: usize) -> Applied {
        Applied { sessions: vec![Session(0); hosts], ..Applied::default() }
    }

    /// True if it was accepted.
    fn apply(&mut self, change: &Change) -> bool {
        let Outcome::Done { revision } = self.state.apply(&change.txn) else { return false };
        match &change.what {
            Ask::Record { record } => self.record = Some((record.clone(), revision)),
            Ask::Plan { plan } => self.record = Some((Arc::new(plan.record.clone()), revision)),
            Ask::Renew { .. } => {}
            Ask::Register { agent, session } => self.sessions[*agent] = *session,
        }
        true
    }
}

/// A voter's host keeps this.
pub struct Member {
    pub voter: Voter<Change>,
    pub applied: Applied,
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    truth: Applied,
    /// Ids of the entries applied so far, by place in the log.
    pub order: Vec<u64>,
    /// Hosts see each other, voters do not.
    pub down: bool,
}

impl Ledger {
    pub fn new(hosts: usize) -> Ledger {
        Ledger { truth: Applied::new(hosts), ..Ledger::default() }
    }

    /// The record as it was last committed, and its revision.
    pub fn record(&self) -> Option<(&GroupRecord, u64)> {
        self.truth.record.as_ref().map(|(r, n)| (&**r, *n))
    }
}

fn record_txn(record: &GroupRecord, expect: Expect) -> Txn {
    let value = serde_json::to_vec(record).expect("a record is plain data");
    let (token, holder) = (record.lease_token(), record.lease_holder());
    Txn {
        writes: vec![Write { key: KEY.into(), expect, value: Some(value) }],
        leases: vec![LeaseOp::Grant { lease: LEASE.into(), token, holder }],
    }
}

pub fn plan_txn(plan: &Plan, revision: u64) -> Txn {
    record_txn(&plan.record, Expect::Revision(revision))
}

pub fn amend_txn(record: &GroupRecord, revision: Option<u64>) -> Txn {
    record_txn(record, revision.map_or(Expect::Absent, Expect::Revision))
}

pub fn renew_txn(epoch: Epoch, holder: String) -> Txn {
    Txn {
        writes: vec![],
        leases: vec![LeaseOp::Renew { lease: LEASE.into(), token: epoch.0 * 2 + 1, holder }],
    }
}

/// Like the controller's `register`: by compare-and-set, and never back to an earlier life.
pub fn register_txn(applied: &Applied, node: &holdfast_core::NodeName, session: Session) -> Txn {
    let key = format!("session/{node}");
    let expect = applied.state.get(&key).map_or(Expect::Absent, |v| Expect::Revision(v.revision));
    let write = Write { key, expect, value: Some(session.0.to_string().into_bytes()) };
    Txn { writes: vec![write], leases: vec![] }
}

impl Sim {
    pub(super) fn voters(&self) -> usize {
        self.topology.nodes.iter().filter(|n| n.voter).count()
    }

    /// The voter of a host whose process starts.
    pub(super) fn voter_up(&mut self, node: usize) {
        let Some(mut disk) = self.hosts[node].store_disk.take() else { return };
        if self.sabotaged(Sabotage::VoteForgotten) {
            disk.vote = None;
        }
        let voter = Voter::new(node, self.voters(), disk, self.now, &mut self.rng);
        let applied = Applied::new(self.hosts.len());
        self.hosts[node].store = Some(Member { voter, applied });
        self.process_after(1, node, Timer::StoreTick);
    }

    /// ... and ends. What was on its way to the disk may have got there.
    pub(super) fn voter_down(&mut self, node: usize) {
        let lands = self.rng.percent(50);
        if let Some(member) = self.hosts[node].store.take() {
            self.hosts[node].store_disk = Some(member.voter.crashed(lands));
        }
    }

    /// The directory of a voter is gone. It comes back under another name, and the others keep it out: as a voter it
    /// never comes back at all.
    pub(super) fn store_lost(&mut self, node: usize) {
        let back = self.sabotaged(Sabotage::LostVoterReturns);
        self.hosts[node].store_disk = back.then(Disk::empty);
    }

    pub(super) fn store_tick(&mut self, node: usize) {
        self.process_after(TICK_MS, node, Timer::StoreTick);
        let (now, next_id, rng) = (self.now, &mut self.next_id, &mut self.rng);
        let Some(member) = &mut self.hosts[node].store else { return };
        member.voter.tick(now, next_id, rng);
        self.store_flush(node);
    }

    pub(super) fn store_message(&mut self, node: usize, from: usize, msg: Msg<Change>) {
        let (now, next_id, rng) = (self.now, &mut self.next_id, &mut self.rng);
        let Some(member) = &mut self.hosts[node].store else { return };
        member.voter.receive(from, msg, now, next_id, rng);
        self.store_flush(node);
    }

    pub(super) fn store_fsynced(&mut self, node: usize, id: u64) {
        let Some(member) = &mut self.hosts[node].store else { return };
        member.voter.fsynced(id);
        self.store_flush(node);
    }

    /// A voter stands for election although nobody asked it to.
    pub(super) fn stand(&mut self, node: usize) {
        let (now, next_id, rng) = (self.now, &mut self.next_id, &mut self.rng);
        let Some(member) = &mut self.hosts[node].store else { return };
        member.voter.stand(now, next_id, rng);
        self.store_flush(node);
    }

    /// Proposes a change. Nothing is heard if this voter does not lead; what it comes to shows when it is applied.
    pub(super) fn propose(&mut self, by: Asker, txn: Txn, what: Ask) -> u64 {
        let id = self.fresh_id();
        let now = self.now;
        if let Some(member) = &mut self.hosts[by.node].store {
            let change = Change { by, txn: Arc::new(txn), what };
            member.voter.propose(id, Some(change), now);
            self.store_flush(by.node);
        }
        id
    }

    /// Does what a voter asks for: writes, messages, entries to apply.
    fn store_flush(&mut self, node: usize) {
        let Some(member) = &mut self.hosts[node].store else { return };
        let (begun, out) = (std::mem::take(&mut member.voter.begun), std::mem::take(&mut member.voter.out));
        for id in begun {
            let ms = self.rng.range(1, 8) + self.hosts[node].slow_disk_ms;
            // A disk finishes in order.
            let at = (self.now + ms).max(self.hosts[node].disk_free_at);
            self.hosts[node].disk_free_at = at;
            let life = self.hosts[node].life;
            self.at(at, Event::Process { node, life, what: Timer::Fsynced(id) });
        }
        for (to, msg) in out {
            if !self.store.down {
                self.send(node, to, Message::Store { from: node, msg });
            }
        }
        while let Some((place, entry)) = self.hosts[node].store.as_mut().and_then(|m| m.voter.apply()) {
            self.store_apply(node, place, &entry);
        }
        self.office_watch(node);
    }

    fn store_apply(&mut self, node: usize, place: usize, entry: &Entry<Change>) {
        if place >= self.store.order.len() {
            self.store.order.push(entry.id);
            if let Some(change) = &entry.what {
                self.committed(change);
            }
        } else if self.store.order[place] != entry.id {
            invariants::replaced(self, node, place);
        }
        let Some(change) = &entry.what else { return };
        let Some(member) = &mut self.hosts[node].store else { return };
        let done = member.applied.apply(change);
        self.office_applied(node, entry.id, change, done);
    }

    /// The first time that an entry is applied anywhere.
    fn committed(&mut self, change: &Change) {
        let before = self.store.truth.record.clone();
        if !self.store.truth.apply(change) {
            return;
        }
        match &change.what {
            Ask::Plan { plan } => {
                let by = self.names[change.by.node].clone();
                tell!(self, "store: plan {} {} by {by}: {}", plan.id, plan.kind, plan.because);
                tell!(self, "       {}", summary(&plan.record));
                if let Some((before, _)) = before {
                    invariants::committed(self, &before, plan);
                }
                self.moment(super::moments::Moment::Committed(plan.kind), change.by.node);
            }
            Ask::Renew { to, epoch } => invariants::renewed(self, to.agent, *epoch, to.sent),
            Ask::Record { .. } | Ask::Register { .. } => {}
        }
    }

    /// An operator's change of the record, through a controller that takes itself for being in office.
    pub(super) fn store_wish(&mut self, change: impl FnOnce(&mut GroupRecord)) -> bool {
        let Some(node) = (0..self.hosts.len()).find(|n| self.hosts[*n].office.is_some()) else {
            return false;
        };
        if self.hosts[node].power != Power::Up {
            return false;
        }
        let office = self.hosts[node].office.as_ref().expect("looked for just now");
        let Some((record, revision)) = office.controller.group(&self.service().name) else { return false };
        let (mut record, term) = (record.clone(), office.term);
        change(&mut record);
        let txn = amend_txn(&record, Some(revision));
        self.propose(Asker { node, term }, txn, Ask::Record { record: Arc::new(record) });
        true
    }
}

impl Asker {
    pub fn at(node: usize, term: u64) -> Asker {
        Asker { node, term }
    }
}

/// A record in one line.
pub fn summary(r: &GroupRecord) -> String {
    use holdfast_core::record::Stage;
    let stage = match &r.stage {
        Stage::New => "new".to_string(),
        Stage::Claimed(c) => {
            format!("claimed {:?} from {:?}", c.kind, c.from.as_ref().map(|f| f.node.clone()))
        }
        Stage::Led { primary } => format!("led by {}/{}", primary.node, primary.session.0),
    };
    let floor = r.floor.as_ref().map(ToString::to_string).unwrap_or_default();
    format!("epoch {} {stage} ackers {:?} {:?} floor {floor}", r.epoch, r.ackers, r.assurance)
}
