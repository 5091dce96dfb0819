//! The proxy: listeners, routing, holding, re-homing. Knows neither store nor engine.
//!
//! Guarantees: one engine connection per client session, and under a read consistency other than strong a second one, for
//! its plain reads; bytes stream through untouched, but for statement ids and session-tracking data that a MySQL client did
//! not ask for, and what asks a Redis primary for its replicas; no write passes a gate that is not open (S1, S3); a
//! statement whose outcome is unknown is never sent again (S13).
//! Deliberately absent: the store, the engine driver, the control plane. The proxy is handed immutable snapshots and
//! lives on with the last one; when it outlives its validity, writes are held.
//! MySQL's KILL: clients are given ids from 2^31 up; a `KILL` of such an id is carried to the engine that the session is
//! connected to, under the engine's own id. Smaller numbers (`CONNECTION_ID()`, the process list) are the engine's
//! own, and mean on its server what they mean there.
//! An engine connection that breaks while its session is idle (server gone, `wait_timeout`, a KILL by other ways than
//! this proxy) looks the same from here: the session is moved with its next command, or told what it lost.

mod buffer;
mod client;
mod engine_stream;
mod gate;
mod hold;
mod mysql;
mod readers;
mod resp;
pub mod sentinel;
mod service;
mod shared;

pub use gate::Routing;
pub use holdfast_core::secret::Password;
pub use service::{Error, Handle, Limits, LocalEngine, Options, Route, Service};
pub use shared::Stats;
