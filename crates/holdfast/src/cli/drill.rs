//! `holdfast drill`: breaks real processes, of a sandbox of its own or (`staging`) of somebody's own deployment, and prints
//! what a client saw.

use super::args::{DrillCommand, Durability, EngineArgs, Flavour, Network, Output, SandboxArgs};
use super::exit::{Exit, Failure};
use super::output::table;
use super::staging;
use crate::{say, sayln};
use holdfast_core::topology::Family;
use holdfast_drill::deployment::Deployment;
use holdfast_drill::drills::{self, Drill};
use holdfast_drill::ground;
use holdfast_drill::judge::{self, Round};
use holdfast_drill::mutual;
use holdfast_drill::random;
use holdfast_drill::sandbox::{self, Options, Partner, Sandbox};
use holdfast_drill::soak::{self, Sample};
use miette::{IntoDiagnostic, WrapErr};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

const START: Duration = Duration::from_secs(120);
/// Rounds follow each other faster than failures do.
const COOL_DOWN_S: u32 = 1;
/// Long enough to be seen at work.
const HAND_BACK_AFTER_S: u32 = 2;
/// A shorter wait needs no explanation.
const TELLS_FROM_S: u64 = 5;
/// Room for an engine's files and an hour of drills; the disk that is filled is not the user's.
const DISK_MIB: u32 = 1_024;
/// An hour's binlogs are not what a soak is about.
const SOAK_BINLOGS: &str = "binlog_expire_logs_seconds = \"600\"\nmax_binlog_size = \"67108864\"";

/// What came out of a course.
#[derive(Default)]
pub(super) struct Report {
    rounds: Vec<Round>,
    /// Only of a soak.
    usage: Vec<Sample>,
}

pub async fn drill(
    command: DrillCommand,
    config: Option<PathBuf>,
    token_file: Option<PathBuf>,
) -> Result<Exit, Failure> {
    match command {
        DrillCommand::List => {
            for d in Drill::ALL {
                sayln!("{:<18} {}\n{:<18} {}", d.name(), d.describe(), "", d.promises());
            }
            sayln!("{:<18} {}\n{:<18} {}", mutual::NAME, mutual::DESCRIBES, "", mutual::PROMISES);
            Ok(Exit::Ok)
        }
        DrillCommand::Run { drill, rounds, sandbox, staging } => {
            let (drills, output) = ([(drill, rounds)], sandbox.output);
            let plan = Plan::Drills(&drills);
            let report = match staging.staging {
                true => staging::run(config, token_file, &staging, plan, (sandbox.writers, output)).await?,
                false => on_sandbox(&sandbox, drill == Drill::DiskFull, Course::Plan(plan)).await?,
            };
            Ok(print(&report, output))
        }
        DrillCommand::Random { seed, minutes, network, output, dir, engine, staging } => {
            let plan = Plan::Random { seed, minutes };
            let args = SandboxArgs { network, output, dir, engine, ..plain() };
            let report = match staging.staging {
                true => staging::run(config, token_file, &staging, plan, (args.writers, output)).await?,
                false => on_sandbox(&args, true, Course::Plan(plan)).await?,
            };
            Ok(print(&report, output))
        }
        DrillCommand::Mutual { rounds, partner, partner_programs, sandbox } => {
            let partner = Partner { engine: partner.engine(), programs: partner_programs };
            let course = Course::Mutual { rounds, partner };
            Ok(print(&on_sandbox(&sandbox, false, course).await?, sandbox.output))
        }
        DrillCommand::Strike(args) => staging::strike(config, token_file, args).await,
        DrillCommand::Soak { minutes, every, output, dir, engine } => {
            let args = SandboxArgs { output, dir, engine, ..plain() };
            let course = Course::Soak { periods: (minutes * 60).div_ceil(every), every };
            Ok(print(&on_sandbox(&args, false, course).await?, output))
        }
        DrillCommand::Demo => {
            sayln!(
                "Three MariaDB servers under Holdfast on loopback, four clients writing through the proxies.\n"
            );
            let plan = [(Drill::KillEngine, 1), (Drill::Switchover, 1)];
            let rounds = on_sandbox(&plain(), false, Course::Plan(Plan::Drills(&plan))).await?.rounds;
            sayln!();
            for r in &rounds {
                demo_round(r);
            }
            Ok(verdict(&rounds))
        }
    }
}

