//! An agent's half of the protocol for one instance, as a state machine without I/O: what it may do, what it has
//! promised, and what to do next to make the engine fit its assignment.
//!
//! The host (or the simulator) observes the engine, asks [`Member::next`], carries the verb out with the engine's
//! driver, and comes again. Every verb is idempotent, and any of them may be the last before a crash.

mod following;

use crate::record::{Assignment, Life, Role, Session};
use crate::report::{InstanceReport, Lost, Observed, Process, Stream};
use crate::{Epoch, GroupName, Millis, NodeName, Position, limits};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Why an assignment is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("epoch {offered} is over: this agent promised epoch {promised}")]
    OldEpoch { offered: Epoch, promised: Epoch },
    #[error("revision {offered} is older than {held}")]
    OldRevision { offered: u64, held: u64 },
}

/// One thing to do to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Start the process: read-only, not replicating (S9).
    Start,
    /// Cut clients, make read-only; past the bound, kill (S3).
    Close,
    /// Let open transactions finish (bounded), then [`Verb::Close`].
    Yield,
    /// Stop the receiving half only; the applying half goes on (S7).
    StopReceiving,
    /// Become fit to be opened: forget the upstream, wait for acknowledgements or not. Stays read-only.
    Promote { wait_for_ack: bool },
    /// Create the accounts of the topology; only on the first primary of a new group.
    CreateAccounts,
    /// Primary: let these members, and no others, replicate.
    Admit(BTreeSet<NodeName>),
    /// Take writes.
    Open,
    /// Primary: wait for acknowledgements, or not (recorded first, S5).
    WaitForAck(bool),
    /// Ask the primary's agent for its position, and hand it to [`Member::compared`].
    Compare { primary: NodeName },
    /// Replicate from `primary`; histories are known to fit.
    Follow { primary: NodeName, acknowledges: bool },
    /// Replica: acknowledge, or not.
    Acknowledge(bool),
    /// Save what only this instance has (S10), then [`Member::saved`].
    SaveDivergence { theirs: Position },
    /// Rebuild from the primary's data.
    Reclone { primary: NodeName },
    /// End the process in order, then [`Verb::Start`].
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    epoch: Epoch,
    /// When the renewal that was committed was *sent* (S2).
    sent: Millis,
}

/// How the own history relates to that of the primary to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
enum History {
    Unknown,
    /// Contained in the primary's, whose position was `theirs`.
    Fits {
        theirs: Position,
    },
    /// Has what the primary lacks; to be saved.
    Diverges {
        theirs: Position,
    },
    /// Saved; to be rebuilt.
    Saved,
    /// Not all of it could be saved: it stays as it is until a person wishes it rebuilt (S10).
    Unsaved,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Member {
    node: NodeName,
    group: GroupName,
    /// Of the process: another one counts on.
    life: Life,
    session: Session,
    promised: Epoch,
    assignment: Option<Assignment>,
    leads: Option<Epoch>,
    /// Never opens for this epoch or an earlier one.
    gave_up: Option<Epoch>,
    accounts_made: bool,
    lease: Option<Lease>,
    /// S14, as primary: who vouched, and when the question was sent.
    vouchers: BTreeMap<NodeName, Millis>,
    /// S14, as replica: until when this member must not open, having vouched for another.
    vouched_until: Millis,
    history: History,
    history_of: Option<(Epoch, NodeName)>,
    rebuilt_for: Option<Session>,
    lost: Option<Lost>,
    /// When the question was sent to which a controller answered with the assignment in force.
    confirmed: Option<Millis>,
    owes: Owes,
    /// Where waiting for acknowledgements is the proxies' part: they are told to.
    tells_to_wait: bool,
    /// How often it was a primary that did not wait ([`Assignment::relaxed`]), and from when on no proxy can still act on
    /// what it was told then.
    relaxed: u64,
    turned: Millis,
}

/// What must be received before an instance again has everything that it ever acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owes {
    /// Since the process began it was not compared with anybody.
    Unknown,
    Nothing,
    Until(Position),
}

/// A primary asks a member directly whether it may go on while the store is away (S14).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VouchRequest {
    pub group: GroupName,
    pub primary: NodeName,
    pub epoch: Epoch,
}

