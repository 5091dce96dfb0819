//! Kept logs: what is there is whole, what is missing is noticed, what nobody needs goes.

use crate::scene::{NOW, Scene, begin, database, last, store};
use holdfast_backup::{BackupId, Error, FORMAT, Kept, Mark, Progress, Prune, Segment};
use std::collections::BTreeMap;

const HOUR: u64 = 3_600_000;

/// A segment of ten transactions, each of a hundred bytes.
pub fn segment(run: &BackupId, epoch: u64, number: u32, at_ms: u64) -> Kept {
    let at = |n: u32| format!("0-1-{}", n * 10);
    let marks: Vec<Mark> = (1..=10).map(|i| Mark(i * 100, at_ms + u64::from(i))).collect();
    let segment = Segment {
        format: FORMAT,
        service: "shop".into(),
        run: run.clone(),
        number,
        epoch,
        sequence: 1,
        lineage: 0,
        engine: "mariadb".into(),
        version: "10.11".into(),
        origin: "a".into(),
        server_id: 1,
        file: "binlog.000001".into(),
        offset: 4,
        from: at(number),
        upto: at(number + 1),
        transactions: 10,
        bytes: 1_000,
        began_unix_ms: at_ms,
        first_unix_ms: Some(marks[0].1),
        last_unix_ms: Some(marks[9].1),
        gap: None,
    };
    Kept { segment, marks, description: b"description".to_vec(), events: vec![number as u8; 1_000] }
}

fn objects(scene: &Scene) -> Vec<String> {
    let names = scene.objects().into_iter().filter_map(|path| {
        Some(path.strip_prefix(scene.path()).ok()?.to_str()?.to_owned())
            .filter(|name| name.starts_with("logs/"))
    });
    names.collect()
}

#[test]
fn a_segment_is_what_was_kept_and_every_flipped_bit_is_found() {
    let scene = Scene::new();
    let run = BackupId::new(NOW);
    let kept: Vec<Kept> = (0..3).map(|n| segment(&run, 1, n, NOW)).collect();
    kept.iter().for_each(|k| scene.repository.keep_segment(k).unwrap());
    assert_eq!(scene.repository.kept("shop", &run, 1).unwrap(), kept[1]);
    assert!(scene.repository.keep_segment(&kept[1]).is_err(), "what is there is never changed");
    scene.repository.note_seen("shop", &run, NOW + 500).unwrap();
    scene.repository.note_seen("shop", &run, NOW + 900).unwrap();
    let runs = scene.repository.runs("shop").unwrap();
    assert_eq!((runs.len(), runs[0].seen_unix_ms), (1, NOW + 900));
    assert_eq!((runs[0].first.number, runs[0].last.number), (0, 2));
    let checked = scene.repository.check(1, &Progress::default()).unwrap();
    assert!(checked.findings.is_empty() && checked.segments == 3, "{checked:?}");

    let damage = |name: &str| {
        let path = scene.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut bent = whole.clone();
            bent[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bent).unwrap();
            let checked = scene.repository.check(1, &Progress::default()).unwrap();
            let named = checked.findings.iter().any(|f| f.error.to_string().contains(name));
            assert!(named, "byte {at} of {name}: {:?}", checked.findings);
        }
        std::fs::write(&path, &whole).unwrap();
    };
    objects(&scene).iter().for_each(|name| damage(name));
}

#[test]
fn what_is_missing_within_a_run_is_noticed() {
    let scene = Scene::new();
    let run = BackupId::new(NOW);
    (0..4).for_each(|n| scene.repository.keep_segment(&segment(&run, 1, n, NOW)).unwrap());
    let path = scene.path().join(format!("logs/shop/{run}/0000000002"));
    std::fs::remove_file(path).unwrap();
    let refused = scene.repository.runs("shop").unwrap_err();
    assert!(matches!(&refused, Error::Damaged { name, .. } if name.ends_with("/0000000002")), "{refused}");
    let checked = scene.repository.check(1, &Progress::default()).unwrap();
    assert_eq!(checked.findings.len(), 1, "{checked:?}");
    // A file that is no segment is not passed over.
    std::fs::write(scene.path().join("logs/shop/stray"), b"x").unwrap();
    assert!(scene.repository.runs("shop").is_err());
}

