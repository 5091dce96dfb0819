//! The network between hosts: two planes (control messages; replication and clients), each link in each direction
//! up or blocked, with delays, loss and duplication. Deliberately absent: what is sent.

use super::rng::Rng;

/// What a link carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// Reports, assignments, votes of the store, questions between agents, routes.
    Control,
    /// Replication, clones, client connections.
    Data,
}

/// Hosts in a run, at most.
pub const HOSTS_MAX: usize = 5;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Net {
    /// How many faults block the link now.
    blocked: [[[u8; HOSTS_MAX]; HOSTS_MAX]; 2],
    /// Extra delay of a slow network.
    pub slow_ms: u64,
    pub loss_percent: u64,
    pub twice_percent: u64,
}

impl Net {
    /// What a network does on a good day.
    pub fn fair_weather() -> Net {
        Net { loss_percent: 1, twice_percent: 4, ..Net::default() }
    }

    pub fn up(&self, plane: Plane, from: usize, to: usize) -> bool {
        from == to || self.blocked[plane as usize][from][to] == 0
    }

    /// A connection needs both directions.
    pub fn both(&self, plane: Plane, a: usize, b: usize) -> bool {
        self.up(plane, a, b) && self.up(plane, b, a)
    }

    pub fn block(&mut self, plane: Plane, from: usize, to: usize) {
        self.blocked[plane as usize][from][to] += 1;
    }

    pub fn unblock(&mut self, plane: Plane, from: usize, to: usize) {
        let count = &mut self.blocked[plane as usize][from][to];
        *count = count.saturating_sub(1);
    }

    pub fn heal(&mut self) {
        *self = Net::fair_weather();
    }

    pub fn delay_ms(&self, rng: &mut Rng) -> u64 {
        let base = rng.range(1, 4);
        if self.slow_ms == 0 { base } else { base + rng.range(0, self.slow_ms) }
    }
}
