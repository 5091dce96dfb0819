//! Proof: seeded simulator, testbed of real processes, fault injection, checkers.

pub mod client;
pub mod deployment;
pub mod direct;
pub mod disk;
pub mod drills;
pub mod fault;
pub mod ground;
pub mod judge;
pub mod ledger;
pub mod mutual;
pub mod operator;
pub mod random;
pub mod registers;
pub mod sandbox;
pub mod sim;
pub mod soak;
pub mod staging;
