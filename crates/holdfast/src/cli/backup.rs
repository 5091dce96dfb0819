//! `holdfast backup`, `restore` and `repo`.

use super::args::Output;
use super::backup_args::{BackupCommand, RepoCommand, RepositoryArgs, RestoreArgs};
use super::client::Api;
use super::exit::{Exit, Failure};
use super::{backup_output as show, output};
use crate::api::people::ServiceStatus;
use crate::archive::history::Target;
use crate::archive::{self, plan};
use crate::backup::{self, Error, cold, hot, restore, verify};
use crate::clock::{Clock, unix_ms};
use crate::config::Config;
use crate::config::repository::{KeySource, Location, Place};
use crate::sayln;
use holdfast_backup::{BackupId, Progress, Proof, Prune, Repository, RepositoryKey, Retention, Run, Summary};
use holdfast_core::topology::Engine;
use miette::{IntoDiagnostic, miette};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        use holdfast_backup::Error as Repo;
        let refused = matches!(
            &e,
            Error::Refused(_)
                | Error::History(_)
                | Error::Key(_)
                | Error::Repository(
                    Repo::Occupied(_)
                        | Repo::MountPoint(_)
                        | Repo::StagingHeld(_)
                        | Repo::NotEmpty(_)
                        | Repo::NoRoom { .. }
                        | Repo::PruneUnderWay(_)
                        | Repo::Unsure(_)
                        | Repo::WrongKey { .. }
                        | Repo::BeingRemoved(_)
                        | Repo::LastUnclear { .. }
                )
        );
        let report = Err::<(), _>(e).into_diagnostic().expect_err("it is an error");
        if refused { Failure::refused(report) } else { Failure::failed(report) }
    }
}

/// What the topology file and the arguments say together.
struct Given {
    config: Option<Config>,
    place: Place,
}

impl Given {
    /// The topology file is not needed where the arguments say everything.
    fn find(config: Option<&Path>, args: &RepositoryArgs) -> Result<Given, Failure> {
        let key = match (&args.key_file, args.unencrypted) {
            (Some(path), _) => Some(KeySource::File(path.clone())),
            (None, true) => Some(KeySource::Unencrypted),
            (None, false) => None,
        };
        // A file that is there and has mistakes is never passed over: its rules would be missed in silence.
        let unneeded = config.is_none() && args.repository.is_some() && super::no_default_config();
        let config = if unneeded { None } else { Some(super::load(config)?.0) };
        let listed = config.as_ref().and_then(|c| c.repository.clone());
        let named = args.repository.as_deref().map(Location::parse).transpose();
        let named = named.map_err(|why| Failure::refused(miette!("{why}")))?;
        // The key of the topology's repository, and how it is reached, are not those of another one.
        let listed = listed.filter(|p| named.as_ref().is_none_or(|at| at.is(&p.at)));
        let at = listed.as_ref().map(|p| p.at.clone()).or(named);
        let help = "add a [repository] section to the topology file, or pass --repository";
        let at = at.ok_or_else(|| Failure::refused(miette!(help = help, "no repository is named")))?;
        let key = key.or_else(|| listed.map(|p| p.key));
        let help = "pass --key-file with a key that `holdfast repo key` made, or --unencrypted if whoever can read the \
                    repository may read the data";
        let key =
            key.ok_or_else(|| Failure::refused(miette!(help = help, "no key is given for the repository")))?;
        Ok(Given { config, place: Place { at, key, archive: false } })
    }

    async fn key(&self) -> Result<RepositoryKey, Failure> {
        Ok(backup::key::resolve(&self.place.key).await.map_err(Error::from)?)
    }

    async fn open(&self) -> Result<Repository, Failure> {
        Ok(backup::open(&self.place.at, self.key().await?).await?)
    }

    /// Refuses where the program that copies a running server does not know the engine.
    fn can_copy_hot(&self, service: &str) -> Result<(), Failure> {
        let services = self.config.iter().flat_map(|c| &c.topology.services);
        let named = services.into_iter().find(|s| s.name.as_str() == service);
        if let Some(other) = named.filter(|s| s.engine != Engine::MariaDb) {
            let engine = other.engine.word();
            return Err(Failure::refused(miette!(
                help = "`holdfast backup cold` copies a stopped member",
                "{service} is {engine}, and hot backups are MariaDB's only so far; nothing was done"
            )));
        }
        Ok(())
    }

