//! Bringing the process up and down (S9).
//!
//! Guarantees: a managed server comes up as nobody's replica, read-only, with no replica admitted; what it lost with its
//! last process is not taken for there. An attached server is closed as soon as it is found; until then its replicas
//! could not log in at it, since their accounts end with a process.
//! Does not know: what the instance will be used for.

use super::info::{Info, settings};
use super::session::{Batch, refusal};
use super::{BATCH, RedisEngine, State, accounts, lineage, lock};
use super::{blocking, io};
use crate::files::write_whole;
use crate::{Error, START_MS, ending, files, process};
use holdfast_core::Position;
use holdfast_core::position::RedisPosition;
use holdfast_core::topology::Management;
use rustix::process::Signal;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How a mark begins that tells of a process that ended in order; where it stood follows.
const ENDED: &str = "ended at ";
/// While the server starts, it is asked this often whether it is there.
const READY_POLL: Duration = Duration::from_millis(10);

impl RedisEngine {
    pub(super) async fn start_locked(&self) -> Result<(), Error> {
        if self.process.running().is_some() && self.state().ready {
            return Ok(());
        }
        self.state().ready = false;
        self.own_directory().await?;
        match &self.spec.management {
            Management::Managed { .. } => self.start_managed().await?,
            Management::Attached { start_command, .. } => self.start_attached(start_command).await?,
        }
        let retained = self.is_intact().await?;
        let mut state = self.state();
        (state.retained, state.ready) = (retained, true);
        Ok(())
    }

    /// The process lost nothing since it was marked; or it has all that the one before had when that ended in order. Nothing
    /// was written to it yet.
    async fn is_intact(&self) -> Result<bool, Error> {
        let Ok(mark) = std::fs::read_to_string(&self.at.intact) else { return Ok(false) };
        let life = self.life().await?;
        let Some(had) = mark.strip_prefix(ENDED) else { return Ok(mark == life) };
        let look = self.look_raw("looking what it still has").await?;
        let had = had.parse().ok().map(Position::Redis);
        let has = self.position_of(&look)?.map(Position::Redis);
        let retained = has.zip(had).is_some_and(|(has, had)| has.contains(&had));
        // What was said of the process before says nothing of this one, should it crash.
        let path = self.at.intact.clone();
        blocking(move || if retained { write_whole(&path, &life) } else { files::remove_file(&path) })
            .await?;
        Ok(retained)
    }

    /// Where a process that is intact stands, before it ends.
    async fn stands_intact(&self) -> Option<RedisPosition> {
        if !self.state().retained || !matches!(self.spec.management, Management::Managed { .. }) {
            return None;
        }
        let look = self.look_raw("looking what it has before it ends").await.ok()?;
        self.position_of(&look).ok()?
    }

    async fn own_directory(&self) -> Result<(), Error> {
        if lock(&self.owned).is_some() {
            return Ok(());
        }
        let (spec, at) = (self.spec.clone(), self.at.clone());
        let (held, known) = blocking(move || {
            let dirs = [&at.root, &at.run, &at.saved, &at.log].map(PathBuf::as_path);
            let theirs = [&at.root, &at.run, &at.log].map(PathBuf::as_path);
            let held = files::claim(&spec, &at.root, &at.run, &dirs, &theirs)?;
            files::protect(&at.root)?;
            files::protect(&at.saved)?;
            Ok((held, lineage::Lineage::open(at.histories)?))
        })
        .await?;
        *lock(&self.lineage) = Some(known);
        *lock(&self.owned) = Some(held);
        Ok(())
    }

    /// Which process runs, as it calls itself.
    pub(super) async fn life(&self) -> Result<String, Error> {
        let answers = self.act("looking which process runs", Batch::new(&["INFO", "server"])).await?;
        Ok(Info::read(&answers[0])?.text("run_id")?.to_owned())
    }

    async fn reset(&self) {
        self.watching.reset().await;
        self.acting.reset().await;
        self.probe.reset().await;
        *self.state() = State::default();
    }

    async fn start_managed(&self) -> Result<(), Error> {
        if self.process.running().is_none() {
            self.reset().await;
            *lock(&self.door) = accounts::managed_door(&self.at)?;
            self.write_files().await?;
            self.launch().await?;
        }
        self.until_ready().await
    }

