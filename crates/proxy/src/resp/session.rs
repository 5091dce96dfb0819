//! One client session: takes what commands there are, sends them together, and passes their replies on in order.
//!
//! Guarantees: one batch is under way at a time, and stays in the inbox until it is answered; what a client gets
//! answered here was not sent; replies are never out of order.

use crate::buffer::Buffer;
use crate::client::ClientStream;
use crate::engine_stream::ReadHalf;
use crate::gate::{self, Admit, Link, Role, Routing, View};
use crate::hold::Hold;
use crate::readers::AtReader;
use crate::resp::batch::{Batch, Fate, Kind, OnFailure};
use crate::resp::errors::{self, ClientError};
use crate::resp::exchange::{Event, Way};
use crate::resp::plan::Next;
use crate::resp::split::Reads;
use crate::resp::state::{State, Transaction, Watch};
use crate::service::farewell;
use crate::shared::{Counters, Kept, Shared, Slot, count};
use holdfast_wire::resp::{command, put_command, reply};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Own answers that wait for the client; with more, it must take them first.
const OUTBOX_BYTES_MAX: usize = 64 << 10;
/// How long one question to the replicas takes at most. Asked again, it is asked of the route there is then; and a replica
/// that has connected meanwhile says what it has only when there is another question, or once a second.
const WAIT_MS: u64 = 50;

/// Why a session ends.
#[derive(Debug)]
pub enum End {
    /// The client left, or cannot be reached.
    Client,
    /// A reply was broken off; only closing tells the client so.
    Broken,
    /// What is in the outbox is the last that the client gets.
    Told,
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> End {
        End::Client
    }
}

/// The session's connection to an engine; its way out is in the slot.
#[derive(Debug)]
pub struct Backend {
    pub read: ReadHalf,
    pub link: Link,
    /// The engine's number for it.
    pub client_id: Option<u64>,
    /// Counted at a reader while this lives.
    pub _at_reader: Option<AtReader>,
}

/// See the file's contract.
pub struct Session {
    pub shared: Arc<Shared>,
    pub slot: Arc<Slot>,
    pub role: Role,
    pub client: ClientStream,
    pub inbox: Buffer,
    pub outbox: Buffer,
    pub scanner: command::Scanner,
    /// Bytes of the inbox that the scanner has taken.
    pub scanned: usize,
    pub batch: Batch,
    /// Of the commands at the front of the inbox whose first engine was lost.
    pub fates: VecDeque<Fate>,
    pub replies: reply::Scanner,
    pub way: Way,
    /// An engine's error, until it is complete.
    pub error: Vec<u8>,
    pub backend: Option<Backend>,
    /// Where the session was connected last.
    pub last_link: Option<Link>,
    pub state: Box<State>,
    /// The wait of what is at the front of the inbox.
    pub hold: Option<Hold>,
    /// Replicas must have confirmed by then.
    pub confirm_until: Option<Instant>,
    pub client_gone: bool,
    /// Written bytes may still be in the client stream's own buffer.
    pub unflushed: bool,
    /// For withheld replies.
    pub withheld_kept: Option<Kept>,
    pub routing: Option<Arc<Routing>>,
    /// The shared version that `routing` is of.
    pub seen: u64,
    /// The shared version whose readers could not be reached.
    pub readers_refused: Option<u64>,
    pub reads: Option<Box<Reads>>,
}

fn put_wait(out: &mut Vec<u8>, acks: u32) {
    put_command(out, &[b"WAIT", acks.to_string().as_bytes(), WAIT_MS.to_string().as_bytes()]);
}

/// Whom a client is without having logged in: engines let everybody in as a default user without a password.
pub fn user_at_first(shared: &Shared) -> Option<Vec<u8>> {
    let open = shared.users.get(&b"default"[..]).is_some_and(|user| user.password.expose().is_empty());
    open.then(|| b"default".to_vec())
}

impl Session {
    pub fn new(shared: Arc<Shared>, slot: Arc<Slot>, role: Role, client: ClientStream) -> Session {
        let state = Box::new(State::new(user_at_first(&shared)));
        let reads = Reads::new(&shared, role);
        Session {
            shared,
            slot,
            role,
            client,
            inbox: Buffer::default(),
            outbox: Buffer::default(),
            scanner: command::Scanner::default(),
            scanned: 0,
            batch: Batch::default(),
            fates: VecDeque::new(),
            replies: reply::Scanner::default(),
            way: Way::Pass,
            error: Vec::new(),
            backend: None,
            last_link: None,
            state,
            hold: None,
            confirm_until: None,
            client_gone: false,
            unflushed: false,
            withheld_kept: None,
            routing: None,
            seen: 0,
            readers_refused: None,
            reads,
        }
    }

