//! `holdfast backup`, `restore` and `repo` as people run them: the real binary, real MariaDB servers.

use holdfast_drill::sandbox::{Options, Sandbox};
use holdfast_engine::mysql::scratch::Scratch;
use serde_json::Value;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const PAGE: usize = 16 << 10;
const BOUND: Duration = Duration::from_secs(60);

/// Waits for a state, with a deadline.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + BOUND;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server that only its socket leads to.
struct Server {
    dir: tempfile::TempDir,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let me = "root";
        let data = dir.path().join("data");
        let installed = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=socket"])
            .args([format!("--datadir={}", data.display()), format!("--user={me}")])
            .arg(format!("--auth-root-socket-user={me}"))
            .output();
        assert!(installed.unwrap().status.success());
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        let process = Command::new("mariadbd")
            .args(["--no-defaults", "--skip-networking", "--log-bin=binlog", "--innodb-buffer-pool-size=32M"])
            .args([format!("--datadir={}", data.display()), format!("--user={me}")])
            .arg(format!("--socket={}", dir.path().join("s").display()))
            .arg(format!("--tmpdir={}", dir.path().join("tmp").display()))
            .arg(format!("--pid-file={}", dir.path().join("pid").display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let server = Server { dir, process };
        until("the server answers", || server.try_sql("SELECT 1").is_some());
        server
    }
    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }
    fn try_sql(&self, sql: &str) -> Option<String> {
        let socket = format!("--socket={}", self.socket().display());
        let said =
            Command::new("mariadb").args(["--no-defaults", &socket, "-N", "-e", sql]).output().unwrap();
        said.status.success().then(|| String::from_utf8(said.stdout).unwrap().trim().to_owned())
    }
    fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|| panic!("failed: {sql}"))
    }
    /// A database whose backup takes a moment.
    fn fill(&self, rows: u32) {
        self.sql(&format!(
            "CREATE DATABASE shop; USE shop; CREATE TABLE orders (id INT PRIMARY KEY, v VARCHAR(200)); \
             INSERT INTO orders SELECT seq, REPEAT(MD5(seq), 3) FROM seq_1_to_{rows}; \
             CREATE TABLE notes (v TEXT) ENGINE=Aria; INSERT INTO notes VALUES ('one'); \
             CREATE TABLE prices (v INT) WITH SYSTEM VERSIONING; INSERT INTO prices VALUES (1), (2); \
             UPDATE prices SET v = 3 WHERE v = 1; CREATE SEQUENCE numbers; DO NEXTVAL(numbers); \
             SET GLOBAL innodb_max_dirty_pages_pct = 0, innodb_max_dirty_pages_pct_lwm = 0"
        ));
        // Pages that are only in the log would be new in the next backup.
        let dirty = "SELECT variable_value FROM information_schema.global_status \
             WHERE variable_name = 'INNODB_BUFFER_POOL_PAGES_DIRTY'";
        until("all pages are written", || self.sql(dirty) == "0");
    }
}

/// A repository, and commands upon it.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { dir: tempfile::tempdir().unwrap() };
        let key = bench.command(&["repo", "key"]).output().unwrap();
        std::fs::write(bench.dir.path().join("key"), key.stdout).unwrap();
        bench.done(&["repo", "init"]);
        bench
    }
    fn repository(&self) -> PathBuf {
        self.dir.path().join("repo")
    }
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(arguments).current_dir(self.dir.path());
        command.env("HOLDFAST_REPOSITORY", self.repository());
        command.env("HOLDFAST_KEY_FILE", self.dir.path().join("key")).env_remove("HOLDFAST_CONFIG");
        command
    }
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    }
    /// Its exit code and what it said.
    fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} did not fail: {}", words(&output));
        (output.status.code().unwrap(), words(&output))
    }
    fn list(&self, service: &str) -> Vec<Value> {
        let listed: Value =
            serde_json::from_str(&self.done(&["backup", "list", service, "-o", "json"])).unwrap();
        listed["backups"].as_array().unwrap().clone()
    }
}

