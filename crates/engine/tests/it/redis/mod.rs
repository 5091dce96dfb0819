//! Redis and Valkey.

/// The same tests on each flavour.
macro_rules! on_each {
    ($($test:ident),+ $(,)?) => {
        mod redis {
            $(#[tokio::test] async fn $test() { super::$test(holdfast_core::topology::Engine::Redis).await })+
        }
        mod valkey {
            $(#[tokio::test] async fn $test() { super::$test(holdfast_core::topology::Engine::Valkey).await })+
        }
    };
}

mod attached;
mod bring_up;
mod returning;
mod rig;
mod roles;
