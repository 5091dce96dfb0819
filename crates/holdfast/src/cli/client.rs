//! The CLI's way to the API: any node of the topology will do, the controller's is found from there.

use super::exit::Failure;
use crate::api::people::{Explanation, History, ServiceStatus, Status};
use crate::clock::unix_s;
use crate::http::{Client, ClientOptions, Error, Target};
use crate::pki;
use holdfast_core::secret::Password;
use holdfast_core::topology::Topology;
use miette::{IntoDiagnostic, Report, WrapErr, miette};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

const ANSWER: Duration = Duration::from_secs(5);
/// How long a controller is waited for that is nowhere.
const ELECTION: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Of a host that has something to do before it answers.
const ONE_ANSWER: Duration = Duration::from_secs(10);

/// See the module.
pub struct Api {
    client: Client,
    topology: Topology,
}

impl Api {
    pub fn open(config: Option<&Path>, token_file: Option<&Path>) -> Result<Api, Failure> {
        let (config, _) = super::load(config)?;
        let mut options = ClientOptions::default();
        if let Some(dir) = &config.topology.tls_dir {
            options.tls = Some(pki::authority_tls(dir, unix_s()).map_err(Report::new)?);
            let file = token_file.map_or_else(|| dir.join("operator.token"), Path::to_path_buf);
            options.token = Some(token(&file).map_err(Failure::refused)?);
        }
        Ok(Api { client: Client::new(options), topology: config.topology })
    }

    /// Asks whoever is the controller. While nobody is and the voters are up, they may be electing: that is waited for.
    async fn ask<A, F>(&self, ask: impl Fn(Target) -> F) -> Result<A, Failure>
    where
        F: Future<Output = Result<A, Error>>,
    {
        let patience = Instant::now() + ELECTION;
        loop {
            match self.ask_voters(&ask).await {
                Ok(answer) => return answer,
                Err(nobody) if nobody.electing && Instant::now() < patience => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Err(nobody) => return Err(nobody.failure()),
            }
        }
    }

    async fn ask_voters<A, F>(&self, ask: impl Fn(Target) -> F) -> Result<Result<A, Failure>, Nobody>
    where
        F: Future<Output = Result<A, Error>>,
    {
        let voters: Vec<_> = self.topology.nodes.iter().filter(|n| n.voter).collect();
        let target = |n: &holdfast_core::topology::Node| Target {
            node: n.name.clone(),
            addr: self.topology.api_addr(n),
        };
        let (mut failures, mut up, mut undone) = (Vec::new(), false, true);
        let mut next = 0;
        // Each voter once, and once more whom one of them named.
        for _ in 0..voters.len() * 2 {
            let Some(voter) = voters.get(next % voters.len().max(1)) else { break };
            match ask(target(voter)).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(e) if e.is_not_leader() => {
                    let hinted = e.leader().and_then(|id| voters.iter().position(|v| u64::from(v.id) == id));
                    next = hinted.filter(|h| *h != next % voters.len()).unwrap_or(next + 1);
                    failures.push(e.to_string());
                    up = true;
                }
                Err(e) if e.is_refusal() => return Ok(Err(refused(&e))),
                Err(e) => {
                    next += 1;
                    undone &= matches!(e, Error::Unreachable { .. });
                    failures.push(crate::agent::chain(&e));
                }
            }
        }
        Err(Nobody { failures, electing: up && undone })
    }

    /// Asks one host.
    pub async fn post_to<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        node: &str,
        path: &str,
        body: &Q,
    ) -> Result<A, Failure> {
        let named = self.topology.nodes.iter().find(|n| n.name.as_str() == node);
        let names: Vec<&str> = self.topology.nodes.iter().map(|n| n.name.as_str()).collect();
        let help = format!("nodes: {}", names.join(", "));
        let named =
            named.ok_or_else(|| Failure::refused(miette!(help = help, "there is no node {node:?}")))?;
        let target = Target { node: named.name.clone(), addr: self.topology.api_addr(named) };
        self.client.post(&target, path, body, ONE_ANSWER).await.map_err(|e| match e.is_refusal() {
            true => refused(&e),
            false => Failure::unreachable(miette!("{}", crate::agent::chain(&e))),
        })
    }

    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Failure> {
        self.ask(|target| async move { self.client.get(&target, path, ANSWER).await }).await
    }
    pub async fn post<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &Q,
    ) -> Result<A, Failure> {
        self.ask(|target| async move { self.client.post(&target, path, body, ANSWER).await }).await
    }

    pub async fn status(&self) -> Result<Status, Failure> {
        self.get("/v1/status").await
    }
    pub async fn history(&self, service: &str) -> Result<History, Failure> {
        self.get(&format!("/v1/services/{service}/history")).await
    }
    pub async fn explain(&self, service: &str) -> Result<Explanation, Failure> {
        self.get(&format!("/v1/services/{service}/explain")).await
    }

    /// The named service, or the only one there is.
    pub async fn service(&self, name: Option<&str>) -> Result<ServiceStatus, Failure> {
        let services = self.status().await?.services;
        let names: Vec<String> = services.iter().map(|s| s.service.clone()).collect();
        let help = format!("services: {}", names.join(", "));
        let mut fitting = services.into_iter().filter(|s| name.is_none_or(|n| s.service == n));
        match (fitting.next(), fitting.next(), name) {
            (Some(one), None, _) => Ok(one),
            (Some(_), Some(_), _) => {
                Err(Failure::refused(miette!(help = help, "there are several services; name one")))
            }
            (None, _, Some(n)) => Err(Failure::refused(miette!(help = help, "there is no service {n:?}"))),
            (None, _, None) => {
                Err(Failure::refused(miette!("the controller knows no service yet; try again in a moment")))
            }
        }
    }
}

/// No voter answered as the controller.
struct Nobody {
    failures: Vec<String>,
    /// Some are up, and nobody can have done what was asked.
    electing: bool,
}

impl Nobody {
    fn failure(mut self) -> Failure {
        self.failures.sort();
        self.failures.dedup();
        let says = format!("no controller answers:\n  {}", self.failures.join("\n  "));
        let help =
            "a majority of the voters must run and reach each other; their logs say what they wait for";
        Failure::unreachable(miette!(help = help, "{says}"))
    }
}

fn refused(e: &Error) -> Failure {
    let problem = e.problem();
    let says = problem.map_or_else(|| e.to_string(), ToString::to_string);
    match problem.and_then(|p| p.hint.clone()) {
        Some(hint) => Failure::refused(miette!(help = hint, "{says}")),
        None => Failure::refused(miette!("{says}")),
    }
}

fn token(path: &Path) -> Result<Password, Report> {
    let text = std::fs::read_to_string(path).into_diagnostic();
    let text =
        text.wrap_err_with(|| format!("the token file {}; name another with --token-file", path.display()))?;
    Ok(Password::new(text.trim()))
}
