//! Storage that fails or fills up, writers that die, bits that flip, keys that do not fit.

use crate::memory::Memory;
use crate::scene::{Files, NOW, PAGE, Scene, begin, database, last, noise, restored, store};
use holdfast_backup::storage::Directory;
use holdfast_backup::{Error, Progress, Proof, Prune, Repository, RepositoryKey, Staged, Summary, storage};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn small(seed: u64) -> Files {
    let shared = noise(6 * PAGE, 1);
    let own = noise(2 * PAGE, seed);
    BTreeMap::from([("t.ibd".to_owned(), [shared, own].concat()), ("u.sql".to_owned(), noise(90_000, seed))])
}

/// A repository in memory with one backup in it.
fn with_one() -> (Memory, Repository, Summary) {
    let memory = Memory::new();
    let repository = Repository::create(Arc::new(memory.clone()), RepositoryKey::generate()).unwrap();
    let made = store(&repository, begin("shop"), &small(1)).unwrap();
    (memory, repository, made)
}

/// The same repository through another storage.
fn through(storage: Memory, repository_key: &RepositoryKey) -> Repository {
    Repository::open(Arc::new(storage), repository_key.clone()).unwrap()
}

fn fails_from(memory: &Memory, number: u64, dead: bool) -> Memory {
    let calls = AtomicU64::new(0);
    memory.seen(move |doing, _| {
        let at = if dead || doing == "writing" { calls.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let fails = if dead { at >= number } else { doing == "writing" && at == number };
        if fails { Err("no space left on device".into()) } else { Ok(()) }
    })
}

/// Each call of a backup once fails (a full disk), and once is the last (a killed process).
#[test]
fn a_backup_that_breaks_off_anywhere_leaves_a_usable_repository() {
    for dead in [false, true] {
        let mut number = 0;
        loop {
            let memory = Memory::new();
            let key = RepositoryKey::generate();
            let repository = Repository::create(Arc::new(memory.clone()), key.clone()).unwrap();
            let first = store(&repository, begin("shop"), &small(1)).unwrap();
            let before = memory.names();

            let breaks = Repository::open(Arc::new(fails_from(&memory, number, dead)), key.clone());
            let outcome = breaks.and_then(|r| store(&r, begin("shop"), &small(2)));
            if outcome.is_ok() && memory.names().len() == before.len() + 2 {
                assert!(number > 2, "nothing was ever tried");
                break;
            }
            let listed = repository.list(None).unwrap();
            assert!(listed.unreadable.is_empty());
            // It exists if its manifest does; the caller may not know.
            let made = listed.backups.len() == 2;
            assert!(made || outcome.is_err(), "call {number}");
            if let Err(e) = &outcome {
                let words = format!("{e}: {}", e.source().map(ToString::to_string).unwrap_or_default());
                assert!(words.contains("every backup that was complete still is"), "{words}");
            }
            assert_eq!(restored(&repository, &first).unwrap(), small(1));
            // The next one works, and a prune a day later leaves no trace of the broken one.
            let next = store(&repository, begin("shop"), &small(3)).unwrap();
            assert_eq!(restored(&repository, &next).unwrap(), small(3));
            *memory.now.lock().unwrap() += 2 * 86_400_000;
            for _ in 0..2 {
                let rules = BTreeMap::from([("shop".to_owned(), last(1))]);
                repository.prune(&Prune { retention: rules, now_unix_ms: NOW, ..Prune::default() }).unwrap();
            }
            assert_eq!(repository.list(None).unwrap().backups, std::slice::from_ref(&next));
            assert_eq!(restored(&repository, &next).unwrap(), small(3));
            let left: Vec<String> = memory.names().into_iter().filter(|n| n.starts_with("p")).collect();
            assert_eq!(left.len(), next.packs.len(), "call {number}: {left:?}");
            number += 1;
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_named() {
    let (memory, repository, made) = with_one();
    let proof = Proof {
        service: "shop".into(),
        id: made.id.clone(),
        at_unix_ms: NOW,
        took_ms: 1,
        good: true,
        found: BTreeMap::new(),
    };
    repository.record_proof(&proof).unwrap();
    assert_eq!(repository.proofs("shop").unwrap().of(&made.id), [proof]);
    let checked = |r: &Repository| r.check(1, &Progress::default()).unwrap();
    assert!(checked(&repository).findings.is_empty());
    let mut bent = 0;
    for name in memory.names() {
        let bytes = memory.objects.lock().unwrap()[&name].0.clone();
        // Every byte of a header and of small objects, some of large ones; all eight bits in turn.
        let steps = (0..bytes.len())
            .filter(|at| *at < 90 || bytes.len() < 3_000 || at % 997 == 0 || bytes.len() - at < 60);
        for at in steps {
            let copy = memory.copy();
            copy.objects.lock().unwrap().get_mut(&name).unwrap().0[at] ^= 1 << (at % 8);
            // The repository was open already: a damaged descriptor is found by the check as well.
            let repository = repository.on(Arc::new(copy));
            let findings = checked(&repository).findings;
            let named = findings.iter().any(|f| f.error.to_string().contains(&name));
            assert!(named, "{name} byte {at}: {findings:?}");
            if name.starts_with("packs") {
                assert!(
                    findings.iter().any(|f| f.backups == [made.id.clone()]),
                    "{name} byte {at}: {findings:?}"
                );
            }
            bent += 1;
        }
        for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            let copy = memory.copy();
            copy.objects.lock().unwrap().get_mut(&name).unwrap().0.truncate(length);
            let findings = checked(&repository.on(Arc::new(copy))).findings;
            assert!(
                findings.iter().any(|f| f.error.to_string().contains(&name)),
                "{name} {length}: {findings:?}"
            );
        }
    }
    assert!(bent > 1_000, "{bent}");
}

#[test]
fn damage_is_never_restored_nor_relied_upon_again() {
    let (memory, repository, made) = with_one();
    let pack = memory.names().into_iter().find(|n| n.starts_with("packs")).unwrap();
    let length = memory.objects.lock().unwrap()[&pack].0.len();
    for at in (0..length).step_by(length / 200) {
        let copy = memory.copy();
        copy.objects.lock().unwrap().get_mut(&pack).unwrap().0[at] ^= 4;
        let bent = repository.on(Arc::new(copy));
        // Either the byte is of no block of this backup (the index), or the restore fails and names the pack.
        match restored(&bent, &made) {
            Ok(files) => assert_eq!(files, small(1), "byte {at}"),
            Err(e) => assert!(e.to_string().contains(&pack), "{e}"),
        }
    }
    // A pack that is gone or cut off: the next backup sees it and stores everything anew.
    for length in [None, Some(length - 1)] {
        let copy = memory.copy();
        match length {
            None => _ = copy.objects.lock().unwrap().remove(&pack),
            Some(n) => copy.objects.lock().unwrap().get_mut(&pack).unwrap().0.truncate(n),
        }
        let bent = repository.on(Arc::new(copy));
        let next = store(&bent, begin("shop"), &small(1)).unwrap();
        assert_eq!(restored(&bent, &next).unwrap(), small(1));
        assert_eq!(restored(&bent, &made).is_err(), length.is_none(), "its index is not needed to restore");
        let findings = bent.check(1, &Progress::default()).unwrap().findings;
        assert!(
            !findings.is_empty() && findings.iter().all(|f| f.backups == [made.id.clone()]),
            "{findings:?}"
        );
    }
    // A manifest that cannot be read: a full backup, and nothing is ever pruned meanwhile.
    let copy = memory.copy();
    let manifest = memory.names().into_iter().find(|n| n.starts_with("backups")).unwrap();
    copy.objects.lock().unwrap().get_mut(&manifest).unwrap().0[200] ^= 1;
    let bent = repository.on(Arc::new(copy.clone()));
    let next = store(&bent, begin("shop"), &small(1)).unwrap();
    assert_eq!(restored(&bent, &next).unwrap(), small(1));
    let unclear = bent.latest("shop").unwrap_err();
    assert!(unclear.to_string().contains(&manifest) && unclear.to_string().contains("--backup"), "{unclear}");
    let before = copy.names();
    let rules = BTreeMap::from([("shop".to_owned(), last(1))]);
    let refused = bent.prune(&Prune { retention: rules, now_unix_ms: NOW, ..Prune::default() }).unwrap_err();
    assert!(matches!(refused, Error::Unsure(_)), "{refused}");
    assert_eq!(copy.names(), before);
}

#[test]
fn a_wrong_key_is_named_and_changes_nothing() {
    let (memory, repository, _) = with_one();
    let open = |key| Repository::open(Arc::new(memory.clone()), key);
    for key in [RepositoryKey::generate(), RepositoryKey::PLAIN] {
        let refused = open(key.clone()).unwrap_err();
        assert!(refused.to_string().contains(&key.id().to_string()), "{refused}");
        assert!(matches!(refused, Error::WrongKey { .. }), "{refused}");
    }
    assert!(matches!(open(RepositoryKey::PLAIN), Err(Error::WrongKey { .. })));
    assert_eq!(repository.list(None).unwrap().backups.len(), 1);
    let again = Repository::create(Arc::new(memory.clone()), RepositoryKey::generate());
    assert!(matches!(again, Err(Error::NotEmpty(_))));
    assert!(matches!(
        Repository::open(Arc::new(Memory::new()), RepositoryKey::PLAIN),
        Err(Error::NotARepository(_))
    ));
}

#[test]
fn a_newer_format_is_not_taken_for_damage_that_can_be_ignored() {
    let (memory, repository, made) = with_one();
    let manifest = memory.names().into_iter().find(|n| n.starts_with("backups")).unwrap();
    memory.objects.lock().unwrap().get_mut(&manifest).unwrap().0[8] = 2;
    let listing = repository.list(None).unwrap();
    assert!(listing.backups.is_empty());
    assert!(listing.unreadable[0].1.to_string().contains("version is 2"), "{listing:?}");
    let refused = repository.read("shop", &made.id, "test", NOW).err().unwrap();
    assert!(refused.to_string().contains("version is 2"), "{refused}");
}

/// A file system of a few MiB.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Small {
        let dir = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(mount.unwrap().success(), "these tests run as root");
        Small(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_said_and_harms_no_backup() {
    let disk = Small::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let storage = Arc::new(Directory::open(disk.0.path(), runtime.handle().clone()).unwrap());
    let repository = Repository::create(storage, RepositoryKey::generate()).unwrap();
    let first = store(&repository, begin("shop"), &database(1)).unwrap();
    let full =
        store(&repository, holdfast_backup::Begin { full: true, ..begin("shop") }, &database(2)).unwrap_err();
    let mut words = full.to_string();
    let mut cause = full.source();
    while let Some(e) = cause {
        words += &format!(": {e}");
        cause = e.source();
    }
    assert!(words.contains("No space left on device") && words.contains("still is"), "{words}");
    assert_eq!(restored(&repository, &first).unwrap(), database(1));
    assert_eq!(repository.list(None).unwrap().backups, std::slice::from_ref(&first));
    // What the broken one left is no longer pinned, and pruned.
    let rules = BTreeMap::from([("shop".to_owned(), last(5))]);
    repository.prune(&Prune { retention: rules, now_unix_ms: NOW, ..Prune::default() }).unwrap();
    assert!(repository.check(1, &Progress::default()).unwrap().findings.is_empty());
    let mut files = database(1);
    files.get_mut("shop/orders.ibd").unwrap()[5] ^= 1;
    let next = store(&repository, begin("shop"), &files).unwrap();
    assert_eq!(restored(&repository, &next).unwrap(), files);

    // A restore looks for room first.
    let reading = repository.read("shop", &first.id, "test", NOW).unwrap();
    let refused = reading.restore(disk.0.path(), 1, &Progress::default()).unwrap_err();
    assert!(matches!(refused, Error::NoRoom { .. }), "{refused}");
}

#[test]
fn what_cannot_be_listed_is_not_taken_for_absent() {
    let scene = Scene::new();
    store(&scene.repository, begin("shop"), &small(1)).unwrap();
    let lost = scene.path().join("backups/shop/20261124T030308Z-00000000aa");
    std::os::unix::fs::symlink("/nowhere/at/all", &lost).unwrap();
    let prune = Prune { now_unix_ms: NOW, ..Prune::default() };
    assert!(matches!(scene.repository.list(None), Err(Error::Storage(_))));
    assert!(matches!(scene.repository.prune(&prune), Err(Error::Storage(_))));
    std::fs::remove_file(&lost).unwrap();
    assert_eq!(scene.repository.list(None).unwrap().backups.len(), 1);
    let away = scene.dir.path().join("away");
    std::fs::rename(scene.path(), away).unwrap();
    assert!(matches!(scene.repository.list(None), Err(Error::Storage(_))), "not an empty repository");
}

#[test]
fn more_backups_than_can_be_listed_are_said_and_not_left_out() {
    let (memory, repository, _) = with_one();
    let mut objects = memory.objects.lock().unwrap();
    objects.extend((0..100_000).map(|n| (format!("backups/shop/{n}"), (Vec::new(), 0))));
    drop(objects);
    assert!(matches!(repository.list(None), Err(Error::TooManyBackups { .. })));
}

/// A writer that was suspended just before its manifest, for so long that prunes took its pin away and its packs.
#[test]
fn a_writer_that_was_taken_for_dead_records_nothing() {
    for what in ["pins", "packs", "condemned"] {
        let (memory, repository, _) = with_one();
        let objects = memory.objects.clone();
        let suspended = memory.seen(move |doing, name| {
            let mut objects = objects.lock().unwrap();
            if doing == "writing" && name.starts_with("backups/") {
                let last = objects.keys().rfind(|n| n.starts_with("packs/")).unwrap().clone();
                let pack: Vec<&str> = last.split('/').skip(1).collect();
                let list = format!("{{\"backups\":[],\"packs\":[\"{}\"]}}", pack.join("/"));
                match what {
                    "condemned" => _ = objects.insert(what.into(), (list.into_bytes(), 0)),
                    "packs" => _ = objects.remove(&last),
                    prefix => objects.retain(|name, _| !name.starts_with(prefix)),
                }
            }
            Ok(())
        });
        let failed = store(&repository.on(Arc::new(suspended)), begin("shop"), &small(2)).unwrap_err();
        assert!(failed.to_string().contains("no backup was recorded") || what == "packs", "{failed}");
        assert_eq!(repository.list(None).unwrap().backups.len(), 1, "{what}: {failed}");
    }
}

#[test]
fn what_is_dropped_on_a_thread_of_the_runtime_takes_its_pin_along() {
    let scene = Scene::new();
    let made = store(&scene.repository, begin("shop"), &small(1)).unwrap();
    let mut writer = scene.repository.begin(begin("shop")).unwrap();
    let file = writer.open("a", None, holdfast_backup::Cut::Pages).unwrap();
    writer.write(file, b"x").unwrap();
    let reading = scene.repository.read("shop", &made.id, "test", NOW).unwrap();
    assert_eq!(scene.storage().list("pins").unwrap().len(), 2);
    scene.on_the_runtime(async { drop((writer, reading)) });
    assert!(scene.storage().list("pins").unwrap().is_empty());
}

#[test]
fn a_proof_that_failed_or_is_damaged_is_not_relied_upon() {
    let (memory, repository, first) = with_one();
    let prove = |backup: &Summary, good| {
        let (service, id) = ("shop".to_owned(), backup.id.clone());
        let proof = Proof { service, id, at_unix_ms: NOW, took_ms: 1, good, found: BTreeMap::new() };
        repository.record_proof(&proof).unwrap();
    };
    prove(&first, true);
    let second = store(&repository, begin("shop"), &small(2)).unwrap();
    assert!(second.new_bytes < first.new_bytes, "a good one is shared with");
    prove(&second, false);
    let parent = repository.begin(begin("shop")).unwrap().parent().cloned();
    assert_eq!(parent, None, "what is wrong with it would be shared");
    // The newest proven one stays whatever the rules are.
    let rules = BTreeMap::from([("shop".to_owned(), last(1))]);
    repository.prune(&Prune { retention: rules, now_unix_ms: NOW, ..Prune::default() }).unwrap();
    assert_eq!(repository.list(None).unwrap().backups, [first.clone(), second.clone()]);

    let name = memory.names().into_iter().find(|n| n.contains(&format!("proofs/shop/{}", first.id))).unwrap();
    memory.objects.lock().unwrap().get_mut(&name).unwrap().0[100] ^= 1;
    let proofs = repository.proofs("shop").unwrap();
    assert_eq!((proofs.of(&first.id).len(), proofs.of(&second.id).len()), (0, 1));
    assert_eq!(proofs.unreadable.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), [name]);
}

#[test]
fn a_tree_that_cannot_be_is_neither_recorded_nor_restored() {
    let (_, repository, _) = with_one();
    let mut writer = repository.begin(begin("shop")).unwrap();
    writer.link("lib", "/etc").unwrap();
    let file = writer.open("lib/passwd", None, holdfast_backup::Cut::Pages).unwrap();
    writer.write(file, b"x").unwrap();
    writer.close(file).unwrap();
    let refused = writer.commit(Default::default()).unwrap_err();
    assert!(refused.to_string().contains("lib/passwd"), "{refused}");
    assert_eq!(repository.list(None).unwrap().backups.len(), 1);
}

#[test]
fn one_place_is_restored_to_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("back");
    let first = Staged::begin(&to).unwrap();
    std::fs::write(first.path().join("file"), b"1").unwrap();
    let refused = Staged::begin(&to).unwrap_err();
    assert!(matches!(refused, Error::StagingHeld(_)), "{refused}");
    assert!(first.path().join("file").exists(), "what is under way is not touched");
    // What an interrupted one left goes; nobody holds it any more.
    let staging = first.path().to_owned();
    drop(first);
    assert!(!staging.exists());
    std::fs::create_dir(&staging).unwrap();
    std::fs::write(staging.join("left"), b"1").unwrap();
    let second = Staged::begin(&to).unwrap();
    assert_eq!(std::fs::read_dir(second.path()).unwrap().count(), 0);
    second.finish().unwrap();
    assert!(to.exists() && !staging.exists());

    let disk = Small::new();
    let refused = Staged::begin(disk.0.path()).unwrap_err();
    assert!(matches!(refused, Error::MountPoint(_)), "{refused}");
}

/// What a process killed with SIGKILL leaves: temporary files of the storage, and a pin of a pid that is gone.
#[test]
fn a_prune_sweeps_up_after_a_killed_process() {
    let scene = Scene::new();
    let made = store(&scene.repository, begin("shop"), &small(1)).unwrap();
    let id = "20261124T030308Z-00000000aa";
    let dir = scene.path().join("packs").join(id);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("00000000"), b"half a backup").unwrap();
    std::fs::write(dir.join("00000001#3"), b"half a pack").unwrap();
    // The pin of a process of this machine, whose pid was given again since.
    let mut writer = scene.repository.begin(begin("other")).unwrap();
    let pins = scene.path().join("pins");
    let text = std::fs::read_to_string(pins.join(writer.id().as_str())).unwrap();
    let file = writer.open("a", None, holdfast_backup::Cut::Pages).unwrap();
    writer.write(file, b"x").unwrap();
    drop(writer);
    let started = text.split("\"started\":").nth(1).unwrap().split('}').next().unwrap();
    let dead = text.replace(&format!("\"started\":{started}"), "\"started\":1");
    assert_ne!(dead, text);
    std::fs::write(pins.join(id), dead).unwrap();
    let pruned = scene.repository.prune(&Prune { now_unix_ms: NOW, ..Prune::default() }).unwrap();
    assert_eq!((pruned.packs, pruned.stale_pins), (1, 1), "{pruned:?}");
    assert!(!dir.exists() && !pins.exists());
    assert_eq!(restored(&scene.repository, &made).unwrap(), small(1));
}

#[test]
fn a_storage_that_fails_while_reading_is_said_and_tried_again_by_the_user() {
    let (memory, repository, made) = with_one();
    let flaky = memory.seen(|doing, name| {
        if doing == "reading" && name.starts_with("packs") { Err("connection reset".into()) } else { Ok(()) }
    });
    let bent = repository.on(Arc::new(flaky));
    let failed = restored(&bent, &made).unwrap_err();
    assert!(matches!(failed, Error::Storage(storage::Error::Failed { .. })), "{failed:?}");
    assert_eq!(restored(&through(memory, repository.key()), &made).unwrap(), small(1));
}
