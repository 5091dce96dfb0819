//! Somebody's own deployment, played by a sandbox: `holdfast drill` breaks it as it would break any, from a host that the
//! topology does not know.

use crate::stage::{BOUND, Stage, stage, wait_for};
use holdfast_drill::operator::Error;
use holdfast_drill::sandbox::{Network, Options, SERVICE, signal};
use rustix::process::Signal;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

/// What is broken stays so: longer than a failover takes on a busy machine.
const LASTS: &str = "12";

async fn staging(change: impl FnOnce(&mut Options)) -> Stage {
    stage(3, |o| {
        o.network = Network::Namespaces;
        o.app = true;
        o.desk = true;
        o.top_lines = "drills = true".into();
        o.service_lines = "cool_down_s = 1".into();
        change(o);
    })
    .await
}

impl Stage {
    /// Runs a drill from the desk, as its user would; the deployment's hosts have a supervisor.
    async fn drill(&mut self, words: &[&str]) -> Value {
        let words = [&["drill"], words, &["--staging", "--yes", "--for", LASTS, "-o", "json"]].concat();
        let mut command = self.sandbox.operator().command(&words);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut running = std::pin::pin!(command.spawn().unwrap().wait_with_output());
        let output = loop {
            tokio::select! {
                output = &mut running => break output.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(200)) => self.sandbox.supervise().unwrap(),
            }
        };
        let said = String::from_utf8_lossy(&output.stderr);
        // A bound on time may well be broken here, and nothing else.
        assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"))
    }

    /// `None`: the command did what it was told.
    async fn refusal(&self, words: &[&str]) -> Option<(Option<i32>, String)> {
        match self.sandbox.holdfast(words).await {
            Ok(_) => None,
            Err(Error::Command { code, says, .. }) => Some((code, says)),
            Err(e) => panic!("{e}"),
        }
    }

    fn tables(&self, node: &str) -> String {
        let files = self.sandbox.dir().join(node).join(SERVICE).join("data").join(SERVICE);
        let names = std::fs::read_dir(files).into_iter().flatten().flatten();
        names.map(|f| f.file_name().to_string_lossy().into_owned() + " ").collect()
    }

    fn holds(&self, node: &str, file: &str) -> bool {
        self.sandbox.dir().join(node).join(SERVICE).join(file).exists()
    }
}

