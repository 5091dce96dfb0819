//! `holdfast dev`: a sandbox on loopback until Ctrl-C.

use crate::cli::DevArgs;
use crate::cli::args::{Consistency, Durability, EngineArgs};
use crate::sayln;
use holdfast_core::topology::{Engine, Family};
use holdfast_drill::deployment::Deployment as _;
use holdfast_drill::ledger::Account;
use holdfast_drill::sandbox::{Network, Options, SERVICE, Sandbox};
use miette::{IntoDiagnostic, Report, WrapErr};
use std::net::SocketAddr;
use std::time::Duration;

/// The word of the topology file.
pub fn durability(d: Durability) -> &'static str {
    match d {
        Durability::Sync => "sync",
        Durability::Async => "async",
    }
}

fn consistency(c: Consistency) -> &'static str {
    match c {
        Consistency::Strong => "strong",
        Consistency::Session => "session",
        Consistency::Eventual => "eventual",
    }
}

/// Runs until Ctrl-C or SIGTERM.
pub async fn dev(args: DevArgs) -> Result<crate::cli::Exit, Report> {
    let exe = std::env::current_exe().into_diagnostic().wrap_err("could not find this program's own file")?;
    let mode = durability(args.durability);
    let options = Options {
        network: Network::Loopback(Some(0)),
        durability: if args.nodes == 1 { "async".into() } else { mode.into() },
        port: args.port.unwrap_or_else(|| usual_port(args.engine.engine())),
        engine: args.engine.engine(),
        sentinel: (args.engine.engine().family() == Family::Redis).then_some(SENTINEL_PORT),
        programs: args.engine.programs.clone(),
        service_lines: match args.read_consistency {
            Consistency::Strong => String::new(),
            other => format!("read_consistency = \"{}\"", consistency(other)),
        },
        ..Options::new(exe, args.dir, args.nodes)
    };
    let mut sandbox =
        Sandbox::start(options).await.into_diagnostic().wrap_err("could not start the sandbox")?;
    sayln!(
        "Starting {} {} servers under {} …",
        args.nodes,
        args.engine.engine.name(),
        sandbox.dir().display()
    );
    let outcome = tokio::select! {
        healthy = sandbox.wait_healthy(Duration::from_secs(120)) => healthy.into_diagnostic().map(|_| ()),
        () = crate::run::asked_to_stop() => return stop(sandbox).await,
    };
    if let Err(e) = outcome {
        let logs = format!("the logs are {}/*.log", sandbox.dir().display());
        stop(sandbox).await?;
        return Err(e.wrap_err(logs));
    }
    banner(&sandbox, &args.engine);
    let mut said = false;
    loop {
        tokio::select! {
            () = crate::run::asked_to_stop() => return stop(sandbox).await,
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                if let Err(e) = sandbox.check_running() && !said {
                    said = true;
                    eprintln!("{e}\nThe others go on. Ctrl-C and start `holdfast dev` again to have it back.");
                }
            }
        }
    }
}

/// Where Sentinels usually are.
const SENTINEL_PORT: u16 = 26_379;

fn usual_port(engine: Engine) -> u16 {
    match engine.family() {
        Family::MySql => 3306,
        Family::Redis => 6379,
    }
}

/// How to connect by hand.
fn connect(engine: Engine, proxy: SocketAddr, account: &Account) -> String {
    let (ip, port, user, password) = (proxy.ip(), proxy.port(), &account.user, &account.password);
    let client = match engine {
        Engine::MariaDb => "mariadb",
        Engine::MySql => "mysql",
        Engine::Redis => "redis-cli",
        Engine::Valkey => "valkey-cli",
    };
    match engine.family() {
        Family::MySql => format!("{client} -h {ip} -P {port} -u {user} -p{password} {}", account.database),
        Family::Redis => format!("{client} -h {ip} -p {port} --user {user} --pass {password}"),
    }
}

fn banner(sandbox: &Sandbox, engine: &EngineArgs) {
    let account = &sandbox.site().account;
    sayln!("Healthy. Connect through any proxy:\n");
    for proxy in sandbox.proxies() {
        sayln!("  {}", connect(engine.engine(), proxy, account));
    }
    let sentinels = sandbox.sentinels();
    if let Some(one) = sentinels.first() {
        let all: Vec<String> = sentinels.iter().map(SocketAddr::to_string).collect();
        sayln!("\nOr as a client of Sentinel, to {} (master name {SERVICE}):\n", all.join(", "));
        let (ip, port) = (one.ip(), one.port());
        sayln!("  redis-cli -h {ip} -p {port} SENTINEL get-master-addr-by-name {SERVICE}");
    }
    sayln!("\nIn another terminal:\n");
    let config = sandbox.config();
    for command in ["status --watch", "switchover", "explain", "history"] {
        sayln!("  holdfast --config {} {command}", config.display());
    }
    sayln!("\nCtrl-C stops everything; the data stays in {}.", sandbox.dir().display());
}

async fn stop(sandbox: Sandbox) -> Result<crate::cli::Exit, Report> {
    sayln!("Stopping …");
    sandbox.stop().await.into_diagnostic()?;
    Ok(crate::cli::Exit::Ok)
}
