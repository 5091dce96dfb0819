//! A real S3 server: moto's, which `make engines` puts into target/s3. Also the tests of other crates use this file.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// 50 ms each.
const UP_TRIES: u32 = 1_200;

pub struct Server {
    child: Child,
    at: SocketAddr,
}

impl Server {
    pub fn started() -> Server {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/s3/bin/moto_server");
        // Asked for and given back: nobody else takes it so soon.
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", &at.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}; `make engines` makes it", program.display()));
        let server = Server { child, at };
        for _ in 0..UP_TRIES {
            if TcpStream::connect(at).is_ok() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the S3 server does not start");
    }

    /// A request that needs no signature here.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.at).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: s3\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Makes a bucket.
    pub fn make(&self, bucket: &str) {
        let made = self.ask(&format!("PUT /{bucket}"));
        assert!(made.starts_with("HTTP/1.1 200"), "{made}");
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.at)
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
