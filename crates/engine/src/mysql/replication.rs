//! Being a replica, and ceasing to be one (S7).
//!
//! Guarantees: what was received is not discarded before it is applied or asked for again from a primary that the
//! caller chose; threads that already do what is wanted are left alone.
//! Does not know: whether the primary's history fits; the caller compares positions first (S10).

use super::late_ack::LateAck;
use super::sql::{Table, quote};
use super::{
    FOLLOW_DRAIN_MS, MySqlEngine, Residue, STATEMENT, datadir, flavour::mariadb as flavour, observe,
};
use crate::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A thread that stopped with an error is started again no more often than this.
const RESTART_EVERY: Duration = Duration::from_secs(1);
const DRAIN_POLL: Duration = Duration::from_millis(10);

impl MySqlEngine {
    async fn replication(&self) -> Result<Table, Error> {
        let mut tables = self.act("looking at replication", "SHOW ALL SLAVES STATUS").await?;
        Ok(if tables.is_empty() { Table::default() } else { tables.swap_remove(0) })
    }

    /// S7. Only the receiving thread is stopped: restarting both would purge what was received.
    pub(super) async fn receive_no_more(&self) -> Result<(), Error> {
        let r = self.replication().await?;
        if !r.rows.is_empty() && r.cell(0, "Slave_IO_Running") != Some("No") {
            self.stop_receiving_thread("stopping the receiving thread", "").await?;
        }
        let residue = self.state().residue.clone();
        match residue {
            Some(residue) if !r.on(0, "Slave_SQL_Running") => self.apply_residue(&r, &residue).await,
            _ => Ok(()),
        }
    }

    /// Applies what a restart left in the relay log. In GTID mode starting a thread would purge the log, so the
    /// server is pointed at the very file and byte instead.
    async fn apply_residue(&self, r: &Table, residue: &Residue) -> Result<(), Error> {
        let file = residue.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Whom it came from does not matter any more, but the server wants a name.
        let host = match r.cell(0, "Master_Host") {
            Some(host) if !host.is_empty() => String::new(),
            _ => "MASTER_HOST='127.0.0.1', ".into(),
        };
        let threads =
            self.act("looking at replication", "SELECT @@global.slave_parallel_threads AS threads").await?;
        let threads = threads.first().and_then(|t| t.number::<u32>(0, "threads")).filter(|n| *n > 0);
        {
            let mut state = self.state();
            state.parallel_threads = state.parallel_threads.or(threads);
        }
        // One thread: several would crash the server here (10.11.19), which then looks for a primary's log name that
        // this position does not have.
        let sql = format!(
            "STOP SLAVE; SET GLOBAL slave_parallel_threads=0; SET GLOBAL rpl_semi_sync_master_enabled=0; CHANGE MASTER TO {host}MASTER_USE_GTID=no, RELAY_LOG_FILE={}, RELAY_LOG_POS={}; \
             START SLAVE SQL_THREAD",
            quote(&file),
            residue.offset
        );
        self.act("applying what was received before the restart", sql).await?;
        Ok(())
    }

    /// Undoes what [`Self::apply_residue`] changed. With replication stopped.
    async fn restore_threads(&self) -> Result<(), Error> {
        let threads = self.state().parallel_threads;
        if let Some(n) = threads {
            self.act("restoring parallel replication", format!("SET GLOBAL slave_parallel_threads={n}"))
                .await?;
            self.state().parallel_threads = None;
        }
        Ok(())
    }

    pub(super) async fn end_replication(&self, sync: bool, primacy: u64) -> Result<(), Error> {
        let seen = self.look().await?;
        if seen.writable {
            return Err(Error::Precondition("it is writable already".into()));
        }
        if seen.upstream.as_ref().is_some_and(|u| u.io != crate::ThreadState::Stopped && !u.io.failed()) {
            return Err(Error::Precondition("it still receives: stop that first (S7)".into()));
        }
        if !seen.drained {
            return Err(Error::Precondition(format!(
                "it has received {} and applied only {} (S7)",
                seen.received, seen.applied
            )));
        }
        if !sync && self.sync() {
            datadir::set_commits_alone(&self.at, true)?;
        }
        let id = flavour::writer_id(self.spec.server_id, primacy);
        // Flushed, so that a crash finds everything committed in the engine: a truncating start would cut it off.
        let sql = format!(
            "STOP ALL SLAVES; RESET SLAVE ALL; SET GLOBAL rpl_semi_sync_slave_enabled=0; \
             SET GLOBAL rpl_semi_sync_master_enabled={}; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; \
             SET GLOBAL server_id={id}; SET SESSION server_id={id}",
            u8::from(sync),
        );
        self.act("promoting", sql).await?;
        self.state().writer_id = Some(id);
        self.restore_threads().await?;
        // A session keeps the server id that it began with, and would write under the follower's.
        self.cut_clients(STATEMENT).await?;
        if sync {
            datadir::set_commits_alone(&self.at, false)?;
        }
        Ok(())
    }