    async fn write_files(&self) -> Result<(), Error> {
        let (spec, at, door) = (self.spec.clone(), self.at.clone(), self.door());
        blocking(move || {
            let argument = at.settings.to_string_lossy();
            process::kill_leftover(&at.pid_file, &argument)
                .map_err(io("ending the process named in", &at.pid_file))?;
            files::remove_file(&at.socket)?;
            std::fs::create_dir_all(&at.data).map_err(io("creating", &at.data))?;
            secret(&at.settings, &super::settings::file(&spec, &at)?)?;
            secret(&at.users, &accounts::file(&spec, &door)?)?;
            if let Some(owner) = files::run_as(&spec)? {
                for path in [&at.data, &at.run] {
                    files::give_away(path, owner.uid, owner.gid)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn launch(&self) -> Result<(), Error> {
        let owner = files::run_as(&self.spec)?;
        let log = &self.at.error_log;
        let words_from = std::fs::metadata(log).map_or(0, |m| m.len());
        let stderr =
            std::fs::File::options().create(true).append(true).open(log).map_err(io("opening", log))?;
        let program = self.spec.programs().path(self.flavour.server);
        let mut command = Command::new(&program);
        command.arg(&self.at.settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
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

    /// Waits until all data is in memory.
    async fn until_ready(&self) -> Result<(), Error> {
        let until = Instant::now() + Duration::from_millis(START_MS);
        loop {
            if self.process.running().is_none() {
                return Err(Error::RefusesToStart { words: self.last_words() });
            }
            match self.act("starting", Batch::new(&["INFO"])).await {
                Ok(answers) => {
                    let info = Info::read(&answers[0])?;
                    if !info.on("loading")? {
                        return self.check_started(&info);
                    }
                }
                // The server's own refusal (wrong account) will not change by waiting.
                Err(e) if refusal(&e).is_some_and(|says| !says.starts_with("LOADING")) => return Err(e),
                Err(_) if Instant::now() < until => {}
                Err(_) => return Err(Error::Unresponsive { doing: "starting", after_ms: START_MS }),
            }
            sleep(READY_POLL).await;
        }
    }

    fn check_started(&self, info: &Info) -> Result<(), Error> {
        let version = self.suits(info)?;
        if info.text("role")? != "slave" {
            self.process.signal(Signal::KILL)?;
            return Err(Error::RefusesToStart { words: "it came up writable and was killed (S9)".into() });
        }
        self.state().version = version;
        Ok(())
    }

    /// The server's version, if it is one that this driver runs.
    fn suits(&self, info: &Info) -> Result<String, Error> {
        if info.maybe::<u8>("cluster_enabled").is_some_and(|on| on != 0) {
            return Err(Error::BadSpec("the server is in cluster mode; turn `cluster-enabled` off".into()));
        }
        self.flavour.version(info)
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
        let said = files::last_lines(&read().unwrap_or_default());
        if said.is_empty() { format!("nothing; see {}", self.at.error_log.display()) } else { said }
    }

    async fn start_attached(&self, start_command: &[String]) -> Result<(), Error> {
        let attached = self.attach().await;
        if attached.as_ref().is_err_and(|e| !e.retryable()) {
            return attached;
        }
        if attached.is_err() {
            self.reset().await;
            ending::command(start_command).await?;
            let until = Instant::now() + ending::COMMAND;
            while let Err(e) = self.attach().await {
                if Instant::now() > until || !e.retryable() {
                    return Err(e);
                }
                sleep(READY_POLL).await;
            }
        }
        self.until_loaded().await?;
        self.fence(BATCH).await?;
        self.set_users().await
    }

    /// Finds the process behind the socket.
    async fn attach(&self) -> Result<(), Error> {
        let batch = Batch::new(&["INFO", "server"]).and(&["CONFIG", "GET", "dir"]);
        let answers = self.acting.run("attaching", &self.door(), batch, BATCH).await;
        let answers = answers.map_err(|e| match refusal(&e) {
            Some(says) if says.starts_with("WRONGPASS") || says.starts_with("NOPERM") => Error::BadSpec(format!(
                "the attached server does not let {} administer it ({says}); give that account `+@all ~* &*` there",
                self.spec.replication.user
            )),
            _ => e,
        })?;
        let info = Info::read(&answers[0])?;
        let dir = settings(&answers[1]).remove("dir").unwrap_or_default();
        if std::fs::canonicalize(&dir).ok() != std::fs::canonicalize(&self.at.data).ok() {
            let found = format!("the server behind {} keeps its data in {dir}", self.at.socket.display());
            return Err(Error::NotOurs { path: self.at.data.clone(), found });
        }
        let version = self.flavour.version(&info)?;
        let pid = info.number("process_id")?;
        self.process.adopt(pid).map_err(io("watching the process of", &self.at.socket))?;
        self.state().version = version;
        Ok(())
    }

    async fn until_loaded(&self) -> Result<(), Error> {
        let until = Instant::now() + Duration::from_millis(START_MS);
        loop {
            let info = Info::read(&self.act("starting", Batch::new(&["INFO"])).await?[0])?;
            self.suits(&info)?;
            if !info.on("loading")? {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(Error::Unresponsive { doing: "starting", after_ms: START_MS });
            }
            sleep(READY_POLL).await;
        }
    }

    pub(super) async fn stop_locked(&self, within: Duration) -> Result<(), Error> {
        if self.process.running().is_none() {
            return Ok(());
        }
        let had = self.stands_intact().await;
        ending::stop(&self.process, &self.spec.management, within).await?;
        // In order, it wrote its data first; whether it could, the next start finds out.
        if let Some(had) = had.filter(|_| self.process.succeeded()) {
            let path = self.at.intact.clone();
            blocking(move || write_whole(&path, &format!("{ENDED}{had}"))).await?;
        }
        self.reset().await;
        Ok(())
    }

    pub(super) async fn kill_now(&self) -> Result<(), Error> {
        self.state().ready = false;
        ending::kill(&self.process, &self.spec.management).await
    }

    /// See [`crate::Engine::discard`].
    pub(super) async fn discard_locked(&self) -> Result<(), Error> {
        let seen = self.look_before("looking before discarding").await?;
        if seen.writable {
            return Err(Error::Precondition("it is writable: close it first (S3)".into()));
        }
        let asked =
            self.act("looking for its files", Batch::new(&["CONFIG", "GET", "dbfilename", "appenddirname"]));
        let names = settings(&asked.await?[0]);
        self.kill_now().await?;
        let data = self.at.data.clone();
        blocking(move || {
            for name in names.values().filter(|n| !n.is_empty() && !n.contains('/')) {
                files::remove_dir(&data.join(name)).or_else(|_| files::remove_file(&data.join(name)))?;
            }
            files::sync_dir(&data)
        })
        .await?;
        self.start_locked().await
    }
}

/// A file that only its owner can read.
fn secret(path: &Path, text: &str) -> Result<(), Error> {
    let write = || {
        files::remove_file(path).map_err(std::io::Error::other)?;
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(io("writing", path))
}
