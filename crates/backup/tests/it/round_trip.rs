//! What goes in comes out; what did not change is stored once.

use crate::scene::{NOW, PAGE, Scene, begin, database, last, noise, restored, store};
use holdfast_backup::{Completion, Cut, Error, Progress, Prune, Repository, RepositoryKey, Staged};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn what_goes_in_comes_out() {
    for key in [RepositoryKey::generate(), RepositoryKey::PLAIN] {
        let scene = Scene::with_key(key);
        let files = database(1);
        let made = store(&scene.repository, begin("shop"), &files).unwrap();
        assert_eq!((made.sequence, made.files, made.position.as_deref()), (1, 6, Some("0-1-7")));
        assert_eq!(made.raw_bytes, files.values().map(|f| f.len() as u64).sum::<u64>());
        assert!(made.new_bytes < made.raw_bytes * 3 / 4, "{made:?}");
        assert_eq!(restored(&scene.repository, &made).unwrap(), files);
        // Found again by whoever opens it with the key.
        let again = Repository::open(scene.storage(), scene.key.clone()).unwrap();
        assert_eq!(again.list(None).unwrap().backups, [made]);
        assert!(again.check(2, &Progress::default()).unwrap().findings.is_empty());
    }
}

#[test]
fn only_what_changed_is_stored_again() {
    let scene = Scene::new();
    let mut files = database(1);
    let full = store(&scene.repository, begin("shop"), &files).unwrap();
    let same = store(&scene.repository, begin("shop"), &files).unwrap();
    // Maps of files without a page to compare, and nothing else.
    assert!(same.sequence == 2 && same.new_bytes < 1_000, "{same:?}");

    // Three pages change in place, bytes are inserted in the dump, one file grows, one is new.
    let orders = files.get_mut("shop/orders.ibd").unwrap();
    for page in [0, 70, 149] {
        orders[page * PAGE + 100] ^= 1;
    }
    orders.extend(noise(2 * PAGE, 77));
    files.get_mut("dump.sql").unwrap().splice(5_000..5_000, noise(11, 5));
    files.insert("new.ibd".into(), noise(PAGE, 78));
    let increment = store(&scene.repository, begin("shop"), &files).unwrap();
    assert!(increment.new_bytes < full.new_bytes / 8, "{increment:?}");
    for backup in [&full, &same] {
        assert_eq!(restored(&scene.repository, backup).unwrap(), database(1));
    }
    assert_eq!(restored(&scene.repository, &increment).unwrap(), files);

    // Asked for a full one, it relies on nothing.
    let again =
        store(&scene.repository, holdfast_backup::Begin { full: true, ..begin("shop") }, &files).unwrap();
    assert!(again.new_bytes > full.new_bytes, "{again:?}");
    // Another service shares nothing.
    let other = store(&scene.repository, begin("blog"), &database(1)).unwrap();
    assert_eq!(other.new_bytes, full.new_bytes);
    assert!(scene.repository.check(2, &Progress::default()).unwrap().findings.is_empty());
}

#[test]
fn a_file_of_several_segments_and_packs() {
    let scene = Scene::new();
    // 70 MiB that hardly compress, so more than one pack, and more than 4096 pages.
    let mut bytes: Vec<u8> = (0..70).flat_map(|n| noise(1 << 20, n).into_iter().rev()).collect();
    bytes.extend(noise(1 << 20, 99));
    for half in bytes.chunks_mut(512).step_by(2) {
        half.reverse();
    }
    let mut files = BTreeMap::from([("big.ibd".to_owned(), bytes)]);
    let full = store(&scene.repository, begin("shop"), &files).unwrap();
    assert!(full.packs.len() > 1, "{full:?}");
    assert_eq!(restored(&scene.repository, &full).unwrap(), files);
    // One page: its segment's map is new, the other's is shared.
    files.get_mut("big.ibd").unwrap()[4200 * PAGE] ^= 1;
    let increment = store(&scene.repository, begin("shop"), &files).unwrap();
    assert!(increment.new_bytes < 60_000, "{increment:?}");
    assert_eq!(restored(&scene.repository, &increment).unwrap(), files);
}

