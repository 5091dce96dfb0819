//! A small client that shows what is on the wire.

use crate::resp::engine::{PASSWORD, USER};
use holdfast_wire::resp::put_command;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// No reply takes longer in a test.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    /// Without having logged in.
    pub async fn stranger(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    pub async fn connect(addr: SocketAddr) -> Client {
        let mut client = Client::stranger(addr).await;
        assert_eq!(client.command(&[b"AUTH", USER.as_bytes(), PASSWORD.as_bytes()]).await, "OK");
        client
    }

    pub async fn connect3(addr: SocketAddr) -> Client {
        let mut client = Client::stranger(addr).await;
        let hello = [&b"HELLO"[..], b"3", b"AUTH", USER.as_bytes(), PASSWORD.as_bytes()];
        let said = client.command(&hello).await;
        assert!(said.contains("proto: :3"), "{said}");
        client
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }

    /// Words separated by blanks.
    pub async fn send(&mut self, command: &str) {
        let mut bytes = Vec::new();
        put_command(&mut bytes, &command.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        self.send_bytes(&bytes).await;
    }

    /// Several in one go.
    pub async fn pipeline(&mut self, commands: &[&str]) {
        let mut bytes = Vec::new();
        for command in commands {
            put_command(&mut bytes, &command.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        }
        self.send_bytes(&bytes).await;
    }

    pub async fn command(&mut self, args: &[&[u8]]) -> String {
        let mut bytes = Vec::new();
        put_command(&mut bytes, args);
        self.send_bytes(&bytes).await;
        self.reply().await
    }

    pub async fn ask(&mut self, command: &str) -> String {
        self.send(command).await;
        self.reply().await
    }

    /// The next reply, as text: `OK`, `-ERR …`, `:1`, `nil`, `[a, b]`, `push[a]`, `{a: b}`.
    pub async fn reply(&mut self) -> String {
        match self.maybe_reply(PATIENCE).await {
            Some(reply) => reply,
            None => panic!("no reply in {PATIENCE:?}"),
        }
    }

    pub async fn replies(&mut self, n: usize) -> Vec<String> {
        let mut replies = Vec::new();
        for _ in 0..n {
            replies.push(self.reply().await);
        }
        replies
    }

    /// `None` if nothing comes for so long.
    pub async fn maybe_reply(&mut self, within: Duration) -> Option<String> {
        tokio::time::timeout(within, Box::pin(self.value())).await.ok()
    }

    /// The connection was closed.
    pub async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.is_ok()
    }

    async fn value(&mut self) -> String {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return "closed".to_string();
        }
        let (kind, rest) = line.trim_end().split_at(1);
        let n = rest.parse::<i64>();
        match kind {
            "+" => rest.to_string(),
            "_" => "nil".to_string(),
            "$" | "*" if n == Ok(-1) => "nil".to_string(),
            "$" | "=" => {
                let mut bytes = vec![0; n.unwrap() as usize + 2];
                self.stream.read_exact(&mut bytes).await.unwrap();
                String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned()
            }
            "*" | "~" | ">" | "%" => {
                let pairs = kind == "%";
                let count = n.unwrap() * if pairs { 2 } else { 1 };
                let mut parts = Vec::new();
                for _ in 0..count {
                    parts.push(Box::pin(self.value()).await);
                }
                match kind {
                    "%" => {
                        let pairs: Vec<_> = parts.chunks(2).map(|p| format!("{}: {}", p[0], p[1])).collect();
                        format!("{{{}}}", pairs.join(", "))
                    }
                    ">" => format!("push[{}]", parts.join(", ")),
                    _ => format!("[{}]", parts.join(", ")),
                }
            }
            kind => format!("{kind}{rest}"),
        }
    }
}
