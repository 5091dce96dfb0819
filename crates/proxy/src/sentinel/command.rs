//! What a client's command is answered with. Pure: the facts are handed in, replies come out; what has to be awaited is
//! returned as an [`Effect`].

use super::entries;
use super::events::Event;
use super::facts::{Facts, Primary};
use super::glob;
use super::reply::{Replies, Row};
use holdfast_core::GroupName;
use holdfast_core::secret::Password;
use std::collections::BTreeSet;
use std::fmt::Write;

/// Channels and patterns of one client.
const SUBSCRIPTIONS: usize = 64;
/// Bytes of a client's word that are shown in an error.
const SHOWN_BYTES: usize = 64;
/// The Sentinel whose interface this is. Clients look at it to see what they may ask.
const SPEAKS: &str = "7.0.0";

/// What clients must show.
#[derive(Debug)]
pub struct Doors {
    pub password: Option<Password>,
}

/// What a command may look at.
pub struct Desk<'a> {
    pub facts: &'a Facts,
    pub doors: &'a Doors,
    /// See [`super::Operators::knows`].
    pub knows: &'a dyn Fn(&str) -> Option<bool>,
    pub counts: Counts,
}

/// For `INFO`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub version: &'static str,
    pub port: u16,
    pub uptime_s: u64,
    pub clients: u64,
    pub clients_total: u64,
    pub commands: u64,
}

/// What is left to do after a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    None,
    /// The last reply was given.
    Close,
    /// Ask for a switchover, and reply to it.
    SwitchOver(GroupName),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Nobody,
    Client,
    Operator,
}

/// One client, as far as its commands go.
#[derive(Debug)]
pub struct Client {
    id: u64,
    version: u8,
    user: User,
    name: Vec<u8>,
    /// What it sends is read by nobody else: TLS, or this machine.
    private: bool,
    channels: BTreeSet<Vec<u8>>,
    patterns: BTreeSet<Vec<u8>>,
}

/// Names, and how many words a command has: exactly, or at least if negative.
const COMMANDS: [(&str, i8); 16] = [
    ("auth", -2),
    ("client", -2),
    ("command", -1),
    ("echo", 2),
    ("hello", -1),
    ("info", -1),
    ("ping", -1),
    ("psubscribe", -2),
    ("punsubscribe", -1),
    ("quit", -1),
    ("reset", 1),
    ("role", 1),
    ("sentinel", -2),
    ("select", 2),
    ("subscribe", -2),
    ("unsubscribe", -1),
];
const WITHOUT_LOGIN: [&str; 4] = ["auth", "hello", "quit", "reset"];
const WHILE_SUBSCRIBED: [&str; 7] =
    ["psubscribe", "punsubscribe", "subscribe", "unsubscribe", "ping", "quit", "reset"];

const HELP: [&str; 12] = [
    "SENTINEL <subcommand> [<arg> ...]. Holdfast answers:",
    "CKQUORUM <master-name>: whether the voters can decide.",
    "FAILOVER <master-name>: ask for a switchover that loses nothing.",
    "GET-MASTER-ADDR-BY-NAME <master-name>: ip and port of the primary's engine.",
    "IS-MASTER-DOWN-BY-ADDR <ip> <port> <epoch> <runid>: whether that is no primary; nobody votes here.",
    "MASTER <master-name>, MASTERS: one service, all services.",
    "MYID: the id of this node.",
    "PENDING-SCRIPTS: none, ever.",
    "REPLICAS <master-name>: its other members.",
    "SENTINELS <master-name>: the other nodes.",
    "SLAVES <master-name>: as REPLICAS.",
    "What there is, is set in the topology file.",
];
/// Would reconfigure a Sentinel.
const REFUSED: [&str; 8] =
    ["set", "monitor", "remove", "reset", "flushconfig", "config", "debug", "simulate-failure"];

fn lower(word: &[u8]) -> String {
    String::from_utf8_lossy(&word[..word.len().min(SHOWN_BYTES)]).to_ascii_lowercase()
}

fn arity_fits(arity: i8, words: usize) -> bool {
    let least = usize::from(arity.unsigned_abs());
    if arity < 0 { words >= least } else { words == least }
}

fn arguments(reply: &mut Replies<'_>, name: &str) {
    reply.error(&format!("ERR wrong number of arguments for '{name}' command"));
}

fn no_such_master(reply: &mut Replies<'_>) {
    reply.error("ERR No such master with that name");
}

