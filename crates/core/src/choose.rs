//! Who is promoted in a claimed epoch, or what is missing to say so (S1, S2, S4, S6, S7).
//!
//! Two questions, answered separately. *May anyone be?* The incumbent must not be able to have a write
//! acknowledged any more. *Who?* Only a member that provably has every acknowledged write, and of those the one
//! that has most; where two have what the other lacks, nobody: an operator decides.

use crate::record::{Assurance, Claim, ClaimKind, Incumbent};
use crate::report::{InstanceReport, Process};
use crate::world::World;
use crate::{NodeName, Position, Seen, limits, upgrade};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt::Write as _;

/// One reason for not acting, with what would remove it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    pub code: String,
    pub says: String,
    /// What a person can do, if anything.
    pub hint: Option<String>,
}

impl Blocker {
    pub fn new(code: &str, says: impl Into<String>) -> Blocker {
        Blocker { code: code.into(), says: says.into(), hint: None }
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Blocker {
        self.hint = Some(hint.into());
        self
    }
}

/// The outcome of [`choose`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub node: NodeName,
    pub because: String,
    /// What, at least, may have been acknowledged and is given up, in [`Position::unit`]s.
    pub known_loss: Option<u64>,
}

const ACCEPT_LOSS: &str = "if those writes may be lost: `holdfast failover --accept-loss`";

/// Picks the writer of the claimed epoch.
pub fn choose(w: &World, claim: &Claim) -> Result<Choice, Vec<Blocker>> {
    let mut blockers = Vec::new();
    if let Some(b) = fence(w, claim) {
        blockers.push(b);
    }
    match candidate(w, claim) {
        Ok(choice) if blockers.is_empty() => Ok(choice),
        Ok(_) => Err(blockers),
        Err(more) => {
            blockers.extend(more);
            Err(blockers)
        }
    }
}

/// Why the incumbent may still be acknowledging writes; `None` if it cannot.
fn fence(w: &World, claim: &Claim) -> Option<Blocker> {
    let Some(from) = &claim.from else { return None };
    if w.surrendered(from) || w.lease_over() || revoked(w) {
        return None;
    }
    let left = w.lease_over_at().since(w.now);
    Some(Blocker::new("lease-running", format!("{} may still hold its lease for {left} ms", from.node)))
}

/// S4: under `sync`, every node that could acknowledge a write of the incumbent has stopped receiving.
fn revoked(w: &World) -> bool {
    w.sync()
        && w.record.assurance == Assurance::Held
        && !w.record.ackers.is_empty()
        && w.record.ackers.keys().all(|n| w.last(n).is_some_and(|r| r.halted_for(w.record.epoch)))
}

fn candidate(w: &World, claim: &Claim) -> Result<Choice, Vec<Blocker>> {
    if let (ClaimKind::Handover { to }, Some(from)) = (&claim.kind, &claim.from) {
        return handover(w, from, to);
    }
    let evidence = evidence(w, claim)?;
    let mut pool: Vec<(&NodeName, &Position)> = Vec::new();
    let mut blockers = Vec::new();
    for node in &w.service.members {
        match fit(w, claim, node) {
            Ok(position) => pool.push((node, position)),
            Err(Some(b)) => blockers.push(b),
            Err(None) => {}
        }
    }
    // A member that is still applying may turn out to have most: wait for it while it is there.
    if !blockers.is_empty() && (pool.is_empty() || !claim.accept_loss) {
        return Err(blockers);
    }
    pool.retain(|(_, p)| evidence.iter().any(|must_have| must_have.iter().all(|m| p.contains(m))));
    // A data directory that was lost is not a history to go on with, under any durability. Where an opening alone begins
    // a history, nor is a copy not begun yet; elsewhere the first primary may have had no more than its accounts.
    let had_data = w.record.floor.as_ref().is_some_and(|f| !f.is_empty())
        || w.service.engine.family().forgets()
            && (w.record.founded || claim.known.as_ref().is_some_and(|p| !p.is_empty()));
    let emptied = |p: &Position| p.is_empty() && had_data;
    pool.retain(|(_, p)| claim.accept_loss || !emptied(p));
    pool.sort_by_key(|(n, _)| (w.record.reinit.contains_key(*n), upgrade::left_behind(w, n)));
    if let ClaimKind::Takeover { to: Some(to) } = &claim.kind
        && (claim.accept_loss
            || pool.iter().any(|(n, p)| *n == to && pool.iter().all(|(_, q)| p.contains(q))))
    {
        pool.retain(|(n, _)| *n == to);
    }
    leave_full_disks(w, claim, &mut pool)?;
    if pool.is_empty() {
        return Err(nobody(w, claim));
    }
    let (node, position) = most_advanced(&pool).or_else(|diverged| {
        // Under `sync` each of the pool has all that was acknowledged; what they have beyond that was answered to
        // nobody. The incumbent's own history is then the one to go on with.
        let own = |(n, _): &&(&NodeName, &Position)| claim.from.as_ref().is_some_and(|f| f.node == **n);
        let sound = w.sync() && !claim.accept_loss;
        pool.iter().filter(|_| sound).find(own).copied().ok_or(diverged)
    })?;
    let mut because = format!("{node} has everything the others have (at {})", position.brief());
    let behind = behind(w, claim, position);
    if w.sync() && !claim.accept_loss {
        if let Some(n) = behind {
            let _ = write!(
                because,
                "; {n} {} of the old primary that were acknowledged to nobody are left behind",
                position.unit()
            );
        }
        return Ok(Choice { node: node.clone(), because, known_loss: None });
    }
    if behind.is_some() && may_return(w, claim) {
        let says = format!("{node} lacks writes of the old primary, which is being started again");
        return Err(vec![Blocker::new("may-return", says).hint(ACCEPT_LOSS)]);
    }
    Ok(Choice { node: node.clone(), because, known_loss: behind })
}