    /// Serves the client until it or its connection ends.
    pub async fn run(mut self) {
        let end = self.serve().await;
        self.slot.disconnect(true);
        tracing::trace!(?end, "session over");
        if !matches!(end, End::Broken) && !self.outbox.is_empty() {
            Box::pin(farewell(self.client, self.outbox.bytes())).await;
        }
    }

    async fn serve(&mut self) -> End {
        let within = Duration::from_millis(self.shared.limits.login_ms);
        match Box::pin(tokio::time::timeout(within, self.log_in())).await {
            Ok(Ok(())) => {}
            Ok(Err(end)) => return end,
            Err(_) => return End::Client,
        }
        loop {
            if let Err(end) = self.turn().await {
                return end;
            }
        }
    }

    async fn log_in(&mut self) -> Result<(), End> {
        while self.state.user.is_none() {
            self.turn().await?;
        }
        Ok(())
    }

    /// Does what is next.
    async fn turn(&mut self) -> Result<(), End> {
        if self.outbox.len() > OUTBOX_BYTES_MAX {
            Box::pin(self.flush()).await?;
        }
        match self.plan() {
            Next::More => self.idle().await,
            Next::Batch => self.run_batch().await,
            Next::Own(own) => {
                count(&self.shared.counters.commands);
                Box::pin(self.handle(own)).await
            }
            Next::Long(kind) => {
                count(&self.shared.counters.commands);
                Box::pin(self.long(kind)).await
            }
            Next::Bad(error) => {
                count(&self.shared.counters.errors_protocol);
                self.say(&errors::protocol(error));
                Err(End::Told)
            }
        }
    }

    /// Waits for whatever comes first while no command is there.
    async fn idle(&mut self) -> Result<(), End> {
        if self.inbox.is_empty() {
            self.inbox.shrink();
            self.scanned = 0;
        }
        self.outbox.shrink();
        if self.backend.is_none() && self.state.listens() {
            return Box::pin(self.listen_again()).await;
        }
        match self.step().await {
            Event::Input | Event::Answered | Event::Draining => Ok(()),
            Event::Route => {
                self.refresh();
                if self.is_cut() {
                    count(&self.shared.counters.cut);
                    self.leave();
                }
                self.drain_reader();
                Ok(())
            }
            Event::Lost if self.reply_is_open() => Err(End::Broken),
            Event::Lost => {
                self.leave();
                Ok(())
            }
            Event::Over => Err(End::Client),
        }
    }

    /// The client has a part of something that will not be completed.
    pub fn reply_is_open(&self) -> bool {
        !self.replies.is_between() && self.way == Way::Pass
    }

    /// Sends the planned batch once it may go, and passes its replies on.
    pub async fn run_batch(&mut self) -> Result<(), End> {
        self.refresh();
        let commands = self.batch.entries.len() as u64;
        if self.go_to_reader().await {
            if let Some(hold) = &mut self.hold {
                hold.let_go();
            }
            self.shared.counters.commands.fetch_add(commands, Ordering::Relaxed);
            return self.exchange().await;
        }
        if gate::admit(self.view()) != Admit::Send {
            let bytes = self.batch.bytes;
            self.unplan();
            return match Box::pin(self.admit_slowly(bytes)).await? {
                Ok(()) => Ok(()),
                Err(error) => Box::pin(self.fail_next(&error)).await,
            };
        }
        self.shared.counters.commands.fetch_add(commands, Ordering::Relaxed);
        if let Some(hold) = &mut self.hold {
            hold.let_go();
        }
        self.put_own();
        self.exchange().await
    }

    /// The batch is at the front of the inbox and may be sent.
    pub async fn exchange(&mut self) -> Result<(), End> {
        loop {
            match self.step().await {
                Event::Answered => return self.finish().await,
                Event::Input | Event::Route => {}
                Event::Draining => Box::pin(self.unblock()).await,
                Event::Lost => return self.lost(),
                Event::Over => return Err(End::Client),
            }
        }
    }

    /// How many replicas must have what is written over the present connection.
    pub fn acks(&self) -> u32 {
        self.routing.as_ref().map_or(0, |r| r.acks)
    }

    /// Puts the proxy's own questions behind what the batch writes, if there are any to be put: whether replicas have it, and
    /// how far it goes.
    pub fn put_own(&mut self) {
        if self.backend.as_ref().is_none_or(|b| !b.link.writer) {
            return;
        }
        let (acks, written) = (self.acks(), self.batch.place_of_wait());
        let (mut own, mut bytes) = (Vec::new(), Vec::new());
        if let Some((_, kind)) = written.filter(|_| acks > 0) {
            if kind.may_block() {
                put_command(&mut bytes, &[b"PING"]);
                own.push((Kind::Nudge, bytes.len()));
            }
            let before = bytes.len();
            put_wait(&mut bytes, acks);
            own.push((Kind::Wait, bytes.len() - before));
        }
        if self.wants_mark(written.is_some()) {
            own.push(Session::put_mark(&mut bytes));
        }
        if own.is_empty() {
            return;
        }
        let at = written.map_or(self.batch.entries.len(), |(last, _)| last + 1);
        self.inbox.insert(self.batch.entries[at - 1].end, &bytes);
        self.scanned += bytes.len();
        self.batch.insert_own(at, &own);
    }