    pub(super) async fn wait_for_ack(&self, on: bool) -> Result<(), Error> {
        if !on {
            // Durable first: a restart must not roll back what was answered without an acknowledgement.
            datadir::set_commits_alone(&self.at, true)?;
            self.act("releasing commits", "SET GLOBAL rpl_semi_sync_master_enabled=0").await?;
            return Ok(());
        }
        let sql = "SET GLOBAL rpl_semi_sync_master_enabled=1; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS";
        self.act("making commits wait", sql).await?;
        datadir::set_commits_alone(&self.at, false)
    }

    pub(super) async fn acknowledge(&self, on: bool) -> Result<(), Error> {
        let sql = "SELECT @@global.rpl_semi_sync_slave_enabled AS acknowledges";
        let now = self.act("looking at acknowledgements", sql).await?;
        if now.first().is_some_and(|t| t.on(0, "acknowledges") == on) {
            return Ok(());
        }
        let r = self.replication().await?;
        let set = format!("SET GLOBAL rpl_semi_sync_slave_enabled={}", u8::from(on));
        if r.cell(0, "Slave_IO_Running").is_none_or(|s| s == "No") {
            self.act("changing acknowledgements", set).await?;
            return Ok(());
        }
        if !r.on(0, "Slave_SQL_Running") {
            // Restarting the only thread that runs would purge the relay log.
            return Err(Error::Precondition(
                "its applying thread is stopped; what it received would be discarded".into(),
            ));
        }
        // A connection acknowledges, or not, for as long as it lasts.
        self.stop_receiving_thread("changing acknowledgements", &format!("{set}; ")).await?;
        let stopped = self.replication().await?;
        self.act("receiving again", "START SLAVE IO_THREAD").await?;
        if on { self.acknowledge_received(&stopped).await } else { Ok(()) }
    }

    /// Acknowledges what this replica received before it began to acknowledge.
    async fn acknowledge_received(&self, stopped: &Table) -> Result<(), Error> {
        let cell = |name| stopped.cell(0, name).unwrap_or_default();
        let primary = cell("Master_Host").parse::<IpAddr>().ok().zip(stopped.number::<u16>(0, "Master_Port"));
        let (Some(primary), Some(position)) = (primary, stopped.number(0, "Read_Master_Log_Pos")) else {
            return Ok(());
        };
        if cell("Master_Log_File").is_empty() {
            return Ok(());
        }
        let ack = LateAck {
            primary: SocketAddr::from(primary),
            user: self.spec.replication.user.as_str(),
            password: &self.spec.replication.password,
            server_id: flavour::late_acker_id(self.spec.server_id),
            file: cell("Master_Log_File"),
            position,
        };
        let doing = "acknowledging what was received before";
        let late = || Error::Unresponsive { doing, after_ms: STATEMENT.as_millis() as u64 };
        tokio::time::timeout(STATEMENT, ack.send()).await.map_err(|_| late())?
    }

