//! What each command is to the proxy. A static table: what is not in it is taken for a write that may block, which is
//! safe for anything that a module brings.
//!
//! Guarantees: nothing that an engine writes with is called a read here (a test asks a real engine).

use Class::{Blocking, By, Foreign, Lookup, Noted, Plain, Read, Refused, Special as S, Write};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Changes nothing: may be sent again, and no replica needs to have it.
    Read,
    /// The same, of keys alone: any copy of the data answers. Not what goes on where an earlier answer ended (`SCAN`), what
    /// waits, what runs a script, nor what is about the server.
    Lookup,
    /// Neither a write that replicas get nor to be sent again.
    Plain,
    Write,
    /// A write that may come long after the command.
    Blocking,
    /// Not known here.
    Foreign,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    /// Changes the session, if the engine says so: to be done again on another engine.
    Noted,
    /// Answered here, or sent as something else.
    Special(Special),
    /// Not carried, and why.
    Refused(&'static str),
    /// Its first argument decides.
    By(&'static [(&'static str, Class)]),
}

/// Commands with a way of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Auth,
    Hello,
    Quit,
    Reset,
    Monitor,
    /// The client's own WAIT.
    Wait,
    ConfigSet,
    Tracking,
    ClientReply,
    Subscribe(Topic),
    Unsubscribe(Topic),
}

/// What can be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    Channel,
    Pattern,
    Shard,
}

const PRIMARY: &str = "Holdfast decides who is primary and who follows whom (`holdfast switchover`)";
const PROCESS: &str = "Holdfast starts and stops engines";
const STREAM: &str = "replication connects to the engine itself";
const CLUSTER: &str = "this is no Redis Cluster: every key is here";
const MODULE: &str = "every member needs the same modules: name them in the topology file";
const USERS: &str = "users are in the topology file, so that every member has them";
const CONFIG: &str = "Holdfast writes the engine's configuration";
const PAUSE: &str = "a switchover pauses clients itself, and must be able to rely on it";
const STOPS: &str = "it stops the engine for everybody, which looks like a failure";
const SENTINEL: &str = "SENTINEL is answered on Sentinel's port";
const REDIRECT: &str = "clients are led by the proxy";

