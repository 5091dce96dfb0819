//! The process that breaks a host and heals it again. It is a process of its own because the agent may be what is
//! stopped or killed; it leaves the agent's session, so that what ends a terminal does not end it.
//!
//! Guarantees: it says that it can do everything before it does anything; what it did it undoes after its time, or at
//! once if it could not do the rest. It reaches processes by pidfd, never by a bare pid. Whoever kills it with SIGKILL
//! takes the undoing along: a supervisor does that to all of a service's processes, the stopped ones included; a cut
//! ends by itself, and what fills a disk is removed by the next agent.

use super::net_cut;
use super::order::{Cut, Deed, Order};
use holdfast_core::limits;
use holdfast_drill::disk;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// The hidden command that runs it.
pub const COMMAND: &str = "breaker";
const READY: Duration = Duration::from_secs(5);
const ORDER_BYTES_MAX: u64 = 64 << 10;

// ---- the agent's side ----

/// A running breaker that has said it can.
pub(super) struct Breaker {
    process: Child,
}

/// How it ended.
pub(super) enum Outcome {
    Healed,
    Failed(String),
}

impl Breaker {
    /// Returns when it is ready to begin; it begins [`limits::FAULT_BEGINS_AFTER_MS`] later.
    pub(super) async fn start(order: &Order) -> Result<Breaker, super::Error> {
        // Our own program, also if its file has been replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = command.spawn().map_err(super::Error::Spawn)?;
        let order = serde_json::to_vec(order).expect("plain data");
        let ready = async {
            if let Some(mut stdin) = process.stdin.take() {
                stdin.write_all(&order).await?;
            }
            let mut line = String::new();
            if let Some(stdout) = process.stdout.take() {
                BufReader::new(stdout).read_line(&mut line).await?;
            }
            std::io::Result::Ok(line)
        };
        let said = match tokio::time::timeout(READY, ready).await {
            Ok(Ok(line)) => serde_json::from_str::<Result<(), String>>(&line)
                .unwrap_or_else(|_| Err("the breaker ended without a word; see the agent's log".into())),
            Ok(Err(e)) => Err(format!("the breaker was lost: {e}")),
            Err(_) => Err(format!("the breaker was not ready within {} s", READY.as_secs())),
        };
        if let Err(why) = said {
            let _ = process.kill().await;
            return Err(super::Error::Breaker(why));
        }
        Ok(Breaker { process })
    }

    /// Before it has begun: nothing is broken.
    pub(super) async fn call_off(mut self) {
        let _ = self.process.kill().await;
    }

    pub(super) async fn ended(mut self) -> Outcome {
        match self.process.wait().await {
            Ok(status) if status.success() => Outcome::Healed,
            Ok(status) => Outcome::Failed(status.to_string()),
            Err(e) => Outcome::Failed(e.to_string()),
        }
    }
}

// ---- the process itself ----

/// A deed that can be done.
enum Ready {
    Cut(Cut),
    Signal { process: OwnedFd, strike: Signal, undo: Option<Signal> },
    Fill(std::path::PathBuf),
}

/// Carries out the order on standard input. `Err`: what went wrong; everything that could be is undone.
pub async fn run() -> Result<(), String> {
    // Refused to a group's leader, which is in no need of it.
    let _ = rustix::process::setsid();
    let said = read().and_then(|order| Ok((ready(&order)?, order)));
    let answer = said.as_ref().map(|_| ()).map_err(Clone::clone);
    crate::sayln!("{}", serde_json::to_string(&answer).expect("plain data"));
    let (deeds, order) = said?;
    if order.rehearsal {
        return Ok(());
    }
    tokio::time::sleep(Duration::from_millis(limits::FAULT_BEGINS_AFTER_MS)).await;
    let end = Instant::now() + Duration::from_secs(order.lasts_s);
    let struck = deeds.iter().try_for_each(|deed| deed.strike(order.lasts_s, end));
    if struck.is_ok() && order.deeds.iter().any(Deed::can_be_undone) {
        tokio::time::sleep_until(end).await;
    }
    let undone = deeds.iter().rev().map(Ready::undo).collect::<Vec<_>>();
    struck.and(undone.into_iter().collect())
}

fn read() -> Result<Order, String> {
    let mut text = Vec::new();
    let read = std::io::stdin().take(ORDER_BYTES_MAX).read_to_end(&mut text);
    read.map_err(|e| format!("no order: {e}"))?;
    serde_json::from_slice(&text).map_err(|e| format!("an order that is none: {e}"))
}

fn ready(order: &Order) -> Result<Vec<Ready>, String> {
    order.deeds.iter().map(|deed| Ready::of(deed, order)).collect()
}

impl Ready {
    fn of(deed: &Deed, order: &Order) -> Result<Ready, String> {
        Ok(match deed {
            Deed::Cut(cut) => {
                net_cut::prepare(cut, order.lasts_s, order.rehearsal)?;
                Ready::Cut(cut.clone())
            }
            Deed::Stop { pid } => {
                Ready::Signal { process: open(*pid)?, strike: Signal::STOP, undo: Some(Signal::CONT) }
            }
            Deed::Kill { pid } => Ready::Signal { process: open(*pid)?, strike: Signal::KILL, undo: None },
            Deed::Fill { path } => {
                // Whether it may be written, without writing anything that stays.
                let made = std::fs::File::create(path).and_then(|_| std::fs::remove_file(path));
                made.map_err(|e| format!("{}: {e}", path.display()))?;
                Ready::Fill(path.clone())
            }
        })
    }

    fn strike(&self, lasts_s: u64, end: Instant) -> Result<(), String> {
        match self {
            Ready::Cut(cut) => net_cut::cut(cut, lasts_s),
            Ready::Signal { process, strike, .. } => send(process, *strike),
            Ready::Fill(path) => {
                disk::fill(path, || Instant::now() < end).map_err(|e| format!("{}: {e}", path.display()))
            }
        }
    }

    fn undo(&self) -> Result<(), String> {
        match self {
            Ready::Cut(_) => net_cut::mend(),
            Ready::Signal { process, undo: Some(undo), .. } => send(process, *undo),
            Ready::Signal { undo: None, .. } => Ok(()),
            Ready::Fill(path) => disk::empty(path).map_err(|e| format!("{}: {e}", path.display())),
        }
    }
}

fn open(pid: u32) -> Result<OwnedFd, String> {
    let pid =
        i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| format!("{pid} is no process"))?;
    let fd = pidfd_open(pid, PidfdFlags::empty());
    let fd = fd.map_err(|e| format!("process {} is gone: {e}", pid.as_raw_nonzero()))?;
    // Allowed to, and still there.
    match rustix::process::test_kill_process(pid) {
        Ok(()) => Ok(fd),
        Err(e) => Err(format!("process {} cannot be signalled: {e}", pid.as_raw_nonzero())),
    }
}

fn send(process: &OwnedFd, signal: Signal) -> Result<(), String> {
    match pidfd_send_signal(process, signal) {
        // Who has ended needs no signal.
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(e) => Err(format!("{signal:?}: {e}")),
    }
}
