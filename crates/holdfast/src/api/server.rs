//! The routes of the HTTP API and who may use them.

use super::hosts::{
    AssignmentsQuery, Lead, Orders, PrimaryPosition, ReportRequest, Routes, RoutesQuery, SessionRequest,
    Vouch,
};
use super::people::{
    Accepted, Explanation, FailoverRequest, FaultArmed, FaultRequest, History, ReinitRequest, Status,
    SwitchoverRequest,
};
use super::{health, metrics, upgrade};
use crate::agent::Agent;
use crate::controller::{Error as ControllerError, Office};
use crate::faults::{self, Faults};
use crate::http::{Access, Problem, Role};
use crate::voter;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use holdfast_core::member::VouchRequest;
use holdfast_core::record::{Mode, Session, Wish};
use holdfast_core::{Epoch, GroupName, NodeName};
use holdfast_store::embedded::MESSAGE_BYTES;
use holdfast_store::{Embedded, Store};
use std::sync::Arc;
use std::time::Duration;

/// What the handlers see.
#[derive(Clone)]
pub struct Host {
    pub node: NodeName,
    pub topology: Arc<holdfast_core::topology::Topology>,
    /// On voters: the store, and the controller's office while it leads.
    pub voter: Option<(voter::Current, voter::InOffice)>,
    pub agent: Arc<Agent>,
    pub proxies: Arc<Vec<(GroupName, holdfast_proxy::Handle)>>,
    /// When this host's certificate ends.
    pub certificate_ends_unix_s: Option<i64>,
    pub access: Access,
    pub faults: Arc<Faults>,
}

pub(super) type Answer<T> = Result<Json<T>, Problem>;

impl Host {
    pub(super) fn office(&self) -> Result<Arc<Office>, Problem> {
        let office = self.voter.as_ref().and_then(|(_, office)| office.borrow().clone());
        let leader = || self.store().and_then(|s| s.leadership().borrow().leader);
        office.ok_or_else(|| Problem::not_leader(leader()))
    }

    /// After a wait: a controller that left office meanwhile has nothing to say.
    fn still_in(&self, office: &Arc<Office>) -> Result<(), Problem> {
        let now = self.office()?;
        if Arc::ptr_eq(&now, office) { Ok(()) } else { Err(Problem::not_leader(None)) }
    }

    /// This node's store, if it is a voter.
    pub(super) fn store(&self) -> Option<Arc<Embedded>> {
        self.voter.as_ref().map(|(store, _)| store.borrow().clone())
    }
}

/// Everything that is served on a host's API port.
pub fn router(host: Host) -> Router {
    let hosts = Router::new()
        .route("/v1/host/session", post(session))
        .route("/v1/host/report", post(report))
        .route("/v1/host/assignments", get(assignments))
        .route("/v1/host/routes", get(routes))
        .route("/v1/host/vouch", post(vouch))
        .route("/v1/host/raft/{kind}", post(raft).layer(DefaultBodyLimit::max(MESSAGE_BYTES)))
        .route("/v1/host/instance/{group}/position", get(position))
        .route("/v1/host/instance/{group}/lead", get(lead))
        .route("/v1/host/instance/{group}/clone", get(clone_stream))
        .layer(host.access.layer(Role::Node));
    let viewers = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services/{service}/history", get(history))
        .route("/v1/services/{service}/explain", get(explain))
        .route("/v1/services/{service}/upgrade", get(upgrade::plan))
        .layer(host.access.layer(Role::Viewer));
    let operators = Router::new()
        .route("/v1/services/{service}/switchover", post(switchover))
        .route("/v1/services/{service}/failover", post(failover))
        .route("/v1/services/{service}/pause", post(pause))
        .route("/v1/services/{service}/resume", post(resume))
        .route("/v1/services/{service}/reinit", post(reinit))
        .route("/v1/services/{service}/upgrade", post(upgrade::begin))
        .route("/v1/services/{service}/upgrade/stop", post(upgrade::stop))
        .route("/v1/faults", post(fault))
        .layer(host.access.layer(Role::Operator));
    let public = Router::new()
        .route("/primary", get(health::primary))
        .route("/replica", get(health::replica))
        .route("/health", get(health::health))
        .route("/liveness", get(health::liveness))
        .route("/readiness", get(health::readiness))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/openapi.json", get(|| async { Json(super::openapi::document()) }));
    hosts.merge(viewers).merge(operators).merge(public).with_state(host)
}

impl From<ControllerError> for Problem {
    fn from(e: ControllerError) -> Problem {
        let says = crate::agent::chain(&e);
        match e {
            ControllerError::NotInOffice { leader } => Problem::not_leader(leader),
            ControllerError::Store(holdfast_store::Error::NotLeader { leader }) => {
                Problem::not_leader(leader)
            }
            ControllerError::Store(_) => Problem::unavailable(says)
                .hint("a majority of the voters must be up; see `holdfast status` on each, and the logs"),
            ControllerError::UnknownSession(_) => Problem::unknown_session(says),
            ControllerError::UnknownService(_) => {
                Problem::not_found(says).hint("`holdfast status` lists the services")
            }
            ControllerError::Refused(_) => Problem::refused(says),
            ControllerError::Conflict(_) => Problem::conflict(says),
            ControllerError::Unreadable { .. } => {
                Problem::internal(says).hint("the store was written by a newer version; upgrade this node")
            }
        }
    }
}