impl Member {
    pub fn new(node: NodeName, group: GroupName, session: Session) -> Member {
        Member {
            node,
            group,
            life: Life { session, number: 0 },
            session,
            promised: Epoch(0),
            assignment: None,
            leads: None,
            gave_up: None,
            accounts_made: false,
            lease: None,
            vouchers: BTreeMap::new(),
            vouched_until: Millis(0),
            history: History::Unknown,
            history_of: None,
            rebuilt_for: None,
            lost: None,
            confirmed: None,
            owes: Owes::Unknown,
            tells_to_wait: false,
            relaxed: 0,
            turned: Millis(0),
        }
    }

    pub fn life(&self) -> Life {
        self.life
    }
    pub fn group(&self) -> &GroupName {
        &self.group
    }
    pub fn assignment(&self) -> Option<&Assignment> {
        self.assignment.as_ref()
    }
    pub fn promised(&self) -> Epoch {
        self.promised
    }
    /// The epoch this instance is open in.
    pub fn leads(&self) -> Option<Epoch> {
        self.leads
    }

    /// The last epoch that it never opens for again.
    pub fn gave_up(&self) -> Option<Epoch> {
        self.gave_up
    }

    // ---- what comes in ----

    /// Takes an assignment, unless it is older than what was promised.
    pub fn assign(&mut self, a: Assignment, now: Millis) -> Result<(), Refusal> {
        if a.epoch < self.promised {
            return Err(Refusal::OldEpoch { offered: a.epoch, promised: self.promised });
        }
        if let Some(held) = self.assignment.as_ref().filter(|held| a.revision < held.revision) {
            return Err(Refusal::OldRevision { offered: a.revision, held: held.revision });
        }
        self.promised = a.epoch;
        if self.forgotten() {
            self.owes = Owes::Nothing;
        }
        if !matches!(a.role, Role::Follow { reclone: true, .. } | Role::Prepare { reclone: true, .. }) {
            self.rebuilt_for = None; // the wish is settled; the next one is another
        }
        if a.relaxed > self.relaxed {
            (self.relaxed, self.turned) = (a.relaxed, now.plus(limits::ROUTES_TURNED_MS));
        }
        if self.cannot_be_meant(&a) {
            self.gave_up = self.gave_up.max(Some(a.epoch));
        }
        let of = followed(&a);
        if self.history_of != of {
            self.history = History::Unknown;
            self.history_of = of;
        }
        self.assignment = Some(a);
        Ok(())
    }

    /// The process that was chosen to lead is gone, and with it what was in its memory (S9).
    fn cannot_be_meant(&self, a: &Assignment) -> bool {
        matches!(a.role, Role::Lead { session, process, admits: Some(_), .. }
            if session == self.session && process != self.life.number)
            && self.leads != Some(a.epoch)
    }

    /// A controller answered to a report sent at `sent`, and the assignment it gave was taken. Until the first call,
    /// every assignment counts as confirmed.
    pub fn confirmed(&mut self, sent: Millis) {
        self.confirmed = self.confirmed.max(Some(sent));
    }

    /// The lease to ask for now: only for an epoch that this agent life may open or has open.
    pub fn renewal(&self) -> Option<Epoch> {
        let a = self.assignment.as_ref()?;
        let mine = matches!(a.role, Role::Lead { session, .. } if session == self.session);
        (mine && self.gave_up.is_none_or(|g| g < a.epoch)).then_some(a.epoch)
    }

    /// A renewal was committed; it was sent at `sent` on this host's clock.
    pub fn renewed(&mut self, epoch: Epoch, sent: Millis) {
        let newer = self.lease.is_none_or(|l| l.epoch < epoch || (l.epoch == epoch && l.sent < sent));
        if newer {
            self.lease = Some(Lease { epoch, sent });
        }
    }

    /// Asked by a primary that cannot reach the store (S14). Who says yes will not open for
    /// `LEASE_MS + CLOCK_DRIFT_MS`.
    pub fn vouch(&mut self, ask: &VouchRequest, now: Millis) -> bool {
        let follows = self.assignment.as_ref().is_some_and(|a| {
            followed(a).is_some_and(|(epoch, primary)| primary == ask.primary && epoch == ask.epoch)
        });
        let yes = follows && self.promised == ask.epoch && self.leads.is_none();
        if yes {
            self.vouched_until = now.plus(limits::LEASE_MS + limits::CLOCK_DRIFT_MS);
        }
        yes
    }

