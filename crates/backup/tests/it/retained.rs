//! What a prune removes, what it keeps, and what it says it would do.

use crate::memory::Memory;
use crate::scene::{NOW, PAGE, Scene, begin, last, noise, restored, store};
use holdfast_backup::{Error, Progress, Prune, Reason, Repository, RepositoryKey};
use std::collections::BTreeMap;
use std::sync::Arc;

fn prune(last_n: u32) -> Prune {
    let retention = BTreeMap::from([("shop".to_owned(), last(last_n))]);
    Prune { retention, now_unix_ms: NOW, ..Prune::default() }
}

fn table(seed: u64) -> BTreeMap<String, Vec<u8>> {
    let mut bytes = noise(60 * PAGE, 1);
    bytes[..PAGE].copy_from_slice(&noise(PAGE, seed));
    BTreeMap::from([("t.ibd".to_owned(), bytes)])
}

#[test]
fn what_a_kept_backup_needs_stays_and_the_rest_goes() {
    let scene = Scene::new();
    let backups: Vec<_> =
        (1..=4).map(|n| store(&scene.repository, begin("shop"), &table(n)).unwrap()).collect();
    let blog = store(&scene.repository, begin("blog"), &table(9)).unwrap();
    let before = scene.objects();

    let dry = scene.repository.prune(&Prune { dry_run: true, ..prune(2) }).unwrap();
    assert_eq!(dry.removed.iter().map(|b| b.sequence).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(scene.objects(), before, "a dry run changes nothing");

    let done = scene.repository.prune(&prune(2)).unwrap();
    assert_eq!(done.removed, dry.removed);
    assert_eq!((done.packs, done.bytes), (dry.packs, dry.bytes));
    // The first pack stays: the kept ones still use most of it.
    assert_eq!(done.packs, 1, "{done:?}");
    for (n, backup) in (3..).zip(&backups[2..]) {
        assert_eq!(restored(&scene.repository, backup).unwrap(), table(n));
    }
    assert_eq!(restored(&scene.repository, &blog).unwrap(), table(9), "no rules, nothing removed");
    assert!(matches!(restored(&scene.repository, &backups[0]), Err(Error::NoBackup { .. })));
    assert!(scene.repository.check(2, &Progress::default()).unwrap().findings.is_empty());
    // The next backup builds upon what is left.
    let next = store(&scene.repository, begin("shop"), &table(5)).unwrap();
    assert!(next.new_bytes < backups[0].new_bytes / 10);
}

#[test]
fn a_pack_of_which_little_is_used_is_left_behind_in_time() {
    let scene = Scene::new();
    let file = |seed| BTreeMap::from([("t.ibd".to_owned(), noise(50 * PAGE, seed))]);
    let mut files = file(1);
    store(&scene.repository, begin("shop"), &files).unwrap();
    // Ten pages of fifty stay as they were: a fifth of the first pack.
    files.get_mut("t.ibd").unwrap()[10 * PAGE..].copy_from_slice(&file(2)["t.ibd"][10 * PAGE..]);
    store(&scene.repository, begin("shop"), &files).unwrap();
    let third = store(&scene.repository, begin("shop"), &files).unwrap();
    assert!(third.new_bytes > 10 * PAGE as u64 / 3, "the ten pages are stored again: {third:?}");
    let pruned = scene.repository.prune(&prune(1)).unwrap();
    assert_eq!(pruned.packs, 1, "{pruned:?}");
    assert_eq!(restored(&scene.repository, &third).unwrap(), files);
}

/// Its map is still read: what the map points to elsewhere is not stored again.
#[test]
fn a_pack_that_is_left_takes_only_its_own_with_it() {
    let scene = Scene::new();
    let churn = |seed| noise(50 * PAGE, seed);
    let mut files =
        BTreeMap::from([("churn.ibd".to_owned(), churn(1)), ("large.ibd".to_owned(), noise(300 * PAGE, 2))]);
    store(&scene.repository, begin("shop"), &files).unwrap();
    // The second pack has a map and a page of the large file, and much of the other, which the third makes useless.
    files.get_mut("large.ibd").unwrap()[7 * PAGE] ^= 1;
    for seed in [3, 4] {
        files.insert("churn.ibd".into(), churn(seed));
        store(&scene.repository, begin("shop"), &files).unwrap();
    }
    let fourth = store(&scene.repository, begin("shop"), &files).unwrap();
    assert!((8_000..40_000).contains(&fourth.new_bytes), "a page and a map: {fourth:?}");
    assert_eq!(restored(&scene.repository, &fourth).unwrap(), files);
    scene.repository.prune(&prune(1)).unwrap();
    assert_eq!(restored(&scene.repository, &fourth).unwrap(), files);
    assert!(scene.repository.check(2, &Progress::default()).unwrap().findings.is_empty());
}

#[test]
fn what_is_in_use_is_not_removed() {
    let scene = Scene::new();
    let first = store(&scene.repository, begin("shop"), &table(1)).unwrap();
    store(&scene.repository, begin("shop"), &table(2)).unwrap();
    let reading = scene.repository.read("shop", &first.id, "restore", NOW).unwrap();
    let pruned = scene.repository.prune(&prune(1)).unwrap();
    assert!(pruned.removed.is_empty());
    assert!(pruned.kept.iter().any(|(b, why)| *b == first && why.contains(&Reason::InUse)), "{pruned:?}");
    reading.check(2, &Progress::default()).unwrap();
    drop(reading);
    assert_eq!(scene.repository.prune(&prune(1)).unwrap().removed, [first]);
}

#[test]
fn a_key_that_may_not_delete_makes_backups_and_restores_them_and_its_prune_removes_nothing() {
    let memory = Memory::new();
    let denied = |doing: &'static str, _: &str| match doing {
        "removing" => Err("403: this key may not delete".to_owned()),
        _ => Ok(()),
    };
    let key = RepositoryKey::generate();
    Repository::create(Arc::new(memory.clone()), key.clone()).unwrap();
    let repository = Repository::open(Arc::new(memory.seen(denied)), key.clone()).unwrap();
    let backups: Vec<_> = (1..=3).map(|n| store(&repository, begin("shop"), &table(n)).unwrap()).collect();
    for (n, backup) in (1..).zip(&backups) {
        assert!(restored(&repository, backup).unwrap() == table(n));
    }
    let before = memory.names();
    let refused = repository.prune(&prune(1)).unwrap_err();
    assert!(format!("{refused:?}").contains("may not delete"), "{refused:?}");
    assert_eq!(repository.list(None).unwrap().backups.len(), 3);
    assert!(before.iter().all(|name| memory.names().contains(name)), "nothing is gone");
    // The same work with a key that may. What is left of the others' is of a process that runs: this one.
    let free = Repository::open(Arc::new(memory.clone()), key).unwrap();
    let pruned = free.prune(&Prune { take_over: true, ..prune(1) }).unwrap();
    assert!(pruned.removed.len() <= 2);
    assert!(restored(&free, &backups[2]).unwrap() == table(3));
}
