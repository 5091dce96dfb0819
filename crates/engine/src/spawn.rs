//! Starts a child that dies with us: the only `unsafe` of the crate.
//!
//! Guarantees: the child gets SIGKILL when the *thread* that called [`spawn`] ends (that is what the kernel ties the
//! signal to), even if we are killed; and it is in a process group of its own, so that Ctrl-C in a terminal does not
//! reach it.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

/// Spawns. The calling thread must outlive the child.
#[expect(unsafe_code, reason = "pre_exec is the only way to set PR_SET_PDEATHSIG after the uid has changed")]
pub(crate) fn spawn(mut command: Command) -> std::io::Result<Child> {
    let parent = rustix::process::getpid();
    command.process_group(0);
    // SAFETY: between fork and exec only two raw system calls are made: no allocation, no lock.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // We may have died between fork and prctl: then the signal will never come.
            if rustix::process::getppid() != Some(parent) {
                return Err(std::io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
            }
            Ok(())
        });
    }
    command.spawn()
}