    /// `by` said yes to a question sent at `sent`.
    pub fn vouched_by(&mut self, by: NodeName, epoch: Epoch, sent: Millis) {
        if self.leads == Some(epoch) {
            self.vouchers.insert(by, sent);
        }
    }

    /// The process ended: whatever epoch was open is over for this agent life.
    pub fn exited(&mut self) {
        self.life.number += 1;
        self.give_up();
        if let Some(a) = self.assignment.as_ref().filter(|a| self.cannot_be_meant(a)) {
            self.gave_up = self.gave_up.max(Some(a.epoch));
        }
        self.history = History::Unknown;
        self.owes = Owes::Unknown;
    }

    /// [`Verb::Close`] or [`Verb::Yield`] is done (or the process was killed).
    pub fn closed(&mut self) {
        self.give_up();
    }

    fn give_up(&mut self) {
        if let Some(epoch) = self.leads.take() {
            self.gave_up = self.gave_up.max(Some(epoch));
        }
        self.vouchers.clear();
    }

    /// [`Verb::Open`] is about to be carried out: from here on the instance may be taking writes.
    pub fn opening(&mut self, epoch: Epoch) {
        self.leads = Some(epoch);
        // It was chosen because nothing that was acknowledged is missing here (S6).
        if self.owes == Owes::Unknown {
            self.owes = Owes::Nothing;
        }
    }

    /// [`Verb::Promote`] or [`Verb::WaitForAck`], where waiting is the proxies' part: who asks this primary itself is told
    /// to wait, or not to.
    pub fn proxies_wait(&mut self, on: bool) {
        self.tells_to_wait = on;
    }

    pub fn tells_to_wait(&self) -> bool {
        self.tells_to_wait
    }

    /// All that could still send a write were told to wait.
    fn turned(&self, now: Millis) -> bool {
        now >= self.turned
    }

    pub fn accounts_created(&mut self) {
        self.accounts_made = true;
    }

    /// Answer to [`Verb::Compare`]: both positions, `theirs` taken from the primary after `ours` stopped growing.
    pub fn compared(&mut self, ours: &Position, theirs: &Position) {
        let theirs = theirs.clone();
        self.owes = Owes::Until(theirs.clone());
        self.history =
            if theirs.contains(ours) { History::Fits { theirs } } else { History::Diverges { theirs } };
    }

    /// [`Verb::SaveDivergence`] is done; `lost` is what only this instance had, if anything.
    pub fn saved(&mut self, lost: Option<Lost>) {
        if !matches!(self.history, History::Diverges { .. }) {
            self.lost = lost.or(self.lost.take());
            return;
        }
        // It has something, or the histories would not diverge: found nowhere means not saved.
        let lost = lost.unwrap_or_else(|| Lost {
            transactions: 0,
            unit: "transactions".into(),
            file: String::new(),
            epoch: self.promised,
            complete: false,
        });
        self.history = if lost.complete { History::Saved } else { History::Unsaved };
        if !lost.complete {
            self.rebuilt_for = None; // a wish that still stands is for this as well
        }
        // Heartbeats alone are no loss.
        if lost.transactions > 0 || !lost.complete {
            self.lost = Some(lost);
        }
    }

    /// [`Verb::Reclone`] is done; `lost` is what it found and saved that the donor did not have.
    pub fn recloned(&mut self, lost: Option<Lost>) {
        // Compared again before it follows: the donor's data is what the primary had when the copy ended.
        self.history = History::Unknown;
        // A rebuild that nobody wished for does not stand for one that is wished for later.
        let wished = self.assignment.as_ref().is_some_and(|a| {
            matches!(a.role, Role::Follow { reclone: true, .. } | Role::Prepare { reclone: true, .. })
        });
        self.rebuilt_for = self.rebuilt_for.max(wished.then_some(self.session));
        self.lost = lost.or(self.lost.take());
    }

    // ---- what follows ----

