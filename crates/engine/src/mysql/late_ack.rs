//! Acknowledges what a replica received before it began to acknowledge.
//!
//! Commits may be waiting for exactly that: it will not be sent again, and while two groups of commits wait the primary
//! logs nothing new whose acknowledgement would stand for theirs. A primary takes the position at which a semi-sync
//! replica asks to be served for what that replica has. So one is asked for, on a connection of a moment.
//!
//! Guarantees: bounded in time; reads nothing but the login and one more packet.
//! Does not know: whether the position is true. The caller has it from the receiving thread, stopped.

use crate::Error;
use holdfast_wire::greeting::Greeting;
use holdfast_wire::login::HandshakeResponse;
use holdfast_wire::packet::{self, HEADER_BYTES, Header};
use holdfast_wire::prover::{Prover, Step};
use holdfast_wire::{Capabilities, command};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What to say, and as whom.
pub(super) struct LateAck<'a> {
    pub(super) primary: SocketAddr,
    pub(super) user: &'a str,
    pub(super) password: &'a str,
    /// Of a replica that is not connected.
    pub(super) server_id: u32,
    pub(super) file: &'a str,
    pub(super) position: u32,
}

/// A greeting, an OK, an error: all are short.
const PACKET_BYTES_MAX: usize = 64 << 10;
/// No login method talks longer.
const LOGIN_PACKETS_MAX: usize = 16;
/// Each flavour looks at the words it knows. A heartbeat in nanoseconds: the primary soon finds that nobody listens any more.
const PREPARE: &str = "SET @rpl_semi_sync_slave=1, @master_heartbeat_period=100000000, @master_binlog_checksum='CRC32', \
     @rpl_semi_sync_replica=1, @source_heartbeat_period=100000000, @source_binlog_checksum='CRC32'";
const BINLOG_DUMP: u8 = 0x12;
const UTF8: u8 = 33;

impl LateAck<'_> {
    pub(super) async fn send(&self) -> Result<(), Error> {
        let failed =
            |source| Error::Io { doing: "acknowledging to", path: self.primary.to_string().into(), source };
        self.talk().await.map_err(failed)
    }

    async fn talk(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.primary).await?;
        self.log_in(&mut stream).await?;
        let mut set = vec![command::QUERY];
        set.extend_from_slice(PREPARE.as_bytes());
        write(&mut stream, 0, &set).await?;
        accepted(&read(&mut stream).await?.1)?;
        let mut dump = vec![BINLOG_DUMP];
        dump.extend_from_slice(&self.position.to_le_bytes());
        dump.extend_from_slice(&[0, 0]);
        dump.extend_from_slice(&self.server_id.to_le_bytes());
        dump.extend_from_slice(self.file.as_bytes());
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
