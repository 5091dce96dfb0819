//! A seeded simulation of whole deployments: the real decider, both halves of the real protocol and the real state
//! machine of the store, over model engines, a model network and clocks that drift.
//!
//! Guarantees: a run is a function of its [`Options`]; a failure names the seed, and running it again with `trace`
//! tells the story. First a phase with faults, in which only the safety rules are checked; then the faults end and
//! the group must become healthy within [`CONVERGE_MS`].
//! Deliberately absent: real time, threads, sockets, disks, and the code of the store's own Raft (`raft.rs` is a model).

mod agent;
mod clients;
mod engine;
mod event;
mod faults;
mod invariants;
mod memory;
mod moments;
mod net;
mod office;
mod operator;
mod raft;
mod replication;
pub(crate) mod rng;
mod setup;
mod store;
mod verbs;

use event::{Event, Queued};
use holdfast_core::topology::{self, Durability, Service, Topology};
use holdfast_core::{Millis, NodeName};
pub use invariants::Violation;
pub use moments::{Crash, Script, Victim};
use rng::Rng;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// The group must be healthy this long after the last fault: a cool-down, a lease, and some rebuilding.
pub const CONVERGE_MS: u64 = 120_000;
/// The operator gives up waiting for a group that says it is blocked, and accepts loss (async only).
const OPERATOR_PATIENCE_MS: u64 = 75_000;
/// Lines of the story that a failure keeps.
const TRACE_LINES: usize = 400;

/// A bug put in on purpose, in the simulated host, to see that the invariants find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// S2: the lease is counted from the answer, not from the question.
    LeaseFromAnswer,
    /// S5: the primary stops waiting for acknowledgements by itself when nobody is connected.
    RelaxUnrecorded,
    /// S7: the host says that everything received is applied when it is not.
    PromoteUndrained,
    /// A restarted agent takes itself for its former life.
    SessionReused,
    /// S2: a new controller takes leases from before its time to be over.
    LeasesForgotten,
    /// S10: a returning member's history is said to fit without looking.
    RejoinUncompared,
    /// S10: what only a returning member has is thrown away without saving it.
    DivergenceUnsaved,
    /// S2: the holder goes on when its lease is over.
    LeaseEndIgnored,
    /// Semi-sync: a replica acknowledges what it has not received.
    AcknowledgedUnread,
    /// S6: the mark that nothing acknowledged is missing outlives a crash that lost the relay log.
    MarkOutlivesLoss,
    /// A server keeps its id over epochs, so that it gives out numbers again which it gave out before a tail of its own
    /// was cut off or cloned away.
    NumbersReused,
    /// The store: a voter that restarts has forgotten whom it voted for.
    VoteForgotten,
    /// The store: a voter that lost its directory votes again under its old name.
    LostVoterReturns,
    /// S6: positions are compared by their highest number, so that no two histories diverge.
    TieBroken,
    /// S12: the record's note of the last takeover is not read.
    CoolDownForgotten,
    /// S14: a restarted agent does not wait out what its earlier life promised to another primary.
    VouchForgotten,
    /// A member follows a primary of a later release.
    OlderFollows,
    /// S14: one member's word stands for all.
    VouchedByOne,
    /// S5, in memory: a primary lets everybody follow, recorded or not.
    AdmitsAnybody,
    /// S9, in memory: a process that was started again passes for one that lost nothing.
    RestartTrusted,
    /// S5, in memory: proxies are taken to wait for replicas as soon as the record says so.
    RoutesTurnedAtOnce,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub sabotage: Option<Sabotage>,
    /// How long faults happen, in virtual ms.
    pub faults_ms: u64,
    /// Keep the story.
    pub trace: bool,
    /// A fixed course of events instead of drawn ones.
    pub script: Option<Script>,
    /// Which kind of engine; its data is in memory or not.
    pub engine: topology::Engine,
}

impl Options {
    pub fn seed(seed: u64) -> Options {
        Options {
            seed,
            sabotage: None,
            faults_ms: 30_000,
            trace: false,
            script: None,
            engine: topology::Engine::MariaDb,
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    pub acknowledged: u64,
    pub epochs: u64,
    pub events: u64,
    /// Virtual time from the end of the faults to a healthy group.
    pub converged_in_ms: u64,
    /// Times the operator had to accept loss.
    pub forced: u64,
    /// Moments at which something could have crashed, in a scripted run.
    pub moments: u64,
    /// Kinds of plans that were committed, in a scripted run.
    pub kinds: Vec<String>,
}

/// What went wrong, and how it came to it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub at_ms: u64,
    pub violation: Violation,
    pub story: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.story {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {} at {} ms: {}", self.seed, self.at_ms, self.violation)
    }
}

/// A host's monotonic clock: its own beginning, its own speed.
#[derive(Debug, Clone, Copy)]
struct Clock {
    offset: u64,
    parts_per_million: i64,
}

impl Clock {
    fn local(&self, now: u64) -> Millis {
        let drift = now as i64 * self.parts_per_million / 1_000_000;
        Millis((self.offset as i64 + now as i64 + drift) as u64)
    }
    /// When this clock will show `local`.
    fn global(&self, local: Millis) -> u64 {
        let elapsed = local.0.saturating_sub(self.offset);
        elapsed * 1_000_000 / (1_000_000 + self.parts_per_million) as u64 + 1
    }
}

/// The `holdfast run` process of a host: agent, store voter, maybe the controller, proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    Up,
    /// SIGSTOP: nothing of it runs, nothing of it is lost.
    Paused,
    Down,
}

