//! `decide(&World) -> Verdict`: one ordered table of what can be wrong with a group and what to do about it.
//!
//! The first row that matches answers. Doing nothing while something is wrong has reasons ([`Blocker`]), which
//! `holdfast explain` shows. No row looks at a clock, a socket or another row.

use crate::choose::{Blocker, choose};
use crate::hand_back;
use crate::plan::{Plan, PlanKind};
use crate::record::{Acker, Assurance, Claim, ClaimKind, GroupRecord, Incumbent, Mode, Stage, Wish};
use crate::report::{InstanceReport, Process, Stream};
use crate::switchover;
use crate::sync_set;
use crate::topology::WhenNoSyncReplica;
use crate::upgrade;
use crate::version::must_not_follow;
use crate::world::World;
use crate::{Epoch, NodeName, Position, limits};

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Healthy,
    Act(Box<Plan>),
    /// Never empty.
    Wait(Vec<Blocker>),
}

/// How bad a finding is, for people and alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Notice,
    Warning,
    Critical,
}

/// One row of the table.
pub struct Diagnosis {
    pub code: &'static str,
    pub severity: Severity,
    pub means: &'static str,
    look: fn(&World) -> Option<Verdict>,
}

impl Diagnosis {
    /// This row's verdict, if it matches.
    pub fn look(&self, w: &World) -> Option<Verdict> {
        (self.look)(w)
    }
}

macro_rules! row {
    ($severity:ident, $code:literal, $look:path, $means:literal) => {
        Diagnosis { code: $code, severity: Severity::$severity, means: $means, look: $look }
    };
}

/// In order: what has no primary, what endangers it, what people asked for, what keeps the sync set true.
pub static TABLE: &[Diagnosis] = &[
    row!(Notice, "new-group", new_group, "the group has never had a primary"),
    row!(Critical, "failover-wanted", failover_wanted, "an operator asked for a failover"),
    row!(Critical, "no-primary", claimed, "an epoch has begun and its writer is not chosen yet"),
    row!(Critical, "primary-exited", primary_exited, "the primary's process ended; its own agent saw it"),
    row!(
        Critical,
        "primary-restarted",
        primary_restarted,
        "the primary's agent is a new process; it may not go on in its old epoch"
    ),
    row!(
        Critical,
        "primary-stuck",
        primary_stuck,
        "the primary's process runs but does not answer, or cannot open"
    ),
    row!(Critical, "primary-full", primary_full, "the primary's disk is full"),
    row!(
        Critical,
        "primary-lost",
        primary_lost,
        "the primary's host is silent and no reachable replica receives from it"
    ),
    row!(Critical, "primary-unled", primary_unled, "the primary's agent is silent and its lease has run out"),
    row!(
        Critical,
        "primary-silent",
        primary_silent,
        "the primary's agent is silent; that alone proves nothing"
    ),
    row!(Notice, "primary-opening", primary_opening, "the primary is named and not open yet"),
    row!(Notice, "switchover-wanted", switchover::wanted, "an operator asked for a switchover"),
    row!(Notice, "restarted", upgrade::restarted, "a process that was to be restarted is another one"),
    row!(
        Warning,
        "older-than-primary",
        upgrade::older_than_primary,
        "a member is of an older release than its primary and cannot follow it"
    ),
    row!(
        Warning,
        "acker-gone",
        sync_set::acker_gone,
        "a node has left the sync set and is out of reach of acknowledging"
    ),
    row!(
        Warning,
        "acker-unrecorded",
        sync_set::acker_unrecorded,
        "a node outside the recorded set acknowledges"
    ),
    row!(Warning, "acker-lost", sync_set::acker_lost, "a member of the sync set does not follow"),
    row!(Warning, "degraded", sync_set::degraded, "writes do not wait for a replica"),
    row!(Notice, "acker-ready", sync_set::acker_ready, "a joining replica is synchronous and caught up"),
    row!(Notice, "sync-set-small", sync_set::sync_set_small, "fewer replicas acknowledge than wanted"),
    row!(Notice, "sync-set-large", sync_set::sync_set_large, "more replicas acknowledge than wanted"),
    row!(Notice, "founded", founded, "the first primary is open"),
    row!(Notice, "cooled-down", cooled_down, "the last takeover was long enough ago"),
    row!(Notice, "reinit-done", reinit_done, "a member was rebuilt as asked"),
    row!(
        Warning,
        "short-of-ackers",
        sync_set::short_of_ackers,
        "fewer replicas acknowledge than wanted, and none is at hand"
    ),
    row!(
        Notice,
        "home-ready",
        hand_back::home_ready,
        "a takeover moved the service from its home, which is well again"
    ),
    row!(Warning, "member-away", member_away, "a member does not follow the primary"),
    row!(Notice, "upgrading", upgrade::upgrading, "an operator asked for an upgrade"),
    row!(Notice, "away-from-home", hand_back::away, "a takeover moved the service from its home"),
];

