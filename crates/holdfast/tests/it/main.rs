//! The tests of the `holdfast` crate, in one binary.

mod config;
mod net;
mod system;