    /// Until when this instance may take writes; `None`: not at all (S1, S2, S14). While handing over, the lease of
    /// the epoch before still counts: the claim only stopped its renewal.
    pub fn write_until(&self) -> Option<Millis> {
        let a = self.assignment.as_ref()?;
        let epoch = match &a.role {
            Role::Lead { session, .. } if *session == self.session => a.epoch,
            Role::Yield => self.leads?,
            Role::Lead { .. } | Role::Idle | Role::Halt | Role::Follow { .. } | Role::Prepare { .. } => {
                return None;
            }
        };
        if self.gave_up.is_some_and(|g| g >= epoch) {
            return None;
        }
        let lease = self.lease.filter(|l| l.epoch == epoch)?;
        let last = lease.sent.max(self.vouched_since(a).unwrap_or_default());
        Some(last.plus(limits::LEASE_MS - limits::LEASE_MARGIN_MS))
    }

    /// S14: *all* other members vouched; the oldest answer counts.
    fn vouched_since(&self, a: &Assignment) -> Option<Millis> {
        a.members.iter().filter(|m| **m != self.node).map(|m| self.vouchers.get(m).copied()).min().flatten()
    }

    fn may_write(&self, now: Millis) -> bool {
        self.write_until().is_some_and(|until| now < until)
    }

    /// Members to ask for S14: the renewals fail and the lease nears its end.
    pub fn wants_vouchers(&self, now: Millis) -> Option<VouchRequest> {
        let epoch = self.leads?;
        let lease = self.lease.filter(|l| l.epoch == epoch)?;
        (now.since(lease.sent) > limits::VOUCH_AFTER_MS).then(|| VouchRequest {
            group: self.group.clone(),
            primary: self.node.clone(),
            epoch,
        })
    }

    /// The next thing to do; `None`: the instance fits, or waits for something outside.
    pub fn next(&self, seen: &Observed, now: Millis) -> Option<Verb> {
        if self.leads.is_some() && !self.may_write(now) {
            return Some(Verb::Close);
        }
        let role = self.assignment.as_ref().map_or(&Role::Idle, |a| &a.role);
        match &seen.process {
            Process::Starting | Process::Unresponsive => return None,
            // A primary that ended is reported first; it starts again when it is told to be something else.
            Process::Exited { .. } | Process::Refuses { .. } => {
                return (!matches!(role, Role::Lead { .. })).then_some(Verb::Start);
            }
            Process::Running => {}
        }
        if seen.writable && self.leads.is_none() {
            return Some(Verb::Close);
        }
        match role {
            Role::Idle => None,
            Role::Halt => seen.receives().then_some(Verb::StopReceiving),
            Role::Yield => self.leads.is_some().then_some(Verb::Yield),
            Role::Lead { session, wait_for_ack, found, admits, .. } if *session == self.session => {
                self.next_as_primary(seen, now, *wait_for_ack, *found, admits.as_ref())
            }
            Role::Lead { .. } => seen.receives().then_some(Verb::StopReceiving),
            Role::Follow { restart: Some(life), .. } | Role::Prepare { restart: Some(life), .. }
                if *life == self.life =>
            {
                next_to_restart(seen)
            }
            Role::Follow { primary, acknowledges, reclone, .. } => {
                self.next_as_replica(seen, now, primary, *acknowledges, *reclone)
            }
            Role::Prepare { primary, reclone, .. } => self.next_before_following(seen, primary, *reclone),
        }
    }

    fn next_as_primary(
        &self,
        seen: &Observed,
        now: Millis,
        wait_for_ack: bool,
        found: bool,
        admits: Option<&BTreeSet<NodeName>>,
    ) -> Option<Verb> {
        let epoch = self.assignment.as_ref()?.epoch;
        let waits = if seen.admits.is_some() { self.tells_to_wait() } else { seen.waits_for_ack };
        // Before it opens, so that replicas are there when the first write is.
        let admit = admits.filter(|wanted| seen.admits.as_ref().is_some_and(|there| there != *wanted));
        if self.leads == Some(epoch) {
            if !seen.writable {
                return Some(Verb::Open); // it was begun, and failed
            }
            if let Some(nodes) = admit {
                return Some(Verb::Admit(nodes.clone()));
            }
            if waits != wait_for_ack {
                return Some(Verb::WaitForAck(wait_for_ack));
            }
            // Leads again after a crash: what its start rolled back is history that nobody has.
            let theirs = seen.applied.clone().filter(|_| seen.unjudged > 0);
            return theirs.map(|theirs| Verb::SaveDivergence { theirs });
        }
        if self.gave_up.is_some_and(|g| g >= epoch) {
            return None;
        }
        if seen.receives() {
            return Some(Verb::StopReceiving);
        }
        if !seen.drained {
            return None; // S7
        }
        if seen.upstream.is_some() || waits != wait_for_ack {
            return Some(Verb::Promote { wait_for_ack });
        }
        if let Some(nodes) = admit {
            return Some(Verb::Admit(nodes.clone()));
        }
        if found && !self.accounts_made {
            return Some(Verb::CreateAccounts);
        }
        let by_old_routes = seen.admits.is_some() && wait_for_ack && !self.turned(now);
        (self.may_write(now) && now >= self.vouched_until && !by_old_routes).then_some(Verb::Open)
    }

