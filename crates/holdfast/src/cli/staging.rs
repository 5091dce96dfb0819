//! `holdfast drill run --staging`: looks at somebody's own deployment, says what will be broken where, asks, and drills it.
//! `holdfast drill strike`: what the drills themselves use to break a host.

use super::args::{Output, StagingArgs, StrikeArgs};
use super::client::Api;
use super::drill::{Plan, Report, carry_out, failed};
use super::exit::{Exit, Failure};
use super::output;
use crate::api::people::{FaultArmed, FaultRequest};
use crate::config::{Config, grants, secrets};
use crate::sayln;
use holdfast_core::topology::Family;
use holdfast_core::topology::{PasswordSource, Service};
use holdfast_drill::client::NAMES;
use holdfast_drill::deployment::{Deployment, Site};
use holdfast_drill::drills::Drill;
use holdfast_drill::fault::Fault;
use holdfast_drill::ledger::Account;
use holdfast_drill::operator::{self, Operator};
use holdfast_drill::staging::{self, Options, Staging};
use miette::{IntoDiagnostic, WrapErr, miette};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Exit codes of the commands that a drill runs, which are also its own: unreachable, refused.
pub(super) fn refusal(e: &operator::Error) -> Option<u8> {
    match e {
        operator::Error::Command { code: Some(code @ (4 | 5)), .. } => u8::try_from(*code).ok(),
        _ => None,
    }
}

impl From<staging::Error> for Failure {
    fn from(e: staging::Error) -> Failure {
        let code = match &e {
            staging::Error::Operator(e) => refusal(e),
            staging::Error::Client { .. } | staging::Error::Unfit(_) => Some(5),
        };
        failed(e, "nothing was broken").with_code(code)
    }
}

/// Breaks one host for a while.
pub(super) async fn strike(
    config: Option<PathBuf>,
    token_file: Option<PathBuf>,
    args: StrikeArgs,
) -> Result<Exit, Failure> {
    let api = Api::open(config.as_deref(), token_file.as_deref())?;
    let request = FaultRequest {
        fault: args.fault.name().into(),
        service: args.service,
        for_s: args.for_s,
        rehearsal: args.rehearse,
    };
    let armed: FaultArmed = api.post_to(&args.node, "/v1/faults", &request).await?;
    match args.output {
        Output::Json => output::json(&armed),
        Output::Table if args.rehearse => sayln!("{}: {}\nNothing was broken.", armed.node, armed.does),
        Output::Table => sayln!("{}: {}", armed.node, armed.does),
    }
    Ok(Exit::Ok)
}

/// Carries out a plan on the deployment of the topology file.
pub(super) async fn run(
    config: Option<PathBuf>,
    token_file: Option<PathBuf>,
    args: &StagingArgs,
    plan: Plan<'_>,
    (writers, output): (u8, Output),
) -> Result<Report, Failure> {
    let (file, path) = super::load(config.as_deref())?;
    if !file.drills {
        let help = "add `drills = true` to the top of the file, on every host of a deployment that may be broken, and start \
                    `holdfast run` again there; never where the data matters";
        let says = format!("{} is no staging deployment's: nothing was broken", path.display());
        return Err(Failure::refused(miette!(help = help, "{says}")));
    }
    let service = service(&file, args.service.as_deref())?;
    let account = account(service, args)?;
    let api = Api::open(Some(&path), token_file.as_deref())?;
    let mut staging = Staging::find(Options {
        operator: operator(&path, token_file.as_deref(), service)?,
        account,
        lasts: Duration::from_secs(args.for_s),
        cool_down: Duration::from_millis(service.cool_down_ms),
        rejoin: Duration::from_secs(args.rejoin_s),
        rto_ms: args.rto_ms,
    })
    .await?;
    let preview = preview(&api, &staging, service, plan, writers).await?;
    eprintln!("{preview}");
    confirm(args.yes)?;

    if let Err(e) = staging.prepare().await {
        clear(&staging).await;
        return Err(e.into());
    }
    let talks = output == Output::Table;
    let outcome = tokio::select! {
        report = carry_out(&mut staging, plan, writers, talks) => report,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed(miette!("interrupted"))),
    };
    if outcome.is_err() {
        eprintln!(
            "What is still broken heals by itself within {} s; `holdfast status` shows it.",
            args.for_s
        );
    }
    clear(&staging).await;
    outcome
}

/// Tables that could not be dropped are dropped by the next run.
async fn clear(staging: &Staging) {
    if let Err(e) = staging.clear().await {
        let (tables, database) = (NAMES.join(" and "), &staging.site().account.database);
        eprintln!("Could not drop {tables} in {database}: {}. The next drill does.", crate::agent::chain(&e));
    }
}

fn service<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c Service, Failure> {
    let services = &config.topology.services;
    let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
    let help = format!("services: {}", names.join(", "));
    let found = match (name, services.as_slice()) {
        (Some(name), all) => all.iter().find(|s| s.name.as_str() == name),
        (None, [one]) => Some(one),
        (None, _) => None,
    };
    found.ok_or_else(|| Failure::refused(miette!(help = help, "name the service to drill with --service")))
}

