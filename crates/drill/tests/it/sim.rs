//! Thousands of seeds of the simulator, and the proof that it bites: bugs put in on purpose are found.

use holdfast_core::topology::{Durability, Engine, WhenNoSyncReplica};
use holdfast_drill::sim::{Crash, Options, Sabotage, Script, Victim, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of every run of the tests. `HOLDFAST_SEEDS=from..to` runs others.
const SEEDS: std::ops::Range<u64> = 0..10_000;
const SEEDS_IN_MEMORY: std::ops::Range<u64> = 0..3_000;
/// A sabotage must be found within so many seeds.
const SABOTAGE_SEEDS: u64 = 6_000;

fn seeds(otherwise: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let given = std::env::var("HOLDFAST_SEEDS").ok();
    let range = given.as_deref().and_then(|s| s.split_once("..")).map(|(a, b)| {
        let number = |n: &str| n.parse::<u64>().expect("HOLDFAST_SEEDS=from..to");
        number(a)..number(b)
    });
    range.unwrap_or(otherwise)
}

/// Does `work` for each number, on all cores; what it returns, in no order.
fn each<T: Send>(numbers: std::ops::Range<u64>, work: impl Fn(u64) -> Option<T> + Sync) -> Vec<T> {
    let (next, found) = (AtomicU64::new(numbers.start), Mutex::new(Vec::new()));
    let share = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= numbers.end {
                break;
            }
            if let Some(it) = work(n) {
                found.lock().expect("nothing panics while it is held").push(it);
            }
        }
    };
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            threads.spawn(share);
        }
    });
    found.into_inner().expect("nothing panics while it is held")
}

#[test]
fn seeds_hold() {
    hold(Engine::MariaDb, seeds(SEEDS));
}

#[test]
fn seeds_hold_in_memory() {
    hold(Engine::Redis, seeds(SEEDS_IN_MEMORY));
}

fn hold(engine: Engine, seeds: std::ops::Range<u64>) {
    let of = seeds.end - seeds.start;
    let (events, acknowledged) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures = each(seeds, |seed| {
        let summary = match run(&Options { engine, ..Options::seed(seed) }) {
            Ok(summary) => summary,
            Err(failure) => {
                eprintln!("seed {seed}: {}", failure.violation);
                return Some(failure);
            }
        };
        events.fetch_add(summary.events, Ordering::Relaxed);
        acknowledged.fetch_add(summary.acknowledged, Ordering::Relaxed);
        None
    });
    assert!(failures.is_empty(), "{} of {of} seeds fail; one of them:\n{}", failures.len(), failures[0]);
    let (events, acknowledged) = (events.into_inner(), acknowledged.into_inner());
    eprintln!("{of} seeds: {events} events, {acknowledged} acknowledged writes");
    assert!(acknowledged > of * 100, "clients got hardly any answer: the runs prove nothing");
}

#[test]
fn a_seed_is_a_whole_run() {
    let twice = [0, 1].map(|_| run(&Options::seed(7)).map(|s| (s.events, s.acknowledged, s.epochs)).ok());
    assert!(twice[0].is_some() && twice[0] == twice[1], "{twice:?}");
}

/// Some seed finds the bug, as a breach of one of these rules.
fn found(sabotage: Sabotage, rules: &[&str]) {
    found_in(Engine::MariaDb, sabotage, rules);
}

fn found_in(engine: Engine, sabotage: Sabotage, rules: &[&str]) {
    let bad = |seed| run(&Options { sabotage: Some(sabotage), engine, ..Options::seed(seed) }).err();
    let first = (0..SABOTAGE_SEEDS).filter_map(bad).find(|f| rules.contains(&f.violation.rule));
    let failure = first.unwrap_or_else(|| panic!("{sabotage:?} is not found in {SABOTAGE_SEEDS} seeds"));
    eprintln!("{sabotage:?} is found by seed {}: {}", failure.seed, failure.violation);
}

#[test]
fn finds_a_lease_counted_from_the_answer() {
    found(Sabotage::LeaseFromAnswer, &["S1", "S2"]);
}

#[test]
fn finds_a_primary_that_stops_waiting_unrecorded() {
    found(Sabotage::RelaxUnrecorded, &["S5", "S6"]);
}

#[test]
fn finds_a_promotion_before_the_relay_log_is_applied() {
    found(Sabotage::PromoteUndrained, &["S6", "S10"]);
}

#[test]
fn finds_a_new_controller_that_takes_old_leases_to_be_over() {
    found(Sabotage::LeasesForgotten, &["S1", "S2"]);
}

#[test]
fn finds_a_rejoin_without_comparison() {
    // The engine itself refuses to go on from a transaction that its upstream does not have, and is rebuilt.
    found(Sabotage::RejoinUncompared, &["S6", "S10"]);
}

#[test]
fn finds_a_divergence_thrown_away() {
    found(Sabotage::DivergenceUnsaved, &["S10"]);
}

#[test]
fn finds_a_holder_that_ignores_the_end_of_its_lease() {
    found(Sabotage::LeaseEndIgnored, &["S1", "S2"]);
}

#[test]
fn finds_a_replica_that_acknowledges_unread() {
    found(Sabotage::AcknowledgedUnread, &["S6"]);
}

#[test]
fn a_mark_that_outlives_what_it_stands_for_is_found() {
    found(Sabotage::MarkOutlivesLoss, &["S6"]);
}

