//! Bringing the process up and down (S9).
//!
//! Guarantees: a managed server comes up read-only with replication stopped; what its crash recovery cuts off the log
//! was copied aside before; what its relay log still holds is known before anything can purge it.
//! Does not know: what the instance will be used for.

use super::flavour::{self, Recovery};
use super::{Logs, MySqlEngine, STATEMENT, State};
use super::{blocking, datadir, io, process, sql};
use crate::{Error, ending, files};
use crate::{OBSERVE_MS, START_MS};
use holdfast_core::limits;
use holdfast_core::topology::Management;
use rustix::process::Signal;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// While the server starts, it is asked this often whether it is there.
const READY_POLL: Duration = Duration::from_millis(10);

impl MySqlEngine {
    pub(super) async fn start_locked(&self) -> Result<(), Error> {
        if self.process.running().is_some() && self.state().ready {
            return Ok(());
        }
        self.state().ready = false;
        match &self.spec.management {
            Management::Managed { .. } => self.start_managed().await,
            Management::Attached { start_command, .. } => self.start_attached(start_command).await,
        }
    }

    async fn start_managed(&self) -> Result<(), Error> {
        if self.process.running().is_none() {
            self.sessions.reset().await;
            *self.state() = State::default();
            // Programs of another engine must not make a data directory.
            self.installed_version().await?;
            self.prepare_directories().await?;
            self.take_over_data().await?;
            self.launch().await?;
        }
        self.until_ready().await?;
        self.bring_up_to_date().await?;
        self.settle_clone().await?;
        let lost_nothing = self.flavour.settle(self).await?;
        let retained = lost_nothing && datadir::intact(&self.at);
        if !retained {
            datadir::set_intact(&self.at, false)?;
        }
        let mut state = self.state();
        (state.retained, state.ready) = (retained, true);
        Ok(())
    }

    async fn prepare_directories(&self) -> Result<(), Error> {
        if self.owned.lock().is_ok_and(|o| o.is_none()) {
            let (spec, at) = (self.spec.clone(), self.at.clone());
            let lock = blocking(move || datadir::claim(&spec, &at)).await?;
            *self.owned.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(lock);
        }
        let (spec, at, me) = (self.spec.clone(), self.at.clone(), self.me.clone());
        let (flavour, set_aside) = (self.flavour, self.recovery() == Recovery::RollBackTail);
        blocking(move || {
            process::kill_leftover(&at.pid_file, &flavour::data_argument(&at))
                .map_err(io("ending the process named in", &at.pid_file))?;
            // MySQL leaves it behind when it is killed, and believes that whoever has that pid by now is a server.
            datadir::remove_file(&datadir::sibling(&at.socket, ".lock"))?;
            datadir::swap_in(&at)?;
            datadir::initialise(&spec, &at, &me)?;
            if set_aside {
                flavour.before_recovery(&at)?;
            }
            Ok(())
        })
        .await
    }

    /// Rolling back is right only if every commit that was answered had been acknowledged first.
    fn recovery(&self) -> Recovery {
        if self.flavour.rolls_back_tail() && self.sync() && !datadir::commits_alone(&self.at) {
            Recovery::RollBackTail
        } else {
            Recovery::CommitTail
        }
    }

    /// A server that meets a full disk waits for a minute, whatever happens to the disk meanwhile, and answers nobody.
    pub(super) fn has_room(&self, least_bytes: u64) -> Result<(), Error> {
        let managed = matches!(self.spec.management, Management::Managed { .. });
        match files::free_bytes(&self.at.data).filter(|_| managed) {
            Some(free_bytes) if free_bytes < least_bytes => {
                Err(Error::NoRoom { dir: self.at.data.clone(), free_bytes })
            }
            _ => Ok(()),
        }
    }

    async fn launch(&self) -> Result<(), Error> {
        self.has_room(limits::DISK_ROOM_BYTES)?;
        let owner = datadir::run_as(&self.spec)?;
        let user = owner.as_ref().map_or(self.me.as_str(), |o| &o.name);
        let arguments = self.flavour.arguments(&self.spec, &self.at, user, self.recovery())?;
        let log = &self.at.error_log;
        let words_from = std::fs::metadata(log).map_or(0, |m| m.len());
        let stderr =
            std::fs::File::options().create(true).append(true).open(log).map_err(io("opening", log))?;
        let program = self.spec.programs().path(self.flavour.server());
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        if let Some(owner) = owner {
            std::os::unix::fs::chown(log, Some(owner.uid), Some(owner.gid))
                .map_err(io("giving away", log))?;
            // Before the exec, so that the kernel keeps the parent-death signal, which a change of user clears.
            command.uid(owner.uid).gid(owner.gid);
        }
        self.process.start(command).await.map_err(io("starting", &program))?;
        self.state().words_from = words_from;
        Ok(())
    }

    async fn until_ready(&self) -> Result<(), Error> {
        let until = Instant::now() + Duration::from_millis(START_MS);
        loop {
            if self.process.running().is_none() {
                return Err(Error::RefusesToStart { words: self.last_words() });
            }
            let answer =
                self.sessions.act.run("starting", "SELECT @@read_only AS read_only", STATEMENT).await;
            match answer {
                Ok(tables) if tables.first().is_some_and(|t| t.on(0, "read_only")) => return Ok(()),
                Ok(_) => {
                    // Not ours to judge how; a writable server must not stay.
                    self.process.signal(Signal::KILL)?;
                    return Err(Error::RefusesToStart {
                        words: "it came up writable and was killed (S9)".into(),
                    });
                }
                // The server's own refusal (wrong account) will not change by waiting.
                Err(e) if sql::server_error(&e).is_some() => return Err(e),
                Err(_) if Instant::now() < until => sleep(READY_POLL).await,
                Err(_) => return Err(Error::Unresponsive { doing: "starting", after_ms: START_MS }),
            }
        }
    }