#[rustfmt::skip]
const COMMANDS: &[(&str, Class)] = &[
    // Strings and bits.
    ("get", Lookup), ("set", Write), ("mget", Lookup), ("mset", Write), ("msetnx", Write), ("setex", Write),
    ("psetex", Write), ("setnx", Write), ("getset", Write), ("getdel", Write), ("getex", Write), ("append", Write),
    ("incr", Write), ("decr", Write), ("incrby", Write), ("decrby", Write), ("incrbyfloat", Write),
    ("strlen", Lookup), ("getrange", Lookup), ("substr", Lookup), ("setrange", Write), ("lcs", Lookup), ("getbit", Lookup),
    ("setbit", Write), ("bitcount", Lookup), ("bitpos", Lookup), ("bitop", Write), ("bitfield", Write),
    ("bitfield_ro", Lookup),
    // Keys.
    ("del", Write), ("unlink", Write), ("exists", Lookup), ("expire", Write), ("pexpire", Write), ("expireat", Write),
    ("pexpireat", Write), ("persist", Write), ("ttl", Lookup), ("pttl", Lookup), ("expiretime", Lookup),
    ("pexpiretime", Lookup), ("type", Lookup), ("rename", Write), ("renamenx", Write), ("copy", Write), ("move", Write),
    ("keys", Lookup), ("scan", Read), ("randomkey", Read), ("dump", Read), ("restore", Write), ("touch", Read),
    ("sort", Write), ("sort_ro", Lookup), ("object", Read), ("dbsize", Read), ("flushdb", Write), ("flushall", Write),
    ("swapdb", Write), ("migrate", Blocking), ("restore-asking", Write),
    // Hashes.
    ("hget", Lookup), ("hset", Write), ("hsetnx", Write), ("hmget", Lookup), ("hmset", Write), ("hgetall", Lookup),
    ("hdel", Write), ("hexists", Lookup), ("hincrby", Write), ("hincrbyfloat", Write), ("hkeys", Lookup), ("hlen", Lookup),
    ("hstrlen", Lookup), ("hvals", Lookup), ("hscan", Read), ("hrandfield", Lookup), ("hexpire", Write),
    ("hpexpire", Write), ("hexpireat", Write), ("hpexpireat", Write), ("hpersist", Write), ("httl", Lookup),
    ("hpttl", Lookup), ("hexpiretime", Lookup), ("hpexpiretime", Lookup),
    // Lists.
    ("lpush", Write), ("rpush", Write), ("lpushx", Write), ("rpushx", Write), ("lpop", Write), ("rpop", Write),
    ("lrange", Lookup), ("llen", Lookup), ("lindex", Lookup), ("lset", Write), ("lrem", Write), ("ltrim", Write),
    ("linsert", Write), ("lpos", Lookup), ("lmove", Write), ("rpoplpush", Write), ("lmpop", Write),
    ("blpop", Blocking), ("brpop", Blocking), ("brpoplpush", Blocking), ("blmove", Blocking), ("blmpop", Blocking),
    // Sets.
    ("sadd", Write), ("srem", Write), ("smembers", Lookup), ("sismember", Lookup), ("smismember", Lookup), ("scard", Lookup),
    ("spop", Write), ("srandmember", Lookup), ("smove", Write), ("sinter", Lookup), ("sunion", Lookup), ("sdiff", Lookup),
    ("sintercard", Lookup), ("sinterstore", Write), ("sunionstore", Write), ("sdiffstore", Write), ("sscan", Read),
    // Sorted sets.
    ("zadd", Write), ("zrem", Write), ("zincrby", Write), ("zcard", Lookup), ("zcount", Lookup), ("zlexcount", Lookup),
    ("zscore", Lookup), ("zmscore", Lookup), ("zrank", Lookup), ("zrevrank", Lookup), ("zrange", Lookup),
    ("zrangebyscore", Lookup), ("zrangebylex", Lookup), ("zrevrange", Lookup), ("zrevrangebyscore", Lookup),
    ("zrevrangebylex", Lookup), ("zrangestore", Write), ("zremrangebyrank", Write), ("zremrangebyscore", Write),
    ("zremrangebylex", Write), ("zinter", Lookup), ("zunion", Lookup), ("zdiff", Lookup), ("zintercard", Lookup),
    ("zinterstore", Write), ("zunionstore", Write), ("zdiffstore", Write), ("zrandmember", Lookup), ("zscan", Read),
    ("zpopmin", Write), ("zpopmax", Write), ("zmpop", Write), ("bzpopmin", Blocking), ("bzpopmax", Blocking),
    ("bzmpop", Blocking),
    // Places.
    ("geoadd", Write), ("geodist", Lookup), ("geohash", Lookup), ("geopos", Lookup), ("geosearch", Lookup),
    ("geosearchstore", Write), ("georadius", Write), ("georadiusbymember", Write), ("georadius_ro", Lookup),
    ("georadiusbymember_ro", Lookup),
    // Streams.
    ("xadd", Write), ("xlen", Lookup), ("xrange", Lookup), ("xrevrange", Lookup), ("xread", Read), ("xdel", Write),
    ("xtrim", Write), ("xack", Write), ("xclaim", Write), ("xautoclaim", Write), ("xpending", Read),
    ("xsetid", Write), ("xgroup", Write), ("xinfo", Read), ("xreadgroup", Blocking),
    // HyperLogLog. PFCOUNT may store what it counted, which anybody can count again.
    ("pfadd", Write), ("pfcount", Read), ("pfmerge", Write), ("pfdebug", Write), ("pfselftest", Plain),
    // Scripts and functions.
    ("eval", Write), ("evalsha", Write), ("eval_ro", Read), ("evalsha_ro", Read), ("fcall", Write), ("fcall_ro", Read),
    ("script", By(&[("exists", Read), ("load", Read), ("help", Read), ("flush", Plain), ("kill", Plain),
        ("show", Read), ("debug", Refused(STOPS))])),
    ("function", By(&[("list", Read), ("dump", Read), ("stats", Read), ("help", Read), ("kill", Plain),
        ("load", Write), ("delete", Write), ("flush", Write), ("restore", Write)])),
    // Transactions.
    ("multi", Class::Multi), ("exec", Class::Exec), ("discard", Class::Discard), ("watch", Class::Watch),
    ("unwatch", Class::Unwatch),
    // Messages.
    ("publish", Plain), ("spublish", Plain), ("pubsub", Read),
    ("subscribe", S(Special::Subscribe(Topic::Channel))), ("unsubscribe", S(Special::Unsubscribe(Topic::Channel))),
    ("psubscribe", S(Special::Subscribe(Topic::Pattern))), ("punsubscribe", S(Special::Unsubscribe(Topic::Pattern))),
    ("ssubscribe", S(Special::Subscribe(Topic::Shard))), ("sunsubscribe", S(Special::Unsubscribe(Topic::Shard))),
    // The session.
    ("auth", S(Special::Auth)), ("hello", S(Special::Hello)), ("quit", S(Special::Quit)), ("reset", S(Special::Reset)),
    ("select", Noted), ("ping", Read), ("echo", Read), ("wait", S(Special::Wait)), ("waitaof", S(Special::Wait)),
    ("client", By(&[("setname", Noted), ("setinfo", Noted), ("no-evict", Noted), ("no-touch", Noted),
        ("tracking", S(Special::Tracking)), ("reply", S(Special::ClientReply)), ("caching", Plain),
        ("kill", Plain), ("unblock", Plain), ("getname", Read), ("id", Read), ("info", Read), ("list", Read),
        ("trackinginfo", Read), ("getredir", Read), ("help", Read), ("pause", Refused(PAUSE)),
        ("unpause", Refused(PAUSE)), ("capa", Refused(REDIRECT)), ("import-source", Refused(STREAM))])),
    // The server.
    ("info", Read), ("time", Read), ("role", Read), ("lastsave", Read), ("command", Read), ("commandlog", Read),
    ("lolwut", Read), ("readonly", Read), ("readwrite", Read), ("asking", Read),
    ("memory", By(&[("usage", Read), ("stats", Read), ("doctor", Read), ("malloc-stats", Read), ("help", Read),
        ("purge", Plain)])),
    ("latency", By(&[("reset", Plain), ("doctor", Read), ("graph", Read), ("histogram", Read), ("history", Read),
        ("latest", Read), ("help", Read)])),
    ("slowlog", By(&[("reset", Plain), ("get", Read), ("len", Read), ("help", Read)])),
    ("config", By(&[("get", Read), ("help", Read), ("resetstat", Plain), ("set", S(Special::ConfigSet)),
        ("rewrite", Refused(CONFIG))])),
    ("acl", By(&[("cat", Read), ("genpass", Read), ("getuser", Read), ("list", Read), ("log", Read), ("users", Read),
        ("whoami", Read), ("dryrun", Read), ("help", Read), ("setuser", Refused(USERS)), ("deluser", Refused(USERS)),
        ("load", Refused(USERS)), ("save", Refused(USERS))])),
    ("module", By(&[("list", Read), ("help", Read), ("load", Refused(MODULE)), ("loadex", Refused(MODULE)),
        ("unload", Refused(MODULE))])),
    ("bgsave", Plain), ("bgrewriteaof", Plain), ("save", Refused(STOPS)), ("debug", Refused(STOPS)),
    ("monitor", S(Special::Monitor)), ("shutdown", Refused(PROCESS)), ("replicaof", Refused(PRIMARY)),
    ("slaveof", Refused(PRIMARY)), ("failover", Refused(PRIMARY)), ("sync", Refused(STREAM)),
    ("psync", Refused(STREAM)), ("replconf", Refused(STREAM)), ("cluster", Refused(CLUSTER)),
    ("sentinel", Refused(SENTINEL)),
];