/// The first row that matches, and its verdict.
pub fn diagnose(w: &World) -> Option<(&'static Diagnosis, Verdict)> {
    TABLE.iter().find_map(|row| (row.look)(w).map(|v| (row, v)))
}

/// See the module.
pub fn decide(w: &World) -> Verdict {
    diagnose(w).map_or(Verdict::Healthy, |(_, v)| v)
}

pub(crate) fn act(
    w: &World,
    record: GroupRecord,
    kind: PlanKind,
    because: impl Into<String>,
) -> Option<Verdict> {
    Some(Verdict::Act(Box::new(Plan::new(w.service, w.record, record, kind, because.into()))))
}

fn wait(blocker: Blocker) -> Option<Verdict> {
    Some(Verdict::Wait(vec![blocker]))
}

pub(crate) fn in_office<'w>(w: &'w World) -> Option<&'w Incumbent> {
    w.record.primary()
}

// ---- no primary ----

fn new_group(w: &World) -> Option<Verdict> {
    if w.record.stage != Stage::New {
        return None;
    }
    let mut blockers = Vec::new();
    let mut known: Vec<(&NodeName, &InstanceReport, Position)> = Vec::new();
    for node in &w.service.members {
        match w.fresh(node) {
            Some(r) if r.running() && !r.seen.writable => match &r.seen.received {
                Some(p) => known.push((node, r, p.clone())),
                None => blockers
                    .push(Blocker::new("data-unknown", format!("{node} has not said what data it has"))),
            },
            Some(_) => blockers.push(Blocker::new("starting", format!("{node} is starting"))),
            None => blockers.push(
                Blocker::new("not-seen", format!("{node} has not reported; it may hold data"))
                    .hint(format!("start `holdfast run` on {node}, or take it out of the topology")),
            ),
        }
    }
    if !blockers.is_empty() {
        return Some(Verdict::Wait(blockers));
    }
    let best = known.iter().find(|(_, _, p)| known.iter().all(|(_, _, q)| p.contains(q)));
    let Some((node, report, position)) = best else {
        return wait(
            Blocker::new("diverged", "members hold data of different histories")
                .hint("empty the data directories of all but the one to keep"),
        );
    };
    let mut record = w.record.clone();
    record.epoch = w.record.epoch.next();
    record.stage = Stage::Led { primary: incumbent(report, node, record.epoch) };
    record.lineage = report.session.0;
    record.floor = Some(position.clone());
    // Nobody has to be able to write before replicas can connect.
    if w.sync() && w.service.admits_replicas() {
        let others = w.service.members.iter().filter(|n| *n != *node);
        record.ackers = others.map(|n| (n.clone(), Acker::Joining)).collect();
        record.assurance = if record.ackers.is_empty() { Assurance::Degraded } else { Assurance::Held };
    }
    let data = if position.is_empty() { "all members are empty" } else { "it has all data there is" };
    act(w, record, PlanKind::Bootstrap, format!("new group; {node} comes first and {data}"))
}

fn failover_wanted(w: &World) -> Option<Verdict> {
    let Some(Wish::Failover { to, accept_loss }) = &w.record.wish else { return None };
    let mut record = w.record.clone();
    record.wish = None;
    let kind = ClaimKind::Takeover { to: to.clone() };
    record.displaced = false;
    match &w.record.stage {
        Stage::New => {
            act(w, record, PlanKind::Wish, "a group without a primary has nothing to fail over from")
        }
        Stage::Claimed(claim) => {
            record.stage = Stage::Claimed(Claim { kind, accept_loss: *accept_loss, ..claim.clone() });
            act(w, record, PlanKind::Claim, "an operator asked for a failover")
        }
        Stage::Led { .. } => {
            let claimed = claim_record(w, kind, *accept_loss);
            let claimed = GroupRecord { wish: None, displaced: false, ..claimed };
            act(w, claimed, PlanKind::Claim, "an operator asked for a failover")
        }
    }
}

