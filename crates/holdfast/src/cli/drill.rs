//! `holdfast drill`: breaks real processes of a sandbox of its own and prints what a client saw.

use super::args::{self, DrillCommand, Output};
use super::exit::{Exit, Failure};
use super::output::table;
use crate::{say, sayln};
use holdfast_drill::drills::{self, Drill, Round};
use holdfast_drill::sandbox::{Options, Sandbox};
use miette::{IntoDiagnostic, WrapErr};
use std::path::PathBuf;
use std::time::Duration;

const START: Duration = Duration::from_secs(120);

pub async fn drill(command: DrillCommand) -> Result<Exit, Failure> {
    match command {
        DrillCommand::List => {
            for d in [Drill::KillEngine, Drill::Switchover] {
                sayln!("{:<12} {}", name(d), d.describe());
            }
            Ok(Exit::Ok)
        }
        DrillCommand::Run { drill, rounds, durability, writers, output, dir } => {
            let drill = match drill {
                args::Drill::KillEngine => Drill::KillEngine,
                args::Drill::Switchover => Drill::Switchover,
            };
            let talk = output == Output::Table;
            let rounds = on_sandbox(dir, durability, talk, &[(drill, rounds)], writers).await?;
            print(&rounds, output);
            Ok(verdict(&rounds))
        }
        DrillCommand::Demo => {
            sayln!(
                "Three MariaDB servers under Holdfast on loopback, four clients writing through the proxies.\n"
            );
            let rounds = on_sandbox(
                None,
                args::Durability::Sync,
                true,
                &[(Drill::KillEngine, 1), (Drill::Switchover, 1)],
                4,
            )
            .await?;
            sayln!();
            for r in &rounds {
                demo_round(r);
            }
            Ok(verdict(&rounds))
        }
    }
}

fn name(drill: Drill) -> &'static str {
    match drill {
        Drill::KillEngine => "kill-engine",
        Drill::Switchover => "switchover",
    }
}

fn verdict(rounds: &[Round]) -> Exit {
    if rounds.iter().all(|r| r.broken.is_empty()) { Exit::Ok } else { Exit::PromiseBroken }
}

/// Runs drills on a fresh sandbox, stops it, and removes its directory unless the user named it.
async fn on_sandbox(
    dir: Option<PathBuf>,
    durability: args::Durability,
    talk: bool,
    plan: &[(Drill, u32)],
    writers: u8,
) -> Result<Vec<Round>, Failure> {
    let keep = dir.is_some();
    let dir =
        dir.unwrap_or_else(|| std::env::temp_dir().join(format!("holdfast-drill-{}", std::process::id())));
    let durability = crate::dev::durability(durability);
    let exe = std::env::current_exe().into_diagnostic().wrap_err("could not find this program's own file")?;
    let options = Options { durability: durability.to_string(), ..Options::new(exe, &dir, 3) };
    let mut sandbox = Sandbox::start(options).await.map_err(|e| failed(e, "starting the sandbox"))?;
    let outcome = tokio::select! {
        outcome = rounds(&mut sandbox, durability, talk, plan, writers) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed(miette::miette!("interrupted; the sandbox was stopped"))),
    };
    let stopped = sandbox.stop().await.map_err(|e| failed(e, "stopping the sandbox"));
    if outcome.is_err() {
        eprintln!("The sandbox's files are kept for a look: {}", dir.display());
    } else if !keep {
        let _ = std::fs::remove_dir_all(&dir);
    }
    let rounds = outcome?;
    stopped?;
    Ok(rounds)
}

async fn rounds(
    sandbox: &mut Sandbox,
    durability: &str,
    talk: bool,
    plan: &[(Drill, u32)],
    writers: u8,
) -> Result<Vec<Round>, Failure> {
    sandbox.wait_healthy(START).await.map_err(|e| failed(e, "waiting for the sandbox"))?;
    let mut all = Vec::new();
    for (drill, count) in plan {
        for number in 0..*count {
            let id = all.len() as u64 + 1;
            let round = drills::round(sandbox, *drill, durability, id, writers)
                .await
                .map_err(|e| failed(e, "drilling"))?;
            if talk {
                sayln!(
                    "{} {}/{count}: outage {} ms, lost {}",
                    name(*drill),
                    number + 1,
                    round.outage_ms,
                    round.lost
                );
            }
            all.push(round);
        }
    }
    Ok(all)
}

fn failed(e: impl std::error::Error + Send + Sync + 'static, doing: &'static str) -> Failure {
    Failure::failed(Err::<(), _>(e).into_diagnostic().wrap_err(doing).expect_err("just made"))
}

fn print(rounds: &[Round], output: Output) {
    let (median, worst) = drills::outages(rounds);
    if output == Output::Json {
        let value =
            serde_json::json!({ "rounds": rounds, "outage_ms": { "median": median, "worst": worst } });
        sayln!("{}", serde_json::to_string_pretty(&value).expect("plain data"));
        return;
    }
    let rows: Vec<Vec<String>> = rounds
        .iter()
        .map(|r| {
            let reported = r.reported_lost.map_or("-".to_string(), |n| n.to_string());
            [
                name(r.drill).to_string(),
                format!("{} -> {}", r.from, r.to),
                r.outage_ms.to_string(),
                r.acked.to_string(),
                r.lost.to_string(),
                reported,
                r.unknown.to_string(),
                r.client_errors.to_string(),
                r.broken.join("; "),
            ]
            .to_vec()
        })
        .collect();
    let head = ["DRILL", "PRIMARY", "OUTAGE ms", "ACKED", "LOST", "REPORTED", "UNKNOWN", "ERRORS", "BROKEN"];
    say!("\n{}", table(&head, &rows));
    sayln!("  outage: median {median} ms, worst {worst} ms");
    for error in rounds.iter().flat_map(|r| &r.errors) {
        sayln!("  a client saw: {error}");
    }
}

fn demo_round(r: &Round) {
    let what = match r.drill {
        Drill::KillEngine => format!("SIGKILL to the primary on {}; {} took over", r.from, r.to),
        Drill::Switchover => format!("Planned switchover from {} to {}", r.from, r.to),
    };
    sayln!("{what}. What the clients saw:");
    sayln!(
        "  outage {} ms   acknowledged {}   lost {}   unknown {}   errors {}",
        r.outage_ms,
        r.acked,
        r.lost,
        r.unknown,
        r.client_errors
    );
    for error in &r.errors {
        sayln!("    {error}");
    }
    for broken in &r.broken {
        sayln!("  BROKEN PROMISE: {broken}");
    }
}