/// As `holdfast dev` does it.
fn plain() -> SandboxArgs {
    SandboxArgs {
        durability: Durability::Sync,
        writers: 4,
        network: Network::Loopback,
        witnesses: 0,
        output: Output::Table,
        dir: None,
        engine: EngineArgs { engine: Flavour::Mariadb, programs: None },
    }
}

fn verdict(rounds: &[Round]) -> Exit {
    if rounds.iter().all(|r| r.broken.is_empty()) { Exit::Ok } else { Exit::PromiseBroken }
}

/// Runs drills on a fresh sandbox, stops it, and removes its directory unless the user named it.
async fn on_sandbox(args: &SandboxArgs, disks: bool, course: Course<'_>) -> Result<Report, Failure> {
    let temporary = std::env::temp_dir().join(format!("holdfast-drill-{}", std::process::id()));
    let dir = args.dir.clone().unwrap_or(temporary);
    let network = match args.network {
        Network::Loopback => sandbox::Network::Loopback(None),
        Network::Auto if !ground::available().await => sandbox::Network::Loopback(None),
        Network::Auto | Network::Namespaces => sandbox::Network::Namespaces,
    };
    let exe = std::env::current_exe().into_diagnostic().wrap_err("could not find this program's own file")?;
    let partner = match &course {
        Course::Mutual { partner, .. } => Some(partner.clone()),
        Course::Plan(_) | Course::Soak { .. } => None,
    };
    let (members, witnesses) =
        if partner.is_some() { (2, args.witnesses.max(1)) } else { (3, args.witnesses) };
    let mut service_lines = format!("cool_down_s = {COOL_DOWN_S}");
    if partner.is_some() {
        let _ = write!(service_lines, "\nhand_back_after_s = {HAND_BACK_AFTER_S}");
    }
    let options = Options {
        partner,
        durability: crate::dev::durability(args.durability).to_string(),
        network,
        engine: args.engine.engine(),
        programs: args.engine.programs.clone(),
        app: true,
        witnesses,
        service_lines,
        disk_mib: disks.then_some(DISK_MIB),
        engine_lines: match course {
            Course::Soak { .. } if args.engine.engine().family() == Family::MySql => SOAK_BINLOGS.into(),
            _ => String::new(),
        },
        ..Options::new(exe, &dir, members)
    };
    let mut sandbox = Sandbox::start(options).await.map_err(|e| failed(e, "starting the sandbox"))?;
    let outcome = tokio::select! {
        outcome = rounds(&mut sandbox, course, args) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed(miette::miette!("interrupted; the sandbox was stopped"))),
    };
    let stopped = sandbox.stop().await.map_err(|e| failed(e, "stopping the sandbox"));
    if outcome.is_err() {
        eprintln!("The sandbox's files are kept for a look: {}", dir.display());
    } else if args.dir.is_none() {
        let _ = std::fs::remove_dir_all(&dir);
    }
    let report = outcome?;
    stopped?;
    Ok(report)
}

/// What to break, on a sandbox or on somebody's own deployment.
#[derive(Clone, Copy)]
pub(super) enum Plan<'a> {
    Drills(&'a [(Drill, u32)]),
    Random { seed: u64, minutes: u64 },
}

/// What to do on a sandbox.
enum Course<'a> {
    Plan(Plan<'a>),
    Soak { periods: u64, every: u64 },
    Mutual { rounds: u32, partner: Partner },
}

async fn rounds(sandbox: &mut Sandbox, course: Course<'_>, args: &SandboxArgs) -> Result<Report, Failure> {
    sandbox.wait_healthy(START).await.map_err(|e| failed(e, "waiting for the sandbox"))?;
    let talks = args.output == Output::Table;
    match course {
        Course::Plan(plan) => carry_out(sandbox, plan, args.writers, talks).await,
        Course::Soak { periods, every } => long_life(sandbox, periods, every, talks).await,
        Course::Mutual { rounds, .. } => mutual_rounds(sandbox, rounds, args.writers, talks).await,
    }
}

