//! One instance: its engine, and the state machine that says what to do with it.
//!
//! Two loops share it. [`Instance::drive`] observes and carries out one verb at a time; a verb may take long.
//! [`Instance::keep_lease`] does nothing but close the instance when its right to write ends, whatever the other
//! loop is stuck in (S2, S3).

mod gate;
mod life;

use super::rejoin;
use crate::api::hosts::Lead;
use crate::clock::Clock;
use holdfast_core::member::{Member, Verb, VouchRequest};
use holdfast_core::record::{Assignment, Role, Session};
use holdfast_core::report::{InstanceReport, Lost, Observed, Process};
use holdfast_core::topology::Service;
use holdfast_core::version::must_not_follow;
use holdfast_core::{Epoch, GroupName, Millis, NodeName, limits};
use holdfast_engine::Engine;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Closes the proxy's gate on this host before the engine is touched (S3).
pub type CloseGate = Box<dyn Fn(Epoch) + Send + Sync>;

/// See the module.
pub struct Instance {
    service: Service,
    clock: Clock,
    engine: Arc<dyn Engine>,
    rejoin: rejoin::Rejoin,
    close_gate: CloseGate,
    lost_file: PathBuf,
    vouched_file: PathBuf,
    /// The agent's life before this one vouched for another primary.
    vouched_before: bool,
    state: Mutex<State>,
    /// Something happened to this instance: look again.
    look: Notify,
    /// Tells the reporter.
    stir: Arc<Notify>,
    /// The right to write may have changed.
    lease_changed: Notify,
}

struct State {
    member: Member,
    /// Not taken yet; see [`Instance::assign`].
    pending: Option<(Assignment, Millis)>,
    seen: Observed,
    /// Since when the engine has not answered.
    deaf_since: Option<Millis>,
    activity: Option<String>,
    trouble: Option<String>,
    /// What is wrong beside the engine: reported where nothing else is.
    beside: Option<String>,
    /// The version of the programs that a start would use.
    installed: Option<String>,
    /// The epoch for which the engine was made fit to be opened.
    promoted: Option<Epoch>,
    /// Why the engine does not start, until it does.
    refusal: Option<String>,
    stopping: bool,
    /// That it could not be marked intact was said.
    unmarked: bool,
}

/// What an instance is made of.
pub struct Options {
    pub node: NodeName,
    pub session: Session,
    pub service: Service,
    pub clock: Clock,
    pub engine: Arc<dyn Engine>,
    pub rejoin: rejoin::Rejoin,
    pub close_gate: CloseGate,
    /// Where the last report of saved writes is kept.
    pub lost_file: PathBuf,
    pub stir: Arc<Notify>,
}