/// Messages are wrapped to the terminal's width.
fn words(output: &Output) -> String {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    text.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Rows of a table in a restored directory, from a server of its own on it.
async fn rows(data: &Path, schema: &str, table: &str) -> (u64, Option<u64>) {
    let work = tempfile::tempdir().unwrap();
    let server = Scratch::start(data, work.path()).await.unwrap();
    let examined = server.examine(schema, table).await.unwrap();
    assert_eq!(examined.complaint, None);
    server.stop().await.unwrap();
    (examined.counted.rows, examined.counted.checksum)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_is_backed_up_proven_and_restored() {
    let (server, bench) = (Server::start(), Bench::new());
    server.fill(50_000);
    let socket = server.socket().display().to_string();
    let now = ["backup", "now", "shop", "--socket", &socket, "--count"];
    bench.done(&now);
    let checksum = server.sql("CHECKSUM TABLE shop.orders").split('\t').nth(1).unwrap().parse().ok();
    server.sql("UPDATE shop.orders SET v = 'changed' WHERE id BETWEEN 100 AND 200; INSERT INTO shop.notes VALUES ('two')");
    bench.done(&now);

    let listed = bench.list("shop");
    let new: Vec<u64> = listed.iter().map(|b| b["backup"]["new_bytes"].as_u64().unwrap()).collect();
    assert!(listed.len() == 2 && new[1] < new[0] / 3, "an increment is small: {new:?}");
    let positions: Vec<&str> = listed.iter().map(|b| b["backup"]["position"].as_str().unwrap()).collect();
    assert!(positions[0].starts_with("0-1-") && positions[0] != positions[1], "{positions:?}");
    let first = listed[0]["backup"]["id"].as_str().unwrap();

    // Proven twice, each time with the recorded rows.
    for _ in 0..2 {
        let said = bench.done(&["backup", "verify", "shop", "--backup", first]);
        assert!(said.contains("proven") && !said.contains("NOT"), "{said}");
    }
    assert_eq!(bench.list("shop")[0]["proofs"].as_array().unwrap().len(), 2);
    let recorded = listed[0]["backup"]["facts"]["table shop.notes"].as_str().unwrap();
    assert!(recorded.starts_with("1 rows, checksum "), "{recorded}");
    let recorded = &listed[0]["backup"]["facts"]["table shop.prices"];
    assert!(recorded.as_str().is_some_and(|r| r.starts_with("2 rows")), "{recorded}");
    let found = &bench.list("shop")[0]["proofs"][0]["found"];
    assert_eq!((&found["table shop.prices"], &found["sequences"]), (recorded, &Value::from("1")));

    // The state of then, in a directory that did not exist, ready to start on.
    let to = bench.dir.path().join("back");
    bench.done(&["restore", "shop", "--to", "back", "--backup", first]);
    assert_eq!(rows(&to, "shop", "orders").await, (50_000, checksum));
    assert_eq!(rows(&to, "shop", "notes").await.0, 1);
    bench.done(&["restore", "shop", "--to", "latest"]);
    assert_eq!(rows(&bench.dir.path().join("latest"), "shop", "notes").await.0, 2);
    let (code, said) = bench.fails(&["restore", "shop", "--to", "back"]);
    assert!(code == 5 && said.contains("never writes over"), "{code} {said}");

    // Retention keeps the last that was proven whatever it was told; what is left is whole.
    bench.done(&["backup", "prune", "shop", "--keep-last", "1"]);
    assert_eq!(bench.list("shop").len(), 2);
    bench.done(&["backup", "verify", "shop"]);
    bench.done(&["backup", "prune", "shop", "--keep-last", "1"]);
    assert_eq!(bench.list("shop").len(), 1);
    bench.done(&["backup", "verify", "shop"]);
    bench.done(&["repo", "check"]);
    bench.done(&["repo", "export", "--to", "plain"]);
    let id = listed[1]["backup"]["id"].as_str().unwrap();
    assert!(bench.dir.path().join("plain/shop").join(id).join("shop/orders.ibd").exists());
}

#[test]
fn a_backup_that_is_killed_or_whose_server_fails_is_none() {
    let (server, bench) = (Server::start(), Bench::new());
    server.fill(150_000);
    let socket = server.socket().display().to_string();
    let now = ["backup", "now", "shop", "--socket", &socket];
    // Not yet while its pin has a temporary name.
    let pin = |e: std::io::Result<std::fs::DirEntry>| !e.unwrap().file_name().to_string_lossy().contains('#');
    let begun = || std::fs::read_dir(bench.repository().join("pins")).is_ok_and(|mut d| d.any(pin));

    // kill -9, as soon as it has begun.
    let mut killed = bench.command(&now).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the backup begins", begun);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(bench.list("shop").is_empty() && begun(), "its pin is left");

    // Ctrl-C ends it in order.
    let rustix_pid = |child: &Child| rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    bench.done(&["backup", "prune", "--keep-last", "1"]);
    assert!(!begun(), "the prune saw that its process is gone");
    let mut asked = bench.command(&now).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the backup begins", begun);
    rustix::process::kill_process(rustix_pid(&asked), rustix::process::Signal::INT).unwrap();
    assert!(!asked.wait().unwrap().success());
    assert!(bench.list("shop").is_empty() && !begun());

    // The server dies under it.
    let mut orphaned = bench.command(&now).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until("the backup begins", begun);
    rustix::process::kill_process(rustix_pid(&server.process), rustix::process::Signal::KILL).unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut orphaned.stderr.take().unwrap(), &mut said).unwrap();
    assert!(!orphaned.wait().unwrap().success(), "{said}");
    assert!(said.contains("no backup was recorded"), "{said}");
    assert!(bench.list("shop").is_empty() && !begun());
    bench.done(&["backup", "prune", "--keep-last", "1"]);
    bench.done(&["repo", "check"]);
    assert!(std::fs::read_dir(bench.repository().join("packs")).map_or(0, Iterator::count) == 0);
}

#[test]
fn a_proof_that_fails_says_what_is_wrong() {
    let (server, bench) = (Server::start(), Bench::new());
    server.fill(20_000);
    let socket = server.socket().display().to_string();
    let copied = bench.dir.path().join("copied");
    bench.done(&["backup", "now", "shop", "--socket", &socket]);
    bench.done(&["restore", "shop", "--to", "copied"]);
    bench.done(&["backup", "cold", "copied", "--service", "good"]);
    bench.done(&["backup", "verify", "good"]);
    let table = copied.join("shop/orders.ibd");
    let mut bytes = std::fs::read(&table).unwrap();
    // Leaf pages: further back the file has free ones.
    bytes[5 * PAGE..12 * PAGE].fill(0x55);
    std::fs::write(&table, bytes).unwrap();
    bench.done(&["backup", "cold", "copied", "--service", "bad"]);
    let (code, said) = bench.fails(&["backup", "verify", "bad"]);
    assert!(code == 1 && said.contains("NOT proven"), "{code} {said}");
    assert!(bench.done(&["backup", "list", "bad"]).contains("FAILED"));

    // A flipped bit in the repository is found by the check, which names the backup.
    let packs = bench.repository().join("packs");
    let id = bench.list("good")[0]["backup"]["id"].as_str().unwrap().to_owned();
    let pack = packs.join(&id).join("00000000");
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let (code, said) = bench.fails(&["repo", "check"]);
    assert!(code == 1 && said.contains(&format!("packs/{id}/00000000 is damaged at byte")), "{said}");
    assert!(said.contains(&format!("backup {id} cannot be restored whole")), "{said}");
}

#[test]
fn a_cold_copy_starts_again_what_it_stopped() {
    let bench = Bench::new();
    let dir = bench.dir.path().join("data");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/file.db"), vec![7; 40_000]).unwrap();
    std::fs::write(dir.join("notes.txt"), b"hello").unwrap();
    std::os::unix::fs::symlink("notes.txt", dir.join("link")).unwrap();
    let log = bench.dir.path().join("log");
    let cold = |directory: &str, stop: &str| {
        let start = format!("echo start >>{}", log.display());
        bench.run(&["backup", "cold", directory, "--service", "files", "--stop", stop, "--start", &start])
    };
    let stop = format!("echo stop >>{}", log.display());
    assert!(cold("data", &stop).status.success());
    bench.done(&["restore", "files", "--to", "back"]);
    let back = bench.dir.path().join("back");
    assert_eq!(std::fs::read(back.join("sub/file.db")).unwrap(), vec![7; 40_000]);
    assert_eq!(std::fs::read_link(back.join("link")).unwrap(), Path::new("notes.txt"));

    // Somebody has a file open for writing: refused, and started again.
    let mut held = Command::new("sh");
    held.args(["-c", "exec sleep 600 >>data/notes.txt"]).current_dir(bench.dir.path()).process_group(0);
    let mut held = held.spawn().unwrap();
    until("the file is open", || {
        let fd = std::fs::read_link(format!("/proc/{}/fd/1", held.id()));
        fd.is_ok_and(|target| target.ends_with("data/notes.txt"))
    });
    let refused = cold("data", &stop);
    held.kill().unwrap();
    held.wait().unwrap();
    assert!(
        refused.status.code() == Some(5) && words(&refused).contains("open for writing"),
        "{}",
        words(&refused)
    );
    // What cannot be stopped is not copied, and started: it may be half down.
    assert!(words(&cold("data", "false")).contains("--stop command failed"));
    assert!(words(&cold("absent", &stop)).contains("nothing was stopped"));
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "stop\nstart\nstop\nstart\nstart\n");
    assert_eq!(bench.list("files").len(), 1);

    // A terminal that is closed while it stops: started again, and nothing recorded.
    let slow = "touch begun; until [ -e go ]; do sleep 0.02; done";
    let start = format!("echo start >>{}", log.display());
    let cold =
        bench.command(&["backup", "cold", "data", "--service", "files", "--stop", slow, "--start", &start]);
    // Whoever runs the tests may ignore it, and that is inherited.
    let mut closed = Command::new("env");
    closed.arg("--default-signal=HUP").arg(cold.get_program()).args(cold.get_args());
    closed.current_dir(bench.dir.path()).envs(cold.get_envs().filter_map(|(n, v)| Some((n, v?))));
    closed.env_remove("HOLDFAST_CONFIG");
    let mut closed = closed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("it is being stopped", || bench.dir.path().join("begun").exists());
    let pid = rustix::process::Pid::from_raw(closed.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    std::fs::write(bench.dir.path().join("go"), b"").unwrap();
    assert_eq!(closed.wait().unwrap().code().map(|c| c != 0), Some(true), "it ended in order");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "stop\nstart\nstop\nstart\nstart\nstart\n");
    assert_eq!(bench.list("files").len(), 1);

    // No engine looks at files, and the proof says so.
    assert!(bench.done(&["backup", "verify", "files"]).contains("every block read; no engine looked"));

    // A link that leads out, only if told.
    std::os::unix::fs::symlink("../log", dir.join("sub/inside")).unwrap();
    std::os::unix::fs::symlink("../../log", dir.join("sub/out")).unwrap();
    let (code, said) = bench.fails(&["backup", "cold", "data", "--service", "files"]);
    assert!(code == 5 && said.contains("sub/out") && said.contains("--outside-links"), "{code} {said}");
    bench.done(&["backup", "cold", "data", "--service", "files", "--outside-links"]);
}

