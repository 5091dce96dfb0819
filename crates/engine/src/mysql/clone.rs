//! A whole copy of one instance becomes another's data.
//!
//! Guarantees: a stream that ended early, or whose donor failed, is never used; the old data is replaced in one
//! rename and kept until the new has started; the copy gets the donor's full replication state, so that its position
//! still compares with everybody else's.
//! Does not know: how the stream travels.
//!
//! The stream: a text head (`key=value` lines, an empty line), then chunks of a 4-byte big-endian length and that
//! many bytes, then length 0 and a text tail like the head. Only the tail makes it complete. The length [`WORKING`]
//! stands for nothing: the donor is still at work.

use super::flavour::{CopyFrom, Flavour};
use super::{MySqlEngine, STATEMENT, blocking, datadir, io, version};
use crate::{ClonePhase, CloneProgress, CloneSource, Error, Saved};
use holdfast_core::topology::Management;
use holdfast_core::version::must_not_succeed;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, watch};

const VERSION: &str = "2";
const WORKING: u32 = u32::MAX;
/// A donor that prepares a copy says so this often.
const WORKING_EVERY: Duration = Duration::from_secs(5);
const CHUNK_BYTES: usize = 256 << 10;
const TEXT_BYTES_MAX: u32 = 64 << 10;
/// A stream that brings nothing for this long is given up.
const SILENCE: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(10);

type Output = Box<dyn AsyncRead + Send + Unpin>;

impl MySqlEngine {
    pub(super) async fn donate(&self) -> Result<CloneSource, Error> {
        let tables = self.act("reading the donor's position", self.flavour.clone_state()).await?;
        let cell = |name| tables.first().and_then(|t| t.cell(0, name)).unwrap_or_default();
        let at = self.at.clone();
        let data_bytes = blocking(move || Ok(datadir::tree_bytes(&at.data))).await?;
        let head = BTreeMap::from([
            ("version", VERSION.to_owned()),
            ("server", cell("version").to_owned()),
            ("compression", compression().to_owned()),
            ("state", cell("state").to_owned()),
            ("data_bytes", data_bytes.to_string()),
        ]);
        let (mut writer, reader) = tokio::io::duplex(CHUNK_BYTES);
        let donor = Donor {
            flavour: self.flavour,
            from: CopyFrom {
                runs: cell("version").to_owned(),
                installed: self.installed_version().await?,
                programs: self.spec.programs(),
                at: self.at.clone(),
                me: self.me.clone(),
                session: super::sql::Session::new(&self.at.socket, &self.me, self.flavour),
            },
            scratch: self.at.run.join("clone-source"),
            log: self.at.log.join("clone-source.log"),
        };
        let turn = Arc::clone(&self.donating);
        tokio::spawn(async move {
            // Ending early leaves the stream without its tail, which is all the receiver needs to know; dropping the
            // children ends them.
            if let Err(e) = donor.pump(&mut writer, &text(&head), &turn).await {
                tracing::info!("a clone stream was not finished: {e}");
            }
        });
        Ok(CloneSource { reader: Box::pin(reader), data_bytes })
    }

