//! Names of backups, packs and services, and of the objects that hold them.

use crate::key::{hex, random};
use serde::{Deserialize, Serialize};

pub(crate) const ID_BYTES: usize = 27;

/// A backup's name: a time for people and 40 random bits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

impl BackupId {
    /// A new one. `now` is only for people; two of the same second differ.
    pub fn new(now_unix_ms: u64) -> BackupId {
        BackupId(format!("{}-{}", compact_utc(now_unix_ms), hex(&random::<5>())))
    }
    pub fn parse(text: &str) -> Option<BackupId> {
        let shape = |(i, b): (usize, u8)| match i {
            8 => b == b'T',
            15 => b == b'Z',
            16 => b == b'-',
            0..16 => b.is_ascii_digit(),
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        };
        let fits = text.len() == ID_BYTES && text.bytes().enumerate().all(shape);
        fits.then(|| BackupId(text.to_owned()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for BackupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BackupId {
    type Error = String;
    fn try_from(text: String) -> Result<BackupId, String> {
        BackupId::parse(&text).ok_or_else(|| format!("{text:?} is not the id of a backup"))
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> String {
        id.0
    }
}

/// A pack, by who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct PackId {
    pub(crate) backup: BackupId,
    pub(crate) number: u32,
}

impl PackId {
    pub(crate) fn object(&self) -> String {
        format!("{PACKS}/{self}")
    }
    pub(crate) fn of_object(name: &str) -> Option<PackId> {
        PackId::parse(name.strip_prefix(PACKS)?.strip_prefix('/')?)
    }
    fn parse(text: &str) -> Option<PackId> {
        let (backup, number) = text.split_once('/')?;
        let id = PackId { backup: BackupId::parse(backup)?, number: number.parse().ok()? };
        (id.to_string() == text).then_some(id)
    }
}

impl std::fmt::Display for PackId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{:08}", self.backup, self.number)
    }
}

impl TryFrom<String> for PackId {
    type Error = String;
    fn try_from(text: String) -> Result<PackId, String> {
        PackId::parse(&text).ok_or_else(|| format!("{text:?} is not the id of a pack"))
    }
}

impl From<PackId> for String {
    fn from(id: PackId) -> String {
        id.to_string()
    }
}

pub(crate) const BACKUPS: &str = "backups";
pub(crate) const PACKS: &str = "packs";
pub(crate) const PROOFS: &str = "proofs";
pub(crate) const LOGS: &str = "logs";
pub(crate) const PINS: &str = "pins";
pub(crate) const CONDEMNED: &str = "condemned";
pub(crate) const DESCRIPTOR: &str = "holdfast-repository";

/// Whether backups can be filed under this name.
pub fn is_service(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(fits)
}

pub(crate) fn manifest_object(service: &str, id: &BackupId) -> String {
    format!("{BACKUPS}/{service}/{id}")
}

pub(crate) fn of_manifest_object(name: &str) -> Option<(String, BackupId)> {
    let (service, id) = name.strip_prefix(BACKUPS)?.strip_prefix('/')?.split_once('/')?;
    is_service(service).then_some((service.to_owned(), BackupId::parse(id)?))
}

/// `20261124T030308Z` (civil-from-days by Howard Hinnant's published algorithm).
fn compact_utc(unix_ms: u64) -> String {
    let (days, s) = (unix_ms / 86_400_000 % 2_932_000, unix_ms / 1_000 % 86_400);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", s / 3_600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_and_nothing_else_is_one() {
        let id = BackupId::new(1_795_489_388_000);
        assert!(id.as_str().starts_with("20261124T030308Z-"), "{id}");
        assert_eq!(BackupId::parse(id.as_str()), Some(id.clone()));
        assert!(BackupId::parse(BackupId::new(u64::MAX).as_str()).is_some());
        assert_ne!(BackupId::new(0), BackupId::new(0));
        let pack = PackId { backup: id.clone(), number: 12 };
        assert_eq!(PackId::of_object(&pack.object()), Some(pack));
        for bad in ["", "../../../../etc/passwd0000000", "20261124T030308Z-0A1B2C3D4E", &"é".repeat(13)] {
            assert!(BackupId::parse(bad).is_none(), "{bad}");
        }
        for bad in [format!("packs/{id}/12"), format!("packs/{id}/+0000012"), format!("packs/{id}")] {
            assert!(PackId::of_object(&bad).is_none(), "{bad}");
        }
        assert!(of_manifest_object(&format!("backups/../{id}")).is_none());
    }
}
