//! With no fault left, the group becomes healthy: one open primary, everybody following it, the sync set full, and
//! clients get answers.

use crate::sim::Sim;
use crate::sim::store::summary;
use holdfast_core::record::{Acker, Assurance};
use holdfast_core::topology::HandBack;

pub fn healthy(sim: &Sim) -> bool {
    missing(sim).is_none()
}

fn missing(sim: &Sim) -> Option<String> {
    // A host that is gone while nothing was promised may have taken with it what the others wait for.
    if sim.gone.is_some() && !sim.moments.held {
        return None;
    }
    let Some((record, _)) = sim.store.record() else { return Some("no record".into()) };
    let Some(primary) = record.primary() else { return Some("no primary is named".into()) };
    let leader = sim.host_of(&primary.node);
    let leads = sim.hosts[leader].agent.as_ref().and_then(|a| a.member.leads());
    if leads != Some(record.epoch) || !sim.hosts[leader].engine.writable {
        return Some(format!("{} is not open", primary.node));
    }
    for node in sim.members.iter().copied().filter(|n| *n != leader && sim.gone != Some(*n)) {
        let engine = &sim.hosts[node].engine;
        if !engine.observe(&sim.names, sim.now).receives()
            || engine.receiver.as_ref().is_none_or(|r| r.node != leader || r.conn.is_none())
            || engine.memory.as_ref().is_some_and(|m| m.copying.is_some())
        {
            return Some(format!("{} does not follow", sim.names[node]));
        }
        if engine.release < sim.hosts[leader].engine.release {
            return Some(format!("{} is of an earlier release than its primary", sim.names[node]));
        }
        if engine.writable {
            return Some(format!("{} is open too", sim.names[node]));
        }
    }
    // Without that host it waits, as it should.
    if sim.gone.is_none() && (record.upgrade.is_some() || !record.restart.is_empty()) {
        return Some("an upgrade is under way".into());
    }
    let there = sim.members.iter().filter(|n| sim.gone != Some(**n)).count();
    let wanted = sim.service().wanted_ackers().min(there - 1);
    let members = record.ackers.values().filter(|a| **a == Acker::Member).count();
    if sim.sync()
        && (record.assurance != Assurance::Held || members != wanted || members != record.ackers.len())
    {
        return Some("the sync set is not full".into());
    }
    // To a later release, from which there is no way back, only an upgrade leads.
    let later = sim.hosts[sim.members[0]].engine.release > sim.hosts[leader].engine.release;
    // What failed during the faults is not tried again so soon.
    let due = sim.service().hand_back == HandBack::Auto && record.hand_backs_failed == 0;
    if due && record.displaced && sim.gone.is_none() && !later {
        return Some("it has not gone home".into());
    }
    let answered = |c: &crate::sim::clients::Client| c.last_answer + 1_000 > sim.now;
    let there = |c: &&crate::sim::clients::Client| c.through_proxy() && sim.gone != Some(c.home());
    if !sim.clients.iter().filter(there).all(answered) {
        return Some("a client through the proxy gets no answer".into());
    }
    None
}

pub fn what_is_missing(sim: &Sim) -> String {
    let record = sim.store.record().map(|(r, _)| summary(r)).unwrap_or_default();
    let says: Vec<String> = (0..sim.hosts.len())
        .filter_map(|n| sim.hosts[n].office.as_ref().map(|o| format!("{} says {}", sim.names[n], o.says)))
        .collect();
    let engines: Vec<String> = sim
        .members
        .iter()
        .map(|n| {
            let seen = sim.agent_sees(*n);
            let busy = sim.hosts[*n].agent.as_ref().and_then(|a| a.busy.as_ref().map(|(_, v)| v.clone()));
            let at = seen.received.map(|p| p.to_string()).unwrap_or_default();
            format!(
                "{} {:?} at {at} drained {} upstream {:?} busy {busy:?}",
                sim.names[*n], seen.process, seen.drained, seen.upstream
            )
        })
        .collect();
    format!("{}; {record}; {}; {}", missing(sim).unwrap_or_default(), says.join("; "), engines.join("; "))
}
