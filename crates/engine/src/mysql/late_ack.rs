//! Acknowledges what a replica has and will not be sent again.
//!
//! It may have received it before it began to acknowledge, or from another primary, or its connection broke before the
//! acknowledgement was sent. Commits may be waiting for exactly that, and while two groups of commits wait the primary
//! logs nothing new whose acknowledgement would stand for theirs. A primary takes the position at which a semi-sync
//! replica asks to be served for what that replica has. So one is asked for, on a connection of a moment.
//!
//! Guarantees: bounded in time and in what is read. What a silent primary waits for is looked at once for every place in
//! its log.
//! Does not know: whether the position is true. It is what the receiving thread tells, which has all before it.

use super::flavour::{self, Look, Replication};
use super::raw::{Raw, accepted};
use super::{MySqlEngine, STATEMENT};
use crate::Error;
use holdfast_wire::dump;
use holdfast_wire::packet::HEADER_BYTES;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A place in a primary's log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    primary: SocketAddr,
    file: String,
    position: u32,
}

/// Nothing but heartbeats comes from a primary.
#[derive(Debug)]
pub(super) struct Silence {
    since: Place,
    heartbeats: u64,
    looking: JoinSet<Result<(), Error>>,
    done: bool,
}

/// What to say, and as whom.
struct LateAck {
    place: Place,
    user: String,
    password: String,
    /// Of a replica that is not connected.
    server_id: u32,
}

const DOING: &str = "acknowledging what was received before";

impl MySqlEngine {
    /// Acknowledges all before the place that a stopped receiving thread had reached.
    pub(super) async fn acknowledge_received(&self, stopped: &Replication) -> Result<(), Error> {
        match place(stopped) {
            Some(place) => self.late_ack(place).send(false).await,
            None => Ok(()),
        }
    }

    /// A heartbeat says that all is sent. If commits still wait then, it is for what this replica had already.
    pub(super) fn acknowledge_in_silence(&self, look: &Look) {
        let receiving = look.replication.as_ref().filter(|_| look.acknowledging);
        let known = receiving.and_then(|r| Some((r.heartbeats, place(r)?)));
        let mut state = self.state();
        let Some((heartbeats, place)) = known else {
            state.silence = None;
            return;
        };
        match state.silence.as_mut().filter(|s| s.since == place) {
            Some(silence) => silence.lasts(heartbeats, || self.late_ack(place)),
            None => {
                let (looking, done) = (JoinSet::new(), false);
                state.silence = Some(Silence { since: place, heartbeats, looking, done });
            }
        }
    }

    fn late_ack(&self, place: Place) -> LateAck {
        LateAck {
            place,
            user: self.spec.replication.user.as_str().to_owned(),
            password: self.spec.replication.password.clone(),
            server_id: flavour::late_acker_id(self.spec.server_id),
        }
    }
}

impl Silence {
    fn lasts(&mut self, heartbeats: u64, ack: impl FnOnce() -> LateAck) {
        match self.looking.try_join_next() {
            Some(Ok(Ok(()))) => self.done = true,
            // A next heartbeat, a next attempt.
            Some(Ok(Err(error))) => tracing::debug!(%error, "what the primary waits for is not known"),
            Some(Err(_)) | None => {}
        }
        if !self.done && self.looking.is_empty() && heartbeats > self.heartbeats {
            self.heartbeats = heartbeats;
            let ack = ack();
            self.looking.spawn(async move { ack.send(true).await });
        }
    }
}

/// Where a receiving thread is in its primary's log, if it knows.
fn place(r: &Replication) -> Option<Place> {
    let primary = SocketAddr::new(r.host.parse::<IpAddr>().ok()?, r.port);
    (!r.file.is_empty()).then_some(Place { primary, file: r.file.clone(), position: r.offset? })
}

/// Each flavour looks at the words it knows. A heartbeat in nanoseconds: the primary soon finds that nobody listens any more.
const PREPARE: &str = "SET @rpl_semi_sync_slave=1, @master_heartbeat_period=100000000, @master_binlog_checksum='CRC32', \
     @rpl_semi_sync_replica=1, @source_heartbeat_period=100000000, @source_binlog_checksum='CRC32'";
/// Each flavour has one of them.
const WAITING: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN \
     ('Rpl_semi_sync_master_wait_sessions', 'Rpl_semi_sync_source_wait_sessions')";
/// Two columns, two ends, a row, and some room.
const ANSWER_PACKETS_MAX: usize = 16;

impl LateAck {
    async fn send(&self, only_if_waited_for: bool) -> Result<(), Error> {
        let late = || Error::Unresponsive { doing: DOING, after_ms: STATEMENT.as_millis() as u64 };
        let talk = timeout(STATEMENT, self.talk(only_if_waited_for)).await.map_err(|_| late())?;
        let path = || self.place.primary.to_string().into();
        talk.map_err(|source| Error::Io { doing: DOING, path: path(), source })
    }

    async fn talk(&self, only_if_waited_for: bool) -> io::Result<()> {
        let mut raw = Raw::connect(self.place.primary, &self.user, &self.password).await?;
        if only_if_waited_for {
            if !commits_wait(&mut raw).await? {
                return Ok(());
            }
            let Place { primary, file, position } = &self.place;
            tracing::info!(%primary, %file, position, "commits wait for what this replica has; acknowledging it");
        }
        raw.execute(PREPARE).await?;
        raw.command(&dump::by_place(self.server_id, &self.place.file, self.place.position, false)).await?;
        // The first packet says that it was heard; what else it says is of no interest.
        accepted(&raw.read().await?.1)
    }
}

/// Whether a server has commits that wait for an acknowledgement.
async fn commits_wait(raw: &mut Raw) -> io::Result<bool> {
    raw.query(WAITING).await?;
    let (mut waits, mut ends) = (false, 0);
    for _ in 0..ANSWER_PACKETS_MAX {
        let (_, packet) = raw.read().await?;
        accepted(&packet)?;
        match packet.first() {
            // After the columns, and after the rows.
            Some(0xFE) if packet.len() < HEADER_BYTES + 2 => ends += 1,
            // A row: name and value, each after its length.
            Some(_) if ends == 1 => waits |= !packet.ends_with(b"\x010"),
            _ => {}
        }
        if ends == 2 {
            return Ok(waits);
        }
    }
    Err(io::Error::other("the primary's answer has no end"))
}