fn account(service: &Service, args: &StagingArgs) -> Result<Account, Failure> {
    let mut users = service.users.iter();
    let user = users.find(|u| args.user.as_deref().is_none_or(|n| u.name.as_str() == n));
    let user = user.ok_or_else(|| {
        let help = "it writes and reads the drill's tables; its grants must allow to create and drop them";
        Failure::refused(miette!(
            help = help,
            "the service {} has no such user; name one with --user",
            service.name
        ))
    })?;
    let source = args.password_file.clone().map_or_else(|| user.password.clone(), PasswordSource::File);
    let password = secrets::resolve(&source).into_diagnostic();
    let password = password
        .wrap_err_with(|| {
            format!("the password of {}; name a file that this host has with --password-file", user.name)
        })
        .map_err(Failure::refused)?;
    let granted = || user.grants.iter().find_map(|g| grants::database(g));
    let family = service.engine.family();
    let none = || (family == Family::Redis).then(String::new);
    let database = args.database.clone().or_else(granted).or_else(none).ok_or_else(|| {
        let says = format!("the grants of {} name no database", user.name);
        Failure::refused(miette!(help = "name one with --database", "{says}"))
    })?;
    Ok(Account { user: user.name.to_string(), password: password.expose().to_string(), database, family })
}

fn operator(config: &Path, token_file: Option<&Path>, service: &Service) -> Result<Operator, Failure> {
    let exe = std::env::current_exe().into_diagnostic().wrap_err("could not find this program's own file")?;
    let mut globals = vec!["--config".into(), config.into()];
    if let Some(file) = token_file {
        globals.extend(["--token-file".into(), file.into()]);
    }
    Ok(Operator { entry: Vec::new(), exe, globals, service: service.name.to_string() })
}

/// What will be broken where, as the hosts themselves say; or why it cannot be.
async fn preview(
    api: &Api,
    staging: &Staging,
    service: &Service,
    plan: Plan<'_>,
    writers: u8,
) -> Result<String, Failure> {
    let site = staging.site();
    let (mut lines, mut broken): (Vec<String>, Vec<(Fault, Vec<String>)>) = (Vec::new(), Vec::new());
    match plan {
        Plan::Drills(drills) => {
            for (drill, rounds) in drills {
                staging.suits(*drill)?;
                let times = if *rounds == 1 { "once".to_string() } else { format!("{rounds} times") };
                lines.push(format!("{} on {}, {times}: {}", drill.name(), service.name, drill.describe()));
                lines.push(format!("  promised  {}", promised(*drill, site)));
                if let Some(fault) = drill.fault() {
                    broken.push((fault, staging.victims(*drill).await?));
                }
            }
        }
        Plan::Random { seed, minutes } => {
            staging.suits_random()?;
            lines.push(format!("random faults on {} for {minutes} minutes, seed {seed}", service.name));
            let members: Vec<String> = site.members().map(|h| h.node.clone()).collect();
            broken.extend(Fault::ALL.map(|fault| (fault, members.clone())));
        }
    }
    let mut broken_on = "  may break ";
    for (fault, node) in broken.iter().flat_map(|(fault, nodes)| nodes.iter().map(move |n| (fault, n))) {
        let request = FaultRequest {
            fault: fault.name().into(),
            service: fault.hits_engine().then(|| service.name.to_string()),
            for_s: staging.lasts().as_secs(),
            rehearsal: true,
        };
        let armed: FaultArmed = api.post_to(node, "/v1/faults", &request).await?;
        lines.push(format!("{broken_on}{node}: {}", armed.does));
        broken_on = "            ";
    }
    let Account { user, database, .. } = &site.account;
    let proxies: Vec<&str> = site.hosts.iter().map(|h| h.node.as_str()).collect();
    lines.push(format!(
        "  load      {writers} clients write to {database}.{} as {user}, through the proxies of {} but for the broken one,",
        NAMES[0],
        proxies.join(", ")
    ));
    lines.push("            and others to every engine; the table is dropped afterwards".to_string());
    lines.push(format!(
        "  between   the next round waits until {} is healthy, and for its cool-down of {} s",
        service.name,
        site.cool_down.as_secs()
    ));
    Ok(lines.join("\n") + "\n")
}

/// By this drill, of this service.
fn promised(drill: Drill, site: &Site) -> String {
    let promise = drill.promise(&site.durability);
    let outage_ms = site.rto_ms.unwrap_or(promise.outage_ms);
    let errors = if promise.no_errors { ", no client error" } else { "" };
    let loss = if promise.may_lose { "all that is lost is reported" } else { "nothing is lost" };
    format!("writes are back within {outage_ms} ms{errors}; {loss}; never two primaries")
}

fn confirm(yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let help = "read what would be broken, then pass --yes";
        return Err(Failure::refused(miette!(help = help, "nobody is there to ask: nothing was broken")));
    }
    eprint!("Break it? Type yes: ");
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    match read {
        Ok(_) if line.trim() == "yes" => Ok(()),
        Ok(_) | Err(_) => Err(Failure::refused(miette!("nothing was broken"))),
    }
}