#[test]
fn nothing_goes_without_a_key_or_with_a_wrong_one() {
    let bench = Bench::new();
    std::fs::create_dir(bench.dir.path().join("data")).unwrap();
    let cold = ["backup", "cold", "data", "--service", "files"];
    let with = |change: &dyn Fn(&mut Command)| {
        let mut command = bench.command(&cold);
        change(&mut command);
        command.output().unwrap()
    };
    let said = with(&|c| _ = c.env_remove("HOLDFAST_KEY_FILE"));
    assert!(said.status.code() == Some(5) && words(&said).contains("no key is given"), "{}", words(&said));
    let said = with(&|c| _ = c.env_remove("HOLDFAST_KEY_FILE").arg("--unencrypted"));
    assert!(
        said.status.code() == Some(5) && words(&said).contains("was written with key"),
        "{}",
        words(&said)
    );
    let other = bench.dir.path().join("other");
    std::fs::write(&other, "0123\n").unwrap();
    let said = with(&|c| _ = c.env("HOLDFAST_KEY_FILE", &other));
    assert!(words(&said).contains("64 hexadecimal digits"), "{}", words(&said));
    let said = with(&|c| _ = c.env("HOLDFAST_REPOSITORY", "elsewhere"));
    assert!(words(&said).contains("`holdfast repo init` makes one"), "{}", words(&said));
    assert!(!bench.dir.path().join("elsewhere").exists(), "a backup does not make repositories");
    assert!(bench.list("files").is_empty());

    // A topology file with mistakes is not passed over, and without one a prune is told what to keep.
    let (code, said) = bench.fails(&["backup", "prune"]);
    assert!(code == 5 && said.contains("no rule says what to keep"), "{code} {said}");
    let broken = bench.dir.path().join("holdfast.toml");
    std::fs::write(&broken, "[backup]\nkeep_last = \"all\"\n").unwrap();
    for command in [&["backup", "prune", "--keep-last", "1"][..], &["backup", "list"]] {
        let (code, said) = bench.fails(command);
        assert!(said.contains("holdfast.toml"), "{code} {said}");
    }
    std::fs::remove_file(&broken).unwrap();

    // Told so, it does without one.
    let plain = bench.dir.path().join("plain");
    let run = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        command.env("HOLDFAST_REPOSITORY", &plain).env_remove("HOLDFAST_KEY_FILE").arg("--unencrypted");
        command.output().unwrap()
    };
    assert!(words(&run(&["repo", "init"])).contains("not encrypted"));
    assert!(run(&cold).status.success());
    assert!(words(&run(&["repo", "check"])).contains("all as they were written"));
}