    /// The named service, or the only one there is.
    fn service(&self, name: Option<String>) -> Result<String, Failure> {
        let services = self.config.iter().flat_map(|c| &c.topology.services);
        let names: Vec<&str> = services.map(|s| s.name.as_str()).collect();
        match (name, names.as_slice()) {
            (Some(name), _) => Ok(name),
            (None, [only]) => Ok((*only).to_owned()),
            (None, _) => Err(Failure::refused(miette!("name a service"))),
        }
    }
}

pub async fn backup(
    config: Option<&Path>,
    token: Option<&Path>,
    command: BackupCommand,
) -> Result<Exit, Failure> {
    match command {
        BackupCommand::Now { service, socket, from, full, count, repository } => {
            let given = Given::find(config, &repository)?;
            let service = given.service(service)?;
            given.can_copy_hot(&service)?;
            let (socket, origin) = match socket {
                Some(socket) => (socket, "this host".to_owned()),
                None => member(&given, config, token, &service, from.as_deref()).await?,
            };
            let repository_path = given.place.at.directory().map(Path::to_owned);
            let hot = hot::Hot { service, socket, origin, full, count, repository_path };
            now(&given.open().await?, hot).await
        }
        BackupCommand::Cold { dir, service, stop, start, full, even_if_open, outside_links, repository } => {
            let given = Given::find(config, &repository)?;
            let origin = dir.display().to_string();
            let repository_path = given.place.at.directory().map(Path::to_owned);
            let cold = cold::Cold {
                dir,
                service,
                origin,
                stop,
                start,
                full,
                even_if_open,
                outside_links,
                repository_path,
            };
            let (repository, progress, clock) = (given.open().await?, Arc::default(), Clock::start());
            let made =
                show::watched(Arc::clone(&progress), cold::backup(&repository, cold, progress)).await?;
            show::made(&made, clock.now().0);
            Ok(Exit::Ok)
        }
        BackupCommand::Schedule { service, output } => schedule(config, token, service, output).await,
        BackupCommand::List { service, output, repository } => {
            let given = Given::find(config, &repository)?;
            list(given.open().await?, service, output).await
        }
        BackupCommand::Show { service, id, output, repository } => {
            let given = Given::find(config, &repository)?;
            let service = given.service(service)?;
            one(given.open().await?, service, id, output).await
        }
        BackupCommand::Verify { service, id, scratch, output, repository } => {
            let given = Given::find(config, &repository)?;
            let service = given.service(service)?;
            let repository = given.open().await?;
            let id = wanted(&repository, &service, id).await?.id;
            let scratch = scratch.unwrap_or_else(std::env::temp_dir);
            prove(&repository, verify::Verify { service, id, scratch }, output).await
        }
        command @ BackupCommand::Prune { .. } => prune(config, command).await,
    }
}

async fn now(repository: &Repository, hot: hot::Hot) -> Result<Exit, Failure> {
    let (progress, clock) = (Arc::<Progress>::default(), Clock::start());
    let made = show::watched(progress.clone(), hot::backup(repository, hot, progress)).await?;
    show::made(&made.summary, clock.now().0);
    if let Some(note) = made.note {
        sayln!("  {note}");
    }
    Ok(Exit::Ok)
}

/// Socket and name of the member to take a backup from. It must be on this host: the files are read here.
async fn member(
    given: &Given,
    config: Option<&Path>,
    token: Option<&Path>,
    service: &str,
    from: Option<&str>,
) -> Result<(PathBuf, String), Failure> {
    let topology = given.config.as_ref().map(|c| &c.topology);
    let named = topology.and_then(|t| t.services.iter().find(|s| s.name.as_str() == service));
    let help = "name a service of the topology file, or pass --socket";
    let spec =
        named.ok_or_else(|| Failure::refused(miette!(help = help, "there is no service {service:?}")))?;
    let node = match from {
        Some(node) => node.to_owned(),
        None => {
            let status = Api::open(config, token)?.service(Some(service)).await?;
            let fittest = backup::choose::fittest(&status).map(|m| m.node.clone());
            fittest.ok_or_else(|| Failure::refused(miette!("no member of {service} runs")))?
        }
    };
    let found = topology.and_then(|t| t.nodes.iter().find(|n| n.name.as_str() == node));
    let host = found.ok_or_else(|| Failure::refused(miette!("there is no node {node:?}")))?;
    let socket = backup::socket_of(&host.data_dir, spec);
    if !socket.exists() {
        let help = format!("run this on {node}, or name a member of this host with --from");
        return Err(Failure::refused(miette!(
            help = help,
            "{node} is to be backed up, and its engine is not here"
        )));
    }
    Ok((socket, node))
}

