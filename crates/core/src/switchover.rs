//! A planned switchover: whom it goes to, and when it is refused.
//!
//! Guarantees: nothing is touched before everything was checked, and afterwards everybody can follow the new primary.
//! Does not know: how a handover goes on ([`crate::choose`]), nor who asked for it.

use crate::decide::{Verdict, act, claim_record, in_office};
use crate::plan::PlanKind;
use crate::record::{Assurance, ClaimKind, GroupRecord, Incumbent, Wish};
use crate::version::must_not_follow;
use crate::world::World;
use crate::{NodeName, limits, upgrade};

pub(crate) fn wanted(w: &World) -> Option<Verdict> {
    let Some(Wish::Switchover { to }) = &w.record.wish else { return None };
    let p = in_office(w)?;
    let mut record = w.record.clone();
    record.wish = None;
    match target(w, p, to.as_ref()) {
        Err(why) => act(w, record, PlanKind::Wish, format!("switchover refused: {why}")),
        Ok(to) => {
            let because = format!("an operator asked for a switchover from {} to {to}", p.node);
            // On the way home it is displaced until it is there.
            let displaced = w.record.displaced && w.service.home() == Some(&to);
            let claimed = claim_record(w, ClaimKind::Handover { to }, false);
            act(w, GroupRecord { wish: None, displaced, ..claimed }, PlanKind::Switchover, because)
        }
    }
}

/// Whom a planned switchover goes to, checked before anything is touched. Public so that the API can say no at once.
pub fn target(w: &World, p: &Incumbent, to: Option<&NodeName>) -> Result<NodeName, String> {
    if let Some(n) = to {
        // Whoever names a node outside the sync set gets it: a handover loses nothing, it waits for the last write.
        return match ready(w, p, n) {
            Err(why) if !why.ends_with("not in the sync set") => Err(why),
            _ => Ok(n.clone()),
        };
    }
    let version = |n: &NodeName| w.last(n).map_or("", |r| r.seen.version.as_str());
    let mut reasons = Vec::new();
    for n in w.service.members.iter().filter(|n| **n != p.node) {
        let no_way_back = must_not_follow(version(&p.node), version(n));
        match (ready(w, p, n), no_way_back) {
            (Ok(()), None) => return Ok(n.clone()),
            (Ok(()), Some(_)) => reasons.push(format!(
                "{n} is of a later release, from which there is no way back: name it with --to, or `holdfast upgrade`"
            )),
            (Err(why), _) => reasons.push(why),
        }
    }
    Err(reasons.join("; "))
}

/// Why `n` cannot be handed the primacy now.
pub(crate) fn ready(w: &World, p: &Incumbent, n: &NodeName) -> Result<(), String> {
    if *n == p.node {
        return Err(format!("{n} is the primary already"));
    }
    if !w.service.members.contains(n) {
        return Err(format!("{n} is not a member of {}", w.group()));
    }
    let r = w.fresh(n).ok_or(format!("{n} is not reporting"))?;
    if !r.follows(&p.node) {
        return Err(format!("{n} does not follow {}", p.node));
    }
    let lag = r.seen.upstream.as_ref().and_then(|u| u.lag_ms).unwrap_or(0);
    if lag > limits::SWITCHOVER_LAG_MS {
        return Err(format!(
            "{n} is {lag} ms behind, more than the {} ms allowed",
            limits::SWITCHOVER_LAG_MS
        ));
    }
    if let Some(why) = upgrade::strands(w, n) {
        return Err(why);
    }
    if w.sync() && w.record.assurance == Assurance::Held && !w.record.sync_set().contains(n) {
        return Err(format!("{n} is not in the sync set"));
    }
    Ok(())
}
