//! What one instance is: handed to a driver when it is made.

use holdfast_core::topology::{self, Durability, Management};
use holdfast_core::{GroupName, NodeName, UserName};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A database account. Its password is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    pub user: UserName,
    pub password: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({})", self.user)
    }
}

/// An account of the topology with what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserAccount {
    pub account: Account,
    /// In the engine's own words: `ALL PRIVILEGES ON shop.*`, `~shop:* +@all`.
    pub grants: Vec<String>,
}

/// What one instance is.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Which flavour.
    pub engine: topology::Engine,
    /// Directory of the engine's programs; `None`: found through `PATH`.
    pub programs: Option<PathBuf>,
    pub group: GroupName,
    pub node: NodeName,
    pub server_id: u32,
    /// This instance's own directory; below it `data/`, `run/`, `saved/`, `log/`.
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub management: Management,
    pub durability: Durability,
    pub engine_options: BTreeMap<String, String>,
    pub replication: Account,
    /// Created by [`Engine::accounts`].
    pub users: Vec<UserAccount>,
    /// Members by server id, to name ackers.
    pub peers: BTreeMap<u32, NodeName>,
    /// Where members' engines listen.
    pub addresses: BTreeMap<NodeName, SocketAddr>,
}

impl Spec {
    pub(crate) fn programs(&self) -> Programs {
        Programs(self.programs.clone())
    }
}

/// Where the engine's programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs(Option<PathBuf>);

impl Programs {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.as_ref().map_or_else(|| PathBuf::from(name), |dir| dir.join(name))
    }
    /// The file that a start would run.
    pub(crate) fn find(&self, name: &str) -> PathBuf {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut all = std::env::split_paths(&path).map(|dir| dir.join(name));
        let mut found = || all.find(|file| file.is_file());
        self.0.as_ref().map_or_else(|| found().unwrap_or_else(|| self.path(name)), |dir| dir.join(name))
    }
}
