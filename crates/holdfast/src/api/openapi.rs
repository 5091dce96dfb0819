//! The OpenAPI document of what people and scripts use, generated from the handlers.

use super::people::{
    Accepted, Explanation, FailoverRequest, FaultArmed, FaultRequest, Finding, History, LostStatus,
    MemberStatus, NodeStatus, PlanStatus, ReinitRequest, ServiceStatus, Status, StepStatus,
    SwitchoverRequest, UpgradeRequest, UpgradeStatus,
};
use super::{server, upgrade};
use crate::http::Problem;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Holdfast",
        description = "The API behind the CLI. Viewer or operator tokens go in `Authorization: Bearer`."
    ),
    paths(
        server::status,
        server::history,
        server::explain,
        server::switchover,
        server::failover,
        server::pause,
        server::resume,
        server::reinit,
        upgrade::plan,
        upgrade::begin,
        upgrade::stop,
        server::fault
    ),
    components(schemas(
        Accepted,
        Explanation,
        FailoverRequest,
        FaultArmed,
        FaultRequest,
        Finding,
        History,
        LostStatus,
        MemberStatus,
        NodeStatus,
        PlanStatus,
        Problem,
        ReinitRequest,
        ServiceStatus,
        Status,
        StepStatus,
        SwitchoverRequest,
        UpgradeRequest,
        UpgradeStatus
    ))
)]
struct Document;

/// The document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
