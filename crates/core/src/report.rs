//! What an agent says about an instance. Facts only; what they mean is decided elsewhere.

use crate::record::{Life, Session};
use crate::{Epoch, GroupName, Millis, NodeName, Position, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The engine's process, as its own agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Process {
    /// Not started yet, or being started.
    Starting,
    Running,
    /// Runs but does not answer in time.
    Unresponsive,
    /// Ended; the agent will not let it write again in an epoch it led.
    Exited {
        how: String,
    },
    /// Could not be started; the engine's own words.
    Refuses {
        why: String,
    },
}

/// The replication stream into an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Not receiving, and not trying to.
    Off,
    /// Receiving: something came within `limits::STREAM_SILENT_AFTER_MS`.
    Up,
    /// Wants to receive but does not; the engine's own words.
    Broken { why: String },
    /// Receives all data anew: what it had will be replaced as a whole.
    Copying {
        received_bytes: u64,
        /// Of how many; 0 where that is not known.
        data_bytes: u64,
    },
    /// Does not receive and never will from there: the upstream has purged what comes next, or does not know what this
    /// instance has. Trying again does not help.
    Refused { why: String },
}

impl Stream {
    /// Receives, or tries to.
    pub fn tries(&self) -> bool {
        matches!(self, Stream::Up | Stream::Broken { .. } | Stream::Copying { .. })
    }
}

/// Where an instance replicates from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// `None`: an address that is no member's.
    pub node: Option<NodeName>,
    pub stream: Stream,
    /// The applying half; `Some` is why it stopped.
    pub apply_error: Option<String>,
    pub lag_ms: Option<u64>,
}

/// Writes that only a returning member had (S10). Saved before anything was discarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    pub transactions: u64,
    /// What is counted.
    #[serde(default = "transactions")]
    pub unit: String,
    pub file: String,
    /// In which epoch they were found.
    pub epoch: Epoch,
    /// All of them are in the file. Not so where the log that held them was purged, or came with a clone.
    #[serde(default = "complete")]
    pub complete: bool,
}

fn transactions() -> String {
    "transactions".into()
}

fn complete() -> bool {
    true
}

/// What an agent sees of its engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// When this look at the engine began, on the agent's own clock. An agent that is busy, or whose engine does not
    /// answer, reports what it saw last: two reports with one look say no more than one.
    #[serde(default)]
    pub at: Millis,
    pub process: Process,
    pub version: String,
    /// The engine's own switch.
    pub writable: bool,
    /// Received ∪ applied. `None`: unknown (not running).
    pub received: Option<Position>,
    pub applied: Option<Position>,
    /// All that was received is applied.
    pub drained: bool,
    pub upstream: Option<Upstream>,
    /// Acknowledges to its upstream on the present connection.
    pub acknowledges: bool,
    /// Primary: waits for an acknowledgement before it answers a commit. Where that is the proxies' part: all that could
    /// still send it a write do.
    pub waits_for_ack: bool,
    /// Primary: replicas connected that may be acknowledging; nobody else is.
    pub ackers: BTreeSet<NodeName>,
    /// Members that may connect as replicas. `None`: the engine makes no difference.
    #[serde(default)]
    pub admits: Option<BTreeSet<NodeName>>,
    pub connections: u32,
    /// Nothing that this instance ever acknowledged is missing, by a mark on its own disk: it was intact, and no start
    /// since then lost anything that had been received.
    #[serde(default)]
    pub retained: bool,
    /// Transactions that the last start rolled back as never acknowledged, set aside until they are compared (S10).
    pub unjudged: u64,
    /// Settings with which a promise does not hold, each said in full.
    pub unsafe_settings: Vec<String>,
    pub free_disk_bytes: Option<u64>,
}

impl Observed {
    /// Nothing is known but the state of the process.
    pub fn only(process: Process) -> Observed {
        Observed {
            at: Millis(0),
            process,
            version: String::new(),
            writable: false,
            received: None,
            applied: None,
            drained: false,
            upstream: None,
            acknowledges: false,
            waits_for_ack: false,
            ackers: BTreeSet::new(),
            admits: None,
            connections: 0,
            retained: false,
            unjudged: 0,
            unsafe_settings: Vec::new(),
            free_disk_bytes: None,
        }
    }
    pub fn running(&self) -> bool {
        self.process == Process::Running
    }
    /// Receives, or tries to.
    pub fn receives(&self) -> bool {
        self.upstream.as_ref().is_some_and(|u| u.stream.tries())
    }
    pub fn ended(&self) -> bool {
        matches!(self.process, Process::Exited { .. } | Process::Refuses { .. })
    }
}

