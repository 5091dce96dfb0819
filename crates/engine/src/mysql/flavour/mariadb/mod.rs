//! MariaDB 10.6.19, 10.11.9 and later: its command line, its programs, its words for replication.
//!
//! Guarantees: a server started with [`Flavour::arguments`] is read-only, does not replicate, and keeps what it has
//! committed or received over a crash (S9). Options that these promises rest on cannot be overridden.

mod backup;
mod binlog;
mod residue;
mod rewind;
mod settings;

use super::options;
use super::{
    ACK_TIMEOUT_MS, BeforeFollowing, CopyFrom, Flavour, HEARTBEAT_NS, HEARTBEAT_S, Look, Programs, Recovery,
    Replication, Save, Source, data_argument, follower_id, pairs, thread,
};
use crate::mysql::sql::{Table, quote};
use crate::mysql::{Layout, MySqlEngine, Spec};
use crate::{Error, Saved, ThreadState};
use async_trait::async_trait;
use holdfast_core::Position;
use holdfast_core::limits;
use holdfast_core::position::MariaDbPosition;
use holdfast_wire::dump;
use std::path::Path;
use std::process::Command;

pub(in crate::mysql) struct MariaDb;

pub(in crate::mysql) const SERVER: &str = "mariadbd";
pub(in crate::mysql) use backup::BACKUP;

/// One round trip for a whole look. Replication comes last: what was applied is read before what was received, so
/// that `drained` errs on the careful side.
const LOOK: &str = "SELECT @@version AS version, @@server_id AS server_id, @@global.read_only AS read_only, \
     @@global.gtid_binlog_state AS binlog_state, @@global.gtid_slave_pos AS slave_pos, \
     @@global.rpl_semi_sync_master_enabled AS waits, @@global.rpl_semi_sync_slave_enabled AS acknowledges, \
     @@global.rpl_semi_sync_master_wait_point AS wait_point, @@global.rpl_semi_sync_master_timeout AS ack_timeout, \
     @@global.rpl_semi_sync_master_wait_no_slave AS wait_no_slave, @@global.sync_binlog AS sync_binlog, \
     @@global.innodb_flush_log_at_trx_commit AS flush_log, @@global.sync_relay_log AS sync_relay_log, \
     @@global.log_slave_updates AS log_slave_updates, @@global.log_bin AS log_bin, \
     @@global.binlog_format AS binlog_format, @@global.gtid_strict_mode AS gtid_strict, \
     @@global.gtid_domain_id AS gtid_domain, @@global.relay_log_recovery AS relay_log_recovery; \
     SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', \
     'Rpl_semi_sync_master_clients', 'Rpl_semi_sync_master_status', 'Rpl_semi_sync_master_wait_sessions', \
     'Rpl_semi_sync_slave_status'); SHOW SLAVE HOSTS; SHOW ALL SLAVES STATUS";
const POSITIONS: &str =
    "SELECT @@global.gtid_binlog_state AS binlog_state, @@global.gtid_slave_pos AS slave_pos";

