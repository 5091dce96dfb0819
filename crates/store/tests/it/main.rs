//! The store's tests: the state machine against a naive model, three voters in one process
//! over links that can be cut, damaged and full disks, and a process killed while it writes.

#![allow(clippy::unwrap_used)]

mod cluster;
mod files;
mod founding;
mod harness;
mod killed;
mod leases;
mod state;
