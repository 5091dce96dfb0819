//! One look at the engine: one round trip, then pure reading of what came back.
//!
//! Guarantees: bounded in time; a place in history that is not sure is none, never an empty one (S11).
//! Does not know: what the facts mean for the group.

use super::info::{Info, settings};
use super::session::{Batch, Door, Place};
use super::settings::{NOWHERE, SHUT, WATCHED, unsafe_ones};
use super::{Before, Heard, RedisEngine, accounts, lineage, lock};
use crate::{Ackers, Error, OBSERVE_MS, Observation, ThreadState, Upstream, files};
use holdfast_core::position::{HistoryId, RedisPosition};
use holdfast_core::{NodeName, Position};
use holdfast_wire::resp::value::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::Instant;

/// What the server says, read but for its replication's meaning.
pub(super) struct Look {
    pub(super) info: Info,
    pub(super) settings: BTreeMap<String, String>,
    users: Vec<String>,
}

/// The server's place in history, as far as it knows by itself.
#[derive(Debug, Clone, Copy)]
struct Stand {
    history: HistoryId,
    offset: u64,
    /// The history before, and how much of it is contained.
    before: Option<(HistoryId, u64)>,
    is_primary: bool,
    /// It keeps what it needs to go on from there.
    kept: bool,
    keys: u64,
}

impl Look {
    pub(super) fn batch() -> Batch {
        let mut get = vec!["CONFIG", "GET"];
        get.extend(WATCHED);
        Batch::new(&["INFO"]).and(&get).and(&["ACL", "USERS"])
    }
    pub(super) fn read(answers: &[Value]) -> Result<Look, Error> {
        let [info, got, users] = answers else {
            return Err(Error::Log("the engine answered something else than was asked".into()));
        };
        Ok(Look {
            info: Info::read(info)?,
            settings: settings(got),
            users: users.items().iter().filter_map(Value::text).collect(),
        })
    }
    pub(super) fn is_primary(&self) -> Result<bool, Error> {
        Ok(self.info.text("role")? == "master")
    }
    /// Takes writes: is a primary, and not one that waits for more replicas than there are.
    pub(super) fn is_writable(&self) -> Result<bool, Error> {
        let is_shut = self.settings.get("min-replicas-to-write").is_some_and(|n| n == SHUT);
        Ok(self.is_primary()? && !is_shut)
    }
    /// Whom it follows.
    pub(super) fn upstream(&self) -> Result<Option<(String, u16)>, Error> {
        if self.is_primary()? {
            return Ok(None);
        }
        let (host, port) = (self.info.text("master_host")?.to_owned(), self.info.number("master_port")?);
        Ok((host != NOWHERE.0 || port != NOWHERE.1).then_some((host, port)))
    }
    fn stand(&self) -> Result<Option<Stand>, Error> {
        let i = &self.info;
        if i.on("loading")? {
            return Ok(None);
        }
        let is_primary = self.is_primary()?;
        let offset = i.number("master_repl_offset")?;
        let end: i64 = i.number("second_repl_offset")?;
        let before = u64::try_from(end).ok().filter(|end| *end > 0);
        let before = before.map(|end| Ok((i.history("master_replid2")?, end - 1))).transpose()?;
        Ok(Some(Stand {
            history: i.history("master_replid")?,
            offset,
            before,
            is_primary,
            // Without a cached place to go on from, it answers with a number that means nothing.
            kept: is_primary || i.number::<u64>("slave_repl_offset")? == offset,
            keys: i.keys(),
        }))
    }
}

impl RedisEngine {
    pub(super) async fn look(&self) -> Result<Observation, Error> {
        self.require_running()?;
        let within = Duration::from_millis(OBSERVE_MS);
        let answers = self.watching.run("observing", &self.door(), Look::batch(), within).await?;
        self.seen(&Look::read(&answers)?)
    }

    /// A look with a verb's patience.
    pub(super) async fn look_before(&self, doing: &'static str) -> Result<Observation, Error> {
        self.seen(&self.look_raw(doing).await?)
    }
    pub(super) async fn look_raw(&self, doing: &'static str) -> Result<Look, Error> {
        Look::read(&self.act(doing, Look::batch()).await?)
    }

    /// Where it stands, with all that is known of the past. `None`: that is not sure.
    pub(super) fn position_of(&self, look: &Look) -> Result<Option<RedisPosition>, Error> {
        let Some(stand) = look.stand()? else { return Ok(None) };
        let followed = self.state().followed;
        let lineage = lock(&self.lineage);
        Ok(position(stand, followed, lineage.as_ref()))
    }

    fn seen(&self, look: &Look) -> Result<Observation, Error> {
        let at = self.position_of(look)?.map(Position::Redis);
        let (loading, i) = (look.info.on("loading")?, &look.info);
        let upstream = self.upstream(look, loading)?;
        let (ackers, foreign_replicas) = self.ackers(i);
        let node = |id: &u32| self.spec.peers.get(id).cloned();
        let own = u32::from(self.watching.is_open()) + u32::from(self.acting.is_open());
        let state = self.state();
        Ok(Observation {
            version: state.version.clone(),
            server_id: self.spec.server_id,
            writable: look.is_writable()?,
            received: at.clone(),
            applied: at,
            drained: !loading,
            acknowledges: upstream.as_ref().is_some_and(|u| u.acknowledges),
            upstream,
            waits_for_ack: false,
            ack_waiters: 0,
            ackers_connected: ackers.connected.iter().filter_map(node).collect(),
            ackers,
            foreign_replicas,
            client_connections: i.number::<u32>("connected_clients")?.saturating_sub(own),
            unsafe_settings: unsafe_ones(&look.settings, self.sync()),
            free_disk_bytes: files::free_bytes(&self.at.data),
            unjudged_transactions: 0,
            retained: state.retained,
            admits: Some(accounts::admitted(&self.spec, look.users.iter().map(String::as_str))),
        })
    }

