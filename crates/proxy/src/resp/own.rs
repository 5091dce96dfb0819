//! Commands that are handled by themselves: answered here, or sent as something else.

use crate::resp::batch::Kind;
use crate::resp::errors::{self, ClientError};
use crate::resp::plan::Own;
use crate::resp::session::{End, Session, user_at_first};
use crate::resp::state::{Transaction, Watch};
use crate::resp::table::{self, Special, Topic};
use crate::shared::{Shared, count};
use holdfast_wire::resp::command::Args;
use holdfast_wire::resp::put_command;

/// Bytes of one session's subscriptions.
const SUBSCRIPTIONS_BYTES_MAX: usize = 1 << 20;
/// So much of them does not come out of the proxy's budget.
const SUBSCRIPTIONS_FREE_BYTES: usize = 4 << 10;

/// True if the password is the user's. One without a password may give any, as at an engine.
fn prove(shared: &Shared, user: &[u8], password: &[u8]) -> bool {
    let Some(user) = shared.users.get(user) else { return false };
    let known = user.password.expose().as_bytes();
    // As long for a wrong guess as for a right one.
    let differs =
        known.iter().zip(password).fold(known.len() ^ password.len(), |d, (a, b)| d | usize::from(a ^ b));
    known.is_empty() || differs == 0
}

impl Session {
    /// The command that the scanner has just gone through.
    pub async fn handle(&mut self, own: Own) -> Result<(), End> {
        match own {
            Own::Special(special) => return self.special(special).await,
            Own::TransactionLost => self.after_loss(),
            Own::WatchLost => {
                // The connection that has the transaction goes, and the transaction with it.
                self.leave();
                self.state.transaction = Transaction::None;
                self.state.watch = Watch::None;
                self.outbox.extend(if self.state.version == 3 { b"_\r\n" } else { b"*-1\r\n" });
            }
            own => {
                let error = self.error_of(own, false);
                self.say(&error);
            }
        }
        self.take_own();
        Ok(())
    }

    /// What the client is told; a transaction under way does not survive it.
    pub fn error_of(&mut self, own: Own, is_long: bool) -> ClientError {
        let name = self.scanner.name();
        let known = self.inbox.bytes().get(name).unwrap_or_default();
        let group = &self.shared.group;
        let error = match own {
            Own::NoAuth => return errors::no_auth(),
            Own::Unknown => {
                count(&self.shared.counters.errors_outcome_unknown);
                errors::outcome_unknown(group)
            }
            Own::Refused(why) => errors::refused(known, why),
            Own::NotWhileSubscribed => errors::not_while_subscribed(known),
            Own::NotInTransaction => errors::not_in_transaction(known),
            Own::ReadPort => errors::read_port(),
            Own::TransactionLost | Own::WatchLost => errors::transaction_lost(group),
            Own::Special(_) => errors::refused(known, if is_long { "it is too long" } else { "not now" }),
        };
        self.spoil();
        error
    }

    /// A transaction of which a command was not queued must not be executed.
    pub fn spoil(&mut self) {
        if self.state.transaction == Transaction::Open {
            self.leave();
        }
    }

    /// The transaction is gone, and the client has yet to end it.
    fn after_loss(&mut self) {
        let name = self.inbox.bytes()[self.scanner.name()].to_ascii_lowercase();
        let ends = matches!(&*name, b"exec" | b"discard");
        if ends {
            self.state.transaction = Transaction::None;
            self.state.watch = Watch::None;
        }
        if name == b"discard" {
            return self.outbox.extend(b"+OK\r\n");
        }
        if ends {
            count(&self.shared.counters.errors_transaction_lost);
        }
        let error = errors::transaction_lost(&self.shared.group);
        self.say(&error);
    }

    fn own_args(&self) -> Vec<Vec<u8>> {
        Args::of(&self.inbox.bytes()[..self.scanned]).map(<[u8]>::to_vec).collect()
    }

    fn answer(&mut self, error: &ClientError) {
        self.say(error);
        self.take_own();
    }

    fn answer_ok(&mut self) {
        self.outbox.extend(b"+OK\r\n");
        self.take_own();
    }

    /// The command goes to the engine after all, alone.
    async fn send_alone(&mut self, kind: Kind) -> Result<(), End> {
        self.batch.push(self.scanned, kind);
        self.run_batch().await
    }

    async fn special(&mut self, special: Special) -> Result<(), End> {
        match special {
            Special::Quit => {
                self.outbox.extend(b"+OK\r\n");
                return Err(End::Told);
            }
            Special::Reset => {
                self.leave();
                self.state.reset(user_at_first(&self.shared));
                self.outbox.extend(b"+RESET\r\n");
                self.take_own();
            }
            Special::Auth => self.auth(),
            Special::Hello => return self.hello().await,
            Special::Subscribe(_) => return self.subscribe().await,
            Special::Unsubscribe(topic) => return self.unsubscribe(topic).await,
            Special::Monitor => return self.send_alone(Kind::Monitor).await,
            Special::Wait if self.state.moved_since_write => {
                let error = errors::moved_since(&self.shared.group);
                self.answer(&error);
            }
            Special::Wait => return self.send_alone(Kind::Plain).await,
            Special::ConfigSet => {
                let args = self.own_args();
                match args.iter().skip(2).step_by(2).find(|setting| table::is_ours(setting)) {
                    Some(setting) => {
                        let why = format!(
                            "{} is set by Holdfast, from the topology file",
                            String::from_utf8_lossy(&setting[..setting.len().min(64)])
                        );
                        self.answer(&errors::refused(b"CONFIG SET", why));
                    }
                    None => return self.send_alone(Kind::Plain).await,
                }
            }
            Special::Tracking => return self.tracking().await,
            Special::ClientReply => {
                let args = self.own_args();
                match args.get(2).map(|a| a.to_ascii_lowercase()).as_deref() {
                    Some(b"on") => self.answer_ok(),
                    _ => self.answer(&errors::refused(
                        b"CLIENT REPLY",
                        "it counts on every command having its reply",
                    )),
                }
            }
        }
        Ok(())
    }

