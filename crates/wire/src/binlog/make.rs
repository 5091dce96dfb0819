//! Events that a server makes for a stream, beside those of its log.

use super::{ARTIFICIAL, CHECKSUM_BYTES, HEADER_BYTES, Header, kind};

/// The most that a heartbeat may say of a log: nothing.
pub const HEARTBEAT_SENDS_NOTHING: u32 = 0;

/// An event of a stream, with its checksum if the stream has them.
fn event(kind: u8, server: u32, body: &[u8], checksum: bool) -> Vec<u8> {
    let bytes = HEADER_BYTES + body.len() + if checksum { CHECKSUM_BYTES } else { 0 };
    let mut out = Vec::with_capacity(bytes);
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    out.extend_from_slice(&server.to_le_bytes());
    out.extend_from_slice(&(bytes as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&ARTIFICIAL.to_le_bytes());
    out.extend_from_slice(body);
    if checksum { with_checksum(out) } else { out }
}

/// Appends the checksum of an event's bytes.
pub fn with_checksum(mut event: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&event);
    event.extend_from_slice(&sum.to_le_bytes());
    event
}

/// Says that the events that follow come from a place of a file.
pub fn rotate(server: u32, file: &str, position: u64, checksum: bool) -> Vec<u8> {
    let mut body = position.to_le_bytes().to_vec();
    body.extend_from_slice(file.as_bytes());
    event(kind::ROTATE, server, &body, checksum)
}

/// A log's format event as a stream carries it: not in a file, whose temporary tables would be dropped, and not in use.
/// `None` if it is none.
pub fn format_of(log: &[u8]) -> Option<Vec<u8>> {
    let header = Header::read(log).filter(|h| h.kind == kind::FORMAT && h.bytes as usize == log.len())?;
    // Version, the server's version, when it was created.
    const CREATED: usize = HEADER_BYTES + 2 + 50;
    let mut out = log[..log.len().checked_sub(CHECKSUM_BYTES)?].to_vec();
    out.get_mut(CREATED..CREATED + 4)?.fill(0);
    out[13..17].fill(0);
    out[17..19].copy_from_slice(&(header.flags & !super::IN_USE).to_le_bytes());
    Some(with_checksum(out))
}
