//! What a host loads to prove who it is and to check others: TLS configurations for both sides of a connection.

use super::init::read;
use super::{DAY_S, Error, Tokens};
use holdfast_core::NodeName;
use holdfast_core::topology::Topology;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;

/// A host's own certificate, checked, and what follows from it.
#[derive(Debug, Clone)]
pub struct HostTls {
    /// For the API: verifies a peer's certificate if it shows one.
    pub server: Arc<ServerConfig>,
    /// For the proxy: asks database clients for none.
    pub proxy: Arc<ServerConfig>,
    /// For requests to other hosts.
    pub client: ClientConfig,
    pub tokens: Tokens,
    /// When the certificate ends, in seconds since 1970.
    pub ends_unix_s: i64,
}

impl HostTls {
    /// Whole days left; negative when it has ended.
    pub fn days_left(&self, unix_s: i64) -> i64 {
        (self.ends_unix_s - unix_s).div_euclid(DAY_S)
    }
}

/// Loads the files of `node` if the topology names a directory for them. `unix_s` is the time: an expired certificate
/// is refused here, with its name, rather than later by every other host.
pub fn host_tls(topology: &Topology, node: &NodeName, unix_s: i64) -> Result<Option<HostTls>, Error> {
    topology.tls_dir.as_ref().map(|dir| load(dir, node, unix_s)).transpose()
}

fn load(dir: &Path, node: &NodeName, unix_s: i64) -> Result<HostTls, Error> {
    let pem = dir.join(format!("{node}.pem"));
    let key_path = dir.join(format!("{node}.key"));
    let authority = dir.join("ca.pem");
    for path in [&authority, &pem] {
        in_time(path, &first_certificate(path)?, unix_s)?;
    }
    let certificate = first_certificate(&pem)?;
    let malformed = |what| Error::Malformed { path: pem.clone(), what };
    let name = common_name(&certificate).ok_or_else(|| malformed("a node's certificate"))?;
    if name != node.as_str() {
        return Err(Error::SomebodyElse { path: pem, expected: node.to_string(), found: name });
    }
    let (_, ends_unix_s) = validity(&certificate).ok_or_else(|| malformed("a certificate"))?;
    let key = || {
        PrivateKeyDer::from_pem_slice(read(&key_path)?.as_bytes())
            .map_err(|_| Error::Malformed { path: key_path.clone(), what: "a private key" })
    };
    let mismatch = |source| Error::Mismatch { path: pem.clone(), source };
    let roots = Arc::new(roots(&authority)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|_| Error::Malformed { path: authority, what: "an authority's certificate" })?;
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.clone()], key()?)
        .map_err(mismatch)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    let proxy = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key()?)
        .map_err(mismatch)?;
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key()?)
        .map_err(mismatch)?;
    Ok(HostTls {
        server: Arc::new(server),
        proxy: Arc::new(proxy),
        client,
        tokens: Tokens::load(dir)?,
        ends_unix_s,
    })
}

/// For people's commands: trusts the authority in `dir`, shows no certificate.
pub fn authority_tls(dir: &Path, unix_s: i64) -> Result<ClientConfig, Error> {
    let path = dir.join("ca.pem");
    in_time(&path, &first_certificate(&path)?, unix_s)?;
    let roots = roots(&path)?;
    Ok(without_certificate(roots))
}

/// For a client that speaks no TLS.
pub fn trust_nobody() -> ClientConfig {
    without_certificate(RootCertStore::empty())
}

fn without_certificate(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring knows the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let malformed = |_| Error::Malformed { path: path.into(), what: "an authority's certificate" };
    roots.add(first_certificate(path)?).map_err(malformed)?;
    Ok(roots)
}

fn in_time(path: &Path, certificate: &CertificateDer<'_>, unix_s: i64) -> Result<(), Error> {
    let malformed = || Error::Malformed { path: path.into(), what: "a certificate" };
    let (begins, ends) = validity(certificate).ok_or_else(malformed)?;
    let days = |s: i64| s.div_euclid(DAY_S);
    if unix_s > ends {
        return Err(Error::Expired { path: path.into(), days: days(unix_s - ends) });
    }
    if unix_s < begins {
        return Err(Error::NotYetValid { path: path.into(), days: days(begins - unix_s) + 1 });
    }
    Ok(())
}

pub(super) fn first_certificate(path: &Path) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::from_pem_slice(read(path)?.as_bytes())
        .map_err(|_| Error::Malformed { path: path.into(), what: "a certificate" })
}

/// Begin and end in seconds since 1970.
pub(super) fn validity(der: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The name in a certificate. Says nothing about who signed it.
pub fn common_name(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}
