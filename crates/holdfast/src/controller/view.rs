//! The controller's knowledge in the words of the API.

use super::{Error, Office, backups};
use crate::api::people::{
    Explanation, Finding, LostStatus, MemberStatus, NodeStatus, PlanStatus, ServiceStatus, Status, StepStatus,
};
use holdfast_core::choose::Blocker;
use holdfast_core::decide::{Severity, TABLE, Verdict, diagnose};
use holdfast_core::record::{Acker, Assurance, Mode};
use holdfast_core::report::{InstanceReport, Process};
use holdfast_core::topology::{Durability, Service, Strategy};
use holdfast_core::world::World;
use holdfast_core::{NodeName, Position, Seen, hand_back, limits};

impl Office {
    /// Everything, for `holdfast status`.
    pub fn status(&self) -> Status {
        let inner = self.lock();
        let now = self.clock.now();
        let topology = inner.core.topology();
        let nodes = topology
            .nodes
            .iter()
            .map(|n| NodeStatus {
                node: n.name.to_string(),
                region: n.region.to_string(),
                zone: n.zone.to_string(),
                address: n.address.to_string(),
                voter: n.voter,
                heard_ms_ago: inner.core.heard_ms_ago(&n.name, now),
            })
            .collect();
        let view =
            |s: &Service| Some(service(&inner.core.world(&s.name, now)?, inner.core.settling(&s.name, now)));
        let mut services: Vec<ServiceStatus> = topology.services.iter().filter_map(view).collect();
        let name = topology.name.clone();
        drop(inner);
        for service in &mut services {
            service.backup = self.backup_status(&service.service);
            service.findings.extend(service.backup.as_ref().and_then(backups::finding));
        }
        Status { name, controller: self.node.to_string(), nodes, services }
    }

    /// Why the controller does what it does, for `holdfast explain`.
    pub fn explain(&self, name: &str) -> Result<Explanation, Error> {
        self.with_world(name, |w| {
            let verdict = holdfast_core::decide::decide(w);
            let plan = match &verdict {
                Verdict::Act(plan) => Some(PlanStatus {
                    id: plan.id,
                    parent: plan.parent,
                    epoch: plan.epoch.0,
                    kind: plan.kind.to_string(),
                    because: plan.because.clone(),
                    known_loss: plan.known_loss,
                    known_loss_unit: plan.known_loss_unit().into(),
                    at_unix_ms: crate::clock::unix_ms(),
                    by: self.node.to_string(),
                    took_ms: None,
                    steps: plan
                        .steps
                        .iter()
                        .map(|s| StepStatus { node: s.node.to_string(), does: s.does.clone(), done_ms: None })
                        .collect(),
                }),
                Verdict::Healthy | Verdict::Wait(_) => None,
            };
            let word = match verdict {
                Verdict::Healthy => "healthy",
                Verdict::Act(_) => "act",
                Verdict::Wait(_) => "wait",
            };
            let mut findings = Vec::new();
            for row in TABLE {
                if let Some(verdict) = row.look(w) {
                    findings.extend(row_findings(row.code, row.severity, row.means, &verdict));
                }
            }
            findings.extend(member_findings(w));
            Explanation { service: name.to_string(), verdict: word.to_string(), findings, plan }
        })
    }
}