impl Instance {
    pub fn new(o: Options) -> Arc<Instance> {
        let vouched_file = o.lost_file.with_file_name("vouched");
        let mut member = Member::new(o.node, o.service.name.clone(), o.session);
        let kept = std::fs::read(&o.lost_file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        member.saved(kept);
        let seen = Observed::only(Process::Starting);
        Arc::new(Instance {
            rejoin: o.rejoin,
            service: o.service,
            clock: o.clock,
            engine: o.engine,
            close_gate: o.close_gate,
            vouched_before: vouched_file.exists(),
            vouched_file,
            lost_file: o.lost_file,
            state: Mutex::new(State {
                member,
                pending: None,
                seen,
                deaf_since: None,
                activity: None,
                trouble: None,
                beside: None,
                installed: None,
                promoted: None,
                refusal: None,
                stopping: false,
                unmarked: false,
            }),
            look: Notify::new(),
            stir: o.stir,
            lease_changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn group(&self) -> &GroupName {
        &self.service.name
    }
    pub fn service(&self) -> &Service {
        &self.service
    }
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    // ---- what comes in ----

    /// Keeps an assignment until the verb under way has ended: a promise that is reported while a verb of the
    /// assignment before still takes effect would not be true (S4).
    ///
    /// `sent` is when the controller was asked: its answer confirms what is held as of then.
    pub fn assign(&self, assignment: Assignment, sent: Millis) {
        let mut state = self.lock();
        if state.member.assignment().is_some_and(|held| held.revision == assignment.revision) {
            state.member.confirmed(sent);
            return;
        }
        let held = state.pending.as_ref().map(|(a, _)| a).or(state.member.assignment());
        if held.is_some_and(|held| assignment.revision < held.revision) {
            return;
        }
        state.pending = Some((assignment, sent));
        drop(state);
        self.look.notify_one();
    }

    /// Takes the assignment that waits. Call only between an observation and the verb that follows from it.
    fn take_assignment(&self) {
        let mut state = self.lock();
        let Some((assignment, sent)) = state.pending.take() else { return };
        match state.member.assign(assignment, self.clock.now()) {
            Ok(()) => state.member.confirmed(sent),
            Err(e) => {
                tracing::warn!(group = %self.service.name, error = &e as &dyn std::error::Error, "assignment refused");
            }
        }
        drop(state);
        self.lease_changed.notify_one();
        self.stir.notify_one();
    }

    pub fn renewal(&self) -> Option<Epoch> {
        let state = self.lock();
        if state.stopping { None } else { state.member.renewal() }
    }
    pub fn has_lease(&self, epoch: Epoch) -> bool {
        let state = self.lock();
        state.member.renewal() == Some(epoch)
            && state.member.write_until().is_some_and(|u| u > self.clock.now())
    }
    pub fn renewed(&self, epoch: Epoch, sent: Millis) {
        self.lock().member.renewed(epoch, sent);
        self.look.notify_one();
        self.lease_changed.notify_one();
    }
    /// S14. A yes is on disk before it is said, so that the next life of this agent knows of it.
    pub fn vouch(&self, ask: &VouchRequest) -> bool {
        let now = self.clock.now();
        let yes = self.lock().member.vouch(ask, now);
        yes && (self.vouched_file.exists() || self.note_vouch().is_ok())
    }
    fn note_vouch(&self) -> std::io::Result<()> {
        std::fs::File::create(&self.vouched_file)?.sync_all()
    }
    pub fn wants_vouchers(&self) -> Option<VouchRequest> {
        self.lock().member.wants_vouchers(self.clock.now())
    }
    pub fn vouched_by(&self, node: NodeName, epoch: Epoch, sent: Millis) {
        self.lock().member.vouched_by(node, epoch, sent);
        self.lease_changed.notify_one();
    }

    // ---- what goes out ----

    pub fn report(&self) -> InstanceReport {
        let state = self.lock();
        let now = self.clock.now();
        let trouble = state.trouble.clone().or_else(|| state.beside.clone());
        let report = state.member.report(&state.seen, state.activity.clone(), trouble, now);
        InstanceReport { installed: state.installed.clone(), ..report }
    }

    /// The position to compare with and the engine's version, for a member that wants to follow this instance in `epoch`: final, because it is
    /// assigned to lead, receives nothing and has applied everything.
    pub async fn position(&self, epoch: Epoch) -> Option<(holdfast_core::Position, String)> {
        let fit = {
            let state = self.lock();
            let a = state.member.assignment()?;
            matches!(a.role, Role::Lead { .. })
                && a.epoch == epoch
                && state.seen.drained
                && !state.seen.receives()
                // Where opening begins a new history, nobody can follow before.
                && (state.seen.admits.is_none() || state.member.leads() == Some(epoch))
        };
        if !fit {
            return None;
        }
        // An older one would make what others received since then look like history of their own.
        if !self.observe().await {
            return None;
        }
        let state = self.lock();
        let begun = state.seen.admits.is_none() || state.seen.writable;
        let position = state.seen.applied.clone().filter(|_| state.seen.running() && begun)?;
        Some((position, state.seen.version.clone()))
    }

    /// The epoch it leads, for how long it may go on, and what is to be waited for.
    pub fn lead(&self) -> Option<Lead> {
        let state = self.lock();
        let epoch = state.member.leads()?;
        let until = state.member.write_until()?;
        let acks = u32::from(self.service.admits_replicas() && state.member.tells_to_wait());
        Some(Lead { epoch, for_ms: until.since(self.clock.now()), acks })
    }

    /// Of the history that it is a part of; 0 while that is not known.
    pub fn lineage(&self) -> u64 {
        self.lock().member.assignment().map_or(0, |a| a.lineage)
    }

    /// Something that belongs to this instance does not go well, or does again.
    pub fn set_beside(&self, trouble: Option<String>) {
        self.lock().beside = trouble;
    }

    pub fn set_activity(&self, activity: Option<String>) {
        self.lock().activity = activity;
        self.stir.notify_one();
    }

    // ---- the loops ----

    /// Observes and acts until aborted.
    pub async fn drive(self: Arc<Self>) {
        let mut exits = self.engine.exits();
        let mut last: Option<Verb> = None;
        // What is dear and failed is tried again, but not in a spin.
        let mut dear_again = Instant::now();
        if self.start().await.is_err() {
            dear_again += Duration::from_millis(DEAR_RETRY_MS);
        }
        loop {
            // Otherwise a verb's effect might not be seen yet when the next promise is reported.
            let answered = self.observe().await;
            if answered {
                self.mark_intact().await;
                self.take_assignment();
            }
            let (verb, hurry) = self.next();
            // What was seen before may be of another process, or of other data: closing is right in any case.
            let verb = verb.filter(|v| answered || *v == Verb::Close);
            let verb = if self.half_started() { Some(Verb::Start) } else { verb };
            let verb = verb.filter(|v| !is_dear(v) || Instant::now() >= dear_again);
            if hurry {
                self.stir.notify_one();
            }
            // A verb that succeeds and is wanted again at once has not had its effect yet.
            let again = verb.is_some() && verb == last;
            last = verb.clone();
            let failed = match verb {
                None => {
                    self.well();
                    false
                }
                Some(verb) => {
                    let (name, dear) = (verb_name(&verb), is_dear(&verb));
                    let outcome = self.carry_out(verb).await;
                    if dear && outcome.is_err() {
                        dear_again = Instant::now() + Duration::from_millis(DEAR_RETRY_MS);
                    }
                    self.note(name, again, &outcome);
                    if outcome.is_ok() && !again {
                        continue;
                    }
                    true
                }
            };
            let tick = match (failed, hurry) {
                (true, _) => RETRY_MS,
                (false, true) => HURRY_MS,
                (false, false) => limits::REPORT_EVERY_MS,
            };
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(tick)) => {}
                () = self.look.notified() => {}
                _ = exits.changed() => {}
            }
        }
    }

    /// So that the next life of the engine can say that nothing which it acknowledged is missing.
    async fn mark_intact(&self) {
        let worth = {
            let state = self.lock();
            !state.seen.retained && state.member.intact(&state.seen)
        };
        if !worth {
            return;
        }
        let marked = self.engine.mark_intact().await;
        let told = std::mem::replace(&mut self.lock().unmarked, marked.is_err());
        if let Err(e) = marked
            && !told
        {
            let error = &e as &dyn std::error::Error;
            tracing::warn!(group = %self.service.name, error, "no mark could be written that nothing is missing: if this \
                engine crashes, it is no witness of what it acknowledged");
        }
    }

    /// What to do now, and whether others wait for it.
    fn next(&self) -> (Option<Verb>, bool) {
        let state = self.lock();
        let verb = if state.stopping { None } else { state.member.next(&state.seen, self.clock.now()) };
        let hurry = match state.member.assignment().map(|a| &a.role) {
            Some(Role::Follow { hurry, .. }) => *hurry,
            Some(Role::Halt) => state.seen.running() && !state.seen.drained,
            Some(Role::Idle | Role::Yield | Role::Lead { .. } | Role::Prepare { .. }) | None => false,
        };
        (verb, hurry)
    }

    /// Closes the instance at the end of its right to write.
    pub async fn keep_lease(self: Arc<Self>) {
        loop {
            let until = {
                let state = self.lock();
                state.member.leads().map(|epoch| (epoch, state.member.write_until().unwrap_or_default()))
            };
            match until {
                Some((epoch, until)) if self.clock.now() >= until => {
                    tracing::warn!(group = %self.service.name, epoch = epoch.0, "no right to write any more: closing");
                    self.fence().await;
                }
                Some((_, until)) => {
                    let end = self.clock.instant(until);
                    tokio::select! {
                        () = tokio::time::sleep_until(end) => {}
                        () = self.lease_changed.notified() => {}
                    }
                }
                None => self.lease_changed.notified().await,
            }
        }
    }

    /// Looks at the engine. `false`: it did not answer, and what is known of it is old.
    async fn observe(&self) -> bool {
        let begun = self.clock.now();
        let process = self.engine.exits().borrow().clone();
        let refusal = self.lock().refusal.clone();
        let mut seen = match (super::observe::process(&process), refusal) {
            (Some(_), Some(why)) => Ok(Observed::only(Process::Refuses { why })),
            (Some(over), None) => Ok(Observed::only(over)),
            (None, _) if !self.engine.started() => Ok(Observed::only(Process::Starting)),
            (None, _) => self
                .engine
                .observe()
                .await
                .map(|o| super::observe::observed(o, &self.service, self.rejoin.topology())),
        };
        let now = self.clock.now();
        let answered = seen.is_ok();
        let mut state = self.lock();
        if let Err(e) = &seen {
            let since = *state.deaf_since.get_or_insert(now);
            let mut last = state.seen.clone();
            if now.since(since) >= limits::UNRESPONSIVE_MS {
                last.process = Process::Unresponsive;
                state.trouble = Some(e.to_string());
            }
            seen = Ok(last);
        } else {
            state.deaf_since = None;
        }
        let Ok(mut seen) = seen else { return false };
        if answered {
            seen.at = begun;
        }
        let settled = answered || seen.process == Process::Unresponsive;
        if seen.ended() && !state.seen.ended() {
            state.member.exited();
        }
        let news = differs(&state.seen, &seen);
        state.seen = seen;
        drop(state);
        if news {
            self.stir.notify_one();
        }
        settled
    }

    /// Nothing is left to do: what went wrong before is over.
    fn well(&self) {
        let mut state = self.lock();
        if state.seen.running() && state.deaf_since.is_none() {
            state.trouble = None;
        }
    }

    fn note(&self, verb: &'static str, again: bool, outcome: &Result<(), Error>) {
        match outcome {
            Ok(()) if again => {}
            Ok(()) => {
                tracing::info!(group = %self.service.name, verb, "done");
                self.trouble::<Error>(None);
            }
            // It is about to be: nothing to tell anybody.
            Err(Error::Rejoin(rejoin::Error::NotReady(_))) => {}
            Err(e) => self.trouble(Some(e)),
        }
        self.stir.notify_one();
    }

    /// Remembers what went wrong, for people; logged when it changes.
    fn trouble<E: std::error::Error>(&self, e: Option<&E>) {
        let says = e.map(|e| super::chain(e));
        let mut state = self.lock();
        if state.trouble != says {
            if let Some(says) = &says {
                tracing::warn!(group = %self.service.name, "{says}");
            }
            state.trouble = says;
        }
    }

    async fn carry_out(&self, verb: Verb) -> Result<(), Error> {
        match verb {
            Verb::Start => self.start().await?,
            Verb::Restart => self.restart().await?,
            Verb::Close => self.fence().await,
            Verb::Yield => self.give_way().await,
            Verb::StopReceiving => self.engine.stop_receiving().await?,
            Verb::Promote { wait_for_ack } => self.promote(wait_for_ack).await?,
            Verb::CreateAccounts => {
                self.engine.accounts().await?;
                self.lock().member.accounts_created();
            }
            Verb::Admit(nodes) => self.engine.admit(&nodes).await?,
            Verb::Open => self.open().await?,
            Verb::WaitForAck(on) => {
                self.engine.set_wait_for_ack(on).await?;
                self.lock().member.proxies_wait(on);
            }
            Verb::Acknowledge(on) => self.engine.set_acknowledges(on).await?,
            Verb::Compare { primary } => {
                let epoch = self.lock().member.promised();
                let (theirs, version) = self.rejoin.position_of(&primary, epoch).await?;
                self.engine.learn(&theirs, self.rejoin.engine_addr(&primary, &self.service)?).await?;
                if !self.observe().await {
                    return Err(Error::NoPosition);
                }
                let mut state = self.lock();
                if let Some(why) = must_not_follow(&state.seen.version, &version) {
                    return Err(Error::TooOld { primary, why });
                }
                let ours = state.seen.received.clone().ok_or(Error::NoPosition)?;
                state.member.compared(&ours, &theirs);
            }
            Verb::Follow { primary, acknowledges } => {
                let addr = self.rejoin.engine_addr(&primary, &self.service)?;
                self.engine.follow(addr, acknowledges).await?;
            }
            Verb::SaveDivergence { theirs } => {
                let saved = self.engine.save_divergence(&theirs).await?;
                let mut state = self.lock();
                let lost = self.keep_lost(saved, state.member.promised());
                state.member.saved(lost);
            }
            Verb::Reclone { primary } => {
                let done = self.rejoin.reclone(&primary, |progress| self.set_activity(Some(progress))).await;
                self.set_activity(None);
                let saved = done?;
                let mut state = self.lock();
                let lost = self.keep_lost(saved, state.member.promised());
                state.member.recloned(lost);
            }
        }
        Ok(())
    }

    /// What was found that only this instance had, kept so that a restart of the agent does not forget to report it.
    fn keep_lost(&self, saved: Option<holdfast_engine::Saved>, epoch: Epoch) -> Option<Lost> {
        let saved = saved?;
        let file = saved.path.display().to_string();
        let unit = saved.unit.to_owned();
        let lost = Lost { transactions: saved.transactions, unit, file, epoch, complete: saved.complete };
        let text = serde_json::to_vec(&lost).expect("plain data");
        if let Err(e) = std::fs::write(&self.lost_file, text) {
            tracing::warn!(group = %self.service.name, error = &e as &dyn std::error::Error, "the report of saved writes is not kept");
        }
        Some(lost)
    }
}

/// How often to look while a handover or a takeover waits for this instance.
const HURRY_MS: u64 = 15;
/// How soon to try a failed verb again. Most wait for another host that is about to be ready.
const RETRY_MS: u64 = 15;
/// How soon to try again what is dear.
const DEAR_RETRY_MS: u64 = 3_000;

/// Whether it costs this host or its donor so much that a failure must not be followed by the next at once.
fn is_dear(verb: &Verb) -> bool {
    matches!(verb, Verb::Start | Verb::Reclone { .. })
}

/// Why a verb could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the engine")]
    Engine(#[from] holdfast_engine::Error),
    #[error("rejoining")]
    Rejoin(#[from] rejoin::Error),
    #[error("it cannot follow {primary}: {why}")]
    TooOld { primary: NodeName, why: String },
    #[error("the instance does not say what it has received")]
    NoPosition,
    #[error(
        "this agent has just started, and waits as long as its earlier life may have promised another primary"
    )]
    JustStarted,
    #[error("too little of the lease is left to open; the next renewal will do")]
    LeaseTooShort,
    #[error(
        "the engine did not open within {} ms and was killed, since it might have later",
        gate::OPEN_BOUND_MS
    )]
    OpenTimedOut,
}