#[test]
fn finds_an_agent_that_takes_itself_for_its_former_life() {
    found(Sabotage::SessionReused, &["S1", "S5", "S6", "S10"]);
}

#[test]
fn finds_transaction_numbers_given_out_twice() {
    found(Sabotage::NumbersReused, &["S6", "S10"]);
}

#[test]
fn finds_a_voter_that_forgets_its_vote() {
    found(Sabotage::VoteForgotten, &["store", "S1", "S2"]);
}

#[test]
fn finds_a_voter_that_returns_without_its_directory() {
    found(Sabotage::LostVoterReturns, &["store", "S1", "S2"]);
}

#[test]
fn finds_a_divergence_that_is_tie_broken() {
    found(Sabotage::TieBroken, &["S6", "S10"]);
}

#[test]
fn finds_a_cool_down_that_nobody_reads() {
    found(Sabotage::CoolDownForgotten, &["S12"]);
}

#[test]
fn finds_a_vouch_that_a_restart_forgets() {
    found(Sabotage::VouchForgotten, &["S14", "S1"]);
}

#[test]
fn finds_a_primary_that_one_vouch_is_enough_for() {
    found(Sabotage::VouchedByOne, &["S2", "S1"]);
}

#[test]
fn finds_a_member_that_follows_a_later_release() {
    found(Sabotage::OlderFollows, &["releases"]);
}

#[test]
fn finds_a_primary_in_memory_that_admits_anybody() {
    found_in(Engine::Redis, Sabotage::AdmitsAnybody, &["S5", "S6"]);
}

#[test]
fn finds_a_restart_in_memory_that_is_trusted() {
    found_in(Engine::Redis, Sabotage::RestartTrusted, &["S6"]);
}

#[test]
fn finds_proxies_that_are_taken_to_wait_too_early() {
    found_in(Engine::Redis, Sabotage::RoutesTurnedAtOnce, &["S5", "S6"]);
}

/// Every prefix of every plan: a course of events that makes all kinds of plans, and at each moment of it, one run in
/// which the controller, its host, the agent or the engine of that moment goes down.
fn survives_at_every_moment(durability: Durability, when_no_sync_replica: WhenNoSyncReplica, members: usize) {
    engine_survives_at_every_moment(Engine::MariaDb, durability, when_no_sync_replica, members);
}

fn engine_survives_at_every_moment(
    engine: Engine,
    durability: Durability,
    when_no_sync_replica: WhenNoSyncReplica,
    members: usize,
) {
    let script = |crash| Script { durability, when_no_sync_replica, members, crash };
    let options =
        |crash| Options { script: Some(script(crash)), engine, faults_ms: 42_000, ..Options::seed(1) };
    let whole = run(&options(None)).unwrap_or_else(|f| panic!("the course itself fails:\n{f}"));
    let sync = durability == Durability::Sync;
    let degrades = sync && when_no_sync_replica == WhenNoSyncReplica::Degrade;
    let kinds = [
        ("bootstrap", true),
        ("claim", true),
        ("promote", true),
        ("switchover", true),
        ("sync-set", sync),
        ("degrade", degrades),
        ("restore", sync),
        ("restart", engine == Engine::MariaDb), // the others cannot be upgraded yet
        ("wish", true),
    ];
    for (kind, expected) in kinds {
        let there = whole.kinds.iter().any(|k| k == kind);
        assert!(there || !expected, "the course makes no plan of kind {kind}: {:?}", whole.kinds);
    }
    let mut victims = vec![Victim::Controller, Victim::ControllersHost, Victim::Agent, Victim::Engine];
    if members > 2 {
        victims.push(Victim::Host); // with two, nobody would be left to wait for
    }
    let each_of = victims.len() as u64;
    let failures = each(0..whole.moments * each_of, |n| {
        let crash = Crash { at: n / each_of + 1, victim: victims[(n % each_of) as usize] };
        run(&options(Some(crash))).err().map(|failure| (crash, failure))
    });
    for (crash, failure) in &failures {
        eprintln!("{crash:?}: {}", failure.violation);
    }
    let first = failures.first().map(|(crash, f)| format!("{crash:?}:\n{f}")).unwrap_or_default();
    assert!(
        failures.is_empty(),
        "{} of {} crashes fail; the first: {first}",
        failures.len(),
        whole.moments * 4
    );
    eprintln!("{durability:?}, {members} members: {} moments, {:?}", whole.moments, whole.kinds);
}

#[test]
fn a_crash_after_any_step_is_survived_sync() {
    survives_at_every_moment(Durability::Sync, WhenNoSyncReplica::Degrade, 3);
    survives_at_every_moment(Durability::Sync, WhenNoSyncReplica::Block, 3);
}

#[test]
fn a_crash_after_any_step_is_survived_by_two_members() {
    survives_at_every_moment(Durability::Sync, WhenNoSyncReplica::Degrade, 2);
    survives_at_every_moment(Durability::Async, WhenNoSyncReplica::Degrade, 2);
}

#[test]
fn a_crash_after_any_step_is_survived_async() {
    survives_at_every_moment(Durability::Async, WhenNoSyncReplica::Degrade, 3);
}

#[test]
fn a_crash_after_any_step_is_survived_in_memory() {
    engine_survives_at_every_moment(Engine::Redis, Durability::Sync, WhenNoSyncReplica::Degrade, 3);
    engine_survives_at_every_moment(Engine::Redis, Durability::Async, WhenNoSyncReplica::Degrade, 3);
}
