//! Backups that the controller orders.

use crate::stage::{repository, stage, wait_for};
use holdfast_drill::sandbox::{Sandbox, signal};
use rustix::process::Signal;
use serde_json::Value;

async fn backup(sandbox: &Sandbox) -> Value {
    sandbox.service().await.unwrap_or_default()["backup"].clone()
}

async fn origins(sandbox: &Sandbox) -> Vec<String> {
    let listed = sandbox.holdfast(&["backup", "list", "-o", "json"]).await.unwrap_or_default();
    let listed: Value = serde_json::from_str(&listed).unwrap_or_default();
    let all = listed["backups"].as_array().cloned().unwrap_or_default();
    all.iter().map(|b| b["backup"]["origin"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_when_it_is_due_and_by_another_host_if_one_goes_silent() {
    let dir = tempfile::tempdir().unwrap();
    let line = repository(dir.path(), "archive = false");
    let stage =
        stage(3, |o| o.top_lines = format!("{line}\nbackup = {{ schedule = \"6h\", verify = true }}")).await;
    let sandbox = &stage.sandbox;
    let mut first = String::new();
    wait_for("a backup is under way", async || {
        let seen = backup(sandbox).await;
        assert!(seen["good_unix_ms"].is_null(), "it was over too soon to disturb it: {seen}");
        first = seen["under_way_on"].as_str().unwrap_or_default().to_owned();
        !first.is_empty()
    })
    .await;
    let primary = sandbox.primary().await.unwrap();
    assert_ne!(first, primary, "a replica makes it");
    let frozen = sandbox.pid(&first).unwrap();
    signal(frozen, Signal::STOP);
    wait_for("another host made it", async || backup(sandbox).await["good_unix_ms"].is_u64()).await;
    let other = origins(sandbox).await;
    assert!(other.len() == 1 && other[0] != first, "{other:?}");
    let status = backup(sandbox).await;
    assert_eq!((status["failed"].clone(), status["failures"].as_u64()), (Value::Null, Some(0)));
    let waits_ms = status["next_unix_ms"].as_u64().unwrap() - status["good_unix_ms"].as_u64().unwrap();
    assert_eq!(waits_ms, 6 * 3_600_000);

    // The first one goes on where it stood: two complete backups, and none too many is due.
    signal(frozen, Signal::CONT);
    wait_for("the first host made its own", async || origins(sandbox).await.contains(&first)).await;
    let now = backup(sandbox).await;
    assert_eq!(now["good_unix_ms"], status["good_unix_ms"], "{now}");
    let says = sandbox.holdfast(&["backup", "schedule"]).await.unwrap();
    assert!(says.contains("last good one of") && says.contains("the next at"), "{says}");
    let shown = sandbox.holdfast(&["backup", "show"]).await.unwrap();
    assert!(shown.contains("proven"), "{shown}");
    sandbox.holdfast(&["repo", "check"]).await.unwrap();
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_fails_is_said_and_nothing_else_suffers() {
    let dir = tempfile::tempdir().unwrap();
    let line = repository(dir.path(), "archive = false");
    let away = dir.path().join("repo");
    std::fs::rename(&away, dir.path().join("elsewhere")).unwrap();
    let mut stage = stage(2, |o| o.top_lines = format!("{line}\nbackup = {{ schedule = \"03:15\" }}")).await;
    wait_for("the failure is said", async || backup(&stage.sandbox).await["failures"] == 1).await;
    let service = stage.healthy().await;
    let said = service["findings"].to_string();
    assert!(said.contains("backup-failed") && said.contains("repo init"), "{said}");
    assert!(!away.exists(), "a backup does not make repositories");
    let next_ms = service["backup"]["next_unix_ms"].as_u64().unwrap();
    assert!(next_ms <= holdfast::clock::unix_ms() + 600_000, "it is tried again soon");
    stage.end().await;
}
