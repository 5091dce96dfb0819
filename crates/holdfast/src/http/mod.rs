//! HTTP between hosts and for people: the accept loop, who a peer is and what it may do, the one shape of errors,
//! and the client.
//!
//! Guarantees: without certificates nothing but a loopback address is listened on; with them every peer is either a
//! node (its certificate was verified) or somebody with a token or without one. Every connection, head, body and
//! wait has a limit. Deliberately absent: routes and what they mean (`api`).

mod access;
mod client;
mod problem;
mod server;

pub use access::{Access, Denied, Guard, Guarded, Identity, Peer, Role};
pub use client::{Body, Client, Error, Options as ClientOptions, Target};
pub use problem::{NOT_LEADER, Problem, UNKNOWN_SESSION};
pub use server::{Error as ServerError, Options as ServerOptions, Server};
