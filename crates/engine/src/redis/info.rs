//! What the engine tells of itself: `INFO`, `CONFIG GET`, `CLIENT LIST`.
//!
//! Guarantees: what is not understood is an error or absent, never a default that looks like an answer (S11).
//! Does not know: what it means for the instance.

use crate::Error;
use holdfast_core::position::HistoryId;
use holdfast_wire::resp::value::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// `INFO`'s fields by name.
pub(super) struct Info(BTreeMap<String, String>);

/// A replica, as its primary sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replica {
    /// As it announced itself.
    pub(super) addr: Option<SocketAddr>,
    /// Receives the stream, so that its acknowledgements count.
    pub(super) online: bool,
    /// For people.
    pub(super) says: String,
}

/// A connection in `CLIENT LIST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) id: String,
    pub(super) user: String,
    pub(super) flags: String,
    pub(super) command: String,
}

impl Info {
    pub(super) fn read(answer: &Value) -> Result<Info, Error> {
        let text = answer.text().ok_or_else(|| unreadable("INFO"))?;
        let field = |line: &str| line.trim_end().split_once(':').map(|(k, v)| (k.to_owned(), v.to_owned()));
        Ok(Info(text.lines().filter(|l| !l.starts_with('#')).filter_map(field).collect()))
    }
    pub(super) fn text(&self, name: &'static str) -> Result<&str, Error> {
        self.0.get(name).map(String::as_str).ok_or_else(|| unreadable(name))
    }
    pub(super) fn number<T: std::str::FromStr>(&self, name: &'static str) -> Result<T, Error> {
        self.text(name)?.parse().map_err(|_| unreadable(name))
    }
    /// Absent is no error: not every version, nor every state, has it.
    pub(super) fn maybe<T: std::str::FromStr>(&self, name: &'static str) -> Option<T> {
        self.0.get(name)?.parse().ok()
    }
    pub(super) fn on(&self, name: &'static str) -> Result<bool, Error> {
        Ok(self.number::<u8>(name)? != 0)
    }
    pub(super) fn history(&self, name: &'static str) -> Result<HistoryId, Error> {
        self.text(name)?.parse().map_err(|_| unreadable(name))
    }
    /// Databases that have keys, and how many.
    pub(super) fn databases(&self) -> Vec<(u32, u64)> {
        let count = |v: &String| v.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok();
        let all = self.0.iter().filter_map(|(k, v)| Some((k.strip_prefix("db")?.parse().ok()?, count(v)?)));
        all.collect()
    }
    /// Keys in all databases.
    pub(super) fn keys(&self) -> u64 {
        self.databases().iter().map(|(_, keys)| keys).sum()
    }
    pub(super) fn replicas(&self) -> Vec<Replica> {
        let numbered = |k: &str| k.strip_prefix("slave").is_some_and(|n| n.parse::<u32>().is_ok());
        self.0.iter().filter(|(k, _)| numbered(k)).map(|(_, v)| replica(v)).collect()
    }
}

fn replica(line: &str) -> Replica {
    let fields: BTreeMap<&str, &str> = line.split(',').filter_map(|f| f.split_once('=')).collect();
    let ip = fields.get("ip").and_then(|ip| ip.parse::<IpAddr>().ok());
    let port = fields.get("port").and_then(|p| p.parse::<u16>().ok());
    Replica {
        addr: ip.zip(port).map(|(ip, port)| SocketAddr::new(ip, port)),
        online: fields.get("state") == Some(&"online"),
        says: format!("{}:{}", fields.get("ip").unwrap_or(&"?"), fields.get("port").unwrap_or(&"?")),
    }
}

/// The answer to `CONFIG GET`.
pub(super) fn settings(answer: &Value) -> BTreeMap<String, String> {
    let pairs = answer.items().chunks_exact(2);
    pairs.filter_map(|pair| Some((pair[0].text()?, pair[1].text()?))).collect()
}

/// The answer to `CLIENT LIST`.
pub(super) fn clients(answer: &Value) -> Vec<Client> {
    let text = answer.text().unwrap_or_default();
    let read = |line: &str| {
        let fields: BTreeMap<&str, &str> = line.split(' ').filter_map(|f| f.split_once('=')).collect();
        let own = |name: &str| fields.get(name).map(|v| (*v).to_owned());
        let command = own("cmd").unwrap_or_default();
        Some(Client { id: own("id")?, user: own("user").unwrap_or_default(), flags: own("flags")?, command })
    };
    text.lines().filter_map(read).collect()
}

fn unreadable(what: &str) -> Error {
    Error::Log(format!("the engine does not say its {what}, or not as it should"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(text: &str) -> Info {
        Info::read(&Value::Bulk(text.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn fields_replicas_and_keys_are_read() {
        let i = info(
            "# Replication\r\nrole:master\r\nconnected_slaves:2\r\nloading:0\r\n\
             slave0:ip=10.0.0.2,port=6379,state=online,offset=84,lag=1\r\n\
             slave1:ip=,port=0,state=wait_bgsave,offset=0,lag=0\r\n\
             # Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=0\r\ndb7:keys=2,expires=0,avg_ttl=0\r\n",
        );
        assert_eq!((i.text("role").unwrap(), i.on("loading").unwrap(), i.keys()), ("master", false, 5));
        let replicas = i.replicas();
        assert_eq!(replicas[0].addr, Some("10.0.0.2:6379".parse().unwrap()));
        assert!(replicas[0].online && !replicas[1].online && replicas[1].addr.is_none());
    }

    #[test]
    fn what_is_missing_is_no_default() {
        let i = info("role:slave\r\nmaster_repl_offset:x\r\nmaster_replid:abc\r\n");
        assert!(i.text("loading").is_err() && i.number::<u64>("master_repl_offset").is_err());
        assert!(i.history("master_replid").is_err() && i.maybe::<u64>("loading").is_none());
        assert!(Info::read(&Value::Nil).is_err());
    }

    #[test]
    fn clients_are_read() {
        let list = "id=3 addr=127.0.0.1:5 laddr=x name= age=1 flags=b db=0 cmd=wait user=app resp=2\n\
                    id=4 addr=/run/db.sock:0 name= flags=U cmd=client|list user=holdfast:agent\n";
        let all = clients(&Value::Bulk(list.as_bytes().to_vec()));
        assert_eq!(
            (all[0].command.as_str(), all[0].user.as_str(), all[0].flags.as_str()),
            ("wait", "app", "b")
        );
        assert_eq!(all[1].user, "holdfast:agent");
    }
}