    /// What the server said since it was last started.
    fn last_words(&self) -> String {
        const BYTES: u64 = 64 << 10;
        let mut text = Vec::new();
        let from = self.state().words_from;
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = std::fs::File::open(&self.at.error_log)?;
            let len = file.metadata()?.len();
            file.seek(std::io::SeekFrom::Start(from.max(len.saturating_sub(BYTES)).min(len)))?;
            file.take(BYTES).read_to_end(&mut text)?;
            Ok(text)
        };
        let text = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let errors: Vec<&str> =
            text.lines().filter(|l| l.contains("[ERROR]") && !l.contains("] Aborting")).collect();
        let words = if errors.is_empty() { text.into_owned() } else { errors.join("\n") };
        let said = datadir::last_lines(words.as_bytes());
        if said.is_empty() { format!("nothing; see {}", self.at.error_log.display()) } else { said }
    }

    /// Gives a freshly cloned data directory its place in history.
    async fn settle_clone(&self) -> Result<(), Error> {
        let Some(text) = datadir::clone_state(&self.at)? else { return Ok(()) };
        let state = self.flavour.read_position(text.trim())?;
        let sql = self.flavour.place_copy(&state);
        self.sessions.act.run("placing the clone in history", sql, STATEMENT).await?;
        let at = self.at.clone();
        blocking(move || datadir::clone_settled(&at)).await
    }

    async fn start_attached(&self, start_command: &[String]) -> Result<(), Error> {
        if self.owned.lock().is_ok_and(|o| o.is_none()) {
            let (spec, at) = (self.spec.clone(), self.at.clone());
            let lock = blocking(move || datadir::claim(&spec, &at)).await?;
            *self.owned.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(lock);
        }
        let attached = self.attach().await;
        if attached.as_ref().is_err_and(|e| !e.retryable()) {
            return attached;
        }
        if attached.is_err() {
            self.sessions.reset().await;
            *self.state() = State::default();
            let at = self.at.clone();
            blocking(move || datadir::swap_in(&at)).await?;
            ending::command(start_command).await?;
            let until = Instant::now() + ending::COMMAND;
            while let Err(e) = self.attach().await {
                if Instant::now() > until || !e.retryable() {
                    return Err(e);
                }
                sleep(READY_POLL).await;
            }
        }
        self.settle_clone().await?;
        // From a time when it was managed. What was done to it since is not ours to know.
        datadir::set_intact(&self.at, false)?;
        // A server that runs keeps the replication it has: stopping it would discard what was received.
        self.fence(STATEMENT).await?;
        let replicates = self.sessions.act.run("looking", self.flavour.replication(), STATEMENT).await?;
        let replicates = self.flavour.read_replication(&replicates)?;
        if replicates.is_none_or(|r| r.sql != crate::ThreadState::Running) {
            self.flavour.settle(self).await?;
        }
        self.state().ready = true;
        Ok(())
    }

    /// Finds the process behind the socket.
    async fn attach(&self) -> Result<(), Error> {
        let sql = "SELECT @@pid_file AS pid_file, @@datadir AS datadir, @@log_bin_basename AS binlog, \
                   @@relay_log_basename AS relay, @@global.server_id AS server_id";
        let tables = self.sessions.act.run("attaching", sql, STATEMENT).await?;
        let cell = |name| tables.first().and_then(|t| t.cell(0, name)).unwrap_or_default().to_owned();
        let (datadir, pid_file) = (PathBuf::from(cell("datadir")), cell("pid_file"));
        let same = std::fs::canonicalize(&datadir).ok() == std::fs::canonicalize(&self.at.data).ok();
        if !same {
            let found = format!(
                "the server behind {} keeps its data in {}",
                self.at.socket.display(),
                datadir.display()
            );
            return Err(Error::NotOurs { path: self.at.data.clone(), found });
        }
        let id = self.spec.server_id;
        if cell("server_id").parse().ok().map(flavour::node_of) != Some(id) {
            return Err(Error::BadSpec(format!(
                "the attached server has server_id {}, the topology says {}; set server_id in its configuration",
                cell("server_id"),
                id
            )));
        }
        let index = |base: String| datadir.join(format!("{base}.index"));
        self.state().logs = Some(Logs { binlog: index(cell("binlog")), relay: index(cell("relay")) });
        let pid_file = datadir.join(pid_file);
        let text = std::fs::read_to_string(&pid_file).map_err(io("reading", &pid_file))?;
        let pid =
            text.trim().parse().map_err(|_| Error::Log(format!("{} holds no pid", pid_file.display())))?;
        self.process.adopt(pid).map_err(io("watching the process named in", &pid_file))
    }

    pub(super) async fn stop_locked(&self, within: Duration) -> Result<(), Error> {
        if self.process.running().is_none() {
            return Ok(());
        }
        ending::stop(&self.process, &self.spec.management, within).await?;
        self.sessions.reset().await;
        Ok(())
    }

    pub(super) async fn kill_now(&self) -> Result<(), Error> {
        self.state().ready = false;
        ending::kill(&self.process, &self.spec.management).await
    }

    /// One bounded look.
    pub(super) async fn watch(&self, doing: &'static str, sql: String) -> Result<Vec<sql::Table>, Error> {
        self.require_running()?;
        self.sessions.watch.run(doing, sql, Duration::from_millis(OBSERVE_MS)).await
    }
}
