//! Pins: what a backup or restore under way uses, so that nobody removes it meanwhile.
//!
//! Guarantees: a pin stands before anything it protects is relied upon; it is renewed while its holder lives, and goes
//! with it. Does not know: who removes, and when.

use crate::Error;
use crate::id::{BackupId, PINS};
use crate::manifest;
use crate::prune::Condemned;
use crate::repository::Repository;
use crate::storage::{self, Storage};
use rustix::io::Errno;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
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

    /// True if this process has certainly ended: the host is certainly this one, and either it was started again since,
    /// or nobody has this pid, or somebody else has.
    pub(crate) fn has_ended(&self) -> bool {
        let (here, boot) = (host(), boot());
        let ours = is_certain(&here) && here == self.host && !self.boot.is_empty() && !boot.is_empty();
        ours && (self.boot != boot || self.pid_is_of_nobody())
    }

    fn pid_is_of_nobody(&self) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return false };
        match rustix::process::test_kill_process(pid) {
            Err(Errno::SRCH) => true,
            // What cannot be read, then or now, tells nothing.
            _ => self.started != 0 && started(self.pid).is_some_and(|s| s != self.started),
        }
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

/// Whether no other machine calls itself so: images are made with an empty machine id.
fn is_certain(host: &str) -> bool {
    host.split(' ').count() == 3 && host.split(' ').all(|part| !part.is_empty())
}

fn boot() -> String {
    line("/proc/sys/kernel/random/boot_id")
}

fn started(pid: u32) -> Option<u64> {
    // The second field, the command, may contain anything; the rest has no parenthesis.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    fields.get(19)?.parse().ok()
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
    /// It was not there any more when it was to be renewed.
    lost: Arc<AtomicBool>,
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
        let lost = Arc::new(AtomicBool::new(false));
        let found_lost = lost.clone();
        let renew = move || {
            while stopped.recv_timeout(RENEW) == Err(RecvTimeoutError::Timeout) {
                match renew(to.as_ref(), &at, &text) {
                    Ok(()) => {}
                    Err(storage::Error::Absent(_)) => {
                        tracing::warn!("a pin was taken away: this process was taken for dead");
                        return found_lost.store(true, SeqCst);
                    }
                    // If it does not work now, it will the next time; a day is long.
                    Err(e) => {
                        tracing::warn!(error = &e as &dyn std::error::Error, "a pin was not renewed");
                    }
                }
            }
        };
        let renewing = std::thread::Builder::new().name("pin".into()).spawn(renew).ok();
        let pin = Pin { storage, name, lost, stop: Some(stop), renewing };
        let condemned = Condemned::read(pin.storage.as_ref())?;
        Ok((pin, condemned))
    }

    /// False if somebody took this process for dead and removed its pin.
    pub(crate) fn stands(&self) -> Result<bool, Error> {
        if self.lost.load(SeqCst) {
            return Ok(false);
        }
        match self.storage.read(&self.name) {
            Ok(_) => Ok(true),
            Err(storage::Error::Absent(_)) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// A pin that is gone stays gone: what it protected may be gone as well.
fn renew(storage: &dyn Storage, name: &str, text: &[u8]) -> Result<(), storage::Error> {
    storage.read(name)?;
    storage.replace(name, text.to_vec())
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
        assert!(!Owner { host: "elsewhere".into(), started: 1, ..me.clone() }.has_ended());
        assert!(!Owner { started: 0, ..me }.has_ended(), "it could not tell when it started");
        assert!(
            is_certain("debian 0a1b pid:[1]")
                && !is_certain("debian  pid:[1]")
                && !is_certain("debian 0a1b ")
        );
    }

    #[test]
    fn who_was_never_waited_for_is_not_known_to_have_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let owner = Owner { pid: child.id(), started: started(child.id()).unwrap(), ..Owner::me() };
        assert!(!owner.has_ended(), "it runs, or is a zombie");
        child.wait().unwrap();
        assert!(owner.has_ended());
    }

    #[test]
    fn a_pin_that_was_taken_away_is_not_written_again() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let storage = storage::Directory::open(dir.path(), runtime.handle().clone()).unwrap();
        storage.create("pins/a", b"1".to_vec()).unwrap();
        renew(&storage, "pins/a", b"2").unwrap();
        assert_eq!(storage.read("pins/a").unwrap(), b"2");
        storage.remove("pins/a").unwrap();
        assert!(matches!(renew(&storage, "pins/a", b"2"), Err(storage::Error::Absent(_))));
        assert!(storage.list("pins").unwrap().is_empty());
    }
}
