//! What drills ask of a service, in whatever protocol it speaks: single writes with an id of their own, registers, and
//! what of all that a server has.
//!
//! Guarantees: everything is bounded in time. An error says whether the write certainly was not executed.
//! Does not know: why anything is written.

mod resp;
pub mod sql;

use crate::ledger::Account;
use holdfast_core::topology::Family;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;

/// Holding while there is no primary included.
const CONNECT: Duration = Duration::from_secs(10);

/// Why something was not done, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Sql(#[from] mysql_async::Error),
    /// The server's, or the proxy's, own words.
    #[error("{0}")]
    Resp(String),
    #[error("the connection broke")]
    Broken(#[source] std::io::Error),
    #[error("{0} did not answer")]
    Late(SocketAddr),
    #[error("the answer is not what it should be")]
    Garbled,
}

impl Error {
    /// It says that nothing was executed.
    pub fn not_executed(&self) -> bool {
        match self {
            Error::Sql(e) => sql::not_executed(e),
            Error::Resp(says) => resp::not_executed(says),
            Error::Broken(_) | Error::Late(_) | Error::Garbled => false,
        }
    }
    /// An engine's own way to say that it takes no writes.
    pub fn refused_by_engine(&self) -> bool {
        match self {
            Error::Sql(e) => sql::refused_by_engine(e),
            Error::Resp(says) => resp::not_executed(says),
            Error::Broken(_) | Error::Late(_) | Error::Garbled => false,
        }
    }
    /// An answer leaves the connection usable; anything else does not.
    pub fn is_answer(&self) -> bool {
        matches!(self, Error::Sql(mysql_async::Error::Server(_)) | Error::Resp(_))
    }
}

/// Under whose primacy an engine took a write, as far as it tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Primacy {
    Epoch(u64),
    /// A history has a name and no number: which is the later one, only time tells.
    History(String),
    /// Logged under a follower's name: positions would not tell it apart.
    Misnumbered,
}

/// A connection that has logged in.
pub enum Client {
    Sql(sql::Client),
    Resp(resp::Client),
}

impl Client {
    pub async fn connect(addr: SocketAddr, account: &Account) -> Result<Client, Error> {
        let connect = async {
            match account.family {
                Family::MySql => sql::Client::connect(addr, account).await.map(Client::Sql),
                Family::Redis => resp::Client::connect(addr, account).await.map(Client::Resp),
            }
        };
        tokio::time::timeout(CONNECT, connect).await.unwrap_or(Err(Error::Late(addr)))
    }

    /// Asks for something.
    pub async fn ping(&mut self) -> Result<(), Error> {
        match self {
            Client::Sql(c) => c.ping().await,
            Client::Resp(c) => c.ping().await,
        }
    }
    /// Makes what writes need.
    pub async fn prepare(&mut self) -> Result<(), Error> {
        match self {
            Client::Sql(c) => c.prepare().await,
            Client::Resp(_) => Ok(()),
        }
    }
    /// Removes all that drills wrote.
    pub async fn clear(&mut self) -> Result<(), Error> {
        match self {
            Client::Sql(c) => c.clear().await,
            Client::Resp(c) => c.clear().await,
        }
    }
    /// One write.
    pub async fn write(&mut self, id: u64) -> Result<(), Error> {
        match self {
            Client::Sql(c) => c.write(id).await,
            Client::Resp(c) => c.write(id).await,
        }
    }
    /// One write to an engine past every proxy, confirmed by a replica if `sync`: when that was acknowledged, and under
    /// whose primacy, if the engine lived to tell.
    pub async fn write_directly(&mut self, id: u64, sync: bool) -> Result<(Instant, Option<Primacy>), Error> {
        match self {
            Client::Sql(c) => c.write_directly(id).await,
            Client::Resp(c) => c.write_directly(id, sync).await,
        }
    }
    /// Ids in a range that are there.
    pub async fn ids(&mut self, range: Range<u64>) -> Result<BTreeSet<u64>, Error> {
        match self {
            Client::Sql(c) => c.ids(range).await,
            Client::Resp(c) => c.ids(range).await,
        }
    }
    /// Makes a register, with 0 in it.
    pub async fn make_register(&mut self, row: u64) -> Result<(), Error> {
        match self {
            Client::Sql(c) => c.make_register(row).await,
            Client::Resp(c) => c.set_register(row, 0).await,
        }
    }
    pub async fn set_register(&mut self, row: u64, value: u64) -> Result<(), Error> {
        match self {
            Client::Sql(c) => c.set_register(row, value).await,
            Client::Resp(c) => c.set_register(row, value).await,
        }
    }
    /// `None`: there is no such register.
    pub async fn register(&mut self, row: u64) -> Result<Option<u64>, Error> {
        match self {
            Client::Sql(c) => c.register(row).await,
            Client::Resp(c) => c.register(row).await,
        }
    }
    /// Says goodbye.
    pub async fn disconnect(self) {
        match self {
            Client::Sql(c) => c.disconnect().await,
            Client::Resp(_) => {}
        }
    }
}

/// What drills write to: tables in the database of their account, or the beginnings of keys.
pub const NAMES: [&str; 2] = ["holdfast_drill_ledger", "holdfast_drill_register"];