fn claimed(w: &World) -> Option<Verdict> {
    let Stage::Claimed(claim) = &w.record.stage else { return None };
    if let (ClaimKind::Handover { to }, Some(from)) = (&claim.kind, &claim.from)
        && let Some(why) = handover_failed(w, from, to)
    {
        let mut record = w.record.clone();
        record.epoch = record.epoch.next();
        record.stage = Stage::Claimed(Claim { kind: ClaimKind::Takeover { to: None }, ..claim.clone() });
        record.hand_backs_failed += u32::from(record.displaced && w.service.home() == Some(to));
        end_upgrade(&mut record);
        return act(w, record, PlanKind::Claim, why);
    }
    match choose(w, claim) {
        Err(blockers) => Some(Verdict::Wait(blockers)),
        Ok(choice) => {
            let record = promoted(w, claim, &choice.node);
            let mut plan = Plan::new(w.service, w.record, record, PlanKind::Promote, choice.because);
            plan.known_loss = choice.known_loss;
            Some(Verdict::Act(Box::new(plan)))
        }
    }
}

fn handover_failed(w: &World, from: &Incumbent, to: &NodeName) -> Option<String> {
    let gone = |n: &NodeName| w.fresh(n).is_none_or(|r| !r.running());
    if w.last(&from.node).is_some_and(|r| r.session != from.session) {
        return Some(format!("{} restarted while handing over", from.node));
    }
    if gone(&from.node) && w.stage_age_ms() > limits::SILENT_AFTER_MS || process_ended(w, &from.node) {
        return Some(format!("{} failed while handing over", from.node));
    }
    if gone(to) && w.stage_age_ms() > limits::SILENT_AFTER_MS || process_ended(w, to) {
        return Some(format!("{to} failed before it could take over"));
    }
    (w.stage_age_ms() > limits::HANDOVER_MS)
        .then(|| format!("the handover took longer than {} ms", limits::HANDOVER_MS))
}

fn process_ended(w: &World, node: &NodeName) -> bool {
    w.fresh(node).is_some_and(|r| matches!(r.seen.process, Process::Exited { .. } | Process::Refuses { .. }))
}

fn incumbent(report: &InstanceReport, node: &NodeName, epoch: Epoch) -> Incumbent {
    Incumbent { node: node.clone(), session: report.session, process: report.life.number, epoch }
}

/// The record in which `node` leads the claimed epoch.
fn promoted(w: &World, claim: &Claim, node: &NodeName) -> GroupRecord {
    let report = w.last(node).expect("a candidate has reported");
    let mut record = w.record.clone();
    record.stage = Stage::Led { primary: incumbent(report, node, record.epoch) };
    if let Some(from) = claim.from.as_ref().filter(|_| record.assurance == Assurance::Degraded) {
        record.ceases_to_be_relaxed(&from.node);
    }
    record.floor = report.seen.received.clone();
    record.left_behind = None;
    record.displaced &= w.service.home() != Some(node);
    record.reinit.remove(node);
    record.restart.remove(node);
    if matches!(claim.kind, ClaimKind::Takeover { .. }) {
        record.last_takeover = Some(record.epoch);
    }
    if !w.sync() {
        return record;
    }
    // A handover's incumbent is alive and well: it is as good an acker as any once it follows. Who has what the new
    // primary lacks must be rebuilt first: as an acker, its unacknowledged tail would stand for an acknowledged one.
    let fits = |r: &InstanceReport| matches!((&r.seen.received, &report.seen.received), (Some(has), Some(floor)) if floor.contains(has));
    let can_follow = |r: &InstanceReport| must_not_follow(&r.seen.version, &report.seen.version).is_none();
    let able = replicas_by_fitness(w, node).filter(|(_, r)| r.running() && fits(r) && can_follow(r));
    record.ackers = able.take(w.service.wanted_ackers()).map(|(n, _)| (n.clone(), Acker::Joining)).collect();
    record.assurance = match (record.ackers.is_empty(), w.service.when_no_sync_replica) {
        (true, WhenNoSyncReplica::Degrade) => Assurance::Degraded,
        (false, _) | (true, WhenNoSyncReplica::Block) => Assurance::Held,
    };
    // Who did not halt, or is connected to the new primary already, may acknowledge without being told to (S5).
    let loose = w.record.ackers.keys().filter(|n| !w.last(n).is_some_and(|r| r.halted_for(w.record.epoch)));
    let from = claim.from.as_ref().filter(|f| may_still_receive(w, f)).map(|f| &f.node);
    for n in loose.chain(from).chain(&report.seen.ackers).filter(|n| *n != node) {
        record.ackers.entry(n.clone()).or_insert(Acker::Leaving);
    }
    record
}

