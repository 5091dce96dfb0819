//! The agent: runs the instances of this host, tells the controller what it sees, and does what it is assigned.
//!
//! It decides nothing about the group. What an instance may do follows from its assignment, its lease and its own
//! promises (`holdfast_core::member`); this module observes, carries out verbs, and keeps time. It survives the loss
//! of the controller and of the store: the instance goes on while its lease lasts or every other member vouches
//! (S14), and closes by itself when neither holds.

pub mod backups;
pub mod instance;
pub mod link;
mod observe;
pub mod rejoin;
mod seek;

pub use instance::Instance;

use crate::api::hosts::{Orders, Renewal, ReportRequest};
use crate::archive::Archive;
use crate::clock::Clock;
use backups::Backups;
use holdfast_core::member::VouchRequest;
use holdfast_core::record::Session;
use holdfast_core::topology::Topology;
use holdfast_core::{GroupName, Millis, NodeName, limits};
use link::ControllerLink;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// What an agent is made of.
pub struct Options {
    pub node: NodeName,
    pub session: Session,
    pub topology: Topology,
    pub clock: Clock,
    pub link: Arc<ControllerLink>,
    pub instances: Vec<Arc<Instance>>,
    /// Of instances whose log is kept.
    pub archives: Vec<Arc<Archive>>,
    /// If backups are scheduled.
    pub backups: Option<Arc<Backups>>,
    /// Wakes the reporter; shared with the instances.
    pub stir: Arc<Notify>,
}

/// See the module.
pub struct Agent {
    options: Options,
    renewals: Mutex<BTreeMap<GroupName, Millis>>,
}

impl Agent {
    pub fn new(options: Options) -> Arc<Agent> {
        Arc::new(Agent { options, renewals: Mutex::default() })
    }

    pub fn instance(&self, group: &GroupName) -> Option<&Arc<Instance>> {
        self.options.instances.iter().find(|i| i.group() == group)
    }

    pub fn archives(&self) -> &[Arc<Archive>] {
        &self.options.archives
    }

    pub fn instances(&self) -> &[Arc<Instance>] {
        &self.options.instances
    }

    /// Runs until aborted. Instances are closed by [`Agent::stop`], not by this.
    pub async fn run(self: Arc<Self>) {
        let mut tasks = tokio::task::JoinSet::new();
        for instance in &self.options.instances {
            tasks.spawn(instance.clone().drive());
            tasks.spawn(instance.clone().keep_lease());
            tasks.spawn(instance.clone().watch_programs());
        }
        for archive in &self.options.archives {
            tasks.spawn(archive.clone().run());
        }
        tasks.spawn(self.clone().report_forever());
        tasks.spawn(self.clone().listen_forever());
        tasks.spawn(self.clone().gather_vouchers());
        while let Some(ended) = tasks.join_next().await {
            if let Err(e) = ended {
                tracing::error!(
                    error = &e as &dyn std::error::Error,
                    "a task of the agent ended; its instance fences itself"
                );
            }
        }
    }

    /// Closes and stops every instance, in order: clients are cut, then the engine is shut down.
    pub async fn stop(&self, bound: Duration) {
        let mut stops = tokio::task::JoinSet::new();
        for instance in &self.options.instances {
            let instance = instance.clone();
            stops.spawn(async move { instance.stop(bound).await });
        }
        while stops.join_next().await.is_some() {}
        // The controller hears of it now, not from the silence.
        let _ = tokio::time::timeout(Duration::from_millis(500), self.report()).await;
    }

    // ---- the controller ----

    async fn report_forever(self: Arc<Self>) {
        loop {
            if let Err(e) = self.report().await {
                tracing::debug!(error = &e as &dyn std::error::Error, "report not delivered");
                // The link has tried every voter; a tight loop would not find one sooner.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let tick = Duration::from_millis(limits::REPORT_EVERY_MS);
            let _ = tokio::time::timeout(tick, self.options.stir.notified()).await;
        }
    }

    async fn report(&self) -> Result<(), link::Error> {
        let sent = self.options.clock.now();
        let instances = self.options.instances.iter().map(|i| i.report()).collect();
        let renew = self.due_renewals(sent);
        let request = ReportRequest {
            node: self.options.node.clone(),
            session: self.options.session,
            instances,
            backups: self.options.backups.as_ref().map(|b| b.done()).unwrap_or_default(),
            renew,
        };
        let orders = self.options.link.report(&request).await?;
        for renewal in &orders.renewed {
            if let Some(instance) = self.instance(&renewal.group) {
                instance.renewed(renewal.epoch, sent);
            }
        }
        self.take(orders, sent);
        Ok(())
    }

    /// Renewals go with a report every `LEASE_RENEW_EVERY_MS`, and with the first report of a new epoch.
    fn due_renewals(&self, now: Millis) -> Vec<Renewal> {
        let mut last = self.renewals.lock().unwrap_or_else(|p| p.into_inner());
        let mut due = Vec::new();
        for instance in &self.options.instances {
            let Some(epoch) = instance.renewal() else {
                last.remove(instance.group());
                continue;
            };
            let recent =
                last.get(instance.group()).is_some_and(|t| now.since(*t) < limits::LEASE_RENEW_EVERY_MS);
            if !recent || !instance.has_lease(epoch) {
                last.insert(instance.group().clone(), now);
                due.push(Renewal { group: instance.group().clone(), epoch });
            }
        }
        due
    }

    fn take(&self, orders: Orders, sent: Millis) {
        if let Some(backups) = &self.options.backups {
            backups.take(&orders.backups, &self.options.instances);
        }
        for assignment in orders.assignments {
            if let Some(instance) = self.instance(&assignment.group) {
                instance.assign(assignment, sent);
            }
        }
    }

    /// Long-polls for assignments, so that a change arrives when it is made and not with the next report.
    async fn listen_forever(self: Arc<Self>) {
        let mut after = 0;
        loop {
            let sent = self.options.clock.now();
            match self.options.link.assignments(&self.options.node, self.options.session, after).await {
                Ok(orders) => {
                    after = orders.version;
                    self.take(orders, sent);
                }
                Err(e) => {
                    tracing::debug!(error = &e as &dyn std::error::Error, "no word from the controller");
                    after = 0;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    // ---- S14 ----

    /// While the store is away, a primary asks every other member directly whether it may go on.
    async fn gather_vouchers(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(limits::VOUCH_EVERY_MS)).await;
            for instance in &self.options.instances {
                let Some(ask) = instance.wants_vouchers() else { continue };
                self.ask_for_vouchers(instance, &ask).await;
            }
        }
    }

    async fn ask_for_vouchers(&self, instance: &Arc<Instance>, ask: &VouchRequest) {
        let mut asked = tokio::task::JoinSet::new();
        for node in instance.service().members.iter().filter(|n| **n != self.options.node) {
            let (link, ask, node) = (self.options.link.clone(), ask.clone(), node.clone());
            let sent = self.options.clock.now();
            asked.spawn(async move { link.vouch(&node, &ask).await.then_some((node, sent)) });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some((node, sent))) = answer {
                instance.vouched_by(node, ask.epoch, sent);
            }
        }
    }
}

/// An error with everything that caused it, in one line.
pub fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