/// By the topology file: repository, key from a program, and the member that suits best.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_backed_up_from_a_replica() {
    let _turn = crate::stage::turn().await;
    let bench = Bench::new();
    let root = bench.dir.path().join("s");
    let mut sandbox = Sandbox::start(Options::new(env!("CARGO_BIN_EXE_holdfast"), &root, 3)).await.unwrap();
    sandbox.wait_healthy(Duration::from_secs(120)).await.unwrap();
    let account = holdfast_drill::drills::account();
    let proxy = sandbox.proxies()[0];
    let url = format!("mysql://{}:{}@{proxy}/{}", account.user, account.password, account.database);
    let mut client = mysql_async::Conn::new(mysql_async::Opts::from_url(&url).unwrap()).await.unwrap();
    use mysql_async::prelude::Queryable as _;
    client.query_drop("CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
    client.query_drop("INSERT INTO t SELECT seq FROM seq_1_to_500").await.unwrap();
    client.disconnect().await.unwrap();

    let config = bench.dir.path().join("with-repository.toml");
    let text = std::fs::read_to_string(sandbox.config()).unwrap();
    let section = format!(
        "\n[repository]\npath = \"{}\"\nkey_command = [\"cat\", \"{}\"]\n\n[backup]\nkeep_last = 1\nkeep_daily = 0\n\
         keep_weekly = 0\nkeep_monthly = 0\n",
        bench.repository().display(),
        bench.dir.path().join("key").display()
    );
    std::fs::write(&config, text + &section).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        command
            .env_remove("HOLDFAST_REPOSITORY")
            .env_remove("HOLDFAST_KEY_FILE")
            .arg("--config")
            .arg(&config);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let status: Value = serde_json::from_str(&run(&["status", "-o", "json"])).unwrap();
    let members = status["services"][0]["members"].as_array().unwrap().clone();
    let role = |node: &str| members.iter().find(|m| m["node"] == node).unwrap()["role"].clone();
    run(&["backup", "now"]);
    let service = status["services"][0]["service"].as_str().unwrap().to_owned();
    let made = bench.list(&service).pop().unwrap();
    assert_eq!(role(made["backup"]["origin"].as_str().unwrap()), "replica", "{made}");
    // From the primary only if told.
    let primary = status["services"][0]["primary"].as_str().unwrap();
    run(&["backup", "now", "--from", primary]);
    assert_eq!(bench.list(&service).pop().unwrap()["backup"]["origin"], primary);
    run(&["backup", "verify"]);
    run(&["backup", "prune"]);
    assert_eq!(bench.list(&service).len(), 1);
    let to = bench.dir.path().join("back");
    run(&["restore", "--to", to.to_str().unwrap()]);
    assert_eq!(rows(&to, &account.database, "t").await.0, 500);
    sandbox.stop().await.unwrap();
}