    /// The record had no part for it any more when it was told last, and it does not connect before it is told of one:
    /// whatever it acknowledged before is elsewhere, and nothing is owed of it (S5).
    fn forgotten(&self) -> bool {
        self.assignment.as_ref().is_some_and(|a| matches!(a.role, Role::Prepare { recorded: false, .. }))
    }

    /// Nothing that this instance ever acknowledged is missing. Worth a mark on its disk ([`Observed::retained`]).
    pub fn intact(&self, seen: &Observed) -> bool {
        let all = seen.received.as_ref().is_some_and(|received| match &self.owes {
            Owes::Unknown => false,
            Owes::Nothing => true,
            Owes::Until(theirs) => received.contains(theirs),
        });
        seen.running() && (seen.retained || all || self.forgotten() && seen.received.is_some())
    }

    /// True if the instance is what its assignment says.
    fn fits(&self, seen: &Observed, now: Millis) -> bool {
        let Some(a) = &self.assignment else { return false };
        let role = match &a.role {
            Role::Idle => true,
            Role::Halt => seen.drained,
            Role::Yield => self.leads.is_none(),
            Role::Lead { .. } => self.leads == Some(a.epoch),
            Role::Follow { primary, .. } => seen
                .upstream
                .as_ref()
                .is_some_and(|u| u.node.as_ref() == Some(primary) && u.stream == Stream::Up),
            Role::Prepare { reclone, .. } => self.fit_to_follow(seen, self.rebuild(*reclone)),
        };
        role && seen.running() && self.next(seen, now).is_none()
    }

    /// What to tell the controller. The host adds which programs it has.
    pub fn report(
        &self,
        seen: &Observed,
        activity: Option<String>,
        trouble: Option<String>,
        now: Millis,
    ) -> InstanceReport {
        let settled = self.assignment.as_ref().filter(|_| self.fits(seen, now)).map_or(0, |a| a.revision);
        let prepares = matches!(self.assignment.as_ref().map(|a| &a.role), Some(Role::Prepare { .. }));
        let mut shown = seen.clone();
        if seen.admits.is_some() {
            // What it had was seen at that time.
            shown.waits_for_ack = self.tells_to_wait && self.turned(seen.at);
        }
        InstanceReport {
            group: self.group.clone(),
            session: self.session,
            taken: now,
            promised: self.promised,
            held: self.assignment.as_ref().map_or(0, |a| a.revision),
            settled,
            leads: self.leads,
            gave_up: self.gave_up,
            seen: shown,
            activity,
            trouble,
            lost: self.lost.clone(),
            intact: self.intact(seen),
            ready: prepares && settled > 0,
            life: self.life,
            installed: None,
            rebuilt_for: self.rebuilt_for,
        }
    }
}

/// Only with all applied that was received: other programs need not understand what these have left.
fn next_to_restart(seen: &Observed) -> Option<Verb> {
    if seen.receives() {
        return Some(Verb::StopReceiving);
    }
    (seen.drained || applying_failed(seen)).then_some(Verb::Restart)
}

fn applying_failed(seen: &Observed) -> bool {
    seen.upstream.as_ref().is_some_and(|u| u.apply_error.is_some())
}

fn followed(a: &Assignment) -> Option<(Epoch, NodeName)> {
    match &a.role {
        Role::Follow { primary, .. } | Role::Prepare { primary, .. } => Some((a.epoch, primary.clone())),
        Role::Idle | Role::Halt | Role::Yield | Role::Lead { .. } => None,
    }
}
