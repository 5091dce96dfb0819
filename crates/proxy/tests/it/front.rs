//! A proxy under test, and the hand that turns its routes.

use crate::engine::{Engine, OTHER, PASSWORD, USER};
use holdfast_core::{Endpoint, Epoch, Gate, GroupName, RouteSnapshot, UserName, ZoneName};
use holdfast_proxy::{Handle, Limits, LocalEngine, Options, Password, Route, Service};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

pub struct Front {
    pub handle: Handle,
    pub addr: SocketAddr,
    routes: watch::Sender<Option<Arc<Route>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A certificate of its own.
pub fn tls() -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Arc::new(tls)
}

pub fn options() -> (Options, watch::Sender<Option<Arc<Route>>>) {
    let (sender, routes) = watch::channel(None);
    let user = |name, password| (UserName::new(name).unwrap(), Password::new(password));
    let options = Options {
        engine: holdfast_core::topology::Engine::MariaDb,
        group: GroupName::new("shop").unwrap(),
        zone: ZoneName::new("a").unwrap(),
        read_consistency: holdfast_core::topology::ReadConsistency::Strong,
        local: None,
        rw_listen: "127.0.0.1:0".parse().unwrap(),
        ro_listen: Some("127.0.0.1:0".parse().unwrap()),
        users: vec![user(USER, PASSWORD), user(OTHER, "")],
        tls: None,
        routes,
        limits: Limits { hold_ms: 5_000, ..Limits::default() },
        server_version: None,
    };
    (options, sender)
}

impl Front {
    pub async fn start() -> Front {
        Front::start_with(|_| ()).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Options)) -> Front {
        let (mut options, routes) = options();
        change(&mut options);
        let (service, handle) = Service::bind(options).await.unwrap();
        let task = tokio::spawn(service.run(std::future::pending()));
        Front { addr: handle.rw_addr(), handle, routes, task }
    }

    /// A proxy whose gate is open to `engine` under epoch 1.
    pub async fn open_to(engine: &Engine) -> Front {
        let front = Front::start().await;
        front.open(1, engine);
        front
    }

    /// The same on the engine's own host.
    pub async fn beside(engine: &Engine) -> Front {
        let local = LocalEngine { addr: engine.addr, socket: engine.socket() };
        let front = Front::start_with(|options| options.local = Some(local)).await;
        front.open(1, engine);
        front
    }

    /// What the proxy is told.
    pub fn routes(&self) -> watch::Receiver<Option<Arc<Route>>> {
        self.routes.subscribe()
    }

    pub fn route(
        &self,
        epoch: u64,
        gate: Gate,
        writer: Option<Endpoint>,
        readers: Vec<Endpoint>,
        valid_for_ms: u64,
    ) {
        self.tell(RouteSnapshot {
            group: GroupName::new("shop").unwrap(),
            epoch: Epoch(epoch),
            gate,
            writer,
            readers,
            acks: 0,
            valid_for_ms,
        });
    }

    /// Sends a snapshot and waits until the proxy has it.
    pub fn tell(&self, snapshot: RouteSnapshot) {
        self.routes
            .send_replace(Some(Arc::new(Route { snapshot: snapshot.clone(), received: Instant::now() })));
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        let taken = || {
            let known = self.handle.route()?;
            let same = known.epoch == snapshot.epoch
                && known.gate == snapshot.gate
                && known.acks == snapshot.acks
                && known.readers == snapshot.readers;
            (same && known.writer == snapshot.writer && self.handle.is_fresh() == (snapshot.valid_for_ms > 0))
                .then_some(())
        };
        while taken().is_none() {
            assert!(Instant::now() < deadline, "the proxy does not take {snapshot:?}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    pub fn open(&self, epoch: u64, writer: &Engine) {
        self.route(epoch, Gate::Open, Some(writer.endpoint("a")), vec![], 600_000);
    }
    pub fn drain(&self, epoch: u64, writer: &Engine) {
        self.route(epoch, Gate::Draining, Some(writer.endpoint("a")), vec![], 600_000);
    }
    pub fn close(&self, epoch: u64) {
        self.route(epoch, Gate::Closed, None, vec![], 600_000);
    }
}