/// By the topology file and by the command line alone.
#[test]
fn a_bucket_holds_a_repository_as_a_directory_does() {
    let server = crate::s3_server::Server::started();
    server.make("backups");
    let bench = Bench::new();
    let path = |name: &str| bench.dir.path().join(name);
    std::fs::create_dir(path("data")).unwrap();
    std::fs::write(path("data/file"), vec![7; 100_000]).unwrap();
    std::fs::write(path("secret"), "abcdef\n").unwrap();
    let section = format!(
        "\n[repository]\nkey_file = \"{}\"\n[repository.s3]\nbucket = \"backups\"\nprefix = \"shop\"\n\
         endpoint = \"{}\"\naccess_key = \"AK\"\nsecret_key_file = \"{}\"\n",
        path("key").display(),
        server.endpoint(),
        path("secret").display()
    );
    let smallest = include_str!("config/smallest.toml");
    std::fs::write(path("s3.toml"), format!("{smallest}{section}")).unwrap();
    let listed = |command: &mut Command| {
        command.env_remove("HOLDFAST_KEY_FILE").arg("--config").arg(path("s3.toml"));
        command.env_remove("HOLDFAST_REPOSITORY");
    };
    let run = |arguments: &[&str], with: &dyn Fn(&mut Command)| {
        let mut command = bench.command(arguments);
        with(&mut command);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), words(&output))
    };
    let (code, said) = run(&["repo", "init"], &listed);
    assert!(code == Some(0) && said.contains("s3://backups/shop is a repository now"), "{said}");
    let (code, said) = run(&["repo", "init"], &listed);
    assert!(code == Some(5) && said.contains("s3://backups/shop"), "{code:?} {said}");
    let (code, said) = run(&["backup", "cold", "data", "--service", "files"], &listed);
    assert!(code == Some(0), "{said}");

    // Without a topology, as a person with nothing but the key and the bucket would.
    let typed = |command: &mut Command| {
        command.env("HOLDFAST_REPOSITORY", "s3://backups/shop").env("AWS_ENDPOINT_URL", server.endpoint());
        command
            .env("AWS_ACCESS_KEY_ID", "AK")
            .env("AWS_SECRET_ACCESS_KEY", "abcdef")
            .env("AWS_ALLOW_HTTP", "true");
    };
    let to = path("back");
    let (code, said) = run(&["restore", "files", "--to", to.to_str().unwrap()], &typed);
    assert!(code == Some(0), "{said}");
    assert_eq!(std::fs::read(to.join("file")).unwrap(), vec![7; 100_000]);
    let (code, said) = run(&["repo", "check"], &typed);
    assert!(code == Some(0), "{said}");
    let nowhere = |command: &mut Command| _ = command.env("HOLDFAST_REPOSITORY", "s3://UPPER");
    let (code, said) = run(&["backup", "list"], &nowhere);
    assert!(code == Some(5) && said.contains("is no bucket"), "{code:?} {said}");
}