/// One instance in one report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    pub group: GroupName,
    pub session: Session,
    /// When it was taken, on the agent's own clock: of two reports of one session the later one counts, in whatever
    /// order they arrive.
    #[serde(default)]
    pub taken: Millis,
    /// The agent acts on no assignment of an epoch before this one (a promise; only grows in one session).
    pub promised: Epoch,
    /// Revision of the assignment that the agent acts on; nothing older is acted on any more. 0 if none.
    #[serde(default)]
    pub held: u64,
    /// Revision of the assignment that this instance fits by now; 0 if none.
    pub settled: u64,
    /// The epoch this instance is open for writes in.
    pub leads: Option<Epoch>,
    /// It closed in this epoch and opens for no epoch up to it again.
    #[serde(default)]
    pub gave_up: Option<Epoch>,
    pub seen: Observed,
    /// A long job and its progress, for people.
    pub activity: Option<String>,
    /// The last failure that keeps it from fitting its assignment, for people.
    pub trouble: Option<String>,
    pub lost: Option<Lost>,
    /// `received` contains everything this instance ever acknowledged. After its process ended that is not known, unless
    /// its disk says so, until it has caught up with its primary.
    #[serde(default)]
    pub intact: bool,
    /// It is fit to follow the primary it was told of, and waits to be recorded before it does.
    #[serde(default)]
    pub ready: bool,
    /// The present life of the process, or the last one.
    #[serde(default)]
    pub life: Life,
    /// The version of the programs that this host would start the engine with now. `None`: not known yet.
    #[serde(default)]
    pub installed: Option<String>,
    /// The session for whose `reinit` wish this instance was rebuilt, if it was.
    pub rebuilt_for: Option<Session>,
}

impl InstanceReport {
    /// True if the instance is closed and its agent will not open it for an epoch before `epoch`: it has promised so, or
    /// was open in the epoch before and gave that up. That a process ended is not enough: one that was named and had not
    /// opened yet may be started again, and open.
    pub fn closed_for(&self, epoch: Epoch) -> bool {
        let never_again = self.promised >= epoch || self.gave_up.is_some_and(|e| e.next() >= epoch);
        self.leads.is_none() && self.seen_closed() && never_again
    }
    /// The engine said that it takes no writes. One that does not answer says nothing (S11).
    pub fn seen_closed(&self) -> bool {
        self.running() && !self.seen.writable || self.seen.ended()
    }
    /// True if the agent promised `epoch` and nothing more is received from the epochs before.
    pub fn halted_for(&self, epoch: Epoch) -> bool {
        self.promised >= epoch
            && !self.seen.receives()
            && self.leads.is_none()
            && matches!(self.seen.process, Process::Running | Process::Exited { .. })
    }
    pub fn running(&self) -> bool {
        self.seen.running()
    }
    /// Says that it does not acknowledge and, acting on `revision` of the record, will not. An engine that does not
    /// answer says nothing (S11).
    pub fn quit_acknowledging(&self, revision: u64) -> bool {
        self.running() && !self.seen.acknowledges && self.held >= revision
    }
    /// What it says of its engine is not old: one that does not answer neither receives nor has stopped (S11).
    pub fn looked(&self) -> bool {
        self.taken.since(self.seen.at) < limits::STREAM_SILENT_AFTER_MS
    }
    /// Is being given all data of `primary` anew, to follow it then.
    pub fn copies(&self, primary: &NodeName) -> bool {
        self.running()
            && self.seen.upstream.as_ref().is_some_and(|u| {
                u.node.as_ref() == Some(primary) && matches!(u.stream, Stream::Copying { .. })
            })
    }
    /// Nothing more can be written on its disk, nor what it receives.
    pub fn is_full(&self) -> bool {
        self.seen.free_disk_bytes.is_some_and(|bytes| bytes < limits::DISK_FULL_BYTES)
    }
    /// Replicating from `primary` without a fault. On a full disk it may look so, and keeps and acknowledges nothing.
    pub fn follows(&self, primary: &NodeName) -> bool {
        self.running()
            && !self.is_full()
            && self.seen.upstream.as_ref().is_some_and(|u| {
                u.node.as_ref() == Some(primary) && u.stream == Stream::Up && u.apply_error.is_none()
            })
    }
}
