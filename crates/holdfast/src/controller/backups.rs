//! Scheduled backups: the controller says who makes one, and notes what became of it. When one is due is
//! [`holdfast_core::schedule`]'s; how it is made, the agent's.

use super::{Error, Office, read, view};
use crate::api::hosts::{BackupDone, BackupOrder};
use crate::api::people::{BackupStatus, Finding};
use crate::backup::choose;
use crate::clock::unix_ms;
use holdfast_core::record::Session;
use holdfast_core::schedule::{self, Job, Schedule};
use holdfast_core::topology::Engine;
use holdfast_core::{GroupName, NodeName};
use holdfast_store::{Expect, Revision, Txn, Write};

/// A host that has not reported for so long makes no backup any more.
const GONE_MS: u64 = 10_000;

impl Office {
    /// Orders what is due. A conflict is another controller's doing, and that one goes on.
    pub(super) async fn order_backups(&self) -> Result<(), Error> {
        let Some(schedule) = self.lock().core.topology().backups else { return Ok(()) };
        for service in self.backed_up() {
            let last = self.job(&service)?;
            let fittest = self.fittest(&service, last.is_none());
            let alive = |node: &NodeName, session| self.lives(node, session);
            let job = last.as_ref().map(|(job, _)| job);
            if let Some(next) = schedule::next(&schedule, job, unix_ms(), alive, fittest) {
                tracing::info!(group = %service, number = next.number, "{} is to make a backup", next.node);
                self.write_job(&service, &next, last.map(|(_, revision)| revision)).await?;
                self.wake();
            }
        }
        Ok(())
    }

    /// What this life of a host is to do.
    pub(super) fn backup_orders(&self, node: &NodeName, session: Session) -> Vec<BackupOrder> {
        let orders = self.backed_up().into_iter().filter_map(|service| {
            let (job, _) = self.job(&service).ok()??;
            let mine = job.node == *node && job.session == session && job.end.is_none();
            mine.then_some(BackupOrder { group: service, number: job.number })
        });
        orders.collect()
    }

    /// What a host says of its jobs.
    pub(super) async fn note_backups(&self, done: Vec<BackupDone>) -> Result<(), Error> {
        for BackupDone { group, number, end } in done {
            let Some((mut job, revision)) = self.job(&group)? else { continue };
            if job.ended(number, end) {
                self.write_job(&group, &job, Some(revision)).await?;
            }
        }
        Ok(())
    }

    /// For people; `None` where nothing is scheduled.
    pub fn backup_status(&self, service: &str) -> Option<BackupStatus> {
        let schedule = self.lock().core.topology().backups?;
        let service = self.backed_up().into_iter().find(|name| name.as_str() == service)?;
        Some(status(&schedule, self.job(&service).ok()?.map(|(job, _)| job).as_ref()))
    }

    /// Nothing, if nothing is scheduled.
    fn backed_up(&self) -> Vec<GroupName> {
        let inner = self.lock();
        let topology = inner.core.topology();
        if topology.backups.is_none() {
            return Vec::new();
        }
        topology.services.iter().filter(|s| s.engine == Engine::MariaDb).map(|s| s.name.clone()).collect()
    }

    /// Who is to make it; the `first` of a service waits until that is whole, and need not come from its primary.
    fn fittest(&self, service: &GroupName, first: bool) -> Option<(NodeName, Session)> {
        let seen = self.with_world(service.as_str(), |w| {
            w.record.primary()?;
            let status = view::described(w);
            if first && status.state != "healthy" {
                return None;
            }
            let node = NodeName::new(&choose::fittest(&status)?.node).ok()?;
            let session = w.fresh(&node)?.session;
            Some((node, session))
        });
        seen.ok().flatten()
    }

    fn lives(&self, node: &NodeName, session: Session) -> bool {
        let heard = self.lock().core.heard_ms_ago(node, self.clock.now());
        // Who has not reported to this controller yet may have to another a moment ago.
        let heard = heard.map_or(self.age_ms() < GONE_MS, |ms| ms < GONE_MS);
        heard && self.check_session(node, session).is_ok()
    }

    fn job(&self, service: &GroupName) -> Result<Option<(Job, Revision)>, Error> {
        let key = job_key(service);
        match self.store.local().get(&key) {
            Some(value) => Ok(Some((read(&key, &value.bytes)?, value.revision))),
            None => Ok(None),
        }
    }

    async fn write_job(&self, service: &GroupName, job: &Job, before: Option<Revision>) -> Result<(), Error> {
        let expect = before.map_or(Expect::Absent, Expect::Revision);
        let value = Some(serde_json::to_vec(job).expect("a job is plain data"));
        let write = Write { key: job_key(service), expect, value };
        let txn = Txn { writes: vec![write], leases: Vec::new() };
        self.store.commit(txn).await.map(drop).map_err(Error::Store)
    }
}

fn job_key(service: &GroupName) -> String {
    format!("backup/{service}")
}

fn status(schedule: &Schedule, job: Option<&Job>) -> BackupStatus {
    let failed = job.and_then(|j| j.end.as_ref()).filter(|end| !end.good);
    BackupStatus {
        good_unix_ms: job.and_then(|j| j.good_unix_ms),
        next_unix_ms: job.and_then(|j| j.next_unix_ms(schedule)),
        under_way_on: job.filter(|j| j.end.is_none()).map(|j| j.node.to_string()),
        failed: failed.map(|end| end.says.clone()),
        failures: job.map_or(0, |j| j.failures),
    }
}

/// What is wrong with a service's backups, if something is.
pub fn finding(status: &BackupStatus) -> Option<Finding> {
    let says = status.failed.as_ref()?;
    Some(Finding {
        code: "backup-failed".into(),
        severity: "warning".into(),
        says: format!("the last {} scheduled backups failed: {says}", status.failures),
        hint: Some("it is tried again by itself; `holdfast backup now` on a member's host shows more".into()),
    })
}