/// An incumbent that is not known to have led may never have heard that it was to: it goes on as the replica that it
/// was, and acknowledges to whoever is at the other end.
fn may_still_receive(w: &World, from: &Incumbent) -> bool {
    !w.last(&from.node).is_some_and(|r| {
        let led = r.session == from.session && (r.leads.max(r.gave_up) >= Some(from.epoch));
        led || r.seen.ended() || r.halted_for(w.record.epoch)
    })
}

/// Fresh members apart from `primary`: other zones first, then the order of the topology.
pub(crate) fn replicas_by_fitness<'w>(
    w: &'w World,
    primary: &'w NodeName,
) -> impl Iterator<Item = (&'w NodeName, &'w InstanceReport)> {
    let zone = |n: &NodeName| w.topology.node(n).map(|n| (n.region.clone(), n.zone.clone()));
    let home = zone(primary);
    let away = |n: &NodeName| w.record.reinit.contains_key(n) || w.record.restart.contains_key(n);
    let mut all: Vec<_> = w.fresh_members().filter(|(n, _)| *n != primary && !away(n)).collect();
    // Stable: equals stay in the topology's order. A remote region acknowledges last, for its latency.
    all.sort_by_key(|(n, _)| {
        let z = zone(n);
        let remote = z.as_ref().map(|z| &z.0) != home.as_ref().map(|h| &h.0);
        (remote, z == home)
    });
    all.into_iter()
}

// ---- a primary that fails ----

pub(crate) fn claim_record(w: &World, kind: ClaimKind, accept_loss: bool) -> GroupRecord {
    let mut record = w.record.clone();
    record.epoch = record.epoch.next();
    if matches!(kind, ClaimKind::Takeover { .. }) {
        end_upgrade(&mut record);
    }
    let from = in_office(w).cloned();
    let known = from.as_ref().and_then(|f| w.last(&f.node)).and_then(|r| r.seen.applied.clone());
    record.stage = Stage::Claimed(Claim { kind, from, known, accept_loss });
    record
}

/// Whoever upgrades looks first at what failed; what has begun goes on by itself.
fn end_upgrade(record: &mut GroupRecord) {
    record.upgrade = None;
    record.restart.clear();
}

/// A takeover that nobody asked for: not while paused, not in a cool-down, not when everything fails at once (S12).
fn take_over(w: &World, certain: bool, because: String) -> Option<Verdict> {
    if let Some(wait) = held_back(w, certain, &because) {
        return Some(wait);
    }
    let mut claimed = claim_record(w, ClaimKind::Takeover { to: None }, false);
    if in_office(w).is_some_and(|p| w.service.home() == Some(&p.node)) {
        (claimed.displaced, claimed.hand_backs_failed) = (true, 0);
    }
    act(w, claimed, PlanKind::Claim, because)
}

fn held_back(w: &World, certain: bool, because: &str) -> Option<Verdict> {
    if w.record.mode == Mode::Paused {
        return wait(
            Blocker::new("paused", format!("{because}; automatic failover is paused"))
                .hint("`holdfast resume`, or `holdfast failover`"),
        );
    }
    let many = w.groups >= limits::MASS_FAILURE_MIN_GROUPS;
    if many && w.groups_failing as u64 * 100 > w.groups as u64 * limits::MASS_FAILURE_PERCENT {
        let says = format!(
            "{} of {} groups lost their primary at once: no automatic failover (S12)",
            w.groups_failing, w.groups
        );
        return wait(
            Blocker::new("mass-failure", says)
                .hint("check the network first; `holdfast failover SERVICE` for one group"),
        );
    }
    if let Some(until) = w.cool_down_until.filter(|u| *u > w.now && !certain) {
        let left = until.since(w.now);
        return wait(
            Blocker::new(
                "cool-down",
                format!("{because}; the last takeover was too recent: {left} ms left (S12)"),
            )
            .hint("`holdfast failover` does it now"),
        );
    }
    None
}

