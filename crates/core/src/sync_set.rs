//! The rows of the table that keep the recorded sync set true (S5): who joins, who stands in, who leaves and when a
//! node that left is forgotten, and the way down to degraded durability and back up.

use crate::choose::Blocker;
use crate::decide::{Verdict, act, in_office, replicas_by_fitness};
use crate::plan::PlanKind;
use crate::record::{Acker, Assurance, Incumbent};
use crate::report::{InstanceReport, Process};
use crate::topology::WhenNoSyncReplica;
use crate::world::World;
use crate::{Millis, NodeName, Seen, limits};

fn leading_fresh<'w>(w: &'w World) -> Option<(&'w Incumbent, &'w InstanceReport)> {
    let p = in_office(w).filter(|_| w.sync())?;
    Some((p, w.fresh(&p.node)?))
}

/// A leaving node is forgotten only when it cannot acknowledge any more **and** what it acknowledged is elsewhere:
/// on a remaining acker, or nowhere promised (degraded).
pub(crate) fn acker_gone(w: &World) -> Option<Verdict> {
    let (p, primary) = leading_fresh(w)?;
    let out = |n: &NodeName| {
        // A primary that does not admit it hears nothing of it, whatever it says.
        if let Some(admitted) = &primary.seen.admits {
            return primary.held >= w.revision && !admitted.contains(n) && !primary.seen.ackers.contains(n);
        }
        let itself = w.fresh(n).is_some_and(|r| r.quit_acknowledging(w.revision));
        let away = w.absent_since.get(n).is_some_and(|t| w.now.since(*t) >= limits::ACKER_GIVES_UP_AFTER_MS);
        // A hung engine does not count its attempts: when it goes on, it connects and acknowledges as before.
        let away = away && !w.fresh(n).is_some_and(|r| r.seen.process == Process::Unresponsive);
        let unseen = w.absent_since.contains_key(n);
        (itself && unseen) || away
    };
    let node = w.ackers_in(Acker::Leaving).find(|n| out(n))?;
    let had = w.absent_had.get(node);
    let covered = w.ackers_in(Acker::Member).any(|m| w.has(m, had) || w.caught_up(m, &p.node));
    let mut record = w.record.clone();
    // On the way back as well: what it acknowledged since writes wait again is promised as soon as durability holds.
    if !covered && w.record.assurance != Assurance::Degraded {
        if w.record.ackers.iter().any(|(n, a)| *a != Acker::Leaving && acker_well(w, p, n)) {
            return None; // it will cover soon
        }
        // Nobody is left but the primary: whoever comes next must have all that the primary has by now.
        record.left_behind = primary.seen.applied.clone();
    }
    record.ackers.remove(node);
    act(w, record, PlanKind::SyncSet, format!("{node} can no longer acknowledge"))
}

/// Whoever could acknowledge is recorded, wanted or not (S5): an agent that was stopped for long goes on with what it
/// was told before, and its engine reconnects by itself.
pub(crate) fn acker_unrecorded(w: &World) -> Option<Verdict> {
    let (_, primary) = leading_fresh(w)?;
    // Right after a change, no report can speak of the new record yet.
    if w.stage_age_ms() < limits::SILENT_AFTER_MS {
        return None;
    }
    let denies = |n: &NodeName| w.fresh(n).is_some_and(|r| r.quit_acknowledging(w.revision));
    let node = primary.seen.ackers.iter().find(|n| !w.record.ackers.contains_key(*n) && !denies(n))?;
    let mut record = w.record.clone();
    record.ackers.insert(node.clone(), Acker::Leaving);
    act(w, record, PlanKind::SyncSet, format!("{node} acknowledges without being in the sync set"))
}

fn acker_well(w: &World, p: &Incumbent, node: &NodeName) -> bool {
    w.fresh(node).is_some_and(|r| r.follows(&p.node)) && !w.record.is_to_leave(node)
}

/// It is being given all data. What it had goes only when all that comes in its place is there.
fn acker_coming(w: &World, p: &Incumbent, node: &NodeName) -> bool {
    w.fresh(node).is_some_and(|r| r.copies(&p.node)) && !w.record.reinit.contains_key(node)
}

/// Not only while it connects anew.
fn acker_lost_for_good(w: &World, p: &Incumbent, node: &NodeName) -> bool {
    let unwell = || w.unwell_since.get(node).is_some_and(|t| w.now.since(*t) >= limits::SILENT_AFTER_MS);
    !acker_well(w, p, node)
        && !acker_coming(w, p, node)
        && (w.fresh(node).is_none() || w.record.is_to_leave(node) || unwell())
}

