//! A deployment drawn from a seed: how many hosts, which promises, how rough the weather, how wrong the clocks.

use super::clients::{Client, Proxy, Writes};
use super::event::Event;
use super::{
    Clock, Host, Options, Power, Sim, engine, faults, invariants, memory, moments, net, raft, rng::Rng, store,
};
use holdfast_core::limits::{CLOCK_DRIFT_MS, LEASE_MS};
use holdfast_core::topology::{
    Durability, Engine, HandBack, Management, Node, PasswordSource, ReplicationUser, Service, Strategy,
    Topology, WhenNoSyncReplica,
};
use holdfast_core::{GroupName, NodeName, RegionName, UserName, ZoneName};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

fn name<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().expect("a valid name")
}

/// Hosts, members of the group, voters of the store.
const SHAPES: [(usize, usize, usize); 12] = [
    (3, 3, 3),
    (3, 3, 3),
    (3, 3, 3),
    (4, 4, 3),
    (3, 2, 3),
    (4, 3, 3),
    (5, 5, 3),
    (5, 5, 5),
    (5, 2, 5),
    (2, 2, 1),
    (3, 3, 1),
    (5, 4, 3),
];

fn topology(rng: &mut Rng, (hosts, members, voters): (usize, usize, usize)) -> Topology {
    let names: Vec<NodeName> = (0..hosts).map(|n| name(&format!("n{}", n + 1))).collect();
    // The last ones may be far away.
    let near = if hosts > 3 && rng.percent(30) { 3 } else { hosts };
    let cross_region_failover = near < hosts && rng.percent(40);
    let nodes = names.iter().enumerate().map(|(i, n)| Node {
        name: n.clone(),
        id: i as u32 + 1,
        region: name::<RegionName>(if i < near { "here" } else { "far" }),
        zone: name::<ZoneName>(["a", "b", "c"][i % 3]),
        address: [10, 0, 0, i as u8 + 1].into(),
        voter: i < voters,
        data_dir: "/data".into(),
    });
    let service = Service {
        name: name::<GroupName>("shop"),
        engine: Engine::MariaDb,
        programs: None,
        strategy: Strategy::HotStandby,
        durability: if rng.percent(65) { Durability::Sync } else { Durability::Async },
        sync_replicas: rng.range(1, (members as u64 - 1).min(2)) as usize,
        when_no_sync_replica: match rng.percent(50) {
            true => WhenNoSyncReplica::Block,
            false => WhenNoSyncReplica::Degrade,
        },
        members: names[..members].to_vec(),
        engine_port: 3306,
        port: 6446,
        read_port: 6447,
        management: Management::Managed { run_as: None },
        users: Vec::new(),
        replication: ReplicationUser {
            name: name::<UserName>("repl"),
            password: PasswordSource::Env("P".into()),
        },
        hand_back: HandBack::Manual,
        hand_back_after_ms: 2_000,
        cool_down_ms: holdfast_core::limits::COOL_DOWN_MS,
        read_consistency: holdfast_core::topology::ReadConsistency::Strong,
        read_lag_ms: holdfast_core::limits::READ_LAG_MS,
        read_wait_ms: holdfast_core::limits::READ_WAIT_MS,
        cross_region_failover,
        engine_options: BTreeMap::new(),
    };
    Topology {
        name: "sim".into(),
        api_port: 7400,
        tls_dir: None,
        sentinel: None,
        backups: None,
        nodes: nodes.collect(),
        services: vec![service],
    }
}

fn host(rng: &mut Rng, number: usize, voter: bool) -> Host {
    // Two hosts differ by at most the allowance over one lease.
    let most = (CLOCK_DRIFT_MS * 1_000_000 / LEASE_MS / 2) as i64;
    Host {
        clock: Clock {
            offset: rng.range(0, 1_000_000_000),
            parts_per_million: rng.range(0, 2 * most as u64) as i64 - most,
        },
        power: Power::Down,
        life: 0,
        stalled: Vec::new(),
        resumed_at: 0,
        agent: None,
        engine: engine::Engine::new(number as u32 + 1),
        cut: Vec::new(),
        office: None,
        proxy: Proxy::default(),
        store: None,
        store_disk: voter.then(raft::Disk::empty),
        slow_disk_ms: 0,
        disk_free_at: 0,
        vouched: false,
    }
}

