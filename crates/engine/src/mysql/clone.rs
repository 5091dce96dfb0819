//! A whole copy of one instance becomes another's data.
//!
//! Guarantees: a stream that ended early, or whose donor failed, is never used; the old data is replaced in one
//! rename and kept until the new has started; the copy gets the donor's full replication state, so that its position
//! still compares with everybody else's.
//! Does not know: how the stream travels.
//!
//! The stream: a text head (`key=value` lines, an empty line), then chunks of a 4-byte big-endian length and that
//! many bytes, then length 0 and a text tail like the head. Only the tail makes it complete.

use super::flavour::mariadb as flavour;
use super::{MySqlEngine, STATEMENT, blocking, datadir, io, observe};
use crate::{ClonePhase, CloneProgress, CloneSource, Error, Saved};
use holdfast_core::Position;
use holdfast_core::position::MariaDbPosition;
use holdfast_core::topology::Management;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;

const VERSION: &str = "1";
const CHUNK_BYTES: usize = 256 << 10;
const TEXT_BYTES_MAX: u32 = 64 << 10;
/// A stream that brings nothing for this long is given up.
const SILENCE: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(10);
const STATE: &str = "SELECT @@global.gtid_binlog_state AS state, @@version AS version";

type Output = Box<dyn AsyncRead + Send + Unpin>;