#[async_trait]
impl Flavour for MariaDb {
    fn server(&self) -> &'static str {
        SERVER
    }

    fn arguments(
        &self,
        spec: &Spec,
        at: &Layout,
        user: &str,
        recovery: Recovery,
    ) -> Result<Vec<String>, Error> {
        let mut out = vec!["--no-defaults".to_owned(), data_argument(at)];
        let path = |p: &Path| p.display().to_string();
        let mut add = |name: &str, value: &str| out.push(format!("--{name}={value}"));
        add("user", user);
        add("socket", &path(&at.socket));
        add("pid-file", &path(&at.pid_file));
        add("tmpdir", &path(&at.tmp));
        add("log-error", &path(&at.error_log));
        add("bind-address", &spec.listen.ip().to_string());
        add("port", &spec.listen.port().to_string());
        add("report-host", &spec.node.to_string());
        add("server-id", &follower_id(spec.server_id).to_string());
        // Defaults that the user may override.
        add("skip-name-resolve", "1");
        add("max-connections", "4096");
        add("max-binlog-size", "134217728");
        add("slave-parallel-threads", "4");
        add("slave-parallel-mode", "optimistic");
        add("character-set-server", "utf8mb4");
        options::add(&spec.engine_options, &settings::OWNED, &mut out)?;
        let mut add = |name: &str, value: &str| out.push(format!("--{name}={value}"));
        // The last word is ours.
        add("log-bin", "binlog");
        add("log-slave-updates", "1");
        add("binlog-format", "ROW");
        add("relay-log", "relay");
        // At a start, what was received and not applied must stay where it is until somebody has decided about it.
        add("relay-log-recovery", "0");
        add("gtid-strict-mode", "1");
        add("sync-binlog", "1");
        add("innodb-flush-log-at-trx-commit", "1");
        let roll_back = recovery == Recovery::RollBackTail;
        // An acknowledgement must mean that the event survives a crash of the host: see `acknowledge`.
        add("sync-relay-log", if roll_back { "1" } else { "10000" });
        add("rpl-semi-sync-master-wait-point", "AFTER_SYNC");
        add("rpl-semi-sync-master-timeout", &ACK_TIMEOUT_MS.to_string());
        add("rpl-semi-sync-master-wait-no-slave", "1");
        // Until it is promoted: a replica that waited for acknowledgements would never apply anything.
        add("rpl-semi-sync-master-enabled", "0");
        // A replica that leaves tries to tell its primary, however dead that is.
        add("rpl-semi-sync-slave-kill-conn-timeout", "1");
        add("slave-net-timeout", "4");
        add("master-retry-count", &limits::REPLICA_RETRIES.to_string());
        // Both are needed for the tail to be cut; the second alone changes nothing while no thread replicates.
        add("init-rpl-role", if roll_back { "SLAVE" } else { "MASTER" });
        add("rpl-semi-sync-slave-enabled", if roll_back { "1" } else { "0" });
        add("read-only", "1");
        out.push("--skip-slave-start".into());
        Ok(out)
    }

    fn initialise(
        &self,
        spec: &Spec,
        at: &Layout,
        into: &Path,
        run_as: &str,
        me: &str,
    ) -> Result<Command, Error> {
        let mut install = Command::new(spec.programs().path("mariadb-install-db"));
        install
            .arg("--no-defaults")
            .arg(format!("--datadir={}", into.display()))
            .arg(format!("--user={run_as}"))
            .args(["--auth-root-authentication-method=socket", "--skip-test-db"])
            .arg(format!("--auth-root-socket-user={me}"))
            .env("TMPDIR", &at.tmp);
        Ok(install)
    }

    fn upgrade(&self, programs: &Programs, at: &Layout, me: &str) -> Option<Command> {
        let mut upgrade = Command::new(programs.path("mariadb-upgrade"));
        upgrade
            .args(["--no-defaults", "--silent", "--skip-write-binlog"])
            .arg(format!("--socket={}", at.socket.display()))
            .arg(format!("--user={me}"))
            .env("TMPDIR", &at.tmp);
        Some(upgrade)
    }
    fn up_to_date_for(&self, at: &Layout) -> Option<String> {
        let read = |name| std::fs::read_to_string(at.data.join(name)).ok();
        ["mariadb_upgrade_info", "mysql_upgrade_info"].into_iter().find_map(read)
    }

    fn rolls_back_tail(&self) -> bool {
        true
    }

    fn before_recovery(&self, at: &Layout) -> Result<(), Error> {
        rewind::set_tail_aside(at)
    }

    fn session(&self) -> &'static str {
        "SET SESSION sql_log_bin=0, lock_wait_timeout=2, max_statement_time=0"
    }

    fn kill(&self, connections: &[u32]) -> String {
        // One round trip, and a client that left by itself (1094) does not end it.
        let kills: String = connections.iter().map(|id| format!("KILL HARD CONNECTION {id}; ")).collect();
        format!("BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1094 BEGIN END; {kills} END")
    }

    fn clients(&self) -> &'static str {
        "SELECT ID AS id, QUERY_ID AS query, STATE AS state, USER AS user FROM information_schema.PROCESSLIST \
         WHERE COMMAND NOT IN ('Binlog Dump', 'Binlog Dump GTID', 'Daemon', 'Slave_IO', 'Slave_SQL', 'Slave_worker') \
         AND USER NOT IN ('system user', 'event_scheduler')"
    }

    fn busy(&self) -> &'static str {
        " AND COMMAND NOT IN ('Sleep')"
    }

    fn look(&self) -> &'static str {
        LOOK
    }

    fn read_look(&self, tables: &[Table], sync: bool) -> Result<Look, Error> {
        let [g, status, hosts, replication] = tables else {
            return Err(Error::Log(format!("four result sets were asked for, {} came", tables.len())));
        };
        let status = pairs(status);
        let status = |name| status.get(name).copied().unwrap_or("0");
        let number = |name| status(name).parse::<u32>().unwrap_or(0);
        let replication = self.read_replication(std::slice::from_ref(replication))?;
        let acknowledges = g.on(0, "acknowledges");
        let receives = replication.as_ref().is_some_and(|r| r.io == ThreadState::Running);
        Ok(Look {
            version: g.cell(0, "version").unwrap_or_default().to_owned(),
            server_id: g.number(0, "server_id").unwrap_or(0),
            writable: !g.on(0, "read_only"),
            applied: self.read_positions(std::slice::from_ref(g))?,
            waits_for_ack: g.on(0, "waits") && status("Rpl_semi_sync_master_status") == "ON",
            ack_waiters: number("Rpl_semi_sync_master_wait_sessions"),
            ackers: number("Rpl_semi_sync_master_clients") as usize,
            replicas: (0..hosts.rows.len()).filter_map(|r| hosts.number(r, "Server_id")).collect(),
            acknowledges,
            acknowledging: receives && acknowledges && status("Rpl_semi_sync_slave_status") == "ON",
            connections: number("Threads_connected"),
            replication,
            unsafe_settings: settings::unsafe_settings(g, sync),
        })
    }

    fn replication(&self) -> &'static str {
        "SHOW ALL SLAVES STATUS"
    }

    fn read_replication(&self, tables: &[Table]) -> Result<Option<Replication>, Error> {
        let Some(r) = tables.first().filter(|t| !t.rows.is_empty()) else { return Ok(None) };
        let cell = |name| r.cell(0, name).unwrap_or_default().to_owned();
        Ok(Some(Replication {
            host: cell("Master_Host"),
            port: r.number(0, "Master_Port").unwrap_or(0),
            user: cell("Master_User"),
            by_id: r.cell(0, "Using_Gtid") == Some("Slave_Pos"),
            io: thread(r, "Slave_IO_Running", "Last_IO_Errno", "Last_IO_Error"),
            sql: thread(r, "Slave_SQL_Running", "Last_SQL_Errno", "Last_SQL_Error"),
            received: self.read_position(&cell("Gtid_IO_Pos"))?,
            lag_s: r.number(0, "Seconds_Behind_Master"),
            heartbeats: r.number(0, "Slave_received_heartbeats").unwrap_or(0),
            file: cell("Master_Log_File"),
            offset: r.number(0, "Read_Master_Log_Pos"),
        }))
    }

    fn positions(&self) -> &'static str {
        POSITIONS
    }

    fn read_positions(&self, tables: &[Table]) -> Result<Position, Error> {
        let table = tables.first().ok_or_else(|| Error::Log("no positions came".into()))?;
        let binlog = self.read_position(table.cell(0, "binlog_state").unwrap_or_default())?;
        Ok(binlog.union(&self.read_position(table.cell(0, "slave_pos").unwrap_or_default())?))
    }

    /// A position is there, even if empty. Its absence would mean that we asked wrongly.
    fn read_position(&self, text: &str) -> Result<Position, Error> {
        Position::mariadb(text).map_err(|e| Error::Log(e.to_string()))
    }

    fn look_before_following(&self) -> &'static str {
        "SELECT @@global.read_only AS read_only, @@global.gtid_slave_pos AS slave_pos, \
         @@global.gtid_binlog_pos AS binlog_pos; SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_wait_sessions'"
    }

    fn read_before_following(&self, tables: &[Table]) -> Result<BeforeFollowing, Error> {
        let [globals, waiting] = tables else {
            return Err(Error::Log("two result sets were expected".into()));
        };
        let position = |name| exact(globals.cell(0, name).unwrap_or_default());
        let applied = position("slave_pos")?;
        let mut all = position("binlog_pos")?;
        applied.iter().for_each(|(d, s, n)| all.add(d, s, n));
        let now: Vec<String> = applied.iter().map(|(d, s, n)| format!("{d}-{s}-{n}")).collect();
        Ok(BeforeFollowing {
            writable: !globals.on(0, "read_only"),
            waiting: waiting.cell(0, "Value").is_some_and(|n| n != "0"),
            // Our own last writes may not be in the replication position yet. (`MASTER_DEMOTE_TO_SLAVE` would only look
            // for writes under the present server id.)
            from: Some(last_gtids(&all)).filter(|last| *last != now.join(",")),
        })
    }

    fn make_read_only(&self) -> &'static str {
        "SET GLOBAL read_only=1"
    }
    fn make_writable(&self) -> &'static str {
        "SET GLOBAL read_only=0"
    }
    fn stop_receiving(&self) -> &'static str {
        "STOP SLAVE IO_THREAD"
    }
    fn receiving_thread(&self) -> Option<&'static str> {
        Some("SELECT TID AS tid FROM information_schema.PROCESSLIST WHERE COMMAND = 'Slave_IO'")
    }
    fn start_receiving(&self) -> &'static str {
        "START SLAVE IO_THREAD"
    }
    fn start_replication(&self) -> &'static str {
        "START SLAVE"
    }
    fn acknowledge(&self, on: bool) -> &'static str {
        match on {
            // Who acknowledges has it on the disk; that takes a sync for each event, too slow to catch up by.
            true => "SET GLOBAL sync_relay_log=1, GLOBAL rpl_semi_sync_slave_enabled=1",
            // A connection acknowledges until it ends: what it receives is synced until then.
            false => "SET GLOBAL rpl_semi_sync_slave_enabled=0",
        }
    }
    fn wait_for_ack(&self, on: bool) -> &'static str {
        match on {
            // Flushed, so that a crash finds everything committed in the engine: a truncating start would cut it off.
            true => "SET GLOBAL rpl_semi_sync_master_enabled=1; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS",
            false => "SET GLOBAL rpl_semi_sync_master_enabled=0",
        }
    }

    fn promote(&self, sync: bool, id: u32) -> String {
        // Flushed as above.
        format!(
            "STOP ALL SLAVES; RESET SLAVE ALL; {}; \
             SET GLOBAL rpl_semi_sync_master_enabled={}; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS; \
             SET GLOBAL server_id={id}; SET SESSION server_id={id}",
            self.acknowledge(false),
            u8::from(sync),
        )
    }

    fn follow(&self, s: &Source<'_>) -> String {
        // From 11.4 on the default is to demand TLS, which no earlier primary offers by itself.
        format!(
            "STOP ALL SLAVES; {}SET GLOBAL rpl_semi_sync_master_enabled=0; {}; SET GLOBAL sync_relay_log={}; \
             CHANGE MASTER TO MASTER_HOST={}, MASTER_PORT={}, MASTER_USER={}, MASTER_PASSWORD={}, \
             MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD={HEARTBEAT_S}, MASTER_USE_GTID=slave_pos, \
             MASTER_SSL=0; \
             SET GLOBAL server_id={}; START SLAVE",
            s.from
                .as_ref()
                .map(|pos| format!("SET GLOBAL gtid_slave_pos={}; ", quote(pos)))
                .unwrap_or_default(),
            self.acknowledge(s.acknowledges),
            if s.acknowledges { 1 } else { 10_000 },
            quote(&s.primary.ip().to_string()),
            s.primary.port(),
            quote(s.user),
            quote(s.password),
            s.server_id,
        )
    }

    /// In GTID mode, starting a replication thread while none runs purges the relay log.
    fn purges_when_receiving_again(&self) -> bool {
        true
    }

    async fn give_up_half(&self, _engine: &MySqlEngine) -> Result<(), Error> {
        Ok(())
    }

    async fn apply_left(&self, engine: &MySqlEngine, r: Option<&Replication>) -> Result<(), Error> {
        residue::apply(engine, r).await
    }

    async fn done_with_left(&self, engine: &MySqlEngine) -> Result<(), Error> {
        residue::restore_threads(engine).await
    }

    async fn settle(&self, engine: &MySqlEngine) -> Result<bool, Error> {
        let cut = rewind::judge_recovery(engine).await?;
        residue::settle(engine, cut).await
    }

    fn logged(&self, sql: &str, id: u32) -> String {
        format!("SET SESSION sql_log_bin=1, server_id={id}; {sql}; SET SESSION sql_log_bin=0")
    }
    fn let_driver_write(&self, _on: bool) -> Option<&'static str> {
        None
    }
    fn anonymous_accounts(&self) -> &'static str {
        "SELECT CONCAT(QUOTE(User), '@', QUOTE(Host)) AS account FROM mysql.global_priv WHERE User=''"
    }
    fn account(&self, user: &str) -> String {
        format!(
            "SELECT COALESCE(JSON_VALUE(Priv, '$.account_locked'), 0) IN ('1', 'true') AS locked \
             FROM mysql.global_priv WHERE User={user} AND Host='%'"
        )
    }
    fn taken(&self) -> &'static str {
        "READ ONLY ADMIN, BINLOG ADMIN, REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, CONNECTION ADMIN, \
         BINLOG REPLAY, SUPER, SHUTDOWN"
    }

    fn save(&self, job: &Save) -> Result<Option<Saved>, Error> {
        rewind::save(job)
    }

    fn before_log(&self, have: &Position) -> Result<String, Error> {
        Ok(format!(
            "SET @master_heartbeat_period={HEARTBEAT_NS}, @master_binlog_checksum=@@global.binlog_checksum, \
             @mariadb_slave_capability=4, @slave_gtid_strict_mode=1, @slave_gtid_ignore_duplicates=0, \
             @slave_connect_state={}",
            quote(&last_gtids(position(have)?))
        ))
    }
    fn log_request(&self, id: u32, _have: &Position) -> Result<Vec<u8>, Error> {
        Ok(dump::by_place(id, "", LOG_BEGIN, true))
    }

    fn clone_state(&self) -> &'static str {
        "SELECT @@global.gtid_binlog_state AS state, @@version AS version"
    }
    async fn copy(&self, from: &CopyFrom, scratch: &Path) -> Result<Command, Error> {
        backup::copy(from, scratch)
    }
    async fn end_copy(&self, _from: &CopyFrom, _scratch: &Path) -> Result<(), Error> {
        Ok(())
    }
    fn unpack(&self, programs: &Programs, into: &Path) -> Command {
        backup::unpack(programs, into)
    }
    fn prepare(&self, programs: &Programs, at: &Layout, dir: &Path) -> Option<Command> {
        Some(backup::prepare(programs, at, dir))
    }
    fn copied_state(&self, before: &Position, after: &Position, dir: &Path) -> Result<Position, Error> {
        let at = backup::read_position(dir)?;
        backup::exact_state(position(before)?, position(after)?, &at).map(Position::MariaDb)
    }
    fn place_copy(&self, state: &Position) -> String {
        let last = position(state).map(last_gtids).unwrap_or_default();
        // The only place where a log may be reset: this one has never held anything.
        format!(
            "STOP ALL SLAVES; RESET SLAVE ALL; RESET MASTER; SET GLOBAL gtid_binlog_state={}; SET GLOBAL gtid_slave_pos={}; \
             FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS",
            quote(&state.to_string()),
            quote(&last),
        )
    }
}

fn exact(text: &str) -> Result<MariaDbPosition, Error> {
    text.parse().map_err(|e| Error::Log(format!("{e}")))
}

/// A position of this flavour; another's is a caller's mistake.
fn position(p: &Position) -> Result<&MariaDbPosition, Error> {
    match p {
        Position::MariaDb(p) => Ok(p),
        Position::MySql(_) | Position::Redis(_) => {
            Err(Error::Precondition(format!("{p} is not a position of MariaDB")))
        }
    }
}

/// After a file's first bytes.
const LOG_BEGIN: u32 = 4;

fn last_gtids(p: &MariaDbPosition) -> String {
    p.last_per_domain().map(|(d, s, n)| format!("{d}-{s}-{n}")).collect::<Vec<_>>().join(",")
}
