//! Commands that ask the controller for something and watch it happen.

use super::client::Api;
use super::exit::{Exit, Failure};
use super::output;
use crate::api::people::{
    Accepted, FailoverRequest, PlanStatus, ReinitRequest, ServiceStatus, SwitchoverRequest,
};
use crate::sayln;
use miette::miette;
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;

/// How long to watch. What was asked for goes on if it takes longer.
const WATCH: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

pub async fn switchover(
    api: &Api,
    service: Option<&str>,
    to: Option<String>,
    home: bool,
) -> Result<Exit, Failure> {
    let before = api.service(service).await?;
    let to = if home { before.members.first().map(|m| m.node.clone()) } else { to };
    output::members("before", &before);
    let accepted: Accepted = api.post(&path(&before, "switchover"), &SwitchoverRequest { to }).await?;
    sayln!("{}", accepted.says);
    watch_new_primary(api, &before, &accepted).await
}

pub async fn failover(
    api: &Api,
    service: Option<&str>,
    to: Option<String>,
    accept_loss: bool,
) -> Result<Exit, Failure> {
    let before = api.service(service).await?;
    output::members("before", &before);
    let accepted: Accepted =
        api.post(&path(&before, "failover"), &FailoverRequest { to, accept_loss }).await?;
    sayln!("{}", accepted.says);
    watch_new_primary(api, &before, &accepted).await
}

pub async fn simple(
    api: &Api,
    service: Option<&str>,
    verb: &str,
    body: &(impl Serialize + Sync),
) -> Result<Exit, Failure> {
    let before = api.service(service).await?;
    let accepted: Accepted = api.post(&path(&before, verb), body).await?;
    sayln!("{}: {}", before.service, accepted.says);
    Ok(Exit::Ok)
}

pub async fn reinit(api: &Api, service: Option<&str>, node: String) -> Result<Exit, Failure> {
    let before = api.service(service).await?;
    let accepted: Accepted = api.post(&path(&before, "reinit"), &ReinitRequest { node }).await?;
    sayln!("{}: {}. Follow it with `holdfast status --watch`.", before.service, accepted.says);
    Ok(Exit::Ok)
}

fn path(service: &ServiceStatus, verb: &str) -> String {
    format!("/v1/services/{}/{verb}", service.service)
}

/// Waits for a primary in a later epoch, or for the plan that says why not.
async fn watch_new_primary(api: &Api, before: &ServiceStatus, accepted: &Accepted) -> Result<Exit, Failure> {
    let end = Instant::now() + WATCH;
    while Instant::now() < end {
        tokio::time::sleep(POLL).await;
        let plans = api.history(&before.service).await.map(|h| h.plans).unwrap_or_default();
        let ours: Vec<&PlanStatus> = plans.iter().filter(|p| p.id > accepted.after_plan).collect();
        if let Some(refusal) = ours.iter().find(|p| p.kind == "wish" && p.because.contains("refused")) {
            return Err(Failure::refused(miette!("{}", refusal.because)));
        }
        let Ok(now) = api.service(Some(&before.service)).await else { continue };
        let primary = now.members.iter().find(|m| m.role == "primary");
        if let Some(primary) = primary.filter(|_| now.epoch > accepted.epoch) {
            output::members("after", &now);
            let took: u64 =
                match (ours.first(), plans.iter().find(|p| p.kind == "promote" && p.epoch == now.epoch)) {
                    (Some(first), Some(promote)) => {
                        let opened =
                            promote.steps.iter().find(|s| s.node == primary.node).and_then(|s| s.done_ms);
                        promote.at_unix_ms.saturating_sub(first.at_unix_ms) + opened.unwrap_or(0)
                    }
                    _ => 0,
                };
            sayln!(
                "{} leads {} in epoch {}, {took} ms after the plan began.",
                primary.node,
                now.service,
                now.epoch
            );
            return Ok(Exit::Ok);
        }
    }
    let explain = format!("`holdfast explain {}` says what it waits for", before.service);
    Err(Failure::failed(miette!(
        help = explain,
        "no new primary within {} s; the wish stands and goes on",
        WATCH.as_secs()
    )))
}
