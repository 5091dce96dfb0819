//! Health endpoints in the manner of Patroni's, which load balancers and Kubernetes probes already use. They speak of
//! this host's own instances and need no controller: `?service=NAME` picks one; without it, all must agree.

use super::server::{Host, text};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use holdfast_core::limits;
use holdfast_core::report::{InstanceReport, Stream};
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct Which {
    service: Option<String>,
    /// `/replica` only: most lag allowed, in ms.
    lag: Option<u64>,
}

fn answer(host: &Host, which: &Which, what: &str, fits: impl Fn(&InstanceReport) -> bool) -> Response {
    let reports: Vec<InstanceReport> = host
        .agent
        .instances()
        .iter()
        .filter(|i| which.service.as_ref().is_none_or(|s| i.group().as_str() == s))
        .map(|i| i.report())
        .collect();
    let ok = !reports.is_empty() && reports.iter().all(fits);
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(status, format!("{}: {}{what}\n", host.node, if ok { "" } else { "not " }))
}

/// 200 if the instance may take writes right now.
pub(super) async fn primary(State(host): State<Host>, Query(which): Query<Which>) -> Response {
    let leads = |r: &InstanceReport| {
        r.leads.is_some()
            && host.agent.instance(&r.group).and_then(|i| i.lead()).is_some_and(|lead| lead.for_ms > 0)
    };
    answer(&host, &which, "primary", leads)
}

/// 200 if it is a replica fit for reads: replicating, and no further behind than `lag` ms.
pub(super) async fn replica(State(host): State<Host>, Query(which): Query<Which>) -> Response {
    let most = which.lag.unwrap_or(limits::READ_LAG_MS);
    let fits = |r: &InstanceReport| {
        let up = r.seen.upstream.as_ref();
        r.running()
            && up.is_some_and(|u| {
                u.stream == Stream::Up && u.apply_error.is_none() && u.lag_ms.is_some_and(|l| l <= most)
            })
    };
    answer(&host, &which, "replica", fits)
}

/// 200 if the engine runs and answers.
pub(super) async fn health(State(host): State<Host>, Query(which): Query<Which>) -> Response {
    answer(&host, &which, "healthy", InstanceReport::running)
}

/// 200 if this process works.
pub(super) async fn liveness(State(host): State<Host>) -> Response {
    text(StatusCode::OK, format!("{}: alive\n", host.node))
}

/// 200 if clients can be sent here: it leads, or replicates.
pub(super) async fn readiness(State(host): State<Host>, Query(which): Query<Which>) -> Response {
    let ready = |r: &InstanceReport| {
        r.running() && (r.leads.is_some() || r.seen.upstream.as_ref().is_some_and(|u| u.stream == Stream::Up))
    };
    answer(&host, &which, "ready", ready)
}
