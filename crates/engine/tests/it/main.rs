//! The driver against real servers on loopback.

mod attached;
mod bring_up;
mod clone;
mod crash;
mod rig;
mod roles;