/// Takes an acker out that does not follow, once another can stand in; with none, degrades if the policy says so.
pub(crate) fn acker_lost(w: &World) -> Option<Verdict> {
    let (p, _) = leading_fresh(w)?;
    let active = || w.record.ackers.iter().filter(|(_, a)| **a != Acker::Leaving).map(|(n, _)| n);
    let well = active().filter(|n| acker_well(w, p, n)).count();
    let spare = spare_replica(w, p);
    let lost = || active().filter(|n| acker_lost_for_good(w, p, n));
    if let Some(verdict) = lost().find_map(|n| one_acker_lost(w, p, n, well, spare.as_ref())) {
        return Some(verdict);
    }
    let mut record = w.record.clone();
    if spare.is_none() && may_degrade(w) {
        // Who is being copied to goes on: where followers acknowledge, leaving would break it off.
        let stays = |n: &NodeName| w.service.admits_replicas() && acker_coming(w, p, n);
        let part = |n: &NodeName| if stays(n) { Acker::Joining } else { Acker::Leaving };
        record.ackers = record.ackers.keys().map(|n| (n.clone(), part(n))).collect();
        record.assurance = Assurance::Degraded;
        let because = "no replica is left that could acknowledge, and the policy is to go on without (S5)";
        return act(w, record, PlanKind::Degrade, because);
    }
    None
}

/// `well`: how many others are not lost. `spare`: who could stand in.
fn one_acker_lost(
    w: &World,
    p: &Incumbent,
    node: &NodeName,
    well: usize,
    spare: Option<&NodeName>,
) -> Option<Verdict> {
    let mut record = w.record.clone();
    if let Some(spare) = spare.filter(|_| well < w.service.wanted_ackers()) {
        record.ackers.insert(spare.clone(), Acker::Joining);
        let because = format!("{spare} stands in for {node}, which {}", ails(w, node));
        return act(w, record, PlanKind::SyncSet, because);
    }
    if w.ackers_in(Acker::Member).any(|m| acker_well(w, p, m) && w.nearly_caught_up(m, &p.node)) {
        record.ackers.insert(node.clone(), Acker::Leaving);
        return act(w, record, PlanKind::SyncSet, format!("{node} {}", ails(w, node)));
    }
    if spare.is_none() { last_acker_lost(w, p, node) } else { None }
}

fn ails(w: &World, node: &NodeName) -> &'static str {
    match (w.record.reinit.contains_key(node), w.record.is_to_leave(node)) {
        (true, _) => "is to be rebuilt",
        (false, true) => "is to be restarted",
        (false, false) => "does not follow",
    }
}

/// A lost acker that nobody stands in for leaves if nothing is promised, or if it is to be rebuilt.
fn last_acker_lost(w: &World, p: &Incumbent, node: &NodeName) -> Option<Verdict> {
    let mut record = w.record.clone();
    record.ackers.insert(node.clone(), Acker::Leaving);
    if w.record.assurance == Assurance::Degraded {
        return act(w, record, PlanKind::SyncSet, format!("{node} {}", ails(w, node)));
    }
    if !w.record.reinit.contains_key(node) || w.record.ackers.iter().any(|(n, _)| acker_well(w, p, n)) {
        return None;
    }
    let follows = w.fresh(node).is_some_and(|r| r.follows(&p.node));
    match w.service.when_no_sync_replica {
        WhenNoSyncReplica::Degrade => {
            record.assurance = Assurance::Degraded;
            let because = format!("{node} is to be rebuilt and nobody else can acknowledge (S5)");
            act(w, record, PlanKind::Degrade, because)
        }
        WhenNoSyncReplica::Block if follows => {
            let mut record = w.record.clone();
            record.reinit.remove(node);
            let because = format!(
                "rebuild of {node} refused: it is the only replica that acknowledges, writes would stop"
            );
            act(w, record, PlanKind::Wish, because)
        }
        WhenNoSyncReplica::Block => {
            act(w, record, PlanKind::SyncSet, format!("{node} is to be rebuilt and does not follow"))
        }
    }
}

