//! A world in a few words: a healthy group of three, and what is changed about it.
#![allow(clippy::unwrap_used)] // clippy takes only #[test] functions for tests

use holdfast_core::decide::{Verdict, decide, diagnose};
use holdfast_core::record::{
    Acker, Assurance, Claim, ClaimKind, GroupRecord, Incumbent, Life, Session, Stage,
};
use holdfast_core::report::{InstanceReport, Observed, Process, Stream, Upstream};
use holdfast_core::topology::{
    Durability, Engine, HandBack, Management, Node, PasswordSource, ReplicationUser, Service, Strategy,
    Topology, WhenNoSyncReplica,
};
use holdfast_core::world::World;
use holdfast_core::{Epoch, Millis, NodeName, Position, Seen};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The scene's epoch, and the moment at which it is looked at. The record has stood for a minute.
pub const EPOCH: Epoch = Epoch(4);
pub const NOW: Millis = Millis(100_000);

/// What every member runs.
pub const VERSION: &str = "10.11.19-MariaDB";

pub fn n(number: usize) -> NodeName {
    format!("n{number}").parse().unwrap()
}

pub fn at(text: &str) -> Position {
    Position::mariadb(text).unwrap()
}

/// See the module.
pub struct Scene {
    pub now: Millis,
    pub topology: Topology,
    pub record: GroupRecord,
    pub members: BTreeMap<NodeName, Seen<InstanceReport>>,
    pub record_since: Millis,
    pub lease_renewed: Millis,
    pub absent_since: BTreeMap<NodeName, Millis>,
    pub unwell_since: BTreeMap<NodeName, Millis>,
    pub well_since: BTreeMap<NodeName, Millis>,
    pub primary_had: Option<Position>,
    pub primary_had_lately: Option<Position>,
    pub sent_back: BTreeMap<NodeName, Millis>,
    pub primary_waited: Option<Position>,
    pub absent_had: BTreeMap<NodeName, Position>,
    pub minute: Option<u16>,
    pub cool_down_until: Option<Millis>,
    pub groups_failing: usize,
    pub groups: usize,
}

fn service(durability: Durability) -> Service {
    Service {
        name: "shop".parse().unwrap(),
        engine: Engine::MariaDb,
        strategy: Strategy::HotStandby,
        durability,
        sync_replicas: 1,
        when_no_sync_replica: WhenNoSyncReplica::Block,
        members: (1..=3).map(n).collect(),
        engine_port: 3306,
        port: 6446,
        read_port: 6447,
        management: Management::Managed { run_as: None },
        programs: None,
        users: Vec::new(),
        replication: ReplicationUser {
            name: "repl".parse().unwrap(),
            password: PasswordSource::Env("P".into()),
        },
        cross_region_failover: false,
        hand_back: HandBack::Manual,
        hand_back_after_ms: holdfast_core::limits::HAND_BACK_AFTER_MS,
        cool_down_ms: holdfast_core::limits::COOL_DOWN_MS,
        read_consistency: holdfast_core::topology::ReadConsistency::Strong,
        read_lag_ms: holdfast_core::limits::READ_LAG_MS,
        read_wait_ms: holdfast_core::limits::READ_WAIT_MS,
        engine_options: BTreeMap::new(),
    }
}

fn report(seen: Observed) -> InstanceReport {
    InstanceReport {
        group: "shop".parse().unwrap(),
        session: Session(1),
        taken: Millis(1),
        promised: EPOCH,
        held: 9,
        settled: 9,
        leads: None,
        gave_up: None,
        seen,
        activity: None,
        trouble: None,
        lost: None,
        intact: true,
        ready: false,
        life: Life { session: Session(1), number: 1 },
        installed: Some(VERSION.into()),
        rebuilt_for: None,
    }
}

fn running(position: &str) -> Observed {
    Observed {
        received: Some(at(position)),
        applied: Some(at(position)),
        drained: true,
        version: VERSION.into(),
        ..Observed::only(Process::Running)
    }
}

