//! `holdfast dev`: a sandbox on loopback until Ctrl-C.

use crate::cli::DevArgs;
use crate::cli::args::{Consistency, Durability, EngineArgs, Flavour};
use crate::sayln;
use holdfast_drill::drills::account;
use holdfast_drill::sandbox::{Network, Options, Sandbox};
use miette::{IntoDiagnostic, Report, WrapErr};
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
        port: args.port,
        engine: args.engine.word().into(),
        programs: args.engine.programs.clone(),
        service_lines: format!("read_consistency = \"{}\"", consistency(args.read_consistency)),
        ..Options::new(exe, args.dir, args.nodes)
    };
    let mut sandbox =
        Sandbox::start(options).await.into_diagnostic().wrap_err("could not start the sandbox")?;
    sayln!("Starting {} {} servers under {} …", args.nodes, args.engine.name(), sandbox.dir().display());
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

fn banner(sandbox: &Sandbox, engine: &EngineArgs) {
    let account = account();
    let client = match engine.engine {
        Flavour::Mariadb => "mariadb",
        Flavour::Mysql => "mysql",
    };
    sayln!("Healthy. Connect through any proxy:\n");
    for proxy in sandbox.proxies() {
        sayln!(
            "  {client} -h {} -P {} -u {} -p{} {}",
            proxy.ip(),
            proxy.port(),
            account.user,
            account.password,
            account.database
        );
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
