//! Thousands of seeds of the simulator, and the proof that it bites: bugs put in on purpose are found.

use holdfast_drill::sim::{Options, Sabotage, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of every run of the tests. `HOLDFAST_SEEDS=from..to` runs others.
const SEEDS: std::ops::Range<u64> = 0..10_000;
/// A sabotage must be found within so many seeds.
const SABOTAGE_SEEDS: u64 = 1_500;

fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("HOLDFAST_SEEDS").ok();
    let range = given.as_deref().and_then(|s| s.split_once("..")).map(|(a, b)| {
        let number = |n: &str| n.parse::<u64>().expect("HOLDFAST_SEEDS=from..to");
        number(a)..number(b)
    });
    range.unwrap_or(SEEDS)
}

#[test]
fn seeds_hold() {
    let seeds = seeds();
    let (next, failures) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let (events, acknowledged) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            match run(&Options::seed(seed)) {
                Ok(summary) => {
                    events.fetch_add(summary.events, Ordering::Relaxed);
                    acknowledged.fetch_add(summary.acknowledged, Ordering::Relaxed);
                }
                Err(failure) => failures.lock().unwrap().push(failure),
            }
        }
    };
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            threads.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    for failure in &failures {
        eprintln!("seed {}: {}", failure.seed, failure.violation);
    }
    let of = seeds.end - seeds.start;
    assert!(failures.is_empty(), "{} of {of} seeds fail; the first:\n{}", failures.len(), failures[0]);
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
    let bad = |seed| run(&Options { sabotage: Some(sabotage), ..Options::seed(seed) }).err();
    let first = (0..SABOTAGE_SEEDS).filter_map(bad).find(|f| rules.contains(&f.violation.rule));
    let failure = first.unwrap_or_else(|| panic!("{sabotage:?} is not found in {SABOTAGE_SEEDS} seeds"));
    eprintln!("{sabotage:?} is found by seed {}: {}", failure.seed, failure.violation);
}

#[test]
fn finds_a_lease_counted_from_the_answer() {
    found(Sabotage::LeaseFromAnswer, &["S1"]);
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
    found(Sabotage::LeasesForgotten, &["S1"]);
}

#[test]
fn finds_a_rejoin_without_comparison() {
    // The engine itself refuses to go on from a transaction that its upstream does not have.
    found(Sabotage::RejoinUncompared, &["S6", "S10", "liveness"]);
}

#[test]
fn finds_a_divergence_thrown_away() {
    found(Sabotage::DivergenceUnsaved, &["S10"]);
}

#[test]
fn finds_a_holder_that_ignores_the_end_of_its_lease() {
    found(Sabotage::LeaseEndIgnored, &["S1"]);
}

#[test]
fn finds_a_replica_that_acknowledges_unread() {
    found(Sabotage::AcknowledgedUnread, &["S6"]);
}

#[test]
fn finds_an_agent_that_takes_itself_for_its_former_life() {
    found(Sabotage::SessionReused, &["S1", "S5", "S6", "S10"]);
}

#[test]
fn finds_transaction_numbers_given_out_twice() {
    found(Sabotage::NumbersReused, &["S6", "S10"]);
}