    pub(super) async fn receive_clone(
        &self,
        mut stream: Pin<Box<dyn AsyncRead + Send>>,
        progress: watch::Sender<CloneProgress>,
    ) -> Result<Option<Saved>, Error> {
        if self.process.running().is_some()
            && self.look_before("looking before a clone").await.is_ok_and(|seen| seen.writable)
        {
            return Err(Error::Precondition("it is writable; close it before its data is replaced".into()));
        }
        let head = read_head(&mut stream).await?;
        let state_in = |text: &BTreeMap<String, String>| {
            let state = text.get("state").map(String::as_str).unwrap_or_default();
            self.flavour.read_position(state)
        };
        let before = state_in(&head)?;
        let server = head.get("server").cloned().unwrap_or_default();
        if let Some(why) = must_not_succeed(&self.installed_version().await?, &server) {
            return Err(Error::Precondition(why));
        }
        let data_bytes = head.get("data_bytes").and_then(|n| n.parse().ok()).unwrap_or(0);
        progress.send_modify(|p| p.data_bytes = data_bytes);
        let new = self.at.beside(".new");
        let made = new.clone();
        blocking(move || {
            datadir::remove_dir(&made)?;
            std::fs::create_dir_all(&made).map_err(io("creating", &made))
        })
        .await?;
        let compression = head.get("compression").map_or("none", String::as_str);
        let tail = self.unpack(&mut stream, compression, &new, &progress).await?;
        let after = state_in(&tail)?;

        progress.send_modify(|p| p.phase = ClonePhase::Preparing);
        self.prepare(&new).await?;
        let state = self.flavour.copied_state(&before, &after, &new)?;
        let (at, text) = (self.at.clone(), state.to_string());
        let owner = self.owner_of_data()?;
        let made = new.clone();
        blocking(move || {
            datadir::write_whole(&made.join(datadir::CLONE_STATE), &text)?;
            version::note_copy(&made, &server)?;
            if let Some((uid, gid)) = owner {
                datadir::give_away(&made, uid, gid)?;
            }
            datadir::sync_tree(&made)?;
            datadir::remove_dir(&at.beside(".ready"))
        })
        .await?;

        progress.send_modify(|p| p.phase = ClonePhase::Swapping);
        let saved = self.save_what_only_we_have(&state).await?;
        if self.stop_locked(STOP).await.is_err() {
            self.kill_now().await?;
        }
        let at = self.at.clone();
        blocking(move || {
            let ready = at.beside(".ready");
            std::fs::rename(&new, &ready).map_err(io("putting in place", &ready))?;
            datadir::swap_in(&at)
        })
        .await?;
        progress.send_modify(|p| p.phase = ClonePhase::Starting);
        self.start_locked().await?;
        Ok(saved)
    }

    fn owner_of_data(&self) -> Result<Option<(u32, u32)>, Error> {
        use std::os::unix::fs::MetadataExt as _;
        if let Management::Attached { data_dir, .. } = &self.spec.management {
            let meta = std::fs::metadata(data_dir).map_err(io("looking at", data_dir))?;
            return Ok(Some((meta.uid(), meta.gid())));
        }
        Ok(datadir::run_as(&self.spec)?.map(|o| (o.uid, o.gid)))
    }

    /// Feeds the chunks to the unpacking programs; the tail.
    async fn unpack(
        &self,
        stream: &mut Pin<Box<dyn AsyncRead + Send>>,
        compression: &str,
        into: &Path,
        progress: &watch::Sender<CloneProgress>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let log_path = self.at.log.join("clone-into.log");
        let log = std::fs::File::create(&log_path).map_err(io("creating", &log_path))?;
        let failed = |program: &str| Error::Program { program: program.into(), words: end_of(&log_path) };
        let mut unstream = Command::from(self.flavour.unpack(&self.spec.programs(), into));
        let program = unstream.as_std().get_program().to_string_lossy().into_owned();
        unstream.stderr(log).stdout(Stdio::null()).kill_on_drop(true);
        let (mut children, mut input) = match compression {
            "none" => {
                unstream.stdin(Stdio::piped());
                let mut child = spawn(unstream)?;
                let input = child.stdin.take();
                (vec![child], input)
            }
            "zstd" => {
                let mut zstd = Command::new("zstd");
                zstd.args(["-d", "-c", "-q"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null());
                let mut zstd = spawn(zstd)?;
                let out = zstd.stdout.take().ok_or_else(|| failed("zstd"))?;
                let out: Stdio = out.try_into().map_err(io("connecting", Path::new("zstd")))?;
                let input = zstd.stdin.take();
                unstream.stdin(out);
                (vec![zstd, spawn(unstream)?], input)
            }
            other => {
                return Err(Error::Stream(format!(
                    "it is compressed with {other:?}, which is not known here"
                )));
            }
        };
        let mut chunk = vec![0; CHUNK_BYTES];
        let tail = loop {
            let len = match read_u32(stream).await? {
                0 => break read_text(stream).await?,
                WORKING => continue,
                len => len as usize,
            };
            let bytes =
                chunk.get_mut(..len).ok_or_else(|| Error::Stream(format!("a chunk of {len} bytes")))?;
            read_exact(stream, bytes).await?;
            let Some(pipe) = input.as_mut() else { return Err(failed(&program)) };
            match tokio::time::timeout(SILENCE, pipe.write_all(bytes)).await {
                Ok(Ok(())) => {}
                _ => return Err(failed(&program)),
            }
            progress.send_modify(|p| p.received_bytes += len as u64);
        };
        drop(input);
        // What came before it, if anything, is of no use, and the programs' words are not the reason.
        if let Some(words) = tail.get("error") {
            return Err(Error::Stream(format!("the donor failed: {words}")));
        }
        for child in &mut children {
            let status = child.wait().await.map_err(io("waiting for", Path::new(&program)))?;
            if !status.success() {
                return Err(failed(&program));
            }
        }
        Ok(tail)
    }

    async fn prepare(&self, dir: &Path) -> Result<(), Error> {
        let Some(prepare) = self.flavour.prepare(&self.spec.programs(), &self.at, dir) else { return Ok(()) };
        let program = prepare.get_program().to_string_lossy().into_owned();
        let output = Command::from(prepare)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(io("running", Path::new(&program)))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Program { program, words: datadir::last_lines(&output.stderr) })
    }
}

