//! Upgrades over the API: what would be done, the wish, and an end to it.

use super::people::{Accepted, UpgradeRequest, UpgradeStatus};
use super::server::{Answer, Host};
use crate::http::Problem;
use axum::Json;
use axum::extract::{Path, Query, State};
use holdfast_core::decide::{Verdict, diagnose};
use holdfast_core::record::Upgrade;
use holdfast_core::topology::WhenNoSyncReplica;
use holdfast_core::upgrade::{self, Step};
use holdfast_core::world::World;

#[derive(serde::Deserialize, utoipa::IntoParams)]
pub(super) struct PlanQuery {
    /// Stop before the switchover.
    #[serde(default)]
    replicas_only: bool,
}

#[utoipa::path(get, path = "/v1/services/{service}/upgrade", params(("service" = String, Path), PlanQuery), responses((status = 200, body = UpgradeStatus)))]
pub(super) async fn plan(
    State(host): State<Host>,
    Path(service): Path<String>,
    Query(q): Query<PlanQuery>,
) -> Answer<UpgradeStatus> {
    let status = host.office()?.with_world(&service, |w| {
        let replicas_only = w.record.upgrade.as_ref().map_or(q.replicas_only, |u| u.replicas_only);
        let (steps, refused) = match upgrade::steps(w, replicas_only) {
            Ok(steps) => (steps, unwell(w)),
            Err(why) => (Vec::new(), Some(why)),
        };
        UpgradeStatus {
            service: service.clone(),
            under_way: w.record.upgrade.is_some() || !w.record.restart.is_empty(),
            refused: refused.filter(|_| w.record.upgrade.is_none()),
            no_standby: steps.iter().any(|s| matches!(s, Step::Restart { alone: true, .. })),
            steps: steps.iter().map(|s| in_words(s, w)).collect(),
        }
    })?;
    Ok(Json(status))
}

#[utoipa::path(post, path = "/v1/services/{service}/upgrade", params(("service" = String, Path)), request_body = UpgradeRequest, responses((status = 200, body = Accepted), (status = 409, body = Problem)))]
pub(super) async fn begin(
    State(host): State<Host>,
    Path(service): Path<String>,
    Json(q): Json<UpgradeRequest>,
) -> Answer<Accepted> {
    let office = host.office()?;
    let accepted = office.amend(&service, |w, record| {
        let steps = upgrade::steps(w, q.replicas_only)?;
        let says = match steps.len() {
            0 => return Err("every member runs the programs that are installed on its host".into()),
            1 => "upgrading, in one step".to_owned(),
            n => format!("upgrading, in {n} steps"),
        };
        if let Some(why) = unwell(w) {
            return Err(why);
        }
        if !q.accept_no_standby && steps.iter().any(|s| matches!(s, Step::Restart { alone: true, .. })) {
            return Err(format!(
                "while the only replica restarts, {}; if that is acceptable: --accept-no-standby",
                meanwhile(w)
            ));
        }
        record.upgrade =
            Some(Upgrade { replicas_only: q.replicas_only, accept_no_standby: q.accept_no_standby });
        Ok(says)
    });
    Ok(Json(accepted.await?))
}

#[utoipa::path(post, path = "/v1/services/{service}/upgrade/stop", params(("service" = String, Path)), responses((status = 200, body = Accepted), (status = 409, body = Problem)))]
pub(super) async fn stop(State(host): State<Host>, Path(service): Path<String>) -> Answer<Accepted> {
    let office = host.office()?;
    let accepted = office.amend(&service, |_, record| {
        record.upgrade.take().ok_or("no upgrade is under way")?;
        Ok("no further step is taken; a restart under way goes on".into())
    });
    Ok(Json(accepted.await?))
}

/// What else is wrong with the group: first that, then an upgrade.
fn unwell(w: &World) -> Option<String> {
    let (row, verdict) = diagnose(w).filter(|(row, _)| row.code != "upgrading")?;
    let why = match verdict {
        Verdict::Healthy => return None,
        Verdict::Act(plan) => plan.because,
        Verdict::Wait(blockers) => blockers.iter().map(|b| b.says.as_str()).collect::<Vec<_>>().join("; "),
    };
    Some(format!("not now: {} ({why})", row.means))
}

/// What a group of two is without its replica.
fn meanwhile(w: &World) -> &'static str {
    match (w.sync(), w.service.when_no_sync_replica) {
        (true, WhenNoSyncReplica::Block) => "nobody can take over, and writes wait",
        (true, WhenNoSyncReplica::Degrade) => {
            "nobody can take over, and writes wait or go on without an acknowledgement"
        }
        (false, _) => "nobody can take over",
    }
}

fn in_words(step: &Step, w: &World) -> String {
    match step {
        Step::Restart { node, from, to, alone } => {
            let meanwhile = if *alone { format!("; meanwhile {}", meanwhile(w)) } else { String::new() };
            format!("restart {node}: {from} -> {to}{meanwhile}")
        }
        Step::Switchover { from, to, way_back } => {
            let note =
                if *way_back { "" } else { "; from here on there is no way back to the earlier release" };
            format!("switch over from {from} to {to}{note}")
        }
    }
}