/// How much, at least, the incumbent had that is not in `position`, in [`Position::unit`]s: by what it had when it was claimed, and by
/// what it says it has now that it is closed.
fn behind(w: &World, claim: &Claim, position: &Position) -> Option<u64> {
    let now = claim.from.as_ref().and_then(|f| w.halted_position(&f.node));
    let known = claim.known.iter().chain(now).cloned().reduce(|a, b| a.union(&b));
    known.map(|k| k.missing_in(position)).filter(|n| *n > 0)
}

/// Who has no room hangs in its first commit: another is promoted if there is one, though a full primary that could close in
/// order has most. Under `sync` each of the pool has all that was acknowledged, so that nothing is lost by it. If all are full,
/// an acker that has not answered is waited for: what a full primary has beyond the others, they could not receive from it.
fn leave_full_disks(
    w: &World,
    claim: &Claim,
    pool: &mut Vec<(&NodeName, &Position)>,
) -> Result<(), Vec<Blocker>> {
    // A few MiB come free where clients are cut and a voter gives its reserve, and are gone as soon.
    let tight = |n: &NodeName| {
        let free = w.fresh(n).and_then(|r| r.seen.free_disk_bytes);
        free.is_some_and(|bytes| bytes < limits::DISK_ROOM_BYTES)
    };
    if !w.sync() || claim.accept_loss {
        return Ok(());
    }
    if pool.iter().any(|(n, _)| !tight(n)) {
        pool.retain(|(n, _)| !tight(n));
        return Ok(());
    }
    if !pool.iter().all(|(n, _)| w.fresh(n).is_some_and(InstanceReport::is_full)) {
        return Ok(());
    }
    let answered = |n: &NodeName| w.fresh(n).is_some_and(InstanceReport::running);
    let silent = w.record.ackers.keys().find(|n| !answered(n));
    match (pool.first(), silent) {
        (Some((only, _)), Some(silent)) if w.stage_age_ms() < limits::FULL_WAIT_MS => {
            let says = format!("the disk of {only} is full, and {silent} has not said what it has");
            Err(vec![Blocker::new("disk-full", says).hint("make room")])
        }
        _ => Ok(()),
    }
}

/// Under `async`, the shortest outage is not worth what is known to be lost by it: for a while, an incumbent that can be
/// started again is waited for.
fn may_return(w: &World, claim: &Claim) -> bool {
    // What a process kept in memory alone does not return.
    let unnamed =
        matches!(claim.kind, ClaimKind::Takeover { to: None }) && !w.service.engine.family().forgets();
    let Some(from) = claim.from.as_ref().filter(|_| unnamed && !w.sync() && !claim.accept_loss) else {
        return false;
    };
    let starts = |r: &InstanceReport| match r.seen.process {
        Process::Starting | Process::Exited { .. } => true,
        Process::Running => !r.halted_for(w.record.epoch) || !r.seen.drained,
        Process::Unresponsive | Process::Refuses { .. } => false,
    };
    w.stage_age_ms() < limits::RETURN_MS && w.fresh(&from.node).is_some_and(starts)
}

