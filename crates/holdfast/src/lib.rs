//! The binary's parts: the only crate that knows HTTP, TOML and terminals. Everything that decides lives in
//! `holdfast-core`; here is what reads files, listens, and runs the loops.

pub mod agent;
pub mod api;
pub mod archive;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod controller;
pub mod dev;
pub mod faults;
pub mod http;
pub mod logging;
pub mod pki;
pub mod proxies;
pub mod routes;
pub mod run;
#[macro_use]
mod say;
pub mod sentinel;
pub mod transport;
pub mod voter;
