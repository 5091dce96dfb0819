//! What people ask of the controller while plans change the same group.

use futures_util::FutureExt;
use holdfast::clock::Clock;
use holdfast::config;
use holdfast::controller::{Error, Office};
use holdfast_core::GroupName;
use holdfast_core::record::{GroupRecord, Mode};
use holdfast_store::{Expect, Memory, Outcome, Store, Txn, Write};
use std::cell::Cell;
use std::sync::Arc;

struct Scene {
    store: Arc<Memory>,
    office: Arc<Office>,
    key: String,
}

impl Scene {
    /// An office whose store has one service.
    async fn set() -> Scene {
        let topology = config::parse("full.toml", include_str!("config/full.toml")).unwrap().topology;
        let store = Arc::new(Memory::new(1));
        let key = format!("group/{}", GroupName::new("shop-db").unwrap());
        let scene_store: Arc<dyn Store> = store.clone();
        let record = GroupRecord::new(&topology.services[0]);
        let write = Write {
            key: key.clone(),
            expect: Expect::Absent,
            value: Some(serde_json::to_vec(&record).unwrap()),
        };
        store.commit(Txn { writes: vec![write], leases: Vec::new() }).await.unwrap();
        let node = topology.nodes[0].name.clone();
        let office = Office::open(node, 1, topology, scene_store, Clock::start()).unwrap();
        Scene { store, office, key }
    }

    fn stored(&self) -> GroupRecord {
        serde_json::from_slice(&self.store.local().get(&self.key).unwrap().bytes).unwrap()
    }

    /// As a plan that is committed just now.
    fn meanwhile(&self, change: impl FnOnce(&mut GroupRecord)) {
        let mut record = self.stored();
        change(&mut record);
        let write = Write {
            key: self.key.clone(),
            expect: Expect::Any,
            value: Some(serde_json::to_vec(&record).unwrap()),
        };
        let txn = Txn { writes: vec![write], leases: Vec::new() };
        let done = self.store.commit(txn).now_or_never().unwrap().unwrap();
        assert!(matches!(done, Outcome::Done { .. }), "{done:?}");
    }
}

#[tokio::test]
async fn a_request_that_meets_a_plan_is_considered_anew_in_the_state_it_made() {
    let scene = Scene::set().await;
    let seen = Cell::new(0);
    let accepted = scene.office.amend("shop-db", |world, record| {
        // The third look is the first that nothing comes in between of.
        seen.set(seen.get() + 1);
        if seen.get() < 3 {
            scene.meanwhile(|r| r.plan += 1);
        }
        assert_eq!(world.record.plan, record.plan);
        record.mode = Mode::Paused;
        Ok("paused".into())
    });
    assert_eq!(accepted.await.unwrap().after_plan, 2);
    assert_eq!(seen.get(), 3);
    assert_eq!((scene.stored().plan, scene.stored().mode), (2, Mode::Paused));
}

#[tokio::test]
async fn a_request_that_meets_a_takeover_is_not_taken_to_mean_the_new_primary() {
    let scene = Scene::set().await;
    let refused = scene.office.amend("shop-db", |_, record| {
        scene.meanwhile(|r| r.epoch.0 += 1);
        record.mode = Mode::Paused;
        Ok("paused".into())
    });
    assert!(matches!(refused.await.unwrap_err(), Error::Conflict(_)));
    assert_eq!((scene.stored().epoch.0, scene.stored().mode), (1, Mode::Automatic));
}