    /// Replicas have answered. `have`: how many, or what the engine said instead.
    pub fn note_replicas(&mut self, have: Result<i64, ClientError>) {
        let acks = self.acks();
        let within_ms = self.shared.limits.hold_ms;
        // It counts from the end of the first question: what was asked about may have blocked for any time before it.
        let more = Duration::from_millis(within_ms.saturating_sub(WAIT_MS));
        let in_time = |until: &mut Option<Instant>| {
            let now = Instant::now();
            now < *until.get_or_insert(now + more)
        };
        let failure = match have {
            Ok(have) if have >= i64::from(acks) => None,
            Ok(_) if in_time(&mut self.confirm_until) => return self.ask_again(),
            Ok(_) => Some(errors::unconfirmed(&self.shared.group, acks, within_ms)),
            // It was asked to end while it waited here already.
            Err(said) if said.0.starts_with(b"UNBLOCKED") => return self.ask_again(),
            Err(said) => Some(errors::cannot_confirm(&self.shared.group, &said)),
        };
        self.batch.note_confirmed();
        self.confirm_until = None;
        self.release(failure.as_ref(), |c| &c.errors_unconfirmed);
    }

    /// Puts the question once more, behind all there is.
    fn ask_again(&mut self) {
        let mut bytes = Vec::new();
        put_wait(&mut bytes, self.acks());
        self.inbox.insert(self.batch.bytes, &bytes);
        self.scanned += bytes.len();
        self.batch.insert_own(self.batch.entries.len(), &[(Kind::Wait, bytes.len())]);
    }

    /// Lets the client have what waited for replicas, or the failure in the place of what was written.
    fn release(&mut self, failure: Option<&ClientError>, counter: fn(&Counters) -> &AtomicU64) {
        let counter = counter(&self.shared.counters);
        self.withheld_kept = None;
        let failure = failure.map(ClientError::reply);
        let too_large = errors::reply_too_large(&self.shared.group).reply();
        let outbox = &mut self.outbox;
        self.batch.withheld.release(failure.as_deref(), &too_large, |bytes| {
            if failure.as_deref() == Some(bytes) {
                count(counter);
            }
            outbox.extend(bytes);
        });
    }

    /// The batch is answered.
    async fn finish(&mut self) -> Result<(), End> {
        if self.is_away() && self.finish_at_reader() {
            return Ok(());
        }
        if let Some((_, error)) = self.batch.refused.clone() {
            return Box::pin(self.refused(error)).await;
        }
        self.hold = None;
        self.confirm_until = None;
        self.inbox.consume(self.batch.bytes);
        self.scanned -= self.batch.bytes;
        if !self.fates.is_empty() {
            self.fates.drain(..(self.batch.entries.len() - self.batch.own()).min(self.fates.len()));
        }
        self.batch.clear();
        Ok(())
    }

    /// An engine that is no primary refused a part of the batch: that waits until there is one.
    async fn refused(&mut self, error: ClientError) -> Result<(), End> {
        let bytes = self.batch.bytes;
        let kept = self.batch.fates(false);
        self.keep_for_later(kept);
        self.confirm_until = None;
        let mut hold = self.hold.take().unwrap_or_else(|| Hold::new(bytes));
        let waited = self.wait(&mut hold, gate::Why::ReadOnly, Some(error)).await?;
        self.hold = Some(hold);
        match waited {
            Ok(()) => count(&self.shared.counters.resent),
            Err(error) => return Box::pin(self.fail_next(&error)).await,
        }
        Ok(())
    }

    /// Leaves of the batch what has a fate; the inbox is as if the client had sent nothing else of it.
    pub fn keep_for_later(&mut self, kept: Vec<(std::ops::Range<usize>, Fate)>) {
        let bytes: Vec<u8> =
            kept.iter().flat_map(|(at, _)| &self.inbox.bytes()[at.clone()]).copied().collect();
        self.inbox.splice(0..self.batch.bytes, &bytes);
        let planned = (self.batch.entries.len() - self.batch.own()).min(self.fates.len());
        let later = self.fates.split_off(planned);
        self.fates = kept.into_iter().map(|(_, fate)| fate).chain(later).collect();
        self.unplan();
    }

