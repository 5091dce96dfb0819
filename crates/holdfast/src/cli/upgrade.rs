//! `holdfast upgrade`: shows the steps, asks for them, and watches until the last.

use super::client::Api;
use super::exit::{Exit, Failure};
use super::output;
use crate::api::people::{Accepted, ServiceStatus, UpgradeRequest, UpgradeStatus};
use crate::{say, sayln};
use miette::miette;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(200);
/// A new controller is found by then.
const PATIENCE: u32 = 150;

pub async fn upgrade(
    api: &Api,
    service: Option<&str>,
    wish: &UpgradeRequest,
    dry_run: bool,
) -> Result<Exit, Failure> {
    let before = api.service(service).await?;
    let path = format!("/v1/services/{}/upgrade", before.service);
    let plan: UpgradeStatus = api.get(&format!("{path}?replicas_only={}", wish.replicas_only)).await?;
    programs(&before);
    if plan.under_way && !dry_run {
        sayln!("An upgrade is under way; watching it. `holdfast upgrade --stop` ends it.");
        return watch(api, &before.service, last_plan(api, &before.service).await).await;
    }
    for (n, step) in plan.steps.iter().enumerate() {
        sayln!("{:>4}. {step}", n + 1);
    }
    if let Some(why) = plan.refused {
        return Err(Failure::refused(miette!("{why}")));
    }
    if plan.steps.is_empty() {
        sayln!("Every member runs the programs that are installed on its host: nothing to do.");
        return Ok(Exit::Ok);
    }
    if dry_run {
        if plan.no_standby {
            sayln!("With only one replica, this needs --accept-no-standby.");
        }
        return Ok(Exit::Ok);
    }
    let accepted: Accepted = api.post(&path, wish).await?;
    sayln!("{}:", accepted.says);
    watch(api, &before.service, accepted.after_plan).await
}

async fn last_plan(api: &Api, service: &str) -> u64 {
    api.history(service).await.ok().and_then(|h| h.plans.last().map(|p| p.id)).unwrap_or(0)
}

/// Shows every plan as it is made; the last one says how it ended.
async fn watch(api: &Api, service: &str, after: u64) -> Result<Exit, Failure> {
    let (mut said, mut failed) = (after, 0);
    loop {
        tokio::time::sleep(POLL).await;
        let now: Result<UpgradeStatus, Failure> = api.get(&format!("/v1/services/{service}/upgrade")).await;
        let (now, plans) = match (now, api.history(service).await) {
            (Ok(now), Ok(history)) => (now, history.plans),
            (Err(e), _) | (_, Err(e)) if failed >= PATIENCE => return Err(e),
            _ => {
                failed += 1;
                continue;
            }
        };
        failed = 0;
        for p in plans.iter().filter(|p| p.id > said) {
            sayln!("  {:<10} {}", p.kind, p.because);
        }
        said = plans.last().map_or(said, |p| p.id.max(said));
        if !now.under_way {
            let mut ours = plans.iter().filter(|p| p.id > after);
            let last = ours.rfind(|p| p.because.starts_with("upgrade"));
            let done = last.is_some_and(|p| p.because.starts_with("upgraded"));
            output::members("after", &api.service(Some(service)).await?);
            return match done {
                true => Ok(Exit::Ok),
                false => Err(Failure::failed(miette!(
                    help = "`holdfast explain` says how things stand; the same command goes on from there",
                    "the upgrade ended before its last step"
                ))),
            };
        }
    }
}

fn programs(s: &ServiceStatus) {
    let row = |m: &crate::api::people::MemberStatus| {
        let installed = m.installed.clone().unwrap_or_else(|| "not known".into());
        vec![m.node.clone(), m.role.clone(), m.version.clone(), installed]
    };
    let rows: Vec<Vec<String>> = s.members.iter().map(row).collect();
    say!("{}", output::table(&["MEMBER", "ROLE", "RUNS", "INSTALLED"], &rows));
}
