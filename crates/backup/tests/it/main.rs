//! The repository as its users see it: on a directory, and on a storage in memory that fails, dies or interleaves as a
//! test wants.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_days;
mod bucket;
mod concurrent;
mod logs;
mod memory;
mod python;
mod retained;
mod round_trip;
mod s3_server;
mod scene;
