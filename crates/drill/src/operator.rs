//! Asks a deployment through its own command line, as a person would: the binary is started, never linked.
//!
//! Guarantees: every command ends with this process; an answer that is not what it should be is an error, never an empty
//! value. Does not know: who made the deployment.

use serde_json::Value;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::Instant;

/// Why a deployment could not be asked, or did not become what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not start {exe}")]
    Spawn {
        exe: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`holdfast {command}` failed: {says}")]
    Command {
        command: String,
        /// Its exit code; `None` if a signal ended it.
        code: Option<i32>,
        says: String,
    },
    #[error("{what} did not come true within {waited_s} s; last seen: {last}")]
    Deadline { what: String, waited_s: u64, last: String },
    #[error("the deployment has no {0}")]
    Missing(String),
}

/// Somebody who may run `holdfast` against a deployment, and asks about one of its services.
#[derive(Debug, Clone)]
pub struct Operator {
    /// What starts a program where the operator stands; may be empty.
    pub entry: Vec<OsString>,
    pub exe: PathBuf,
    /// Before every command: `--config FILE`, `--token-file FILE`.
    pub globals: Vec<OsString>,
    pub service: String,
}

const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// `holdfast` says with it that something needs attention.
const ATTENTION: i32 = 6;

impl Operator {
    /// `holdfast ARGS`, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match self.entry.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.exe);
                command
            }
            None => Command::new(&self.exe),
        };
        command.args(&self.globals).args(args).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs `holdfast ARGS` and returns its standard output. That something needs attention is no failure here.
    pub async fn holdfast(&self, args: &[&str]) -> Result<String, Error> {
        let output = self.command(args).output().await;
        let output = output.map_err(|source| Error::Spawn { exe: self.exe.clone(), source })?;
        if matches!(output.status.code(), Some(0 | ATTENTION)) {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let says = String::from_utf8_lossy(&output.stderr).trim().to_string();
        Err(Error::Command { command: args.join(" "), code: output.status.code(), says })
    }

    /// What `holdfast ARGS -o json` answers.
    pub async fn json(&self, args: &[&str]) -> Result<Value, Error> {
        let args = [args, &["-o", "json"]].concat();
        let text = self.holdfast(&args).await?;
        let garbled = |e: serde_json::Error| Error::Command {
            command: args.join(" "),
            code: None,
            says: format!("its answer is not JSON: {e}"),
        };
        serde_json::from_str(&text).map_err(garbled)
    }

    /// The service in `holdfast status -o json`.
    pub async fn service(&self) -> Result<Value, Error> {
        self.service_in(&self.json(&["status"]).await?)
    }
    /// The service in a status.
    pub(crate) fn service_in(&self, status: &Value) -> Result<Value, Error> {
        let mut services = status["services"].as_array().into_iter().flatten();
        let named = services.find(|s| s["service"] == self.service.as_str());
        named.cloned().ok_or_else(|| Error::Missing(format!("service {}", self.service)))
    }
    /// Whether the failover of an uncertain death would be put off because the last one was too recent (S12).
    pub async fn cooling_down(&self) -> Result<bool, Error> {
        Ok(self.service().await?["cooling_down"] == true)
    }
    /// The node whose controller is in office; it is the store's leader.
    pub async fn controller(&self) -> Result<String, Error> {
        let status = self.json(&["status"]).await?;
        let named = status["controller"].as_str().ok_or_else(|| Error::Missing("controller".into()))?;
        Ok(named.to_string())
    }
    /// The plans of `holdfast history -o json`.
    pub async fn history(&self) -> Result<Vec<Value>, Error> {
        let history = self.json(&["history", &self.service]).await?;
        Ok(history["plans"].as_array().cloned().unwrap_or_default())
    }
    /// The node that leads right now.
    pub async fn primary(&self) -> Result<String, Error> {
        let service = self.service().await?;
        let named = service["primary"].as_str().ok_or_else(|| Error::Missing("primary".into()))?;
        Ok(named.to_string())
    }

    /// Waits until the service is healthy: one open primary, everyone else replicating, the sync set full. Gives up as
    /// soon as `still` does.
    pub async fn wait_healthy<E: From<Error>>(
        &self,
        bound: Duration,
        still: impl FnMut() -> Result<(), E>,
    ) -> Result<Value, E> {
        self.wait_service("a healthy service", bound, still, healthy).await
    }

    /// Waits until [`Operator::cooling_down`] is over.
    pub async fn wait_cool(&self, bound: Duration) -> Result<(), Error> {
        let cool = |s: &Value| s["cooling_down"] == false;
        self.wait_service("the end of the cool-down after a failover", bound, || Ok(()), cool)
            .await
            .map(|_| ())
    }

    async fn wait_service<E: From<Error>>(
        &self,
        what: &str,
        bound: Duration,
        mut still: impl FnMut() -> Result<(), E>,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value, E> {
        let end = Instant::now() + bound;
        let mut last = String::from("nothing");
        while Instant::now() < end {
            still()?;
            match self.service().await {
                Ok(service) if holds(&service) => return Ok(service),
                Ok(service) => last = summary(&service),
                Err(e) => last = e.to_string(),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Err(Error::Deadline { what: what.into(), waited_s: bound.as_secs(), last }.into())
    }
}

/// See [`Operator::wait_healthy`].
fn healthy(service: &Value) -> bool {
    let members = service["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let role = |m: &Value, roles: &[&str]| roles.contains(&m["role"].as_str().unwrap_or_default());
    let sync = service["durability"] == "sync" && members.len() > 1;
    service["state"] == "healthy"
        && members.iter().filter(|m| role(m, &["primary"])).count() == 1
        && members.iter().all(|m| role(m, &["primary", "replica", "sync replica"]) && m["state"] == "running")
        && (!sync
            || service["assurance"] == "held"
                && service["sync_set"].as_array().is_some_and(|s| !s.is_empty()))
}

/// A service's state and its members', in one line.
fn summary(service: &Value) -> String {
    let members = service["members"].as_array().cloned().unwrap_or_default();
    let each: Vec<String> = members
        .iter()
        .map(|m| {
            format!("{} {} {} {}", m["node"], m["role"], m["state"], m["trouble"].as_str().unwrap_or(""))
        })
        .collect();
    format!("{} {} [{}] {}", service["state"], service["assurance"], each.join("; "), service["findings"])
}
