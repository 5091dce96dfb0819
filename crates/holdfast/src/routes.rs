//! Keeps the proxies' routes fresh: by long-poll from the controller, and while there is none, by asking the primary
//! itself whether it still leads (it may, under S14). That is asked too while no controller has been found yet.

use crate::agent::link::{ControllerLink, Error};
use crate::api::hosts::{LONG_POLL_MS, Lead, Routes};
use holdfast_core::{Epoch, Gate, GroupName, NodeName, RouteSnapshot, limits};
use holdfast_proxy::Route;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The controller answers a long poll sooner than this.
const SILENT_AFTER: Duration = Duration::from_millis(LONG_POLL_MS + 300);

/// The receiving ends, one per service.
pub type Receivers = BTreeMap<GroupName, watch::Receiver<Option<Arc<Route>>>>;

/// See the module.
pub struct RouteKeeper {
    link: Arc<ControllerLink>,
    senders: BTreeMap<GroupName, watch::Sender<Option<Arc<Route>>>>,
}

impl RouteKeeper {
    pub fn new(
        link: Arc<ControllerLink>,
        groups: impl Iterator<Item = GroupName>,
    ) -> (RouteKeeper, Receivers) {
        let mut senders = BTreeMap::new();
        let mut receivers = BTreeMap::new();
        for group in groups {
            let (tx, rx) = watch::channel(None);
            senders.insert(group.clone(), tx);
            receivers.insert(group, rx);
        }
        (RouteKeeper { link, senders }, receivers)
    }

    /// Runs until aborted.
    pub async fn run(self) {
        let mut after = 0;
        loop {
            let asked = Instant::now();
            match self.routes(after).await {
                Ok(Routes { version, routes }) => {
                    after = version;
                    routes.into_iter().for_each(|r| self.take(r, Instant::now()));
                }
                Err(e) => {
                    tracing::debug!(error = &e as &dyn std::error::Error, "no routes from the controller");
                    after = 0;
                    self.ask_primaries().await;
                    let pause = Duration::from_millis(100).saturating_sub(asked.elapsed());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Asks the controller. The search for one may outlast what is known, so primaries are asked meanwhile.
    async fn routes(&self, after: u64) -> Result<Routes, Error> {
        let routes = self.link.routes(after);
        tokio::pin!(routes);
        loop {
            tokio::select! {
                routes = &mut routes => return routes,
                () = tokio::time::sleep(SILENT_AFTER) => self.ask_primaries().await,
            }
        }
    }

    /// An older epoch never replaces a newer one: answers of a deposed controller may arrive late.
    fn take(&self, snapshot: RouteSnapshot, received: Instant) {
        let Some(sender) = self.senders.get(&snapshot.group) else { return };
        sender.send_if_modified(|route| {
            let stale = route.as_ref().is_some_and(|r| r.snapshot.epoch > snapshot.epoch);
            if !stale {
                *route = Some(Arc::new(Route { snapshot, received }));
            }
            !stale
        });
    }

    /// Renews what is about to run out, on the primary's own word.
    async fn ask_primaries(&self) {
        let mut asked = tokio::task::JoinSet::new();
        for (group, sender) in &self.senders {
            let Some(route) = sender.borrow().clone() else { continue };
            let Some(writer) = route.snapshot.writer.clone().filter(|_| route.snapshot.gate == Gate::Open)
            else {
                continue;
            };
            let (link, group) = (self.link.clone(), group.clone());
            asked.spawn(async move {
                let epoch = route.snapshot.epoch;
                ask(&link, &writer.node, &group, epoch).await.map(|lead| (route, lead))
            });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some((route, lead))) = answer {
                let valid_for_ms = lead.for_ms.min(limits::ROUTE_VALID_MS);
                // What the route said of waiting may be from before the primary was told otherwise.
                let snapshot = RouteSnapshot { valid_for_ms, acks: lead.acks, ..route.snapshot.clone() };
                self.take(snapshot, Instant::now());
            }
        }
    }
}

/// How long the primary may go on, if it still leads the epoch. Its answer took time: what it may be wrong by is in
/// the lease's margin.
async fn ask(link: &ControllerLink, node: &NodeName, group: &GroupName, epoch: Epoch) -> Option<Lead> {
    let asked = Instant::now();
    let lead = link.lead(node, group).await.ok().filter(|l| l.epoch == epoch)?;
    let took = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
    let for_ms = lead.for_ms.saturating_sub(took);
    (for_ms > 0).then_some(Lead { for_ms, ..lead })
}
