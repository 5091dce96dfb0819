//! MariaDB and MySQL.

use super::{Error, NAMES, Primacy};
use crate::ledger::Account;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use tokio::time::Instant;

/// See the module above.
pub struct Client(Conn);

/// A primary's server id is epoch·128 + node; a follower's has the highest bit set.
const NODE_BITS: u32 = 7;
const FOLLOWER_BIT: u64 = 1 << 31;

/// The proxy's answers that promise that nothing was executed begin like that.
pub fn not_executed(e: &mysql_async::Error) -> bool {
    match e {
        mysql_async::Error::Server(e) => e.message.contains("not executed"),
        _ => false,
    }
}

/// Read-only, no such table yet.
pub fn refused_by_engine(e: &mysql_async::Error) -> bool {
    const READ_ONLY: u16 = 1290;
    const NO_SUCH_TABLE: u16 = 1146;
    matches!(e, mysql_async::Error::Server(e) if matches!(e.code, READ_ONLY | NO_SUCH_TABLE))
}

/// A bare connection, for whoever has other questions.
pub async fn connect(addr: SocketAddr, account: &Account) -> Result<Conn, mysql_async::Error> {
    let opts = OptsBuilder::default()
        .ip_or_hostname(addr.ip().to_string())
        .tcp_port(addr.port())
        .user(Some(&account.user))
        .pass(Some(&account.password))
        .db_name(Some(&account.database))
        .prefer_socket(false);
    Conn::new(Opts::from(opts)).await
}

impl Client {
    pub async fn connect(addr: SocketAddr, account: &Account) -> Result<Client, Error> {
        Ok(Client(connect(addr, account).await?))
    }
    async fn run(&mut self, sql: impl AsRef<str>) -> Result<(), Error> {
        Ok(self.0.query_drop(sql.as_ref()).await?)
    }
    pub async fn ping(&mut self) -> Result<(), Error> {
        self.run("SELECT 1").await
    }
    pub async fn prepare(&mut self) -> Result<(), Error> {
        self.run(
            "CREATE TABLE IF NOT EXISTS holdfast_drill_ledger (id BIGINT UNSIGNED PRIMARY KEY, at TIMESTAMP(6)) \
             ENGINE=InnoDB",
        )
        .await?;
        self.run(
            "CREATE TABLE IF NOT EXISTS holdfast_drill_register (id BIGINT UNSIGNED PRIMARY KEY, v BIGINT UNSIGNED)",
        )
        .await
    }
    pub async fn clear(&mut self) -> Result<(), Error> {
        for table in NAMES {
            self.run(format!("DROP TABLE IF EXISTS {table}")).await?;
        }
        Ok(())
    }
    pub async fn write(&mut self, id: u64) -> Result<(), Error> {
        self.run(format!("INSERT INTO holdfast_drill_ledger VALUES ({id}, NOW(6))")).await
    }
    /// `RETURNING` would tell in one, but only MariaDB has it. The connection lives no longer than the role in which the
    /// server gave it its id.
    pub async fn write_directly(&mut self, id: u64) -> Result<(Instant, Option<Primacy>), Error> {
        self.write(id).await?;
        let acked = Instant::now();
        // An error here means that the connection broke: the write was acknowledged all the same.
        let server: Option<u64> = self.0.query_first("SELECT @@server_id").await.unwrap_or_default();
        let primacy = server.map(|id| match id & FOLLOWER_BIT {
            0 => Primacy::Epoch(id >> NODE_BITS),
            _ => Primacy::Misnumbered,
        });
        Ok((acked, primacy))
    }
    pub async fn ids(&mut self, range: Range<u64>) -> Result<BTreeSet<u64>, Error> {
        let (first, last) = (range.start, range.end);
        let sql = format!("SELECT id FROM holdfast_drill_ledger WHERE id >= {first} AND id < {last}");
        let ids: Vec<u64> = self.0.query(sql).await?;
        Ok(ids.into_iter().collect())
    }
    pub async fn make_register(&mut self, row: u64) -> Result<(), Error> {
        self.run(format!("REPLACE INTO holdfast_drill_register VALUES ({row}, 0)")).await
    }
    pub async fn set_register(&mut self, row: u64, value: u64) -> Result<(), Error> {
        self.run(format!("UPDATE holdfast_drill_register SET v = {value} WHERE id = {row}")).await
    }
    pub async fn register(&mut self, row: u64) -> Result<Option<u64>, Error> {
        let sql = format!("SELECT v FROM holdfast_drill_register WHERE id = {row}");
        Ok(self.0.query_first(sql).await?)
    }
    pub async fn disconnect(self) {
        let _ = self.0.disconnect().await;
    }
}
