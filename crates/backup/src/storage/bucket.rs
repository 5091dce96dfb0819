//! A bucket of S3, or of a server that speaks its protocol.
//!
//! S3 writes an object whole or not at all, and lists what was written. It must also honour `If-None-Match: *`: a prune
//! relies on it, and a repository is made only where it does.

use super::{Error, Listed, Storage, failure, listed};
use crate::key;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::prefix::PrefixStore;
use object_store::{
    Certificate, ClientOptions, GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _, PutMode,
    RetryConfig, path::Path as Name,
};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use tokio::runtime::Runtime;

const CONNECT: Duration = Duration::from_secs(5);
/// A server that says nothing for so long says nothing any more.
const SILENCE: Duration = Duration::from_secs(60);
/// A slower way than this is a broken one.
const BYTES_PER_S_MIN: u64 = 64 << 10;
/// Refused or reset connections and the server's own errors are tried again so long, at growing distances.
const RETRY: Duration = Duration::from_secs(30);
/// An upload whose answer was lost is tried again so often.
const CREATE_TRIES: usize = 3;
const THREADS: usize = 2;

/// Which bucket, and how it is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub bucket: String,
    /// The repository's names begin with it; empty for the whole bucket.
    pub prefix: String,
    /// `https://HOST[:PORT]` of a server that is not Amazon's.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// PEM certificates to trust, beside the system's.
    pub authorities: Option<Vec<u8>>,
    /// Without: variables of the environment, or the role of the machine or container.
    pub credentials: Option<Credentials>,
}

/// An access key.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub id: String,
    pub secret: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} with its secret", self.id)
    }
}

impl Place {
    /// `s3://BUCKET/PREFIX`.
    pub fn url(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("s3://{}{slash}{}", self.bucket, self.prefix)
    }
}

/// See the head of this file.
pub struct Bucket {
    store: Arc<PrefixStore<AmazonS3>>,
    url: String,
    /// Of its own: calls come from any thread, also from one of another runtime that drops a pin.
    runtime: Option<Runtime>,
}

impl Bucket {
    /// Connects to nothing yet.
    pub fn open(place: &Place) -> Result<Bucket, Error> {
        let url = place.url();
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Failed {
            doing: "opening",
            name: url.clone(),
            source,
        };
        // The library's HTTP client has no provider of its own. That there is one already is as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut options = ClientOptions::new().with_connect_timeout(CONNECT).with_timeout_disabled();
        for authority in certificates(place).map_err(|e| failed(e.into()))? {
            options = options.with_root_certificate(authority);
        }
        let plain = place.endpoint.as_ref().is_some_and(|e| e.starts_with("http://"));
        let allow_http = plain || std::env::var("AWS_ALLOW_HTTP").is_ok_and(|v| v == "true");
        let retry = RetryConfig { retry_timeout: RETRY, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&place.bucket)
            .with_client_options(options)
            .with_allow_http(allow_http)
            // A bucket with object lock takes nothing without.
            .with_checksum_algorithm(Checksum::SHA256)
            .with_retry(retry);
        if let Some(endpoint) = &place.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &place.region {
            builder = builder.with_region(region);
        }
        if let Some(key) = &place.credentials {
            builder = builder.with_access_key_id(&key.id).with_secret_access_key(&key.secret);
        }
        let store = builder.build().map_err(|e| failed(e.into()))?;
        let store = Arc::new(PrefixStore::new(store, Name::from(place.prefix.as_str())));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("bucket")
            .enable_all()
            .build()
            .map_err(|e| failed(e.into()))?;
        Ok(Bucket { store, url, runtime: Some(runtime) })
    }

    /// Waits for work that goes on elsewhere, which may be done on any thread.
    fn wait<T: Send + 'static>(
        &self,
        doing: &'static str,
        name: &str,
        work: impl Future<Output = Result<T, object_store::Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let broken = |why: &str| Error::Failed { doing, name: name.to_owned(), source: why.into() };
        let runtime = self.runtime.as_ref().ok_or_else(|| broken("the bucket is closed"))?;
        let (answer, answered) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            let _ = answer.send(work.await);
        });
        match answered.recv() {
            Ok(done) => done.map_err(|e| failure(doing, name, e)),
            Err(_) => Err(broken("the work broke off")),
        }
    }

    fn put(&self, name: &str, object: Bytes, mode: PutMode) -> Result<(), Error> {
        let (store, at) = (Arc::clone(&self.store), Name::from(name));
        let bound = SILENCE + Duration::from_secs(object.len() as u64 / BYTES_PER_S_MIN);
        let work = async move { within(bound, store.put_opts(&at, object.into(), mode.into())).await };
        self.wait("writing", name, work).map(|_| ())
    }

    fn get(&self, name: &str, range: Option<GetRange>) -> Result<Vec<u8>, Error> {
        let (store, at) = (Arc::clone(&self.store), Name::from(name));
        let work = async move {
            let options = GetOptions { range, ..GetOptions::default() };
            let mut pieces = within(SILENCE, store.get_opts(&at, options)).await?.into_stream();
            let mut out = Vec::new();
            while let Some(piece) = within(SILENCE, pieces.try_next()).await? {
                out.extend_from_slice(&piece);
            }
            Ok(out)
        };
        self.wait("reading", name, work)
    }
}

