//! What a client sends to log in: the TLS request, the handshake response, the answer to a switch of methods, and
//! the change-user command, which repeats most of it.

use crate::codec::{Error, Reader, put_lenenc_bytes, put_nul_bytes};
use crate::flags::Capabilities;

/// Bytes of a handshake response up to the user name. A packet of exactly this length is a request for TLS.
pub const TLS_REQUEST_BYTES: usize = 32;

/// A client's handshake response (4.1 form).
#[derive(Clone, PartialEq, Eq)]
pub struct HandshakeResponse {
    pub capabilities: Capabilities,
    /// Largest packet the client will send, in bytes. Informational.
    pub packet_bytes_max: u32,
    pub collation: u8,
    pub user: Vec<u8>,
    /// The login method's proof. Never printed.
    pub auth: Vec<u8>,
    pub schema: Option<Vec<u8>>,
    pub auth_plugin: Option<Vec<u8>>,
    /// Connection attributes as they came: length-encoded names and values.
    pub attributes: Option<Vec<u8>>,
}

impl std::fmt::Debug for HandshakeResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandshakeResponse")
            .field("capabilities", &self.capabilities)
            .field("user", &String::from_utf8_lossy(&self.user))
            .field("schema", &self.schema.as_deref().map(String::from_utf8_lossy))
            .finish_non_exhaustive()
    }
}

/// The first packet of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    /// The client wants TLS now and sends its handshake response inside.
    TlsRequest(Capabilities),
    Response(HandshakeResponse),
}

fn put_head(out: &mut Vec<u8>, capabilities: Capabilities, packet_bytes_max: u32, collation: u8) {
    out.extend_from_slice(&(capabilities.0 as u32).to_le_bytes());
    out.extend_from_slice(&packet_bytes_max.to_le_bytes());
    out.push(collation);
    out.extend_from_slice(&[0; 19]);
    let extended = if capabilities.has(Capabilities::CLIENT_MYSQL) { 0 } else { capabilities.0 >> 32 };
    out.extend_from_slice(&(extended as u32).to_le_bytes());
}

/// A request for TLS.
pub fn build_tls_request(capabilities: Capabilities, packet_bytes_max: u32, collation: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(TLS_REQUEST_BYTES);
    put_head(&mut out, capabilities.with(Capabilities::SSL), packet_bytes_max, collation);
    out
}

impl FirstPacket {
    /// Reads a client's first packet.
    pub fn parse(payload: &[u8]) -> Result<FirstPacket, Error> {
        let mut r = Reader::new(payload);
        let mut caps = u64::from(r.u32("the capabilities")?);
        if caps & Capabilities::PROTOCOL_41.0 == 0 {
            return Err(Error::Old);
        }
        let packet_bytes_max = r.u32("the packet limit")?;
        let collation = r.u8("the collation")?;
        r.bytes(19, "the filler")?;
        let extended = r.u32("the extended capabilities")?;
        if caps & Capabilities::CLIENT_MYSQL.0 == 0 {
            caps |= u64::from(extended) << 32;
        }
        let capabilities = Capabilities(caps);
        if r.is_empty() && capabilities.has(Capabilities::SSL) {
            return Ok(FirstPacket::TlsRequest(capabilities));
        }
        let user = r.nul_bytes("the user name")?.to_vec();
        let auth = if capabilities.has(Capabilities::PLUGIN_AUTH_LENENC_DATA) {
            r.lenenc_bytes("the proof")?.to_vec()
        } else if capabilities.has(Capabilities::SECURE_CONNECTION) {
            let len = r.u8("the proof")?;
            r.bytes(len.into(), "the proof")?.to_vec()
        } else {
            r.nul_bytes("the proof")?.to_vec()
        };
        // Clients are known to claim CONNECT_WITH_DB or PLUGIN_AUTH and then stop short.
        let schema = (capabilities.has(Capabilities::CONNECT_WITH_DB) && !r.is_empty())
            .then(|| r.nul_bytes("the schema").map(<[u8]>::to_vec))
            .transpose()?;
        let auth_plugin = (capabilities.has(Capabilities::PLUGIN_AUTH) && !r.is_empty())
            .then(|| r.nul_bytes("the login method").map(<[u8]>::to_vec))
            .transpose()?;
        let attributes = (capabilities.has(Capabilities::CONNECT_ATTRS) && !r.is_empty())
            .then(|| r.lenenc_bytes("the attributes").map(<[u8]>::to_vec))
            .transpose()?;
        Ok(FirstPacket::Response(HandshakeResponse {
            capabilities,
            packet_bytes_max,
            collation,
            user,
            auth,
            schema: schema.filter(|s| !s.is_empty()),
            auth_plugin,
            attributes,
        }))
    }
}

