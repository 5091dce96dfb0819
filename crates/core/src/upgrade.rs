//! Upgrading a group in place: one instance at a time is ended in order and started again with the programs that are
//! installed by now, replicas first; then one of them takes over, and the old primary comes last.
//!
//! Guarantees: a step is taken only while nothing else is wrong with the group (its row is the last of the table), and
//! only if afterwards everybody can still follow the primary. Whatever goes wrong on the way ends the upgrade or makes
//! it wait; it never makes a failover happen or less safe. Until another release leads, nothing is done that the
//! data of a member that still runs the old one could not be rebuilt from.
//! Does not know: where programs come from, nor what an engine does to its data when it first starts with new ones.

use crate::choose::Blocker;
use crate::decide::{Verdict, act, claim_record, in_office};
use crate::plan::PlanKind;
use crate::record::{ClaimKind, Incumbent, Restart};
use crate::report::InstanceReport;
use crate::topology::Management;
use crate::version::{must_not_follow, must_not_succeed, same};
use crate::world::World;
use crate::{NodeName, limits, switchover};
use serde::{Deserialize, Serialize};

/// One thing that an upgrade does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Ends the process of `node` and starts it again with the programs installed.
    Restart {
        node: NodeName,
        from: String,
        to: String,
        /// Nobody else could take over meanwhile; under `sync`, writes wait.
        alone: bool,
    },
    /// `to` takes over. If it is of another release than `from`, there is no way back from here.
    Switchover { from: NodeName, to: NodeName, way_back: bool },
}

/// Everything that is to be done from here, in order; empty if every member runs what is installed. `Err`: why it cannot
/// be done, and nothing was.
pub fn steps(w: &World, replicas_only: bool) -> Result<Vec<Step>, String> {
    let p = in_office(w).ok_or("there is no primary")?;
    if !matches!(w.service.management, Management::Managed { .. }) {
        return Err(
            "its engines are attached: only what starts them can restart them with other programs".into()
        );
    }
    if w.service.admits_replicas() {
        return Err(format!(
            "upgrades of {} in place are not built yet: restart one replica after the other with the new programs, each \
             once the one before acknowledges again, then switch over and restart the last",
            w.service.engine.word()
        ));
    }
    let primary = Programs::of(w, &p.node)?;
    let mut replicas = Vec::new();
    for node in w.service.members.iter().filter(|n| **n != p.node) {
        replicas.push(Programs::of(w, node)?);
    }
    // Whoever acknowledges comes last: by then another one can stand in for it.
    replicas.sort_by_key(|r| w.record.ackers.contains_key(r.node));
    let alone = replicas.len() < 2;
    let restart = |r: &Programs, alone| Step::Restart {
        node: r.node.clone(),
        from: r.runs.into(),
        to: r.installed.into(),
        alone,
    };
    let mut steps = Vec::new();
    for r in replicas.iter().filter(|r| r.outdated()) {
        if let Some(why) = must_not_follow(r.installed, primary.runs) {
            return Err(format!("{} could not follow {} any more: {why}", r.node, p.node));
        }
        steps.push(restart(r, alone));
    }
    if !primary.outdated() || replicas_only {
        return Ok(steps);
    }
    let next = replicas.iter().find(|r| switchover::ready(w, p, r.node).is_ok()).or(replicas.first());
    let next = next.ok_or("it has no replica that could take over while its primary restarts")?;
    for r in replicas.iter().chain([&primary]).filter(|r| r.node != next.node) {
        if let Some(why) = must_not_follow(r.installed, next.installed) {
            return Err(format!(
                "{} could not follow {}: {why}; install the same programs there",
                r.node, next.node
            ));
        }
    }
    let way_back = must_not_follow(primary.runs, next.installed).is_none();
    steps.push(Step::Switchover { from: p.node.clone(), to: next.node.clone(), way_back });
    steps.push(restart(&primary, alone));
    Ok(steps)
}

