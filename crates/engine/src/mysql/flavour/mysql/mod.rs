//! MySQL 8.4 and later (tested on 9.7): its command line, its programs, its words for replication.
//!
//! Guarantees: a server started with [`Flavour::arguments`] is read-only for everybody, does not replicate, and keeps
//! what it has committed or received over a crash (S9). Options that these promises rest on cannot be overridden.
//!
//! What it has that MariaDB has not: sets of transaction ids that show every gap, relay logs that a restart keeps and
//! goes on with, a data directory that says where in history it stands. What it has not: a crash recovery that rolls
//! back what was never acknowledged; a member with such a tail is recloned.

mod copy;
mod saved;
mod settings;

use super::options;
use super::{
    ACK_TIMEOUT_MS, BeforeFollowing, CopyFrom, Flavour, HEARTBEAT_NS, HEARTBEAT_S, Look, Programs, Recovery,
    Replication, Save, Source, data_argument, follower_id, pairs, thread,
};
use crate::mysql::fence::NO_SUCH_CONNECTION;
use crate::mysql::sql::{Session, Table, quote, server_error};
use crate::mysql::{Layout, MySqlEngine, STATEMENT, STATEMENT_MS, Spec, binlog_index, blocking, datadir, io};
use crate::{Error, Saved, ThreadState};
use async_trait::async_trait;
use holdfast_core::Position;
use holdfast_core::limits;
use holdfast_core::position::GtidSet;
use holdfast_wire::dump;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(super) struct MySql;

const SERVER: &str = "mysqld";
/// A killed thread is gone within a few of these.
const ENDING_POLL: Duration = Duration::from_millis(10);

/// One round trip for a whole look. Replication comes last: what was applied is read before what was received, so
/// that `drained` errs on the careful side.
const LOOK: &str = "SELECT @@version AS version, @@server_id AS server_id, @@global.read_only AS read_only, \
     @@global.gtid_owned AS owned, @@global.gtid_executed AS executed, \
     @@global.rpl_semi_sync_source_enabled AS waits, @@global.rpl_semi_sync_replica_enabled AS acknowledges, \
     @@global.rpl_semi_sync_source_wait_point AS wait_point, @@global.rpl_semi_sync_source_timeout AS ack_timeout, \
     @@global.rpl_semi_sync_source_wait_no_replica AS wait_no_replica, \
     @@global.rpl_semi_sync_source_wait_for_replica_count AS wait_count, @@global.sync_binlog AS sync_binlog, \
     @@global.innodb_flush_log_at_trx_commit AS flush_log, @@global.sync_relay_log AS sync_relay_log, \
     @@global.log_replica_updates AS log_replica_updates, @@global.log_bin AS log_bin, \
     @@global.binlog_format AS binlog_format, @@global.gtid_mode AS gtid_mode, \
     @@global.performance_schema AS performance_schema, @@global.relay_log_recovery AS relay_log_recovery, \
     @@global.replica_preserve_commit_order AS commit_order; \
     SHOW GLOBAL STATUS WHERE Variable_name IN ('Threads_connected', 'Rpl_semi_sync_source_clients', \
     'Rpl_semi_sync_source_status', 'Rpl_semi_sync_source_wait_sessions', 'Rpl_semi_sync_replica_status'); \
     SHOW REPLICAS; SELECT COUNT_RECEIVED_HEARTBEATS AS heartbeats FROM \
     performance_schema.replication_connection_status WHERE CHANNEL_NAME=''; SHOW REPLICA STATUS";

