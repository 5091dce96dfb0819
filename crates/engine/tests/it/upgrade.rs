//! A later release starts on an earlier one's data, follows it and takes over; never the reverse.

use crate::rig::{Rig, applied, insert, later, level, now, rig, seen};
use holdfast_core::topology::Durability::{Async, Sync};
use holdfast_core::topology::Engine;
use holdfast_engine::mysql::MySqlEngine;
use holdfast_engine::{CopyByStream as _, Engine as _, Error, Spec};
use mysql_async::prelude::Queryable as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

const STOP: Duration = Duration::from_secs(30);

/// Programs where a link leads; as an operator who installs others sees it.
struct Link(PathBuf);

impl Link {
    fn new(r: &Rig, id: u32) -> Link {
        let link = Link(r.dir.path().join(format!("programs{id}")));
        link.leads_to("/usr/sbin".into());
        link
    }
    fn leads_to(&self, programs: PathBuf) {
        let next = self.0.with_extension("next");
        // A folder with the few that Debian has elsewhere.
        let folder = match programs.ends_with("sbin") {
            false => programs,
            true => {
                let folder = self.0.with_extension("present");
                std::fs::create_dir_all(&folder).unwrap();
                for program in [
                    "sbin/mariadbd",
                    "bin/mariadb-install-db",
                    "bin/mariadb-upgrade",
                    "bin/mariadb-binlog",
                    "bin/mariabackup",
                    "bin/mbstream",
                ] {
                    let (_, name) = program.split_once('/').unwrap();
                    let _ = symlink(format!("/usr/{program}"), folder.join(name));
                }
                folder
            }
        };
        symlink(folder, &next).unwrap();
        std::fs::rename(&next, &self.0).unwrap();
    }
    fn engine(&self, r: &Rig, id: u32) -> MySqlEngine {
        MySqlEngine::new(Spec { programs: Some(self.0.clone()), ..r.spec(id) }).unwrap()
    }
}

async fn version(engine: &MySqlEngine) -> String {
    now(engine).await.version
}

async fn restart(engine: &MySqlEngine) -> Result<(), Error> {
    engine.stop(STOP).await.unwrap();
    engine.start().await
}

#[tokio::test]
async fn data_goes_to_a_later_release_and_never_back() {
    let r = rig(Engine::MariaDb, Sync);
    let link = Link::new(&r, 1);
    let one = link.engine(&r, 1);
    one.start().await.unwrap();
    assert!(one.installed().await.unwrap().starts_with("10.11."));
    one.promote(false, 0).await.unwrap();
    one.accounts().await.unwrap();
    one.open().await.unwrap();
    let mut app = r.app(1).await;
    app.query_drop("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(200))").await.unwrap();
    insert(&mut app, 1..=20).await;
    let before = applied(&now(&one).await);

    link.leads_to(later());
    assert!(one.installed().await.unwrap().starts_with("11.8."));
    assert!(version(&one).await.starts_with("10.11."), "what runs goes on");
    restart(&one).await.unwrap();
    let o = now(&one).await;
    assert!(o.version.starts_with("11.8.") && !o.writable, "{o:?}");
    assert_eq!(applied(&o), before, "an upgrade is no part of the history");
    let info = r.root(1).join("data/mariadb_upgrade_info");
    assert!(std::fs::read_to_string(&info).unwrap().starts_with("11.8."));
    // Once is enough, also after a crash.
    std::fs::remove_file(&info).unwrap();
    one.kill().await.unwrap();
    one.start().await.unwrap();
    assert!(!info.exists());

    link.leads_to("/usr/sbin".into());
    one.stop(STOP).await.unwrap();
    let refused = one.start().await.unwrap_err();
    assert!(matches!(&refused, Error::BadSpec(why) if why.contains("no way back")), "{refused}");
    assert!(!refused.retryable());
    link.leads_to(later());
    one.start().await.unwrap();
    one.promote(false, 1).await.unwrap();
    one.open().await.unwrap();
    insert(&mut r.app(1).await, [21]).await;
    assert!(now(&one).await.unsafe_settings.is_empty());
}