/// What a member runs, and what it would run after a restart.
struct Programs<'w> {
    node: &'w NodeName,
    runs: &'w str,
    installed: &'w str,
}

impl<'w> Programs<'w> {
    fn of(w: &'w World, node: &'w NodeName) -> Result<Programs<'w>, String> {
        let r = w.fresh(node).ok_or(format!("{node} is not reporting"))?;
        if !r.running() {
            return Err(format!("the engine of {node} does not run, or does not answer"));
        }
        let installed = r
            .installed
            .as_deref()
            .ok_or(format!("{node} has not said which programs are installed there"))?;
        let it = Programs { node, runs: &r.seen.version, installed };
        match must_not_succeed(it.installed, it.runs).filter(|_| it.outdated()) {
            Some(why) => {
                Err(format!("{node} cannot be restarted with the programs that are installed there: {why}"))
            }
            None => Ok(it),
        }
    }
    fn outdated(&self) -> bool {
        !same(self.runs, self.installed)
    }
}

/// Why a takeover by `node` would leave members behind for good: they could not follow it, nor could the programs that
/// are installed on their hosts.
pub(crate) fn strands(w: &World, node: &NodeName) -> Option<String> {
    let theirs = &w.last(node)?.seen.version;
    w.fresh_members().filter(|(n, r)| *n != node && r.running()).find_map(|(n, r)| {
        let why = must_not_follow(&r.seen.version, theirs)?;
        let after = r.installed.as_deref().filter(|_| managed(w));
        let stays = after.is_none_or(|v| must_not_follow(v, theirs).is_some());
        stays.then(|| format!("{n} could not follow {node}: {why}"))
    })
}

/// How many members could not follow `node` as they are.
pub(crate) fn left_behind(w: &World, node: &NodeName) -> usize {
    let Some(theirs) = w.last(node).map(|r| r.seen.version.as_str()) else { return 0 };
    let cannot = |r: &InstanceReport| must_not_follow(&r.seen.version, theirs).is_some();
    w.fresh_members().filter(|(n, r)| *n != node && r.running() && cannot(r)).count()
}

fn managed(w: &World) -> bool {
    matches!(w.service.management, Management::Managed { .. })
}

// ---- rows of the table ----

/// A process that was to end has ended, or is not to end any more.
pub(crate) fn restarted(w: &World) -> Option<Verdict> {
    let p = in_office(w)?;
    w.record.restart.iter().find_map(|(node, restart)| {
        let mut record = w.record.clone();
        record.restart.remove(node);
        let r = w.fresh(node).filter(|r| r.running());
        if let Some(r) = r.filter(|r| r.life != restart.life) {
            let runs = &r.seen.version;
            let installed = r.installed.as_ref().filter(|i| record.upgrade.is_some() && !same(i, runs));
            if let Some(installed) = installed {
                record.upgrade = None;
                let because =
                    format!("upgrade stopped: {node} was restarted and still runs {runs}, not {installed}");
                return act(w, record, PlanKind::Wish, because);
            }
            return act(w, record, PlanKind::Restart, format!("{node} was restarted and runs {runs}"));
        }
        // Whoever was to stand in for it is gone: it is needed where it is.
        let stands_in = |(n, r): (&NodeName, &InstanceReport)| n != node && r.follows(&p.node);
        let needed = w.record.ackers.contains_key(node) && !restart.in_set;
        if *node == p.node || needed && !w.fresh_members().any(stands_in) {
            return act(
                w,
                record,
                PlanKind::Wish,
                format!("restart of {node} put off: nobody stands in for it"),
            );
        }
        None
    })
}