const SLOTS: usize = 1 << 10;

const fn hash(name: &[u8]) -> usize {
    let (mut h, mut at) = (0x811c_9dc5_u32, 0);
    while at < name.len() {
        h = (h ^ (name[at] | 0x20) as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    (h ^ (h >> 15)) as usize % SLOTS
}

/// Open addressing: the command's number + 1, or 0.
static TABLE: [u8; SLOTS] = {
    assert!(COMMANDS.len() < 256, "a number fits into a byte");
    let (mut table, mut n) = ([0; SLOTS], 0);
    while n < COMMANDS.len() {
        let mut slot = hash(COMMANDS[n].0.as_bytes());
        while table[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = n as u8 + 1;
        n += 1;
    }
    table
};

/// The class of a command by its name, in any case.
pub fn class(name: &[u8]) -> Class {
    let mut slot = hash(name);
    while let Some(at) = usize::from(TABLE[slot]).checked_sub(1) {
        if COMMANDS[at].0.as_bytes().eq_ignore_ascii_case(name) {
            return COMMANDS[at].1;
        }
        slot = (slot + 1) % SLOTS;
    }
    Foreign
}

/// The class of a command that its first argument decides; an engine of another release may know more of them.
pub fn class_by(subcommands: &[(&str, Class)], first: Option<&[u8]>) -> Class {
    let Some(first) = first else { return Read };
    let known = subcommands.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(first));
    known.map_or(Foreign, |(_, class)| *class)
}

/// Settings that Holdfast makes, by how their names begin.
const OURS: [&str; 30] = [
    "acl",
    "append",
    "aof-",
    "auto-aof-",
    "bind",
    "cluster-",
    "daemonize",
    "databases",
    "dbfilename",
    "dir",
    "enable-debug-command",
    "enable-module-command",
    "enable-protected-configs",
    "io-threads",
    "loglevel",
    "logfile",
    "masterauth",
    "masteruser",
    "primaryauth",
    "primaryuser",
    "min-replicas-",
    "min-slaves-",
    "pidfile",
    "port",
    "protected-mode",
    "rdb",
    "requirepass",
    "save",
    "tls-",
    "unixsocket",
];
const OURS_TOO: [&str; 4] = ["repl-", "replica", "slave", "supervised"];

/// True if a `CONFIG SET` of this would undo what Holdfast set.
pub fn is_ours(setting: &[u8]) -> bool {
    OURS.iter().chain(&OURS_TOO).any(|prefix| {
        setting.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
    })
}

impl Topic {
    /// The words with which the engine confirms a subscription and its end.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Topic::Channel => ("subscribe", "unsubscribe"),
            Topic::Pattern => ("psubscribe", "punsubscribe"),
            Topic::Shard => ("ssubscribe", "sunsubscribe"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_in_any_case() {
        for (name, expected) in COMMANDS {
            assert_eq!(class(name.as_bytes()), *expected, "{name}");
            assert_eq!(class(name.to_uppercase().as_bytes()), *expected, "{name}");
        }
        assert_eq!(class(b"json.set"), Foreign);
        assert_eq!(class(b""), Foreign);
    }

    #[test]
    fn subcommands_decide() {
        let By(config) = class(b"CONFIG") else { panic!("it has subcommands") };
        assert_eq!(class_by(config, Some(b"Get")), Read);
        assert_eq!(class_by(config, Some(b"rewrite")), Refused(CONFIG));
        assert_eq!(class_by(config, Some(b"novel")), Foreign);
        assert_eq!(class_by(config, None), Read, "the engine says what is missing");
    }

    #[test]
    fn settings_of_holdfasts_own() {
        for ours in ["appendonly", "REPL-backlog-size", "replicaof", "Dir", "save", "min-replicas-to-write"] {
            assert!(is_ours(ours.as_bytes()), "{ours}");
        }
        for free in ["maxmemory", "notify-keyspace-events", "slowlog-log-slower-than", "timeout", "hz"] {
            assert!(!is_ours(free.as_bytes()), "{free}");
        }
    }
}