fn primary_exited(w: &World) -> Option<Verdict> {
    let p = in_office(w)?;
    let r = w.fresh(&p.node).filter(|r| r.session == p.session)?;
    match &r.seen.process {
        Process::Exited { how } => take_over(w, true, format!("{}'s engine ended: {how}", p.node)),
        Process::Refuses { why } => take_over(w, true, format!("{}'s engine does not start: {why}", p.node)),
        Process::Starting | Process::Running | Process::Unresponsive => None,
    }
}

fn primary_restarted(w: &World) -> Option<Verdict> {
    let p = in_office(w)?;
    w.fresh(&p.node).filter(|r| r.session != p.session)?;
    take_over(w, true, format!("the agent of {} was restarted", p.node))
}

fn primary_stuck(w: &World) -> Option<Verdict> {
    let p = in_office(w)?;
    let r = w.fresh(&p.node)?;
    if r.seen.process == Process::Unresponsive {
        return take_over(w, true, format!("{}'s engine does not answer", p.node));
    }
    if r.session == p.session && r.gave_up >= Some(p.epoch) {
        let why = match r.life.number == p.process {
            true => "closed at the end of its lease",
            false => "ended and is another process now",
        };
        return take_over(w, true, format!("{} {why} and may not open again", p.node));
    }
    if r.leads != Some(p.epoch) && w.stage_age_ms() > limits::OPEN_MS {
        let trouble = r.trouble.clone().unwrap_or_else(|| "no reason given".into());
        return take_over(
            w,
            false,
            format!("{} did not open within {} ms: {trouble}", p.node, limits::OPEN_MS),
        );
    }
    None
}

/// A primary without room hangs in its next commit: it goes on where there is room.
fn primary_full(w: &World) -> Option<Verdict> {
    let p = in_office(w)?;
    let left = |r: &InstanceReport| r.seen.free_disk_bytes;
    let free = w.fresh(&p.node).filter(|r| r.is_full()).and_then(left)?;
    let says = format!("the disk of {} is full: {} KiB are left", p.node, free >> 10);
    let room = |r: &InstanceReport| left(r).is_some_and(|b| b >= limits::DISK_ROOM_BYTES);
    let to = w.fresh_members().find(|(n, r)| **n != p.node && r.follows(&p.node) && room(r)).map(|(n, _)| n);
    // What a silent member may have acknowledged, only the primary is certain to have: it is its own successor in a
    // takeover, and as full as before. It hands over instead, and what it wrote with it.
    let silent = w.record.ackers.keys().find(|n| **n != p.node && w.fresh(n).is_none_or(|r| !r.running()));
    if let (Some(to), Some(silent), true) = (to, silent, w.sync()) {
        let because = format!("{says}; it hands over to {to}, since {silent} does not say what it has");
        let hold = held_back(w, false, &because);
        let handover = || claim_record(w, ClaimKind::Handover { to: to.clone() }, false);
        return hold.or_else(|| act(w, handover(), PlanKind::Switchover, because));
    }
    if to.is_some() {
        return take_over(w, false, says);
    }
    wait(
        Blocker::new(
            "disk-full",
            format!("{says}, and no replica has more than {} MiB", limits::DISK_ROOM_BYTES >> 20),
        )
        .hint("make room; commits that wait for it go on by themselves"),
    )
}

fn primary_lost(w: &World) -> Option<Verdict> {
    let p = in_office(w)?;
    if w.fresh(&p.node).is_some() {
        return None;
    }
    let others = w.fresh_members().filter(|(n, r)| **n != p.node && r.running());
    let mut reachable = others.filter(|(_, r)| r.looked()).peekable();
    reachable.peek()?;
    if reachable.any(|(_, r)| r.follows(&p.node)) {
        return None;
    }
    take_over(w, false, format!("{} is silent and no reachable replica receives from it", p.node))
}

fn primary_unled(w: &World) -> Option<Verdict> {
    let p = in_office(w)?;
    if w.fresh(&p.node).is_some() || !w.lease_over() {
        return None;
    }
    take_over(w, false, format!("the agent of {} is silent and its lease has run out", p.node))
}

