//! Redis and Valkey. The ledger is a set for each range of ids, a register a string.

use super::{Error, NAMES, Primacy};
use crate::ledger::{Account, IDS_PER_RUN};
use holdfast_wire::resp::put_command;
use holdfast_wire::resp::reply::Scanner;
use holdfast_wire::resp::value::Value;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

const ANSWER_BYTES_MAX: usize = 256 << 20;
/// How long a write past the proxies waits for a replica, in ms: less than a prober waits for its answer.
const WAIT_MS: &str = "1500";

/// See the module above.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Words that begin answers to what was not executed, of engines and of the proxy.
pub fn not_executed(says: &str) -> bool {
    const WORDS: [&str; 7] =
        ["TRYAGAIN", "READONLY", "EXECABORT", "NOREPLICAS", "LOADING", "MASTERDOWN", "NOAUTH"];
    WORDS.iter().any(|w| says.starts_with(w)) || says.contains("NOT executed")
}

fn ledger(id: u64) -> String {
    format!("{}:{}", NAMES[0], id / IDS_PER_RUN)
}

fn register(row: u64) -> String {
    format!("{}:{row}", NAMES[1])
}

impl Client {
    pub async fn connect(addr: SocketAddr, account: &Account) -> Result<Client, Error> {
        let stream = TcpStream::connect(addr).await.map_err(Error::Broken)?;
        stream.set_nodelay(true).map_err(Error::Broken)?;
        let mut client = Client { stream, buffer: Vec::new() };
        client.ask(&["AUTH", &account.user, &account.password]).await?;
        Ok(client)
    }

    async fn all(&mut self, commands: &[&[&str]]) -> Result<Vec<Value>, Error> {
        let mut bytes = Vec::new();
        for words in commands {
            put_command(&mut bytes, &words.iter().map(|w| w.as_bytes()).collect::<Vec<_>>());
        }
        self.stream.write_all(&bytes).await.map_err(Error::Broken)?;
        let mut answers = Vec::new();
        let (mut scanner, mut seen) = (Scanner::default(), 0);
        while answers.len() < commands.len() {
            match Value::next(&mut scanner, &mut seen, &self.buffer).map_err(|_| Error::Garbled)? {
                Some((value, end)) => {
                    self.buffer.drain(..end);
                    answers.push(value);
                }
                None if self.buffer.len() > ANSWER_BYTES_MAX => return Err(Error::Garbled),
                None => {
                    if self.stream.read_buf(&mut self.buffer).await.map_err(Error::Broken)? == 0 {
                        return Err(Error::Broken(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
        Ok(answers)
    }

    async fn ask(&mut self, words: &[&str]) -> Result<Value, Error> {
        match self.all(&[words]).await?.pop() {
            Some(Value::Error(says)) => Err(Error::Resp(says)),
            Some(value) => Ok(value),
            None => Err(Error::Garbled),
        }
    }

    pub async fn ping(&mut self) -> Result<(), Error> {
        self.ask(&["PING"]).await.map(|_| ())
    }
    pub async fn clear(&mut self) -> Result<(), Error> {
        let mut cursor = "0".to_owned();
        loop {
            let found = self.ask(&["SCAN", &cursor, "MATCH", "holdfast_drill_*", "COUNT", "1000"]).await?;
            let [next, names] = found.items() else { return Err(Error::Garbled) };
            for name in names.items().iter().filter_map(Value::text) {
                self.ask(&["DEL", &name]).await?;
            }
            cursor = next.text().ok_or(Error::Garbled)?;
            if cursor == "0" {
                return Ok(());
            }
        }
    }
    pub async fn write(&mut self, id: u64) -> Result<(), Error> {
        self.ask(&["SADD", &ledger(id), &id.to_string()]).await.map(|_| ())
    }
    /// Who goes past the proxies has to wait for a replica by himself.
    pub async fn write_directly(&mut self, id: u64, sync: bool) -> Result<(Instant, Option<Primacy>), Error> {
        let (key, id) = (ledger(id), id.to_string());
        let write = ["SADD", &key, &id];
        let wait = ["WAIT", if sync { "1" } else { "0" }, WAIT_MS];
        let answers = self.all(&[&write[..], &wait[..], &["INFO", "replication"][..]]).await?;
        let acked = Instant::now();
        let [written, confirmed, info] = &answers[..] else { return Err(Error::Garbled) };
        if let Value::Error(says) = written {
            return Err(Error::Resp(says.clone()));
        }
        match confirmed {
            Value::Int(n) if !sync || *n > 0 => {}
            Value::Int(_) => return Err(Error::Resp("UNCONFIRMED no replica has it".into())),
            Value::Error(says) => return Err(Error::Resp(format!("UNCONFIRMED {says}"))),
            _ => return Err(Error::Garbled),
        }
        let info = info.text().unwrap_or_default();
        let field = |name: &str| {
            let of = |line: &str| line.trim_end().strip_prefix(name).map(str::to_owned);
            info.lines().find_map(of)
        };
        // One that was closed meanwhile says nothing of whose primacy it was under.
        let leads = field("role:").is_some_and(|role| role == "master");
        Ok((acked, field("master_replid:").filter(|_| leads).map(Primacy::History)))
    }
    pub async fn ids(&mut self, range: Range<u64>) -> Result<BTreeSet<u64>, Error> {
        let mut ids = BTreeSet::new();
        for run in range.start / IDS_PER_RUN..range.end.div_ceil(IDS_PER_RUN) {
            let found = self.ask(&["SMEMBERS", &ledger(run * IDS_PER_RUN)]).await?;
            let all = found.items().iter().filter_map(Value::text);
            ids.extend(all.filter_map(|id| id.parse::<u64>().ok()).filter(|id| range.contains(id)));
        }
        Ok(ids)
    }
    pub async fn set_register(&mut self, row: u64, value: u64) -> Result<(), Error> {
        self.ask(&["SET", &register(row), &value.to_string()]).await.map(|_| ())
    }
    pub async fn register(&mut self, row: u64) -> Result<Option<u64>, Error> {
        match self.ask(&["GET", &register(row)]).await? {
            Value::Nil => Ok(None),
            value => value.text().and_then(|t| t.parse().ok()).map(Some).ok_or(Error::Garbled),
        }
    }
}