    /// The engine was lost or cut while the batch was under way.
    fn lost(&mut self) -> Result<(), End> {
        if self.reply_is_open() {
            return Err(End::Broken);
        }
        if self.is_away() {
            self.lost_reader();
            return Ok(());
        }
        if self.batch.spoiled {
            return Err(End::Told);
        }
        let open = self.state.transaction == Transaction::Open;
        let fates = self.batch.fates(open);
        let unknown = errors::outcome_unknown(&self.shared.group);
        if open && fates.first().is_some_and(|(_, fate)| *fate == Fate::Unknown) {
            // Its EXEC is among them: the client is told, and the transaction is over.
            self.state.note_transaction_over(false);
        }
        self.release(Some(&unknown), |c| &c.errors_outcome_unknown);
        if self.batch.is_long {
            let error = if open { errors::transaction_lost(&self.shared.group) } else { unknown };
            count(&self.shared.counters.errors_outcome_unknown);
            self.say(&error);
            self.leave();
            self.confirm_until = None;
            self.inbox.consume(self.batch.bytes);
            self.fates.pop_front();
            self.unplan();
            return Ok(());
        }
        self.confirm_until = None;
        if fates.iter().any(|(_, fate)| *fate == Fate::Again) {
            count(&self.shared.counters.resent);
        }
        self.keep_for_later(fates);
        self.leave();
        Ok(())
    }

    /// Answers what is at the front of the inbox with an error.
    pub async fn fail_next(&mut self, error: &ClientError) -> Result<(), End> {
        self.hold = None;
        match self.plan() {
            Next::Batch => {
                let reply = error.reply();
                self.batch.entries.iter().for_each(|_| self.outbox.extend(&reply));
                let opened = self.batch.entries.iter().rposition(|e| e.kind == Kind::Multi);
                let ended =
                    self.batch.entries.iter().rposition(|e| matches!(e.kind, Kind::Exec | Kind::Discard));
                let was_open = self.state.transaction == Transaction::Open;
                // What follows belongs to a transaction of which a part was not queued.
                let open = if was_open { ended.is_none() || opened > ended } else { opened > ended };
                if was_open || open {
                    self.leave();
                }
                self.state.transaction = if open { Transaction::Lost } else { Transaction::None };
                if ended.is_some() {
                    self.state.watch = Watch::None;
                }
                self.finish().await
            }
            Next::Own(_) => {
                self.spoil();
                self.say(error);
                self.take_own();
                Ok(())
            }
            Next::Long(_) => {
                self.spoil();
                Box::pin(self.swallow(error)).await
            }
            Next::More | Next::Bad(_) => Ok(()),
        }
    }

    /// Appends an error to what the client gets.
    pub fn say(&mut self, error: &ClientError) {
        self.outbox.extend(&error.reply());
    }

    /// The command that the scanner has just gone through is done.
    pub fn take_own(&mut self) {
        self.inbox.consume(self.scanned);
        self.scanned = 0;
        self.fates.pop_front();
    }

    /// Takes over a new snapshot.
    pub fn refresh(&mut self) {
        let version = self.shared.version();
        if version != self.seen {
            self.seen = version;
            self.routing = self.shared.routing();
        }
    }

    /// The connection belongs to a past epoch.
    pub fn is_cut(&self) -> bool {
        self.backend
            .as_ref()
            .is_some_and(|b| gate::is_cut(b.link, self.routing.as_deref(), self.shared.closed_through()))
    }

    /// Drops the connection to the engine and notes what is lost with it.
    pub fn leave(&mut self) {
        self.replies = reply::Scanner::default();
        self.way = Way::Pass;
        self.error.clear();
        if let Some(backend) = self.backend.take() {
            self.last_link = Some(backend.link);
            self.slot.disconnect(true);
            self.state.note_left();
            if let Some(reads) = &mut self.reads {
                // The next primary may lack some of what was written.
                reads.note_write();
            }
        }
    }

    pub fn view(&self) -> View<'_> {
        View {
            role: self.role,
            routing: self.routing.as_deref(),
            fresh: self.shared.is_fresh(),
            closed_through: self.shared.closed_through(),
            link: self.backend.as_ref().map(|b| b.link),
            in_transaction: self.state.transaction == Transaction::Open || self.state.watch == Watch::Open,
            movable: !self.state.listens(),
            readers_refused: self.readers_refused == Some(self.seen),
        }
    }

    /// The read port's sessions at the writer may not write.
    pub fn may_not_write(&self) -> bool {
        self.role == Role::Read && self.backend.as_ref().is_some_and(|b| b.link.writer)
    }

    /// What takes the place of a withheld reply if replicas do not confirm.
    pub fn on_failure(kind: Kind) -> OnFailure {
        if kind.writes() { OnFailure::Replace } else { OnFailure::Keep }
    }
}
