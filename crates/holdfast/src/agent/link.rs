//! The way from this host to the controller, wherever it is, and to the other agents.
//!
//! The controller is on the store's leader. The link remembers who that was and [`seek`]s it from there. It never decides
//! that a controller is gone: it only fails, in bounded time.

use super::seek;
use crate::api::hosts::{
    ANSWER_MS, AssignmentsQuery, LONG_POLL_MS, Orders, PrimaryPosition, ReportRequest, Routes,
    SessionRequest, Vouch,
};
use crate::api::people::{Accepted, Status, SwitchoverRequest};
use crate::http::{self, Client};
use holdfast_core::member::VouchRequest;
use holdfast_core::record::Session;
use holdfast_core::topology::{Node, Topology};
use holdfast_core::{GroupName, NodeName, limits};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Every voter was asked; this is what the last one said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no voter leads right now")]
    NoLeader,
    #[error("the controller cannot be reached")]
    Unreachable(#[source] http::Error),
    #[error("the controller refused")]
    Refused(#[source] http::Error),
}

/// One answer is waited for this long; a leader's disk may be slow, a dead host must not be.
const ANSWER: Duration = Duration::from_millis(ANSWER_MS);
/// After this long without an answer, another voter may lead by now.
const PATIENCE: Duration = Duration::from_millis(300);

/// See the module.
pub struct ControllerLink {
    client: Client,
    topology: Topology,
    /// Index of the voter that led last.
    voters: Vec<Node>,
    last: AtomicUsize,
    registered: Mutex<Option<(NodeName, Session)>>,
}

impl ControllerLink {
    pub fn new(client: Client, topology: Topology) -> ControllerLink {
        let voters = topology.nodes.iter().filter(|n| n.voter).cloned().collect();
        ControllerLink { client, topology, voters, last: AtomicUsize::new(0), registered: Mutex::new(None) }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks the controller, wherever it is. Who says nothing for `patience` is not waited for alone.
    async fn ask<T, F>(&self, patience: Duration, ask: impl Fn(Node) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, http::Error>>,
    {
        if self.voters.is_empty() {
            return Err(Error::NoLeader);
        }
        let first = self.last.load(Ordering::Relaxed) % self.voters.len();
        let index_of = |id| self.voters.iter().position(|v| u64::from(v.id) == id);
        let ask = |i: usize| ask(self.voters[i].clone());
        let (at, answer) = seek::seek(self.voters.len(), first, patience, index_of, ask).await?;
        self.last.store(at, Ordering::Relaxed);
        Ok(answer)
    }

    async fn post<Q: Serialize + Sync, A: DeserializeOwned>(&self, path: &str, body: &Q) -> Result<A, Error> {
        self.ask(PATIENCE, |to| async move { self.client.post(&self.target(&to), path, body, ANSWER).await })
            .await
    }

    async fn long_poll<A: DeserializeOwned>(&self, path: &str) -> Result<A, Error> {
        let silence = Duration::from_millis(LONG_POLL_MS);
        self.ask(silence + PATIENCE, |to| async move {
            self.client.get(&self.target(&to), path, silence + ANSWER).await
        })
        .await
    }

    fn target(&self, node: &Node) -> http::Target {
        http::Target { node: node.name.clone(), addr: self.topology.api_addr(node) }
    }

    fn target_of(&self, node: &NodeName) -> Option<http::Target> {
        self.topology.node(node).map(|n| self.target(n))
    }

    /// Sends a report; registers the session first if this controller does not know it yet.
    pub async fn report(&self, report: &ReportRequest) -> Result<Orders, Error> {
        let me = (report.node.clone(), report.session);
        if self.registered().as_ref() != Some(&me) {
            self.register(&me).await?;
        }
        match self.post("/v1/host/report", report).await {
            Err(Error::Refused(e)) if e.code() == Some(http::UNKNOWN_SESSION) => {
                self.register(&me).await?;
                self.post("/v1/host/report", report).await
            }
            other => other,
        }
    }

    fn registered(&self) -> std::sync::MutexGuard<'_, Option<(NodeName, Session)>> {
        self.registered.lock().unwrap_or_else(|p| p.into_inner())
    }

    async fn register(&self, me: &(NodeName, Session)) -> Result<(), Error> {
        let request = SessionRequest { node: me.0.clone(), session: me.1 };
        let () = self.post("/v1/host/session", &request).await?;
        *self.registered() = Some(me.clone());
        Ok(())
    }

    /// Long-poll; see [`AssignmentsQuery`].
    pub async fn assignments(&self, node: &NodeName, session: Session, after: u64) -> Result<Orders, Error> {
        let AssignmentsQuery { node, session, after } =
            AssignmentsQuery { node: node.clone(), session: session.0, after };
        let path = format!("/v1/host/assignments?node={node}&session={session}&after={after}");
        self.long_poll(&path).await
    }

    /// Long-poll.
    pub async fn routes(&self, after: u64) -> Result<Routes, Error> {
        self.long_poll(&format!("/v1/host/routes?after={after}")).await
    }

    // ---- what people ask, for clients of this host ----

    /// What the controller knows.
    pub async fn status(&self) -> Result<Status, Error> {
        self.ask(PATIENCE, |to| async move { self.client.get(&self.target(&to), "/v1/status", ANSWER).await })
            .await
    }

    /// Asks for a planned switchover to whoever is fittest.
    pub async fn switch_over(&self, group: &GroupName) -> Result<Accepted, Error> {
        self.post(&format!("/v1/services/{group}/switchover"), &SwitchoverRequest::default()).await
    }

    // ---- other agents ----

    /// S14. Anything but a clear yes is a no.
    pub async fn vouch(&self, node: &NodeName, ask: &VouchRequest) -> bool {
        let Some(target) = self.target_of(node) else { return false };
        let answer: Result<Vouch, _> = self
            .client
            .post(&target, "/v1/host/vouch", ask, Duration::from_millis(limits::VOUCH_ANSWER_MS))
            .await;
        answer.is_ok_and(|v| v.yes)
    }

    /// The position of a primary, from its own agent.
    pub async fn position(
        &self,
        node: &NodeName,
        group: &GroupName,
        epoch: u64,
    ) -> Result<PrimaryPosition, http::Error> {
        let target = self.target_of(node).ok_or_else(|| http::Error::unknown_node(node))?;
        let path = format!("/v1/host/instance/{group}/position?epoch={epoch}");
        self.client.get(&target, &path, Duration::from_millis(500)).await
    }

    /// Whether the primary still leads, from its own agent.
    pub async fn lead(
        &self,
        node: &NodeName,
        group: &GroupName,
    ) -> Result<crate::api::hosts::Lead, http::Error> {
        let target = self.target_of(node).ok_or_else(|| http::Error::unknown_node(node))?;
        self.client.get(&target, &format!("/v1/host/instance/{group}/lead"), Duration::from_millis(400)).await
    }

    /// A donor's data as it flows.
    pub async fn clone_stream(&self, donor: &NodeName, group: &GroupName) -> Result<http::Body, http::Error> {
        let target = self.target_of(donor).ok_or_else(|| http::Error::unknown_node(donor))?;
        self.client.stream(&target, &format!("/v1/host/instance/{group}/clone")).await
    }
}