fn handover(w: &World, from: &Incumbent, to: &NodeName) -> Result<Choice, Vec<Blocker>> {
    let last =
        w.last(&from.node).filter(|r| r.closed_for(w.record.epoch)).and_then(|r| r.seen.applied.as_ref());
    let Some(last) = last else {
        return Err(vec![Blocker::new("yielding", format!("{} is finishing its transactions", from.node))]);
    };
    let there = w.fresh(to).filter(|r| r.running() && r.seen.drained).and_then(|r| r.seen.applied.as_ref());
    match there {
        Some(p) if p.contains(last) => Ok(Choice {
            node: to.clone(),
            because: format!("{to} has everything that {} wrote", from.node),
            known_loss: None,
        }),
        _ => Err(vec![Blocker::new(
            "catching-up",
            format!("{to} has not applied all of {} yet ({last})", from.node),
        )]),
    }
}

/// Sets of positions of which the new primary must contain one whole, because they may be all that holds an
/// acknowledged write. Each set is proof enough by itself.
fn evidence(w: &World, claim: &Claim) -> Result<Vec<Vec<Position>>, Vec<Blocker>> {
    let Some(from) = claim.from.as_ref().filter(|_| !claim.accept_loss && w.sync()) else {
        return Ok(vec![Vec::new()]);
    };
    // The incumbent itself has every write it ever acknowledged; if it can be asked, the ackers need not be. Nor do
    // they then stand in the way with tails of their own that were never acknowledged.
    let whole = |p: &&Position| w.record.floor.as_ref().is_none_or(|f| p.contains(f));
    // Unless it has them no more: what was in memory alone went with its process (S9).
    let keeps = |r: &InstanceReport| {
        r.running() && r.seen.drained && (r.intact || !w.service.engine.family().forgets())
    };
    if let Some(position) = w.halted_position(&from.node).filter(whole)
        && w.fresh(&from.node).is_some_and(keeps)
    {
        let held = if w.record.assurance == Assurance::Held { held_evidence(w).ok() } else { None };
        return Ok(held.into_iter().chain([vec![position.clone()]]).collect());
    }
    if w.record.assurance != Assurance::Held {
        let node = &from.node;
        // Back, and without what was in its memory.
        let gone =
            w.service.engine.family().forgets() && w.fresh(node).is_some_and(|r| !r.intact && r.running());
        let says = if gone {
            format!(
                "durability was degraded when {node}'s process ended: writes that only it had are gone (S5, S9)"
            )
        } else {
            format!("writes may exist on {node} alone: durability was degraded when it failed (S5)")
        };
        let hint = if gone { ACCEPT_LOSS.to_owned() } else { format!("bring {node} back; {ACCEPT_LOSS}") };
        return Err(vec![Blocker::new("durability-degraded", says).hint(hint)]);
    }
    Ok(vec![held_evidence(w)?])
}

fn held_evidence(w: &World) -> Result<Vec<Position>, Vec<Blocker>> {
    let mut must_have: Vec<Position> = w.record.floor.iter().chain(&w.record.left_behind).cloned().collect();
    let mut blockers = Vec::new();
    for acker in w.record.ackers.keys() {
        if w.fresh(acker).is_some_and(|r| r.halted_for(w.record.epoch) && r.running() && !r.seen.drained) {
            let says = format!("{acker} is still applying what it received (S7)");
            blockers.push(Blocker::new("draining", says));
            continue;
        }
        match w.halted_position(acker).filter(|_| w.last(acker).is_some_and(|r| r.seen.drained)) {
            Some(p) if w.last(acker).is_some_and(|r| r.intact) => must_have.push(p.clone()),
            Some(_) => blockers.push(
                Blocker::new(
                    "acker-forgot",
                    format!("{acker} restarted and may have forgotten writes that it acknowledged and had not applied"),
                )
                .hint(format!("bring the old primary back; {ACCEPT_LOSS}")),
            ),
            None => blockers.push(
                Blocker::new(
                    "acker-unknown",
                    format!("{acker} may hold acknowledged writes that no one else has, and has not said what it has"),
                )
                .hint(format!("bring {acker} back; {ACCEPT_LOSS}")),
            ),
        }
    }
    if w.record.ackers.is_empty() {
        let says =
            "no replica is recorded as able to acknowledge: the primary may hold writes that no one else has";
        blockers.push(Blocker::new("no-acker", says).hint(ACCEPT_LOSS));
    }
    if blockers.is_empty() { Ok(must_have) } else { Err(blockers) }
}