async fn within<T>(
    bound: Duration,
    work: impl Future<Output = Result<T, object_store::Error>>,
) -> Result<T, object_store::Error> {
    tokio::time::timeout(bound, work).await.unwrap_or_else(|_| {
        let source = format!("no answer within {} s", bound.as_secs()).into();
        Err(object_store::Error::Generic { store: "S3", source })
    })
}

fn certificates(place: &Place) -> Result<Vec<Certificate>, object_store::Error> {
    place.authorities.as_ref().map_or_else(|| Ok(Vec::new()), |pem| Certificate::from_pem_bundle(pem))
}

impl Storage for Bucket {
    fn create(&self, name: &str, object: Vec<u8>) -> Result<(), Error> {
        let object = Bytes::from(object);
        for _ in 1..CREATE_TRIES {
            match self.put(name, object.clone(), PutMode::Create) {
                Err(Error::Failed { .. }) => {}
                // It may be what an earlier try of this call wrote, whose answer was lost. Nobody else writes the same:
                // every object has something random in it, or says whose it is.
                Err(Error::Exists(_)) if self.read(name)? == object => return Ok(()),
                done => return done,
            }
        }
        self.put(name, object, PutMode::Create)
    }
    fn replace(&self, name: &str, object: Vec<u8>) -> Result<(), Error> {
        self.put(name, object.into(), PutMode::Overwrite)
    }
    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        self.get(name, None)
    }
    fn read_range(&self, name: &str, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        let range = offset..offset.saturating_add(length);
        // No range of HTTP is empty.
        if range.is_empty() {
            return self.stat(name).map(|_| Vec::new());
        }
        match self.get(name, Some(GetRange::Bounded(range))) {
            // The protocol refuses what begins at the end or after it.
            Err(Error::Failed { .. }) if self.stat(name)?.bytes <= offset => Ok(Vec::new()),
            done => done,
        }
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, Error> {
        let (store, at) = (Arc::clone(&self.store), Name::from(prefix));
        let work = async move {
            let mut list = Vec::new();
            let mut objects = store.list(Some(&at));
            while let Some(object) = within(SILENCE, objects.try_next()).await? {
                list.push(listed(&object));
            }
            Ok(list)
        };
        let mut list = self.wait("listing", prefix, work)?;
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }
    fn stat(&self, name: &str) -> Result<Listed, Error> {
        let (store, at) = (Arc::clone(&self.store), Name::from(name));
        let work = async move { within(SILENCE, store.head(&at)).await };
        Ok(listed(&self.wait("looking at", name, work)?))
    }
    fn remove(&self, name: &str) -> Result<(), Error> {
        let (store, at) = (Arc::clone(&self.store), Name::from(name));
        let work = async move { within(SILENCE, store.delete(&at)).await };
        match self.wait("removing", name, work) {
            Err(Error::Absent(_)) => Ok(()),
            done => done,
        }
    }
    fn sweep(&self, _prefix: &str, _before_unix_ms: i64) -> Result<(), Error> {
        // An upload that was interrupted leaves nothing.
        Ok(())
    }
    /// Whether the server refuses to write over an object where that is asked for: else two prunes could run at once.
    fn prove(&self) -> Result<(), Error> {
        let name = format!("probe-{:016x}", u64::from_le_bytes(key::random()));
        self.put(&name, Bytes::from_static(b"1"), PutMode::Create)?;
        let second = self.put(&name, Bytes::from_static(b"2"), PutMode::Create);
        self.remove(&name)?;
        match second {
            Err(Error::Exists(_)) => Ok(()),
            Err(e) => Err(e),
            Ok(()) => Err(Error::Failed {
                doing: "probing",
                name: self.url.clone(),
                source: "the server ignores `If-None-Match: *`, so that two prunes could run at once and remove what is \
                         needed; take a server, or a version of it, that honours this header, as Amazon's does"
                    .into(),
            }),
        }
    }
    fn location(&self) -> String {
        self.url.clone()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // Does not wait: it may be dropped on a thread of another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