/// Runs a plan on a healthy deployment.
pub(super) async fn carry_out<D: Deployment>(
    deployment: &mut D,
    plan: Plan<'_>,
    writers: u8,
    talks: bool,
) -> Result<Report, Failure> {
    let rounds = match plan {
        Plan::Drills(drills) => drill_rounds(deployment, drills, writers, talks).await?,
        Plan::Random { seed, minutes } => incidents(deployment, seed, minutes, talks).await?,
    };
    Ok(Report { rounds, ..Report::default() })
}

async fn long_life(sandbox: &mut Sandbox, periods: u64, every: u64, talks: bool) -> Result<Report, Failure> {
    let mut report = Report::default();
    for number in 1..=periods {
        let round = soak::period(sandbox, number, Duration::from_secs(every)).await;
        let round = round.map_err(|e| failed(e, &format!("period {number}")))?;
        let usage = soak::sample(sandbox).map_err(|e| failed(e, "looking at what is used"))?;
        if talks {
            let resident: Vec<String> =
                usage.iter().map(|u| format!("{} MiB", u.resident_kib >> 10)).collect();
            let broken = round.broken.join("; ");
            sayln!(
                "{number}/{periods}: acknowledged {}, lost {}, {} {broken}",
                round.acked,
                round.lost,
                resident.join(" ")
            );
        }
        report.rounds.push(round);
        report.usage.push(usage);
    }
    Ok(report)
}

async fn mutual_rounds(
    sandbox: &mut Sandbox,
    rounds: u32,
    writers: u8,
    talks: bool,
) -> Result<Report, Failure> {
    let mut report = Report::default();
    for number in 1..=rounds {
        let all = mutual::round(sandbox, number.into(), writers).await.map_err(|e| drilled(e, "drilling"))?;
        for r in all.iter().filter(|_| talks) {
            let service = r.service.as_deref().unwrap_or_default();
            let (outage, lost) = (r.outage_ms, r.lost);
            sayln!("{number}/{rounds}: {}: {service}: outage {outage} ms, lost {lost}", r.faults.join(", "));
        }
        report.rounds.extend(all);
    }
    Ok(report)
}

async fn drill_rounds<D: Deployment>(
    deployment: &mut D,
    plan: &[(Drill, u32)],
    writers: u8,
    talks: bool,
) -> Result<Vec<Round>, Failure> {
    let mut all = Vec::new();
    for (drill, count) in plan {
        for number in 1..=*count {
            let id = all.len() as u64 + 1;
            if talks && drill.waits_for_cool_down() {
                say_cooling_down(deployment).await;
            }
            let round = drills::round(deployment, *drill, id, writers).await;
            let round = round.map_err(|e| drilled(e, "drilling"))?;
            if talks {
                let (outage, lost) = (round.outage_ms, round.lost);
                sayln!("{} {number}/{count}: outage {outage} ms, lost {lost}", drill.name());
            }
            all.push(round);
        }
    }
    Ok(all)
}

async fn incidents<D: Deployment>(
    deployment: &mut D,
    seed: u64,
    minutes: u64,
    talks: bool,
) -> Result<Vec<Round>, Failure> {
    let end = tokio::time::Instant::now() + Duration::from_secs(minutes * 60);
    let members = deployment.site().members().count();
    let mut all = Vec::new();
    for (number, incident) in (1..).zip(random::schedule(seed, members)) {
        if tokio::time::Instant::now() > end {
            break;
        }
        if talks {
            say_cooling_down(deployment).await;
        }
        let doing = || failed_at(seed, number, &incident);
        let round = random::incident(deployment, &incident, number).await;
        let round = round.map_err(|e| drilled(e, &doing()))?;
        if talks {
            let broken = round.broken.join("; ");
            sayln!(
                "{number}: {}; outage {} ms, lost {} {broken}",
                round.faults.join(", "),
                round.outage_ms,
                round.lost
            );
        }
        all.push(round);
    }
    Ok(all)
}