/// A member that is too old to follow its primary is restarted with what is installed: nothing else would help it. Also
/// one that follows: its engine may have connected again by itself while its agent was out of reach and its primary,
/// restarted, took over anew.
pub(crate) fn older_than_primary(w: &World) -> Option<Verdict> {
    let p = in_office(w)?;
    let leader = w.fresh(&p.node).filter(|r| r.leads == Some(p.epoch))?;
    let theirs = &leader.seen.version;
    let mut blockers = Vec::new();
    for (node, r) in w.fresh_members().filter(|(n, r)| **n != p.node && r.running()) {
        let Some(why) = must_not_follow(&r.seen.version, theirs) else { continue };
        if w.record.restart.contains_key(node) {
            continue;
        }
        let helps =
            |v: &String| managed(w) && !same(v, &r.seen.version) && must_not_follow(v, theirs).is_none();
        match r.installed.as_ref().filter(|v| helps(v)) {
            Some(installed) => {
                let because =
                    format!("{node} is too old to follow {}: it is restarted with {installed}", p.node);
                return restart(w, node, r, true, because);
            }
            None => blockers.push(
                Blocker::new("too-old", format!("{node} cannot follow {}: {why}", p.node))
                    .hint(format!("install the programs of {theirs} on {node}")),
            ),
        }
    }
    (!blockers.is_empty()).then_some(Verdict::Wait(blockers))
}

/// The next step of an upgrade. The last row that acts: if anything else were to be said about the group, it would be said instead.
pub(crate) fn upgrading(w: &World) -> Option<Verdict> {
    let wish = w.record.upgrade.as_ref()?;
    let p = in_office(w)?;
    if let Some(node) = w.record.restart.keys().next() {
        return wait(Blocker::new("restarting", format!("{node} is being restarted")));
    }
    let stop = |why: String| {
        let mut record = w.record.clone();
        record.upgrade = None;
        act(w, record, PlanKind::Wish, why)
    };
    if let Some(node) = w.service.members.iter().find(|n| w.fresh(n).is_none_or(|r| r.installed.is_none())) {
        return wait(Blocker::new("programs-unknown", format!("{node} has not said which programs it has")));
    }
    let next = match steps(w, wish.replicas_only) {
        Ok(steps) => steps.into_iter().next(),
        Err(why) => return stop(format!("upgrade refused: {why}")),
    };
    let lags = |r: &InstanceReport| {
        r.seen.upstream.as_ref().and_then(|u| u.lag_ms).filter(|ms| *ms > limits::SWITCHOVER_LAG_MS)
    };
    let behind = w.fresh_members().filter(|(n, _)| **n != p.node).find_map(|(n, r)| Some((n, lags(r)?)));
    if let Some((node, ms)) = behind.filter(|_| next.is_some()) {
        return wait(Blocker::new("catching-up", format!("{node} is {ms} ms behind")));
    }
    match next {
        None => {
            let what = if wish.replicas_only { "every replica runs" } else { "every member runs" };
            stop(format!("upgraded: {what} the programs that are installed"))
        }
        Some(Step::Restart { alone: true, .. }) if !wish.accept_no_standby => {
            stop("upgrade refused: while the only replica restarts, nobody could take over".into())
        }
        Some(Step::Restart { node, from, to, alone }) => {
            let r = w.fresh(&node)?;
            restart(w, &node, r, alone, format!("an upgrade of {node} from {from} to {to}"))
        }
        Some(Step::Switchover { from, to, .. }) => switch_over(w, p, &from, to),
    }
}

fn switch_over(w: &World, p: &Incumbent, from: &NodeName, to: NodeName) -> Option<Verdict> {
    if let Err(why) = switchover::ready(w, p, &to) {
        return wait(Blocker::new("not-ready", why));
    }
    let because = format!("an upgrade: {to} takes over, then {from} is restarted");
    act(w, claim_record(w, ClaimKind::Handover { to }, false), PlanKind::Switchover, because)
}

fn restart(w: &World, node: &NodeName, r: &InstanceReport, in_set: bool, because: String) -> Option<Verdict> {
    let mut record = w.record.clone();
    record.restart.insert(node.clone(), Restart { life: r.life, in_set });
    act(w, record, PlanKind::Restart, because)
}

fn wait(blocker: Blocker) -> Option<Verdict> {
    Some(Verdict::Wait(vec![blocker]))
}