/// True if the controller should hear of it before the next tick. Positions alone change all the time.
fn differs(a: &Observed, b: &Observed) -> bool {
    a.process != b.process
        || a.writable != b.writable
        || a.drained != b.drained
        || a.acknowledges != b.acknowledges
        || a.waits_for_ack != b.waits_for_ack
        || a.ackers != b.ackers
        || a.admits != b.admits
        || a.upstream.as_ref().map(|u| (&u.node, &u.stream, &u.apply_error))
            != b.upstream.as_ref().map(|u| (&u.node, &u.stream, &u.apply_error))
        || (!b.receives() && a.received != b.received)
}

fn verb_name(verb: &Verb) -> &'static str {
    match verb {
        Verb::Start => "start",
        Verb::Close => "close",
        Verb::Yield => "yield",
        Verb::StopReceiving => "stop receiving",
        Verb::Promote { .. } => "promote",
        Verb::CreateAccounts => "create accounts",
        Verb::Admit(_) => "admit",
        Verb::Open => "open",
        Verb::WaitForAck(_) => "wait for ack",
        Verb::Compare { .. } => "compare",
        Verb::Follow { .. } => "follow",
        Verb::Acknowledge(_) => "acknowledge",
        Verb::SaveDivergence { .. } => "save divergence",
        Verb::Reclone { .. } => "reclone",
        Verb::Restart => "restart",
    }
}
