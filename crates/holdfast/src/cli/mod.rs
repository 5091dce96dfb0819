//! The command line: arguments in, tables and exit codes out. What it knows of the deployment it asks the API.

pub mod args;
mod backup;
mod backup_args;
mod backup_output;
mod client;
mod drill;
mod exit;
mod output;
mod staging;
mod upgrade;
mod wishes;

pub use args::{Cli, Command, DevArgs};
pub use exit::{Exit, Failure};

use crate::api::people::UpgradeRequest;
use crate::config::{self, Config};
use crate::{say, sayln};
use client::Api;
use std::path::{Path, PathBuf};

/// Carries out a parsed command line.
pub async fn execute(cli: Cli) -> Result<Exit, Failure> {
    let api = || Api::open(cli.config.as_deref(), cli.token_file.as_deref());
    match cli.command {
        Command::Run { node } => {
            crate::run::run(&load(cli.config.as_deref())?.0, &node).await.map_err(Failure::from)
        }
        Command::Dev(args) => crate::dev::dev(args).await.map_err(Failure::from),
        Command::Status { watch, output } => output::status(&api()?, watch, output).await,
        Command::History { service, output } => output::history(&api()?, service.as_deref(), output).await,
        Command::Explain { service, output } => output::explain(&api()?, service.as_deref(), output).await,
        Command::Switchover { service, to, home } => {
            wishes::switchover(&api()?, service.as_deref(), to, home).await
        }
        Command::Failover { service, to, accept_loss } => {
            wishes::failover(&api()?, service.as_deref(), to, accept_loss).await
        }
        Command::Pause { service } => wishes::simple(&api()?, service.as_deref(), "pause", &()).await,
        Command::Resume { service } => wishes::simple(&api()?, service.as_deref(), "resume", &()).await,
        Command::Reinit { node, service } => wishes::reinit(&api()?, service.as_deref(), node).await,
        Command::Upgrade { service, dry_run, replicas_only, accept_no_standby, stop } => {
            if stop {
                return wishes::simple(&api()?, service.as_deref(), "upgrade/stop", &()).await;
            }
            let wish = UpgradeRequest { replicas_only, accept_no_standby };
            upgrade::upgrade(&api()?, service.as_deref(), &wish, dry_run).await
        }
        Command::Backup(command) => {
            backup::backup(cli.config.as_deref(), cli.token_file.as_deref(), command).await
        }
        Command::Restore(args) => backup::restore(cli.config.as_deref(), args).await,
        Command::Repo(command) => backup::repo(cli.config.as_deref(), command).await,
        Command::Config(args::ConfigCommand::Check { file }) => {
            let path = file.or(cli.config).unwrap_or_else(default_config);
            let (config, path) = load(Some(&path))?;
            let (nodes, services) = (config.topology.nodes.len(), config.topology.services.len());
            if config.warnings.findings.is_empty() {
                sayln!("{}: no mistakes. Nodes: {nodes}. Services: {services}.", path.display());
            } else {
                say!("{}", config.warnings.render(false, exit::TEXT_COLUMNS));
            }
            Ok(Exit::Ok)
        }
        Command::Config(args::ConfigCommand::Schema) => {
            sayln!("{}", config::document::json_schema());
            Ok(Exit::Ok)
        }
        Command::Init { dir, renew } => {
            let (config, _) = load(cli.config.as_deref())?;
            output::init(&config, dir, renew)
        }
        Command::Drill(args) => drill::drill(args, cli.config, cli.token_file).await,
        Command::Breaker => match crate::faults::breaker::run().await {
            Ok(()) => Ok(Exit::Ok),
            Err(why) => Err(Failure::failed(miette::miette!("the breaker: {why}"))),
        },
        Command::Completions { shell } => {
            args::completions(shell);
            Ok(Exit::Ok)
        }
    }
}

/// `./holdfast.toml` if it exists, else `/etc/holdfast/holdfast.toml`.
fn default_config() -> PathBuf {
    let here = PathBuf::from("holdfast.toml");
    if here.exists() { here } else { PathBuf::from("/etc/holdfast/holdfast.toml") }
}

/// Whether there is no topology file where one is looked for. What cannot be looked at may be there.
fn no_default_config() -> bool {
    let looked = std::fs::symlink_metadata(default_config());
    looked.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

fn load(path: Option<&Path>) -> Result<(Config, PathBuf), Failure> {
    let path = path.map_or_else(default_config, Path::to_path_buf);
    let config = config::load(&path).map_err(|report| Failure::config(&report))?;
    // Only `config check` shows warnings by itself: a script's every command would repeat them.
    Ok((config, path))
}
