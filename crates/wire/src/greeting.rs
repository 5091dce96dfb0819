//! The server's first packet: protocol version, server version, connection id, nonce, capabilities.

use crate::codec::{Error, Reader, put_nul_bytes};
use crate::flags::{Capabilities, Status};
use crate::native_password::NONCE_BYTES;

/// Handshake version 10, as sent by every MySQL and MariaDB server since 4.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    pub server_version: Vec<u8>,
    pub connection_id: u32,
    pub nonce: [u8; NONCE_BYTES],
    pub capabilities: Capabilities,
    pub collation: u8,
    pub status: Status,
    /// Empty if the server did not name its login method.
    pub auth_plugin: Vec<u8>,
}

impl Greeting {
    /// The packet's payload.
    pub fn build(&self) -> Vec<u8> {
        let caps = self.capabilities.0;
        let mut out = Vec::with_capacity(80 + self.server_version.len() + self.auth_plugin.len());
        out.push(10);
        put_nul_bytes(&mut out, &self.server_version);
        out.extend_from_slice(&self.connection_id.to_le_bytes());
        out.extend_from_slice(&self.nonce[..8]);
        out.push(0);
        out.extend_from_slice(&(caps as u16).to_le_bytes());
        out.push(self.collation);
        out.extend_from_slice(&self.status.0.to_le_bytes());
        out.extend_from_slice(&((caps >> 16) as u16).to_le_bytes());
        out.push(if self.capabilities.has(Capabilities::PLUGIN_AUTH) { 21 } else { 0 });
        out.extend_from_slice(&[0; 6]);
        let extended = if self.capabilities.has(Capabilities::CLIENT_MYSQL) { 0 } else { caps >> 32 };
        out.extend_from_slice(&(extended as u32).to_le_bytes());
        out.extend_from_slice(&self.nonce[8..]);
        out.push(0);
        if self.capabilities.has(Capabilities::PLUGIN_AUTH) {
            put_nul_bytes(&mut out, &self.auth_plugin);
        }
        out
    }

    /// Reads the packet's payload.
    pub fn parse(payload: &[u8]) -> Result<Greeting, Error> {
        let mut r = Reader::new(payload);
        match r.u8("the protocol version")? {
            10 => {}
            other => return Err(Error::Version(other)),
        }
        let server_version = r.nul_bytes("the server version")?.to_vec();
        let connection_id = r.u32("the connection id")?;
        let mut nonce = [0; NONCE_BYTES];
        nonce[..8].copy_from_slice(r.bytes(8, "the nonce")?);
        r.u8("the filler")?;
        let low = r.u16("the capabilities")?;
        let collation = r.u8("the collation")?;
        let status = Status(r.u16("the status")?);
        let high = r.u16("the capabilities")?;
        let mut caps = u64::from(low) | u64::from(high) << 16;
        if caps & (Capabilities::PROTOCOL_41.0 | Capabilities::SECURE_CONNECTION.0)
            != Capabilities::PROTOCOL_41.0 | Capabilities::SECURE_CONNECTION.0
        {
            return Err(Error::Old);
        }
        let nonce_len = usize::from(r.u8("the nonce's length")?);
        r.bytes(6, "the filler")?;
        let extended = r.u32("the extended capabilities")?;
        if caps & Capabilities::CLIENT_MYSQL.0 == 0 {
            caps |= u64::from(extended) << 32;
        }
        let tail = r.bytes(nonce_len.saturating_sub(8).max(13), "the nonce")?;
        nonce[8..].copy_from_slice(&tail[..NONCE_BYTES - 8]);
        let capabilities = Capabilities(caps);
        let auth_plugin = match capabilities.has(Capabilities::PLUGIN_AUTH) {
            // Some servers forget the NUL.
            true => r.nul_bytes("the login method").unwrap_or(r.rest()).to_vec(),
            false => Vec::new(),
        };
        Ok(Greeting { server_version, connection_id, nonce, capabilities, collation, status, auth_plugin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MARIADB: &[u8] = b"\x0a5.5.5-10.11.19-MariaDB-0+deb12u1-log\0\x07\0\0\0abcdefgh\0\xfe\xf7\x2d\x02\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0ijklmnopqrst\0mysql_native_password\0";

    #[test]
    fn mariadbs_greeting_reads_and_builds() {
        let g = Greeting::parse(MARIADB).unwrap();
        assert_eq!(g.server_version, b"5.5.5-10.11.19-MariaDB-0+deb12u1-log");
        assert_eq!((g.connection_id, &g.nonce), (7, b"abcdefghijklmnopqrst"));
        assert!(g.capabilities.has(Capabilities::MARIADB_STMT_BULK.with(Capabilities::SESSION_TRACK)));
        assert_eq!(g.auth_plugin, crate::native_password::NAME);
        assert_eq!(g.build(), MARIADB);
    }

    #[test]
    fn every_prefix_is_refused_or_read() {
        for end in 0..MARIADB.len() {
            let _ = Greeting::parse(&MARIADB[..end]);
        }
        assert_eq!(Greeting::parse(b"\x09"), Err(Error::Version(9)));
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(bytes: Vec<u8>) {
            let _ = Greeting::parse(&bytes);
        }
    }
}
