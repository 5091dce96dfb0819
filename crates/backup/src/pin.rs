//! Pins: what a backup or restore under way uses, so that nobody removes it meanwhile.
//!
//! Guarantees: a pin stands before anything it protects is relied upon; it is renewed while its holder lives, and goes
//! with it. Does not know: who removes, and when.

use crate::Error;
use crate::id::{BackupId, CONDEMNED, PINS};
use crate::manifest;
use crate::prune::Condemned;
use crate::repository::Repository;
use crate::storage::{self, Storage};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::Duration;

/// A live pin is written again this often.
const RENEW: Duration = Duration::from_secs(600);
/// A pin of another host that was not written again for this long is that of nobody, by the storage's own clock.
pub(crate) const ABANDONED_MS: i64 = 86_400_000;

/// A process, so that another on the same host can tell whether it still runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) host: String,
    pub(crate) boot: String,
    pub(crate) pid: u32,
    /// When it started, in clock ticks since the boot: a pid is given again, this pair is not.
    pub(crate) started: u64,
}

impl Owner {
    pub(crate) fn me() -> Owner {
        let pid = std::process::id();
        Owner { host: host(), boot: boot(), pid, started: started(pid).unwrap_or(0) }
    }

    /// True if this process has certainly ended.
    pub(crate) fn has_ended(&self) -> bool {
        let here = host();
        let ours = here == self.host && !self.boot.is_empty();
        ours && (self.boot != boot() || started(self.pid) != Some(self.started))
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host.split(' ').next().unwrap_or_default())
    }
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Names alone repeat: every cloud image is called `debian`; and containers of one host count their pids apart.
fn host() -> String {
    let pids = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{} {} {}", line("/proc/sys/kernel/hostname"), line("/etc/machine-id"), pids.display())
}

fn boot() -> String {
    line("/proc/sys/kernel/random/boot_id")
}

fn started(pid: u32) -> Option<u64> {
    // The second field, the command, may contain anything; the rest has no parenthesis.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let zombie = matches!(fields.first(), Some(&"Z" | &"X"));
    if zombie { None } else { fields.get(19)?.parse().ok() }
}

/// What a pin says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PinText {
    pub(crate) owner: Owner,
    pub(crate) purpose: String,
    pub(crate) uses: Vec<BackupId>,
}

/// Held by whoever uses backups; removed when dropped.
pub(crate) struct Pin {
    storage: Arc<dyn Storage>,
    name: String,
    stop: Option<SyncSender<()>>,
    renewing: Option<std::thread::JoinHandle<()>>,
}

impl Pin {
    /// Sets a pin named after `session`, then looks at what is condemned: that is not to be used.
    pub(crate) fn set(
        repository: &Repository,
        session: &BackupId,
        purpose: &str,
        uses: Vec<BackupId>,
    ) -> Result<(Pin, Condemned), Error> {
        let storage = repository.storage.clone();
        let name = format!("{PINS}/{session}");
        let text = PinText { owner: Owner::me(), purpose: purpose.to_owned(), uses };
        let text = manifest::encode(&text);
        storage.create(&name, text.clone())?;
        let (stop, stopped) = mpsc::sync_channel::<()>(1);
        let (to, at) = (storage.clone(), name.clone());
        let renew = move || {
            while stopped.recv_timeout(RENEW) == Err(RecvTimeoutError::Timeout) {
                // If it does not work now, it will the next time; a day is long.
                if let Err(e) = to.replace(&at, text.clone()) {
                    tracing::warn!(error = &e as &dyn std::error::Error, "a pin was not renewed");
                }
            }
        };
        let renewing = std::thread::Builder::new().name("pin".into()).spawn(renew).ok();
        let pin = Pin { storage, name, stop: Some(stop), renewing };
        let condemned = match pin.storage.read(CONDEMNED) {
            Ok(text) => manifest::decode::<Condemned>(CONDEMNED, &text)?.of_the_living(),
            Err(storage::Error::Absent(_)) => Condemned::default(),
            Err(e) => return Err(e.into()),
        };
        Ok((pin, condemned))
    }

    /// False if somebody took this process for dead and removed its pin.
    pub(crate) fn stands(&self) -> Result<bool, Error> {
        match self.storage.read(&self.name) {
            Ok(_) => Ok(true),
            Err(storage::Error::Absent(_)) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.renewing.take() {
            let _ = thread.join();
        }
        if let Err(e) = self.storage.remove(&self.name) {
            tracing::warn!(error = &e as &dyn std::error::Error, "a pin stays; the next prune removes it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_to_have_ended_only_where_it_ran() {
        let me = Owner::me();
        assert!(me.started > 0 && !me.has_ended());
        assert!(Owner { started: me.started + 1, ..me.clone() }.has_ended(), "another with the same pid");
        assert!(Owner { boot: "before".into(), ..me.clone() }.has_ended(), "of an earlier boot");
        assert!(!Owner { host: "elsewhere".into(), started: 1, ..me }.has_ended());
    }
}
