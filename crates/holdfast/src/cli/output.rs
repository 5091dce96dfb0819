//! Tables for people, JSON for scripts: the same values.

use super::args::Output;
use super::client::Api;
use super::exit::{Exit, Failure};
use crate::api::people::{BackupStatus, Finding, ServiceStatus, Status};
use crate::clock::utc;
use crate::config::Config;
use crate::{say, sayln};
use miette::{Report, miette};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

pub fn json(value: &impl Serialize) {
    sayln!("{}", serde_json::to_string_pretty(value).expect("plain data"));
}

/// Left-aligned columns, as wide as their widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut width: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in width.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&width).map(|(c, w)| format!("{c:<w$}")).collect();
        format!("  {}\n", padded.join("  ").trim_end())
    };
    let mut out = line(head.to_vec());
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

pub async fn status(api: &Api, watch: bool, output: Output) -> Result<Exit, Failure> {
    loop {
        let status = api.status().await;
        if !watch {
            let status = status?;
            match output {
                Output::Json => json(&status),
                Output::Table => say!("{}", status_text(&status)),
            }
            let findings: Vec<Finding> = status.services.into_iter().flat_map(|s| s.findings).collect();
            return Ok(Exit::of(&findings));
        }
        match (status, output) {
            (Ok(status), Output::Json) => sayln!("{}", serde_json::to_string(&status).expect("plain data")),
            (Ok(status), Output::Table) => say!("\x1b[2J\x1b[H{}", status_text(&status)),
            (Err(e), _) => eprintln!("{}", e.text()),
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
        }
    }
}

fn status_text(status: &Status) -> String {
    let mut out = format!("{}: controller on {}\n", status.name, status.controller);
    let silent = status.nodes.iter().filter(|n| n.heard_ms_ago.is_none_or(|ms| ms > 1_000));
    for node in silent {
        let since = node
            .heard_ms_ago
            .map_or("never reported".to_string(), |ms| format!("silent for {:.1} s", ms as f64 / 1e3));
        out.push_str(&format!("  ! node {} ({}): {since}\n", node.node, node.address));
    }
    for service in &status.services {
        out.push('\n');
        out.push_str(&service_text(service));
    }
    out
}

fn service_text(s: &ServiceStatus) -> String {
    let durability =
        if s.durability == "sync" { format!("sync ({})", s.assurance) } else { s.durability.clone() };
    let mut out = format!(
        "{}  {} {}  durability {durability}  epoch {}  {}  ports {} (read/write) {} (read)\n",
        s.service, s.engine, s.strategy, s.epoch, s.state, s.port, s.read_port
    );
    out.push_str(&members_table(s));
    if s.mode == "paused" {
        out.push_str("  Paused: no automatic failover. `holdfast resume` switches it on.\n");
    }
    if let Some(backup) = &s.backup {
        out.push_str(&format!("  Backups: {}\n", backup_text(backup)));
    }
    for f in &s.findings {
        let mark = if f.severity == "notice" { "-" } else { "!" };
        out.push_str(&format!("  {mark} {}: {}\n", f.code, f.says));
        if let Some(hint) = &f.hint {
            out.push_str(&format!("      {hint}\n"));
        }
    }
    out
}

/// The last good one, and what is next.
pub fn backup_text(b: &BackupStatus) -> String {
    let good = b.good_unix_ms.map_or("none yet".into(), |ms| format!("last good one of {}", utc(ms)));
    match (&b.under_way_on, b.next_unix_ms) {
        (Some(node), _) => format!("{good}; one is being made on {node}"),
        (None, Some(next)) => format!("{good}; the next at {}", utc(next)),
        (None, None) => good,
    }
}