    fn upstream(&self, look: &Look, loading: bool) -> Result<Option<Upstream>, Error> {
        let Some((host, port)) = look.upstream()? else {
            self.state().heard = None;
            return Ok(None);
        };
        let i = &look.info;
        let up = i.text("master_link_status")? == "up";
        let copying = i.maybe::<u8>("master_sync_in_progress").is_some_and(|on| on != 0) || (loading && !up);
        let io = match (up, copying) {
            (true, _) => ThreadState::Running,
            (false, true) => ThreadState::Copying {
                received_bytes: i.maybe("master_sync_read_bytes").unwrap_or(0),
                data_bytes: i.maybe("master_sync_total_bytes").unwrap_or(0),
            },
            (false, false) => ThreadState::Connecting { last_error: self.replication_words() },
        };
        let addr = host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        let heard = if up { self.heard(addr, i.number("master_repl_offset")?) } else { None };
        if !up {
            self.state().heard = None;
        }
        Ok(Some(Upstream {
            addr,
            host,
            port,
            io,
            sql: ThreadState::Running,
            lag_ms: up.then_some(0),
            silent_ms: heard.map(|at| at.elapsed().as_millis() as u64),
            acknowledges: up,
        }))
    }

    /// The last sign of life: the stream's own, or an answer to a question.
    fn heard(&self, addr: Option<SocketAddr>, offset: u64) -> Option<Instant> {
        let answered = addr.and_then(|addr| self.probe.ask(addr, self.door_at(addr)));
        let mut state = self.state();
        if state.heard.as_ref().is_none_or(|h| h.offset != offset) {
            state.heard = Some(Heard { offset, at: Instant::now() });
        }
        state.heard.as_ref().map(|h| h.at).max(answered)
    }

    /// A primary's door, as its replica.
    pub(super) fn door_at(&self, addr: SocketAddr) -> Door {
        Door {
            place: Place::Addr(addr),
            user: accounts::replica_name(&self.spec, &self.spec.node),
            password: self.spec.replication.password.clone(),
        }
    }

    /// Replicas that acknowledge, and those that are no member's.
    fn ackers(&self, info: &Info) -> (Ackers, BTreeSet<String>) {
        let (mut connected, mut foreign) = (BTreeSet::new(), BTreeSet::new());
        let id_of = |node: &NodeName| self.spec.peers.iter().find(|(_, n)| *n == node).map(|(id, _)| *id);
        for replica in info.replicas() {
            let member = self.spec.addresses.iter().find(|(_, addr)| Some(**addr) == replica.addr);
            match member.and_then(|(node, _)| id_of(node)) {
                Some(id) if replica.online => drop(connected.insert(id)),
                Some(_) => {}
                None => drop(foreign.insert(replica.says)),
            }
        }
        let count = connected.len();
        (Ackers { connected, count }, foreign)
    }

    /// What the server last said of its replication, if it is ours to read.
    fn replication_words(&self) -> Option<String> {
        const BYTES: u64 = 8 << 10;
        const KNOWN: [&str; 3] = ["master", "primary", "sync"];
        /// Of each attempt, whatever comes of it.
        const ATTEMPT: [&str; 3] = ["connecting to ", "sync started", "fired the event"];
        use std::io::{Read as _, Seek as _};
        let mut file = std::fs::File::open(&self.at.error_log).ok()?;
        let len = file.metadata().ok()?.len();
        file.seek(std::io::SeekFrom::Start(len.saturating_sub(BYTES))).ok()?;
        let mut text = Vec::new();
        file.take(BYTES).read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        let of_replication = |line: &&str| {
            let line = line.to_ascii_lowercase();
            KNOWN.iter().any(|w| line.contains(w)) && !ATTEMPT.iter().any(|w| line.contains(w))
        };
        let line = text.lines().rev().find(of_replication)?;
        // After the process, the time and the level.
        Some(line.splitn(7, ' ').last().unwrap_or(line).trim().to_owned())
    }
}

fn position(s: Stand, followed: Option<Before>, lineage: Option<&lineage::Lineage>) -> Option<RedisPosition> {
    let empty = s.keys == 0 && s.before.is_none() && !s.is_primary;
    match (s.kept, followed) {
        // Come up as a primary, and closed before anything was written: a history that nothing happened in.
        (true, None) if s.offset == 0 && empty => return Some(RedisPosition::default()),
        (true, _) => {}
        // As it was started: without any data, or with data that nobody followed yet.
        (false, None) if s.offset == 0 && !empty => {}
        (false, None | Some(Before::Nothing)) if s.offset == 0 && empty => {
            return Some(RedisPosition::default());
        }
        // The old data went, and what came instead is not whole.
        (false, _) => return None,
    }
    let of = |history, end: u64| {
        let known = lineage.map(|l| l.of(history)).unwrap_or_default();
        known.into_iter().map(move |(other, shared)| (other, shared.min(end)))
    };
    let before = s.before.into_iter().flat_map(|(history, end)| of(history, end).chain([(history, end)]));
    Some(RedisPosition::at(s.history, s.offset, of(s.history, s.offset).chain(before)))
}
