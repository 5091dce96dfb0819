//! Fronts one fixed engine: `front ENGINE LISTEN BACKEND USER PASSWORD [SOCKET]`,
//! with ENGINE as in the topology file. For benchmarks and for trying clients out.

use holdfast_core::topology::Engine;
use holdfast_core::{Endpoint, Epoch, Gate, GroupName, NodeName, RouteSnapshot, UserName, ZoneName};
use holdfast_proxy::{Limits, LocalEngine, Options, Password, Route, Service};
use std::error::Error;
use std::sync::Arc;
use tokio::time::Instant;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [engine, listen, backend, user, password, socket @ ..] = &args[..] else {
        return Err("usage: front ENGINE LISTEN BACKEND USER PASSWORD [SOCKET]".into());
    };
    let known = [Engine::MariaDb, Engine::MySql, Engine::Redis, Engine::Valkey];
    let engine = known.into_iter().find(|e| e.word() == engine).ok_or("no such engine")?;
    let addr = backend.parse()?;
    let local = socket.first().map(|socket| LocalEngine { addr, socket: socket.into() });
    let zone = ZoneName::new("local")?;
    let writer = Endpoint { node: NodeName::new("fixed")?, zone: zone.clone(), addr };
    let snapshot = RouteSnapshot {
        group: GroupName::new("fixed")?,
        epoch: Epoch(1),
        gate: Gate::Open,
        writer: Some(writer),
        readers: vec![],
        acks: 0,
        valid_for_ms: u64::from(u32::MAX),
    };
    let route = Route { snapshot, received: Instant::now() };
    let (_route, routes) = tokio::sync::watch::channel(Some(Arc::new(route)));
    let (service, handle) = Service::bind(Options {
        engine,
        group: GroupName::new("fixed")?,
        zone,
        read_consistency: holdfast_core::topology::ReadConsistency::Strong,
        local,
        rw_listen: listen.parse()?,
        ro_listen: None,
        users: vec![(UserName::new(user)?, Password::new(password.as_str()))],
        tls: None,
        routes,
        limits: Limits::default(),
        server_version: None,
    })
    .await?;
    println!("{}", handle.rw_addr());
    service
        .run(async {
            let _ = tokio::signal::ctrl_c().await;
        })
        .await;
    Ok(())
}
