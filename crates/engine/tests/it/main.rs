//! The driver against real servers on loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

/// The same tests on each flavour.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod mariadb {
            $(#[tokio::test] async fn $test() { super::$test(holdfast_core::topology::Engine::MariaDb).await })+
        }
        mod mysql {
            $(#[tokio::test] async fn $test() { super::$test(holdfast_core::topology::Engine::MySql).await })+
        }
    };
}

mod attached;
mod bring_up;
mod clone;
mod crash;
mod log;
mod redis;
mod rig;
mod roles;
mod upgrade;
