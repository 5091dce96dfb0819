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
use super::{MySqlEngine, STATEMENT};
use crate::Error;
use holdfast_wire::greeting::Greeting;
use holdfast_wire::login::HandshakeResponse;
use holdfast_wire::packet::{self, HEADER_BYTES, Header};
use holdfast_wire::prover::{Prover, Step};
use holdfast_wire::{Capabilities, command};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
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

/// A greeting, an OK, an error: all are short.
const PACKET_BYTES_MAX: usize = 64 << 10;
/// No login method talks longer.
const LOGIN_PACKETS_MAX: usize = 16;
/// Each flavour looks at the words it knows. A heartbeat in nanoseconds: the primary soon finds that nobody listens any more.
const PREPARE: &str = "SET @rpl_semi_sync_slave=1, @master_heartbeat_period=100000000, @master_binlog_checksum='CRC32', \
     @rpl_semi_sync_replica=1, @source_heartbeat_period=100000000, @source_binlog_checksum='CRC32'";
/// Each flavour has one of them.
const WAITING: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN \
     ('Rpl_semi_sync_master_wait_sessions', 'Rpl_semi_sync_source_wait_sessions')";
/// Two columns, two ends, a row, and some room.
const ANSWER_PACKETS_MAX: usize = 16;
const BINLOG_DUMP: u8 = 0x12;
const UTF8: u8 = 33;

impl LateAck {
    async fn send(&self, only_if_waited_for: bool) -> Result<(), Error> {
        let late = || Error::Unresponsive { doing: DOING, after_ms: STATEMENT.as_millis() as u64 };
        let talk = timeout(STATEMENT, self.talk(only_if_waited_for)).await.map_err(|_| late())?;
        let path = || self.place.primary.to_string().into();
        talk.map_err(|source| Error::Io { doing: DOING, path: path(), source })
    }

    async fn talk(&self, only_if_waited_for: bool) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.place.primary).await?;
        self.log_in(&mut stream).await?;
        if only_if_waited_for {
            if !commits_wait(&mut stream).await? {
                return Ok(());
            }
            let Place { primary, file, position } = &self.place;
            tracing::info!(%primary, %file, position, "commits wait for what this replica has; acknowledging it");
        }
        query(&mut stream, PREPARE).await?;
        accepted(&read(&mut stream).await?.1)?;
        let mut dump = vec![BINLOG_DUMP];
        dump.extend_from_slice(&self.place.position.to_le_bytes());
        dump.extend_from_slice(&[0, 0]);
        dump.extend_from_slice(&self.server_id.to_le_bytes());
        dump.extend_from_slice(self.place.file.as_bytes());
        write(&mut stream, 0, &dump).await?;
        // The first packet says that it was heard; what else it says is of no interest.
        accepted(&read(&mut stream).await?.1)
    }

    async fn log_in(&self, stream: &mut TcpStream) -> io::Result<()> {
        let (_, first) = read(stream).await?;
        let greeting = Greeting::parse(&first).map_err(io::Error::other)?;
        let wanted =
            Capabilities::PROTOCOL_41.with(Capabilities::SECURE_CONNECTION).with(Capabilities::PLUGIN_AUTH);
        let mut prover = Prover::new(&greeting, self.password.as_bytes(), false);
        let (method, auth) = prover.first();
        let response = HandshakeResponse {
            capabilities: wanted.both(greeting.capabilities),
            packet_bytes_max: PACKET_BYTES_MAX as u32,
            collation: UTF8,
            user: self.user.as_bytes().to_vec(),
            auth,
            schema: None,
            auth_plugin: Some(method.name().to_vec()),
            attributes: None,
        };
        write(stream, 1, &response.build()).await?;
        for _ in 0..LOGIN_PACKETS_MAX {
            let (seq, reply) = read(stream).await?;
            match prover.step(&reply).map_err(io::Error::other)? {
                Step::Answer(answer) => write(stream, seq.wrapping_add(1), &answer).await?,
                Step::Wait => {}
                Step::Done | Step::Refused => return accepted(&reply),
            }
        }
        Err(io::Error::other("the primary's login has no end"))
    }
}

/// Whether a server has commits that wait for an acknowledgement.
async fn commits_wait(stream: &mut TcpStream) -> io::Result<bool> {
    query(stream, WAITING).await?;
    let (mut waits, mut ends) = (false, 0);
    for _ in 0..ANSWER_PACKETS_MAX {
        let (_, packet) = read(stream).await?;
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

async fn query(stream: &mut TcpStream, sql: &str) -> io::Result<()> {
    let mut packet = vec![command::QUERY];
    packet.extend_from_slice(sql.as_bytes());
    write(stream, 0, &packet).await
}

fn accepted(reply: &[u8]) -> io::Result<()> {
    if reply.first() == Some(&0xFF) {
        return Err(io::Error::other(String::from_utf8_lossy(&reply[1..]).into_owned()));
    }
    Ok(())
}

async fn write(stream: &mut TcpStream, seq: u8, payload: &[u8]) -> io::Result<()> {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    packet::put(&mut out, seq, payload);
    stream.write_all(&out).await
}

pub(super) async fn read(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).await?;
    let header = Header::read(&head).ok_or_else(|| io::Error::other("no packet"))?;
    if header.len > PACKET_BYTES_MAX {
        return Err(io::Error::other("the primary's packet is too long"));
    }
    let mut payload = vec![0; header.len];
    stream.read_exact(&mut payload).await?;
    Ok((header.seq, payload))
}
