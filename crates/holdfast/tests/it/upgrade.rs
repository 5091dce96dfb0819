//! `holdfast upgrade`, from this machine's MariaDB to a later release, on real servers under load.

use crate::stage::{BOUND, Stage, here, no_loss, stage, wait_for};
use holdfast_drill::drills::{self, Drill, account};
use holdfast_drill::ledger::{self, Ledger, Writers};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Programs where a link leads. The operator lets it lead elsewhere; what runs goes on.
struct Programs(tempfile::TempDir);

impl Programs {
    fn present() -> Programs {
        let dir = tempfile::tempdir().unwrap();
        let present = dir.path().join("present");
        std::fs::create_dir(&present).unwrap();
        for program in [
            "sbin/mariadbd",
            "bin/mariadb-install-db",
            "bin/mariadb-upgrade",
            "bin/mariadb-binlog",
            "bin/mariabackup",
            "bin/mbstream",
        ] {
            let (_, name) = program.split_once('/').unwrap();
            symlink(Path::new("/usr").join(program), present.join(name)).unwrap();
        }
        symlink(&present, dir.path().join("programs")).unwrap();
        Programs(dir)
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("programs")
    }
    fn install_later(&self) {
        let later = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mariadb/programs");
        let later = later.canonicalize().expect("there is no later MariaDB here yet: make engines");
        let next = self.0.path().join("next");
        symlink(later, &next).unwrap();
        std::fs::rename(&next, self.path()).unwrap();
    }
}

/// Every member says what `of` of it begins with.
async fn all(stage: &Stage, of: &str, begins: &str) {
    wait_for(&format!("{of} {begins} everywhere"), async || {
        let service = stage.sandbox.service().await.unwrap_or_default();
        let members = service["members"].as_array().cloned().unwrap_or_default();
        !members.is_empty() && members.iter().all(|m| m[of].as_str().is_some_and(|v| v.starts_with(begins)))
    })
    .await;
}

/// The command itself waits for as long as it takes.
async fn upgrade(stage: &Stage, more: &[&str]) -> String {
    let words = [&["upgrade"], more].concat();
    let done = tokio::time::timeout(BOUND * 4, stage.sandbox.holdfast(&words)).await;
    let Ok(done) = done else {
        panic!("the upgrade does not end: {}", stage.sandbox.holdfast(&["explain"]).await.unwrap_or_default())
    };
    done.unwrap()
}

/// Every member has every acknowledged write.
async fn nothing_lost(stage: &Stage, ledger: &Ledger) {
    for node in stage.sandbox.members() {
        let engine = stage.sandbox.engine(node).unwrap();
        wait_for(&format!("{node} to have every acknowledged write"), async || {
            let present = ledger::present(engine, &account(), 1).await.unwrap_or_default();
            ledger.acked.iter().all(|(id, _)| present.contains(id))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_to_a_later_release_under_load_without_losing_a_write() {
    let programs = Programs::present();
    let mut stage = stage(3, |o| o.programs = Some(programs.path())).await;
    let proxies = stage.sandbox.proxies();
    ledger::prepare(proxies[0], &account()).await.unwrap();
    let before = stage.sandbox.primary().await.unwrap();
    all(&stage, "installed", "10.11.").await;
    let nothing = stage.sandbox.holdfast(&["upgrade", "--dry-run"]).await.unwrap();
    assert!(nothing.contains("nothing to do"), "{nothing}");

    let load = Writers::start(&here(&stage.sandbox), &proxies, &account(), 1, 0..2);
    wait_for("a write", async || load.acked() > 50).await;
    programs.install_later();
    all(&stage, "installed", "11.8.").await;
    all(&stage, "version", "10.11.").await;
    let steps = stage.sandbox.holdfast(&["upgrade", "--dry-run"]).await.unwrap();
    let at = |what: &str| steps.find(what).unwrap_or_else(|| panic!("{what} in {steps}"));
    let (over, last) = (at(&format!("switch over from {before}")), at(&format!("restart {before}:")));
    assert!(at("1. restart") < at("2. restart") && at("2. restart") < over && over < last, "{steps}");
    all(&stage, "version", "10.11.").await;

    let said = upgrade(&stage, &[]).await;
    assert!(said.contains("upgraded: every member runs"), "{said}");
    all(&stage, "version", "11.8.").await;
    let acked = load.acked();
    wait_for("writes to go on", async || load.acked() > acked + 50).await;
    let ledger = load.finish().await;
    assert!(ledger.errors.is_empty(), "{:?}", ledger.errors);
    stage.healthy().await;
    assert_ne!(stage.sandbox.primary().await.unwrap(), before);
    nothing_lost(&stage, &ledger).await;
    let history = stage.sandbox.history().await.unwrap();
    let takeover = |p: &&serde_json::Value| p["kind"] == "claim";
    assert_eq!(history.iter().filter(takeover).count(), 0, "a restart is no failure: {history:?}");
    // A member of which nothing was heard for a second is a reason to refuse, and passes.
    stage.healthy().await;
    let nothing = stage.sandbox.holdfast(&["upgrade"]).await.unwrap();
    assert!(nothing.contains("nothing to do"), "{nothing}");
    // What it came to is as good as any other group.
    no_loss(&drills::round(&mut stage.sandbox, Drill::KillEngine, 2, 4).await.unwrap());
    stage.end().await;
}

/// The primary fails between the replicas' restarts and its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_in_the_middle_of_an_upgrade_loses_nothing() {
    let programs = Programs::present();
    let mut stage = stage(3, |o| o.programs = Some(programs.path())).await;
    let before = stage.sandbox.primary().await.unwrap();
    programs.install_later();
    all(&stage, "installed", "11.8.").await;
    let said = upgrade(&stage, &["--replicas-only"]).await;
    assert!(said.contains("upgraded: every replica runs"), "{said}");
    stage.healthy().await;
    assert_eq!(stage.sandbox.primary().await.unwrap(), before);
    let refused = stage.sandbox.holdfast(&["switchover"]).await.unwrap_err().to_string();
    assert!(refused.contains("later release"), "{refused}");
    no_loss(&drills::round(&mut stage.sandbox, Drill::KillEngine, 1, 4).await.unwrap());
    stage.healthy().await;
    // Its own start brought it there.
    all(&stage, "version", "11.8.").await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_replica_is_restarted_only_if_that_is_accepted() {
    let programs = Programs::present();
    let mut stage = stage(2, |o| {
        o.programs = Some(programs.path());
        o.witnesses = 1;
        o.service_lines = "when_no_sync_replica = \"block\"".into();
    })
    .await;
    let proxies = stage.sandbox.proxies();
    ledger::prepare(proxies[0], &account()).await.unwrap();
    programs.install_later();
    all(&stage, "installed", "11.8.").await;
    let refused = stage.sandbox.holdfast(&["upgrade"]).await.unwrap_err().to_string();
    assert!(refused.contains("--accept-no-standby"), "{refused}");
    let load = Writers::start(&here(&stage.sandbox), &proxies, &account(), 1, 0..2);
    wait_for("a write", async || load.acked() > 20).await;
    let said = upgrade(&stage, &["--accept-no-standby"]).await;
    assert!(said.contains("upgraded: every member runs"), "{said}");
    all(&stage, "version", "11.8.").await;
    let acked = load.acked();
    wait_for("writes to go on", async || load.acked() > acked + 20).await;
    let ledger = load.finish().await;
    stage.healthy().await;
    nothing_lost(&stage, &ledger).await;
    stage.end().await;
}
