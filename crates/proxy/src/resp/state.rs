//! What a session is, beside its connection: what must be done again on another engine, and what cannot be.

use crate::resp::table::Topic;
use crate::shared::Kept;
use holdfast_core::secret::Password;
use holdfast_wire::resp::put_command;
use std::collections::BTreeSet;

/// MULTI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transaction {
    #[default]
    None,
    Open,
    /// Gone with its connection or spoiled; the client has yet to end it.
    Lost,
}

/// WATCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Watch {
    #[default]
    None,
    Open,
    /// Gone with its connection: the keys count as changed.
    Lost,
}

/// Channels, patterns and shard channels.
#[derive(Debug, Default)]
pub struct Subscriptions {
    topics: [BTreeSet<Vec<u8>>; 3],
    bytes: usize,
    pub kept: Option<Kept>,
}

/// What a subscription takes beside its name.
const SUBSCRIPTION_BYTES: usize = 64;
/// Names in one command when subscribing anew.
const NAMES_AT_ONCE: usize = 500;

impl Subscriptions {
    pub fn is_empty(&self) -> bool {
        self.topics.iter().all(BTreeSet::is_empty)
    }
    pub fn count(&self, topic: Topic) -> usize {
        self.topics[topic as usize].len()
    }
    /// Bytes there would be with these as well.
    pub fn bytes_with<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> usize {
        self.bytes + names.map(|n| n.len() + SUBSCRIPTION_BYTES).sum::<usize>()
    }
    pub fn add(&mut self, topic: Topic, name: &[u8]) {
        if self.topics[topic as usize].insert(name.to_vec()) {
            self.bytes += name.len() + SUBSCRIPTION_BYTES;
        }
    }
    pub fn remove(&mut self, topic: Topic, name: &[u8]) {
        if self.topics[topic as usize].remove(name) {
            self.bytes -= name.len() + SUBSCRIPTION_BYTES;
        }
    }
    pub fn clear(&mut self, topic: Topic) {
        let names = std::mem::take(&mut self.topics[topic as usize]);
        self.bytes -= names.iter().map(|n| n.len() + SUBSCRIPTION_BYTES).sum::<usize>();
    }
    /// The commands that subscribe to all of them, and how many confirmations follow.
    pub fn replay(&self) -> (Vec<u8>, usize) {
        let (mut out, mut confirmations) = (Vec::new(), 0);
        for topic in [Topic::Channel, Topic::Pattern, Topic::Shard] {
            let names: Vec<&[u8]> = self.topics[topic as usize].iter().map(Vec::as_slice).collect();
            for some in names.chunks(NAMES_AT_ONCE) {
                let mut args = vec![topic.words().0.as_bytes()];
                args.extend(some);
                put_command(&mut out, &args);
                confirmations += some.len();
            }
        }
        (out, confirmations)
    }
}

/// See the module.
#[derive(Debug)]
pub struct State {
    /// Whom the client has proved to be.
    pub user: Option<Vec<u8>>,
    /// Of the protocol: 2 or 3.
    pub version: u8,
    db: Vec<u8>,
    /// Of the transaction under way.
    next_db: Option<Vec<u8>>,
    name: Vec<u8>,
    library: Vec<(Vec<u8>, Vec<u8>)>,
    no_evict: bool,
    no_touch: bool,
    /// The arguments of `CLIENT TRACKING ON`.
    tracking: Option<Vec<Vec<u8>>>,
    pub subscriptions: Subscriptions,
    pub monitors: bool,
    pub transaction: Transaction,
    pub watch: Watch,
    /// Something was written over the present connection.
    pub wrote: bool,
    /// Something was written before, and nothing since.
    pub moved_since_write: bool,
    /// Counts changes of what a replay does.
    pub revision: u64,
}

/// A command of a replay.
#[derive(Debug, PartialEq, Eq)]
pub struct Replayed {
    /// As long as the engine answers at all, it does not matter what: an older engine may not know the command.
    pub is_optional: bool,
}

impl State {
    pub fn new(user: Option<Vec<u8>>) -> State {
        State {
            user,
            version: 2,
            db: b"0".to_vec(),
            next_db: None,
            name: Vec::new(),
            library: Vec::new(),
            no_evict: false,
            no_touch: false,
            tracking: None,
            subscriptions: Subscriptions::default(),
            monitors: false,
            transaction: Transaction::None,
            watch: Watch::None,
            wrote: false,
            moved_since_write: false,
            revision: 0,
        }
    }

    /// As it was at first.
    pub fn reset(&mut self, user: Option<Vec<u8>>) {
        let revision = self.revision + 1;
        *self = State { revision, ..State::new(user) };
    }

    /// The engine may say something that was not asked for at this moment.
    pub fn listens(&self) -> bool {
        self.tracking.is_some() || self.monitors || !self.subscriptions.is_empty()
    }
    pub fn tracks(&self) -> bool {
        self.tracking.is_some()
    }

    /// The connection is gone.
    pub fn note_left(&mut self) {
        if self.transaction == Transaction::Open {
            self.transaction = Transaction::Lost;
        }
        if self.watch == Watch::Open {
            self.watch = Watch::Lost;
        }
        self.next_db = None;
        self.moved_since_write |= std::mem::take(&mut self.wrote);
    }

    /// A transaction is over, executed or not.
    pub fn note_transaction_over(&mut self, executed: bool) {
        self.transaction = Transaction::None;
        self.watch = Watch::None;
        if let (Some(db), true) = (self.next_db.take(), executed) {
            self.db = db;
            self.revision += 1;
        }
    }