fn kept(report: &Value) {
    for round in report["rounds"].as_array().unwrap() {
        let broken = round["broken"].as_array().unwrap().iter().map(|b| b.as_str().unwrap());
        let broken: Vec<&str> = broken.filter(|b| !b.starts_with("outage")).collect();
        assert!(broken.is_empty(), "{round}");
        assert_eq!(round["lost"], 0, "{round}");
        assert!(round["acked"].as_u64().unwrap() > 0, "{round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_drilled_and_keeps_what_it_promises() {
    let mut stage = staging(|o| o.disk_mib = Some(512)).await;
    for drill in ["kill-engine", "partition-primary", "pause-agent", "kill-host", "disk-full", "switchover"] {
        let report = stage.drill(&["run", drill]).await;
        kept(&report);
        let round = &report["rounds"][0];
        // An engine that is back before the others have noticed may lead again.
        assert!(round["from"] != round["to"] || drill == "kill-engine", "{round}");
        stage.healthy().await;
    }
    for node in ["a", "b", "c"] {
        wait_for("the tables to be dropped", async || !stage.tables(node).contains("holdfast_drill")).await;
        assert!(!stage.holds(node, "holdfast-drill.filler"));
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_engines_a_paused_engine_and_the_stores_leader_too() {
    // Random faults fill disks too: never this machine's.
    let mut stage = staging(|o| o.disk_mib = Some(512)).await;
    for drill in ["pause-engine", "double-failure", "kill-store-leader"] {
        kept(&stage.drill(&["run", drill]).await);
        stage.healthy().await;
    }
    let report = stage.drill(&["random", "--seed", "3", "--minutes", "1"]).await;
    kept(&report);
    assert!(report["rounds"][0]["faults"].as_array().is_some(), "{report}");
    stage.end().await;
}

/// The agents have the last word, whatever the file says that a client has.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_staging_deployment_is_not_broken() {
    let stage = staging(|o| o.top_lines.clear()).await;
    let before = stage.sandbox.service().await.unwrap();
    let (code, says) = stage.refusal(&["drill", "run", "kill-engine", "--staging", "--yes"]).await.unwrap();
    assert_eq!(code, Some(5), "{says}");
    assert!(says.contains("drills = true"), "{says}");
    let (code, says) = stage.refusal(&["drill", "strike", "a", "kill-engine"]).await.unwrap();
    assert_eq!(code, Some(5), "{says}");
    assert!(says.contains("no staging deployment"), "{says}");
    // A client with a file of its own.
    let text = std::fs::read_to_string(stage.sandbox.config()).unwrap();
    let theirs = stage.sandbox.dir().join("theirs.toml");
    std::fs::write(&theirs, format!("drills = true\n{text}")).unwrap();
    let config = ["--config", theirs.to_str().unwrap()];
    let run = [&config[..], &["drill", "run", "kill-engine", "--staging", "--yes"]].concat();
    let mut asked = stage.sandbox.operator().clone();
    asked.globals.clear();
    let refused = asked.holdfast(&run).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Command { code: Some(5), says, .. } if says.contains("no staging")),
        "{refused}"
    );
    let after = stage.sandbox.service().await.unwrap();
    assert_eq!(before["epoch"], after["epoch"]);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_asks_first_and_refuses_what_it_cannot_do() {
    let mut stage = staging(|_| {}).await;
    let run = ["drill", "run", "kill-engine", "--staging"];
    // Nobody to ask.
    let (code, says) = stage.refusal(&run).await.unwrap();
    assert_eq!(code, Some(5), "{says}");
    assert!(says.contains("may break a") && says.contains("--yes"), "{says}");
    for (more, why) in [
        (["--user", "nobody"], "no such user"),
        (["--service", "other"], "services: shop"),
        (["--password-file", "/nowhere"], "/nowhere"),
        (["--database", "mysql"], "cannot use the proxy"),
    ] {
        let (code, says) = stage.refusal(&[&run[..], &["--yes"], &more].concat()).await.unwrap();
        assert_eq!(code, Some(5), "{says}");
        assert!(says.contains(why), "{says}");
    }
    stage.sandbox.holdfast(&["pause"]).await.unwrap();
    let (code, says) = stage.refusal(&[&run[..], &["--yes"]].concat()).await.unwrap();
    assert!(code == Some(5) && says.contains("paused"), "{says}");
    stage.sandbox.holdfast(&["resume"]).await.unwrap();

    let strike = |more: &[&'static str]| [&["drill", "strike"], more].concat();
    let (code, says) = stage.refusal(&strike(&["nobody", "deaf"])).await.unwrap();
    assert!(code == Some(5) && says.contains("nodes: a, b, c, app"), "{says}");
    let (code, says) = stage.refusal(&strike(&["app", "kill-engine"])).await.unwrap();
    assert!(code == Some(5) && says.contains("app has no instance"), "{says}");
    // A rehearsal breaks nothing; of two faults of one host the second is refused.
    for fault in ["partition", "deaf", "mute", "pause-agent", "kill-host", "disk-full"] {
        assert_eq!(stage.refusal(&strike(&["b", fault, "--rehearse"])).await, None, "{fault}");
    }
    assert_eq!(stage.refusal(&strike(&["c", "mute", "--for", LASTS])).await, None);
    let (code, says) = stage.refusal(&strike(&["c", "deaf", "--for", "4"])).await.unwrap();
    assert!(code == Some(5) && says.contains("c is broken already: mute"), "{says}");
    let silent = async || {
        let service = stage.sandbox.service().await.unwrap_or_default();
        let mut members = service["members"].as_array().cloned().unwrap_or_default().into_iter();
        members.any(|m| m["node"] == "c" && m["state"] != "running")
    };
    wait_for("c to fall silent", silent).await;
    stage.healthy().await;
    stage.end().await;
}

/// Nobody is left who could heal it, and it heals.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_heals_although_the_drill_was_killed() {
    let mut stage = staging(|_| {}).await;
    let from = stage.sandbox.primary().await.unwrap();
    let words = ["drill", "run", "partition-primary", "--staging", "--yes", "--for", LASTS];
    let mut drill = stage.sandbox.operator().command(&words).spawn().unwrap();
    wait_for("another primary", async || stage.sandbox.primary().await.is_ok_and(|p| p != from)).await;
    drill.kill().await.unwrap();
    stage.healthy().await;

    // A stopped agent heals nothing either.
    let began = Instant::now();
    stage.sandbox.holdfast(&["drill", "strike", &from, "pause-agent", "--for", "5"]).await.unwrap();
    let stopped = async || state(stage.sandbox.pid(&from).unwrap()) == Some('T');
    wait_for("the agent to be stopped", stopped).await;
    wait_for("the agent to go on", async || !stopped().await).await;
    assert!(began.elapsed() >= Duration::from_secs(5));
    stage.healthy().await;

    // A cut ends by itself, whoever is killed.
    stage.sandbox.holdfast(&["drill", "strike", "c", "partition", "--for", LASTS]).await.unwrap();
    let heard = async || {
        let status = stage.sandbox.operator().json(&["status"]).await.unwrap_or_default();
        let mut nodes = status["nodes"].as_array().cloned().unwrap_or_default().into_iter();
        nodes.any(|n| n["node"] == "c" && n["heard_ms_ago"].as_u64().is_some_and(|ms| ms < 1_000))
    };
    wait_for("c to be cut off", async || !heard().await).await;
    let agent = stage.sandbox.pid("c").unwrap();
    signal(child(agent, "breaker").expect("a breaker"), Signal::KILL);
    wait_for("c to be back", heard).await;

    // Killed with what would have healed it: the next agent does.
    let engine = stage.sandbox.dir().join("b").join(SERVICE);
    std::fs::write(engine.join("holdfast-drill.filler"), "left").unwrap();
    signal(stage.sandbox.pid("b").unwrap(), Signal::KILL);
    wait_for("b to end", async || stage.sandbox.check_running().is_err()).await;
    stage.sandbox.supervise().unwrap();
    wait_for("the file to be removed", async || !stage.holds("b", "holdfast-drill.filler")).await;
    let end = Instant::now() + BOUND;
    stage.healthy().await;
    assert!(Instant::now() < end);
    stage.end().await;
}

/// A child of a process whose command line names `word`.
fn child(parent: u32, word: &str) -> Option<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let children = tasks.map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default());
    let pids: Vec<u32> =
        children.flat_map(|c| c.split(' ').filter_map(|p| p.parse().ok()).collect::<Vec<_>>()).collect();
    let names =
        |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.contains(word));
    pids.into_iter().find(names)
}

/// The letter of /proc/PID/stat.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}