#[tokio::test]
async fn a_later_release_follows_acknowledges_and_takes_over() {
    let r = rig(Engine::MariaDb, Sync);
    let one = r.primary(1).await;
    let link = Link::new(&r, 2);
    let two = link.engine(&r, 2);
    two.start().await.unwrap();
    two.follow(r.addr(1), true).await.unwrap();
    one.set_wait_for_ack(true).await.unwrap();
    insert(&mut r.app(1).await, 1..=20).await;
    level(&one, &two).await;
    two.stop_receiving().await.unwrap();
    link.leads_to(later());
    restart(&two).await.unwrap();
    assert!(version(&two).await.starts_with("11.8."));
    two.follow(r.addr(1), true).await.unwrap();
    seen(&one, "an acker", |o| o.ackers.count == 1).await;
    insert(&mut r.app(1).await, 21..=40).await;
    level(&one, &two).await;

    let at = one.close(Duration::from_millis(holdfast_core::limits::FENCE_MS)).await.unwrap();
    seen(&two, "everything", |o| o.drained && o.applied == at).await;
    two.stop_receiving().await.unwrap();
    two.promote(true, 1).await.unwrap();
    let refused = one.follow(r.addr(2), true).await.unwrap_err();
    assert!(refused.to_string().contains("older than its primary"), "{refused}");
    let link = Link::new(&r, 1);
    link.leads_to(later());
    one.stop(STOP).await.unwrap();
    drop(one);
    let one = link.engine(&r, 1);
    one.start().await.unwrap();
    one.follow(r.addr(2), true).await.unwrap();
    seen(&two, "an acker", |o| o.ackers.count == 1).await;
    two.open().await.unwrap();
    insert(&mut r.app(2).await, 41..=60).await;
    level(&two, &one).await;
    assert_eq!(crate::rig::ids(&mut r.app(1).await).await.len(), 60);
}

/// A member that must be rebuilt in the middle of an upgrade.
#[tokio::test]
async fn a_later_release_is_rebuilt_from_an_earlier_one_and_not_the_reverse() {
    let r = rig(Engine::MariaDb, Async);
    let one = r.primary(1).await;
    insert(&mut r.app(1).await, 1..=20).await;
    let link = Link::new(&r, 2);
    let two = link.engine(&r, 2);
    two.start().await.unwrap();
    two.stop(STOP).await.unwrap();
    link.leads_to(later());
    two.start().await.unwrap();
    let progress = tokio::sync::watch::Sender::default();
    two.clone_into(one.clone_source().await.unwrap().reader, progress.clone()).await.unwrap();
    assert!(version(&two).await.starts_with("11.8."));
    let info = r.root(2).join("data/mariadb_upgrade_info");
    assert!(std::fs::read_to_string(&info).unwrap().starts_with("11.8."));
    two.follow(r.addr(1), false).await.unwrap();
    insert(&mut r.app(1).await, [21]).await;
    level(&one, &two).await;

    two.stop_receiving().await.unwrap();
    two.promote(false, 1).await.unwrap();
    one.close(Duration::from_millis(holdfast_core::limits::FENCE_MS)).await.unwrap();
    let before = applied(&now(&one).await);
    let source = two.clone_source().await.unwrap();
    let refused = one.clone_into(source.reader, progress).await.unwrap_err();
    assert!(refused.to_string().contains("no way back"), "{refused}");
    assert_eq!(applied(&now(&one).await), before, "its data is as it was");
}

/// Its programs were replaced under it: they are of no use to a server that still runs.
#[tokio::test]
async fn a_donor_whose_programs_were_replaced_says_so() {
    let r = rig(Engine::MariaDb, Async);
    let link = Link::new(&r, 1);
    let one = link.engine(&r, 1);
    one.start().await.unwrap();
    link.leads_to(later());
    let mut stream = Vec::new();
    one.clone_source().await.unwrap().reader.read_to_end(&mut stream).await.unwrap();
    let stream = String::from_utf8_lossy(&stream);
    assert!(stream.contains("error=not done") && stream.contains("restart the server first"), "{stream}");
}