impl From<faults::Error> for Problem {
    fn from(e: faults::Error) -> Problem {
        let problem = Problem::refused(crate::agent::chain(&e));
        match e.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

// ---- between hosts ----

async fn session(State(host): State<Host>, Json(q): Json<SessionRequest>) -> Answer<()> {
    host.office()?.register(&q.node, q.session).await?;
    Ok(Json(()))
}

async fn report(State(host): State<Host>, Json(q): Json<ReportRequest>) -> Answer<Orders> {
    Ok(Json(host.office()?.report(q).await?))
}

const WAIT: Duration = Duration::from_millis(super::hosts::LONG_POLL_MS);

async fn assignments(State(host): State<Host>, Query(q): Query<AssignmentsQuery>) -> Answer<Orders> {
    let office = host.office()?;
    let orders = office.assignments(&q.node, Session(q.session), q.after, WAIT).await?;
    host.still_in(&office)?;
    Ok(Json(orders))
}

async fn routes(State(host): State<Host>, Query(q): Query<RoutesQuery>) -> Answer<Routes> {
    let office = host.office()?;
    let routes = office.routes(q.after, WAIT).await;
    host.still_in(&office)?;
    Ok(Json(routes))
}

async fn vouch(State(host): State<Host>, Json(ask): Json<VouchRequest>) -> Answer<Vouch> {
    let yes = host.agent.instance(&ask.group).is_some_and(|i| i.vouch(&ask));
    Ok(Json(Vouch { yes }))
}

async fn raft(
    State(host): State<Host>,
    Path(kind): Path<String>,
    body: axum::body::Bytes,
) -> Result<Vec<u8>, Problem> {
    let store = host.store().ok_or_else(|| Problem::refused("this node is no voter"))?;
    let kind = crate::transport::kind(&kind)
        .ok_or_else(|| Problem::not_found(format!("there is no Raft message {kind:?}")))?;
    store.handle(kind, &body).await.map_err(|e| Problem::unavailable(crate::agent::chain(&e)))
}

#[derive(serde::Deserialize)]
struct EpochQuery {
    epoch: u64,
}

async fn position(
    State(host): State<Host>,
    Path(group): Path<String>,
    Query(q): Query<EpochQuery>,
) -> Answer<PrimaryPosition> {
    let instance = instance(&host, &group)?;
    let found = instance.position(Epoch(q.epoch)).await;
    let (position, version) = found.ok_or_else(|| {
        Problem::refused(format!("{} does not lead {group} in epoch {} yet", host.node, q.epoch))
    })?;
    Ok(Json(PrimaryPosition { position, version }))
}

async fn lead(State(host): State<Host>, Path(group): Path<String>) -> Answer<Lead> {
    let lead = instance(&host, &group)?.lead();
    lead.map(Json).ok_or_else(|| Problem::refused(format!("{} does not lead {group}", host.node)))
}

async fn clone_stream(
    State(host): State<Host>,
    Path(group): Path<String>,
) -> Result<axum::response::Response, Problem> {
    let instance = instance(&host, &group)?;
    crate::agent::rejoin::serve_clone(instance)
        .await
        .map_err(|e| Problem::unavailable(crate::agent::chain(&e)))
}

fn instance<'h>(host: &'h Host, group: &str) -> Result<&'h Arc<crate::agent::Instance>, Problem> {
    let found = GroupName::new(group).ok().and_then(|g| host.agent.instance(&g));
    found.ok_or_else(|| Problem::not_found(format!("{} has no instance of {group}", host.node)))
}

// ---- people ----

#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
pub(super) async fn status(State(host): State<Host>) -> Answer<Status> {
    Ok(Json(host.office()?.status()))
}

#[utoipa::path(get, path = "/v1/services/{service}/history", params(("service" = String, Path)), responses((status = 200, body = History)))]
pub(super) async fn history(State(host): State<Host>, Path(service): Path<String>) -> Answer<History> {
    Ok(Json(host.office()?.history(&service)?))
}

#[utoipa::path(get, path = "/v1/services/{service}/explain", params(("service" = String, Path)), responses((status = 200, body = Explanation)))]
pub(super) async fn explain(State(host): State<Host>, Path(service): Path<String>) -> Answer<Explanation> {
    Ok(Json(host.office()?.explain(&service)?))
}

fn node_name(text: &str) -> Result<NodeName, String> {
    NodeName::new(text).map_err(|e| format!("{text:?} is no node's name: {e}"))
}

