//! What all sessions of one proxy share: the route, the register of sessions, the bounds and the counts.
//!
//! Guarantees: once [`Shared::close`] has returned, no session writes another byte to a writer of that epoch or an
//! older one. Writing to an engine and closing its gate take the same lock.

use crate::engine_stream::WriteHalf;
use crate::gate::{self, Link, Role, Routing};
use crate::readers::Readers;
use crate::service::{Limits, LocalEngine};
use futures_util::task::AtomicWaker;
use holdfast_core::secret::Password;
use holdfast_core::topology::{Engine, Family, ReadConsistency};
use holdfast_core::{Epoch, GroupName, ZoneName};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::time::Instant;

/// What clients are told before any engine was seen. MariaDB's clients know it by the prefix.
fn version_at_first(engine: Engine) -> &'static [u8] {
    match engine {
        Engine::MySql => b"8.4.0",
        _ => b"5.5.5-10.11.0-MariaDB",
    }
}
/// Ids of sessions have this bit; an engine's ids do not get that far.
const ID_BIT: u32 = 1 << 31;

/// Locks, also after a panic elsewhere: what is guarded here is valid between any two statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A user of the topology.
#[derive(Debug)]
pub struct User {
    pub password: Password,
    /// For the login methods' proofs.
    pub stored: Option<[u8; 20]>,
    pub stored_sha2: Option<[u8; 32]>,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the start, and gauges of now.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }
        #[derive(Debug, Default)]
        pub struct Counters {
            $(pub $name: AtomicU64,)*
        }
        impl Counters {
            pub fn read(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Client connections now.
    connections,
    /// Client connections ever accepted.
    connections_total,
    /// Commands held now.
    held,
    /// Bytes of held and buffered commands now.
    held_bytes,
    /// Commands that were held at some time.
    held_total,
    /// Commands taken from clients.
    commands,
    /// Sessions moved to another server with their state.
    rehomed,
    /// Connections to engines cut because their epoch had ended.
    cut,
    /// Commands sent again that provably had not been executed, or change nothing.
    resent,
    /// Reads on the read/write port that a replica answered.
    reads_at_replicas,
    /// Of those, reads that first waited there for what their session had written.
    reads_waited,
    /// Reads that waited in vain and went to the primary.
    reads_late,
    /// Reads that the primary was asked instead of a replica that refused, broke off or was late.
    reads_returned,
    /// Errors told: connection limit.
    errors_connections,
    /// Errors told: login refused.
    errors_login,
    /// Errors told: held too long or too much held.
    errors_held,
    /// Errors told: transaction lost.
    errors_transaction_lost,
    /// Errors told: session state lost.
    errors_state_lost,
    /// Errors told: outcome unknown.
    errors_outcome_unknown,
    /// Errors told: executed, but replicas did not confirm.
    errors_unconfirmed,
    /// Errors told: protocol.
    errors_protocol,
}

/// Adds one to a counter.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// One session as others see it.
#[derive(Debug)]
pub struct Slot {
    pub id: u32,
    /// The session's task waits here, whatever it waits for.
    pub waker: AtomicWaker,
    /// KILL CONNECTION is on its way to its engine: a break of the connection is not to be mended.
    pub condemned: AtomicBool,
    /// Killed: end.
    pub killed: AtomicBool,
    /// KILL QUERY while the session has no connection.
    pub query_killed: AtomicBool,
    pub user: Mutex<Vec<u8>>,
    outlets: Mutex<Outlets>,
}

/// A session's ways out: the one in use, and the one that is laid aside while a read is at another server.
#[derive(Debug, Default)]
struct Outlets {
    used: Option<Outlet>,
    parked: Option<Outlet>,
}

impl Outlets {
    fn both(&mut self) -> impl Iterator<Item = &mut Outlet> {
        self.used.iter_mut().chain(&mut self.parked)
    }
}

/// The way out to the engine.
#[derive(Debug)]
struct Outlet {
    half: WriteHalf,
    link: Link,
    thread_id: u32,
    /// What ends the connection in order, if anything does.
    goodbye: &'static [u8],
    cut: bool,
}

/// A MySQL client's last packet, without which the engine would log the connection as aborted.
const MYSQL_GOODBYE: [u8; 5] = [1, 0, 0, 0, holdfast_wire::command::QUIT];

impl Slot {
    /// Writes to the engine. Fails without writing once the connection is cut.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match lock(&self.outlets).used.as_mut() {
            Some(outlet) if !outlet.cut => outlet.half.poll_write(cx, bytes),
            _ => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }
    /// Where the session is connected to, and the engine's id of it.
    pub fn backend(&self) -> Option<(SocketAddr, u32)> {
        lock(&self.outlets).used.as_ref().map(|o| (o.link.addr, o.thread_id))
    }
    /// Lays the way out aside and takes up the one that was.
    pub fn swap(&self) {
        let mut outlets = lock(&self.outlets);
        let Outlets { used, parked } = &mut *outlets;
        std::mem::swap(used, parked);
    }
    /// KILL CONNECTION came, or is coming.
    pub fn is_doomed(&self) -> bool {
        self.killed.load(Ordering::Acquire) || self.condemned.load(Ordering::Acquire)
    }
    /// Drops the way out; if the connection is between two commands, with a word of goodbye. Behind half a packet the goodbye would become its end.
    pub fn disconnect(&self, between_commands: bool) {
        let used = lock(&self.outlets).used.take();
        Self::part(used, between_commands);
    }
    /// The same with the way out that is laid aside, which is between commands.
    pub fn disconnect_parked(&self) {
        let parked = lock(&self.outlets).parked.take();
        Self::part(parked, true);
    }
    fn part(outlet: Option<Outlet>, between_commands: bool) {
        if let Some(mut outlet) = outlet
            && between_commands
            && !outlet.cut
            && !outlet.goodbye.is_empty()
        {
            let _ = outlet.half.poll_write(&mut Context::from_waker(Waker::noop()), outlet.goodbye);
        }
    }
}