/// Every recorded acker has been out of the primary's sight, or silent, for long enough. (A lost host's connection
/// may look alive to the primary for a minute.)
fn may_degrade(w: &World) -> bool {
    let away = |n: &NodeName| {
        let unseen = w.absent_since.get(n).is_some_and(|t| w.now.since(*t) >= limits::DEGRADE_AFTER_MS);
        let silent = match w.members.get(n) {
            Some(Seen::Stale { age_ms, .. }) => *age_ms >= limits::DEGRADE_AFTER_MS,
            Some(Seen::Never) | None => true,
            Some(Seen::Fresh(_)) => false,
        };
        // Connected, as the primary sees it, but its engine hangs, or has no room for what it would acknowledge.
        let unwell = w.unwell_since.get(n).is_some_and(|t| w.now.since(*t) >= limits::DEGRADE_AFTER_MS);
        unseen || silent || unwell
    };
    w.record.assurance != Assurance::Degraded
        && w.service.when_no_sync_replica == WhenNoSyncReplica::Degrade
        && w.stage_age_ms() >= limits::DEGRADE_AFTER_MS
        && w.record.ackers.keys().all(away)
}

/// The fittest replica that is not recorded yet.
fn spare_replica(w: &World, p: &Incumbent) -> Option<NodeName> {
    replicas_by_fitness(w, &p.node)
        .find(|(n, _)| !w.record.ackers.contains_key(*n) && can_join(w, p, n))
        .map(|(n, _)| n.clone())
}

/// It follows and is close behind, since acknowledging slows it down; or, where it may not before it is recorded, it is
/// fit to follow.
fn can_join(w: &World, p: &Incumbent, node: &NodeName) -> bool {
    let ready = |r: &InstanceReport| r.ready && r.held >= w.revision && !w.record.is_to_leave(node);
    let tried = |at: &Millis| w.now.since(*at) < limits::REJOIN_MS;
    let pressing = w.record.assurance == Assurance::Held && w.ackers_in(Acker::Member).next().is_none();
    let in_vain = !pressing && w.sent_back.get(node).is_some_and(tried);
    let near = w.service.admits_replicas() || w.closely_caught_up(node, &p.node) && !in_vain;
    acker_well(w, p, node) && near || w.fresh(node).is_some_and(ready)
}

/// The way back: a replica acknowledges and is nearly caught up → the primary waits again → all that was written
/// meanwhile is on it → durability holds. Whoever acknowledges syncs each transaction that it receives, and can be slower
/// than a primary that does not wait: then it catches up without that, and tries again.
pub(crate) fn degraded(w: &World) -> Option<Verdict> {
    let (p, primary) = leading_fresh(w)?;
    let mut record = w.record.clone();
    match w.record.assurance {
        Assurance::Held => None,
        Assurance::Degraded => {
            let nearly = |n: &&NodeName| acknowledges_now(w, p, primary, n) && w.nearly_caught_up(n, &p.node);
            let Some(node) = active_ackers(w).find(nearly) else { return fell_behind(w, p, primary) };
            record.assurance = Assurance::Restoring;
            record.ceases_to_be_relaxed(&p.node);
            act(
                w,
                record,
                PlanKind::Restore,
                format!("{node} is caught up and acknowledges: writes wait for it again"),
            )
        }
        Assurance::Restoring => {
            // An older assignment, still on its way, could make it stop waiting after that.
            if !primary.seen.waits_for_ack || primary.held < w.revision {
                return None;
            }
            let has_all = |n: &&NodeName| {
                let had = w.has(n, w.primary_waited.as_ref()) || w.caught_up(n, &p.node);
                had && acknowledges_now(w, p, primary, n)
            };
            let Some(node) = active_ackers(w).find(has_all).cloned() else {
                return waited_in_vain(w, primary);
            };
            record.ackers.insert(node.clone(), Acker::Member);
            record.assurance = Assurance::Held;
            act(w, record, PlanKind::Restore, format!("{node} has everything that was written meanwhile"))
        }
    }
}

/// Where following is acknowledging, it does not make a replica slower.
fn fell_behind(w: &World, p: &Incumbent, primary: &InstanceReport) -> Option<Verdict> {
    // So long after the change, what was compared is of after it.
    let compared = w.stage_age_ms() >= limits::NEARLY_MS * 2 && w.primary_had.is_some();
    let behind = |n: &&NodeName| acknowledges_now(w, p, primary, n) && !w.nearly_caught_up(n, &p.node);
    let node =
        w.ackers_in(Acker::Joining).find(behind).filter(|_| compared && !w.service.admits_replicas())?;
    let mut record = w.record.clone();
    record.ackers.insert(node.clone(), Acker::Leaving);
    let because = format!("{node} falls behind while it acknowledges: it catches up first");
    act(w, record, PlanKind::SyncSet, because)
}