fn parse_id(text: &str) -> Result<BackupId, Failure> {
    let help = "`holdfast backup list` shows them";
    BackupId::parse(text)
        .ok_or_else(|| Failure::refused(miette!(help = help, "{text:?} is not the id of a backup")))
}

/// The named backup, or the last.
async fn wanted(repository: &Repository, service: &str, id: Option<String>) -> Result<Summary, Failure> {
    let parsed = id.map(|text| parse_id(&text)).transpose()?;
    let (repository, service) = (repository.clone(), service.to_owned());
    let find = move || match parsed {
        Some(id) => Ok(repository.summary(&service, &id)?),
        None => Ok(repository.latest(&service)?),
    };
    Ok(backup::blocking(find).await?)
}

async fn schedule(
    config: Option<&Path>,
    token: Option<&Path>,
    service: Option<String>,
    output: Output,
) -> Result<Exit, Failure> {
    let status = Api::open(config, token)?.status().await?;
    let wanted = |s: &&ServiceStatus| service.as_ref().is_none_or(|name| *name == s.service);
    let found: Vec<&ServiceStatus> = status.services.iter().filter(wanted).collect();
    if let Some(name) = service.as_ref().filter(|_| found.is_empty()) {
        return Err(Failure::refused(miette!("there is no service {name:?}")));
    }
    match output {
        Output::Json => {
            let rows: BTreeMap<&String, _> = found.iter().map(|s| (&s.service, &s.backup)).collect();
            output::json(&rows);
        }
        Output::Table => {
            for s in &found {
                let says = s.backup.as_ref().map_or("not scheduled".into(), output::backup_text);
                sayln!("{}: {says}", s.service);
                if let Some(why) = s.backup.as_ref().and_then(|b| b.failed.as_ref()) {
                    sayln!("  the last one failed: {why}");
                }
            }
        }
    }
    let failed = found.iter().any(|s| s.backup.as_ref().is_some_and(|b| b.failed.is_some()));
    Ok(if failed { Exit::Attention } else { Exit::Ok })
}

async fn list(repository: Repository, service: Option<String>, output: Output) -> Result<Exit, Failure> {
    let (listing, proofs, logs) = backup::blocking(move || {
        let mut listing = repository.list(service.as_deref())?;
        let mut proofs: BTreeMap<String, Vec<Proof>> = BTreeMap::new();
        let mut services: Vec<&String> = listing.backups.iter().map(|b| &b.service).collect();
        services.dedup();
        let mut unreadable = Vec::new();
        for service in services {
            let of = repository.proofs(service)?;
            proofs.extend(of.found.into_iter().map(|(id, p)| (id.into(), p)));
            unreadable.extend(of.unreadable);
        }
        listing.unreadable.extend(unreadable);
        let mut logs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
        for name in service.map_or_else(|| repository.logged_services(), |s| Ok(BTreeSet::from([s])))? {
            match repository.runs(&name) {
                Ok(runs) => _ = logs.insert(name, runs),
                Err(e) => listing.unreadable.push((format!("the kept log of {name}"), e)),
            }
        }
        Ok((listing, proofs, logs))
    })
    .await?;
    match output {
        Output::Table => show::listing(&listing, &proofs, &logs),
        Output::Json => {
            let row = |b: &Summary| {
                let proofs = proofs.get(b.id.as_str()).map_or(&[][..], Vec::as_slice);
                serde_json::json!({ "backup": b, "proofs": proofs })
            };
            let unreadable: Vec<&String> = listing.unreadable.iter().map(|(name, _)| name).collect();
            let rows: Vec<serde_json::Value> = listing.backups.iter().map(row).collect();
            let run = |r: &Run| {
                serde_json::json!({ "first": r.first, "last": r.last, "seen_unix_ms": r.seen_unix_ms,
                    "stored_bytes": r.stored_bytes })
            };
            let logs: BTreeMap<&String, Vec<_>> =
                logs.iter().map(|(service, runs)| (service, runs.iter().map(run).collect())).collect();
            output::json(&serde_json::json!({ "backups": rows, "logs": logs, "unreadable": unreadable }));
        }
    }
    Ok(if listing.unreadable.is_empty() { Exit::Ok } else { Exit::Attention })
}