    pub(super) async fn replicate_from(&self, primary: SocketAddr, acknowledges: bool) -> Result<(), Error> {
        let r = self.replication().await?;
        let user = self.spec.replication.user.to_string();
        let same = r.cell(0, "Master_Host") == Some(&*primary.ip().to_string())
            && r.number(0, "Master_Port") == Some(primary.port())
            && r.cell(0, "Master_User") == Some(&*user)
            && r.cell(0, "Using_Gtid") == Some("Slave_Pos");
        if same {
            self.acknowledge(acknowledges).await?;
            return self.start_threads(&r).await;
        }
        let from = self.check_demotion().await?;
        if self.state().parallel_threads.is_some() {
            self.act("stopping replication", "STOP ALL SLAVES").await?;
            self.restore_threads().await?;
        }
        if !r.rows.is_empty() {
            self.stop_receiving_thread("stopping the receiving thread", "").await?;
            self.drain_briefly().await?;
        }
        // Safe to turn off: nothing is writable and no commit waits.
        let sql = format!(
            "STOP ALL SLAVES; {}SET GLOBAL rpl_semi_sync_master_enabled=0; SET GLOBAL rpl_semi_sync_slave_enabled={}; \
             CHANGE MASTER TO MASTER_HOST={}, MASTER_PORT={}, MASTER_USER={}, MASTER_PASSWORD={}, \
             MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD={}, MASTER_USE_GTID=slave_pos; \
             SET GLOBAL server_id={}; START SLAVE",
            from.map(|pos| format!("SET GLOBAL gtid_slave_pos={}; ", quote(&pos))).unwrap_or_default(),
            u8::from(acknowledges),
            quote(&primary.ip().to_string()),
            primary.port(),
            quote(&user),
            quote(&self.spec.replication.password),
            flavour::HEARTBEAT_S,
            flavour::follower_id(self.spec.server_id),
        );
        self.act("following", sql).await?;
        // Whatever is still missing is asked for again.
        self.state().residue = None;
        Ok(())
    }

    /// Where to replicate from, if our own last writes are not in the replication position yet. Refuses where commits
    /// could still be answered. (`MASTER_DEMOTE_TO_SLAVE` would only look for writes under the present server id.)
    async fn check_demotion(&self) -> Result<Option<String>, Error> {
        let sql = "SELECT @@global.read_only AS read_only, @@global.gtid_slave_pos AS slave_pos, \
                   @@global.gtid_binlog_pos AS binlog_pos; SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_wait_sessions'";
        let tables = self.act("looking before following", sql).await?;
        let [globals, waiting] = &tables[..] else {
            return Err(Error::Log("two result sets were expected".into()));
        };
        if !globals.on(0, "read_only") {
            return Err(Error::Precondition("it is writable: close it first (S3)".into()));
        }
        if waiting.cell(0, "Value").is_some_and(|n| n != "0") {
            return Err(Error::Precondition(
                "commits wait for an acknowledgement, and following would release them (S3): kill it".into(),
            ));
        }
        let binlog = observe::position(globals.cell(0, "binlog_pos"))?;
        let applied = observe::position(globals.cell(0, "slave_pos"))?;
        let mut all = binlog;
        applied.iter().for_each(|(d, s, n)| all.add(d, s, n));
        let last: Vec<String> = all.last_per_domain().map(|(d, s, n)| format!("{d}-{s}-{n}")).collect();
        let now: Vec<String> = applied.iter().map(|(d, s, n)| format!("{d}-{s}-{n}")).collect();
        Ok((last != now).then(|| last.join(",")))
    }

    /// Gives the applying thread a moment to use what was received: repointing discards the rest.
    async fn drain_briefly(&self) -> Result<(), Error> {
        let until = Instant::now() + Duration::from_millis(FOLLOW_DRAIN_MS);
        while Instant::now() < until {
            let seen = self.look().await?;
            let applies = seen.upstream.is_some_and(|u| u.sql == crate::ThreadState::Running);
            if seen.drained || !applies {
                break;
            }
            sleep(DRAIN_POLL).await;
        }
        Ok(())
    }

    async fn start_threads(&self, r: &Table) -> Result<(), Error> {
        let receives = r.cell(0, "Slave_IO_Running") != Some("No");
        let applies = r.on(0, "Slave_SQL_Running");
        if receives && applies {
            return Ok(());
        }
        let failed =
            ["Last_IO_Errno", "Last_SQL_Errno"].iter().any(|c| r.number::<u32>(0, c).unwrap_or(0) != 0);
        {
            let mut state = self.state();
            let now = Instant::now();
            if failed && state.threads_restarted_at.is_some_and(|at| now < at + RESTART_EVERY) {
                return Ok(());
            }
            state.threads_restarted_at = Some(now);
        }
        self.act("starting replication threads", "START SLAVE").await?;
        self.state().residue = None;
        Ok(())
    }
}

impl crate::ThreadState {
    fn failed(&self) -> bool {
        matches!(self, crate::ThreadState::Failed { .. })
    }
}
