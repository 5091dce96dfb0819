//! The continuous archive and restores to a moment, through failovers, on real servers.

use crate::stage::{BOUND, Stage, stage, wait_for};
use holdfast::clock::{unix_ms, utc};
use holdfast_core::topology::Engine;
use holdfast_drill::drills::account;
use holdfast_drill::sandbox::{Options, signal};
use mysql_async::prelude::Queryable as _;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long after a commit's answer its transaction may reach the archive, on two busy cores.
const REACHES_MS: u64 = 400;
/// Of what was written before the archive looked at a new primary, MariaDB's log tells only the second.
const SECOND_MS: u64 = 1_000;

struct Write {
    id: u64,
    begun_ms: u64,
    acked_ms: Option<u64>,
}

/// Clients that write numbered rows, and remember when.
#[derive(Default)]
struct Book {
    writes: Mutex<Vec<Write>>,
    next: AtomicU64,
    stop: AtomicBool,
}

impl Book {
    fn acked(&self) -> usize {
        self.writes.lock().unwrap().iter().filter(|w| w.acked_ms.is_some()).count()
    }
    /// So many more were acknowledged.
    async fn go_on(&self, more: usize) {
        let wanted = self.acked() + more;
        wait_for("clients to go on", async || self.acked() >= wanted).await;
    }
    async fn write(self: Arc<Self>, proxy: SocketAddr) {
        let mut conn = None;
        while !self.stop.load(Relaxed) {
            let Some(c) = &mut conn else {
                conn = connect(proxy).await.ok();
                continue;
            };
            let id = self.next.fetch_add(1, Relaxed);
            let begun_ms = unix_ms();
            let done = c.query_drop(format!("INSERT INTO book VALUES ({id})")).await;
            let acked_ms = done.is_ok().then(unix_ms);
            self.writes.lock().unwrap().push(Write { id, begun_ms, acked_ms });
            if done.is_err() {
                conn = None;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn connect(proxy: SocketAddr) -> mysql_async::Result<mysql_async::Conn> {
    let account = account();
    let url = format!("mysql://{}:{}@{proxy}/{}", account.user, account.password, account.database);
    mysql_async::Conn::new(mysql_async::Opts::from_url(&url)?).await
}

/// A deployment whose log is kept.
struct Scene {
    stage: Stage,
    dir: tempfile::TempDir,
}

impl Scene {
    async fn new(nodes: u8, change: impl FnOnce(&mut Options)) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let line = crate::stage::repository(dir.path(), "archive = true");
        let stage = stage(nodes, |o| {
            o.top_lines = line;
            o.service_lines = "cool_down_s = 1".into();
            change(o);
        })
        .await;
        let scene = Scene { stage, dir };
        wait_for("a kept log", async || scene.segments() > 0).await;
        let mut client = connect(scene.stage.sandbox.proxies()[0]).await.unwrap();
        client.query_drop("CREATE TABLE book (id BIGINT PRIMARY KEY)").await.unwrap();
        client.disconnect().await.unwrap();
        scene
    }
    fn repository(&self) -> PathBuf {
        self.dir.path().join("repo")
    }
    fn segments(&self) -> usize {
        let runs = self.repository().join("logs");
        let below = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        below(&runs).flat_map(|s| below(&s).collect::<Vec<_>>()).map(|r| below(&r).count()).sum()
    }
    async fn write(&self) -> (Arc<Book>, Vec<tokio::task::JoinHandle<()>>) {
        let book = Arc::new(Book::default());
        let proxies = self.stage.sandbox.proxies();
        let writers = (0..4).map(|i| tokio::spawn(book.clone().write(proxies[i % proxies.len()]))).collect();
        (book, writers)
    }
    async fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let done = self.stage.sandbox.holdfast(arguments).await;
        done.map_err(|e| e.to_string().replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" "))
    }
    /// `status` says so.
    async fn says(&self, words: &str) {
        wait_for(words, async || {
            self.stage.sandbox.service().await.unwrap_or_default().to_string().contains(words)
        })
        .await;
    }
    /// A restore has so many rows, in the end.
    async fn has_everything(&self, rows: u64) {
        wait_for("the archive to have everything", async || {
            self.restored(&["--at", "latest"]).await.unwrap().0 == (0..rows).collect()
        })
        .await;
    }
    /// On the only member's own server.
    async fn sql(&self, sql: &str) -> String {
        let socket = format!("--socket={}", self.stage.sandbox.dir().join("a/shop/run/db.sock").display());
        let said =
            Command::new("mariadb").args(["--no-defaults", &socket, "-N", "-e", sql]).output().unwrap();
        assert!(said.status.success(), "{sql}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).unwrap()
    }
    /// What the server's own program says of every kept run, as exported and as another program reads it.
    async fn exported(&self, program: &Path) -> String {
        let to = self.dir.path().join("export");
        self.run(&["repo", "export", "--to", to.to_str().unwrap()]).await.unwrap();
        let mut text = String::new();
        for entry in std::fs::read_dir(to.join("shop")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "binlog") {
                continue;
            }
            let run = path.file_stem().unwrap().to_str().unwrap();
            let read = to.join(run).with_extension("read");
            let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/../backup/tests/it/reader.py");
            let done = Command::new("/usr/bin/python3")
                .arg(reader)
                .args([self.repository(), self.dir.path().join("key")])
                .args(["log", "shop", run, read.to_str().unwrap()])
                .output()
                .unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            assert!(std::fs::read(&path).unwrap() == std::fs::read(&read).unwrap(), "both read the same");
            let said = Command::new(program).args(["--no-defaults", "-v"]).arg(&path).output().unwrap();
            text += &String::from_utf8_lossy(&said.stdout);
        }
        std::fs::remove_dir_all(&to).unwrap();
        text
    }
    /// The rows of a restored copy, and what the command said.
    async fn restored(&self, how: &[&str]) -> Result<(BTreeSet<u64>, String), String> {
        let to = self.dir.path().join("to");
        let arguments = [&["restore", "--to", to.to_str().unwrap()], how].concat();
        let said = self.run(&arguments).await?;
        let rows = rows(&to);
        std::fs::remove_dir_all(&to).unwrap();
        Ok((rows, said))
    }
}

/// What a server finds that is started on a copy.
fn rows(data: &Path) -> BTreeSet<u64> {
    let work = tempfile::tempdir().unwrap();
    let socket = work.path().join("s");
    let mut server = Command::new("mariadbd")
        .args(["--no-defaults", "--user=root", "--skip-networking", "--skip-grant-tables"])
        .args([format!("--datadir={}", data.display()), format!("--socket={}", socket.display())])
        .args([format!("--pid-file={}", work.path().join("pid").display())])
        .arg(format!("--tmpdir={}", work.path().display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let ask = |sql: &str| {
        let socket = format!("--socket={}", socket.display());
        let said =
            Command::new("mariadb").args(["--no-defaults", &socket, "-N", "-e", sql]).output().unwrap();
        said.status.success().then(|| String::from_utf8(said.stdout).unwrap())
    };
    let end = tokio::time::Instant::now() + BOUND;
    while ask("SELECT 1").is_none() {
        assert!(tokio::time::Instant::now() < end, "no server starts on the copy");
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = ask("SHOW ALL SLAVES STATUS").unwrap();
    let database = account().database;
    let found = ask(&format!("SELECT id FROM {database}.book")).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(left, "", "it follows nobody");
    found.lines().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_leads_to_any_moment_through_a_failover_and_a_switchover() {
    let mut scene = Scene::new(3, |_| {}).await;
    let (book, writers) = scene.write().await;
    book.go_on(200).await;
    let before_backup = unix_ms();
    scene.run(&["backup", "now"]).await.unwrap();
    let backed_up = unix_ms();
    book.go_on(1_000).await;
    let mut changes = vec![unix_ms()];
    let primary = scene.stage.sandbox.primary().await.unwrap();
    signal(scene.stage.sandbox.engine_pid(&primary).unwrap(), Signal::KILL);
    book.go_on(1_000).await;
    scene.stage.healthy().await;
    changes.push(unix_ms());
    scene.run(&["switchover"]).await.unwrap();
    book.go_on(1_000).await;
    book.stop.store(true, Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let ended = unix_ms();
    let writes = std::mem::take(&mut *book.writes.lock().unwrap());
    let acked = |until: u64| writes.iter().filter(move |w| w.acked_ms.is_some_and(|at| at <= until));

    // Everything, soon after it was written; and nothing that was never written.
    let mut stands = String::new();
    wait_for("the archive to have everything", async || {
        let (rows, said) = scene.restored(&["--at", "latest"]).await.unwrap();
        stands = said.rsplit(' ').next().unwrap().trim().to_owned();
        acked(u64::MAX).all(|w| rows.contains(&w.id))
    })
    .await;

    const MOMENTS: u64 = 4;
    for n in 0..MOMENTS {
        // Not on a grid, and with the failover and what follows it among them.
        let at = backed_up + 50 + (ended - backed_up - 100) * (2 * n + 1) / (2 * MOMENTS);
        let (rows, said) = scene.restored(&["--at", &utc(at)]).await.unwrap();
        let changed = changes.iter().any(|c| (*c..c + 5_000).contains(&at));
        let reaches = REACHES_MS + if changed { SECOND_MS } else { 0 };
        let missing: Vec<u64> =
            acked(at.saturating_sub(reaches)).map(|w| w.id).filter(|id| !rows.contains(id)).collect();
        assert!(missing.is_empty(), "at {at}, {said}: {missing:?} were acknowledged before, of {changes:?}");
        let later: Vec<u64> =
            writes.iter().filter(|w| w.begun_ms > at && rows.contains(&w.id)).map(|w| w.id).collect();
        assert!(later.is_empty(), "at {at}, {said}: {later:?} were begun later, of {changes:?}");
    }

    // One transaction more or less.
    let (all, _) = scene.restored(&["--at", &stands]).await.unwrap();
    let (but_one, _) = scene.restored(&["--before", &stands]).await.unwrap();
    assert!(all.len() == but_one.len() + 1 && all.is_superset(&but_one), "{} {}", all.len(), but_one.len());

    // What cannot be had is refused, and nothing is left of the attempt.
    for (how, words) in [
        (["--at", &utc(before_backup)], "no backup is from before"),
        (["--at", &utc(ended + 3_600_000)], "the kept log tells nothing of that moment"),
        (["--at", "yesterday"], "neither a moment nor a transaction"),
        (["--before", "0-77-999999999"], "has no transaction 0-77-999999999"),
    ] {
        let said = scene.restored(&how).await.unwrap_err();
        assert!(said.contains(words), "{how:?}: {said}");
        assert!(!scene.dir.path().join("to").exists());
    }
    // What was kept is whole, and others can read it.
    scene.run(&["repo", "check"]).await.unwrap();
    let text = scene.exported(Path::new("mariadb-binlog")).await;
    let missing: Vec<u64> =
        acked(u64::MAX).map(|w| w.id).filter(|id| !text.contains(&format!("VALUES ({id})"))).collect();
    assert!(
        missing.is_empty(),
        "{missing:?} of what is not in the backup are not in the exported log either"
    );
    scene.stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_catches_up_and_says_where_it_cannot() {
    let mut scene = Scene::new(1, |o| o.durability = "async".into()).await;
    let mut client = connect(scene.stage.sandbox.proxies()[0]).await.unwrap();
    let mut next = 0;
    let mut write = async |rows: u64| {
        for _ in 0..rows {
            client.query_drop(format!("INSERT INTO book VALUES ({next})")).await.unwrap();
            next += 1;
        }
        next
    };
    write(5).await;
    scene.run(&["backup", "now"]).await.unwrap();

    // The repository is away for a while: the server's own log has what is missing.
    let away = scene.dir.path().join("away");
    std::fs::rename(scene.repository(), &away).unwrap();
    let during = write(5).await;
    scene.says("its log is not kept").await;
    // What is read again is known to the second.
    let moment = unix_ms() + SECOND_MS;
    wait_for("the next second", async || unix_ms() > moment + SECOND_MS).await;
    let rows = write(5).await;
    std::fs::rename(&away, scene.repository()).unwrap();
    scene.has_everything(rows).await;
    let (then, said) = scene.restored(&["--at", &utc(moment)]).await.unwrap();
    assert_eq!(then, (0..during).collect(), "{said}");
    scene.stage.healthy().await;

    // Nor has the server any more: that is said, and no restore leads across.
    std::fs::rename(scene.repository(), &away).unwrap();
    write(5).await;
    scene.says("its log is not kept").await;
    scene.sql("FLUSH BINARY LOGS").await;
    write(5).await;
    let last = scene.sql("SHOW BINARY LOGS").await;
    let last = last.lines().last().unwrap().split('\t').next().unwrap().to_owned();
    scene.sql(&format!("PURGE BINARY LOGS TO '{last}'")).await;
    std::fs::rename(&away, scene.repository()).unwrap();
    wait_for("the gap to be told", async || {
        scene.run(&["backup", "list"]).await.unwrap().contains("! shop: no log before")
    })
    .await;
    write(5).await;
    let refused = scene.restored(&["--at", "latest"]).await.unwrap_err();
    assert!(refused.contains("something is missing"), "{refused}");
    // From the next backup on there is a way again.
    scene.run(&["backup", "now"]).await.unwrap();
    let rows = write(5).await;
    scene.has_everything(rows).await;
    scene.stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_mysql_is_kept_through_a_failover_and_its_own_program_reads_it() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mysql/programs");
    let programs = programs.canonicalize().expect("there is no MySQL here yet: make engines");
    let mut scene = Scene::new(3, |o| {
        o.engine = Engine::MySql;
        o.programs = Some(programs.clone());
    })
    .await;
    let (book, writers) = scene.write().await;
    book.go_on(200).await;
    let primary = scene.stage.sandbox.primary().await.unwrap();
    signal(scene.stage.sandbox.engine_pid(&primary).unwrap(), Signal::KILL);
    book.go_on(200).await;
    book.stop.store(true, Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    scene.stage.healthy().await;
    let writes = std::mem::take(&mut *book.writes.lock().unwrap());
    let mut missing = Vec::new();
    wait_for("the archive to have everything", async || {
        let text = scene.exported(&programs.join("mysqlbinlog")).await;
        let rows: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("###   @1=")).collect();
        let acked = writes.iter().filter(|w| w.acked_ms.is_some()).map(|w| w.id.to_string());
        missing = acked.filter(|id| !rows.contains(id.as_str())).collect();
        missing.is_empty()
    })
    .await;
    let refused = scene.restored(&["--at", "latest"]).await.unwrap_err();
    assert!(refused.contains("no backup"), "{refused}");
    scene.stage.end().await;
}
