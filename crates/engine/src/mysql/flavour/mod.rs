//! What differs between the members of the MySQL family: everything that [`Flavour`] lists, and nothing else.
//!
//! Guarantees: a flavour gives words (command lines, SQL) and reads answers; the shared driver decides when.
//! Does not know: roles, deadlines, sessions. The few hooks that are asynchronous say why they are.

pub(super) mod mariadb;
mod mysql;
mod options;

use super::sql::Table;
use super::{Layout, MySqlEngine};
pub(super) use crate::spec::Programs;
use crate::{Error, Saved, Spec, ThreadState};
use async_trait::async_trait;
use holdfast_core::topology::Engine;
use holdfast_core::{Position, limits};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Practically infinite, in ms: an acknowledgement is waited for until the caller decides otherwise. The largest
/// value the servers take without overflowing their own arithmetic (49 days).
const ACK_TIMEOUT_MS: u64 = 4_294_967_295;
/// Below this an acknowledgement timeout counts as a way out of durability.
const ACK_TIMEOUT_SAFE_MS: u64 = 86_400_000;
/// How often an upstream with nothing to send sends a heartbeat, as the servers want it: in s.
const HEARTBEAT_S: f64 = limits::HEARTBEAT_MS as f64 / 1_000.0;

/// How often a log's reader hears from a server that has nothing to send: in ns.
const HEARTBEAT_NS: u64 = 500_000_000;

/// The flavour of an engine of this family.
pub(super) fn of(engine: Engine) -> Result<&'static dyn Flavour, Error> {
    match engine {
        Engine::MariaDb => Ok(&mariadb::MariaDb),
        Engine::MySql => Ok(&mysql::MySql),
        Engine::Redis | Engine::Valkey => {
            Err(Error::BadSpec(format!("{} is not run by the driver of the MySQL family", engine.word())))
        }
    }
}

/// Whether the crash recovery of the next start rolls back what was never acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    /// Transactions in the log that the engine had not committed are cut off the log and rolled back. Right where a
    /// commit was answered only after an acknowledgement.
    RollBackTail,
    /// They are committed. Right where commits were answered without one.
    CommitTail,
}

/// One look, in words that both flavours share.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) version: String,
    pub(super) server_id: u32,
    pub(super) writable: bool,
    pub(super) applied: Position,
    /// Commits are set to wait for an acknowledgement, and do.
    pub(super) waits_for_ack: bool,
    pub(super) ack_waiters: u32,
    /// Connected replicas that acknowledge.
    pub(super) ackers: usize,
    /// Server ids of connected replicas.
    pub(super) replicas: BTreeSet<u32>,
    /// Set to acknowledge.
    pub(super) acknowledges: bool,
    /// Acknowledges on the present connection.
    pub(super) acknowledging: bool,
    pub(super) connections: u32,
    pub(super) replication: Option<Replication>,
    pub(super) unsafe_settings: Vec<String>,
}

/// The server's account of its replication from a primary.
#[derive(Debug, Clone)]
pub(super) struct Replication {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    /// Asks its primary by transaction ids, not by a place in a file.
    pub(super) by_id: bool,
    pub(super) io: ThreadState,
    pub(super) sql: ThreadState,
    /// What the receiving thread has got; not necessarily what came before that.
    pub(super) received: Position,
    pub(super) lag_s: Option<u64>,
    /// Received since it began to follow.
    pub(super) heartbeats: u64,
    /// How far it has received, in the primary's own log.
    pub(super) file: String,
    pub(super) offset: Option<u32>,
}

/// Where to replicate from, and as whom.
pub(super) struct Source<'a> {
    pub(super) primary: SocketAddr,
    pub(super) user: &'a str,
    pub(super) password: &'a str,
    pub(super) acknowledges: bool,
    /// The id to replicate under.
    pub(super) server_id: u32,
    /// Where to start, if the server does not know by itself.
    pub(super) from: Option<String>,
}

/// What must be known before following.
pub(super) struct BeforeFollowing {
    pub(super) writable: bool,
    /// Commits wait for an acknowledgement.
    pub(super) waiting: bool,
    /// See [`Source::from`].
    pub(super) from: Option<String>,
}

/// What is to be saved, of what only this instance has (S10).
pub(super) struct Save {
    pub(super) at: Layout,
    pub(super) programs: Programs,
    /// The index file of the log.
    pub(super) index: PathBuf,
    /// What needs no saving.
    pub(super) theirs: Position,
}

