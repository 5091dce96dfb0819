//! Rules about where services are: who stands in for whom, when a service goes home, and whether the survivors of any one
//! loss can carry what there is. Pure.

use super::draft::{File, NodeDraft, ServiceDraft, hand_back};
use super::report::{Finding, Findings, quoted};
use super::shape::At;
use holdfast_core::NodeName;
use holdfast_core::topology::{HandBack, Strategy};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(file: &File, out: &mut Findings) {
    for service in &file.services {
        pair(service, out);
        going_home(service, out);
    }
    crossed(file, out);
    witness(file, out);
    for node in &file.nodes {
        memory(node, file, out);
        load(node, file, out);
    }
}

fn is_mutual(service: &&ServiceDraft) -> bool {
    service.strategy == Some(Strategy::MutualStandby)
}

/// Names of a service's members, home first.
fn members(service: &ServiceDraft) -> impl Iterator<Item = &NodeName> {
    service.members.iter().flat_map(|at| at.value.iter().map(|m| &m.value))
}

fn pair(service: &ServiceDraft, out: &mut Findings) {
    let Some(at) = service.members.as_ref().filter(|m| is_mutual(&service) && m.value.len() != 2) else {
        return;
    };
    out.push(
        Finding::error("not-a-pair", "`mutual-standby` is for two machines that stand in for each other")
            .at(&at.span, format!("{} members", at.value.len()))
            .hint("name two members, home first; for more write `strategy = \"hot-standby\"`, with `hand_back` if you like"),
    );
}

fn going_home(service: &ServiceDraft, out: &mut Findings) {
    let when = service.hand_back.as_ref();
    let read = when.map(|at| hand_back(&at.value));
    if let (Some(at), Some(None)) = (when, read) {
        out.push(
            Finding::error("invalid-value", format!("{} is no time to go home at", quoted(&at.value)))
                .at(&at.span, "not understood")
                .hint("write \"auto\", \"manual\" or a time of day (UTC) such as \"03:30\""),
        );
        return;
    }
    let alone = service.members.as_ref().is_some_and(|m| m.value.len() == 1);
    let never = match read.flatten() {
        Some(HandBack::Manual) => true,
        None => !is_mutual(&service),
        Some(HandBack::Auto | HandBack::At(_)) => false,
    };
    let unused = [
        when.filter(|_| alone).map(|at| (&at.span, "there is one member: the service is always at home")),
        service
            .hand_back_after_s
            .as_ref()
            .filter(|at| at.given && never)
            .map(|at| (&at.span, "the service does not go home by itself")),
    ];
    for (span, why) in unused.into_iter().flatten() {
        let finding = Finding::warning("unused-field", why).at(span, "has no effect");
        out.push(finding.hint("remove it, or set `hand_back`"));
    }
}

/// Two machines of which one only waits.
fn crossed(file: &File, out: &mut Findings) {
    let mut pairs: BTreeMap<BTreeSet<&NodeName>, Vec<&ServiceDraft>> = BTreeMap::new();
    for service in file.services.iter().filter(is_mutual) {
        pairs.entry(members(service).collect()).or_default().push(service);
    }
    for services in pairs.values().filter(|s| s.len() > 1) {
        let homes: BTreeSet<_> = services.iter().map(|s| members(s).next()).collect();
        if let ([Some(home)], [.., last]) = (&*homes.into_iter().collect::<Vec<_>>(), &**services)
            && let Some(at) = &last.members
        {
            out.push(
                Finding::warning("not-crossed", format!("all services of this pair are at home on `{home}`"))
                    .at(&at.span, "the same home again")
                    .hint("turn this list around, so that both machines serve"),
            );
        }
    }
}

/// Two machines alone cannot tell a dead partner from a cut cable.
fn witness(file: &File, out: &mut Findings) {
    let votes = |n: &&NodeDraft| n.voter.as_ref().is_some_and(|v| v.value);
    let Some(at) = file.services.iter().find(is_mutual).and_then(|s| s.members.as_ref()) else { return };
    // Two are refused elsewhere.
    if file.nodes.iter().filter(votes).count() == 1 {
        out.push(
            Finding::warning("no-witness", "with one voter, its loss leaves nobody who could decide")
                .at(&at.span, "does not fail over then")
                .hint("three voters: both machines, and a `[[node]]` without services, for which a small machine will do"),
        );
    }
}

/// Every instance takes its memory, whether it serves or stands by.
fn memory(node: &NodeDraft, file: &File, out: &mut Findings) {
    let (Some(name), Some(has)) = (&node.name, &node.capacity.memory_mib) else { return };
    let here = |s: &&ServiceDraft| members(s).any(|m| *m == name.value);
    let needs = file.services.iter().filter(here).filter_map(|s| s.needs.memory_mib.as_ref());
    if let Some(finding) =
        excess("MiB", has, needs.collect(), format!("the services on `{}`", name.value), true)
    {
        out.push(finding.hint("give the node more, move a member elsewhere, or let an engine have less"));
    }
}

/// A primary takes its load; when a node is lost, the next member of each of its services.
fn load(node: &NodeDraft, file: &File, out: &mut Findings) {
    let (Some(name), Some(has)) = (&node.name, &node.capacity.load) else { return };
    let lost =
        file.nodes.iter().filter_map(|n| n.name.as_ref()).map(|n| &n.value).filter(|n| **n != name.value);
    let worst = std::iter::once(None).chain(lost.map(Some)).map(|lost| {
        let serves = |s: &&ServiceDraft| members(s).find(|m| Some(*m) != lost) == Some(&name.value);
        let needs: Vec<&At<u64>> =
            file.services.iter().filter(serves).filter_map(|s| s.needs.load.as_ref()).collect();
        (total(&needs), lost, needs)
    });
    let Some((_, lost, needs)) = worst.reduce(|a, b| if b.0 > a.0 { b } else { a }) else { return };
    let what = match lost {
        None => format!("what `{}` serves", name.value),
        Some(lost) => format!("what `{}` serves when `{lost}` is lost", name.value),
    };
    if let Some(finding) = excess("units of load", has, needs, what, false) {
        out.push(finding.hint("when that happens it will be slow, or worse: more capacity, or other homes"));
    }
}

fn total(needs: &[&At<u64>]) -> u64 {
    needs.iter().map(|n| n.value).fold(0, u64::saturating_add)
}

fn excess(unit: &str, has: &At<u64>, needs: Vec<&At<u64>>, what: String, is_error: bool) -> Option<Finding> {
    let needed = total(&needs);
    if needed <= has.value {
        return None;
    }
    let message = format!("{what} would need {needed} {unit} of {}", has.value);
    let kind = if is_error { Finding::error } else { Finding::warning };
    let finding = kind("over-capacity", message);
    let finding = finding.at(&has.span, "not enough");
    Some(needs.iter().fold(finding, |f, n| f.at(&n.span, "needed")))
}
