//! The proxy in front of real Redis servers.

mod bounds;
mod client;
mod commands;
mod cut;
mod durable;
mod engine;
mod hold;
mod login;
mod messages;
mod reads;
mod rehome;
mod sentinel;
mod split;

use crate::front::Front;
use client::Client;
use engine::{PASSWORD, Redis, USER};
use holdfast_core::topology::Engine;
use holdfast_core::{Gate, UserName};
use holdfast_proxy::{Limits, Options, Password};

fn for_redis(options: &mut Options) {
    options.engine = Engine::Redis;
    options.users = vec![(UserName::new(USER).unwrap(), Password::new(PASSWORD))];
}

/// A proxy whose gate is open to `redis` under epoch 1.
async fn front(redis: &Redis) -> Front {
    front_with(redis, |_| ()).await
}

async fn front_with(redis: &Redis, change: impl FnOnce(&mut Options)) -> Front {
    let front = Front::start_with(|options| {
        for_redis(options);
        change(options);
    })
    .await;
    open(&front, 1, redis);
    front
}

/// The gate is open to `redis` under `epoch`.
fn open(front: &Front, epoch: u64, redis: &Redis) {
    front.route(epoch, Gate::Open, Some(redis.endpoint("a")), vec![], 600_000);
}

fn short_hold(options: &mut Options) {
    options.limits = Limits { hold_ms: 700, ..Limits::default() };
}
