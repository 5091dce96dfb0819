//! Closing for writes (S3).
//!
//! Guarantees: after [`RedisEngine::fence`] succeeds the server follows nobody and takes no write, and no client that was
//! connected is. It is closed first and the clients are cut then: from the one command that closes it on, nothing is
//! written, and a client that waits for an acknowledgement gets an error.
//! Does not know: when to kill; an error says that it is time to.

use super::info::{Client, clients};
use super::observe::Look;
use super::session::Batch;
use super::settings::NOWHERE;
use super::{RedisEngine, accounts};
use crate::Error;
use holdfast_core::Position;
use holdfast_wire::resp::value::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const WAITERS_POLL: Duration = Duration::from_millis(2);
/// A replica that was asked has answered by then, if it answers soon at all.
const ASKED: Duration = Duration::from_millis(10);
/// How often a pause of writes is lifted for a moment: a replica that does not answer is not waited for this way.
const LIFTS_MAX: u32 = 3;
/// A pause of writes ends by itself, in case nobody closes after it.
const PAUSE_MORE: Duration = Duration::from_secs(1);
/// A step of closing gets at least this, so that a spent deadline still says what it failed at.
const SLICE_MIN: Duration = Duration::from_millis(1);

impl RedisEngine {
    pub(super) async fn fence(&self, within: Duration) -> Result<Option<Position>, Error> {
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now()).max(SLICE_MIN);
        let connected = self.take_no_writes(left()).await?;
        let mut cut = Batch::default();
        for client in connected.iter().filter(|c| self.is_stranger(c)) {
            // One that left by itself meanwhile is no failure.
            cut = cut.and(&["CLIENT", "KILL", "ID", &client.id]);
        }
        let cut = cut.followed_by(&Look::batch());
        let answers = self.acting.run("cutting clients", &self.door(), cut, left()).await?;
        let look = Look::read(&answers[answers.len() - 3..])?;
        if look.is_primary()? {
            return Err(Error::Precondition("it was opened while it was being closed".into()));
        }
        Ok(self.position_of(&look)?.map(Position::Redis))
    }

    /// Becomes the replica of nobody, if it is a primary: what is sent from then on is refused, and so is what a pause
    /// of writes held back. Those that are connected then.
    pub(super) async fn take_no_writes(&self, within: Duration) -> Result<Vec<Client>, Error> {
        self.require_running()?;
        let until = Instant::now() + within;
        let left = || until.saturating_duration_since(Instant::now()).max(SLICE_MIN);
        let door = self.door();
        let port = NOWHERE.1.to_string();
        // Its own replication, if it is a replica, is left alone.
        let looked = self.acting.run("closing", &door, Look::batch(), left()).await?;
        let mut batch = Batch::default();
        if Look::read(&looked)?.is_primary()? {
            batch = batch.and(&["REPLICAOF", NOWHERE.0, &port]);
        }
        batch = batch.and(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        batch = batch.and(&["CLIENT", "UNPAUSE"]).and(&["CLIENT", "LIST"]);
        let answers = self.acting.run("closing", &door, batch, left()).await?;
        Ok(clients(answers.last().unwrap_or(&Value::Nil)))
    }

    /// A connection that is neither the driver's own nor a replica's.
    fn is_stranger(&self, client: &Client) -> bool {
        let replication = client.flags.contains(['S', 'M']) && !client.flags.contains('O');
        client.user != self.door().user && !replication && !accounts::is_replica(&self.spec, &client.user)
    }

    /// Holds writes back until no client waits for an acknowledgement; how many do still.
    ///
    /// While writes are paused the server asks no replica what it has, and by itself a replica says so once a second: a
    /// client whose question came with the pause would wait for that long. The pause is therefore lifted for the length
    /// of one command, at most [`LIFTS_MAX`] times, when those that wait were not answered within [`ASKED`].
    pub(super) async fn wait_for_waiters(&self, within: Duration) -> Result<u32, Error> {
        let until = Instant::now() + within;
        let pause = (within + PAUSE_MORE).as_millis().to_string();
        let (mut lifts, mut lift_at) = (0, Instant::now() + ASKED);
        loop {
            let batch = Batch::new(&["CLIENT", "PAUSE", &pause, "WRITE"]).and(&["CLIENT", "LIST"]);
            let answers = self.act("waiting for acknowledgements", batch).await?;
            let waits = |c: &&Client| c.flags.contains('b') && c.command == "wait";
            let left = clients(answers.last().unwrap_or(&Value::Nil)).iter().filter(waits).count() as u32;
            let now = Instant::now();
            if left == 0 || now >= until {
                return Ok(left);
            }
            if lifts < LIFTS_MAX && now >= lift_at {
                lifts += 1;
                lift_at = now + ASKED;
                self.act("asking replicas", Batch::new(&["CLIENT", "UNPAUSE"])).await?;
            } else {
                sleep(WAITERS_POLL).await;
            }
        }
    }
}
