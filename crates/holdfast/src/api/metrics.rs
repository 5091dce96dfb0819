//! Prometheus metrics of this host: its instances, its proxies, its store member. Written by hand: the text format
//! is ten lines, and a metrics library would be a registry for values that are all at hand already.

use super::server::{Host, text};
use crate::archive::Doing;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use holdfast_proxy::Stats;
use holdfast_store::Store;
use std::fmt::Write;

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        // Names are checked labels (no quotes, no backslashes), so nothing needs escaping.
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let _ = writeln!(self.0, "{name}{{{}}} {value}", labels.join(","));
    }
}

pub(super) async fn metrics(State(host): State<Host>) -> Response {
    let mut page = Page(String::new());
    instances(&mut page, &host);
    archives(&mut page, &host);
    proxies(&mut page, &host);
    store(&mut page, &host);
    if let Some(ends) = host.certificate_ends_unix_s.and_then(|s| u64::try_from(s).ok()) {
        let name = "holdfast_certificate_ends_timestamp_seconds";
        page.family(name, "gauge", "When this host's certificate ends, in seconds since 1970.");
        page.sample(name, &[("node", host.node.as_str())], ends);
    }
    text(StatusCode::OK, page.0)
}

fn instances(page: &mut Page, host: &Host) {
    let reports: Vec<_> = host.agent.instances().iter().map(|i| i.report()).collect();
    let node = host.node.as_str();
    let mut family =
        |name: &str, help: &str, value: &dyn Fn(&holdfast_core::report::InstanceReport) -> Option<u64>| {
            page.family(name, "gauge", help);
            for r in &reports {
                if let Some(v) = value(r) {
                    page.sample(name, &[("node", node), ("service", r.group.as_str())], v);
                }
            }
        };
    family("holdfast_instance_running", "1 if the engine runs and answers.", &|r| Some(r.running().into()));
    family("holdfast_instance_primary", "1 if the instance is open for writes.", &|r| {
        Some(r.leads.is_some().into())
    });
    family("holdfast_instance_epoch", "The epoch this agent has promised.", &|r| Some(r.promised.0));
    family("holdfast_instance_connections", "Client connections to the engine.", &|r| {
        Some(r.seen.connections.into())
    });
    family("holdfast_instance_lag_milliseconds", "Replication lag.", &|r| {
        r.seen.upstream.as_ref().and_then(|u| u.lag_ms)
    });
    family("holdfast_instance_ackers", "Connected replicas that acknowledge.", &|r| {
        Some(r.seen.ackers.len() as u64)
    });
    family("holdfast_instance_free_disk_bytes", "Free space below the data directory.", &|r| {
        r.seen.free_disk_bytes
    });
    family("holdfast_instance_unsafe_settings", "Engine settings that break a promise.", &|r| {
        Some(r.seen.unsafe_settings.len() as u64)
    });
    family(
        "holdfast_instance_saved_transactions",
        "Transactions only this instance had, saved before a rebuild.",
        &|r| Some(r.lost.as_ref().map_or(0, |l| l.transactions)),
    );
}

type ProxyMetric = (&'static str, &'static str, &'static str, fn(&Stats) -> u64);

const PROXY: &[ProxyMetric] = &[
    ("connections", "gauge", "Client connections now.", |s| s.connections),
    ("connections_total", "counter", "Client connections ever accepted.", |s| s.connections_total),
    ("held", "gauge", "Commands held now.", |s| s.held),
    ("held_bytes", "gauge", "Bytes of held and buffered commands now.", |s| s.held_bytes),
    ("held_total", "counter", "Commands that were held at some time.", |s| s.held_total),
    ("commands_total", "counter", "Commands taken from clients.", |s| s.commands),
    ("rehomed_total", "counter", "Sessions moved to another server with their state.", |s| s.rehomed),
    ("cut_total", "counter", "Connections cut because their epoch had ended.", |s| s.cut),
    ("resent_total", "counter", "Commands sent again that provably had not been executed.", |s| s.resent),
    ("reads_at_replicas_total", "counter", "Reads on the read/write port that a replica answered.", |s| {
        s.reads_at_replicas
    }),
    ("reads_waited_total", "counter", "Reads that waited on a replica for what their session wrote.", |s| {
        s.reads_waited
    }),
    ("reads_late_total", "counter", "Reads that waited in vain and went to the primary.", |s| s.reads_late),
    ("reads_returned_total", "counter", "Reads that the primary answered because a replica did not.", |s| {
        s.reads_returned
    }),
    ("errors_connections_total", "counter", "Errors told: connection limit.", |s| s.errors_connections),
    ("errors_login_total", "counter", "Errors told: login refused.", |s| s.errors_login),
    ("errors_held_total", "counter", "Errors told: held too long or too much held.", |s| s.errors_held),
    ("errors_transaction_lost_total", "counter", "Errors told: transaction lost.", |s| {
        s.errors_transaction_lost
    }),
    ("errors_state_lost_total", "counter", "Errors told: session state lost.", |s| s.errors_state_lost),
    ("errors_outcome_unknown_total", "counter", "Errors told: outcome unknown.", |s| {
        s.errors_outcome_unknown
    }),
    ("errors_unconfirmed_total", "counter", "Errors told: written, and not confirmed by replicas.", |s| {
        s.errors_unconfirmed
    }),
    ("errors_protocol_total", "counter", "Errors told: protocol.", |s| s.errors_protocol),
];

fn archives(page: &mut Page, host: &Host) {
    let all: Vec<_> =
        host.agent.archives().iter().map(|a| (a.instance().group().clone(), a.doing())).collect();
    if all.is_empty() {
        return;
    }
    type Value = fn(&Doing) -> u64;
    let families: [(&str, &str, &str, Value); 4] = [
        (
            "holdfast_archive_kept_timestamp_seconds",
            "gauge",
            "Everything that was committed up to then is kept, in seconds since 1970; 0 where this node is not the primary.",
            |d| d.kept_unix_ms / 1_000,
        ),
        ("holdfast_archive_failing", "gauge", "1 if the primary's log cannot be kept at the moment.", |d| {
            d.trouble.is_some().into()
        }),
        ("holdfast_archive_segments_total", "counter", "Segments of the log that were kept.", |d| d.segments),
        (
            "holdfast_archive_bytes_total",
            "counter",
            "Bytes of the log that were kept, before compression.",
            |d| d.bytes,
        ),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for (service, doing) in &all {
            page.sample(name, &[("node", host.node.as_str()), ("service", service.as_str())], value(doing));
        }
    }
}

fn proxies(page: &mut Page, host: &Host) {
    let stats: Vec<_> = host.proxies.iter().map(|(g, h)| (g, h.stats())).collect();
    for (name, kind, help, value) in PROXY {
        let full = format!("holdfast_proxy_{name}");
        page.family(&full, kind, help);
        for (group, stats) in &stats {
            page.sample(&full, &[("node", host.node.as_str()), ("service", group.as_str())], value(stats));
        }
    }
}

fn store(page: &mut Page, host: &Host) {
    let Some(store) = host.store() else { return };
    let leadership = store.leadership().borrow().clone();
    let node = [("node", host.node.as_str())];
    page.family("holdfast_store_leads", "gauge", "1 if this node's store member leads.");
    page.sample("holdfast_store_leads", &node, leadership.is_me.into());
    page.family("holdfast_store_applied", "counter", "Index of the last applied entry.");
    page.sample("holdfast_store_applied", &node, *store.watch().borrow());
}
