//! The accounts of the topology, made once, on the first primary, through the log.
//!
//! Guarantees: repeating changes nothing that is already so; an account half made by a crash is finished by the next
//! call (it stays locked until it is whole). Accounts of clients get no privilege that would let them write past
//! `read_only` or keep writes out of the log, whatever their grants say.
//! Does not know: accounts made by others.

use super::MySqlEngine;
use super::sql::quote;
use crate::{Account, Error};
use mysql_async::{Conn, OptsBuilder};
use std::time::Duration;

/// The server's numbers for a login that it refuses: wrong password; no such account.
const LOGIN_REFUSED: [u16; 2] = [1045, 1698];
/// A login on the server's own socket takes no longer.
const LOGIN: Duration = Duration::from_secs(2);

impl MySqlEngine {
    pub(super) async fn create_accounts(&self) -> Result<(), Error> {
        let seen = self.look_before("looking before making accounts").await?;
        if seen.upstream.is_some() {
            return Err(Error::Precondition("it is a replica; accounts come through replication".into()));
        }
        // Without accounts no replica can connect, so none could acknowledge their making; and while it is closed no
        // client can receive an answer (S3).
        let pause = seen.waits_for_ack && !seen.writable;
        if pause {
            self.wait_for_ack(false).await?;
        }
        // Where read-only binds the driver too. Clients stay out: only what binds nobody else is lifted.
        let lift = if seen.writable { None } else { self.flavour.let_driver_write(true) };
        if let Some(sql) = lift {
            self.act("letting the driver write", sql).await?;
        }
        let made = self.create_all().await;
        if let Some(sql) = lift.and_then(|_| self.flavour.let_driver_write(false)) {
            self.act("ending the driver's writing", sql).await?;
        }
        if pause {
            self.wait_for_ack(true).await?;
        }
        made
    }

    async fn create_all(&self) -> Result<(), Error> {
        // They would shadow the accounts below for connections from this host.
        let anonymous = self.act("looking for anonymous accounts", self.flavour.anonymous_accounts()).await?;
        for table in &anonymous {
            for row in 0..table.rows.len() {
                if let Some(account) = table.cell(row, "account") {
                    self.logged("dropping an anonymous account", &format!("DROP USER IF EXISTS {account}"))
                        .await?;
                }
            }
        }
        let replication = [String::from("REPLICATION SLAVE ON *.*")];
        self.create_account(&self.spec.replication, &replication, false).await?;
        for user in &self.spec.users {
            self.create_account(&user.account, &user.grants, true).await?;
        }
        Ok(())
    }

    async fn create_account(&self, account: &Account, grants: &[String], client: bool) -> Result<(), Error> {
        let name = format!("{}@'%'", quote(account.user.as_str()));
        let secret = quote(&account.password);
        let sql = self.flavour.account(&quote(account.user.as_str()));
        let found = self.act("looking for an account", sql).await?;
        let found = found.first().cloned().unwrap_or_default();
        let whole = !found.rows.is_empty() && !found.on(0, "locked");
        if !whole {
            let sql = format!("CREATE USER IF NOT EXISTS {name} IDENTIFIED BY {secret} ACCOUNT LOCK");
            self.logged("creating an account", &sql).await?;
        }
        // One that is still locked cannot show its password; it gets it again.
        let other = !whole || !self.logs_in(account).await?;
        if other && !found.rows.is_empty() {
            self.logged("setting a password", &format!("ALTER USER {name} IDENTIFIED BY {secret}")).await?;
        }
        let held = if whole { self.held(&name).await? } else { Vec::new() };
        for grant in grants {
            let grant = Grant::parse(grant)?;
            if let Some(database) = &grant.database {
                self.create_database(database).await?;
            }
            // A global grant is trimmed below, so it never looks the same again; it is given once.
            let there = whole && (grant.global || held.iter().any(|h| grant.same_as(h)));
            if !there {
                let option = if grant.grant_option { " WITH GRANT OPTION" } else { "" };
                let sql = format!("GRANT {} ON {} TO {name}{option}", grant.privileges, grant.target);
                self.logged("granting", &sql).await?;
            }
        }
        if !whole {
            if client && grants.iter().any(|g| Grant::parse(g).is_ok_and(|g| g.global)) {
                self.logged(
                    "trimming privileges",
                    &format!("REVOKE {} ON *.* FROM {name}", self.flavour.taken()),
                )
                .await?;
            }
            self.logged("unlocking an account", &format!("ALTER USER {name} ACCOUNT UNLOCK")).await?;
        }
        Ok(())
    }

    /// True if the account has this password.
    async fn logs_in(&self, account: &Account) -> Result<bool, Error> {
        let opts = OptsBuilder::default()
            .user(Some(account.user.as_str()))
            .pass(Some(&account.password))
            .socket(Some(self.at.socket.to_string_lossy()))
            .prefer_socket(true);
        let login = async {
            match Conn::new(opts).await {
                Ok(conn) => conn.disconnect().await.map(|()| true),
                Err(mysql_async::Error::Server(e)) if LOGIN_REFUSED.contains(&e.code) => Ok(false),
                Err(e) => Err(e),
            }
        };
        let doing = "trying a password";
        let late = |_| Error::Unresponsive { doing, after_ms: LOGIN.as_millis() as u64 };
        let tried = tokio::time::timeout(LOGIN, login).await.map_err(late)?;
        tried.map_err(|e| Error::Failed { doing, source: Box::new(e) })
    }

