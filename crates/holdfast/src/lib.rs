//! The binary's parts: the only crate that knows HTTP, TOML and terminals. Everything that decides lives in
//! `holdfast-core`; here is what reads files, listens, and runs the loops.

pub mod config;
pub mod http;
pub mod pki;