/// n1 leads at 0-1-100, n2 and n3 follow; under `sync` n2 is the recorded sync set.
pub fn healthy(durability: Durability) -> Scene {
    let nodes = (1..=3).map(|i| Node {
        name: n(i),
        id: i as u32,
        region: "here".parse().unwrap(),
        zone: ["a", "b", "c"][i - 1].parse().unwrap(),
        address: [127, 0, 0, 10 + i as u8].into(),
        voter: true,
        data_dir: "/data".into(),
    });
    let service = service(durability);
    let mut record = GroupRecord::new(&service);
    record.epoch = EPOCH;
    record.stage =
        Stage::Led { primary: Incumbent { node: n(1), session: Session(1), process: 1, epoch: EPOCH } };
    record.assurance = Assurance::Held;
    record.floor = Some(at("0-1-50"));
    record.founded = true;
    record.plan = 7;
    let sync = durability == Durability::Sync;
    let mut primary = report(running("0-1-100"));
    primary.leads = Some(EPOCH);
    primary.seen.writable = true;
    primary.seen.waits_for_ack = sync;
    let mut scene = Scene {
        now: NOW,
        topology: Topology {
            name: "test".into(),
            api_port: 7400,
            tls_dir: None,
            sentinel: None,
            backups: None,
            nodes: nodes.collect(),
            services: vec![service],
        },
        record,
        members: BTreeMap::from([(n(1), Seen::Fresh(primary))]),
        record_since: Millis(40_000),
        lease_renewed: Millis(NOW.0 - 400),
        absent_since: BTreeMap::new(),
        unwell_since: BTreeMap::new(),
        well_since: BTreeMap::new(),
        primary_had: None,
        primary_had_lately: None,
        sent_back: BTreeMap::new(),
        primary_waited: None,
        absent_had: BTreeMap::new(),
        minute: None,
        cool_down_until: None,
        groups_failing: 0,
        groups: 1,
    };
    scene.following(2, "0-1-100").following(3, "0-1-100");
    if sync {
        scene.acker(2, Acker::Member);
    }
    scene
}

pub fn sync() -> Scene {
    healthy(Durability::Sync)
}
pub fn asynchronous() -> Scene {
    healthy(Durability::Async)
}

impl Scene {
    pub fn service(&mut self) -> &mut Service {
        &mut self.topology.services[0]
    }
    /// A member's report, to change.
    pub fn of(&mut self, node: usize) -> &mut InstanceReport {
        match self.members.get_mut(&n(node)) {
            Some(Seen::Fresh(r) | Seen::Stale { value: r, .. }) => r,
            _ => panic!("n{node} never reported"),
        }
    }
    pub fn following(&mut self, node: usize, position: &str) -> &mut Scene {
        let mut r = report(running(position));
        r.seen.upstream =
            Some(Upstream { node: Some(n(1)), stream: Stream::Up, apply_error: None, lag_ms: Some(0) });
        self.members.insert(n(node), Seen::Fresh(r));
        self
    }
    /// Halted for the epoch in force, drained.
    pub fn halted(&mut self, node: usize, position: &str) -> &mut Scene {
        let mut r = report(running(position));
        r.promised = self.record.epoch;
        self.members.insert(n(node), Seen::Fresh(r));
        self
    }
    pub fn silent(&mut self, node: usize) -> &mut Scene {
        if let Some(Seen::Fresh(value)) = self.members.remove(&n(node)) {
            self.members.insert(n(node), Seen::Stale { value, age_ms: 1_500 });
        }
        self
    }
    /// Connected to the primary and set to acknowledge, in the recorded state `state`.
    pub fn acker(&mut self, node: usize, state: Acker) -> &mut Scene {
        self.record.ackers.insert(n(node), state);
        self.connected(node)
    }
    pub fn connected(&mut self, node: usize) -> &mut Scene {
        self.of(node).seen.acknowledges = true;
        self.of(1).seen.ackers.insert(n(node));
        self
    }
    pub fn disconnected(&mut self, node: usize, for_ms: u64) -> &mut Scene {
        self.of(1).seen.ackers.remove(&n(node));
        self.absent_since.insert(n(node), Millis(NOW.0 - for_ms));
        self
    }
    pub fn stream_broken(&mut self, node: usize) -> &mut Scene {
        let upstream = self.of(node).seen.upstream.as_mut().expect("a replica");
        upstream.stream = Stream::Broken { why: "connection lost".into() };
        self.unwell_since.insert(n(node), Millis(NOW.0 - 1_500));
        self
    }
    pub fn process(&mut self, node: usize, process: Process) -> &mut Scene {
        let r = self.of(node);
        r.seen = Observed::only(process);
        let was_open = r.leads.take();
        if r.seen.ended() {
            r.gave_up = was_open;
        }
        self
    }
    pub fn restarted(&mut self, node: usize) -> &mut Scene {
        let r = self.of(node);
        (r.session, r.leads, r.seen.writable) = (Session(2), None, false);
        r.seen.ackers = BTreeSet::new();
        self
    }
    /// n1's epoch 4 is over; epoch 5 has begun without a writer.
    pub fn claimed(&mut self, kind: ClaimKind) -> &mut Scene {
        let from = Incumbent { node: n(1), session: Session(1), process: 1, epoch: EPOCH };
        self.record.epoch = EPOCH.next();
        self.record.stage =
            Stage::Claimed(Claim { kind, from: Some(from), known: Some(at("0-1-100")), accept_loss: false });
        self.record_since = Millis(NOW.0 - 300);
        self
    }
    pub fn taken_over(&mut self) -> &mut Scene {
        self.claimed(ClaimKind::Takeover { to: None })
    }
    pub fn claim(&mut self) -> &mut Claim {
        match &mut self.record.stage {
            Stage::Claimed(claim) => claim,
            _ => panic!("not claimed"),
        }
    }
    pub fn lease_over(&mut self) -> &mut Scene {
        self.lease_renewed = Millis(NOW.0 - 3_200);
        self
    }