async fn one(
    repository: Repository,
    service: String,
    id: Option<String>,
    output: Output,
) -> Result<Exit, Failure> {
    let summary = wanted(&repository, &service, id).await?;
    let mut proofs = backup::blocking(move || Ok(repository.proofs(&service)?)).await?;
    let of = format!("/{}/", summary.id);
    proofs.unreadable.retain(|(name, _)| name.contains(&of));
    match output {
        Output::Table => {
            show::shown(&summary, proofs.of(&summary.id));
            show::unreadable(&proofs.unreadable);
        }
        Output::Json => {
            let unreadable: Vec<&String> = proofs.unreadable.iter().map(|(name, _)| name).collect();
            let proofs = proofs.of(&summary.id);
            output::json(
                &serde_json::json!({ "backup": summary, "proofs": proofs, "unreadable": unreadable }),
            );
        }
    }
    Ok(if proofs.unreadable.is_empty() { Exit::Ok } else { Exit::Attention })
}

async fn prove(repository: &Repository, what: verify::Verify, output: Output) -> Result<Exit, Failure> {
    let progress = Arc::<Progress>::default();
    let proof = show::watched(progress.clone(), verify::verify(repository, what, progress)).await?;
    match output {
        Output::Table => {
            sayln!("{} {}", proof.service, proof.id);
            show::proved(&proof);
        }
        Output::Json => output::json(&proof),
    }
    Ok(if proof.good { Exit::Ok } else { Exit::PromiseBroken })
}

async fn prune(config: Option<&Path>, command: BackupCommand) -> Result<Exit, Failure> {
    let BackupCommand::Prune {
        service,
        keep_last,
        keep_daily,
        keep_weekly,
        keep_monthly,
        keep_days,
        dry_run,
        take_over,
        repository,
    } = command
    else {
        return Ok(Exit::Ok);
    };
    let given = Given::find(config, &repository)?;
    let said = [keep_last, keep_daily, keep_weekly, keep_monthly, keep_days];
    let rules = match &given.config {
        // Who gives one rule on the command line gives them all.
        _ if said.iter().any(Option::is_some) => {
            let [last, daily, weekly, monthly, within_days] = said.map(Option::unwrap_or_default);
            Retention { last, daily, weekly, monthly, within_days }
        }
        Some(config) => config.retention,
        None => {
            let help =
                "pass --keep-last, --keep-daily or another --keep rule, or a topology file with --config";
            return Err(Failure::refused(miette!(
                help = help,
                "no rule says what to keep; nothing was removed"
            )));
        }
    };
    let repository = given.open().await?;
    let pruned = backup::blocking(move || {
        let all = repository.list(None)?.backups.into_iter().map(|b| b.service);
        let services: Vec<String> = service.map_or_else(|| all.collect(), |s| vec![s]);
        let retention = services.into_iter().map(|s| (s, rules)).collect();
        Ok(repository.prune(&Prune { retention, now_unix_ms: unix_ms(), dry_run, take_over })?)
    })
    .await?;
    show::pruned(&pruned, dry_run);
    Ok(Exit::Ok)
}

pub async fn restore(config: Option<&Path>, args: RestoreArgs) -> Result<Exit, Failure> {
    let given = Given::find(config, &args.repository)?;
    let service = given.service(args.service)?;
    let repository = given.open().await?;
    let target = target(args.at.as_deref(), args.before.as_deref())?;
    let (summary, forward) = match target {
        None => (wanted(&repository, &service, args.id).await?, None),
        Some(target) => {
            let (from, name) = (repository.clone(), service.clone());
            let id = args.id.map(|text| parse_id(&text)).transpose()?;
            let plan = backup::blocking(move || plan::plan(&from, &name, id.as_ref(), &target)).await?;
            (plan.backup, Some(restore::Forward { walk: plan.walk, version: plan.version }))
        }
    };
    let what =
        restore::Restore { service, id: summary.id.clone(), to: args.to, raw: args.raw, owner: args.owner };
    let (progress, clock, to) = (Arc::<Progress>::default(), Clock::start(), what.to.clone());
    let restoring = restore::restore(&repository, what, forward, progress.clone());
    let walked = show::watched(progress, restoring).await?;
    let took = clock.now().0 as f64 / 1e3;
    sayln!("{}: {} restored to {} in {took:.1} s", summary.id, show::size(summary.raw_bytes), to.display());
    show::stands(&summary, walked.as_ref());
    Ok(Exit::Ok)
}

