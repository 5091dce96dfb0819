//! OK, ERR and EOF packets.

use crate::codec::{Error, Reader, put_lenenc, put_lenenc_bytes};
use crate::flags::{Capabilities, Status};

/// Error number of a MariaDB progress report, which looks like an ERR packet but ends nothing.
pub const PROGRESS_REPORT: u16 = 0xFFFF;

/// An OK packet (also in its 0xFE form, which ends rows under DEPRECATE_EOF).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OkPacket<'a> {
    pub affected_rows: u64,
    pub last_insert_id: u64,
    pub status: Status,
    pub warnings: u16,
    /// Text for people. Servers write it length-encoded under every set of capabilities.
    pub info: &'a [u8],
    /// What changed in the session, if `status` says so: see [`crate::session_track`].
    pub session_state: &'a [u8],
}

impl<'a> OkPacket<'a> {
    /// Reads a payload that starts with 0x00 or 0xFE. A text that is not length-encoded is taken as it stands.
    pub fn parse(payload: &'a [u8]) -> Result<OkPacket<'a>, Error> {
        let mut r = Reader::new(payload);
        match r.u8("the reply's kind")? {
            0x00 | 0xFE => {}
            value => return Err(Error::Value { what: "the reply's kind", value: value.into() }),
        }
        let affected_rows = r.lenenc("the affected rows")?;
        let last_insert_id = r.lenenc("the last insert id")?;
        let status = Status(r.u16("the status")?);
        let warnings = r.u16("the warnings")?;
        let mut tail = r;
        let (info, session_state) = match tail.lenenc_bytes("the text") {
            Ok(info) if status.has(Status::SESSION_STATE_CHANGED) => {
                (info, tail.lenenc_bytes("the session state").unwrap_or_default())
            }
            Ok(info) if tail.is_empty() => (info, &[][..]),
            _ => (r.rest(), &[][..]),
        };
        Ok(OkPacket { affected_rows, last_insert_id, status, warnings, info, session_state })
    }

    /// The payload, with first byte 0x00.
    pub fn build(&self) -> Vec<u8> {
        let mut out = vec![0];
        put_lenenc(&mut out, self.affected_rows);
        put_lenenc(&mut out, self.last_insert_id);
        out.extend_from_slice(&self.status.0.to_le_bytes());
        out.extend_from_slice(&self.warnings.to_le_bytes());
        let tracked = self.status.has(Status::SESSION_STATE_CHANGED);
        if tracked || !self.info.is_empty() {
            put_lenenc_bytes(&mut out, self.info);
        }
        if tracked {
            put_lenenc_bytes(&mut out, self.session_state);
        }
        out
    }
}

/// For a client that did not agree on SESSION_TRACK: takes the session state out of an OK payload in place.
/// Returns the payload's new length; the payload is then what the server would have sent without the capability.
pub fn strip_session_state(payload: &mut [u8]) -> usize {
    let len = payload.len();
    let Ok(ok) = OkPacket::parse(payload) else { return len };
    if !ok.status.has(Status::SESSION_STATE_CHANGED) {
        return len;
    }
    let status = ok.status.without(Status::SESSION_STATE_CHANGED);
    let info_len = ok.info.len();
    let mut r = Reader::new(payload);
    // The same fields that `parse` has just read.
    let skipped = r.u8("").is_ok() && r.lenenc("").is_ok() && r.lenenc("").is_ok();
    let status_at = len - r.rest().len();
    if !skipped || status_at + 4 > len {
        return len;
    }
    payload[status_at..status_at + 2].copy_from_slice(&status.0.to_le_bytes());
    let prefix_len = match info_len {
        0 => 0,
        1..=0xFA => 1,
        0xFB..=0xFFFF => 3,
        0x1_0000..=0xFF_FFFF => 4,
        _ => 9,
    };
    (status_at + 4 + prefix_len + info_len).min(len)
}

/// An ERR packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrPacket<'a> {
    pub code: u16,
    /// Five characters; `HY000` if the server gave none (before login it does not).
    pub sqlstate: &'a [u8],
    pub message: &'a [u8],
}