impl MySqlEngine {
    pub(super) async fn donate(&self) -> Result<CloneSource, Error> {
        let tables = self.act("reading the donor's position", STATE).await?;
        let cell = |name| tables.first().and_then(|t| t.cell(0, name)).unwrap_or_default();
        let at = self.at.clone();
        let data_bytes = blocking(move || Ok(datadir::tree_bytes(&at.data))).await?;
        let scratch = self.at.run.join("clone-source");
        let log_path = self.at.log.join("clone-source.log");
        let log = std::fs::File::create(&log_path).map_err(io("creating", &log_path))?;
        let made = scratch.clone();
        blocking(move || {
            datadir::remove_dir(&made)?;
            std::fs::create_dir_all(&made).map_err(io("creating", &made))
        })
        .await?;
        let mut backup = Command::new(flavour::BACKUP);
        backup
            .args(["--no-defaults", "--backup", "--stream=xbstream", "--parallel=2"])
            .arg(format!("--target-dir={}", scratch.display()))
            .arg(format!("--tmpdir={}", self.at.tmp.display()))
            .arg(format!("--socket={}", self.at.socket.display()))
            .arg(format!("--user={}", self.me))
            .stderr(log);
        let (children, output, compression) = compressed(backup)?;
        let head = BTreeMap::from([
            ("version", VERSION.to_owned()),
            ("server", cell("version").to_owned()),
            ("compression", compression.to_owned()),
            ("state", cell("state").to_owned()),
            ("data_bytes", data_bytes.to_string()),
        ]);
        let (mut writer, reader) = tokio::io::duplex(CHUNK_BYTES);
        let after = super::sql::Session::new(&self.at.socket, &self.me);
        tokio::spawn(async move {
            // Ending early leaves the stream without its tail, which is all the receiver needs to know; dropping the
            // children ends them.
            if let Err(e) = pump(&mut writer, &text(&head), output, children, after, &log_path).await {
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
        if self.process.running().is_some() && self.look().await.is_ok_and(|seen| seen.writable) {
            return Err(Error::Precondition("it is writable; close it before its data is replaced".into()));
        }
        let head = read_head(&mut stream).await?;
        let before = observe::position(head.get("state").map(String::as_str))?;
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
        let after = observe::position(tail.get("state").map(String::as_str))?;

        progress.send_modify(|p| p.phase = ClonePhase::Preparing);
        super::backup::prepare(&new, &self.at.tmp).await?;
        let state = exact_state(&before, &after, &read_backup_position(&new)?)?;
        let (at, text) = (self.at.clone(), state.to_string());
        let owner = self.owner_of_data()?;
        let made = new.clone();
        blocking(move || {
            datadir::write_whole(&made.join(datadir::CLONE_STATE), &text)?;
            if let Some((uid, gid)) = owner {
                datadir::give_away(&made, uid, gid)?;
            }
            datadir::sync_tree(&made)?;
            datadir::remove_dir(&at.beside(".ready"))
        })
        .await?;

        progress.send_modify(|p| p.phase = ClonePhase::Swapping);
        let saved = self.save_what_only_we_have(&Position::MariaDb(state)).await?;
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
        let mut unstream = Command::new(flavour::UNSTREAM);
        unstream.args(["-x", "-C"]).arg(into).stderr(log).stdout(Stdio::null()).kill_on_drop(true);
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
            let len = read_u32(stream).await? as usize;
            if len == 0 {
                break read_text(stream).await?;
            }
            let bytes =
                chunk.get_mut(..len).ok_or_else(|| Error::Stream(format!("a chunk of {len} bytes")))?;
            read_exact(stream, bytes).await?;
            let Some(pipe) = input.as_mut() else { return Err(failed(flavour::UNSTREAM)) };
            match tokio::time::timeout(SILENCE, pipe.write_all(bytes)).await {
                Ok(Ok(())) => {}
                _ => return Err(failed(flavour::UNSTREAM)),
            }
            progress.send_modify(|p| p.received_bytes += len as u64);
        };
        drop(input);
        for child in &mut children {
            let status = child.wait().await.map_err(io("waiting for", Path::new(flavour::UNSTREAM)))?;
            if !status.success() {
                return Err(failed(flavour::UNSTREAM));
            }
        }
        match tail.get("error") {
            Some(words) => Err(Error::Stream(format!("the donor failed: {words}"))),
            None => Ok(tail),
        }
    }
}

/// Runs the backup through `zstd` where that is installed.
fn compressed(mut backup: Command) -> Result<(Vec<Child>, Output, &'static str), Error> {
    let lost =
        |what: &str| Error::Program { program: what.into(), words: "its output cannot be read".into() };
    backup.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut backup = spawn(backup)?;
    let out = backup.stdout.take().ok_or_else(|| lost(flavour::BACKUP))?;
    let mut zstd = Command::new("zstd");
    zstd.args(["-1", "-c", "-q"]).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    if !installed("zstd") {
        return Ok((vec![backup], Box::new(out), "none"));
    }
    let from: Stdio = out.try_into().map_err(io("connecting", Path::new("zstd")))?;
    zstd.stdin(from);
    let mut zstd = spawn(zstd)?;
    let out = zstd.stdout.take().ok_or_else(|| lost("zstd"))?;
    Ok((vec![backup, zstd], Box::new(out), "zstd"))
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
async fn pump(
    to: &mut DuplexStream,
    head: &[u8],
    mut output: Output,
    mut children: Vec<Child>,
    after: super::sql::Session,
    log: &Path,
) -> std::io::Result<()> {
    to.write_all(&(head.len() as u32).to_be_bytes()).await?;
    to.write_all(head).await?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let n = output.read(&mut chunk).await?;
        if n == 0 {
            break;
        }
        to.write_all(&(n as u32).to_be_bytes()).await?;
        to.write_all(&chunk[..n]).await?;
    }
    let mut statuses = Vec::new();
    for child in &mut children {
        statuses.push(child.wait().await?);
    }
    let mut tail = BTreeMap::new();
    let state = after.run("reading the donor's position", STATE, STATEMENT).await;
    match state {
        Ok(tables) if statuses.iter().all(ExitStatus::success) => {
            let state = tables.first().and_then(|t| t.cell(0, "state")).unwrap_or_default();
            tail.insert("state", state.to_owned());
        }
        Ok(_) => _ = tail.insert("error", end_of(log)),
        Err(e) => _ = tail.insert("error", e.to_string()),
    }
    let tail = text(&tail);
    to.write_all(&0u32.to_be_bytes()).await?;
    to.write_all(&(tail.len() as u32).to_be_bytes()).await?;
    to.write_all(&tail).await?;
    to.shutdown().await
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

/// The last GTID of each domain in the copy, as the backup noted it under its lock.
fn read_backup_position(dir: &Path) -> Result<MariaDbPosition, Error> {
    for name in ["xtrabackup_binlog_info", "mariadb_backup_binlog_info"] {
        if let Ok(text) = std::fs::read_to_string(dir.join(name)) {
            let gtids = text.lines().next().and_then(|l| l.split('\t').nth(2)).unwrap_or_default();
            return observe::position(Some(gtids));
        }
    }
    Err(Error::Stream("the copy does not say where in the history it stands".into()))
}

/// The replication state of the copy. It lies between the donor's state before and after; the backup's own position
/// names only the last server of each domain. So it is known exactly as long as only that server wrote meanwhile.
fn exact_state(
    before: &MariaDbPosition,
    after: &MariaDbPosition,
    at: &MariaDbPosition,
) -> Result<MariaDbPosition, Error> {
    let known = |p: &MariaDbPosition, domain, server| {
        p.iter().find(|(d, s, _)| (*d, *s) == (domain, server)).map_or(0, |(.., n)| n)
    };
    let mut state = before.clone();
    at.iter().for_each(|(d, s, n)| state.add(d, s, n));
    let exact = after
        .iter()
        .all(|(d, s, n)| n == known(before, d, s) || at.iter().any(|(dd, ss, _)| (dd, ss) == (d, s)));
    if exact {
        return Ok(state);
    }
    Err(Error::Stream("the donor got another primary while it was copied; clone again".into()))
}

#[cfg(test)]
mod tests {
    use super::{MariaDbPosition, exact_state};

    fn at(text: &str) -> MariaDbPosition {
        text.parse().unwrap()
    }

    #[test]
    fn the_copys_state_is_exact_or_refused() {
        let state = |b, a, p| exact_state(&at(b), &at(a), &at(p)).map(|s| s.to_string());
        // Idle, and written to by the one primary meanwhile.
        assert_eq!(state("0-1-5,0-2-9", "0-1-5,0-2-9", "0-2-9").unwrap(), "0-1-5,0-2-9");
        assert_eq!(state("0-1-5,0-2-9", "0-1-5,0-2-20", "0-2-12").unwrap(), "0-1-5,0-2-12");
        // Empty history.
        assert_eq!(state("", "", "").unwrap(), "");
        // Server 1 wrote up to somewhere, then server 3 took over.
        assert!(state("0-1-5", "0-1-9,0-3-12", "0-3-11").is_err());
        assert!(state("0-1-5", "0-1-9,0-3-12", "0-1-7").is_err());
    }
}
