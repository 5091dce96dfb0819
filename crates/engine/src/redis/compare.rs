//! Which keys are not the same elsewhere.
//!
//! Guarantees: a key that is not there, or whose value is another, is counted. Bounded in time and memory.
//! Does not know: when a key was written. A value that is the same and is kept in another form counts as another one, and so
//! does one that is too large to be looked at; so the count is an upper bound for them.

use super::session::{Batch, Conn, Door};
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// Beyond this, what was not looked at counts.
const PATIENCE: Duration = Duration::from_secs(120);
const SCANNED: &str = "200";
/// A value that needs more memory is not fetched.
const VALUE_BYTES_MAX: i64 = 8 << 20;
/// Version and checksum, at the end of a dumped value.
const TRAILER_BYTES: usize = 10;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Differing {
    pub(super) keys: u64,
    /// All keys were looked at.
    pub(super) looked_at_all: bool,
}

/// Keys of `ours`, in each of `databases` with its number of keys, that are not the same in `theirs`.
pub(super) async fn differing(ours: &Door, theirs: &Door, databases: &[(u32, u64)]) -> io::Result<Differing> {
    let until = Instant::now() + PATIENCE;
    let (mut here, mut there) = (Conn::open(ours).await?, Conn::open(theirs).await?);
    let mut keys = 0;
    for (i, (database, _)) in databases.iter().enumerate() {
        let select = Batch::new(&["SELECT", &database.to_string()]);
        here.ask(&select).await?;
        there.ask(&select).await?;
        let mut cursor = b"0".to_vec();
        loop {
            let scan = Batch::default().and_bytes(&[b"SCAN", &cursor, b"COUNT", SCANNED.as_bytes()]);
            let found = here.ask(&scan).await?;
            let [next, names] = found[0].items() else {
                return Err(io::Error::other("SCAN answers otherwise"));
            };
            let names: Vec<Vec<u8>> =
                names.items().iter().filter_map(|n| n.bytes().map(<[u8]>::to_vec)).collect();
            keys += other_values(&mut here, &mut there, &names).await?;
            cursor = next.bytes().unwrap_or(b"0").to_vec();
            if cursor == b"0" {
                break;
            }
            if Instant::now() > until {
                let left = databases[i..].iter().map(|(_, n)| n).sum::<u64>();
                return Ok(Differing { keys: keys.max(left), looked_at_all: false });
            }
        }
    }
    Ok(Differing { keys, looked_at_all: true })
}

async fn other_values(here: &mut Conn, there: &mut Conn, names: &[Vec<u8>]) -> io::Result<u64> {
    let sizes =
        names.iter().fold(Batch::default(), |b, n| b.and_bytes(&[b"MEMORY", b"USAGE", n, b"SAMPLES", b"1"]));
    let sizes = here.ask(&sizes).await?;
    let mut other = 0;
    for (name, size) in names.iter().zip(sizes) {
        match size.int() {
            // Gone by itself meanwhile: it had a time to live.
            None => {}
            Some(bytes) if bytes > VALUE_BYTES_MAX => other += 1,
            Some(_) => {
                let dump = Batch::default().and_bytes(&[b"DUMP", name]);
                let (mine, theirs) = tokio::try_join!(here.ask(&dump), there.ask(&dump))?;
                let body = |v: &[holdfast_wire::resp::value::Value]| {
                    v[0].bytes().map(|b| b[..b.len().saturating_sub(TRAILER_BYTES)].to_vec())
                };
                other += u64::from(body(&mine) != body(&theirs));
            }
        }
    }
    Ok(other)
}
