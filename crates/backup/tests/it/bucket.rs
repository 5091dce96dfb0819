//! A repository in a bucket of a real S3 server.

use crate::s3_server::Server;
use crate::scene::{NOW, begin, database, last, restored, store};
use holdfast_backup::storage::{Bucket, BucketPlace, Credentials, Error as Broken};
use holdfast_backup::{Error, Progress, Prune, Repository, RepositoryKey, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// In a new bucket.
fn place(server: &Server, bucket: &str) -> BucketPlace {
    server.make(bucket);
    BucketPlace {
        bucket: bucket.into(),
        prefix: "prod/shop".into(),
        endpoint: Some(server.endpoint()),
        region: Some("eu-central-1".into()),
        authorities: None,
        credentials: Some(Credentials { id: "key".into(), secret: "secret".into() }),
    }
}

#[test]
fn a_bucket_keeps_what_a_storage_promises() {
    let server = Server::started();
    let place = place(&server, "promises");
    let bucket = Bucket::open(&place).unwrap();
    bucket.prove().unwrap();
    assert!(bucket.list("").unwrap().is_empty(), "the probe is gone");

    let object = crate::scene::noise(3 << 20, 1);
    bucket.create("packs/a/one", object.clone()).unwrap();
    assert!(matches!(bucket.create("packs/a/one", b"other".to_vec()), Err(Broken::Exists(_))));
    assert_eq!(bucket.read("packs/a/one").unwrap(), object, "nothing was written over it");
    // As when the answer to the first try was lost.
    bucket.create("packs/a/one", object.clone()).unwrap();

    assert_eq!(bucket.read_range("packs/a/one", 10, 5).unwrap(), object[10..15]);
    assert_eq!(
        bucket.read_range("packs/a/one", object.len() as u64 - 3, 99).unwrap(),
        object[object.len() - 3..]
    );
    assert!(bucket.read_range("packs/a/one", object.len() as u64, 9).unwrap().is_empty());
    assert!(bucket.read_range("packs/a/one", u64::MAX, 9).unwrap().is_empty());
    assert!(bucket.read_range("packs/a/one", 7, 0).unwrap().is_empty());

    bucket.replace("pins/p", b"1".to_vec()).unwrap();
    bucket.replace("pins/p", b"22".to_vec()).unwrap();
    assert_eq!(bucket.stat("pins/p").unwrap().bytes, 2);
    // `pack` begins no name that `packs` does not, and is no directory.
    let names = |prefix: &str| bucket.list(prefix).unwrap().into_iter().map(|o| o.name).collect::<Vec<_>>();
    assert_eq!(names("packs"), ["packs/a/one"]);
    assert_eq!(names(""), ["packs/a/one", "pins/p"]);
    assert!(names("pack").is_empty() && names("none").is_empty());

    bucket.remove("pins/p").unwrap();
    bucket.remove("pins/p").unwrap();
    for absent in [
        bucket.read("pins/p").map(drop),
        bucket.stat("pins/p").map(drop),
        bucket.read_range("pins/p", 0, 1).map(drop),
    ] {
        assert!(matches!(absent, Err(Broken::Absent(_))), "{absent:?}");
    }
    // Another prefix is another repository.
    let other = Bucket::open(&BucketPlace { prefix: "prod".into(), ..place.clone() }).unwrap();
    assert_eq!(other.list("shop/packs").unwrap().len(), 1);
    let beside = Bucket::open(&BucketPlace { prefix: "prod/sho".into(), ..place }).unwrap();
    assert!(beside.list("").unwrap().is_empty());
}

#[test]
fn a_repository_in_a_bucket_is_written_by_several_read_and_pruned() {
    let server = Server::started();
    let place = place(&server, "repository");
    let storage: Arc<dyn Storage> = Arc::new(Bucket::open(&place).unwrap());
    let key = RepositoryKey::generate();
    let repository = Repository::create(storage, key.clone()).unwrap();
    let more = 40 * 1000;
    // Each writer has a connection of its own, as another host would.
    let files: Vec<_> = (0..3).map(|n| database(more + n)).collect();
    std::thread::scope(|s| {
        for (n, files) in files.iter().enumerate() {
            let (place, key) = (&place, key.clone());
            s.spawn(move || {
                let own: Arc<dyn Storage> = Arc::new(Bucket::open(place).unwrap());
                let own = Repository::open(own, key).unwrap();
                store(&own, begin(&format!("shop{n}")), files).unwrap();
            });
        }
    });
    let second = store(&repository, begin("shop0"), &files[0]).unwrap();
    let listing = repository.list(None).unwrap();
    assert_eq!((listing.backups.len(), listing.unreadable.len()), (4, 0));
    for backup in &listing.backups {
        let n: usize = backup.service.trim_start_matches("shop").parse().unwrap();
        assert!(restored(&repository, backup).unwrap() == files[n], "{} is not what went in", backup.service);
    }
    assert!(repository.check(2, &Progress::default()).unwrap().findings.is_empty());

    let retention = BTreeMap::from([("shop0".to_owned(), last(1))]);
    let prune = Prune { retention, now_unix_ms: NOW, ..Prune::default() };
    let pruned = repository.prune(&prune).unwrap();
    assert_eq!(pruned.removed.len(), 1);
    assert_eq!(repository.latest("shop0").unwrap().id, second.id);
    assert!(restored(&repository, &second).unwrap() == files[0]);

    // Whoever has another key, or looks elsewhere, is told.
    let wrong = Repository::open(Arc::new(Bucket::open(&place).unwrap()), RepositoryKey::generate());
    assert!(matches!(wrong.err(), Some(Error::WrongKey { .. })));
    let empty = BucketPlace { prefix: "nothing".into(), ..place };
    let none = Repository::open(Arc::new(Bucket::open(&empty).unwrap()), key);
    assert!(matches!(none.err(), Some(Error::NotARepository(_))));
}

#[test]
fn a_server_that_dies_in_the_middle_leaves_no_backup_and_is_an_error() {
    let mut server = Server::started();
    let place = place(&server, "dies");
    let storage: Arc<dyn Storage> = Arc::new(Bucket::open(&place).unwrap());
    let repository = Repository::create(storage, RepositoryKey::generate()).unwrap();
    let mut writer = repository.begin(begin("shop")).unwrap();
    let file = writer.open("a", None, crate::scene::cut("a.ibd")).unwrap();
    writer.write(file, &crate::scene::noise(1 << 20, 7)).unwrap();
    server.kill();
    let failed = writer.close(file).and_then(|()| {
        let done = holdfast_backup::Completion { position: None, facts: BTreeMap::new(), now_unix_ms: NOW };
        writer.commit(done).map(drop)
    });
    let says = format!("{:?}", failed.unwrap_err());
    assert!(says.contains("writing"), "{says}");
}
