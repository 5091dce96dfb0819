//! The engine's process: started or adopted, watched and ended through a pidfd, never through a bare pid.
//!
//! Guarantees: an exit is published at once; a signal reaches the process it was meant for or nobody.
//! Does not know: protocols, data directories.

use crate::spawn;
use crate::{Error, ProcessState};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// The present process of one instance, if there is one.
pub(crate) struct Process {
    state: watch::Sender<ProcessState>,
    pidfd: Arc<Mutex<Option<OwnedFd>>>,
    /// A child is killed when the driver is dropped; an adopted process is not.
    ours: bool,
}

impl Process {
    pub(crate) fn new(ours: bool) -> Process {
        Process { state: watch::Sender::new(ProcessState::NotStarted), pidfd: Arc::default(), ours }
    }
    pub(crate) fn watch(&self) -> watch::Receiver<ProcessState> {
        self.state.subscribe()
    }
    pub(crate) fn running(&self) -> Option<u32> {
        match *self.state.borrow() {
            ProcessState::Running { pid } => Some(pid),
            ProcessState::NotStarted | ProcessState::Exited { .. } => None,
        }
    }

    /// Spawns `command` on a thread that lives exactly as long as the child (see [`spawn`]) and reaps it.
    pub(crate) async fn start(&self, command: Command) -> std::io::Result<u32> {
        let (told, started) = oneshot::channel();
        let (state, pidfd) = (self.state.clone(), self.pidfd.clone());
        std::thread::Builder::new().name("engine-parent".into()).spawn(move || {
            let mut child = match spawn::spawn(command) {
                Ok(child) => child,
                Err(e) => {
                    let _ = told.send(Err(e));
                    return;
                }
            };
            let pid = child.id();
            // Not reaped yet, so the pid is still this child's.
            let fd = pid_of(pid).and_then(|p| pidfd_open(p, PidfdFlags::empty()).map_err(Into::into));
            let opened = fd.map(|fd| *lock(&pidfd) = Some(fd));
            if opened.is_err() {
                let _ = child.kill();
            } else {
                state.send_replace(ProcessState::Running { pid });
            }
            let _ = told.send(opened.map(|()| pid));
            let how = child.wait().map_or_else(|e| format!("not known: {e}"), describe);
            *lock(&pidfd) = None;
            state.send_replace(ProcessState::Exited { pid, how });
        })?;
        started.await.unwrap_or_else(|_| Err(std::io::Error::other("the spawning thread died")))
    }

    /// Watches a process that somebody else started.
    pub(crate) fn adopt(&self, pid: u32) -> std::io::Result<()> {
        if self.running() == Some(pid) {
            return Ok(());
        }
        let fd = pidfd_open(pid_of(pid)?, PidfdFlags::empty())?;
        let watched = fd.try_clone()?;
        *lock(&self.pidfd) = Some(fd);
        self.state.send_replace(ProcessState::Running { pid });
        let (state, pidfd) = (self.state.clone(), self.pidfd.clone());
        // A thread, as for a child: it sleeps until the process ends.
        std::thread::Builder::new().name("engine-watch".into()).spawn(move || {
            let mut polled = [PollFd::new(&watched, PollFlags::IN)];
            while rustix::event::poll(&mut polled, None).is_err() {}
            // A newer process may have been adopted meanwhile.
            state.send_if_modified(|s| {
                let this = *s == ProcessState::Running { pid };
                if this {
                    *lock(&pidfd) = None;
                    *s = ProcessState::Exited { pid, how: "ended; its status is its own parent's".into() };
                }
                this
            });
        })?;
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Error> {
        match &*lock(&self.pidfd) {
            // A process that is already gone needs no signal.
            Some(fd) => match pidfd_send_signal(fd, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(e) => Err(Error::Io { doing: "signalling", path: "the engine".into(), source: e.into() }),
            },
            None => Ok(()),
        }
    }

    /// The last one ended by itself, and said that all was well. Not known of an adopted one.
    pub(crate) fn succeeded(&self) -> bool {
        matches!(&*self.state.borrow(), ProcessState::Exited { how, .. } if how == SUCCESS)
    }

    /// Waits until no process runs.
    pub(crate) async fn ended(&self, within: Duration) -> Result<(), Error> {
        let mut state = self.watch();
        let gone = state.wait_for(|s| !matches!(s, ProcessState::Running { .. }));
        match tokio::time::timeout(within, gone).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Unresponsive { doing: "ending", after_ms: within.as_millis() as u64 }),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ours {
            let _ = self.signal(Signal::KILL);
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pid_of(pid: u32) -> std::io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| std::io::Error::other(format!("{pid} is no pid")))
}

const SUCCESS: &str = "exit code 0";

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (None, Some(0)) => SUCCESS.into(),
        (Some(9), _) => "signal 9 (SIGKILL)".into(),
        (Some(n), _) => format!("signal {n}"),
        (None, Some(n)) => format!("exit code {n}"),
        (None, None) => "unknown".into(),
    }
}

/// Kills a server that an earlier life of ours left behind on `data`: the pid file names it and its command line
/// must name our directory or a file in it, so that a reused pid is left alone.
pub(crate) fn kill_leftover(pid_file: &std::path::Path, argument: &str) -> std::io::Result<()> {
    let Ok(text) = std::fs::read_to_string(pid_file) else { return Ok(()) };
    let Some(pid) = text.trim().parse::<u32>().ok().and_then(|p| pid_of(p).ok()) else { return Ok(()) };
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    if !line.split(|b| *b == 0).any(|arg| arg == argument.as_bytes()) {
        return Ok(());
    }
    let _ = pidfd_send_signal(&fd, Signal::KILL);
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: LEFTOVER_SECONDS, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&patience))?;
    Ok(())
}

/// A killed process with much memory takes its time to go.
const LEFTOVER_SECONDS: i64 = 10;
