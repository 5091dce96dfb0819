//! A real redis-server of its own for a test: own directory, own port, gone with the test.

use holdfast_core::{Endpoint, NodeName, ZoneName};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

pub const USER: &str = "app";
pub const PASSWORD: &str = "p w\"1";

pub struct Redis {
    pub addr: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Redis {
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    pub fn start_with(options: &[&str]) -> Redis {
        let dir = tempfile::tempdir().unwrap();
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let acl = format!("user default on nopass ~* &* +@all\nuser {USER} on #{} ~* &* +@all\n", sha256());
        std::fs::write(dir.path().join("users.acl"), acl).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", &addr.port().to_string(), "--bind", "127.0.0.1"])
            .args(["--dir", dir.path().to_str().unwrap(), "--save", "", "--appendonly", "no"])
            .args(["--aclfile", dir.path().join("users.acl").to_str().unwrap()])
            .args(["--unixsocket", dir.path().join("s").to_str().unwrap()])
            .args(["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"])
            .args(options)
            .stdout(std::fs::File::create(dir.path().join("log")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut redis = Redis { addr, child, dir };
        redis.wait_ready();
        redis
    }

    /// A replica of `primary` that is caught up.
    pub fn replica_of(primary: &Redis) -> Redis {
        let port = primary.addr.port().to_string();
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
        replica.wait_until("INFO replication", |info| info.contains("master_link_status:up"));
        // It is called online before it is sent anything: that begins with what it next says, up to a second later.
        primary.ask("PUBLISH nobody hears");
        replica.wait_for_all_of(primary);
        replica
    }

    /// Waits until it has said that it has all that `primary` has now.
    pub fn wait_for_all_of(&self, primary: &Redis) {
        let offset = |info: &str, name| {
            info.split(name).nth(1).and_then(|o| o.split([',', '\r']).next()?.parse::<u64>().ok())
        };
        primary.wait_until("INFO replication", |info| {
            offset(info, ",offset=").is_some_and(|o| o > 0 && Some(o) >= offset(info, "master_repl_offset:"))
        });
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(self.addr).is_err() || !self.socket().exists() {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(self.child.try_wait().unwrap().is_none(), "redis-server ended: {}", log());
            assert!(Instant::now() < deadline, "redis-server is not ready: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn wait_until(&self, command: &str, check: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let said = self.ask(command);
            if check(&said) {
                return;
            }
            assert!(Instant::now() < deadline, "{command} still says {said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn endpoint(&self, zone: &str) -> Endpoint {
        let node = NodeName::new(&format!("db-{}", self.addr.port())).unwrap();
        Endpoint { node, zone: ZoneName::new(zone).unwrap(), addr: self.addr }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
    /// SIGSTOP: it takes what it is sent and says nothing.
    pub fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }
    pub fn go_on(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// Not through the proxy.
    pub fn ask(&self, command: &str) -> String {
        let out = Command::new("redis-cli")
            .args(["-s", self.socket().to_str().unwrap()])
            .args(command.split_whitespace())
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_string()
    }

    /// How often a command was called.
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.ask("INFO commandstats");
        let line = format!("cmdstat_{command}:calls=");
        let count = stats.lines().find_map(|l| l.strip_prefix(&line)?.split(',').next()?.parse().ok());
        count.unwrap_or(0)
    }
}

fn sha256() -> String {
    use std::io::Write;
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(PASSWORD.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..64].to_string()
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