fn members_table(s: &ServiceStatus) -> String {
    let rows: Vec<Vec<String>> = s
        .members
        .iter()
        .map(|m| {
            let lag = m.lag_ms.map_or("-".into(), |ms| format!("{ms} ms"));
            let position = m.position.clone().unwrap_or_else(|| "-".into());
            let note = m.activity.clone().or_else(|| m.trouble.clone()).unwrap_or_default();
            vec![
                m.node.clone(),
                m.zone.clone(),
                m.address.clone(),
                m.role.clone(),
                m.state.clone(),
                lag,
                m.connections.to_string(),
                position,
                note,
            ]
        })
        .collect();
    table(&["MEMBER", "ZONE", "ADDRESS", "ROLE", "STATE", "LAG", "CONN", "POSITION", ""], &rows)
}

pub fn members(title: &str, s: &ServiceStatus) {
    say!("{title}:\n{}", members_table(s));
}

pub async fn history(api: &Api, service: Option<&str>, output: Output) -> Result<Exit, Failure> {
    let service = api.service(service).await?.service;
    let history = api.history(&service).await?;
    if output == Output::Json {
        json(&history);
        return Ok(Exit::Ok);
    }
    let last = history.plans.last().map(|p| p.id);
    for p in &history.plans {
        let took = p.took_ms.map_or(String::new(), |ms| format!("  {ms} ms"));
        sayln!("{:>4}  epoch {}  {:<10} {}{took}", p.id, p.epoch, p.kind, utc(p.at_unix_ms));
        sayln!("      {}", p.because);
        if let Some(loss) = p.known_loss {
            sayln!("      known loss: at least {loss} {}", p.known_loss_unit);
        }
        for s in &p.steps {
            let done = s.done_ms.map_or_else(
                || if last == Some(p.id) { "under way" } else { "overtaken by the next plan" }.to_string(),
                |ms| format!("{ms} ms"),
            );
            sayln!("      {}: {} ({done})", s.node, s.does);
        }
    }
    Ok(Exit::Ok)
}

pub async fn explain(api: &Api, service: Option<&str>, output: Output) -> Result<Exit, Failure> {
    let service = api.service(service).await?.service;
    let explanation = api.explain(&service).await?;
    if output == Output::Json {
        json(&explanation);
    } else {
        sayln!("{}: {}", explanation.service, explanation.verdict);
        for f in &explanation.findings {
            sayln!("  {} [{}]: {}", f.code, f.severity, f.says);
            if let Some(hint) = &f.hint {
                sayln!("      {hint}");
            }
        }
        if let Some(plan) = &explanation.plan {
            sayln!("  next: {} because {}", plan.kind, plan.because);
            for s in &plan.steps {
                sayln!("      {}: {}", s.node, s.does);
            }
        }
        if explanation.findings.is_empty() {
            sayln!("  nothing to do: every member is what it should be");
        }
    }
    Ok(Exit::of(&explanation.findings))
}

pub fn init(config: &Config, dir: Option<PathBuf>, renew: bool) -> Result<Exit, Failure> {
    let dir = dir.or_else(|| config.topology.tls_dir.clone());
    let help = "add `[tls]` with `dir = \"/etc/holdfast/tls\"` to the topology file, or pass --dir";
    let dir =
        dir.ok_or_else(|| Failure::refused(miette!(help = help, "the topology names no TLS directory")))?;
    let made =
        crate::pki::init(&dir, &config.topology, crate::clock::unix_s(), renew).map_err(Report::new)?;
    say!("{made}");
    sayln!(
        "Each node needs ca.pem, its own NODE.pem and NODE.key, and both *.sha256 files; keep ca.key off them."
    );
    sayln!(
        "People need a token: `--token-file {}` (or viewer.token, to look only).",
        dir.join("operator.token").display()
    );
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".into(), "127.0.0.11:3306".into()], vec!["long-name".into(), "-".into()]];
        let drawn = table(&["NODE", "ADDRESS"], &rows);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines, ["  NODE       ADDRESS", "  a          127.0.0.11:3306", "  long-name  -"]);
    }
}
