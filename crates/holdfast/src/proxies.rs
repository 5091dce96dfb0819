//! The proxies of this host, one per service, on threads of their own.
//!
//! Guarantees: however busy clients keep the proxies, the agent, the controller and the store never queue behind them
//! in this process: who shares no thread cannot delay a lease's renewal (S2). Told to stop, they stop with all their
//! sessions.
//! Does not know: routes, which come by watch; who closes gates, which is the agent through the handles.

use holdfast_core::GroupName;
use holdfast_proxy::{Handle, Options, Service, sentinel};
use miette::{IntoDiagnostic, Report, WrapErr};
use std::num::NonZero;
use tokio::runtime::{Builder, Runtime};

/// See the module.
#[derive(Debug)]
pub struct Proxies {
    /// `None` only while it is dropped.
    threads: Option<Runtime>,
}

impl Proxies {
    /// One thread per core: sessions move to whichever is free.
    pub fn start() -> std::io::Result<Proxies> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads =
            Builder::new_multi_thread().worker_threads(cores).thread_name("proxy").enable_all().build()?;
        Ok(Proxies { threads: Some(threads) })
    }

    /// Binds and serves one service.
    pub async fn serve(&self, options: Options) -> Result<(GroupName, Handle), Report> {
        let threads = self.threads.as_ref().expect("it is only taken by drop");
        let group = options.group.clone();
        // Sockets belong to the threads on which they are made.
        let (service, handle) = threads
            .spawn(Service::bind(options))
            .await
            .into_diagnostic()
            .and_then(|bound| bound.into_diagnostic())
            .wrap_err_with(|| format!("the proxy of {group}"))?;
        threads.spawn(service.run(std::future::pending()));
        Ok((group, handle))
    }

    /// Binds and serves the Sentinel's interface. Its clients are as many and as busy as proxies' are.
    pub async fn serve_sentinel(&self, options: sentinel::Options) -> Result<(), Report> {
        let threads = self.threads.as_ref().expect("it is only taken by drop");
        let service = threads
            .spawn(sentinel::Service::bind(options))
            .await
            .into_diagnostic()
            .and_then(|bound| bound.into_diagnostic())
            .wrap_err("the Sentinel port")?;
        threads.spawn(service.run(std::future::pending()));
        Ok(())
    }
}

impl Drop for Proxies {
    /// Waiting for the threads is not allowed on another runtime's, and nothing here needs an end in order: clients
    /// are told by their connections closing.
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}
