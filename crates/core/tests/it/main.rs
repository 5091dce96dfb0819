//! The decider, row by row: what it makes of a world, as text that reads as documentation.

mod choosing;
mod failover;
mod hand_back;
mod member;
mod remembers;
mod returning;
mod scene;
mod schedule;
mod seat;
mod sync_set;
mod upgrade;
mod wishes;