struct Host {
    clock: Clock,
    power: Power,
    /// Counts starts of the process; also the agent's session.
    life: u64,
    /// Events of a paused process.
    stalled: Vec<Event>,
    resumed_at: u64,
    agent: Option<agent::Agent>,
    engine: engine::Engine,
    /// Cut off at the engine's last crash, to be saved at its next start.
    cut: Vec<engine::Tx>,
    office: Option<office::Office>,
    proxy: clients::Proxy,
    /// The voter, while the process runs, and what it keeps; neither where there is none.
    store: Option<store::Member>,
    store_disk: Option<raft::Disk<store::Change>>,
    slow_disk_ms: u64,
    disk_free_at: u64,
    /// On disk: the agent vouched for another primary.
    vouched: bool,
}

/// See the module.
pub struct Sim {
    opts: Options,
    now: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
    events: u64,
    rng: Rng,
    topology: Topology,
    names: Vec<NodeName>,
    /// Indices of hosts with an instance.
    members: Vec<usize>,
    hosts: Vec<Host>,
    net: net::Net,
    store: store::Ledger,
    writes: clients::Writes,
    clients: Vec<clients::Client>,
    faults: faults::Faults,
    /// Cut the tail without acknowledgement off at a restart, or keep it.
    cuts_tail: bool,
    /// Something else runs the engines: they go on when their agents end.
    attached: bool,
    /// A host that never comes back.
    gone: Option<usize>,
    next_id: u64,
    healthy_since: Option<u64>,
    forced: u64,
    violation: Option<Violation>,
    watched: invariants::Watched,
    moments: moments::Moments,
    story: VecDeque<String>,
}

macro_rules! tell {
    ($sim:expr, $($arg:tt)*) => {
        if $sim.opts.trace {
            let line = format!("{:>7} {}", $sim.now, format_args!($($arg)*));
            $sim.tell(line);
        }
    };
}
pub(crate) use tell;

/// Runs a seed; on a failure runs it again to tell the story.
pub fn run(opts: &Options) -> Result<Summary, Box<Failure>> {
    Sim::new(opts.clone()).play().map_err(|failure| {
        let again = Options { trace: true, ..opts.clone() };
        if opts.trace {
            failure
        } else {
            Sim::new(again).play().expect_err("a run is a function of its options")
        }
    })
}

impl Sim {
    fn tell(&mut self, line: String) {
        if self.story.len() == TRACE_LINES {
            self.story.pop_front();
        }
        self.story.push_back(line);
    }

    fn service(&self) -> &Service {
        &self.topology.services[0]
    }
    fn sync(&self) -> bool {
        self.service().durability == Durability::Sync
    }
    fn sabotaged(&self, s: Sabotage) -> bool {
        self.opts.sabotage == Some(s)
    }
    fn local(&self, node: usize) -> Millis {
        self.hosts[node].clock.local(self.now)
    }
    fn host_of(&self, name: &NodeName) -> usize {
        self.names.iter().position(|n| n == name).expect("only names of the topology go around")
    }
    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn at(&mut self, time: u64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse(Queued { at: time.max(self.now), order: self.queued, event }));
    }
    fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now + ms, event);
    }

    fn violate(&mut self, violation: Violation) {
        tell!(self, "VIOLATION {violation}");
        self.violation.get_or_insert(violation);
    }

    fn play(mut self) -> Result<Summary, Box<Failure>> {
        let deadline = self.opts.faults_ms + CONVERGE_MS;
        while let Some(Reverse(next)) = self.queue.pop() {
            self.now = next.at;
            self.events += 1;
            self.handle(next.event);
            if self.violation.is_none() && self.now > deadline {
                let says = invariants::liveness::what_is_missing(&self);
                self.violate(Violation::new("liveness", says));
            }
            if let Some(violation) = self.violation.take() {
                let story = self.story.into_iter().collect();
                return Err(Box::new(Failure { seed: self.opts.seed, at_ms: self.now, violation, story }));
            }
            if self.healthy_since.is_some_and(|t| self.now > t + 2_000) {
                break;
            }
        }
        if let Err(violation) = invariants::at_the_end(&self) {
            let story = self.story.into_iter().collect();
            return Err(Box::new(Failure { seed: self.opts.seed, at_ms: self.now, violation, story }));
        }
        Ok(Summary {
            acknowledged: self.writes.acknowledged(),
            epochs: self.store.record().map_or(0, |(r, _)| r.epoch.0),
            events: self.events,
            converged_in_ms: self.now.saturating_sub(self.opts.faults_ms + 2_000),
            forced: self.forced,
            moments: self.moments.passed,
            kinds: self.moments.kinds.into_iter().collect(),
        })
    }
}

/// Positions as those see them who compare only the highest number of a domain.
fn blur(report: &mut holdfast_core::report::InstanceReport) {
    let highest = |p: &holdfast_core::Position| {
        let holdfast_core::Position::MariaDb(p) = p else { return p.clone() };
        let last = p.iter().map(|(_, _, n)| n).max().unwrap_or(0);
        holdfast_core::Position::mariadb(&format!("0-1-{last}")).expect("a GTID as MariaDB writes it")
    };
    report.seen.received = report.seen.received.as_ref().map(highest);
    report.seen.applied = report.seen.applied.as_ref().map(highest);
}
