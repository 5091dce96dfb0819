//! The store as its users see it: the real state machine behind a leader that comes and goes. Whoever runs a
//! controller sees what was committed in the order of the log; only the leader's commits are accepted.

use super::event::{Event, Timer};
use super::net::Plane;
use super::{Power, Sim, invariants, tell};
use holdfast_core::plan::Plan;
use holdfast_core::record::{GroupRecord, Session};
use holdfast_core::{Epoch, Millis};
use holdfast_store::state::{Expect, LeaseOp, Outcome, State, Txn, Write};

const KEY: &str = "group/shop";
const LEASE: &str = "shop";

/// Asked of the store by the process of a host.
#[derive(Debug, Clone)]
pub struct Request {
    pub node: usize,
    pub life: u64,
    pub term: u64,
    pub what: Ask,
}

#[derive(Debug, Clone)]
pub enum Ask {
    Found { record: Box<GroupRecord> },
    Plan { id: u64, revision: u64, plan: Box<Plan> },
    Renew { agent: usize, session: Session, sent: Millis, epoch: Epoch, holder: String },
    Register { agent: usize, session: Session },
}

/// An entry of the log, for those who watch.
#[derive(Debug, Clone)]
pub enum Entry {
    Record(Box<GroupRecord>, u64),
    Renewed,
    Registered(usize, Session),
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    state: State,
    record: Option<(GroupRecord, u64)>,
    pub leader: Option<usize>,
    pub term: u64,
    leaderless_since: Option<u64>,
    election_ms: u64,
    pub log: Vec<Entry>,
    pub sessions: Vec<Session>,
    /// Quorum lost although hosts see each other.
    pub down: bool,
}

impl Ledger {
    pub fn new(hosts: usize) -> Ledger {
        Ledger { sessions: vec![Session(0); hosts], ..Ledger::default() }
    }

    pub fn record(&self) -> Option<(&GroupRecord, u64)> {
        self.record.as_ref().map(|(r, n)| (r, *n))
    }

    fn put(&mut self, record: &GroupRecord, expect: Expect) -> Option<u64> {
        let value = serde_json::to_vec(record).expect("a record is plain data");
        let txn = Txn {
            writes: vec![Write { key: KEY.into(), expect, value: Some(value) }],
            leases: vec![LeaseOp::Grant {
                lease: LEASE.into(),
                token: record.lease_token(),
                holder: record.lease_holder(),
            }],
        };
        match self.state.apply(&txn) {
            Outcome::Done { revision } => {
                self.record = Some((record.clone(), revision));
                self.log.push(Entry::Record(Box::new(record.clone()), revision));
                Some(revision)
            }
            Outcome::Conflict { .. } => None,
            other => panic!("a plan's transaction is well formed and its token never goes back: {other:?}"),
        }
    }
}

impl Sim {
    fn voters(&self) -> usize {
        self.topology.nodes.iter().filter(|n| n.voter).count()
    }

    fn reaches_majority(&self, node: usize) -> bool {
        let up = |n: usize| self.hosts[n].power == Power::Up && self.net.both(Plane::Control, node, n);
        let voters = self.voters();
        !self.store.down && (0..voters).filter(|n| up(*n)).count() * 2 > voters
    }

    /// The leader as it can act now.
    pub(super) fn working_leader(&self) -> Option<usize> {
        self.store.leader.filter(|l| self.hosts[*l].power == Power::Up && self.reaches_majority(*l))
    }

    pub(super) fn store_ask(&mut self, node: usize, term: u64, what: Ask) {
        let life = self.hosts[node].life;
        let delay = self.rng.range(1, 15) + self.net.delay_ms(&mut self.rng);
        self.after(delay, Event::Store(Box::new(Request { node, life, term, what })));
    }

    pub(super) fn store_apply(&mut self, request: Request) {
        let Request { node, life, term, what } = request;
        if self.working_leader() != Some(node) {
            return; // not the leader, or no majority: the caller hears nothing
        }
        let answer = match what {
            Ask::Found { record } => {
                self.store.put(&record, Expect::Absent);
                None
            }
            Ask::Plan { id, revision, plan } => {
                let done = self.store.put(&plan.record, Expect::Revision(revision)).is_some();
                if done {
                    tell!(
                        self,
                        "store: plan {} {} by {}: {}",
                        plan.id,
                        plan.kind,
                        self.names[node],
                        plan.because
                    );
                    tell!(self, "       {}", summary(&plan.record));
                    invariants::committed(self, &plan);
                }
                Some(Timer::Committed { term, id, done })
            }
            Ask::Renew { agent, session, sent, epoch, holder } => {
                let renew = LeaseOp::Renew { lease: LEASE.into(), token: epoch.0 * 2 + 1, holder };
                let outcome = self.store.state.apply(&Txn { writes: vec![], leases: vec![renew] });
                let done = matches!(outcome, Outcome::Done { .. });
                if done {
                    self.store.log.push(Entry::Renewed);
                }
                Some(Timer::Renewed { term, agent, session, sent, epoch, done })
            }
            Ask::Register { agent, session } => {
                if session > self.store.sessions[agent] {
                    self.store.sessions[agent] = session;
                    self.store.log.push(Entry::Registered(agent, session));
                }
                None
            }
        };
        self.feed();
        if let Some(what) = answer {
            let delay = self.net.delay_ms(&mut self.rng);
            self.after(delay, Event::Process { node, life, what });
        }
    }

    /// Wakes every controller that watches.
    fn feed(&mut self) {
        for node in 0..self.hosts.len() {
            if let Some(term) = self.hosts[node].office.as_ref().map(|o| o.term) {
                let delay = self.net.delay_ms(&mut self.rng);
                self.process_after(delay, node, Timer::Feed { term });
            }
        }
    }

    /// An operator's change of the record, through whoever leads.
    pub(super) fn store_wish(&mut self, change: impl FnOnce(&mut GroupRecord)) -> bool {
        if self.working_leader().is_none() {
            return false;
        }
        let Some((mut record, revision)) = self.store.record.clone() else { return false };
        change(&mut record);
        self.store.put(&record, Expect::Revision(revision));
        self.feed();
        true
    }

    /// Elections.
    pub(super) fn store_tick(&mut self) {
        self.after(50, Event::StoreTick);
        if self.working_leader().is_some() {
            self.store.leaderless_since = None;
            return;
        }
        let since = *self.store.leaderless_since.get_or_insert(self.now);
        if since == self.now {
            self.store.election_ms = self.rng.range(200, 1_200);
        }
        if self.now - since < self.store.election_ms {
            return;
        }
        let able: Vec<usize> = (0..self.voters())
            .filter(|n| self.hosts[*n].power == Power::Up && self.reaches_majority(*n))
            .collect();
        if able.is_empty() {
            return;
        }
        let elected = self.rng.pick(&able);
        self.elect(elected);
    }

    pub(super) fn elect(&mut self, node: usize) {
        if let Some(old) = self.store.leader
            && let Some(term) = self.hosts[old].office.as_ref().map(|o| o.term)
        {
            let unaware_for = self.rng.range(0, 6_000);
            self.process_after(unaware_for, old, Timer::Depose { term });
        }
        self.store.term += 1;
        self.store.leader = Some(node);
        self.store.leaderless_since = None;
        self.open_office(node);
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
