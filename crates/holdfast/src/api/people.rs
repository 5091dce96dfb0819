//! What people and scripts see. Stable: fields are added, never renamed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The deployment's name.
    pub name: String,
    /// Node whose store member leads and whose controller decides.
    pub controller: String,
    pub nodes: Vec<NodeStatus>,
    pub services: Vec<ServiceStatus>,
}

/// A host, as its agent reports.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    pub node: String,
    pub region: String,
    pub zone: String,
    pub address: String,
    pub voter: bool,
    /// Milliseconds since its last report; absent if it never reported to this controller.
    pub heard_ms_ago: Option<u64>,
}

/// A service with its group.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    pub service: String,
    pub engine: String,
    pub strategy: String,
    pub durability: String,
    /// `held`, `degraded` or `restoring` (under `sync`).
    pub assurance: String,
    /// `automatic` or `paused`.
    pub mode: String,
    pub epoch: u64,
    /// After a takeover: another automatic one is put off, unless the primary's process is seen to end.
    #[serde(default)]
    pub cooling_down: bool,
    pub primary: Option<String>,
    pub sync_set: Vec<String>,
    /// `healthy`, or the code of the first diagnosis that applies.
    pub state: String,
    /// What the diagnosis means and what is being waited for.
    pub findings: Vec<Finding>,
    /// Absent where nothing is scheduled.
    #[serde(default)]
    pub backup: Option<BackupStatus>,
    pub port: u16,
    pub read_port: u16,
    pub members: Vec<MemberStatus>,
}

/// A service's scheduled backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupStatus {
    /// When the last good one began, wall clock of the controller, ms since 1970.
    pub good_unix_ms: Option<u64>,
    /// When the next one is due; absent while one is under way.
    pub next_unix_ms: Option<u64>,
    /// Node that makes one.
    pub under_way_on: Option<String>,
    /// Why the last one failed.
    pub failed: Option<String>,
    /// How many failed since the last good one.
    pub failures: u32,
}

/// One thing to know about a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    pub code: String,
    /// `notice`, `warning` or `critical`.
    pub severity: String,
    pub says: String,
    pub hint: Option<String>,
}

/// An instance of a service.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MemberStatus {
    pub node: String,
    pub zone: String,
    pub address: String,
    /// `primary`, `replica`, `sync replica`, or what it is otherwise doing.
    pub role: String,
    /// `running`, `starting`, `exited`, `unresponsive`, `refuses`, `silent`, `unknown`.
    pub state: String,
    pub writable: bool,
    /// The last applied transaction of each domain.
    pub position: Option<String>,
    pub lag_ms: Option<u64>,
    pub connections: u32,
    /// A long job and its progress.
    pub activity: Option<String>,
    /// Why it does not fit its role.
    pub trouble: Option<String>,
    pub unsafe_settings: Vec<String>,
    pub lost: Option<LostStatus>,
    pub version: String,
    /// The version of the programs that a restart would use; absent if not known.
    pub installed: Option<String>,
}

/// Writes that only a returning member had, saved before its data was replaced.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LostStatus {
    pub transactions: u64,
    /// What is counted: transactions, or what a history of another kind consists of.
    pub unit: String,
    pub file: String,
    pub epoch: u64,
}

fn transactions() -> String {
    "transactions".into()
}

/// A plan in `GET /v1/services/{service}/history`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PlanStatus {
    pub id: u64,
    pub parent: u64,
    pub epoch: u64,
    pub kind: String,
    pub because: String,
    /// How much is known to be lost by it, in `known_loss_unit`: a lower bound.
    pub known_loss: Option<u64>,
    #[serde(default = "transactions")]
    pub known_loss_unit: String,
    /// Wall clock of the controller, ms since 1970.
    pub at_unix_ms: u64,
    /// Node whose controller made it.
    pub by: String,
    /// Until every step was done; absent while it runs or if a later plan replaced it before.
    pub took_ms: Option<u64>,
    pub steps: Vec<StepStatus>,
}

/// What one member did under a plan.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StepStatus {
    pub node: String,
    pub does: String,
    /// Milliseconds from the plan's commit until the member reported it done.
    pub done_ms: Option<u64>,
}

/// `GET /v1/services/{service}/history`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct History {
    pub service: String,
    /// Newest last.
    pub plans: Vec<PlanStatus>,
}

/// `GET /v1/services/{service}/explain`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    pub service: String,
    /// `healthy`, `act` or `wait`.
    pub verdict: String,
    /// Every row of the diagnosis table that applies, first the one that decides.
    pub findings: Vec<Finding>,
    /// What is about to be done, under `act`.
    pub plan: Option<PlanStatus>,
}

/// `POST /v1/services/{service}/switchover`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct SwitchoverRequest {
    /// The next primary; the fittest replica if absent.
    pub to: Option<String>,
}

/// `POST /v1/services/{service}/failover`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct FailoverRequest {
    pub to: Option<String>,
    /// Promote even if acknowledged writes may be lost.
    #[serde(default)]
    pub accept_loss: bool,
}

/// `POST /v1/services/{service}/reinit`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReinitRequest {
    /// The member whose data is to be rebuilt from the primary.
    pub node: String,
}

/// `POST /v1/services/{service}/upgrade`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct UpgradeRequest {
    /// Stop before the switchover.
    #[serde(default)]
    pub replicas_only: bool,
    /// With only one replica: nobody can take over while it restarts, and under `sync` writes wait.
    #[serde(default)]
    pub accept_no_standby: bool,
}

/// `GET /v1/services/{service}/upgrade`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UpgradeStatus {
    pub service: String,
    /// An upgrade was asked for and is neither done nor given up.
    pub under_way: bool,
    /// What is to be done from here, in order.
    pub steps: Vec<String>,
    /// Why an upgrade cannot be done, or not now.
    pub refused: Option<String>,
    /// While the only replica restarts, nobody could take over: this has to be accepted.
    pub no_standby: bool,
}

/// `POST /v1/faults`, to the host that is to be broken.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FaultRequest {
    /// `kill-engine`, `kill-host`, `partition`, `deaf`, `mute`, `pause-engine`, `pause-agent` or `disk-full`.
    pub fault: String,
    /// Whose engine is meant; needed where the host has several.
    pub service: Option<String>,
    /// After so many seconds it heals by itself; 1 to 300.
    pub for_s: u64,
    /// Only look whether it could be done.
    #[serde(default)]
    pub rehearsal: bool,
}

/// Answer to a [`FaultRequest`]: it is about to begin, or with `rehearsal` could.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FaultArmed {
    pub node: String,
    pub fault: String,
    /// What will happen, for people.
    pub does: String,
    pub begins_in_ms: u64,
    /// From now on; absent where a process is killed and nothing has to be undone.
    pub ends_in_ms: Option<u64>,
}

/// Answer to a wish: it is stored. Follow it in the history.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// The group's last plan when the wish was stored; the plans it leads to have higher numbers.
    pub after_plan: u64,
    pub epoch: u64,
    pub says: String,
}
