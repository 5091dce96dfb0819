//! Voters in one process, connected by links that tests cut and mend.

use holdfast_store::embedded::{Embedded, Formation, Options, RpcKind, Transport, TransportError};
use holdfast_store::{Error, Expect, LeaseOp, Outcome, Store, Txn, Write};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

pub const DEADLINE: Duration = Duration::from_secs(15);

/// Polls until `ready` gives something; panics with `what` after the deadline.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ready: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// What all voters share: who is there and which links are cut.
#[derive(Default)]
pub struct Net {
    voters: Mutex<BTreeMap<u64, Embedded>>,
    cut: Mutex<BTreeSet<(u64, u64)>>,
}

/// One voter's end of the net.
struct Link {
    net: Weak<Net>,
    from: u64,
}

#[async_trait::async_trait]
impl Transport for Link {
    async fn send(&self, to: u64, kind: RpcKind, body: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let unreachable = |what: &str| TransportError::Unreachable { to, what: what.to_owned() };
        let net = self.net.upgrade().ok_or_else(|| unreachable("the test is over"))?;
        let down = || net.cut.lock().unwrap().contains(&(self.from, to));
        if down() {
            return Err(unreachable("cut"));
        }
        let voter = net.voters.lock().unwrap().get(&to).cloned();
        let voter = voter.ok_or_else(|| unreachable("not running"))?;
        let answer = voter.handle(kind, &body).await;
        if down() {
            return Err(unreachable("cut"));
        }
        answer.map_err(|e| TransportError::Refused { to, what: e.to_string() })
    }
}

/// A deployment's voters and their directories.
pub struct Cluster {
    pub net: Arc<Net>,
    pub root: TempDir,
    pub addresses: BTreeMap<u64, String>,
    pub tune: fn(&mut Options),
}

impl Cluster {
    pub fn new(voters: u64) -> Cluster {
        Cluster {
            net: Arc::default(),
            root: tempfile::tempdir().unwrap(),
            addresses: (1..=voters).map(|id| (id, format!("127.0.0.{id}:1"))).collect(),
            tune: |_| {},
        }
    }

    /// Starts all and waits for a leader.
    pub async fn started(voters: u64) -> Cluster {
        let cluster = Cluster::new(voters);
        cluster.start_all().await;
        cluster.leader().await;
        cluster
    }

    pub async fn start_all(&self) {
        for id in self.addresses.keys() {
            self.start(*id).await;
        }
    }

    pub fn dir(&self, id: u64) -> PathBuf {
        self.root.path().join(id.to_string())
    }

    pub fn options(&self, id: u64) -> Options {
        let mut options = Options::new(self.dir(id), id, "test", self.addresses.clone());
        (self.tune)(&mut options);
        options
    }

    pub fn transport(&self, from: u64) -> Arc<dyn Transport> {
        Arc::new(Link { net: Arc::downgrade(&self.net), from })
    }

    pub async fn start(&self, id: u64) -> Embedded {
        let voter = Embedded::open(self.options(id), self.transport(id)).await.unwrap();
        self.net.voters.lock().unwrap().insert(id, voter.clone());
        voter
    }

    pub async fn stop(&self, id: u64) {
        let voter = self.net.voters.lock().unwrap().remove(&id).unwrap();
        voter.shutdown().await.unwrap();
    }

    /// A voter that runs.
    pub fn get(&self, id: u64) -> Embedded {
        self.net.voters.lock().unwrap()[&id].clone()
    }

    pub fn running(&self) -> Vec<u64> {
        self.net.voters.lock().unwrap().keys().copied().collect()
    }

    /// Cuts a voter off from all others.
    pub fn isolate(&self, id: u64) {
        let mut cut = self.net.cut.lock().unwrap();
        for other in self.addresses.keys().filter(|other| **other != id) {
            cut.insert((id, *other));
            cut.insert((*other, id));
        }
    }

    pub fn heal(&self) {
        self.net.cut.lock().unwrap().clear();
    }

    /// The established leader.
    pub async fn leader(&self) -> u64 {
        self.leader_of(&self.running()).await
    }

    /// The established leader among some voters.
    pub async fn leader_of(&self, ids: &[u64]) -> u64 {
        let leads = |id: &&u64| self.get(**id).leadership().borrow().is_me;
        until("a leader", || async { ids.iter().find(leads).copied() }).await
    }

    pub async fn formed(&self, id: u64) {
        let voter = self.get(id);
        until("formed", || async { (*voter.formation().borrow() == Formation::Formed).then_some(()) }).await;
    }

    /// Commits on whoever leads, and goes on asking through elections.
    pub async fn commit(&self, txn: Txn) -> Outcome {
        until("a commit", || async {
            let leader = self.leader().await;
            match self.get(leader).commit(txn.clone()).await {
                Ok(outcome) => Some(outcome),
                Err(error) => {
                    assert!(!matches!(error, Error::Refused(_)), "{error}");
                    None
                }
            }
        })
        .await
    }

    /// Waits until a voter has applied a key's value.
    pub async fn sees(&self, id: u64, key: &str, value: &[u8]) {
        let voter = self.get(id);
        until(&format!("voter {id} sees {key}"), || async {
            voter.local().get(key).is_some_and(|v| *v.bytes == *value).then_some(())
        })
        .await;
    }
}

pub fn put(key: &str, value: &[u8]) -> Txn {
    write(key, Expect::Any, Some(value))
}

pub fn write(key: &str, expect: Expect, value: Option<&[u8]>) -> Txn {
    let value = value.map(<[u8]>::to_vec);
    Txn { writes: vec![Write { key: key.to_owned(), expect, value }], leases: vec![] }
}

pub fn grant(lease: &str, token: u64, holder: Option<&str>) -> Txn {
    let holder = holder.map(str::to_owned);
    Txn { writes: vec![], leases: vec![LeaseOp::Grant { lease: lease.to_owned(), token, holder }] }
}

pub fn renew(lease: &str, token: u64, holder: &str) -> Txn {
    let (lease, holder) = (lease.to_owned(), holder.to_owned());
    Txn { writes: vec![], leases: vec![LeaseOp::Renew { lease, token, holder }] }
}

pub fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { .. })
}
