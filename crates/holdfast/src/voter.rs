//! This node's voter: its store, and the controller's office while the store leads.
//!
//! Guarantees: a store that stopped because its disk was full is opened again when there is room; one that stopped for
//! any other reason stays away until the process is restarted, and the agent and the proxies go on with the other
//! voters. Does not know: what the controller decides.

use crate::clock::Clock;
use crate::controller::Office;
use crate::http::Client;
use crate::transport::HttpTransport;
use holdfast_core::topology::{Node, Topology};
use holdfast_core::{NodeName, limits};
use holdfast_store::embedded::{self, Formation, Options, Refused};
use holdfast_store::{Embedded, Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Pause before a store that lacked room is opened again; twice as long every time that it soon lacks room again, which
/// happens where a quota and not the disk is what is full.
const REOPEN: Duration = Duration::from_secs(2);
const REOPEN_MAX: Duration = Duration::from_secs(32);
/// A life of the store that lasted this long had room.
const LIVED: Duration = Duration::from_secs(60);

/// The store of the moment: another one after it was opened again.
pub type Current = watch::Receiver<Arc<Embedded>>;
/// The office of the moment, while this node's store leads.
pub type InOffice = watch::Receiver<Option<Arc<Office>>>;

/// See the module.
pub struct Voter {
    node: NodeName,
    topology: Topology,
    client: Client,
    clock: Clock,
    store: watch::Sender<Arc<Embedded>>,
    office: watch::Sender<Option<Arc<Office>>>,
}

/// Why a life of the store is over.
enum Over {
    Refused(Refused),
    LackedRoom,
}

impl Voter {
    /// Opens the store in the node's data directory.
    pub async fn open(
        topology: &Topology,
        node: &Node,
        client: Client,
        clock: Clock,
    ) -> Result<Voter, embedded::Error> {
        let store = watch::Sender::new(open(topology, &node.name, &client, true).await?);
        let office = watch::Sender::new(None);
        Ok(Voter { node: node.name.clone(), topology: topology.clone(), client, clock, store, office })
    }

    pub fn store(&self) -> Current {
        self.store.subscribe()
    }

    pub fn office(&self) -> InOffice {
        self.office.subscribe()
    }

    /// Takes part; resolves only if the other voters will never take this node in.
    pub async fn run(&self) -> Refused {
        let mut pause = REOPEN;
        loop {
            let (store, begun) = (self.store.borrow().clone(), Instant::now());
            let over = tokio::select! {
                over = watch_store(&store) => over,
                over = self.keep_office(store.clone()) => over,
            };
            self.announce(None);
            match over {
                Over::Refused(why) => return why,
                Over::LackedRoom => {
                    pause = if begun.elapsed() >= LIVED { REOPEN } else { pause };
                    self.reopen(store, pause).await;
                    pause = (pause * 2).min(REOPEN_MAX);
                }
            }
        }
    }

    /// Closes the store.
    pub async fn shutdown(&self) {
        let store = self.store.borrow().clone();
        if let Err(e) = store.shutdown().await {
            tracing::warn!(error = &e as &dyn std::error::Error, "the store did not close in order");
        }
    }

    async fn reopen(&self, stopped: Arc<Embedded>, pause: Duration) {
        // Its file failed already: it is closed, in whatever order.
        let _ = stopped.shutdown().await;
        drop(stopped);
        let mut told = String::new();
        loop {
            tokio::time::sleep(pause).await;
            if !self.has_room() {
                continue;
            }
            // What was there must still be there: a voter that began anew would have forgotten its vote.
            match open(&self.topology, &self.node, &self.client, false).await {
                Ok(store) => {
                    tracing::info!("there is room again: this node's store takes part again");
                    self.store.send_replace(store);
                    return;
                }
                Err(e) => {
                    let says = crate::agent::chain(&e);
                    if says != told {
                        tracing::error!("this node's store cannot be opened again: {says}");
                        told = says;
                    }
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        let dir = self.topology.node(&self.node).map(|n| &n.data_dir);
        let free = dir.and_then(|d| rustix::fs::statvfs(d).ok()).map(|s| s.f_bavail * s.f_frsize);
        free.is_none_or(|free| free >= limits::DISK_ROOM_BYTES)
    }

    /// Opens an office while the store leads, closes it when it no longer does. Never resolves.
    async fn keep_office(&self, store: Arc<Embedded>) -> Over {
        let mut leadership = store.leadership();
        let mut term: Option<Term> = None;
        let mut stays_until = Instant::now();
        loop {
            let now = leadership.borrow_and_update().clone();
            let in_office = term.as_ref().map(|t| t.number);
            if now.is_me && in_office != Some(now.term) {
                term = self.take_office(store.clone(), now.term);
            } else if !now.is_me && in_office.is_some() {
                tracing::info!("this node's controller leaves office");
                self.announce(None);
                term = None;
            }
            let moves = async {
                tokio::time::sleep_until(stays_until).await;
                match &mut term {
                    Some(term) => term.better_seat().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                to = moves => {
                    if !self.hand_over(&store, &to).await {
                        stays_until = Instant::now() + Duration::from_millis(limits::SEAT_RETRY_MS);
                    }
                }
            }
        }
    }

    /// Says which office is here, or that none is, then ends what waits in the one before.
    fn announce(&self, next: Option<Arc<Office>>) {
        if let Some(before) = self.office.send_replace(next) {
            before.leave();
        }
    }

    fn take_office(&self, store: Arc<Embedded>, number: u64) -> Option<Term> {
        match Office::open(self.node.clone(), number, self.topology.clone(), store, self.clock) {
            Ok(opened) => {
                tracing::info!(term = number, "this node's controller takes office");
                let better_seat = opened.better_seat();
                let mut tasks = JoinSet::new();
                tasks.spawn(opened.clone().run());
                self.announce(Some(opened));
                Some(Term { number, better_seat, _tasks: tasks })
            }
            Err(e) => {
                let error = &e as &dyn std::error::Error;
                tracing::error!(error, "the controller cannot take office");
                None
            }
        }
    }

    /// Lets the controller of `to` take office. If it does not (`false`), this one goes on.
    async fn hand_over(&self, store: &Embedded, to: &NodeName) -> bool {
        let Some(node) = self.topology.node(to) else { return false };
        tracing::info!(%to, "the controller moves to a host on which less depends");
        let moved = store.hand_over(u64::from(node.id)).await;
        if let Err(e) = &moved {
            tracing::info!(error = e as &dyn std::error::Error, "the controller did not move");
        }
        moved.is_ok()
    }
}

/// A term in office.
struct Term {
    number: u64,
    better_seat: watch::Receiver<Option<NodeName>>,
    _tasks: JoinSet<()>,
}

impl Term {
    /// Resolves when there is a better node for it.
    async fn better_seat(&mut self) -> NodeName {
        match self.better_seat.wait_for(Option::is_some).await.map(|to| to.clone()) {
            Ok(Some(to)) => to,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

async fn open(
    topology: &Topology,
    node: &NodeName,
    client: &Client,
    create: bool,
) -> Result<Arc<Embedded>, embedded::Error> {
    let node = topology.node(node).expect("the host is in its own topology");
    let voters: BTreeMap<u64, String> = topology
        .nodes
        .iter()
        .filter(|n| n.voter)
        .map(|n| (u64::from(n.id), topology.api_addr(n).to_string()))
        .collect();
    let options = Options {
        create,
        ..Options::new(node.data_dir.join("store"), u64::from(node.id), &topology.name, voters)
    };
    let transport = Arc::new(HttpTransport::new(client.clone(), topology));
    Ok(Arc::new(Embedded::open(options, transport).await?))
}

/// Says what the store waits for, until its life is over.
async fn watch_store(store: &Embedded) -> Over {
    let mut formation = store.formation();
    let mut leadership = store.leadership();
    loop {
        let now = formation.borrow_and_update().clone();
        match now {
            Formation::Refused(why) => return Over::Refused(why),
            Formation::Waiting(why) => tracing::info!("waiting for the store: {why}"),
            Formation::Formed => {
                if let Some(mismatch) = store.mismatch() {
                    tracing::warn!("{mismatch}");
                }
            }
        }
        let stopped = leadership.borrow_and_update().stopped.clone();
        if let Some(reason) = stopped {
            if store.lacked_room() {
                tracing::error!(
                    "this node's store has stopped: {reason}; it votes again when there is room on its disk"
                );
                return Over::LackedRoom;
            }
            tracing::error!(
                "this node's store has stopped: {reason}; it votes no more until it is restarted"
            );
            return std::future::pending().await;
        }
        // Once founded, or closed, one of them has nothing more to say.
        tokio::select! {
            Ok(()) = formation.changed() => {}
            Ok(()) = leadership.changed() => {}
            else => return std::future::pending().await,
        }
    }
}