fn waited_in_vain(w: &World, primary: &InstanceReport) -> Option<Verdict> {
    let slow = w.stage_age_ms() >= limits::RESTORE_MS && primary.seen.waits_for_ack;
    let may = !w.service.admits_replicas() && w.service.when_no_sync_replica == WhenNoSyncReplica::Degrade;
    (slow && may).then_some(())?;
    let mut record = w.record.clone();
    record.ackers.values_mut().for_each(|a| *a = Acker::Leaving);
    record.assurance = Assurance::Degraded;
    let because = format!("no replica caught up in {} ms of waiting writes (S5)", limits::RESTORE_MS);
    act(w, record, PlanKind::Degrade, because)
}

fn active_ackers<'w>(w: &'w World) -> impl Iterator<Item = &'w NodeName> {
    w.ackers_in(Acker::Member).chain(w.ackers_in(Acker::Joining))
}

/// Both ends say that it acknowledges.
fn acknowledges_now(w: &World, p: &Incumbent, primary: &InstanceReport, node: &NodeName) -> bool {
    let itself = w.fresh(node).is_some_and(|r| r.seen.acknowledges);
    itself && primary.seen.ackers.contains(node) && acker_well(w, p, node)
}

/// While durability holds, others have what it lacks. One that is far away never has all that the primary has now.
pub(crate) fn acker_ready(w: &World) -> Option<Verdict> {
    let (p, primary) = leading_fresh(w).filter(|_| w.record.assurance == Assurance::Held)?;
    let ready = |n: &&NodeName| acknowledges_now(w, p, primary, n) && w.nearly_caught_up(n, &p.node);
    let Some(node) = w.ackers_in(Acker::Joining).find(ready).cloned() else {
        let others = w.ackers_in(Acker::Member).any(|n| acknowledges_now(w, p, primary, n));
        return others.then(|| fell_behind(w, p, primary)).flatten();
    };
    let mut record = w.record.clone();
    record.ackers.insert(node.clone(), Acker::Member);
    act(w, record, PlanKind::SyncSet, format!("{node} acknowledges and is caught up"))
}

pub(crate) fn sync_set_small(w: &World) -> Option<Verdict> {
    let (p, _) = leading_fresh(w)?;
    let active = w.record.ackers.values().filter(|a| **a != Acker::Leaving).count();
    if active >= w.service.wanted_ackers() {
        return None;
    }
    let mut record = w.record.clone();
    // A leaving node that follows again is the first choice: it is recorded already.
    let returning = w.ackers_in(Acker::Leaving).find(|n| can_join(w, p, n)).cloned();
    let node = returning.or_else(|| spare_replica(w, p))?;
    record.ackers.insert(node.clone(), Acker::Joining);
    act(w, record, PlanKind::SyncSet, format!("{node} follows and can acknowledge"))
}

/// A stand-in is let go once it is not needed: a takeover must hear from every recorded acker (S4).
pub(crate) fn sync_set_large(w: &World) -> Option<Verdict> {
    let (p, _) = leading_fresh(w).filter(|_| w.record.assurance == Assurance::Held)?;
    let active = |n: &NodeName| w.record.ackers.get(n).is_some_and(|a| *a != Acker::Leaving);
    let count = w.record.ackers.keys().filter(|n| active(n)).count();
    let stay = w.ackers_in(Acker::Member).filter(|n| w.nearly_caught_up(n, &p.node)).count();
    let wanted = w.service.wanted_ackers();
    if count <= wanted || stay <= wanted {
        return None;
    }
    let least = replicas_by_fitness(w, &p.node).map(|(n, _)| n).filter(|n| active(n)).last()?;
    let mut record = w.record.clone();
    record.ackers.insert(least.clone(), Acker::Leaving);
    act(w, record, PlanKind::SyncSet, format!("enough replicas acknowledge without {least}"))
}

/// Nothing can be done, and not all is well: why.
pub(crate) fn short_of_ackers(w: &World) -> Option<Verdict> {
    let (p, _) = leading_fresh(w)?;
    let well = w.ackers_in(Acker::Member).filter(|n| acker_well(w, p, n)).count();
    let wanted = w.service.wanted_ackers();
    let blocker = match w.record.assurance {
        Assurance::Held if well >= wanted => return None,
        Assurance::Held if well > 0 => {
            Blocker::new("sync-set-short", format!("{well} of {wanted} replicas acknowledge"))
        }
        Assurance::Held => Blocker::new("writes-wait", "no replica acknowledges: writes wait until one does")
            .hint("bring a replica back; `when_no_sync_replica = \"degrade\"` would go on without"),
        Assurance::Degraded | Assurance::Restoring => Blocker::new(
            "degraded",
            "writes do not wait for a replica: a failure of the primary can lose them (S5)",
        )
        .hint("bring a replica back"),
    };
    Some(Verdict::Wait(vec![blocker]))
}