impl Sim {
    pub(super) fn new(opts: Options) -> Sim {
        let mut rng = Rng::new(opts.seed);
        let shape = match &opts.script {
            Some(script) => (3, script.members, 3),
            None => rng.pick(&SHAPES),
        };
        let (hosts, members, _) = shape;
        let mut topology = topology(&mut rng, shape);
        topology.services[0].engine = opts.engine;
        // Not drawn: the other seeds' courses stay what they were.
        if opts.seed % 8 == 1 && opts.script.is_none() {
            topology.services[0].hand_back = HandBack::Auto;
        }
        if let Some(script) = &opts.script {
            let service = &mut topology.services[0];
            (service.durability, service.when_no_sync_replica) =
                (script.durability, script.when_no_sync_replica);
        }
        let faults = faults::Faults::new(rng.range(1, 4) as usize, rng.range(600, 5_000));
        let operators = rng.percent(60);
        let attached = opts.script.is_none() && rng.percent(20);
        let mut sim = Sim {
            now: 0,
            queue: BinaryHeap::new(),
            queued: 0,
            events: 0,
            names: topology.nodes.iter().map(|n| n.name.clone()).collect(),
            members: (0..members).collect(),
            hosts: topology.nodes.iter().enumerate().map(|(n, node)| host(&mut rng, n, node.voter)).collect(),
            topology,
            net: net::Net::fair_weather(),
            store: store::Ledger::new(hosts),
            writes: Writes::default(),
            clients: (0..4).map(|c| Client::new(rng.below(hosts), c % 2 == 1)).collect(),
            faults,
            cuts_tail: !attached && rng.percent(60),
            attached,
            gone: None,
            next_id: 0,
            healthy_since: None,
            forced: 0,
            violation: None,
            watched: invariants::Watched::new(hosts),
            moments: moments::Moments::default(),
            story: VecDeque::new(),
            rng,
            opts,
        };
        for host in sim.hosts.iter_mut().filter(|_| attached) {
            host.engine.keeps_relay = false;
        }
        // Nor is this: a primary that waits for nobody writes faster than a replica that acknowledges can sync.
        let slow = sim.opts.seed % 8 == 2;
        sim.hosts.iter_mut().filter(|_| slow).for_each(|host| host.engine.sync_rate = 1);
        if sim.in_memory() {
            sim.cuts_tail = false;
            let keeps = sim.rng.percent(50);
            for host in &mut sim.hosts {
                host.engine.memory = Some(memory::Memory::new(keeps));
            }
        }
        sim.begin_run(operators);
        sim
    }

    fn begin_run(&mut self, operators: bool) {
        for node in 0..self.hosts.len() {
            self.process_up(node);
        }
        for node in self.members.clone() {
            self.after(node as u64, Event::EngineTick { node });
        }
        for client in 0..self.clients.len() {
            self.after(1_000, Event::ClientTick { client });
        }
        if self.opts.script.is_some() {
            self.scenes();
            self.at(self.opts.faults_ms + 1, Event::Operator);
            self.at(self.opts.faults_ms, Event::FaultsOff);
            return;
        }
        let calm = self.rng.range(0, 6_000);
        self.after(calm, Event::Fault);
        if operators {
            self.after(4_000, Event::Operator);
        } else {
            self.at(self.opts.faults_ms + 1, Event::Operator);
        }
        self.at(self.opts.faults_ms, Event::FaultsOff);
        super::tell!(self, "{:?}", self.topology.services[0]);
    }
}