/// Nothing moves for a while, and it is said why.
async fn say_cooling_down<D: Deployment>(deployment: &D) {
    let cool_down_s = deployment.site().cool_down.as_secs();
    if cool_down_s > TELLS_FROM_S && deployment.operator().cooling_down().await.is_ok_and(|c| c) {
        sayln!("waiting for the cool-down after the last failover, at most {cool_down_s} s");
    }
}

fn failed_at(seed: u64, number: u64, incident: &random::Incident) -> String {
    format!("seed {seed}, incident {number}: {incident:?}")
}

/// As [`failed`]; what the deployment refuses is refused here too.
fn drilled(e: drills::Error, doing: &str) -> Failure {
    let code = match &e {
        drills::Error::Operator(e) => staging::refusal(e),
        _ => None,
    };
    failed(e, doing).with_code(code)
}

pub(super) fn failed(e: impl std::error::Error + Send + Sync + 'static, doing: &str) -> Failure {
    Failure::failed(Err::<(), _>(e).into_diagnostic().wrap_err(doing.to_string()).expect_err("just made"))
}

fn print(report: &Report, output: Output) -> Exit {
    let Report { rounds, usage } = report;
    let grown = soak::growth(usage);
    let exit = if grown.is_empty() { verdict(rounds) } else { Exit::PromiseBroken };
    let (median, worst) = judge::outages(rounds);
    if output == Output::Json {
        let broken = rounds.iter().filter(|r| !r.broken.is_empty()).count();
        let mut value = serde_json::json!({
            "rounds": rounds, "outage_ms": { "median": median, "worst": worst }, "broken_rounds": broken,
        });
        if !usage.is_empty() {
            value["usage"] = serde_json::json!({ "samples": usage, "grown": grown });
        }
        sayln!("{}", serde_json::to_string_pretty(&value).expect("plain data"));
        return exit;
    }
    print_rounds(rounds);
    sayln!("  outage: median {median} ms, worst {worst} ms");
    for error in rounds.iter().flat_map(|r| &r.errors).collect::<BTreeSet<_>>() {
        sayln!("  a client saw: {error}");
    }
    print_usage(usage);
    for what in grown {
        sayln!("  BROKEN PROMISE: {what}");
    }
    exit
}

fn print_usage(usage: &[Sample]) {
    let (Some(first), Some(last)) = (usage.first(), usage.last()) else { return };
    let rows: Vec<Vec<String>> = first
        .iter()
        .zip(last)
        .map(|(then, now)| {
            let both = |then: u64, now: u64| format!("{then} -> {now}");
            [
                now.node.clone(),
                both(then.resident_kib, now.resident_kib),
                both(then.descriptors, now.descriptors),
                both(then.threads, now.threads),
                both(then.children, now.children),
                both(then.log_bytes >> 10, now.log_bytes >> 10),
                both(then.store_bytes >> 10, now.store_bytes >> 10),
            ]
            .to_vec()
        })
        .collect();
    let head = ["NODE", "MEMORY KiB", "DESCRIPTORS", "THREADS", "CHILDREN", "LOG KiB", "STORE KiB"];
    say!("\n{}", table(&head, &rows));
}

fn print_rounds(rounds: &[Round]) {
    let rows: Vec<Vec<String>> = rounds
        .iter()
        .map(|r| {
            let reported = r.reported_lost.map_or("-".to_string(), |n| n.to_string());
            let drill = r.service.as_ref().map_or(r.drill.to_string(), |s| format!("{}: {s}", r.drill));
            [
                drill,
                format!("{} -> {}", r.from, r.to),
                r.outage_ms.to_string(),
                r.acked.to_string(),
                r.lost.to_string(),
                reported,
                r.unknown.to_string(),
                r.client_errors.to_string(),
                r.dual_writes.to_string(),
                r.broken.join("; "),
            ]
            .to_vec()
        })
        .collect();
    let head =
        ["DRILL", "PRIMARY", "OUTAGE ms", "ACKED", "LOST", "REPORTED", "UNKNOWN", "ERRORS", "DUAL", "BROKEN"];
    say!("\n{}", table(&head, &rows));
}

fn demo_round(r: &Round) {
    let what = match r.drill {
        "kill-engine" => format!("SIGKILL to the primary on {}; {} took over", r.from, r.to),
        other => format!("Planned {other} from {} to {}", r.from, r.to),
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
