//! Messages between hosts. Not for people; no stability promised between versions more than one apart.

use holdfast_core::record::{Assignment, Session};
use holdfast_core::report::InstanceReport;
use holdfast_core::schedule::End;
use holdfast_core::{Epoch, GroupName, NodeName, Position, RouteSnapshot};
use serde::{Deserialize, Serialize};

/// `POST /v1/host/session`: an agent begins. Answered once the session is committed in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionRequest {
    pub node: NodeName,
    pub session: Session,
}

/// `POST /v1/host/report`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReportRequest {
    pub node: NodeName,
    pub session: Session,
    pub instances: Vec<InstanceReport>,
    /// Ordered backups that ended.
    #[serde(default)]
    pub backups: Vec<BackupDone>,
    /// Leases to renew. The sender counts from when it sent this (S2).
    pub renew: Vec<Renewal>,
}

/// A lease by group and epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    pub group: GroupName,
    pub epoch: Epoch,
}

/// A backup that this life of an agent is to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupOrder {
    pub group: GroupName,
    pub number: u64,
}

/// What became of it. Said until it is not ordered any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupDone {
    pub group: GroupName,
    pub number: u64,
    pub end: End,
}

/// Answer to a report and to `GET /v1/host/assignments`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Orders {
    pub assignments: Vec<Assignment>,
    /// What is to be made, or goes on.
    #[serde(default)]
    pub backups: Vec<BackupOrder>,
    /// Renewals that were committed.
    pub renewed: Vec<Renewal>,
    /// Pass it to the next `GET /v1/host/assignments?after=` to be woken by what comes later.
    pub version: u64,
}

/// `GET /v1/host/assignments?node=&session=&after=`: answered when something changes, or after
/// [`LONG_POLL_MS`] with what there is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AssignmentsQuery {
    pub node: NodeName,
    pub session: u64,
    pub after: u64,
}

/// `GET /v1/host/routes?after=`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoutesQuery {
    pub after: u64,
}

/// Answer to [`RoutesQuery`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Routes {
    pub version: u64,
    pub routes: Vec<RouteSnapshot>,
}

/// `GET /v1/host/instance/GROUP/position`: for a member that wants to follow this one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrimaryPosition {
    pub position: Position,
    /// What its engine calls itself: an earlier release must not follow it.
    pub version: String,
}

/// Answer to a vouch request (S14).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vouch {
    pub yes: bool,
}

/// `GET /v1/host/instance/GROUP/lead`: a proxy that cannot reach the controller asks the primary itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lead {
    pub epoch: Epoch,
    /// For how long from now the primary may take writes; 0 if it may not.
    pub for_ms: u64,
    /// See [`RouteSnapshot::acks`].
    #[serde(default)]
    pub acks: u32,
}

/// How long a long-poll waits. Shorter than half of a route's validity, since it also renews routes.
pub const LONG_POLL_MS: u64 = 500;
/// How long any other answer may take, and a long-poll's beyond its wait.
pub const ANSWER_MS: u64 = 1_000;

const _: () =
    assert!(LONG_POLL_MS + ANSWER_MS <= holdfast_core::limits::ROUTE_ANSWER_MS, "no route comes later");