#[test]
fn directories_links_and_modes_are_restored() {
    let scene = Scene::new();
    let mut writer = scene.repository.begin(begin("shop")).unwrap();
    writer.directory("empty", Some(0o750)).unwrap();
    writer.directory("closed", Some(0o500)).unwrap();
    writer.link("closed/link", "../secret").unwrap();
    let file = writer.open("secret", Some(0o640), Cut::Pages).unwrap();
    writer.write(file, b"x").unwrap();
    assert_eq!(writer.written(file).unwrap(), 1);
    writer.close(file).unwrap();
    let made = writer.commit(Completion::default()).unwrap();

    let destination = scene.dir.path().join("restored");
    let staged = Staged::begin(&destination).unwrap();
    let reading = scene.repository.read("shop", &made.id, "test", NOW).unwrap();
    reading.restore(staged.path(), 2, &Progress::default()).unwrap();
    assert!(!destination.exists());
    staged.finish().unwrap();
    let mode = |name: &str| std::fs::metadata(destination.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("empty"), mode("closed"), mode("secret")), (0o750, 0o500, 0o640));
    assert_eq!(std::fs::read_link(destination.join("closed/link")).unwrap().to_str(), Some("../secret"));
    // What is there is never written over.
    assert!(matches!(Staged::begin(&destination), Err(Error::Occupied(_))));
    // A restore that ends early leaves nothing.
    let other = scene.dir.path().join("other");
    drop(Staged::begin(&other).unwrap());
    assert!(!other.exists() && !scene.dir.path().join("other.restoring").exists());
}

#[test]
fn what_is_not_a_backup_is_refused() {
    let scene = Scene::new();
    let begin_shop = || scene.repository.begin(begin("shop")).unwrap();
    let mut writer = begin_shop();
    for path in ["../x", "/etc/passwd", "a//b", ""] {
        assert!(matches!(writer.open(path, None, Cut::Pages), Err(Error::BadPath { .. })), "{path}");
    }
    let file = writer.open("a", None, Cut::Pages).unwrap();
    assert!(matches!(writer.open("a", None, Cut::Pages), Err(Error::BadInput(_))));
    writer.write(file, b"x").unwrap();
    // A file that was not closed: its producer broke off.
    assert!(matches!(writer.commit(Completion::default()), Err(Error::BadInput(_))));
    let mut writer = begin_shop();
    let file = writer.open("a", None, Cut::Pages).unwrap();
    writer.write(file, &noise(9 << 20, 1)).unwrap();
    drop(writer);
    let bad = holdfast_backup::Begin { service: "../x".into(), ..begin("shop") };
    assert!(matches!(scene.repository.begin(bad), Err(Error::BadService(_))));
    assert!(matches!(scene.repository.latest("shop"), Err(Error::NoBackupYet(_))));
    // Nothing is left but what a prune takes away.
    let rules = BTreeMap::from([("shop".to_owned(), last(1))]);
    scene.repository.prune(&Prune { retention: rules, now_unix_ms: NOW, ..Prune::default() }).unwrap();
    assert_eq!(scene.objects().len(), 1, "{:?}", scene.objects());
}

#[test]
fn a_stopped_backup_does_not_exist() {
    let scene = Scene::new();
    let begin = begin("shop");
    let progress = begin.progress.clone();
    let mut writer = scene.repository.begin(begin).unwrap();
    let file = writer.open("a", None, Cut::Pages).unwrap();
    writer.write(file, &noise(PAGE, 1)).unwrap();
    progress.stop();
    assert!(matches!(writer.write(file, b"x"), Err(Error::Stopped)));
    drop(writer);
    assert!(scene.repository.list(None).unwrap().backups.is_empty());
}