/// See the file's contract. A text of SQL may be several statements; each of a kind that gives as many results as its
/// reader expects.
#[async_trait]
pub(super) trait Flavour: Send + Sync {
    /// The server's program.
    fn server(&self) -> &'static str;
    /// The server's command line. It comes up read-only and replicates nothing (S9).
    fn arguments(
        &self,
        spec: &Spec,
        at: &Layout,
        user: &str,
        recovery: Recovery,
    ) -> Result<Vec<String>, Error>;
    /// Makes a data directory `into`, owned by `run_as`, with one account: `me`, known by its Unix socket.
    fn initialise(
        &self,
        spec: &Spec,
        at: &Layout,
        into: &Path,
        run_as: &str,
        me: &str,
    ) -> Result<Command, Error>;
    /// With the server running: brings data of an earlier release up to date, without a word in the log. `None`: the
    /// server has done that itself.
    fn upgrade(&self, _programs: &Programs, _at: &Layout, _me: &str) -> Option<Command> {
        None
    }
    /// What the data itself says it was last brought up to date for.
    fn up_to_date_for(&self, _at: &Layout) -> Option<String> {
        None
    }
    /// Its crash recovery can be told to roll back what was never acknowledged.
    fn rolls_back_tail(&self) -> bool;
    /// Before a start that does: copies aside what it may cut off. Blocks.
    fn before_recovery(&self, at: &Layout) -> Result<(), Error>;

    /// What a session of the driver begins with. Nothing it does is part of the dataset's history unless it says so.
    fn session(&self) -> &'static str;
    fn kill(&self, connections: &[u32]) -> String;
    /// Everybody who is neither the server's own, nor a replica, nor replicating: id, query, state, user; ends where a
    /// further condition may follow.
    fn clients(&self) -> &'static str;
    /// That condition: not idle.
    fn busy(&self) -> &'static str;

    fn look(&self) -> &'static str;
    fn read_look(&self, tables: &[Table], sync: bool) -> Result<Look, Error>;
    fn replication(&self) -> &'static str;
    fn read_replication(&self, tables: &[Table]) -> Result<Option<Replication>, Error>;
    /// What is applied.
    fn positions(&self) -> &'static str;
    fn read_positions(&self, tables: &[Table]) -> Result<Position, Error>;
    fn read_position(&self, text: &str) -> Result<Position, Error>;
    fn look_before_following(&self) -> &'static str;
    fn read_before_following(&self, tables: &[Table]) -> Result<BeforeFollowing, Error>;

