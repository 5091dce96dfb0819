//! The proxies of this host, one per service, on threads of their own.
//!
//! Guarantees: however busy clients keep the proxies, the agent, the controller and the store never queue behind them
//! in this process: who shares no thread cannot delay a lease's renewal (S2). A session stays on one thread, and both
//! its sockets with it: nothing is handed from core to core within a command.
//! Does not know: routes, which come by watch; who closes gates, which is the agent through the handles.

use holdfast_core::GroupName;
use holdfast_proxy::{Handle, Options, Service};
use miette::{IntoDiagnostic, Report, WrapErr};
use std::io;
use std::num::NonZero;
use tokio::runtime::{self, Builder};
use tokio::sync::watch;

/// More threads than this pay in memory and do not carry more.
const THREADS_MAX: usize = 64;

/// See the module. Dropped, every session ends.
#[derive(Debug)]
pub struct Proxies {
    threads: Vec<runtime::Handle>,
    /// The threads end with it.
    _running: watch::Sender<()>,
}

impl Proxies {
    /// One thread per core.
    pub fn start() -> io::Result<Proxies> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let running = watch::Sender::new(());
        let mut threads = Vec::new();
        for _ in 0..cores.min(THREADS_MAX) {
            let thread = Builder::new_current_thread().enable_all().build()?;
            threads.push(thread.handle().clone());
            let mut ended = running.subscribe();
            std::thread::Builder::new()
                .name("proxy".into())
                .spawn(move || thread.block_on(async { while ended.changed().await.is_ok() {} }))?;
        }
        Ok(Proxies { threads, _running: running })
    }

    /// Binds and serves one service.
    pub async fn serve(&self, options: Options) -> Result<(GroupName, Handle), Report> {
        let group = options.group.clone();
        let first = self.threads.first().expect("there is at least one core");
        // Sockets belong to the threads on which they are made.
        let bound = first.spawn(Service::bind(options)).await.into_diagnostic();
        let (service, handle) = bound
            .and_then(|bound| bound.into_diagnostic())
            .wrap_err_with(|| format!("the proxy of {group}"))?;
        first.spawn(service.run_on(self.threads.clone(), std::future::pending()));
        Ok((group, handle))
    }
}