#[test]
fn nothing_is_written_where_the_repository_is_away() {
    let scene = Scene::new();
    let run = BackupId::new(NOW);
    scene.repository.keep_segment(&segment(&run, 1, 0, NOW)).unwrap();
    // As if its file system were unmounted: the path leads to another directory, or to none.
    let away = scene.dir.path().join("away");
    std::fs::rename(scene.path(), &away).unwrap();
    assert!(scene.repository.keep_segment(&segment(&run, 1, 1, NOW)).is_err());
    assert!(!scene.path().exists());
    std::fs::create_dir(scene.path()).unwrap();
    assert!(scene.repository.keep_segment(&segment(&run, 1, 1, NOW)).is_err());
    std::fs::remove_dir(scene.path()).unwrap();
    std::fs::rename(&away, scene.path()).unwrap();
    scene.repository.keep_segment(&segment(&run, 1, 1, NOW)).unwrap();
}

#[test]
fn runs_are_ordered_whatever_clocks_say() {
    let scene = Scene::new();
    let keep = |sequence, epoch, at_ms| {
        let mut kept = segment(&BackupId::new(at_ms), epoch, 0, at_ms);
        kept.segment.sequence = sequence;
        scene.repository.keep_segment(&kept).unwrap();
    };
    // Two that began at once, and one of a deployment that was founded anew.
    keep(2, 1, NOW);
    keep(1, 4, NOW + HOUR);
    keep(1, 3, NOW + 2 * HOUR);
    let runs = scene.repository.runs("shop").unwrap();
    assert_eq!(
        runs.iter().map(|r| (r.first.sequence, r.first.epoch)).collect::<Vec<_>>(),
        [(1, 3), (1, 4), (2, 1)]
    );
}

#[test]
fn log_before_the_oldest_backup_goes_and_no_more() {
    let scene = Scene::new();
    // A run that is over, and one that reaches beyond the margin of a day.
    let (over, reaches) = (BackupId::new(NOW), BackupId::new(NOW));
    (0..3).for_each(|n| {
        scene.repository.keep_segment(&segment(&over, 1, n, NOW - 60 * HOUR + u64::from(n))).unwrap();
    });
    scene.repository.note_seen("shop", &over, NOW - 59 * HOUR).unwrap();
    for (n, hours) in (0..).zip([40, 35, 26, 0]) {
        scene.repository.keep_segment(&segment(&reaches, 2, n, NOW - hours * HOUR)).unwrap();
    }
    let before = objects(&scene);
    let prune = |dry_run| Prune {
        retention: BTreeMap::from([("shop".to_owned(), last(1))]),
        now_unix_ms: NOW,
        dry_run,
        ..Prune::default()
    };
    assert_eq!(scene.repository.prune(&prune(false)).unwrap().log_objects, 0, "there is no backup yet");

    store(&scene.repository, begin("shop"), &database(1)).unwrap();
    let dry = scene.repository.prune(&prune(true)).unwrap();
    assert_eq!(objects(&scene), before, "a dry run changes nothing");
    let done = scene.repository.prune(&prune(false)).unwrap();
    assert_eq!((done.log_objects, done.bytes), (dry.log_objects, dry.bytes));
    // The segment that ended 26 hours ago stays: the next may begin in the middle of a transaction.
    let left: Vec<&String> = before.iter().filter(|name| name.contains(reaches.as_str())).skip(2).collect();
    assert_eq!(objects(&scene).iter().collect::<Vec<_>>(), left);
    let runs = scene.repository.runs("shop").unwrap();
    assert_eq!((runs.len(), runs[0].first.number, runs[0].last.number), (1, 2, 3));
    assert!(scene.repository.check(1, &Progress::default()).unwrap().findings.is_empty());
    assert_eq!(scene.repository.prune(&prune(false)).unwrap().log_objects, 0);
}