    fn make_read_only(&self) -> &'static str;
    fn make_writable(&self) -> &'static str;
    fn stop_receiving(&self) -> &'static str;
    /// The kernel's number of the receiving thread, if a signal can end what it waits for: tid.
    fn receiving_thread(&self) -> Option<&'static str>;
    fn start_receiving(&self) -> &'static str;
    fn start_replication(&self) -> &'static str;
    fn acknowledge(&self, on: bool) -> &'static str;
    fn wait_for_ack(&self, on: bool) -> &'static str;
    /// Stops and forgets replication, and writes under `id` from now on.
    fn promote(&self, sync: bool, id: u32) -> String;
    /// With replication stopped, or not.
    fn follow(&self, source: &Source<'_>) -> String;
    /// True if stopping the receiving thread alone would discard what is not applied yet.
    fn purges_when_receiving_again(&self) -> bool;
    /// Before replication stops, with the receiving thread stopped: makes an applying thread give up half a transaction,
    /// whose other half will not come.
    async fn give_up_half(&self, engine: &MySqlEngine) -> Result<(), Error>;
    /// Applies what was received before a restart, with the receiving thread stopped and the applying one too.
    async fn apply_left(&self, engine: &MySqlEngine, r: Option<&Replication>) -> Result<(), Error>;
    /// Undoes what that changed, with replication stopped.
    async fn done_with_left(&self, engine: &MySqlEngine) -> Result<(), Error>;
    /// After a start, before anything else: finds out what the restart left behind, and begins to apply it. `false`:
    /// something that it had is missing, or may be.
    async fn settle(&self, engine: &MySqlEngine) -> Result<bool, Error>;

    /// The statement, put into the history as one of server `id`.
    fn logged(&self, sql: &str, id: u32) -> String;
    /// Lets the driver's own statements write while clients may not; back again.
    fn let_driver_write(&self, on: bool) -> Option<&'static str>;
    /// Accounts without a name: account.
    fn anonymous_accounts(&self) -> &'static str;
    /// The account named `user` (quoted): locked.
    fn account(&self, user: &str) -> String;
    /// Privileges with which a client could undo a fence or hide a write from the replicas.
    fn taken(&self) -> &'static str;

    /// Writes down what only this instance has. Blocks.
    fn save(&self, job: &Save) -> Result<Option<Saved>, Error>;

    /// On a connection that is to receive the log after `have`: what is said before.
    fn before_log(&self, have: &Position) -> Result<String, Error>;
    /// The request for it.
    fn log_request(&self, id: u32, have: &Position) -> Result<Vec<u8>, Error>;

    /// A donor's place in history: state, version.
    fn clone_state(&self) -> &'static str;
    /// Prepares a copy of the running server; the command that writes it to its output as one stream. Asynchronous
    /// because that may be work of the server.
    async fn copy(&self, engine: &CopyFrom, scratch: &Path) -> Result<Command, Error>;
    /// Ends a copy into `scratch` that the server is still making, and waits for that end. Nothing where programs make it:
    /// those end with whoever runs them.
    async fn end_copy(&self, from: &CopyFrom, scratch: &Path) -> Result<(), Error>;
    /// Takes such a stream as its input, into an empty directory.
    fn unpack(&self, programs: &Programs, into: &Path) -> Command;
    /// What makes that a data directory.
    fn prepare(&self, programs: &Programs, at: &Layout, dir: &Path) -> Option<Command>;
    /// Where in history the copy stands, between the donor's states before and after it was made.
    fn copied_state(&self, before: &Position, after: &Position, dir: &Path) -> Result<Position, Error>;
    /// At the first start of a copy: gives it its place in history.
    fn place_copy(&self, state: &Position) -> String;
}

/// What a copy is made of, without the engine's locks.
pub(super) struct CopyFrom {
    /// The version that runs, and the one of the programs that are there by now.
    pub(super) runs: String,
    pub(super) installed: String,
    pub(super) programs: Programs,
    pub(super) at: Layout,
    pub(super) me: String,
    pub(super) session: super::sql::Session,
}

/// A replica skips events that carry its own server id, as if it had them. It need not have them: its tail may have
/// been rolled back, or it was cloned from a donor that lagged. So an instance replicates under another id than the
/// one it writes under, and no event is ever its own.
pub(super) const fn follower_id(server_id: u32) -> u32 {
    server_id | FOLLOWER_BIT
}
const FOLLOWER_BIT: u32 = 1 << 31;

/// A replica's second connection to its primary, of a moment: under the id of the first it would end the first.
pub(super) const fn late_acker_id(server_id: u32) -> u32 {
    follower_id(server_id) | 1 << 30
}

/// Who reads a primary's log for the archive.
pub(super) const fn archiver_id(server_id: u32) -> u32 {
    follower_id(server_id) | 1 << 29
}

/// The highest node number: what is left of a server id beside the primacy.
pub(super) const NODE_MAX: u32 = holdfast_core::limits::NODE_ID_MAX;

/// The id that an instance writes under. It changes with every primacy. To MariaDB that is what makes a transaction's
/// number unique: a server that rolled back or cloned away a tail of its own would else give out the same numbers
/// again for other transactions, and a member that still has the first ones would be taken for one that has the second.
/// (MySQL numbers by server UUID, never rolls back, and a clone gets a new UUID.)
pub(super) const fn writer_id(server_id: u32, primacy: u64) -> u32 {
    // 24 bits of primacy: one a minute for thirty years.
    (((primacy & 0xff_ffff) as u32) << 7) | server_id
}

/// The node number in any id that an instance goes by.
pub(super) const fn node_of(id: u32) -> u32 {
    id & NODE_MAX
}

/// How a server on our data names its directory: also how a leftover process is recognised.
pub(super) fn data_argument(at: &Layout) -> String {
    format!("--datadir={}", at.data.display())
}

/// A thread's state from the columns that tell it.
fn thread(r: &Table, running: &str, errno: &str, error: &str) -> ThreadState {
    let code = r.number(0, errno).unwrap_or(0);
    let text = r.cell(0, error).unwrap_or_default().to_owned();
    match r.cell(0, running) {
        Some("Yes") => ThreadState::Running,
        Some("Connecting" | "Preparing") => {
            ThreadState::Connecting { last_error: (code != 0).then(|| format!("{code}: {text}")) }
        }
        _ if code != 0 => ThreadState::Failed { code, text },
        _ => ThreadState::Stopped,
    }
}

/// Collects what is not as it must be.
#[derive(Default)]
struct Unsafe(Vec<String>);

impl Unsafe {
    fn unless(&mut self, fine: bool, says: impl FnOnce() -> String) {
        if !fine {
            self.0.push(says());
        }
    }
    /// Setting `name`, which stands in the first row's `cell`, is `good`; `then` is what happens otherwise.
    fn unless_is(&mut self, g: &Table, name: &str, cell: &str, good: &str, then: &str) {
        let value = g.cell(0, cell).unwrap_or_default();
        self.unless(value == good, || format!("{name} is {value}, not {good}: {then}"));
    }
}

/// What a crash of the host can do.
const HOST_CRASH: &str = "a crash of the host can lose acknowledged writes";

/// Name and value rows as a map.
fn pairs(t: &Table) -> std::collections::BTreeMap<&str, &str> {
    t.rows
        .iter()
        .filter_map(|r| match &r[..] {
            [Some(name), Some(value)] => Some((name.as_str(), value.as_str())),
            _ => None,
        })
        .collect()
}