fn severity(s: Severity) -> String {
    match s {
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
    .to_string()
}

fn row_findings(code: &str, s: Severity, means: &str, verdict: &Verdict) -> Vec<Finding> {
    let finding = |code: String, says: String, hint| Finding { code, severity: severity(s), says, hint };
    match verdict {
        Verdict::Healthy => Vec::new(),
        Verdict::Act(plan) => {
            vec![finding(code.into(), format!("{means}; next: {} ({})", plan.kind, plan.because), None)]
        }
        Verdict::Wait(blockers) => {
            let blocked = |b: &Blocker| finding(format!("{code}/{}", b.code), b.says.clone(), b.hint.clone());
            std::iter::once(finding(code.into(), means.into(), None))
                .chain(blockers.iter().map(blocked))
                .collect()
        }
    }
}

/// Members that are not what they should be: the next failure may find the group without a stand-in.
fn impaired(w: &World) -> Vec<Finding> {
    let Some(p) = w.record.primary() else { return Vec::new() };
    let warn = |code: &str, says: String| Finding {
        code: code.into(),
        severity: severity(Severity::Warning),
        says,
        hint: None,
    };
    let look = |node: &NodeName| match w.members.get(node) {
        Some(Seen::Fresh(r)) if r.running() => {
            let fits = *node == p.node || r.follows(&p.node);
            (!fits).then(|| warn("member-rejoining", format!("{node} does not follow {} yet", p.node)))
        }
        Some(Seen::Fresh(_)) => Some(warn("member-down", format!("{node}'s engine does not run"))),
        Some(Seen::Stale { age_ms, .. }) => {
            Some(warn("member-silent", format!("{node} has not reported for {:.1} s", *age_ms as f64 / 1e3)))
        }
        Some(Seen::Never) | None => {
            Some(warn("member-silent", format!("{node} has not reported to this controller")))
        }
    };
    w.service.members.iter().filter_map(look).collect()
}

/// What members themselves complain of.
fn member_findings(w: &World) -> Vec<Finding> {
    let mut out = impaired(w);
    for (node, r) in w.fresh_members() {
        let mut say = |code: &str, severity: Severity, says: String| {
            out.push(Finding { code: code.into(), severity: self::severity(severity), says, hint: None });
        };
        if let Some(trouble) = &r.trouble {
            say("member-trouble", Severity::Warning, format!("{node}: {trouble}"));
        }
        if let Some(free) = r.seen.free_disk_bytes.filter(|b| *b < limits::DISK_ROOM_BYTES) {
            say("disk-low", Severity::Warning, format!("{node} has {} MiB of disk left", free >> 20));
        }
        for setting in &r.seen.unsafe_settings {
            say("unsafe-setting", Severity::Warning, format!("{node}: {setting}"));
        }
        if let Some(lost) = &r.lost {
            let says = format!(
                "{node} had {} {} that nobody else has; saved in {}",
                lost.transactions, lost.unit, lost.file
            );
            say("writes-saved", Severity::Warning, says);
        }
    }
    if let Some(Blocker { code, says, hint }) = hand_back::stays(w) {
        out.push(Finding { code, severity: severity(Severity::Notice), says, hint });
    }
    if w.record.mode == Mode::Paused {
        let says = "automatic failover is paused".to_string();
        out.push(Finding {
            code: "paused".into(),
            severity: severity(Severity::Warning),
            says,
            hint: Some("`holdfast resume`".into()),
        });
    }
    if w.sync() && w.record.assurance != Assurance::Held && w.record.primary().is_some() {
        let says = "writes are acknowledged without a replica: automatic failover is off until it is back"
            .to_string();
        out.push(Finding {
            code: "durability-degraded".into(),
            severity: severity(Severity::Warning),
            says,
            hint: None,
        });
    }
    out
}

fn service(w: &World, settling: bool) -> ServiceStatus {
    if settling {
        let says =
            "this controller has just taken office and waits for the agents' first reports".to_string();
        let severity = severity(Severity::Notice);
        let finding = Finding { code: "new-controller".into(), severity, says, hint: None };
        return ServiceStatus { state: "new-controller".into(), findings: vec![finding], ..described(w) };
    }
    described(w)
}

/// What is known of a service, whoever has asked.
pub(super) fn described(w: &World) -> ServiceStatus {
    let diagnosis = diagnose(w);
    let mut findings: Vec<Finding> = diagnosis
        .iter()
        .flat_map(|(row, verdict)| row_findings(row.code, row.severity, row.means, verdict))
        .collect();
    findings.extend(member_findings(w));
    ServiceStatus {
        service: w.group().to_string(),
        engine: w.service.engine.word().into(),
        strategy: match w.service.strategy {
            Strategy::HotStandby => "hot-standby",
            Strategy::MutualStandby => "mutual-standby",
        }
        .into(),
        durability: match w.service.durability {
            Durability::Sync => "sync",
            Durability::Async => "async",
        }
        .into(),
        assurance: match w.record.assurance {
            _ if w.record.epoch.0 == 0 => "none yet",
            Assurance::Held => "held",
            Assurance::Degraded => "degraded",
            Assurance::Restoring => "restoring",
        }
        .into(),
        mode: match w.record.mode {
            Mode::Automatic => "automatic",
            Mode::Paused => "paused",
        }
        .into(),
        epoch: w.record.epoch.0,
        cooling_down: w.record.last_takeover.is_some(),
        primary: w.record.primary().map(|p| p.node.to_string()),
        sync_set: w.record.sync_set().iter().map(NodeName::to_string).collect(),
        state: diagnosis
            .map_or(if impaired(w).is_empty() { "healthy" } else { "impaired" }, |(row, _)| row.code)
            .into(),
        findings,
        backup: None,
        port: w.service.port,
        read_port: w.service.read_port,
        members: w.service.members.iter().map(|n| member(w, n)).collect(),
    }
}

fn member(w: &World, node: &NodeName) -> MemberStatus {
    let seen = w.members.get(node).unwrap_or(&Seen::Never);
    let report = seen.last();
    let host = w.topology.node(node);
    let state = match (seen, report.map(|r| &r.seen.process)) {
        (Seen::Never, _) | (_, None) => "unknown",
        (Seen::Stale { .. }, _) => "silent",
        (Seen::Fresh(_), Some(Process::Running)) => "running",
        (Seen::Fresh(_), Some(Process::Starting)) => "starting",
        (Seen::Fresh(_), Some(Process::Unresponsive)) => "unresponsive",
        (Seen::Fresh(_), Some(Process::Exited { .. })) => "exited",
        (Seen::Fresh(_), Some(Process::Refuses { .. })) => "refuses",
    };
    let refusal = report.and_then(|r| match &r.seen.process {
        Process::Refuses { why } => Some(why.clone()),
        Process::Exited { how } => Some(how.clone()),
        Process::Starting | Process::Running | Process::Unresponsive => None,
    });
    let upstream = report.and_then(|r| r.seen.upstream.as_ref());
    MemberStatus {
        node: node.to_string(),
        zone: host.map(|h| h.zone.to_string()).unwrap_or_default(),
        address: host.map(|h| format!("{}:{}", h.address, w.service.engine_port)).unwrap_or_default(),
        role: role(w, node, report),
        state: state.into(),
        writable: report.is_some_and(|r| r.seen.writable),
        position: report.and_then(|r| r.seen.applied.as_ref()).map(Position::brief),
        lag_ms: upstream.and_then(|u| u.lag_ms),
        connections: report.map_or(0, |r| r.seen.connections),
        activity: report.and_then(|r| r.activity.clone()),
        trouble: report
            .and_then(|r| r.trouble.clone())
            .or(refusal)
            .or(upstream.and_then(|u| u.apply_error.clone())),
        unsafe_settings: report.map(|r| r.seen.unsafe_settings.clone()).unwrap_or_default(),
        lost: report.and_then(|r| r.lost.as_ref()).map(|l| LostStatus {
            transactions: l.transactions,
            unit: l.unit.clone(),
            file: l.file.clone(),
            epoch: l.epoch.0,
        }),
        version: report.map(|r| r.seen.version.clone()).unwrap_or_default(),
        installed: report.and_then(|r| r.installed.clone()),
    }
}

fn role(w: &World, node: &NodeName, report: Option<&InstanceReport>) -> String {
    let Some(p) = w.record.primary() else {
        return if w.record.epoch.0 == 0 { "waiting" } else { "halted" }.into();
    };
    if p.node == *node {
        return if report.is_some_and(|r| r.leads == Some(p.epoch)) { "primary" } else { "opening" }.into();
    }
    let follows = report.is_some_and(|r| r.follows(&p.node));
    match (follows, w.record.ackers.get(node)) {
        (true, Some(Acker::Member)) => "sync replica",
        (true, Some(Acker::Joining)) => "joining sync",
        (true, Some(Acker::Leaving) | None) => "replica",
        (false, _) => "rejoining",
    }
    .into()
}