/// Whether a member can be promoted by what it is, apart from how far it got. `Err(None)`: it is out of the question
/// and not worth waiting for.
fn fit<'w>(w: &'w World, claim: &Claim, node: &NodeName) -> Result<&'w Position, Option<Blocker>> {
    if !claim.accept_loss && w.sync() && claim.from.is_some() {
        let incumbent = claim.from.as_ref().is_some_and(|f| f.node == *node);
        if !incumbent && !w.record.ackers.contains_key(node) {
            return Err(None); // S6: only the recorded set, or the last primary
        }
    }
    let named = matches!(&claim.kind, ClaimKind::Takeover { to: Some(to) } if to == node);
    if !w.service.cross_region_failover && !named && !same_region(w, claim, node) {
        return Err(None); // S12
    }
    let report = match w.members.get(node) {
        Some(Seen::Fresh(r)) => r,
        // A silent incumbent is what takeovers are for.
        _ => return Err(None),
    };
    // To be rebuilt: only for what nobody else may have.
    let needed = named && claim.accept_loss
        || w.record.ackers.contains_key(node)
        || claim.from.as_ref().is_some_and(|f| f.node == *node);
    if w.record.reinit.contains_key(node) && !needed || !report.running() {
        return Err(None);
    }
    let Some(position) = w.halted_position(node) else {
        return Err(Some(Blocker::new("not-halted", format!("{node} has not stopped receiving yet"))));
    };
    if !report.seen.drained {
        let still = report.seen.upstream.as_ref().and_then(|u| u.apply_error.clone());
        return match still {
            Some(_) => Err(None),
            None => {
                Err(Some(Blocker::new("draining", format!("{node} is still applying what it received (S7)"))))
            }
        };
    }
    Ok(position)
}

fn same_region(w: &World, claim: &Claim, node: &NodeName) -> bool {
    let region = |n: &NodeName| w.topology.node(n).map(|n| &n.region);
    claim.from.as_ref().is_none_or(|f| region(&f.node) == region(node))
}

/// Why no member is left to choose from.
fn nobody(w: &World, claim: &Claim) -> Vec<Blocker> {
    if w.stage_age_ms() < limits::SILENT_AFTER_MS {
        return vec![Blocker::new("no-candidate", "members have not answered yet")];
    }
    let lacking = if w.sync() { "has every acknowledged write" } else { "has data and may be promoted" };
    let mut blockers = vec![
        Blocker::new("no-candidate", format!("no reachable member {lacking}"))
            .hint(format!("bring a member back; {ACCEPT_LOSS}")),
    ];
    if w.service.cross_region_failover {
        return blockers;
    }
    for (node, _) in w.fresh_members().filter(|(n, _)| !same_region(w, claim, n)) {
        let says = format!("{node} is in another region; the policy is not to fail over there (S12)");
        let hint = format!("`holdfast failover --to {node}`, or cross_region_failover = true");
        blockers.push(Blocker::new("other-region", says).hint(hint));
    }
    blockers
}

/// The member that contains all others. Equals are ordered by preference; a divergence is not tie-broken (S6).
fn most_advanced<'p>(
    pool: &[(&'p NodeName, &'p Position)],
) -> Result<(&'p NodeName, &'p Position), Vec<Blocker>> {
    let mut best = *pool.first().expect("an empty pool was answered before");
    for &(node, position) in &pool[1..] {
        if matches!(position.partial_cmp(best.1), Some(Ordering::Greater)) {
            best = (node, position);
        }
    }
    let diverged: Vec<Blocker> = pool
        .iter()
        .filter(|(_, p)| !best.1.contains(p))
        .map(|(n, p)| {
            Blocker::new("diverged", format!("{} (at {}) and {n} (at {p}) each have writes the other lacks", best.0, best.1))
                .hint("look at both, then `holdfast failover --to NODE --accept-loss`; the other's writes are saved when it rejoins")
        })
        .collect();
    if diverged.is_empty() { Ok(best) } else { Err(diverged) }
}
