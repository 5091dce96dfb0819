//! An engine that something else starts.

use crate::rig::{Rig, insert, level, now, rig, root_at, seen};
use holdfast_core::topology::Durability::Async;
use holdfast_core::topology::Engine::MariaDb;
use holdfast_core::topology::Management;
use holdfast_engine::mysql::MySqlEngine;
use holdfast_engine::{CloneProgress, CopyByStream as _, Engine as _, Error, ProcessState, Spec};
use mysql_async::prelude::Queryable as _;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// A server of somebody else, with scripts to start and stop it as systemd would.
struct Foreign {
    dir: PathBuf,
}

impl Foreign {
    fn new(r: &Rig, id: u32) -> Foreign {
        let dir = r.dir.path().join(format!("foreign{id}"));
        std::fs::create_dir_all(&dir).unwrap();
        let data = dir.join("data");
        let made = std::process::Command::new("mariadb-install-db")
            .args([
                "--no-defaults",
                "--auth-root-authentication-method=socket",
                "--user=root",
                "--skip-test-db",
            ])
            .arg(format!("--datadir={}", data.display()))
            .env("TMPDIR", &dir)
            .output()
            .unwrap();
        assert!(made.status.success());
        let d = dir.display();
        let start = format!(
            "#!/bin/sh\nsetsid mariadbd --no-defaults --user=root --tmpdir={d} --datadir={d}/data --socket={d}/s --pid-file={d}/pid \
             --bind-address=127.0.0.1 --port={} --server-id={id} --log-bin=mylog --log-slave-updates \
             --binlog-format=ROW --gtid-strict-mode=1 --sync-binlog=1 --innodb-buffer-pool-size=16M \
             --log-error={d}/log --skip-slave-start </dev/null >/dev/null 2>&1 &\n",
            r.addr(id).port()
        );
        let stop =
            format!("#!/bin/sh\np=$(cat {d}/pid) || exit 0\nwhile kill $p; do sleep 0.05; done\nexit 0\n");
        std::fs::write(dir.join("start"), start).unwrap();
        std::fs::write(dir.join("stop"), stop).unwrap();
        Foreign { dir }
    }
    fn spec(&self, r: &Rig, id: u32) -> Spec {
        let script = |name| vec!["sh".to_owned(), self.dir.join(name).display().to_string()];
        Spec {
            management: Management::Attached {
                socket: self.dir.join("s"),
                data_dir: self.dir.join("data"),
                stop_command: script("stop"),
                start_command: script("start"),
            },
            ..r.spec(id)
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.dir.join("pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[tokio::test]
async fn an_attached_server_is_fenced_followed_and_cloned() {
    let r = rig(MariaDb, Async);
    let foreign = Foreign::new(&r, 2);
    let two = MySqlEngine::new(foreign.spec(&r, 2)).unwrap();
    two.start().await.unwrap();
    let o = now(&two).await;
    assert!(!o.writable, "found writable, fenced");
    let mut exits = two.exits();
    let ProcessState::Running { pid } = *exits.borrow_and_update() else { panic!("not running") };

    let one = r.primary(1).await;
    two.follow(r.addr(1), false).await.unwrap();
    insert(&mut r.app(1).await, 1..=5).await;
    level(&one, &two).await;
    // Our restart leaves its replication running.
    drop(two);
    let two = MySqlEngine::new(foreign.spec(&r, 2)).unwrap();
    two.start().await.unwrap();
    let found = now(&two).await;
    assert!(found.upstream.is_some_and(|u| u.io == holdfast_engine::ThreadState::Running));
    assert_eq!(*two.exits().borrow(), ProcessState::Running { pid });

    // Its own errant write is found in its own logs, and goes with a clone.
    let mut root = root_at(&foreign.dir.join("s")).await;
    root.query_drop("STOP SLAVE; CREATE DATABASE errant").await.unwrap();
    drop(root);
    let source = one.clone_source().await.unwrap();
    let saved =
        two.clone_into(source.reader, watch::Sender::new(CloneProgress::default())).await.unwrap().unwrap();
    assert_eq!(saved.transactions, 1);
    two.follow(r.addr(1), false).await.unwrap();
    level(&one, &two).await;

    let mut exits = two.exits();
    let ProcessState::Running { pid: newer } = *exits.borrow_and_update() else { panic!("not running") };
    assert_ne!(newer, pid);
    two.kill().await.unwrap();
    assert!(matches!(*exits.borrow(), ProcessState::Exited { pid, .. } if pid == newer));
    assert!(matches!(two.observe().await, Err(Error::NotRunning)));
}

#[tokio::test]
async fn another_server_behind_the_socket_is_refused() {
    let r = rig(MariaDb, Async);
    let foreign = Foreign::new(&r, 2);
    let two = MySqlEngine::new(foreign.spec(&r, 2)).unwrap();
    two.start().await.unwrap();
    let mut wrong = foreign.spec(&r, 2);
    wrong.data_dir = r.dir.path().join("elsewhere");
    let Management::Attached { data_dir, start_command, .. } = &mut wrong.management else { unreachable!() };
    *data_dir = r.dir.path().to_owned();
    *start_command = vec!["true".into()];
    let refused =
        tokio::time::timeout(Duration::from_secs(5), MySqlEngine::new(wrong).unwrap().start()).await;
    assert!(matches!(refused, Ok(Err(Error::NotOurs { .. }))), "{refused:?}");
    assert!(seen(&two, "left alone", |o| !o.writable).await.server_id == 2);
}
