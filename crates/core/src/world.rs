//! Everything known about one group at one moment, by one controller. The decider sees this and nothing else.

use crate::record::{Acker, GroupRecord, Incumbent};
use crate::report::{InstanceReport, Process};
use crate::topology::{Durability, Management, Service, Topology};
use crate::{GroupName, Millis, NodeName, Position, Seen, limits};
use std::collections::BTreeMap;

/// See the module. Times are this controller's own monotonic clock.
#[derive(Debug, Clone)]
pub struct World<'a> {
    pub topology: &'a Topology,
    pub service: &'a Service,
    pub record: &'a GroupRecord,
    /// The record's, in the store.
    pub revision: u64,
    pub now: Millis,
    /// Since when this controller knows the record as it stands.
    pub record_since: Millis,
    /// When the last renewal of the incumbent's lease was seen committed; for a controller that took over, not
    /// before it did.
    pub lease_renewed: Millis,
    pub members: BTreeMap<NodeName, Seen<InstanceReport>>,
    /// For each recorded acker that the primary does not see connected: since when.
    pub absent_since: BTreeMap<NodeName, Millis>,
    /// For each member that reports and does not follow the primary: since when.
    pub unwell_since: BTreeMap<NodeName, Millis>,
    /// For each member that reports and follows the primary: since when.
    pub well_since: BTreeMap<NodeName, Millis>,
    /// What the primary said it had [`limits::NEARLY_MS`] ago, or half as long.
    pub primary_had: Option<Position>,
    /// And after that, at most half as long ago.
    pub primary_had_lately: Option<Position>,
    /// On the way back from degraded durability: what the primary had when it first said that it waits again. Whatever was
    /// answered without an acknowledgement is in that.
    pub primary_waited: Option<Position>,
    /// For each acker that is certain not to acknowledge any more: what the primary had then. Whatever it acknowledged is in
    /// that.
    pub absent_had: BTreeMap<NodeName, Position>,
    /// For each member that was told not to acknowledge although it followed, while writes waited for nobody: when.
    pub sent_back: BTreeMap<NodeName, Millis>,
    /// Minute of the day (UTC); `None` where nobody knows. Only of [`crate::topology::HandBack::At`].
    pub minute: Option<u16>,
    /// Until when another automatic takeover is not wanted (S12).
    pub cool_down_until: Option<Millis>,
    /// Groups whose primary is missing right now, this one included, and all groups (S12).
    pub groups_failing: usize,
    pub groups: usize,
}

impl World<'_> {
    pub fn group(&self) -> &GroupName {
        &self.record.group
    }
    pub fn sync(&self) -> bool {
        self.service.durability == Durability::Sync
    }
    /// A member's report, if fresh.
    pub fn fresh(&self, node: &NodeName) -> Option<&InstanceReport> {
        self.members.get(node).and_then(Seen::fresh)
    }
    /// A member's last report, however old.
    pub fn last(&self, node: &NodeName) -> Option<&InstanceReport> {
        self.members.get(node).and_then(Seen::last)
    }
    /// Members in order of preference with their fresh reports.
    pub fn fresh_members(&self) -> impl Iterator<Item = (&NodeName, &InstanceReport)> {
        self.service.members.iter().filter_map(|n| Some((n, self.fresh(n)?)))
    }
    pub fn stage_age_ms(&self) -> u64 {
        self.now.since(self.record_since)
    }
    /// S2: no renewal can still be counted on by the holder.
    pub fn lease_over(&self) -> bool {
        self.now >= self.lease_over_at()
    }
    pub fn lease_over_at(&self) -> Millis {
        self.lease_renewed.plus(limits::LEASE_MS + limits::CLOCK_DRIFT_MS)
    }
    /// The incumbent can take no more writes in the epoch it led: its own agent says so.
    pub fn surrendered(&self, from: &Incumbent) -> bool {
        // A managed engine ended with its former agent; an attached one may have gone on.
        let managed = matches!(self.service.management, Management::Managed { .. });
        let closed = |r: &InstanceReport| r.seen_closed() || managed && r.seen.process == Process::Starting;
        self.last(&from.node).is_some_and(|r| {
            // Another session begins closed (S9) and may never open that epoch again.
            (r.session != from.session && closed(r) && r.leads.is_none()) || r.closed_for(from.epoch.next())
        })
    }
    /// Has everything that the primary last reported.
    pub fn caught_up(&self, node: &NodeName, primary: &NodeName) -> bool {
        let applied = |r: &InstanceReport| r.seen.applied.clone();
        match (self.fresh(node).and_then(|r| r.seen.received.clone()), self.fresh(primary).and_then(applied))
        {
            (Some(theirs), Some(primarys)) => theirs.contains(&primarys),
            _ => false,
        }
    }
    /// Has everything that the primary reported a moment ago.
    pub fn nearly_caught_up(&self, node: &NodeName, primary: &NodeName) -> bool {
        self.has(node, self.primary_had.as_ref()) || self.closely_caught_up(node, primary)
    }
    /// Has everything that the primary reported half a moment ago.
    pub fn closely_caught_up(&self, node: &NodeName, primary: &NodeName) -> bool {
        self.has(node, self.primary_had_lately.as_ref()) || self.caught_up(node, primary)
    }
    /// Has everything that the primary reported at some earlier time. Of two reports of the same moment the replica's always
    /// lacks what is on its way, so that under load it may never have what the primary's *last* one says.
    pub fn has(&self, node: &NodeName, position: Option<&Position>) -> bool {
        let received = self.fresh(node).and_then(|r| r.seen.received.as_ref());
        received.zip(position).is_some_and(|(has, wanted)| has.contains(wanted))
    }
    /// Recorded ackers in `state`.
    pub fn ackers_in(&self, state: Acker) -> impl Iterator<Item = &NodeName> {
        self.record.ackers.iter().filter(move |(_, a)| **a == state).map(|(n, _)| n)
    }
    /// Final position of a member that halted for this epoch.
    pub fn halted_position(&self, node: &NodeName) -> Option<&Position> {
        let r = self.last(node)?;
        if r.halted_for(self.record.epoch) { r.seen.received.as_ref() } else { None }
    }
}