    /// The client is now this user; its connection to the engine was another's.
    fn become_user(&mut self, user: &[u8]) {
        if self.state.user.as_deref() != Some(user) {
            self.leave();
            self.state.user = Some(user.to_vec());
            self.state.revision += 1;
            if let Some(reads) = &mut self.reads {
                reads.note_user();
            }
        }
    }

    fn auth(&mut self) {
        let args = self.own_args();
        let (user, password) = match &args[1..] {
            [password] => (&b"default"[..], password),
            [user, password] => (&**user, password),
            _ => return self.answer(&errors::arguments("auth")),
        };
        if !prove(&self.shared, user, password) {
            count(&self.shared.counters.errors_login);
            return self.answer(&errors::wrong_pass());
        }
        self.become_user(user);
        self.answer_ok();
    }

    /// The engine answers; the password is not its to check.
    async fn hello(&mut self) -> Result<(), End> {
        let args = self.own_args();
        let mut rest = args.iter().skip(2);
        let mut name = None;
        match args.get(1).map(Vec::as_slice) {
            None | Some(b"2" | b"3") => {}
            Some(_) => {
                self.answer(&errors::no_proto());
                return Ok(());
            }
        }
        while let Some(option) = rest.next() {
            match &*option.to_ascii_lowercase() {
                b"auth" if rest.len() >= 2 => {
                    let (user, password) = (rest.next(), rest.next());
                    let (user, password) = (user.map_or(&[][..], |u| u), password.map_or(&[][..], |p| p));
                    if !prove(&self.shared, user, password) {
                        count(&self.shared.counters.errors_login);
                        self.answer(&errors::wrong_pass());
                        return Ok(());
                    }
                    self.become_user(user);
                }
                b"setname" if rest.len() >= 1 => name = rest.next(),
                _ => {
                    self.answer(&errors::syntax("HELLO option"));
                    return Ok(());
                }
            }
        }
        if self.state.user.is_none() {
            self.answer(&errors::hello_no_auth());
            return Ok(());
        }
        let mut hello: Vec<&[u8]> = vec![b"HELLO"];
        hello.extend(args.get(1).map(Vec::as_slice));
        if let Some(name) = name {
            hello.extend([&b"SETNAME"[..], name]);
        }
        let mut bytes = Vec::new();
        put_command(&mut bytes, &hello);
        self.inbox.splice(0..self.scanned, &bytes);
        self.scanned = bytes.len();
        self.send_alone(Kind::Noted).await
    }

    async fn tracking(&mut self) -> Result<(), End> {
        let args = self.own_args();
        let redirects = args.iter().skip(2).any(|a| a.eq_ignore_ascii_case(b"redirect"));
        let on = args.get(2).is_some_and(|a| a.eq_ignore_ascii_case(b"on"));
        if redirects {
            self.answer(&errors::refused(
                b"CLIENT TRACKING",
                "REDIRECT names another connection, which a failover may move elsewhere; use RESP3 without it",
            ));
            return Ok(());
        }
        if on && self.state.version == 2 {
            self.answer(&errors::refused(b"CLIENT TRACKING", "it needs RESP3 (HELLO 3)"));
            return Ok(());
        }
        self.send_alone(Kind::Noted).await
    }

    async fn subscribe(&mut self) -> Result<(), End> {
        let names = Args::of(&self.inbox.bytes()[..self.scanned]).skip(1);
        let count = names.clone().count();
        let bytes = self.state.subscriptions.bytes_with(names);
        let too_many = bytes > SUBSCRIPTIONS_BYTES_MAX || {
            let kept = &mut self.state.subscriptions.kept;
            bytes > SUBSCRIPTIONS_FREE_BYTES
                && !match kept {
                    Some(kept) => kept.grow_to(bytes),
                    none => {
                        *none = self.shared.keep(bytes);
                        none.is_some()
                    }
                }
        };
        if too_many {
            self.answer(&errors::too_long(
                "too many subscriptions on this connection, or on all of them; open another one",
            ));
            return Ok(());
        }
        self.batch.confirmations = count;
        // Without a name it is a mistake, which the engine answers once.
        let kind = if count == 0 { Kind::Plain } else { Kind::Subscribe };
        self.send_alone(kind).await
    }

    async fn unsubscribe(&mut self, topic: Topic) -> Result<(), End> {
        let names = Args::of(&self.inbox.bytes()[..self.scanned]).skip(1).count();
        self.batch.clears = names == 0;
        self.batch.confirmations =
            if names > 0 { names } else { self.state.subscriptions.count(topic).max(1) };
        self.send_alone(Kind::Subscribe).await
    }
}