/// Takes as long for a wrong guess as for a right one.
fn is_same(known: &str, given: &[u8]) -> bool {
    let known = known.as_bytes();
    let differs = known.iter().zip(given).fold(known.len() ^ given.len(), |d, (a, b)| d | usize::from(a ^ b));
    differs == 0
}

impl Client {
    pub fn new(id: u64, private: bool, doors: &Doors) -> Client {
        Client {
            id,
            version: 2,
            user: if doors.password.is_some() { User::Nobody } else { User::Client },
            name: Vec::new(),
            private,
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
        }
    }

    pub fn is_known(&self) -> bool {
        self.user != User::Nobody
    }
    /// Waits for events.
    pub fn listens(&self) -> bool {
        !self.channels.is_empty() || !self.patterns.is_empty()
    }
    fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    fn replies<'a>(&self, out: &'a mut Vec<u8>) -> Replies<'a> {
        Replies { out, version: self.version }
    }

    /// Appends what an event is to this client.
    pub fn deliver(&self, event: &Event, out: &mut Vec<u8>) {
        let mut reply = self.replies(out);
        if self.channels.contains(event.channel.as_bytes()) {
            reply.push(3);
            reply.bulk("message");
            reply.bulk(event.channel);
            reply.bulk(&event.text);
        }
        for pattern in self.patterns.iter().filter(|p| glob::matches(p, event.channel.as_bytes())) {
            reply.push(4);
            reply.bulk("pmessage");
            reply.bulk(pattern);
            reply.bulk(event.channel);
            reply.bulk(&event.text);
        }
    }

    /// Appends the reply to a command, the name first.
    pub fn answer(&mut self, args: &[Vec<u8>], desk: &Desk<'_>, out: &mut Vec<u8>) -> Effect {
        let Some(name) = args.first() else { return Effect::None };
        let name = lower(name);
        let mut reply = self.replies(out);
        let Some((_, arity)) = COMMANDS.iter().find(|(known, _)| *known == name) else {
            let unknown = format!(
                "ERR unknown command '{name}': this port only tells, as a Sentinel does, where primaries are"
            );
            reply.error(if self.is_known() { &unknown } else { "NOAUTH Authentication required." });
            return Effect::None;
        };
        if !self.is_known() && !WITHOUT_LOGIN.contains(&&*name) {
            reply.error("NOAUTH Authentication required.");
            return Effect::None;
        }
        if !arity_fits(*arity, args.len()) {
            arguments(&mut reply, &name);
            return Effect::None;
        }
        if self.version == 2 && self.listens() && !WHILE_SUBSCRIBED.contains(&&*name) {
            reply.error(&format!(
                "ERR Can't execute '{name}': only (P)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
            ));
            return Effect::None;
        }
        self.dispatch(&name, args, desk, out)
    }

    fn dispatch(&mut self, name: &str, args: &[Vec<u8>], desk: &Desk<'_>, out: &mut Vec<u8>) -> Effect {
        let mut reply = self.replies(out);
        match name {
            "sentinel" => return self.sentinel(&args[1..], desk, out),
            "auth" => self.auth(&args[1..], desk, out),
            "hello" => self.hello(&args[1..], desk, out),
            "client" => self.client(&args[1..], out),
            "subscribe" | "psubscribe" => self.subscribe(name, &args[1..], out),
            "unsubscribe" | "punsubscribe" => self.unsubscribe(name, &args[1..], out),
            "command" => command(&args[1..], &mut reply),
            "info" => reply.bulk(info(&args[1..], desk)),
            "role" => {
                let masters: Vec<&str> = desk.facts.masters.iter().map(|m| m.name.as_str()).collect();
                reply.array(2);
                reply.bulk("sentinel");
                reply.texts(&masters);
            }
            "ping" if args.len() > 2 => arguments(&mut reply, "ping"),
            "ping" if self.version == 2 && self.listens() => {
                reply.array(2);
                reply.bulk("pong");
                reply.bulk(args.get(1).map_or(&b""[..], |a| a));
            }
            "ping" => match args.get(1) {
                Some(echo) => reply.bulk(echo),
                None => reply.simple("PONG"),
            },
            "echo" => reply.bulk(&args[1]),
            // Clients with a database number in their settings send it here too.
            "select" => reply.simple("OK"),
            "quit" => {
                reply.simple("OK");
                return Effect::Close;
            }
            _ => {
                *self = Client::new(self.id, self.private, desk.doors);
                self.replies(out).simple("RESET");
            }
        }
        Effect::None
    }

    // ---- who it is ----

    /// Logs in, or says why not.
    fn log_in(&mut self, user: &[u8], password: &[u8], desk: &Desk<'_>) -> Result<(), String> {
        let wrong = || "WRONGPASS invalid username-password pair or user is disabled.".to_string();
        match user {
            b"default" => {
                let fits = desk.doors.password.as_ref().is_none_or(|p| is_same(p.expose(), password));
                self.user = if fits { User::Client } else { return Err(wrong()) };
            }
            b"operator" if !self.private => {
                return Err("ERR an operator's token is taken over TLS only, or on the node itself".into());
            }
            b"operator" => {
                let token = std::str::from_utf8(password).unwrap_or_default();
                self.user = match (desk.knows)(token) {
                    Some(true) => User::Operator,
                    _ => return Err(wrong()),
                };
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    fn auth(&mut self, args: &[Vec<u8>], desk: &Desk<'_>, out: &mut Vec<u8>) {
        let done = match args {
            [_] if desk.doors.password.is_none() => Err("ERR AUTH <password> called without any password \
                configured for the default user. Are you sure your configuration is correct?"
                .into()),
            [password] => self.log_in(b"default", password, desk),
            [user, password] => self.log_in(user, password, desk),
            _ => Err("ERR wrong number of arguments for 'auth' command".into()),
        };
        match done {
            Ok(()) => self.replies(out).simple("OK"),
            Err(why) => self.replies(out).error(&why),
        }
    }

    fn hello(&mut self, args: &[Vec<u8>], desk: &Desk<'_>, out: &mut Vec<u8>) {
        match self.greet(args, desk) {
            Err(why) => self.replies(out).error(&why),
            Ok(()) => {
                let mut reply = self.replies(out);
                reply.map(6);
                for (key, value) in [("server", "redis"), ("version", SPEAKS)] {
                    reply.bulk(key);
                    reply.bulk(value);
                }
                reply.bulk("proto");
                reply.int(self.version.into());
                reply.bulk("id");
                reply.int(usize::try_from(self.id).unwrap_or(usize::MAX));
                reply.bulk("mode");
                reply.bulk("sentinel");
                reply.bulk("modules");
                reply.array(0);
            }
        }
    }

    fn greet(&mut self, args: &[Vec<u8>], desk: &Desk<'_>) -> Result<(), String> {
        let version = match args.first().map(Vec::as_slice) {
            None => self.version,
            Some(b"2") => 2,
            Some(b"3") => 3,
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
        };
        let mut rest = args.iter().skip(1);
        let mut name = None;
        while let Some(option) = rest.next() {
            match (lower(option).as_str(), rest.next(), rest.len()) {
                ("setname", Some(given), _) => name = Some(given.clone()),
                ("auth", Some(user), 1..) => {
                    let password = rest.next().map_or(&[][..], |p| p);
                    self.log_in(user, password, desk)?;
                }
                (other, ..) => return Err(format!("ERR Syntax error in HELLO option '{other}'")),
            }
        }
        if !self.is_known() {
            return Err(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
                <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP \
                protocol version at the same time"
                    .into(),
            );
        }
        self.version = version;
        self.name = name.unwrap_or(std::mem::take(&mut self.name));
        Ok(())
    }

    fn client(&mut self, args: &[Vec<u8>], out: &mut Vec<u8>) {
        let what = lower(&args[0]);
        match (what.as_str(), args.len()) {
            ("setname", 2) => {
                self.name = args[1].clone();
                self.replies(out).simple("OK");
            }
            ("setinfo", 3) => self.replies(out).simple("OK"),
            ("getname", 1) if self.name.is_empty() => self.replies(out).nil(),
            ("getname", 1) => self.replies(out).bulk(&self.name),
            ("id", 1) => self.replies(out).int(usize::try_from(self.id).unwrap_or(usize::MAX)),
            _ => self.replies(out).error(&format!(
                "ERR unknown subcommand or wrong number of arguments for '{what}': here CLIENT has SETNAME, GETNAME, SETINFO and ID"
            )),
        }
    }

    // ---- events ----

    fn confirm(&self, word: &str, channel: Option<&[u8]>, out: &mut Vec<u8>) {
        let count = self.subscriptions();
        let mut reply = self.replies(out);
        reply.push(3);
        reply.bulk(word);
        match channel {
            Some(channel) => reply.bulk(channel),
            None => reply.nil(),
        }
        reply.int(count);
    }

    fn topics(&mut self, word: &str) -> &mut BTreeSet<Vec<u8>> {
        if word.starts_with('p') { &mut self.patterns } else { &mut self.channels }
    }

    fn subscribe(&mut self, word: &str, names: &[Vec<u8>], out: &mut Vec<u8>) {
        for name in names {
            if self.subscriptions() >= SUBSCRIPTIONS && !self.topics(word).contains(name) {
                let text = format!("ERR a client has at most {SUBSCRIPTIONS} channels and patterns here");
                return self.replies(out).error(&text);
            }
            self.topics(word).insert(name.clone());
            self.confirm(word, Some(name), out);
        }
    }

    fn unsubscribe(&mut self, word: &str, names: &[Vec<u8>], out: &mut Vec<u8>) {
        let names = match names {
            [] => self.topics(word).iter().cloned().collect(),
            names => names.to_vec(),
        };
        if names.is_empty() {
            self.confirm(word, None, out);
        }
        for name in names {
            self.topics(word).remove(&name);
            self.confirm(word, Some(&name), out);
        }
    }

    // ---- SENTINEL ----

    fn sentinel(&mut self, args: &[Vec<u8>], desk: &Desk<'_>, out: &mut Vec<u8>) -> Effect {
        let (facts, what) = (desk.facts, lower(&args[0]));
        let mut reply = self.replies(out);
        match (what.as_str(), &args[1..]) {
            ("masters", []) => {
                reply.rows(&facts.masters.iter().map(|m| entries::master(m, facts)).collect::<Vec<Row>>());
            }
            ("myid", []) => reply.bulk(&facts.me),
            ("pending-scripts", []) => reply.array(0),
            ("help", []) => reply.texts(&HELP),
            ("is-master-down-by-addr", [ip, port, _, _]) => {
                reply.array(3);
                reply.int(usize::from(is_down(facts, ip, port)));
                reply.bulk("*");
                reply.int(0);
            }
            ("get-master-addr-by-name", [name]) => match facts.master(name).and_then(entries::address) {
                Some((ip, port)) => reply.texts(&[&ip, &port]),
                None => reply.nil_array(),
            },
            ("master" | "replicas" | "slaves" | "sentinels" | "ckquorum" | "failover", [name]) => {
                return self.of_master(&what, name, desk, out);
            }
            (what, _) if REFUSED.contains(&what) => reply.error(&format!(
                "ERR SENTINEL {} changes nothing here: services and nodes are what the topology file says; change that file on \
                 all nodes and look at it with `holdfast config check`",
                what.to_ascii_uppercase()
            )),
            _ => reply.error(&format!(
                "ERR unknown subcommand or wrong number of arguments for '{what}'. Try SENTINEL HELP."
            )),
        }
        Effect::None
    }

    fn of_master(&mut self, what: &str, name: &[u8], desk: &Desk<'_>, out: &mut Vec<u8>) -> Effect {
        let facts = desk.facts;
        let mut reply = self.replies(out);
        let Some(m) = facts.master(name) else {
            no_such_master(&mut reply);
            return Effect::None;
        };
        match what {
            "master" => reply.row(&entries::master(m, facts)),
            "sentinels" => {
                reply.rows(&facts.others.iter().map(|s| entries::sentinel(s, facts)).collect::<Vec<Row>>());
            }
            "ckquorum" => ckquorum(facts, &mut reply),
            "failover" => {
                let everybody = || (desk.knows)("").is_none();
                if self.user == User::Operator || everybody() {
                    return Effect::SwitchOver(m.name.clone());
                }
                reply.error(&format!(
                    "NOPERM a client may not move a primary: use `holdfast switchover --service {}`, or log in here by `AUTH \
                     operator TOKEN` with the operator's token that `holdfast init` made",
                    m.name
                ));
            }
            _ => reply.rows(&m.replicas.iter().map(|r| entries::replica(r, m)).collect::<Vec<Row>>()),
        }
        Effect::None
    }

    /// Appends what became of a wish for a switchover.
    pub fn switched(&self, done: Result<(), String>, out: &mut Vec<u8>) {
        match done {
            Ok(()) => self.replies(out).simple("OK"),
            Err(why) => self.replies(out).error(&format!("NOGOODSLAVE {why}")),
        }
    }
}

/// Of an address of ours, whether it is another than the open primary's. Of others' addresses nothing is known.
fn is_down(facts: &Facts, ip: &[u8], port: &[u8]) -> bool {
    let port = String::from_utf8_lossy(port);
    let Ok(ip) = String::from_utf8_lossy(ip).parse::<std::net::IpAddr>() else { return false };
    let Ok(port) = port.parse::<u16>() else { return false };
    let addr = std::net::SocketAddr::new(ip, port);
    let leads = |p: &Primary| matches!(p, Primary::Open(at) if at.addr == addr);
    !facts.masters.iter().any(|m| leads(&m.primary))
        && facts
            .masters
            .iter()
            .any(|m| m.replicas.iter().any(|r| r.addr == addr) || m.primary == Primary::None)
}

fn ckquorum(facts: &Facts, reply: &mut Replies<'_>) {
    let (heard, quorum) = (facts.voters_heard, facts.quorum());
    if facts.leader.is_none() {
        reply.error("NOQUORUM this node has not heard from a controller lately: ask another one, or see `holdfast status`");
    } else if heard < quorum {
        reply.error(&format!(
            "NOQUORUM {heard} usable Sentinels. Not enough available Sentinels to reach the majority and authorize a failover: \
             {quorum} of {} voters are needed",
            facts.voters
        ));
    } else {
        reply.simple(&format!(
            "OK {heard} usable Sentinels. Quorum and failover authorization can be reached"
        ));
    }
}

fn command(args: &[Vec<u8>], reply: &mut Replies<'_>) {
    let one = |(name, arity): &(&str, i8), reply: &mut Replies<'_>| {
        reply.array(6);
        reply.bulk(name);
        reply.out.extend_from_slice(format!(":{arity}\r\n").as_bytes());
        reply.array(0);
        (0..3).for_each(|_| reply.int(0));
    };
    match args.first().map(|a| lower(a)).as_deref() {
        None => {
            reply.array(COMMANDS.len());
            COMMANDS.iter().for_each(|c| one(c, reply));
        }
        Some("count") => reply.int(COMMANDS.len()),
        Some("list") => reply.texts(&COMMANDS.map(|(name, _)| name)),
        Some("docs") => reply.map(0),
        Some("info") => {
            reply.array(args.len() - 1);
            for name in &args[1..] {
                match COMMANDS.iter().find(|(known, _)| *known == lower(name)) {
                    Some(c) => one(c, reply),
                    None => reply.nil_array(),
                }
            }
        }
        Some(what) => reply.error(&format!("ERR unknown subcommand '{what}' of COMMAND")),
    }
}

/// The sections that were asked for; all without an argument.
fn info(args: &[Vec<u8>], desk: &Desk<'_>) -> String {
    let wanted: Vec<String> = args.iter().map(|a| lower(a)).collect();
    let wants = |section: &str| {
        let all = |w: &String| matches!(w.as_str(), "all" | "default" | "everything") || w == section;
        wanted.is_empty() || wanted.iter().any(all)
    };
    let Counts { version, port, uptime_s, clients, clients_total, commands } = desk.counts;
    let mut out = String::new();
    let mut section = |name: &str, lines: &str| {
        if wants(&name.to_ascii_lowercase()) {
            let gap = if out.is_empty() { "" } else { "\r\n" };
            let _ = write!(out, "{gap}# {name}\r\n{lines}");
        }
    };
    section(
        "Server",
        &format!(
            "redis_version:{SPEAKS}\r\nredis_mode:sentinel\r\nholdfast_version:{version}\r\nprocess_id:{}\r\n\
             run_id:{}\r\ntcp_port:{port}\r\nuptime_in_seconds:{uptime_s}\r\n",
            std::process::id(),
            desk.facts.me
        ),
    );
    section("Clients", &format!("connected_clients:{clients}\r\n"));
    section(
        "Stats",
        &format!("total_connections_received:{clients_total}\r\ntotal_commands_processed:{commands}\r\n"),
    );
    let masters = &desk.facts.masters;
    let mut lines = format!(
        "sentinel_masters:{}\r\nsentinel_tilt:0\r\nsentinel_tilt_since_seconds:-1\r\nsentinel_running_scripts:0\r\n\
         sentinel_scripts_queue_length:0\r\nsentinel_simulate_failure_flags:0\r\n",
        masters.len()
    );
    for (n, m) in masters.iter().enumerate() {
        let (ip, port) = entries::address(m).unwrap_or((String::new(), "0".into()));
        let _ = write!(
            lines,
            "master{n}:name={},status={},address={ip}:{port},slaves={},sentinels={}\r\n",
            m.name,
            entries::status(m),
            m.replicas.len(),
            desk.facts.others.len() + 1
        );
    }
    section("Sentinel", &lines);
    out
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
