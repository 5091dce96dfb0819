//! The driver against real servers on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attached;
mod bring_up;
mod clone;
mod crash;
mod rig;
mod roles;