#[utoipa::path(post, path = "/v1/services/{service}/switchover", params(("service" = String, Path)), request_body = SwitchoverRequest, responses((status = 200, body = Accepted), (status = 409, body = Problem)))]
pub(super) async fn switchover(
    State(host): State<Host>,
    Path(service): Path<String>,
    Json(q): Json<SwitchoverRequest>,
) -> Answer<Accepted> {
    let office = host.office()?;
    let accepted = office.amend(&service, |w, record| {
        let to = q.to.as_deref().map(node_name).transpose()?;
        let p = record
            .primary()
            .cloned()
            .ok_or("there is no primary to switch over from; see `holdfast explain`")?;
        let to = holdfast_core::switchover::target(w, &p, to.as_ref())?;
        let says = format!("switching over from {} to {to}", p.node);
        record.wish = Some(Wish::Switchover { to: Some(to) });
        Ok(says)
    });
    Ok(Json(accepted.await?))
}

#[utoipa::path(post, path = "/v1/services/{service}/failover", params(("service" = String, Path)), request_body = FailoverRequest, responses((status = 200, body = Accepted), (status = 409, body = Problem)))]
pub(super) async fn failover(
    State(host): State<Host>,
    Path(service): Path<String>,
    Json(q): Json<FailoverRequest>,
) -> Answer<Accepted> {
    let office = host.office()?;
    let accepted = office.amend(&service, |w, record| {
        let to = q.to.as_deref().map(node_name).transpose()?;
        if let Some(n) = to.as_ref().filter(|n| !w.service.members.contains(n)) {
            return Err(format!("{n} is not a member of {}", w.group()));
        }
        if record.epoch.0 == 0 {
            return Err("the group has never had a primary; see `holdfast explain`".into());
        }
        record.wish = Some(Wish::Failover { to, accept_loss: q.accept_loss });
        Ok("taking over".into())
    });
    Ok(Json(accepted.await?))
}

#[utoipa::path(post, path = "/v1/services/{service}/pause", params(("service" = String, Path)), responses((status = 200, body = Accepted)))]
pub(super) async fn pause(State(host): State<Host>, Path(service): Path<String>) -> Answer<Accepted> {
    set_mode(&host, &service, Mode::Paused, "automatic failover is paused").await
}

#[utoipa::path(post, path = "/v1/services/{service}/resume", params(("service" = String, Path)), responses((status = 200, body = Accepted)))]
pub(super) async fn resume(State(host): State<Host>, Path(service): Path<String>) -> Answer<Accepted> {
    set_mode(&host, &service, Mode::Automatic, "automatic failover is on").await
}

async fn set_mode(host: &Host, service: &str, mode: Mode, says: &str) -> Answer<Accepted> {
    let office = host.office()?;
    let accepted = office.amend(service, |_, record| {
        record.mode = mode;
        Ok(says.to_string())
    });
    Ok(Json(accepted.await?))
}

#[utoipa::path(post, path = "/v1/services/{service}/reinit", params(("service" = String, Path)), request_body = ReinitRequest, responses((status = 200, body = Accepted), (status = 409, body = Problem)))]
pub(super) async fn reinit(
    State(host): State<Host>,
    Path(service): Path<String>,
    Json(q): Json<ReinitRequest>,
) -> Answer<Accepted> {
    let office = host.office()?;
    let accepted = office.amend(&service, |w, record| {
        let node = node_name(&q.node)?;
        if !w.service.members.contains(&node) {
            return Err(format!("{node} is not a member of {}", w.group()));
        }
        let Some(primary) = record.primary() else {
            return Err(format!(
                "{} has no primary to take the data from; see `holdfast explain`",
                w.group()
            ));
        };
        if primary.node == node {
            return Err(format!("{node} is the primary; `holdfast switchover` first"));
        }
        let report = w.fresh(&node).ok_or(format!("{node} is not reporting"))?;
        record.reinit.insert(node.clone(), report.session);
        Ok(format!("{node} will be rebuilt from the primary"))
    });
    Ok(Json(accepted.await?))
}

#[utoipa::path(post, path = "/v1/faults", request_body = FaultRequest, responses((status = 200, body = FaultArmed), (status = 422, body = Problem)))]
pub(super) async fn fault(State(host): State<Host>, Json(q): Json<FaultRequest>) -> Answer<FaultArmed> {
    let FaultRequest { fault, service, for_s, rehearsal } = q;
    let armed = host.faults.arm(&faults::Wanted { fault, service, for_s, rehearsal }).await?;
    Ok(Json(FaultArmed {
        node: host.node.to_string(),
        fault: armed.fault.name().to_string(),
        does: armed.does,
        begins_in_ms: armed.begins_in_ms,
        ends_in_ms: armed.ends_in_ms,
    }))
}

/// For handlers that answer with plain text.
pub(super) fn text(status: axum::http::StatusCode, body: String) -> axum::response::Response {
    (status, body).into_response()
}