    pub fn world(&self) -> World<'_> {
        World {
            topology: &self.topology,
            service: &self.topology.services[0],
            record: &self.record,
            revision: 9,
            now: self.now,
            record_since: self.record_since,
            lease_renewed: self.lease_renewed,
            members: self.members.clone(),
            absent_since: self.absent_since.clone(),
            unwell_since: self.unwell_since.clone(),
            well_since: self.well_since.clone(),
            primary_had: self.primary_had.clone(),
            primary_had_lately: self.primary_had_lately.clone(),
            sent_back: self.sent_back.clone(),
            primary_waited: self.primary_waited.clone(),
            absent_had: self.absent_had.clone(),
            minute: self.minute,
            cool_down_until: self.cool_down_until,
            groups_failing: self.groups_failing,
            groups: self.groups,
        }
    }

    pub fn verdict(&self) -> Verdict {
        decide(&self.world())
    }

    /// The verdict in words.
    pub fn decides(&self) -> String {
        let world = self.world();
        let Some((row, verdict)) = diagnose(&world) else { return "healthy\n".into() };
        let mut out = String::new();
        match verdict {
            Verdict::Healthy => writeln!(out, "{}: healthy", row.code).unwrap(),
            Verdict::Wait(blockers) => {
                for b in blockers {
                    writeln!(out, "{}: waits, {}: {}", row.code, b.code, b.says).unwrap();
                    b.hint.iter().for_each(|hint| writeln!(out, "  hint: {hint}").unwrap());
                }
            }
            Verdict::Act(plan) => {
                writeln!(out, "{}: {} because {}", row.code, plan.kind, plan.because).unwrap();
                plan.known_loss
                    .iter()
                    .for_each(|l| writeln!(out, "  loses at least {l} transactions").unwrap());
                writeln!(out, "  {}", in_words(&plan.record)).unwrap();
                plan.steps.iter().for_each(|s| writeln!(out, "  {} {}", s.node, s.does).unwrap());
            }
        }
        out
    }
}

fn in_words(r: &GroupRecord) -> String {
    let stage = match &r.stage {
        Stage::New => "new".to_string(),
        Stage::Claimed(c) => format!("claimed ({:?})", c.kind),
        Stage::Led { primary } => format!("led by {}", primary.node),
    };
    let ackers: Vec<String> = r.ackers.iter().map(|(n, a)| format!("{n} {a:?}")).collect();
    format!("epoch {} {stage}, ackers [{}], {:?}", r.epoch, ackers.join(", "), r.assurance)
}

/// Compares the verdict on a scene with what is expected.
pub fn check(scene: &Scene, expected: expect_test::Expect) {
    expected.assert_eq(&scene.decides());
}