    /// `SELECT` was queued: it takes effect with the transaction.
    pub fn note_queued_select(&mut self, db: &[u8]) {
        self.next_db = Some(db.to_vec());
    }

    /// The engine has done a command that changes the session.
    pub fn note<'a>(&mut self, mut args: impl Iterator<Item = &'a [u8]>) {
        self.revision += 1;
        let name = args.next().unwrap_or_default().to_ascii_lowercase();
        match &*name {
            b"select" => self.db = args.next().unwrap_or_default().to_vec(),
            b"hello" => {
                self.version = if args.next() == Some(b"3") { 3 } else { self.version };
                let rest: Vec<&[u8]> = args.collect();
                if let [set, name, ..] = rest[..]
                    && set.eq_ignore_ascii_case(b"setname")
                {
                    self.name = name.to_vec();
                }
            }
            b"client" => {
                let what = args.next().unwrap_or_default().to_ascii_lowercase();
                self.note_client(&what, args.map(<[u8]>::to_vec).collect());
            }
            _ => {}
        }
    }

    fn note_client(&mut self, what: &[u8], mut args: Vec<Vec<u8>>) {
        let on = args.first().is_some_and(|a| a.eq_ignore_ascii_case(b"on"));
        match what {
            b"setname" => self.name = args.pop().unwrap_or_default(),
            b"no-evict" => self.no_evict = on,
            b"no-touch" => self.no_touch = on,
            b"tracking" => self.tracking = on.then_some(args),
            b"setinfo" => {
                if let [attribute, value] = &args[..] {
                    let attribute = attribute.to_ascii_lowercase();
                    self.library.retain(|(a, _)| *a != attribute);
                    self.library.push((attribute, value.clone()));
                }
            }
            _ => {}
        }
    }

    /// The commands that make another engine's connection this session, without its subscriptions.
    pub fn replay(&self, user: &[u8], password: &Password) -> (Vec<u8>, Vec<Replayed>) {
        let (mut out, mut list) = (Vec::new(), Vec::new());
        let mut add = |args: &[&[u8]], is_optional| {
            put_command(&mut out, args);
            list.push(Replayed { is_optional });
        };
        let version: &[u8] = if self.version == 3 { b"3" } else { b"2" };
        match password.expose() {
            "" if user == b"default" => add(&[b"HELLO", version], false),
            password => add(&[b"HELLO", version, b"AUTH", user, password.as_bytes()], false),
        }
        if !self.name.is_empty() {
            add(&[b"CLIENT", b"SETNAME", &self.name], false);
        }
        for (attribute, value) in &self.library {
            add(&[b"CLIENT", b"SETINFO", attribute, value], true);
        }
        if self.db != b"0" {
            add(&[b"SELECT", &self.db], false);
        }
        if self.no_evict {
            add(&[b"CLIENT", b"NO-EVICT", b"ON"], false);
        }
        if self.no_touch {
            add(&[b"CLIENT", b"NO-TOUCH", b"ON"], true);
        }
        if let Some(tracking) = &self.tracking {
            let mut args: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING"];
            args.extend(tracking.iter().map(Vec::as_slice));
            add(&args, false);
        }
        if self.monitors {
            add(&[b"MONITOR"], false);
        }
        (out, list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replayed(state: &State) -> String {
        let (bytes, list) = state.replay(b"app", &Password::new("secret"));
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches('*').count(), list.len());
        text.split("\r\n").filter(|l| !l.starts_with(['*', '$'])).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_the_engine_did_is_done_again() {
        let mut state = State::new(Some(b"app".to_vec()));
        assert_eq!(replayed(&state), "HELLO 2 AUTH app secret ");
        for noted in [
            &["hello", "3", "SETNAME", "worker"][..],
            &["SELECT", "7"],
            &["CLIENT", "SETINFO", "LIB-NAME", "old"],
            &["client", "setinfo", "lib-name", "lib"],
            &["client", "no-evict", "on"],
            &["client", "tracking", "ON", "BCAST"],
        ] {
            state.note(noted.iter().map(|a| a.as_bytes()));
        }
        assert!(state.listens());
        assert_eq!(
            replayed(&state),
            "HELLO 3 AUTH app secret CLIENT SETNAME worker CLIENT SETINFO lib-name lib SELECT 7 CLIENT NO-EVICT ON CLIENT TRACKING ON BCAST "
        );
        state.note([&b"client"[..], b"tracking", b"off"].into_iter());
        assert!(!state.listens());
    }

    #[test]
    fn a_queued_select_counts_once_executed() {
        let mut state = State::new(None);
        state.note_queued_select(b"3");
        state.note_transaction_over(false);
        assert!(!replayed(&state).contains("SELECT"));
        state.note_queued_select(b"3");
        state.note_transaction_over(true);
        assert!(replayed(&state).contains("SELECT 3"));
    }

    #[test]
    fn subscriptions_are_counted_and_come_back() {
        let mut subscriptions = Subscriptions::default();
        for name in [&b"a"[..], b"b", b"a"] {
            subscriptions.add(Topic::Channel, name);
        }
        subscriptions.add(Topic::Pattern, b"*");
        subscriptions.remove(Topic::Channel, b"b");
        subscriptions.remove(Topic::Channel, b"never");
        let (bytes, confirmations) = subscriptions.replay();
        assert_eq!(bytes, b"*2\r\n$9\r\nsubscribe\r\n$1\r\na\r\n*2\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n");
        assert_eq!(confirmations, 2);
        subscriptions.clear(Topic::Channel);
        subscriptions.clear(Topic::Pattern);
        assert!(subscriptions.is_empty());
        assert_eq!(subscriptions.bytes, 0);
    }
}