fn primary_silent(w: &World) -> Option<Verdict> {
    let p = in_office(w)?;
    if w.fresh(&p.node).is_some() {
        return None;
    }
    let left = w.lease_over_at().since(w.now);
    wait(Blocker::new(
        "primary-silent",
        format!("{} is silent but a replica still receives from it; its lease ends in {left} ms", p.node),
    ))
}

fn primary_opening(w: &World) -> Option<Verdict> {
    let p = in_office(w)?;
    let r = w.fresh(&p.node).filter(|r| r.leads != Some(p.epoch))?;
    let doing = r.activity.clone().or_else(|| r.trouble.clone()).unwrap_or_else(|| "preparing".into());
    wait(Blocker::new("opening", format!("{} is not open for writes yet: {doing}", p.node)))
}

// ---- what is over, and what is missing ----

/// From here on no promotion creates the accounts again; until here each one does.
fn founded(w: &World) -> Option<Verdict> {
    let p = in_office(w).filter(|_| !w.record.founded)?;
    w.fresh(&p.node).filter(|r| r.leads == Some(p.epoch))?;
    let mut record = w.record.clone();
    record.founded = true;
    act(w, record, PlanKind::Bootstrap, format!("{} is open for the first time", p.node))
}

/// Said in the record, or every new controller would begin the cool-down of a takeover of long ago again (S12).
fn cooled_down(w: &World) -> Option<Verdict> {
    in_office(w).filter(|_| w.record.last_takeover.is_some())?;
    if w.cool_down_until.is_some_and(|until| until > w.now) {
        return None;
    }
    let mut record = w.record.clone();
    record.last_takeover = None;
    act(w, record, PlanKind::Wish, "the cool-down after the last takeover is over")
}

fn member_away(w: &World) -> Option<Verdict> {
    let p = in_office(w)?;
    let away = w.service.members.iter().filter(|n| **n != p.node).filter_map(|n| match w.fresh(n) {
        None => Some(Blocker::new("member-silent", format!("{n} does not report"))),
        Some(r) if r.follows(&p.node) => None,
        Some(r) if not_saved(r) => {
            let says = format!(
                "{n} has writes that {} lacks, and not all could be saved: their log is gone",
                p.node
            );
            let hint = format!("look at {n}'s data, then `holdfast reinit {n}`, which discards it");
            Some(Blocker::new("not-saved", says).hint(hint))
        }
        Some(r) => {
            let refused = r.seen.upstream.as_ref().and_then(|u| match &u.stream {
                Stream::Refused { why } => Some(why.clone()),
                Stream::Copying { received_bytes, data_bytes } => {
                    let mib = |bytes: u64| bytes >> 20;
                    Some(format!(
                        "it is given all data: {} of {} MiB",
                        mib(*received_bytes),
                        mib(*data_bytes)
                    ))
                }
                Stream::Off | Stream::Up | Stream::Broken { .. } => None,
            });
            let doing = r.activity.clone().or_else(|| r.trouble.clone()).or(refused);
            let doing = doing.map_or_else(String::new, |d| format!(": {d}"));
            Some(Blocker::new("member-not-following", format!("{n} does not follow {}{doing}", p.node)))
        }
    });
    let blockers: Vec<Blocker> = away.collect();
    (!blockers.is_empty()).then_some(Verdict::Wait(blockers))
}

/// It does not try to follow, and what it could not save is still there.
fn not_saved(r: &InstanceReport) -> bool {
    let waits = r.running() && !r.seen.receives() && r.activity.is_none();
    waits && r.lost.as_ref().is_some_and(|l| !l.complete)
}

fn reinit_done(w: &World) -> Option<Verdict> {
    let done = |n: &NodeName, s: &crate::record::Session| {
        let p = in_office(w);
        w.fresh(n).is_some_and(|r| {
            let other_life = r.session != *s;
            // Where a member is recorded before it follows, it waits for that with its data thrown away.
            let fits = r.ready || p.is_some_and(|p| r.follows(&p.node));
            let rebuilt = r.settled > 0 && fits && r.rebuilt_for == Some(*s);
            other_life && r.rebuilt_for.is_some() || rebuilt
        })
    };
    let node = w.record.reinit.iter().find(|(n, s)| done(n, s)).map(|(n, _)| n.clone())?;
    let mut record = w.record.clone();
    record.reinit.remove(&node);
    act(w, record, PlanKind::Wish, format!("{node} was rebuilt"))
}
