//! A real mariadbd of its own for a test: own directory, own port, gone with the test.

use holdfast_core::{Endpoint, NodeName, ZoneName};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

pub const USER: &str = "app";
pub const PASSWORD: &str = "p'w\\1";
pub const OTHER: &str = "other";

/// A data directory as a fresh installation leaves it. Made once per build directory.
fn template() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let made = base.join("mariadb-template");
        if !made.exists() {
            let draft = tempfile::tempdir_in(base).unwrap();
            let status = Command::new("mariadb-install-db")
                .args([
                    "--no-defaults",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--user=root",
                ])
                .args(["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M"])
                .arg(format!("--datadir={}", draft.path().display()))
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success(), "mariadb-install-db failed");
            // Another test process may have been faster.
            let _ = std::fs::rename(draft.path(), &made);
        }
        made
    })
}

pub struct Engine {
    pub addr: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Engine {
    pub fn start() -> Engine {
        Engine::start_with(&[])
    }

    pub fn start_with(options: &[&str]) -> Engine {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let copied = Command::new("cp").arg("-r").arg(template()).arg(&data).status().unwrap();
        assert!(copied.success());
        let quoted = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
        let init = format!(
            "CREATE DATABASE d;\n\
             CREATE USER '{USER}'@'%' IDENTIFIED BY '{quoted}';\nGRANT ALL ON *.* TO '{USER}'@'%';\n\
             REVOKE READ_ONLY ADMIN, SUPER ON *.* FROM '{USER}'@'%';\n\
             CREATE USER '{OTHER}'@'%' IDENTIFIED BY '';\nGRANT ALL ON d.* TO '{OTHER}'@'%';\n"
        );
        std::fs::write(dir.path().join("init.sql"), init).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("mariadbd")
            .args([
                "--no-defaults",
                "--user=root",
                "--innodb-buffer-pool-size=16M",
                "--innodb-log-file-size=8M",
            ])
            .args([
                "--skip-name-resolve",
                "--bind-address=127.0.0.1",
                "--log-bin=bin",
                "--performance-schema=OFF",
            ])
            .args([
                "--innodb-flush-log-at-trx-commit=0",
                "--max-allowed-packet=1G",
                "--character-set-server=utf8mb4",
            ])
            .args(options)
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", dir.path().join("s").display()))
            // A starting server deletes the temporary tables that it finds, another's too.
            .arg(format!("--tmpdir={}", dir.path().display()))
            .arg(format!("--init-file={}", dir.path().join("init.sql").display()))
            .arg(format!("--port={}", port.port()))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut engine = Engine { addr: port, child, dir };
        engine.wait_ready();
        engine
    }

    /// A MySQL 9.7, from its folder (`make engines`).
    pub fn mysql() -> Engine {
        Engine::mysql_with(&[])
    }

    pub fn mysql_with(options: &[&str]) -> Engine {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mysql/programs");
        let server = programs.join("mysqld");
        assert!(server.exists(), "there is no MySQL here yet: make engines");
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let quoted = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
        let init = format!(
            "CREATE DATABASE d;\nCREATE USER '{USER}'@'%' IDENTIFIED BY '{quoted}';\n\
             GRANT ALL ON *.* TO '{USER}'@'%';\nREVOKE SUPER, CONNECTION_ADMIN ON *.* FROM '{USER}'@'%';\n\
             CREATE USER '{OTHER}'@'%' IDENTIFIED BY '';\nGRANT ALL ON d.* TO '{OTHER}'@'%';\n"
        );
        std::fs::write(dir.path().join("init.sql"), init).unwrap();
        let command = || {
            let mut command = Command::new(&server);
            command
                .args(["--no-defaults", "--user=root", "--secure-file-priv=NULL", "--mysqlx=OFF"])
                .args(["--innodb-buffer-pool-size=16M", "--innodb-redo-log-capacity=16M"])
                .args(["--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0", "--max-connections=100"])
                .arg(format!("--datadir={}", data.display()))
                .arg(format!("--tmpdir={}", dir.path().display()))
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(dir.path().join("log")).unwrap());
            command
        };
        let made = command().arg("--initialize-insecure").status().unwrap();
        assert!(made.success(), "{}", std::fs::read_to_string(dir.path().join("log")).unwrap());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = command()
            .args(["--skip-name-resolve", "--bind-address=127.0.0.1", "--log-bin=bin"])
            .args(options)
            .arg(format!("--socket={}", dir.path().join("s").display()))
            .arg(format!("--init-file={}", dir.path().join("init.sql").display()))
            .arg(format!("--port={}", port.port()))
            .spawn()
            .unwrap();
        let mut engine = Engine { addr: port, child, dir };
        engine.wait_ready();
        engine
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        // The Unix socket is there a moment later than the other.
        while TcpStream::connect(self.addr).is_err() || UnixStream::connect(self.socket()).is_err() {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(self.child.try_wait().unwrap().is_none(), "mariadbd ended: {}", log());
            assert!(Instant::now() < deadline, "mariadbd is not ready: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn endpoint(&self, zone: &str) -> Endpoint {
        let node = NodeName::new(&format!("db-{}", self.addr.port())).unwrap();
        Endpoint { node, zone: ZoneName::new(zone).unwrap(), addr: self.addr }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// As root, not through the proxy.
    pub fn sql(&self, sql: &str) -> String {
        let socket = format!("--socket={}", self.socket().display());
        let out = Command::new("mariadb")
            .args(["--no-defaults", "-uroot", "-N", &socket, "-e", sql])
            .output()
            .unwrap();
        assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_string()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls `check` until it holds.
pub async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(Instant::now() < deadline, "not in 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