/// How far to go on from a backup.
fn target(at: Option<&str>, before: Option<&str>) -> Result<Option<Target>, Failure> {
    let found = match (at, before) {
        (None, None) => return Ok(None),
        (Some(text), _) => plan::target(text),
        (None, Some(text)) => plan::transaction(text).map(Target::Before),
    };
    let help = "a moment names its zone, as in 2026-11-26T14:30:00.5Z or 2026-11-26T15:30:00+01:00; a transaction is \
                domain-server-sequence, as in 0-1-1000";
    found.map(Some).ok_or_else(|| {
        let text = at.or(before).unwrap_or_default();
        Failure::refused(miette!(
            help = help,
            "{text:?} is neither a moment nor a transaction; nothing was done"
        ))
    })
}

pub async fn repo(config: Option<&Path>, command: RepoCommand) -> Result<Exit, Failure> {
    match command {
        RepoCommand::Key => {
            sayln!("{}", RepositoryKey::generate().to_text());
            Ok(Exit::Ok)
        }
        RepoCommand::Init { repository } => {
            let given = Given::find(config, &repository)?;
            let key = given.key().await?;
            let plain = key.is_plain();
            let made = backup::create(&given.place.at, key).await?;
            sayln!("{} is a repository now.", made.location());
            if plain {
                sayln!("It is not encrypted: whoever can read it can read the data.");
            } else {
                sayln!("Keep the key where the repository is not: without it nothing can be restored.");
            }
            Ok(Exit::Ok)
        }
        RepoCommand::Check { repository } => {
            let repository = Given::find(config, &repository)?.open().await?;
            let progress = Arc::<Progress>::default();
            let at = progress.clone();
            let check = backup::blocking(move || Ok(repository.check(backup::threads(), &at)?));
            let checked = show::watched(progress, check).await?;
            show::checked(&checked);
            Ok(if checked.findings.is_empty() { Exit::Ok } else { Exit::PromiseBroken })
        }
        RepoCommand::Export { service, to, all, repository } => {
            export(Given::find(config, &repository)?.open().await?, service, &to, all).await
        }
    }
}

/// Each run of a kept log becomes a file that the engine's own program reads.
async fn export_logs(repository: &Repository, to: &Path, of: Option<String>) -> Result<(), Failure> {
    let (repository, to) = (repository.clone(), to.to_owned());
    let written = backup::blocking(move || {
        let mut written = Vec::new();
        let services = of.map_or_else(|| repository.logged_services(), |s| Ok(BTreeSet::from([s])))?;
        for service in services {
            for run in repository.runs(&service)? {
                let path = to.join(&service).join(format!("{}.binlog", run.first.run));
                archive::walk::export(&repository, &service, &run, &path)?;
                written.push(path);
            }
        }
        Ok(written)
    });
    written.await?.iter().for_each(|path| sayln!("{}", path.display()));
    Ok(())
}

/// Plain files, and beside each backup its description: what is left when Holdfast is gone.
async fn export(
    repository: Repository,
    service: Option<String>,
    to: &Path,
    all: bool,
) -> Result<Exit, Failure> {
    let (from, of) = (repository.clone(), service.clone());
    let listing = backup::blocking(move || Ok(from.list(of.as_deref())?)).await?;
    let mut backups = listing.backups;
    if !all {
        let last: BTreeMap<String, Summary> = backups.into_iter().map(|b| (b.service.clone(), b)).collect();
        backups = last.into_values().collect();
    }
    export_logs(&repository, to, service).await?;
    for summary in backups {
        let dir = to.join(&summary.service).join(summary.id.as_str());
        let (service, id) = (summary.service.clone(), summary.id.clone());
        let what = restore::Restore { service, id, to: dir.clone(), raw: true, owner: None };
        let progress = Arc::<Progress>::default();
        show::watched(progress.clone(), restore::restore(&repository, what, None, progress)).await?;
        let text = serde_json::to_string_pretty(&summary).expect("plain data");
        let beside = dir.with_extension("json");
        std::fs::write(&beside, text).into_diagnostic()?;
        sayln!("{}", dir.display());
    }
    // Also without --all: one of them may be the last of its service.
    show::unreadable(&listing.unreadable);
    Ok(if listing.unreadable.is_empty() { Exit::Ok } else { Exit::Attention })
}