    async fn held(&self, name: &str) -> Result<Vec<String>, Error> {
        let tables = self.act("reading grants", format!("SHOW GRANTS FOR {name}")).await?;
        Ok(tables.iter().flat_map(|t| &t.rows).filter_map(|r| r.first().cloned().flatten()).collect())
    }

    async fn create_database(&self, name: &str) -> Result<(), Error> {
        let sql = format!("SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME={}", quote(name));
        let found = self.act("looking for a database", sql).await?;
        if found.iter().any(|t| !t.rows.is_empty()) {
            return Ok(());
        }
        let sql = format!("CREATE DATABASE IF NOT EXISTS `{}`", name.replace('`', "``"));
        self.logged("creating a database", &sql).await
    }

    /// Through the binary log, so that it replicates.
    async fn logged(&self, doing: &'static str, sql: &str) -> Result<(), Error> {
        let id = self.state().writer_id.unwrap_or(self.spec.server_id);
        let done = self.act(doing, self.flavour.logged(sql, id)).await;
        if done.is_err() {
            // The statement list ended before its last part.
            self.act("leaving the log alone", "SET SESSION sql_log_bin=0").await?;
        }
        done.map(|_| ())
    }
}

/// A grant of the topology: `privileges ON target`.
#[derive(Debug, PartialEq, Eq)]
struct Grant {
    privileges: String,
    target: String,
    /// The database that the target names, if it is one plain name.
    database: Option<String>,
    global: bool,
    grant_option: bool,
}

impl Grant {
    fn parse(text: &str) -> Result<Grant, Error> {
        let bad = || Error::BadSpec(format!("{text:?} is not a grant such as \"ALL PRIVILEGES ON shop.*\""));
        if text.chars().any(|c| c == ';' || c.is_control()) {
            return Err(bad());
        }
        let mut words = text.trim();
        let mut grant_option = false;
        const OPTION: &str = " WITH GRANT OPTION";
        if let Some(at) = words.len().checked_sub(OPTION.len())
            && words.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(OPTION))
        {
            words = words[..at].trim_end();
            grant_option = true;
        }
        let at = words.to_ascii_uppercase().rfind(" ON ").ok_or_else(bad)?;
        let (privileges, target) = (words[..at].trim(), words[at + 4..].trim());
        if privileges.is_empty() || target.is_empty() || target.to_ascii_uppercase().contains(" TO ") {
            return Err(bad());
        }
        let before_dot = target.rsplit_once('.').ok_or_else(bad)?.0.trim();
        let bare = before_dot.trim_matches('`').replace("``", "`").replace("\\_", "_");
        let pattern = bare.contains('%') || bare == "*";
        Ok(Grant {
            privileges: privileges.to_owned(),
            target: target.to_owned(),
            database: (!pattern && !bare.is_empty()).then_some(bare),
            global: before_dot == "*",
            grant_option,
        })
    }

    /// True if `held`, a line of SHOW GRANTS, says the same.
    fn same_as(&self, held: &str) -> bool {
        let normal = |s: &str| s.replace(['`', ' '], "").to_ascii_uppercase();
        let all = |s: &str| if s == "ALL" { "ALLPRIVILEGES".to_owned() } else { s.to_owned() };
        let start = format!("GRANT{}ON{}TO", all(&normal(&self.privileges)), normal(&self.target));
        normal(held).starts_with(&start)
    }
}

#[cfg(test)]
mod tests {
    use super::Grant;

    #[test]
    fn grants_are_taken_apart() {
        let g = Grant::parse("all privileges on shop.* with grant option").unwrap();
        assert_eq!((g.database.as_deref(), g.global, g.grant_option), (Some("shop"), false, true));
        assert_eq!(
            Grant::parse("SELECT, INSERT ON `web_shop`.`t`").unwrap().database.as_deref(),
            Some("web_shop")
        );
        assert!(Grant::parse("ALL ON *.*").unwrap().global);
        assert!(Grant::parse("ALL ON *.*").unwrap().database.is_none());
        assert!(g.same_as("GRANT ALL PRIVILEGES ON `shop`.* TO `app`@`%` WITH GRANT OPTION"));
        assert!(!g.same_as("GRANT SELECT ON `shop`.* TO `app`@`%`"));
    }

    #[test]
    fn what_is_no_grant_is_refused() {
        for text in
            ["", "ALL", "ALL ON shop", "ALL ON shop.*; DROP DATABASE shop", "ALL ON shop.* TO root@localhost"]
        {
            assert!(Grant::parse(text).is_err(), "{text:?}");
        }
    }
}
