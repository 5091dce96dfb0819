//! Backups that the controller ordered: made of this host's instances, proven if that is wished, and pruned after.
//!
//! Guarantees: one at a time on a host; an order is carried out at most once in a life of the agent; its end is told until the
//! controller knows it. Does not know: when one is due, nor whether another host would be fitter.

use super::{Instance, chain};
use crate::api::hosts::{BackupDone, BackupOrder};
use crate::backup::{self, Error, hot, verify};
use crate::clock::unix_ms;
use crate::config::repository::Place;
use holdfast_backup::{Progress, Prune, Repository, Retention};
use holdfast_core::schedule::End;
use holdfast_core::{GroupName, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What scheduled backups are made with.
pub struct Options {
    pub node: NodeName,
    pub place: Place,
    pub retention: Retention,
    pub verify: bool,
    /// The engines' sockets.
    pub sockets: BTreeMap<GroupName, PathBuf>,
    pub stir: Arc<Notify>,
}

/// See the module.
pub struct Backups {
    options: Options,
    state: Mutex<State>,
    /// Held while one is made.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    taken: BTreeSet<(GroupName, u64)>,
    done: Vec<BackupDone>,
}

impl Backups {
    pub fn new(options: Options) -> Arc<Backups> {
        Arc::new(Backups { options, state: Mutex::default(), turn: tokio::sync::Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the controller does not know yet.
    pub fn done(&self) -> Vec<BackupDone> {
        self.lock().done.clone()
    }

    /// Begins what is new. What is not ordered any more is known to the controller.
    pub fn take(self: &Arc<Self>, orders: &[BackupOrder], instances: &[Arc<Instance>]) {
        let mut state = self.lock();
        let ordered = |d: &BackupDone| orders.iter().any(|o| (&o.group, o.number) == (&d.group, d.number));
        state.done.retain(ordered);
        for order in orders {
            let instance = instances.iter().find(|i| *i.group() == order.group).cloned();
            if let Some(instance) = instance
                && state.taken.insert((order.group.clone(), order.number))
            {
                tokio::spawn(self.clone().carry_out(order.clone(), instance));
            }
        }
    }

    async fn carry_out(self: Arc<Self>, order: BackupOrder, instance: Arc<Instance>) {
        let turn = self.turn.lock().await;
        instance.set_activity(Some("making a backup".into()));
        let outcome = self.make(&order.group).await;
        instance.set_activity(None);
        drop(turn);
        let end = match outcome {
            Ok(says) => End { at_unix_ms: unix_ms(), good: true, says },
            Err(e) => End { at_unix_ms: unix_ms(), good: false, says: chain(&e) },
        };
        match end.good {
            true => tracing::info!(group = %order.group, number = order.number, "{}", end.says),
            false => tracing::warn!(group = %order.group, number = order.number, "no backup: {}", end.says),
        }
        self.lock().done.push(BackupDone { group: order.group, number: order.number, end });
        self.options.stir.notify_one();
    }

    async fn make(&self, group: &GroupName) -> Result<String, Error> {
        let Options { node, place, sockets, .. } = &self.options;
        let socket = sockets.get(group).cloned();
        let socket = socket.ok_or_else(|| Error::Refused(format!("{group} has no instance here")))?;
        let key = backup::key::resolve(&place.key).await?;
        let repository = backup::open(&place.at, key).await?;
        let hot = hot::Hot {
            service: group.to_string(),
            socket,
            origin: node.to_string(),
            full: false,
            count: false,
            repository_path: place.at.directory().map(ToOwned::to_owned),
        };
        let made = hot::backup(&repository, hot, Arc::<Progress>::default()).await?.summary;
        let mut says = format!("backup {} at {}", made.id, made.position.as_deref().unwrap_or("?"));
        if self.options.verify {
            let what = verify::Verify {
                service: group.to_string(),
                id: made.id.clone(),
                scratch: std::env::temp_dir(),
            };
            let proof = verify::verify(&repository, what, Arc::<Progress>::default()).await?;
            if !proof.good {
                let words =
                    format!("backup {} was made and is not good; `holdfast backup show` says why", made.id);
                return Err(Error::Refused(words));
            }
            says.push_str(", proven");
        }
        // What cannot be removed now can be later; the backup is there.
        if let Err(e) = self.prune(&repository, group).await {
            tracing::warn!(%group, "old backups were not removed: {}", chain(&e));
            says.push_str("; old ones were not removed");
        }
        Ok(says)
    }

    async fn prune(&self, repository: &Repository, group: &GroupName) -> Result<(), Error> {
        let retention = BTreeMap::from([(group.to_string(), self.options.retention)]);
        let prune = Prune { retention, now_unix_ms: unix_ms(), ..Prune::default() };
        let repository = repository.clone();
        backup::blocking(move || Ok(repository.prune(&prune).map(drop)?)).await
    }
}
