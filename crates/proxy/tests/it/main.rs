//! The proxy in front of real servers: MariaDB, MySQL; Redis in `resp`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bounds;
mod client;
mod commands;
mod cut;
mod engine;
mod front;
mod group;
mod hold;
mod lexers;
mod local;
mod login;
mod mysql;
mod reads;
mod rehome;
mod resp;
mod split;