#[async_trait]
impl Flavour for MySql {
    fn server(&self) -> &'static str {
        SERVER
    }

    fn arguments(
        &self,
        spec: &Spec,
        at: &Layout,
        user: &str,
        _recovery: Recovery,
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
        // What an operator persisted on the server would come after our own words.
        add("persisted-globals-load", "OFF");
        // Defaults that the user may override.
        add("skip-name-resolve", "ON");
        add("max-connections", "4096");
        add("max-binlog-size", "134217728");
        add("mysqlx", "OFF");
        add("secure-file-priv", "NULL");
        options::add(&spec.engine_options, &settings::OWNED, &mut out)?;
        let mut add = |name: &str, value: &str| out.push(format!("--{name}={value}"));
        // The last word is ours.
        for (name, library) in [
            ("auth_socket", "auth_socket"),
            ("rpl_semi_sync_source", "semisync_source"),
            ("rpl_semi_sync_replica", "semisync_replica"),
            ("clone", "mysql_clone"),
        ] {
            add("plugin-load-add", &format!("{name}={library}.so"));
        }
        add("log-bin", "binlog");
        add("log-replica-updates", "ON");
        add("relay-log", "relay");
        // At a start, what was received and not applied must stay where it is until somebody has decided about it.
        add("relay-log-recovery", "OFF");
        add("gtid-mode", "ON");
        add("enforce-gtid-consistency", "ON");
        add("sync-binlog", "1");
        add("innodb-flush-log-at-trx-commit", "1");
        // An acknowledgement must mean that the event survives a crash of the host: see `acknowledge`.
        add("sync-relay-log", "10000");
        add("rpl-semi-sync-source-wait-point", "AFTER_SYNC");
        add("rpl-semi-sync-source-timeout", &ACK_TIMEOUT_MS.to_string());
        add("rpl-semi-sync-source-wait-no-replica", "ON");
        add("rpl-semi-sync-source-wait-for-replica-count", "1");
        // Until it is promoted: a replica that waited for acknowledgements would never apply anything.
        add("rpl-semi-sync-source-enabled", "OFF");
        add("rpl-semi-sync-replica-enabled", "OFF");
        add("replica-net-timeout", "4");
        // Who waits for one of a session's transactions waits for those before it too.
        add("replica-preserve-commit-order", "ON");
        // Heartbeats are counted there.
        add("performance-schema", "ON");
        add("super-read-only", "ON");
        out.push("--skip-replica-start".into());
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
        // Plugins are not loaded yet, so that the account's method cannot be named in CREATE USER.
        let account = format!("{}@'localhost'", quote(me));
        let sql = format!(
            "CREATE USER IF NOT EXISTS {account};\n\
             GRANT ALL PRIVILEGES ON *.* TO {account} WITH GRANT OPTION;\n\
             UPDATE mysql.user SET plugin='auth_socket', authentication_string={} WHERE User={0} AND Host='localhost';\n\
             DELETE FROM mysql.user WHERE User='root' AND {0}<>'root';\n",
            quote(me)
        );
        let file = at.run.join("initialise.sql");
        datadir::write_whole(&file, &sql)?;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .map_err(io("showing", &file))?;
        let mut install = Command::new(spec.programs().path(SERVER));
        install
            .args(["--no-defaults", "--initialize-insecure", "--secure-file-priv=NULL"])
            .arg(format!("--datadir={}", into.display()))
            .arg(format!("--user={run_as}"))
            .arg(format!("--tmpdir={}", at.tmp.display()))
            .arg(format!("--init-file={}", file.display()));
        Ok(install)
    }

    fn rolls_back_tail(&self) -> bool {
        false
    }

    fn before_recovery(&self, _at: &Layout) -> Result<(), Error> {
        Ok(())
    }

    fn session(&self) -> &'static str {
        "SET SESSION sql_log_bin=0, lock_wait_timeout=2, max_execution_time=0"
    }

    /// Ends at the first that left by itself.
    fn kill(&self, connections: &[u32]) -> String {
        connections.iter().map(|id| format!("KILL CONNECTION {id}; ")).collect::<String>() + "DO 0"
    }

    fn clients(&self) -> &'static str {
        "SELECT t.PROCESSLIST_ID AS id, e.EVENT_ID AS query, t.PROCESSLIST_STATE AS state, \
         t.PROCESSLIST_USER AS user \
         FROM performance_schema.threads t LEFT JOIN performance_schema.events_statements_current e \
         ON e.THREAD_ID=t.THREAD_ID AND e.NESTING_EVENT_LEVEL=0 \
         WHERE t.NAME='thread/sql/one_connection' AND t.PROCESSLIST_ID IS NOT NULL \
         AND t.PROCESSLIST_COMMAND NOT IN ('Binlog Dump', 'Binlog Dump GTID', 'Daemon')"
    }

    fn busy(&self) -> &'static str {
        " AND t.PROCESSLIST_COMMAND NOT IN ('Sleep')"
    }

    fn look(&self) -> &'static str {
        LOOK
    }

    fn read_look(&self, tables: &[Table], sync: bool) -> Result<Look, Error> {
        let [g, status, hosts, heartbeats, replication] = tables else {
            return Err(Error::Log(format!("five result sets were asked for, {} came", tables.len())));
        };
        let status = pairs(status);
        let status = |name| status.get(name).copied().unwrap_or("0");
        let number = |name| status(name).parse::<u32>().unwrap_or(0);
        let mut replication = self.read_replication(std::slice::from_ref(replication))?;
        if let Some(r) = &mut replication {
            r.heartbeats = heartbeats.number(0, "heartbeats").unwrap_or(0);
        }
        let mut applied = self.read_positions(std::slice::from_ref(g))?;
        if replication.is_none() {
            let owned = without_threads(g.cell(0, "owned").unwrap_or_default());
            applied = applied.union(&self.read_position(&owned)?);
        }
        let acknowledges = g.on(0, "acknowledges");
        let receives = replication.as_ref().is_some_and(|r| r.io == ThreadState::Running);
        Ok(Look {
            version: g.cell(0, "version").unwrap_or_default().to_owned(),
            server_id: g.number(0, "server_id").unwrap_or(0),
            writable: !g.on(0, "read_only"),
            applied,
            waits_for_ack: g.on(0, "waits") && status("Rpl_semi_sync_source_status") == "ON",
            ack_waiters: number("Rpl_semi_sync_source_wait_sessions"),
            ackers: number("Rpl_semi_sync_source_clients") as usize,
            replicas: (0..hosts.rows.len()).filter_map(|r| hosts.number(r, "Server_Id")).collect(),
            acknowledges,
            acknowledging: receives && acknowledges && status("Rpl_semi_sync_replica_status") == "ON",
            connections: number("Threads_connected"),
            replication,
            unsafe_settings: settings::unsafe_settings(g, sync),
        })
    }

    fn replication(&self) -> &'static str {
        "SHOW REPLICA STATUS"
    }

    fn read_replication(&self, tables: &[Table]) -> Result<Option<Replication>, Error> {
        let Some(r) = tables.first().filter(|t| !t.rows.is_empty()) else { return Ok(None) };
        let cell = |name| r.cell(0, name).unwrap_or_default().to_owned();
        Ok(Some(Replication {
            host: cell("Source_Host"),
            port: r.number(0, "Source_Port").unwrap_or(0),
            user: cell("Source_User"),
            by_id: r.on(0, "Auto_Position"),
            io: thread(r, "Replica_IO_Running", "Last_IO_Errno", "Last_IO_Error"),
            sql: thread(r, "Replica_SQL_Running", "Last_SQL_Errno", "Last_SQL_Error"),
            received: self.read_position(&cell("Retrieved_Gtid_Set"))?,
            lag_s: r.number(0, "Seconds_Behind_Source"),
            heartbeats: 0, // They are counted elsewhere.
            file: cell("Source_Log_File"),
            offset: r.number(0, "Read_Source_Log_Pos"),
        }))
    }

    fn positions(&self) -> &'static str {
        "SELECT @@global.gtid_executed AS executed"
    }

    fn read_positions(&self, tables: &[Table]) -> Result<Position, Error> {
        let table = tables.first().ok_or_else(|| Error::Log("no positions came".into()))?;
        self.read_position(table.cell(0, "executed").unwrap_or_default())
    }

    fn read_position(&self, text: &str) -> Result<Position, Error> {
        Position::mysql(text).map_err(|e| Error::Log(e.to_string()))
    }

    fn look_before_following(&self) -> &'static str {
        "SELECT @@global.read_only AS read_only; SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_wait_sessions'"
    }

    fn read_before_following(&self, tables: &[Table]) -> Result<BeforeFollowing, Error> {
        let [globals, waiting] = tables else {
            return Err(Error::Log("two result sets were expected".into()));
        };
        Ok(BeforeFollowing {
            writable: !globals.on(0, "read_only"),
            waiting: waiting.cell(0, "Value").is_some_and(|n| n != "0"),
            from: None,
        })
    }

    fn make_read_only(&self) -> &'static str {
        "SET GLOBAL super_read_only=1"
    }
    fn make_writable(&self) -> &'static str {
        // Turns off `super_read_only` too.
        "SET GLOBAL read_only=0"
    }
    fn stop_receiving(&self) -> &'static str {
        "STOP REPLICA IO_THREAD"
    }
    /// Only while it connects to a primary that does not answer is there a wait, of up to two seconds; SIGUSR1 means
    /// something else to this server.
    fn receiving_thread(&self) -> Option<&'static str> {
        None
    }
    fn start_receiving(&self) -> &'static str {
        "START REPLICA IO_THREAD"
    }
    fn start_replication(&self) -> &'static str {
        // Following may have been given up half-way.
        "SET GLOBAL rpl_semi_sync_source_enabled=0; START REPLICA"
    }
    fn acknowledge(&self, on: bool) -> &'static str {
        match on {
            // Who acknowledges has it on the disk; that takes a sync for each event, too slow to catch up by.
            true => "SET GLOBAL sync_relay_log=1, GLOBAL rpl_semi_sync_replica_enabled=1",
            // A connection acknowledges until it ends: what it receives is synced until then.
            false => "SET GLOBAL rpl_semi_sync_replica_enabled=0",
        }
    }
    fn wait_for_ack(&self, on: bool) -> &'static str {
        match on {
            true => "SET GLOBAL rpl_semi_sync_source_enabled=1",
            false => "SET GLOBAL rpl_semi_sync_source_enabled=0",
        }
    }

    fn promote(&self, sync: bool, id: u32) -> String {
        format!(
            "STOP REPLICA; RESET REPLICA ALL; {}; \
             SET GLOBAL rpl_semi_sync_source_enabled={}; SET GLOBAL server_id={id}",
            self.acknowledge(false),
            u8::from(sync),
        )
    }

    fn follow(&self, s: &Source<'_>) -> String {
        // Turning waiting off takes the server up to a second. It must be off before anything is applied, which would
        // wait too; meanwhile it can receive and acknowledge already.
        format!(
            "STOP REPLICA; {}; SET GLOBAL sync_relay_log={}; \
             CHANGE REPLICATION SOURCE TO SOURCE_HOST={}, SOURCE_PORT={}, SOURCE_USER={}, SOURCE_PASSWORD={}, \
             SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT={}, SOURCE_HEARTBEAT_PERIOD={HEARTBEAT_S}, \
             SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1; \
             SET GLOBAL server_id={}; START REPLICA IO_THREAD; \
             SET GLOBAL rpl_semi_sync_source_enabled=0; START REPLICA SQL_THREAD",
            self.acknowledge(s.acknowledges),
            if s.acknowledges { 1 } else { 10_000 },
            quote(&s.primary.ip().to_string()),
            s.primary.port(),
            quote(s.user),
            quote(s.password),
            limits::REPLICA_RETRIES,
            s.server_id,
        )
    }

    fn purges_when_receiving_again(&self) -> bool {
        false
    }

    /// Told to stop, the thread would wait a minute for that other half; killed, it rolls back.
    async fn give_up_half(&self, engine: &MySqlEngine) -> Result<(), Error> {
        let sql = "SELECT t.PROCESSLIST_ID AS id FROM performance_schema.replication_applier_status_by_coordinator c \
                   JOIN performance_schema.threads t ON t.THREAD_ID=c.THREAD_ID \
                   WHERE c.CHANNEL_NAME='' AND c.PROCESSING_TRANSACTION<>''";
        let until = Instant::now() + STATEMENT;
        while Instant::now() < until {
            let tables = engine.act("looking for half a transaction", sql).await?;
            let Some(id) = tables.first().and_then(|t| t.number::<u32>(0, "id")) else { return Ok(()) };
            match engine.act("giving up half a transaction", self.kill(&[id])).await {
                // It ended by itself.
                Err(e) if server_error(&e).is_some_and(|(code, _)| code == NO_SUCH_CONNECTION) => {}
                killed => _ = killed?,
            }
            sleep(ENDING_POLL).await;
        }
        Err(Error::Unresponsive { doing: "giving up half a transaction", after_ms: STATEMENT_MS })
    }

    /// The relay log is still there, and the server knows how far it applied it.
    async fn apply_left(&self, engine: &MySqlEngine, r: Option<&Replication>) -> Result<(), Error> {
        let Some(r) = r.filter(|r| r.sql == ThreadState::Stopped) else { return Ok(()) };
        let tables = engine.act("reading positions", self.positions()).await?;
        if !self.read_positions(&tables)?.contains(&r.received) {
            engine.act("applying what was received before", "START REPLICA SQL_THREAD").await?;
        }
        Ok(())
    }

    async fn done_with_left(&self, _engine: &MySqlEngine) -> Result<(), Error> {
        Ok(())
    }

    async fn settle(&self, engine: &MySqlEngine) -> Result<bool, Error> {
        let index = engine.logs().relay;
        let kept = blocking(move || binlog_index::unbroken(&index).map_err(io("reading", &index)));
        let (files, whole) = kept.await?;
        let replicates = engine.replication().await?.is_some();
        engine.receive_no_more().await?;
        Ok(whole && !(replicates && files.is_empty()))
    }

    /// Under the id of the session, which the server gave it at its beginning.
    fn logged(&self, sql: &str, _id: u32) -> String {
        format!("SET SESSION sql_log_bin=1; {sql}; SET SESSION sql_log_bin=0")
    }
    fn let_driver_write(&self, on: bool) -> Option<&'static str> {
        Some(match on {
            true => "SET GLOBAL super_read_only=0",
            false => "SET GLOBAL super_read_only=1",
        })
    }
    fn anonymous_accounts(&self) -> &'static str {
        "SELECT CONCAT(QUOTE(User), '@', QUOTE(Host)) AS account FROM mysql.user WHERE User=''"
    }
    fn account(&self, user: &str) -> String {
        format!("SELECT account_locked='Y' AS locked FROM mysql.user WHERE User={user} AND Host='%'")
    }
    fn taken(&self) -> &'static str {
        "BINLOG_ADMIN, CLONE_ADMIN, CONNECTION_ADMIN, GROUP_REPLICATION_ADMIN, PERSIST_RO_VARIABLES_ADMIN, \
         REPLICATION_APPLIER, REPLICATION_SLAVE_ADMIN, SERVICE_CONNECTION_ADMIN, SESSION_VARIABLES_ADMIN, SHUTDOWN, \
         SUPER, SYSTEM_USER, SYSTEM_VARIABLES_ADMIN"
    }

    fn save(&self, job: &Save) -> Result<Option<Saved>, Error> {
        saved::save(job)
    }

    fn before_log(&self, _have: &Position) -> Result<String, Error> {
        // Without a UUID it is told apart from other readers by its id.
        Ok(format!(
            "SET @source_heartbeat_period={HEARTBEAT_NS}, @source_binlog_checksum=@@global.binlog_checksum"
        ))
    }
    fn log_request(&self, id: u32, have: &Position) -> Result<Vec<u8>, Error> {
        let sources = position(have)?.by_source();
        let parts: Vec<dump::Source<'_>> =
            sources.map(|((uuid, tag), all)| (uuid.to_bytes(), tag.as_str(), all.collect())).collect();
        Ok(dump::by_set(id, &parts))
    }

    fn clone_state(&self) -> &'static str {
        "SELECT @@global.gtid_executed AS state, @@version AS version"
    }
    async fn copy(&self, from: &CopyFrom, scratch: &Path) -> Result<Command, Error> {
        copy::copy(from, scratch).await
    }
    async fn end_copy(&self, from: &CopyFrom, scratch: &Path) -> Result<(), Error> {
        copy::end(&Session::new(&from.at.socket, &from.me, self), scratch).await
    }
    fn unpack(&self, _programs: &Programs, into: &Path) -> Command {
        copy::unpack(into)
    }
    fn prepare(&self, _programs: &Programs, _at: &Layout, _dir: &Path) -> Option<Command> {
        None
    }
    /// The copy itself knows exactly; what the donor has by now is in the history that goes on, so nothing of that needs
    /// saving.
    fn copied_state(&self, _before: &Position, after: &Position, _dir: &Path) -> Result<Position, Error> {
        Ok(after.clone())
    }
    /// It stands where it stands. Only what the donor replicated from came with it.
    fn place_copy(&self, _state: &Position) -> String {
        "RESET REPLICA ALL".into()
    }
}

/// Ids that a primary's threads hold, without the threads' numbers: `UUID:7#16:8#17`. They are in its log already, and
/// perhaps on its replicas, while their commits wait for an acknowledgement; only then are they `executed`. (A replica's
/// threads hold what they have only begun to apply.)
fn without_threads(owned: &str) -> String {
    let mut parts = owned.split('#');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| out + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// A position of this flavour; another's is a caller's mistake.
fn position(p: &Position) -> Result<&GtidSet, Error> {
    match p {
        Position::MySql(p) => Ok(p),
        Position::MariaDb(_) | Position::Redis(_) => {
            Err(Error::Precondition(format!("{p} is not a position of MySQL")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::without_threads;

    #[test]
    fn ids_that_are_owned_are_read_without_their_threads() {
        let uuid = "bcb8c1d3-e7b9-11f1-9a06-02fc00000001";
        assert_eq!(
            without_threads(&format!("{uuid}:9#16:10#17,{uuid}:t:1#5")),
            format!("{uuid}:9:10,{uuid}:t:1")
        );
        assert_eq!(without_threads(""), "");
    }
}
