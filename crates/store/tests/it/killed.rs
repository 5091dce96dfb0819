//! A real process that writes: killed with SIGKILL, and with a disk that is full.

use crate::harness::{Cluster, is_done, put};
use holdfast_store::{Error, Store};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

/// Set in the child to the root directory of its store.
const CHILD: &str = "HOLDFAST_STORE_TEST_CHILD";

/// Set in the child that shall fail while it appends to the log, not while it writes a snapshot.
const NO_SNAPSHOTS: &str = "HOLDFAST_STORE_TEST_NO_SNAPSHOTS";

/// Ends the child whatever happens to the test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The child: writes numbers without end and prints each one that was acknowledged, or why it stopped.
#[tokio::test(flavor = "multi_thread")]
async fn child_writes_until_it_is_killed() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    let mut cluster = Cluster::new(1);
    // The parent's directory, not one that is removed with this process.
    cluster.root = tempfile::Builder::new().disable_cleanup(true).tempdir_in(root).unwrap();
    if std::env::var_os(NO_SNAPSHOTS).is_none() {
        cluster.tune = |options| {
            options.snapshot_every = 50;
            options.keep_entries = 10;
        };
    }
    println!("\ndir {}", cluster.root.path().display());
    cluster.start_all().await;
    cluster.leader().await;
    let store = cluster.get(1);
    for n in 0_u32.. {
        match store.commit(put(&format!("k{:04}", n % 2_000), &[n as u8; 2_000])).await {
            Ok(outcome) => {
                assert!(is_done(&outcome));
                println!("\nacknowledged {n}");
            }
            Err(error) => {
                println!("\nfailed unknown={} {error}", error.is_unknown());
                // The failure is announced a moment after the commit that met it was answered.
                let mut leadership = store.leadership();
                let stopped = leadership.wait_for(|l| l.stopped.is_some());
                let _ = tokio::time::timeout(Duration::from_secs(10), stopped).await;
                let again = store.commit(put("again", b"")).await.unwrap_err();
                println!("\nagain stopped={} {again}", matches!(again, Error::Stopped { .. }));
                return;
            }
        }
    }
}

/// Starts the child through a shell that runs `prelude` first.
fn child(root: &std::path::Path, prelude: &str) -> Guarded {
    let script = format!("{prelude} exec \"$0\" --exact killed::child_writes_until_it_is_killed --nocapture");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(std::env::current_exe().unwrap());
    command.env(CHILD, root).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    Guarded(command.spawn().unwrap())
}

/// Opens what the child left and counts the numbers from 0 that are there.
async fn survivors(dir: &str, acknowledged: u32) {
    let cluster = Cluster::new(1);
    let mut options = cluster.options(1);
    options.dir = std::path::Path::new(dir).join("1");
    let store = holdfast_store::Embedded::open(options, cluster.transport(1)).await.unwrap();
    let mut leadership = store.leadership();
    leadership.wait_for(|l| l.is_me).await.unwrap();
    let state = store.local();
    for n in acknowledged.saturating_sub(1_999)..=acknowledged {
        let value = state.get(&format!("k{:04}", n % 2_000)).map(|v| v.bytes[0]);
        // The next one may have been written without being acknowledged.
        assert!(value == Some(n as u8) || value == Some((n + 2_000) as u8), "{n} is lost: {value:?}");
    }
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    for round in 0..5_u64 {
        let root = tempfile::tempdir().unwrap();
        let mut child = child(root.path(), "");
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let (mut dir, mut last) = (String::new(), None);
        let mut kill_at = None;
        // Reads to the end: also what was acknowledged between the decision to kill and the kill.
        while let Some(Ok(line)) = lines.next() {
            if let Some(path) = line.strip_prefix("dir ") {
                dir = path.to_owned();
            } else if let Some(n) = line.strip_prefix("acknowledged ") {
                last = Some(n.parse::<u32>().unwrap());
                let at =
                    *kill_at.get_or_insert_with(|| Instant::now() + Duration::from_millis(100 + 70 * round));
                if Instant::now() >= at {
                    child.0.kill().unwrap();
                }
            } else {
                assert!(!line.starts_with("failed"), "{line}");
            }
        }
        child.0.wait().unwrap();
        let last = last.expect("something was acknowledged");
        println!("round {round}: killed after {last}");
        survivors(&dir, last).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_voter_with_an_error_and_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    // A file may not grow beyond 4 MiB: to the writer that is a full disk. The signal is ignored, as a full disk
    // sends none.
    let mut child = child(root.path(), &format!("export {NO_SNAPSHOTS}=1; trap '' XFSZ; ulimit -f 8192;"));
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let (mut dir, mut last, mut failed, mut again) = (String::new(), None, None, None);
    for line in lines.map_while(Result::ok) {
        if let Some(path) = line.strip_prefix("dir ") {
            dir = path.to_owned();
        } else if let Some(n) = line.strip_prefix("acknowledged ") {
            last = Some(n.parse::<u32>().unwrap());
        } else if line.starts_with("failed ") {
            failed = Some(line);
        } else if line.starts_with("again ") {
            again = Some(line);
        }
    }
    assert!(child.0.wait().unwrap().success());
    let failed = failed.expect("it ran into the limit");
    assert!(failed.starts_with("failed unknown=true"), "{failed}");
    let again = again.unwrap();
    assert!(again.starts_with("again stopped=true"), "{again}");
    assert!(again.contains("File too large"), "the cause is named: {again}");
    survivors(&dir, last.expect("something was acknowledged")).await;
}
