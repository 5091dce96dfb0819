//! Proof: seeded simulator, testbed of real processes, fault injection, checkers.

pub mod drills;
pub mod ledger;
pub mod sandbox;
pub mod sim;
