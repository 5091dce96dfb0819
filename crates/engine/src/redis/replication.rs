//! Following, ceasing to follow, and beginning a history of its own.
//!
//! Guarantees: nothing is written before the offset counts it, and before it is remembered what the new history grew out
//! of; a server that followed and has neither its old data nor all of the new is never told to lead.
//! Does not know: who should follow whom.

use super::observe::Look;
use super::session::{Batch, Conn};
use super::settings::{NOWHERE, SHUT};
use super::{BATCH, Before, RedisEngine, accounts};
use crate::Error;
use holdfast_core::position::RedisPosition;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a copy waits for others that may want one as well, while a log is made by asking for one.
const HELD_BACK_S: &str = "5";
/// With 0 here, no replicas are ever missed.
const LAG_S: &str = "10";
const LOG_POLL: Duration = Duration::from_millis(2);

impl RedisEngine {
    /// Also where it goes on as a replica of nobody: what it received is applied, and its place is kept.
    pub(super) async fn follow_nobody(&self) -> Result<(), Error> {
        let look = self.look_raw("looking before it stops receiving").await?;
        if look.upstream()?.is_none() {
            return Ok(());
        }
        self.act("stopping to receive", follow(NOWHERE.0, NOWHERE.1)).await?;
        self.state().heard = None;
        Ok(())
    }

    pub(super) async fn replicate_from(&self, primary: SocketAddr) -> Result<(), Error> {
        let look = self.look_raw("looking before following").await?;
        let host = primary.ip().to_string();
        if look.upstream()? == Some((host.clone(), primary.port())) {
            return Ok(());
        }
        if look.is_writable()? {
            return Err(Error::Precondition("it is writable: close it first (S3)".into()));
        }
        let before = match self.position_of(&look)? {
            Some(position) if position.histories().next().is_none() => Before::Nothing,
            _ => Before::Something,
        };
        self.state().followed.get_or_insert(before);
        let (name, own) = (accounts::replica_name(&self.spec, &self.spec.node), self.spec.listen);
        let (ip, port) = (own.ip().to_string(), own.port().to_string());
        let set = ["CONFIG", "SET", "masteruser", &name, "masterauth", &self.spec.replication.password];
        let announce = ["replica-announce-ip", &ip, "replica-announce-port", &port];
        let batch = Batch::new(&[&set[..], &announce[..]].concat());
        let batch = batch.and(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        self.act("following", batch.followed_by(&follow(&host, primary.port()))).await?;
        self.state().heard = None;
        Ok(())
    }

    /// Refuses where [`RedisEngine::begin_history`] must not be called.
    pub(super) async fn fit_to_open(&self) -> Result<(), Error> {
        let look = self.look_raw("looking before it leads").await?;
        if look.upstream()?.is_some() {
            return Err(Error::Precondition("it is a replica: it stops receiving first (S7)".into()));
        }
        if self.position_of(&look)?.is_none() {
            return Err(Error::Precondition(
                "its data is not whole: a resynchronisation broke off when the old data was gone already"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Becomes a primary, and takes writes when all that a history needs is there.
    pub(super) async fn begin_history(&self) -> Result<(), Error> {
        let look = self.look_raw("looking before it opens").await?;
        if look.is_writable()? {
            return Ok(());
        }
        self.fit_to_open().await?;
        let shut =
            Batch::new(&["CONFIG", "SET", "min-replicas-to-write", SHUT, "min-replicas-max-lag", LAG_S]);
        self.act("opening", shut.and(&["REPLICAOF", "NO", "ONE"])).await?;
        self.require_log().await?;
        let look = self.look_raw("looking at the new history").await?;
        let position = self.position_of(&look)?.ok_or_else(|| {
            Error::Precondition("it does not say where its new history begins; it stays closed".into())
        })?;
        // Others compare with it, and the server forgets.
        self.remember(&position).await?;
        self.act("opening", Batch::new(&["CONFIG", "SET", "min-replicas-to-write", "0"])).await?;
        Ok(())
    }

    /// A primary that never had a replica keeps no log, and its offset stands still whatever is written. A replica makes
    /// it keep one, though it leaves at once.
    async fn require_log(&self) -> Result<(), Error> {
        let doing = "making the engine keep a log";
        let has_log = |look: &Look| look.info.on("repl_backlog_active");
        let look = self.look_raw(doing).await?;
        if has_log(&look)? {
            return Ok(());
        }
        // What its data is so far is one history with what comes; the log begins another.
        let so_far = self.position_of(&look)?;
        let keep = super::info::settings(
            &self
                .act(doing, Batch::new(&["CONFIG", "GET", "repl-diskless-sync", "repl-diskless-sync-delay"]))
                .await?[0],
        );
        // So that no copy is made of what nobody will read.
        let hold_back = ["repl-diskless-sync", "yes", "repl-diskless-sync-delay", HELD_BACK_S];
        self.act(doing, Batch::new(&[&["CONFIG", "SET"], &hold_back[..]].concat())).await?;
        let asked = timeout(BATCH, self.ask_for_log()).await;
        let mut restore = vec!["CONFIG", "SET"];
        keep.iter().for_each(|(name, value)| restore.extend([name.as_str(), value.as_str()]));
        self.act(doing, Batch::new(&restore)).await?;
        asked.map_err(|_| Error::Unresponsive { doing, after_ms: BATCH.as_millis() as u64 })??;
        let look = self.look_raw(doing).await?;
        match (so_far, self.position_of(&look)?) {
            (Some(before), Some(now)) if has_log(&look)? => {
                let history = look.info.history("master_replid")?;
                self.remember(&RedisPosition::at(history, now.offset(), before.histories())).await
            }
            _ => Err(Error::Precondition("the engine keeps no log of its writes; it stays closed".into())),
        }
    }

    async fn ask_for_log(&self) -> Result<(), Error> {
        let failed = |source: std::io::Error| Error::Failed {
            doing: "asking for a log as a replica",
            source: Box::new(source),
        };
        let mut conn = Conn::open(&self.door()).await.map_err(failed)?;
        conn.ask(&Batch::new(&["REPLCONF", "capa", "eof", "capa", "psync2"])).await.map_err(failed)?;
        conn.send(&Batch::new(&["PSYNC", "?", "-1"])).await.map_err(failed)?;
        let until = Instant::now() + BATCH;
        while !self.look_raw("waiting for the log").await?.info.on("repl_backlog_active")? {
            if Instant::now() > until {
                break;
            }
            sleep(LOG_POLL).await;
        }
        Ok(())
    }
}

fn follow(host: &str, port: u16) -> Batch {
    Batch::new(&["REPLICAOF", host, &port.to_string()])
}
