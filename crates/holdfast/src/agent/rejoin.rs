//! The way back into the group: comparing with the primary, and rebuilding from it. Both need the primary's agent;
//! the engine's driver knows no other host.

use super::link::ControllerLink;
use crate::http;
use axum::body::Body;
use axum::response::Response;
use holdfast_core::topology::{Service, Topology};
use holdfast_core::{Epoch, GroupName, NodeName, Position};
use holdfast_engine::{CloneProgress, Engine, Saved};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a member cannot rejoin yet. Its data is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} does not say what it has")]
    Position(NodeName, #[source] http::Error),
    #[error("{0} does not lead yet")]
    NotReady(NodeName),
    #[error("{0} does not give its data")]
    Donor(NodeName, #[source] http::Error),
    #[error("the topology has no node {0}")]
    UnknownNode(NodeName),
    #[error("rebuilding")]
    Engine(#[from] holdfast_engine::Error),
}

/// See the module.
pub struct Rejoin {
    group: GroupName,
    topology: Topology,
    engine: Arc<dyn Engine>,
    link: Arc<ControllerLink>,
}

impl Rejoin {
    pub fn new(
        group: GroupName,
        topology: Topology,
        engine: Arc<dyn Engine>,
        link: Arc<ControllerLink>,
    ) -> Rejoin {
        Rejoin { group, topology, engine, link }
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What the primary of `epoch` has, asked now: later than anything this instance received. And its version.
    pub async fn position_of(&self, primary: &NodeName, epoch: Epoch) -> Result<(Position, String), Error> {
        match self.link.position(primary, &self.group, epoch.0).await {
            Ok(answer) => Ok((answer.position, answer.version)),
            Err(e) if e.is_refusal() => Err(Error::NotReady(primary.clone())),
            Err(e) => Err(Error::Position(primary.clone(), e)),
        }
    }

    pub fn engine_addr(&self, node: &NodeName, service: &Service) -> Result<SocketAddr, Error> {
        let node = self.topology.node(node).ok_or_else(|| Error::UnknownNode(node.clone()))?;
        Ok(SocketAddr::new(node.address, service.engine_port))
    }

    /// Replaces all data by the donor's. What the donor does not have was saved first.
    pub async fn reclone(&self, donor: &NodeName, say: impl Fn(String)) -> Result<Option<Saved>, Error> {
        let Some(copy) = self.engine.copy_by_stream() else {
            say("throwing its data away, to get all of it by following".into());
            self.engine.discard().await?;
            return Ok(None);
        };
        let body =
            self.link.clone_stream(donor, &self.group).await.map_err(|e| Error::Donor(donor.clone(), e))?;
        let (progress, mut seen) = watch::channel(CloneProgress::default());
        let cloning = copy.clone_into(Box::pin(body), progress);
        tokio::pin!(cloning);
        loop {
            tokio::select! {
                done = &mut cloning => return Ok(done?),
                Ok(()) = seen.changed() => say(progress_text(donor, &seen.borrow_and_update())),
            }
        }
    }
}

fn progress_text(donor: &NodeName, p: &CloneProgress) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let phase = format!("{:?}", p.phase).to_lowercase();
    format!(
        "rebuilding from {donor}: {phase}, {:.1} MiB received (compressed) for {:.1} MiB of data",
        mib(p.received_bytes),
        mib(p.data_bytes)
    )
}

/// The donor's side: the stream as an HTTP body of unknown length. It checks itself, so a broken connection does not
/// pass for its end.
pub async fn serve_clone(instance: &super::Instance) -> Result<Response, holdfast_engine::Error> {
    let Some(copy) = instance.engine().copy_by_stream() else {
        let says = "this engine's data is had by following it, and not as a stream";
        return Err(holdfast_engine::Error::Precondition(says.into()));
    };
    let source = copy.clone_source().await?;
    let stream = tokio_util::io::ReaderStream::with_capacity(source.reader, CLONE_CHUNK_BYTES);
    Ok(Response::new(Body::from_stream(stream)))
}

const CLONE_CHUNK_BYTES: usize = 256 << 10;
