//! openraft's own storage test suite, on real files.

use super::disk::{Disk, Identity};
use super::types::StorageError;
use super::{log::Log, machine::Machine};
use crate::state::State;
use crate::view::View;
use openraft::StorageIOError;
use std::path::PathBuf;
use std::sync::Arc;

#[test]
fn passes_openrafts_storage_suite() {
    let root = tempfile::tempdir().unwrap();
    let halves = Halves { root: root.path().to_owned(), next: Default::default() };
    openraft::testing::Suite::test_all(halves).unwrap();
}

struct Halves {
    root: PathBuf,
    next: std::sync::atomic::AtomicU64,
}

/// Closes the file when a test of the suite is over.
struct Open(Arc<Disk>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close().unwrap();
    }
}

impl openraft::testing::StoreBuilder<super::types::Types, Log, Machine, Open> for Halves {
    async fn build(&self) -> Result<(Open, Log, Machine), StorageError> {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = self.root.join(number.to_string());
        let failed = |e: super::Error| StorageIOError::read(openraft::AnyError::new(&e));
        let identity = Identity { cluster: "suite".into(), id: 0 };
        let disk = Arc::new(Disk::open(&dir, &identity).map_err(|e| failed(e.into()))?);
        let log = Log::new(disk.clone()).map_err(|e| failed(e.into()))?;
        let view = Arc::new(View::new(State::default()));
        let machine = Machine::load(disk.clone(), view).map_err(failed)?;
        Ok((Open(disk), log, machine))
    }
}
