//! Sans-IO codecs for the protocols Holdfast speaks: MySQL packets, login, replies, and where a reply ends; binary logs
//! and both sides of fetching one; RESP ([`resp`]); the stream of a backup.
//!
//! Guarantees: functions of bytes only, no allocation that a peer's length field can blow up, no panic on any input
//! (a fuzz target stands beside each parser).
//! Deliberately absent: sockets, clocks, tokio, and any opinion about what to do with what was read.

pub mod binlog;
pub mod caching_sha2;
pub mod codec;
pub mod command;
pub mod dump;
pub mod flags;
pub mod greeting;
pub mod login;
pub mod native_password;
pub mod packet;
pub mod primary;
pub mod prover;
pub mod reply;
pub mod resp;
pub mod session_track;
pub mod tracker;
pub mod xbstream;

pub use codec::Error;
pub use flags::{Capabilities, Status};