impl HandshakeResponse {
    /// The packet's payload. What `capabilities` does not announce is left out.
    pub fn build(&self) -> Vec<u8> {
        let caps = self.capabilities;
        let mut out = Vec::with_capacity(128 + self.attributes.as_ref().map_or(0, Vec::len));
        put_head(&mut out, caps, self.packet_bytes_max, self.collation);
        put_nul_bytes(&mut out, &self.user);
        if caps.has(Capabilities::PLUGIN_AUTH_LENENC_DATA) {
            put_lenenc_bytes(&mut out, &self.auth);
        } else {
            let auth = &self.auth[..self.auth.len().min(255)];
            out.push(auth.len() as u8);
            out.extend_from_slice(auth);
        }
        if caps.has(Capabilities::CONNECT_WITH_DB) {
            put_nul_bytes(&mut out, self.schema.as_deref().unwrap_or_default());
        }
        if caps.has(Capabilities::PLUGIN_AUTH) {
            put_nul_bytes(&mut out, self.auth_plugin.as_deref().unwrap_or_default());
        }
        if caps.has(Capabilities::CONNECT_ATTRS) {
            put_lenenc_bytes(&mut out, self.attributes.as_deref().unwrap_or_default());
        }
        out
    }
}

/// The server asks for another login method. 0xFE, its name, its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSwitch {
    pub plugin: Vec<u8>,
    pub data: Vec<u8>,
}

impl AuthSwitch {
    pub fn build(&self) -> Vec<u8> {
        let mut out = vec![0xFE];
        put_nul_bytes(&mut out, &self.plugin);
        out.extend_from_slice(&self.data);
        out.push(0);
        out
    }
    pub fn parse(payload: &[u8]) -> Result<AuthSwitch, Error> {
        let mut r = Reader::new(payload);
        match r.u8("the reply's kind")? {
            0xFE => {}
            value => return Err(Error::Value { what: "the reply's kind", value: value.into() }),
        }
        let plugin = r.nul_bytes("the login method")?.to_vec();
        let data = r.rest().strip_suffix(&[0]).unwrap_or(r.rest()).to_vec();
        Ok(AuthSwitch { plugin, data })
    }
}

/// The change-user command, command byte included.
#[derive(Clone, PartialEq, Eq)]
pub struct ChangeUser {
    pub user: Vec<u8>,
    /// The login method's proof. Never printed.
    pub auth: Vec<u8>,
    pub schema: Option<Vec<u8>>,
    pub collation: Option<u16>,
    pub auth_plugin: Option<Vec<u8>>,
    pub attributes: Option<Vec<u8>>,
}

impl std::fmt::Debug for ChangeUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangeUser")
            .field("user", &String::from_utf8_lossy(&self.user))
            .finish_non_exhaustive()
    }
}

impl ChangeUser {
    /// Reads the command under the capabilities agreed at login.
    pub fn parse(payload: &[u8], capabilities: Capabilities) -> Result<ChangeUser, Error> {
        let mut r = Reader::new(payload);
        match r.u8("the command")? {
            crate::command::CHANGE_USER => {}
            value => return Err(Error::Value { what: "the command", value: value.into() }),
        }
        let user = r.nul_bytes("the user name")?.to_vec();
        let len = r.u8("the proof")?;
        let auth = r.bytes(len.into(), "the proof")?.to_vec();
        let schema = r.nul_bytes("the schema")?.to_vec();
        let collation = (!r.is_empty()).then(|| r.u16("the collation")).transpose()?;
        let auth_plugin = (capabilities.has(Capabilities::PLUGIN_AUTH) && !r.is_empty())
            .then(|| r.nul_bytes("the login method").map(<[u8]>::to_vec))
            .transpose()?;
        let attributes = (capabilities.has(Capabilities::CONNECT_ATTRS) && !r.is_empty())
            .then(|| r.lenenc_bytes("the attributes").map(<[u8]>::to_vec))
            .transpose()?;
        let schema = (!schema.is_empty()).then_some(schema);
        Ok(ChangeUser { user, auth, schema, collation, auth_plugin, attributes })
    }

