//! A service goes home: after a takeover moved it away, and its home has come back and is well.
//!
//! Guarantees: it is a switchover, which loses nothing or is not done; what a person moved is not moved back; a home that
//! does not stay well is not gone back to; what failed is tried more and more seldom. Does not know: what time it is
//! ([`World::minute`]).

use crate::choose::Blocker;
use crate::decide::{Verdict, act, claim_record, in_office};
use crate::plan::PlanKind;
use crate::record::{ClaimKind, Incumbent, Mode};
use crate::switchover;
use crate::topology::HandBack;
use crate::version::must_not_follow;
use crate::world::World;
use crate::{NodeName, limits};

pub(crate) fn home_ready(w: &World) -> Option<Verdict> {
    let (p, home) = displaced(w)?;
    obstacle(w, p, home).ok()?;
    let because = format!("{home} is well again: the service goes home from {}", p.node);
    act(w, claim_record(w, ClaimKind::Handover { to: home.clone() }, false), PlanKind::Switchover, because)
}

/// Something has to change before it can go home.
pub(crate) fn away(w: &World) -> Option<Verdict> {
    let (p, home) = displaced(w)?;
    match obstacle(w, p, home) {
        Err(Obstacle::Wrong(why)) if w.service.hand_back != HandBack::Manual => {
            Some(Verdict::Wait(vec![away_because(w, p, home, &why)]))
        }
        Ok(()) | Err(_) => None,
    }
}

/// It could go home and does not yet, as the topology wants it: nothing is wrong with that.
pub fn stays(w: &World) -> Option<Blocker> {
    let (p, home) = displaced(w)?;
    match obstacle(w, p, home) {
        Err(Obstacle::Wanted(why)) => Some(away_because(w, p, home, &why)),
        Ok(()) | Err(Obstacle::Wrong(_)) => None,
    }
}

fn away_because(w: &World, p: &Incumbent, home: &NodeName, why: &str) -> Blocker {
    Blocker::new("away-from-home", format!("{} serves in the place of {home}: {why}", p.node))
        .hint(format!("`holdfast switchover {} --home` does it now", w.group()))
}

/// Who serves, and whose place it is.
fn displaced<'w>(w: &'w World) -> Option<(&'w Incumbent, &'w NodeName)> {
    let p = in_office(w).filter(|_| w.record.displaced)?;
    Some((p, w.service.home().filter(|home| **home != p.node)?))
}

/// Why it does not go home now.
enum Obstacle {
    Wrong(String),
    Wanted(String),
}

fn obstacle(w: &World, p: &Incumbent, home: &NodeName) -> Result<(), Obstacle> {
    match (unfit(w, p, home), unwanted(w)) {
        (Some(why), _) => Err(Obstacle::Wrong(why)),
        (None, Some(why)) => Err(Obstacle::Wanted(why)),
        (None, None) => Ok(()),
    }
}

fn unfit(w: &World, p: &Incumbent, home: &NodeName) -> Option<String> {
    if w.record.mode == Mode::Paused {
        return Some("automatic actions are paused".into());
    }
    if w.record.upgrade.is_some() || !w.record.restart.is_empty() || w.record.reinit.contains_key(home) {
        return Some("other work is under way".into());
    }
    // In the sync set or not: with more than two members it may have been others' turn.
    if let Err(why) = switchover::target(w, p, Some(home)) {
        return Some(why);
    }
    let version = |n: &NodeName| w.fresh(n).map_or("", |r| r.seen.version.as_str());
    if let Some(why) = must_not_follow(version(&p.node), version(home)) {
        return Some(format!("from {home} there would be no way back ({why}): `holdfast upgrade`"));
    }
    if w.fresh(home).and_then(|r| r.seen.upstream.as_ref()).is_none_or(|u| u.lag_ms.is_none()) {
        return Some(format!("how far {home} is behind is not known"));
    }
    let free = w.fresh(home).and_then(|r| r.seen.free_disk_bytes);
    if free.is_some_and(|b| b < limits::DISK_ROOM_BYTES) {
        return Some(format!("the disk of {home} is nearly full"));
    }
    if w.record.last_takeover.is_some() {
        return Some("the cool-down after the takeover is not over".into());
    }
    let well_ms = w.well_since.get(home).map_or(0, |since| w.now.since(*since));
    let left_ms = well_for_ms(w).saturating_sub(well_ms);
    (left_ms > 0).then(|| {
        let failed = match w.record.hand_backs_failed {
            0 => String::new(),
            n => format!("the switchover home failed ({n}); "),
        };
        format!("{failed}{home} has to be well for {} s more", left_ms.div_ceil(1_000))
    })
}

fn well_for_ms(w: &World) -> u64 {
    let again_ms = match w.record.hand_backs_failed {
        0 => 0,
        n => limits::HAND_BACK_RETRY_MS << (n - 1).min(16),
    };
    w.service.hand_back_after_ms.max(again_ms.min(limits::HAND_BACK_AFTER_MAX_S * 1_000))
}

fn unwanted(w: &World) -> Option<String> {
    match w.service.hand_back {
        HandBack::Manual => Some("a person does that".into()),
        HandBack::At(at) if !w.service.hand_back.is_due(w.minute) => {
            Some(format!("it goes home at {:02}:{:02} UTC", at / 60, at % 60))
        }
        HandBack::At(_) | HandBack::Auto => None,
    }
}