#[derive(Debug, Default)]
struct RouteCell {
    routing: Option<Arc<Routing>>,
    valid_until: Option<Instant>,
}

/// See the file's contract.
#[derive(Debug)]
pub struct Shared {
    pub group: GroupName,
    pub engine: Engine,
    pub read_consistency: ReadConsistency,
    local: Option<LocalEngine>,
    pub limits: Limits,
    pub users: HashMap<Vec<u8>, User>,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub counters: Counters,
    server_version: Mutex<Arc<[u8]>>,
    learns_version: bool,
    route: Mutex<RouteCell>,
    /// Grows with every change that sessions must see.
    version: AtomicU64,
    start: Instant,
    valid_until_us: AtomicU64,
    /// Epoch + 1; 0 for none.
    closed: AtomicU64,
    sessions: Mutex<HashMap<u32, Arc<Slot>>>,
    next_id: AtomicU32,
    pub readers: Arc<Readers>,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "each becomes a field")]
    pub fn new(
        group: GroupName,
        engine: Engine,
        zone: ZoneName,
        read_consistency: ReadConsistency,
        local: Option<LocalEngine>,
        limits: Limits,
        users: HashMap<Vec<u8>, User>,
        tls: Option<Arc<rustls::ServerConfig>>,
        server_version: Option<String>,
    ) -> Shared {
        // Another proxy's ids should not be ours: a KILL through the wrong proxy finds nobody.
        let somewhere = RandomState::new().hash_one(&group) as u32;
        Shared {
            group,
            engine,
            read_consistency,
            local,
            limits,
            users,
            tls,
            counters: Counters::default(),
            learns_version: server_version.is_none(),
            server_version: Mutex::new(
                server_version.map_or(version_at_first(engine).into(), |v| v.into_bytes().into()),
            ),
            route: Mutex::default(),
            version: AtomicU64::new(1),
            start: Instant::now(),
            valid_until_us: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            sessions: Mutex::default(),
            next_id: AtomicU32::new(somewhere),
            readers: Arc::new(Readers::new(zone)),
        }
    }

    /// The Unix socket of the engine at `addr`, if that is the one on this host.
    pub fn socket_of(&self, addr: SocketAddr) -> Option<&Path> {
        self.local.as_ref().filter(|local| local.addr == addr).map(|local| &*local.socket)
    }

    pub fn server_version(&self) -> Arc<[u8]> {
        lock(&self.server_version).clone()
    }
    /// The engine's own version is what later clients are told.
    pub fn learn_version(&self, version: &[u8]) {
        if self.learns_version && **lock(&self.server_version) != *version {
            *lock(&self.server_version) = version.into();
        }
    }

    fn since_start_us(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_micros().try_into().unwrap_or(u64::MAX)
    }

    /// A snapshot came. Sessions are woken only if it says something new, or lets go what an expired one held.
    pub fn set_route(&self, routing: Routing, valid_until: Instant) {
        let now = Instant::now();
        {
            let mut cell = lock(&self.route);
            let had_expired = cell.valid_until.is_none_or(|until| until <= now);
            let same = cell.routing.as_deref() == Some(&routing);
            cell.valid_until = Some(valid_until);
            self.valid_until_us.store(self.since_start_us(valid_until), Ordering::Release);
            if same && !had_expired {
                return;
            }
            if !same {
                self.readers.retain(&routing.readers);
                cell.routing = Some(Arc::new(routing));
            }
            self.version.fetch_add(1, Ordering::Release);
        }
        self.wake_all();
    }

    pub fn routing(&self) -> Option<Arc<Routing>> {
        lock(&self.route).routing.clone()
    }
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
    /// The snapshot may still route writes.
    #[inline]
    pub fn is_fresh(&self) -> bool {
        self.since_start_us(Instant::now()) < self.valid_until_us.load(Ordering::Acquire)
    }
    #[inline]
    pub fn closed_through(&self) -> Option<Epoch> {
        self.closed.load(Ordering::SeqCst).checked_sub(1).map(Epoch)
    }

    /// Cuts every connection to a writer of `epoch` or an older one, now, and lets none be made until a snapshot
    /// brings a newer epoch.
    pub fn close(&self, epoch: Epoch) {
        self.closed.fetch_max(epoch.0.saturating_add(1), Ordering::SeqCst);
        self.version.fetch_add(1, Ordering::Release);
        let slots: Vec<_> = lock(&self.sessions).values().cloned().collect();
        for slot in &slots {
            let mut outlets = lock(&slot.outlets);
            let is_past = |o: &&mut Outlet| o.link.writer && o.link.epoch <= epoch && !o.cut;
            for outlet in outlets.both().filter(is_past) {
                outlet.cut = true;
                count(&self.counters.cut);
                // An error means that the peer was faster.
                let _ = outlet.half.cut();
            }
            drop(outlets);
            slot.waker.wake();
        }
    }

    /// Gives a session its way out. False if that epoch was closed meanwhile: the connection must not be used.
    pub fn connect(&self, slot: &Slot, half: WriteHalf, link: Link, thread_id: u32) -> bool {
        let goodbye: &[u8] = match self.engine.family() {
            Family::MySql => &MYSQL_GOODBYE,
            Family::Redis => &[],
        };
        let mut outlets = lock(&slot.outlets);
        let outlet = outlets.used.insert(Outlet { half, link, thread_id, goodbye, cut: false });
        // `close` first publishes the epoch, then locks each slot: either it sees this connection, or this sees it.
        if gate::is_cut(link, None, self.closed_through()) {
            outlet.cut = true;
        }
        !outlet.cut
    }

    fn wake_all(&self) {
        let slots: Vec<_> = lock(&self.sessions).values().cloned().collect();
        slots.iter().for_each(|slot| slot.waker.wake());
    }

    /// Plain reads of a session that came in by that port may go to replicas.
    pub fn reads_leave(&self, role: Role) -> bool {
        role == Role::ReadWrite && self.read_consistency != ReadConsistency::Strong
    }

    /// Registers a session under a new id.
    pub fn register(&self) -> Arc<Slot> {
        let mut sessions = lock(&self.sessions);
        loop {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed) | ID_BIT;
            if let std::collections::hash_map::Entry::Vacant(entry) = sessions.entry(id) {
                let slot = Slot {
                    id,
                    waker: AtomicWaker::new(),
                    condemned: AtomicBool::new(false),
                    killed: AtomicBool::new(false),
                    query_killed: AtomicBool::new(false),
                    user: Mutex::default(),
                    outlets: Mutex::default(),
                };
                return entry.insert(Arc::new(slot)).clone();
            }
        }
    }
    pub fn unregister(&self, slot: &Slot) {
        lock(&self.sessions).remove(&slot.id);
        slot.disconnect(false);
        slot.disconnect_parked();
    }
    pub fn session(&self, id: u32) -> Option<Arc<Slot>> {
        lock(&self.sessions).get(&id).cloned()
    }
    /// The session of which one connection has this id on this engine.
    pub fn session_at(&self, addr: SocketAddr, thread_id: u32) -> Option<Arc<Slot>> {
        let is_it = |o: &mut Outlet| o.link.addr == addr && o.thread_id == thread_id;
        lock(&self.sessions).values().find(|slot| lock(&slot.outlets).both().any(is_it)).cloned()
    }
    /// True for numbers that only sessions of a proxy have.
    pub fn is_session_id(id: u64) -> bool {
        u32::try_from(id).is_ok_and(|id| id & ID_BIT != 0)
    }

    /// Takes `bytes` out of the budget for commands that are kept; `None` if it is used up.
    pub fn keep(self: &Arc<Self>, bytes: usize) -> Option<Kept> {
        let mut kept = Kept { shared: self.clone(), bytes: 0 };
        kept.grow_to(bytes).then_some(kept)
    }
}

/// Bytes taken from the budget for kept commands; given back on drop.
#[derive(Debug)]
pub struct Kept {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Kept {
    /// Takes what is missing to `bytes`. False, and nothing taken, if the budget does not have it.
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes) as u64;
        let limit = self.shared.limits.held_bytes as u64;
        let taken =
            self.shared.counters.held_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(more).filter(|sum| *sum <= limit)
            });
        if taken.is_ok() {
            self.bytes = self.bytes.max(bytes);
        }
        taken.is_ok()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.shared.counters.held_bytes.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

/// Adds one to a gauge for as long as it lives.
#[derive(Debug)]
pub struct Gauge {
    shared: Arc<Shared>,
    of: fn(&Counters) -> &AtomicU64,
}

impl Gauge {
    pub fn new(shared: &Arc<Shared>, of: fn(&Counters) -> &AtomicU64) -> Gauge {
        of(&shared.counters).fetch_add(1, Ordering::Relaxed);
        Gauge { shared: shared.clone(), of }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.of)(&self.shared.counters).fetch_sub(1, Ordering::Relaxed);
    }
}