    /// The command's payload under the capabilities agreed at login.
    pub fn build(&self, capabilities: Capabilities) -> Vec<u8> {
        let mut out = vec![crate::command::CHANGE_USER];
        put_nul_bytes(&mut out, &self.user);
        let auth = &self.auth[..self.auth.len().min(255)];
        out.push(auth.len() as u8);
        out.extend_from_slice(auth);
        put_nul_bytes(&mut out, self.schema.as_deref().unwrap_or_default());
        out.extend_from_slice(&self.collation.unwrap_or_default().to_le_bytes());
        if capabilities.has(Capabilities::PLUGIN_AUTH) {
            put_nul_bytes(&mut out, self.auth_plugin.as_deref().unwrap_or_default());
        }
        if capabilities.has(Capabilities::CONNECT_ATTRS) {
            put_lenenc_bytes(&mut out, self.attributes.as_deref().unwrap_or_default());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPS: Capabilities = Capabilities(
        Capabilities::PROTOCOL_41.0
            | Capabilities::SECURE_CONNECTION.0
            | Capabilities::PLUGIN_AUTH.0
            | Capabilities::CONNECT_ATTRS.0
            | Capabilities::MARIADB_STMT_BULK.0,
    );

    fn text() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1u8..=255, 0..40)
    }

    proptest! {
        #[test]
        fn responses_round_trip(user in text(), auth in proptest::collection::vec(any::<u8>(), 0..255),
                                schema in proptest::option::of(text()), attributes: Vec<u8>, lenenc: bool) {
            let mut capabilities = CAPS;
            let schema = schema.filter(|s| !s.is_empty());
            if schema.is_some() { capabilities = capabilities.with(Capabilities::CONNECT_WITH_DB); }
            if lenenc { capabilities = capabilities.with(Capabilities::PLUGIN_AUTH_LENENC_DATA); }
            let sent = HandshakeResponse {
                capabilities, packet_bytes_max: 1 << 24, collation: 45, user: user.clone(), auth: auth.clone(), schema: schema.clone(),
                auth_plugin: Some(b"mysql_native_password".to_vec()), attributes: Some(attributes.clone()),
            };
            prop_assert_eq!(FirstPacket::parse(&sent.build()), Ok(FirstPacket::Response(sent)));
            let change = ChangeUser { user, auth, schema, collation: Some(45), auth_plugin: Some(b"x".to_vec()), attributes: Some(attributes) };
            prop_assert_eq!(ChangeUser::parse(&change.build(CAPS), CAPS), Ok(change));
        }

        #[test]
        fn garbage_does_not_panic(bytes: Vec<u8>, caps: u64) {
            let _ = FirstPacket::parse(&bytes);
            let _ = ChangeUser::parse(&bytes, Capabilities(caps));
            let _ = AuthSwitch::parse(&bytes);
        }
    }

    #[test]
    fn a_bare_head_with_the_tls_bit_is_a_request_for_tls() {
        let request = build_tls_request(CAPS, 1 << 24, 45);
        assert_eq!(request.len(), TLS_REQUEST_BYTES);
        assert_eq!(FirstPacket::parse(&request), Ok(FirstPacket::TlsRequest(CAPS.with(Capabilities::SSL))));
    }

    #[test]
    fn a_switch_reads_back() {
        let switch = AuthSwitch { plugin: b"mysql_native_password".to_vec(), data: vec![9; 20] };
        assert_eq!(AuthSwitch::parse(&switch.build()), Ok(switch));
    }

    #[test]
    fn a_proof_is_never_printed() {
        let shown = format!(
            "{:?}",
            ChangeUser {
                user: b"u".to_vec(),
                auth: b"hush".to_vec(),
                schema: None,
                collation: None,
                auth_plugin: None,
                attributes: None
            }
        );
        assert!(!shown.contains("104"), "{shown}");
    }
}