impl<'a> ErrPacket<'a> {
    pub fn parse(payload: &'a [u8]) -> Result<ErrPacket<'a>, Error> {
        let mut r = Reader::new(payload);
        match r.u8("the reply's kind")? {
            0xFF => {}
            value => return Err(Error::Value { what: "the reply's kind", value: value.into() }),
        }
        let code = r.u16("the error number")?;
        match r.rest().split_first_chunk::<6>() {
            Some((head, message)) if head[0] == b'#' => {
                Ok(ErrPacket { code, sqlstate: &r.rest()[1..6], message })
            }
            _ => Ok(ErrPacket { code, sqlstate: b"HY000", message: r.rest() }),
        }
    }
    /// The payload, in the 4.1 form with SQL state.
    pub fn build(&self) -> Vec<u8> {
        let mut out = vec![0xFF];
        out.extend_from_slice(&self.code.to_le_bytes());
        out.push(b'#');
        out.extend((0..5).map(|i| self.sqlstate.get(i).copied().unwrap_or(b'0')));
        out.extend_from_slice(self.message);
        out
    }
}

/// An EOF packet of five bytes.
pub fn build_eof(warnings: u16, status: Status) -> Vec<u8> {
    let mut out = vec![0xFE];
    out.extend_from_slice(&warnings.to_le_bytes());
    out.extend_from_slice(&status.0.to_le_bytes());
    out
}

/// The status of an EOF packet.
pub fn eof_status(payload: &[u8]) -> Result<Status, Error> {
    let mut r = Reader::new(payload);
    r.u8("the reply's kind")?;
    r.u16("the warnings")?;
    Ok(Status(r.u16("the status")?))
}

/// What a command without a result is answered with: OK under DEPRECATE_EOF, else EOF where servers send EOF.
pub fn build_end(capabilities: Capabilities, status: Status) -> Vec<u8> {
    if capabilities.has(Capabilities::DEPRECATE_EOF) {
        OkPacket { affected_rows: 0, last_insert_id: 0, status, warnings: 0, info: b"", session_state: b"" }
            .build()
    } else {
        build_eof(0, status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_server_sends_without_tracking_is_what_stripping_leaves() {
        // Both from MariaDB 10.11: `UPDATE` with `session_track_system_variables='*'` and without the capability.
        let mut tracked = b"\x00\x01\x00\x22\xc0\x00\x00\x28Rows matched: 1  Changed: 1  Warnings: 0\x12\x00\x10\x09last_gtid\x050-1-9".to_vec();
        let len = strip_session_state(&mut tracked);
        assert_eq!(
            &tracked[..len],
            b"\x00\x01\x00\x22\x80\x00\x00\x28Rows matched: 1  Changed: 1  Warnings: 0"
        );
        let mut tracked = b"\x00\x00\x00\x02\x40\x00\x00\x00\x03\x02\x011".to_vec();
        let len = strip_session_state(&mut tracked);
        assert_eq!(&tracked[..len], b"\x00\x00\x00\x02\x00\x00\x00");
    }

    #[test]
    fn errors_with_and_without_state_read() {
        let err = ErrPacket::parse(b"\xff\x15\x04#28000Access denied").unwrap();
        assert_eq!((err.code, err.sqlstate, err.message), (1045, &b"28000"[..], &b"Access denied"[..]));
        assert_eq!(err.build(), b"\xff\x15\x04#28000Access denied");
        let err = ErrPacket::parse(b"\xff\x10\x04Too many connections").unwrap();
        assert_eq!(
            (err.code, err.sqlstate, err.message),
            (1040, &b"HY000"[..], &b"Too many connections"[..])
        );
    }

    proptest! {
        #[test]
        fn ok_packets_round_trip(affected_rows: u64, last_insert_id: u64, status: u16, warnings: u16, info: Vec<u8>, state: Vec<u8>) {
            let status = Status(status);
            let state = if status.has(Status::SESSION_STATE_CHANGED) { &state[..] } else { b"" };
            let ok = OkPacket { affected_rows, last_insert_id, status, warnings, info: &info, session_state: state };
            let mut bytes = ok.build();
            prop_assert_eq!(OkPacket::parse(&bytes), Ok(ok));
            let len = strip_session_state(&mut bytes);
            let bare = OkPacket { status: status.without(Status::SESSION_STATE_CHANGED), session_state: b"", ..ok };
            prop_assert_eq!(&bytes[..len], &bare.build()[..]);
        }

        #[test]
        fn garbage_does_not_panic(mut bytes: Vec<u8>) {
            let _ = OkPacket::parse(&bytes);
            let _ = ErrPacket::parse(&bytes);
            let _ = eof_status(&bytes);
            let len = strip_session_state(&mut bytes);
            prop_assert!(len <= bytes.len());
        }
    }
}