/// How a donor compresses: with `zstd` where that is installed.
fn compression() -> &'static str {
    if installed("zstd") { "zstd" } else { "none" }
}

/// Runs what writes the copy, and the compression behind it.
fn compressed(copy: std::process::Command, log: &Path) -> Result<(Vec<Child>, Output), Error> {
    let log = std::fs::File::create(log).map_err(io("creating", log))?;
    let program = copy.get_program().to_string_lossy().into_owned();
    let lost =
        |program: &str| Error::Program { program: program.into(), words: "its output cannot be read".into() };
    let mut copy = Command::from(copy);
    copy.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut copy = spawn(copy)?;
    let out = copy.stdout.take().ok_or_else(|| lost(&program))?;
    if compression() == "none" {
        return Ok((vec![copy], Box::new(out)));
    }
    let mut zstd = Command::new("zstd");
    zstd.args(["-1", "-c", "-q"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let from: Stdio = out.try_into().map_err(io("connecting", Path::new("zstd")))?;
    zstd.stdin(from);
    let mut zstd = spawn(zstd)?;
    let out = zstd.stdout.take().ok_or_else(|| lost("zstd"))?;
    Ok((vec![copy, zstd], Box::new(out)))
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Consumes the command: it would keep its end of a pipe open, and a program that writes into the pipe would then
/// never learn that its reader is gone.
fn spawn(mut command: Command) -> Result<Child, Error> {
    let program = PathBuf::from(command.as_std().get_program());
    command.kill_on_drop(true).spawn().map_err(io("running", &program))
}

/// The donor's side of the stream.
struct Donor {
    flavour: &'static dyn Flavour,
    from: CopyFrom,
    scratch: PathBuf,
    log: PathBuf,
}

impl Donor {
    /// One at a time: two would read the disk of one primary, and MySQL makes only one copy at once.
    async fn pump(&self, to: &mut DuplexStream, head: &[u8], turn: &Mutex<()>) -> std::io::Result<()> {
        send(to, &(head.len() as u32).to_be_bytes()).await?;
        send(to, head).await?;
        let turn = working(to, turn.lock()).await?;
        let done = match self.clear().await {
            Ok(()) => self.pump_data(to).await,
            Err(e) => Ok(Err(in_full(&e))),
        };
        if let Err(e) = self.clear().await {
            tracing::warn!("what a clone left behind could not be removed: {}", in_full(&e));
        }
        drop(turn);
        let mut tail = BTreeMap::new();
        match done? {
            Ok(state) => tail.insert("state", state),
            Err(words) => tail.insert("error", words),
        };
        let tail = text(&tail);
        send(to, &0u32.to_be_bytes()).await?;
        send(to, &(tail.len() as u32).to_be_bytes()).await?;
        send(to, &tail).await?;
        to.shutdown().await
    }

    /// Removes what an earlier copy left; first of all that copy itself, should the server still be making it for somebody
    /// who is gone: it would crash.
    async fn clear(&self) -> Result<(), Error> {
        self.flavour.end_copy(&self.from, &self.scratch).await?;
        let scratch = self.scratch.clone();
        blocking(move || datadir::remove_dir(&scratch)).await
    }

    /// The donor's state after it, or why there is no copy. Fails if the receiver is gone.
    async fn pump_data(&self, to: &mut DuplexStream) -> std::io::Result<Result<String, String>> {
        let made = working(to, self.flavour.copy(&self.from, &self.scratch)).await?;
        let (mut children, mut output) = match made.and_then(|copy| compressed(copy, &self.log)) {
            Ok(running) => running,
            Err(e) => return Ok(Err(in_full(&e))),
        };
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let n = output.read(&mut chunk).await?;
            if n == 0 {
                break;
            }
            send(to, &(n as u32).to_be_bytes()).await?;
            send(to, &chunk[..n]).await?;
        }
        let mut statuses = Vec::new();
        for child in &mut children {
            statuses.push(child.wait().await?);
        }
        if !statuses.iter().all(ExitStatus::success) {
            return Ok(Err(end_of(&self.log)));
        }
        let sql = self.flavour.clone_state();
        Ok(match self.from.session.run("reading the donor's position", sql, STATEMENT).await {
            Ok(tables) => Ok(tables.first().and_then(|t| t.cell(0, "state")).unwrap_or_default().to_owned()),
            Err(e) => Err(in_full(&e)),
        })
    }
}

/// A receiver that takes nothing for long is given up: others wait for their turn.
async fn send(to: &mut DuplexStream, bytes: &[u8]) -> std::io::Result<()> {
    tokio::time::timeout(SILENCE, to.write_all(bytes)).await?
}

/// Tells the receiver that the donor is at work until it is done; fails if the receiver is gone.
async fn working<T>(to: &mut DuplexStream, work: impl Future<Output = T>) -> std::io::Result<T> {
    tokio::pin!(work);
    loop {
        match tokio::time::timeout(WORKING_EVERY, &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) => send(to, &WORKING.to_be_bytes()).await?,
        }
    }
}

/// An error with what caused it, in one line: it is told to another host.
fn in_full(e: &Error) -> String {
    let mut out = e.to_string();
    let mut source = std::error::Error::source(e);
    while let Some(e) = source {
        out.push_str(&format!(": {e}"));
        source = e.source();
    }
    out
}

fn end_of(log: &Path) -> String {
    datadir::last_lines(&std::fs::read(log).unwrap_or_default())
}

fn text(values: &BTreeMap<&str, String>) -> Vec<u8> {
    let line = |(k, v): (&&str, &String)| format!("{k}={}\n", v.replace('\n', " "));
    values.iter().map(line).collect::<String>().into_bytes()
}

async fn read_head(stream: &mut Pin<Box<dyn AsyncRead + Send>>) -> Result<BTreeMap<String, String>, Error> {
    let head = read_text(stream).await?;
    match head.get("version").map(String::as_str) {
        Some(VERSION) => Ok(head),
        _ => Err(Error::Stream("it is not a clone stream of this version of Holdfast".into())),
    }
}

async fn read_text(stream: &mut Pin<Box<dyn AsyncRead + Send>>) -> Result<BTreeMap<String, String>, Error> {
    let len = read_u32(stream).await?;
    if len > TEXT_BYTES_MAX {
        return Err(Error::Stream(format!("a text of {len} bytes")));
    }
    let mut bytes = vec![0; len as usize];
    read_exact(stream, &mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect())
}

async fn read_u32(stream: &mut Pin<Box<dyn AsyncRead + Send>>) -> Result<u32, Error> {
    let mut bytes = [0; 4];
    read_exact(stream, &mut bytes).await?;
    Ok(u32::from_be_bytes(bytes))
}

async fn read_exact(stream: &mut Pin<Box<dyn AsyncRead + Send>>, bytes: &mut [u8]) -> Result<(), Error> {
    match tokio::time::timeout(SILENCE, stream.read_exact(bytes)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(Error::Stream("it ended before its end mark".into()))
        }
        Ok(Err(e)) => Err(Error::Stream(e.to_string())),
        Err(_) => Err(Error::Stream(format!("nothing came for {} s", SILENCE.as_secs()))),
    }
}
