//! People: planned switchovers, failovers, pauses and rebuilds, at any moment. And, once the faults are over, the one
//! who accepts loss when the system says that it cannot go on without being told to.

use super::event::Event;
use super::{OPERATOR_PATIENCE_MS, Sim, invariants, tell};
use holdfast_core::record::{Mode, Session, Upgrade, Wish};

impl Sim {
    pub(super) fn operator_tick(&mut self) {
        let ms = if self.faults.on { self.rng.range(1_500, 9_000) } else { 1_000 };
        self.after(ms, Event::Operator);
        let member = self.rng.pick(&self.members);
        let name = self.names[member].clone();
        let session = Session(self.hosts[member].life);
        let to = self.rng.percent(70).then(|| name.clone());
        if !self.faults.on {
            if self.store.record().is_some_and(|(r, _)| r.mode == Mode::Paused) {
                self.wish("resume", |r| r.mode = Mode::Automatic);
            }
            self.discard_at_last();
            return self.accept_loss_at_last();
        }
        match self.rng.range(0, 13) {
            10 if !self.attached => self.install(&[member]),
            11 if !self.attached => self.install(&self.members.clone()),
            12..=13 if !self.attached => self.upgrade(),
            0..=4 => self.wish("switchover", |r| r.wish = Some(Wish::Switchover { to })),
            5..=6 => self.wish("failover", |r| r.wish = Some(Wish::Failover { to, accept_loss: false })),
            7 => self.wish("pause", |r| r.mode = Mode::Paused),
            8 => self.wish("resume", |r| r.mode = Mode::Automatic),
            _ => self.wish("reinit", |r| {
                if r.primary().is_none_or(|p| p.node != name) {
                    r.reinit.insert(name, session);
                }
            }),
        }
    }

    /// The latest release there is, and sometimes a later one.
    fn install(&mut self, nodes: &[usize]) {
        let latest = self.members.iter().map(|n| self.hosts[*n].engine.installed).max().unwrap_or(0);
        let release = latest + u32::from(self.rng.percent(60));
        for node in nodes {
            self.hosts[*node].engine.installed = release;
            tell!(self, "operator: installs release {release} on {}", self.names[*node]);
        }
    }

    /// What is left half-way is finished.
    pub(super) fn install_at_last(&mut self) {
        let latest = self.members.iter().map(|n| self.hosts[*n].engine.installed).max().unwrap_or(0);
        self.members.clone().iter().for_each(|n| self.hosts[*n].engine.installed = latest);
    }

    pub(super) fn upgrade(&mut self) {
        let replicas_only = self.rng.percent(20);
        let wish = Upgrade { replicas_only, accept_no_standby: self.rng.percent(80) };
        self.wish("upgrade", |r| r.upgrade = Some(wish));
    }

    pub(super) fn wish(&mut self, what: &str, change: impl FnOnce(&mut holdfast_core::record::GroupRecord)) {
        if self.store_wish(change) {
            tell!(self, "operator: {what}");
        }
    }

    /// What a member could not save is looked at, and given up.
    fn discard_at_last(&mut self) {
        let waited = self.now.saturating_sub(self.opts.faults_ms);
        let says = |h: &super::Host| h.office.as_ref().is_some_and(|o| o.says.contains("not-saved: "));
        if waited < OPERATOR_PATIENCE_MS / 3 || !self.hosts.iter().any(says) {
            return;
        }
        for member in self.members.clone() {
            let (name, life) = (self.names[member].clone(), self.hosts[member].life);
            let says = |h: &super::Host| {
                h.office.as_ref().is_some_and(|o| o.says.contains(&format!("not-saved: {name} ")))
            };
            if self.hosts.iter().any(says) {
                self.wish("reinit", |r| _ = r.reinit.insert(name.clone(), Session(life)));
            }
        }
    }

    fn accept_loss_at_last(&mut self) {
        let waited = self.now.saturating_sub(self.opts.faults_ms);
        let remembers = self.sync() && !self.in_memory();
        if waited < OPERATOR_PATIENCE_MS || self.healthy_since.is_some() || remembers {
            return;
        }
        let says: String =
            self.hosts.iter().filter_map(|h| h.office.as_ref()).map(|o| o.says.clone()).collect();
        // What was in memory alone does not come back.
        let gone = ["acker-forgot", "durability-degraded", "no-acker", "no-candidate"];
        if (says.contains("diverged") || self.in_memory() && gone.iter().any(|code| says.contains(code)))
            && self.forced == 0
        {
            let there = self.members.iter().copied().filter(|m| self.gone != Some(*m));
            let most = there.max_by_key(|m| self.hosts[*m].engine.log.len());
            let to = most.map(|m| self.names[m].clone());
            self.forced += 1;
            self.wish("failover --accept-loss", |r| r.wish = Some(Wish::Failover { to, accept_loss: true }));
        }
    }

    /// Looks whether the group is healthy, once the faults are over.
    pub(super) fn watch(&mut self) {
        self.after(500, Event::Watch);
        let healthy = invariants::liveness::healthy(self);
        if !healthy {
            self.healthy_since = None;
        } else if self.healthy_since.is_none() {
            tell!(self, "HEALTHY");
            self.healthy_since = Some(self.now);
        }
    }
}
