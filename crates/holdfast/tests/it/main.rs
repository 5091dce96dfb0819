//! The tests of the `holdfast` crate, in one binary.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod archive;
mod backup;
mod config;
mod consistency;
mod direct;
mod mutual;
mod net;
mod office;
#[path = "../../../backup/tests/it/s3_server.rs"]
mod s3_server;
mod scheduled;
mod sentinel;
mod stage;
mod staging;
mod survive;
mod system;
mod upgrade;
