//! Proof: seeded simulator, testbed of real processes, fault injection, checkers.

pub mod sim;
