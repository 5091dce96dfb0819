//! Making the directory: an authority, a certificate for each node, two tokens. Run again, it adds what is missing
//! and says what no longer fits.

use super::identity::{first_certificate, validity};
use super::{DAY_S, Error, FILE_BYTES_MAX, WARN_DAYS, tokens};
use holdfast_core::topology::{Node, Topology};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use x509_parser::extensions::GeneralName;

const AUTHORITY_DAYS: i64 = 3_653;
const NODE_DAYS: i64 = 365;
/// Certificates begin this long ago, for hosts whose clock is behind.
const BACKDATED_S: i64 = 3_600;

/// What `init` did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Made {
    pub created: Vec<PathBuf>,
    pub kept: Vec<PathBuf>,
    /// Kept, though it should be renewed, and why. Empty when renewal was asked for.
    pub stale: Vec<(PathBuf, String)>,
}

impl std::fmt::Display for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.created.iter().try_for_each(|path| writeln!(f, "made     {}", path.display()))?;
        self.kept.iter().try_for_each(|path| writeln!(f, "kept     {}", path.display()))?;
        for (path, why) in &self.stale {
            writeln!(f, "stale    {}: {why}; renew it with `holdfast init --renew`", path.display())?;
        }
        Ok(())
    }
}

/// Makes what is missing in `dir` for the nodes of the topology; with `renew`, also replaces certificates of nodes
/// that end within [`WARN_DAYS`] or name another address. `unix_s` is the time.
pub fn init(dir: &Path, topology: &Topology, unix_s: i64, renew: bool) -> Result<Made, Error> {
    let unwritable = |source| Error::Unwritable { path: dir.into(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unwritable)?;
    let mut made = Made::default();
    let authority = authority(dir, topology, unix_s, &mut made)?;
    for node in &topology.nodes {
        certify(dir, node, &authority, unix_s, renew, &mut made)?;
    }
    for who in ["viewer", "operator"] {
        let path = dir.join(format!("{who}.token"));
        let list = if tokens::make(dir, who)? { &mut made.created } else { &mut made.kept };
        list.push(path);
    }
    Ok(made)
}

type Authority = Issuer<'static, KeyPair>;

fn authority(dir: &Path, topology: &Topology, unix_s: i64, made: &mut Made) -> Result<Authority, Error> {
    let (pem, key) = (dir.join("ca.pem"), dir.join("ca.key"));
    match (pem.exists(), key.exists()) {
        (true, true) => {
            let malformed = |_| Error::Malformed { path: pem.clone(), what: "an authority's certificate" };
            let issuer =
                Issuer::from_ca_cert_der(&first_certificate(&pem)?, key_pair(&key)?).map_err(malformed)?;
            made.kept.push(pem);
            return Ok(issuer);
        }
        (true, false) => return Err(Error::HalfAuthority { path: pem, missing: key }),
        // A key without its certificate is what a crash in between leaves: go on from there.
        (false, true) => {}
        (false, false) => create(&key, &KeyPair::generate().map_err(Error::Making)?.serialize_pem())?,
    }
    let key = key_pair(&key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("Holdfast authority of {}", topology.name));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, unix_s, AUTHORITY_DAYS);
    create(&pem, &params.self_signed(&key).map_err(Error::Making)?.pem())?;
    made.created.push(pem);
    Ok(Issuer::new(params, key))
}

fn certify(
    dir: &Path,
    node: &Node,
    authority: &Authority,
    unix_s: i64,
    renew: bool,
    made: &mut Made,
) -> Result<(), Error> {
    let (pem, key) = (dir.join(format!("{}.pem", node.name)), dir.join(format!("{}.key", node.name)));
    if pem.exists() {
        match (unfit(&pem, node, unix_s)?, renew) {
            (None, _) => {
                made.kept.push(pem);
                return Ok(());
            }
            (Some(why), false) => {
                made.stale.push((pem, why));
                return Ok(());
            }
            (Some(_), true) => {}
        }
    }
    if !key.exists() {
        create(&key, &KeyPair::generate().map_err(Error::Making)?.serialize_pem())?;
    }
    let key = key_pair(&key)?;
    let names = vec![node.name.to_string(), node.address.to_string()];
    let mut params = CertificateParams::new(names).map_err(Error::Making)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, node.name.as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    // Two certificates of one key must differ in their number.
    params.serial_number = Some(serial()?);
    valid(&mut params, unix_s, NODE_DAYS);
    let certificate = params.signed_by(&key, authority).map_err(Error::Making)?;
    replace(&pem, &certificate.pem())?;
    made.created.push(pem);
    Ok(())
}

fn valid(params: &mut CertificateParams, unix_s: i64, days: i64) {
    let at = |s: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(s).unwrap_or(0));
    params.not_before = at(unix_s - BACKDATED_S);
    params.not_after = at(unix_s + days * DAY_S);
}

fn serial() -> Result<rcgen::SerialNumber, Error> {
    let mut bytes = [0; 16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| Error::Random)?;
    // A serial number is positive.
    bytes[0] &= 0x7f;
    Ok(rcgen::SerialNumber::from_slice(&bytes))
}

/// Why an existing certificate should be renewed.
fn unfit(pem: &Path, node: &Node, unix_s: i64) -> Result<Option<String>, Error> {
    let der = first_certificate(pem)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der)
        .map_err(|_| Error::Malformed { path: pem.into(), what: "a certificate" })?;
    let names = certificate.subject_alternative_name().ok().flatten().map(|ext| &ext.value.general_names);
    let for_address = names.is_some_and(|names| names.iter().any(|name| is_address(name, node.address)));
    if !for_address {
        return Ok(Some(format!("it is not for the address {}", node.address)));
    }
    let (_, ends) =
        validity(&der).ok_or_else(|| Error::Malformed { path: pem.into(), what: "a certificate" })?;
    let days = (ends - unix_s).div_euclid(DAY_S);
    Ok((days < WARN_DAYS)
        .then(|| if days < 0 { "it has expired".into() } else { format!("it ends in {days} days") }))
}

fn is_address(name: &GeneralName<'_>, address: IpAddr) -> bool {
    match (name, address) {
        (GeneralName::IPAddress(bytes), IpAddr::V4(v4)) => *bytes == v4.octets(),
        (GeneralName::IPAddress(bytes), IpAddr::V6(v6)) => *bytes == v6.octets(),
        _ => false,
    }
}

fn key_pair(path: &Path) -> Result<KeyPair, Error> {
    KeyPair::from_pem(&read(path)?).map_err(|_| Error::Malformed { path: path.into(), what: "a private key" })
}

/// Writes a file that does not exist yet, all of it or nothing, readable by its owner only.
pub(super) fn create(path: &Path, text: &str) -> Result<(), Error> {
    let unwritable = |source| Error::Unwritable { path: path.into(), source };
    let part = write_part(path, text).map_err(unwritable)?;
    // Unlike a rename, a link never replaces.
    let linked = std::fs::hard_link(&part, path);
    std::fs::remove_file(&part).map_err(unwritable)?;
    linked.map_err(unwritable)
}

fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let unwritable = |source| Error::Unwritable { path: path.into(), source };
    let part = write_part(path, text).map_err(unwritable)?;
    std::fs::rename(&part, path).map_err(unwritable)
}

fn write_part(path: &Path, text: &str) -> std::io::Result<PathBuf> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    // What a crash left could have wider permissions than ours.
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(part)
}

/// A file of the directory.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    let unreadable = |source| Error::Unreadable { path: path.into(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}
