//! The HTTP API. One port per host; JSON; long-poll for what changes.
//!
//! `hosts` is spoken between hosts only (mutual TLS), `people` is what the CLI and scripts see and what the OpenAPI
//! document describes.

mod health;
pub mod hosts;
mod metrics;
pub mod openapi;
pub mod people;
pub mod server;
mod upgrade;
