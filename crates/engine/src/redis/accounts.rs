//! Who may log in: the driver, the topology's users, and on a primary each replica that is admitted (ADR 0019).
//!
//! Accounts are each server's own here; they do not replicate, so every start makes them.
//!
//! Guarantees: no client's account can make the server follow another, open it, or take itself for a replica, whatever
//! its rules say; a replica that is not admitted is cut and cannot come back.
//! Does not know: which replicas are to be admitted.

use super::session::{Batch, Door, Place};
use super::{Layout, RedisEngine};
use crate::files::io;
use crate::{Error, Spec, UserAccount};
use holdfast_core::NodeName;
use std::collections::BTreeSet;
use std::path::Path;

/// The driver's own account on a managed server. Nobody's name in a topology has a colon.
const DRIVER: &str = "holdfast:agent";
const SECRET_BYTES: usize = 32;

/// What no client's account may do.
const TAKEN: &str = "-replicaof -slaveof -failover -psync -sync -replconf -acl|setuser -acl|deluser -acl|load \
                     -acl|save -config|set -config|rewrite -module -debug -shutdown -client|pause -client|unpause";
/// What the account of a client that may do anything may do, too: proxies ask with it how far an engine's data goes.
const GIVEN: &str = "+role";
/// What a replica's account may do.
const REPLICA: &[&str] = &["+psync", "+replconf", "+ping"];
/// What the account may do by which a member that is not admitted compares its keys with a primary's.
const READER: &[&str] = &["+select", "+dump", "%R~*"];

/// As whom a member replicates from another.
pub(super) fn replica_name(spec: &Spec, node: &NodeName) -> String {
    format!("{}:{node}", spec.replication.user)
}

/// As whom any member compares keys.
pub(super) fn reader_name(spec: &Spec) -> String {
    format!("{}::reader", spec.replication.user)
}

/// The member whose replica's account this is.
fn member<'a>(spec: &'a Spec, account: &str) -> Option<&'a NodeName> {
    spec.addresses.keys().find(|node| replica_name(spec, node) == account)
}

/// True for the account of a member's replica.
pub(super) fn is_replica(spec: &Spec, account: &str) -> bool {
    member(spec, account).is_some()
}

/// Members that have a replica's account here.
pub(super) fn admitted<'a>(spec: &Spec, users: impl Iterator<Item = &'a str>) -> BTreeSet<NodeName> {
    users.filter_map(|user| member(spec, user).cloned()).collect()
}

/// The driver's door to a managed server, with a secret of its own for each start.
pub(super) fn managed_door(at: &Layout) -> Result<Door, Error> {
    use std::io::Read as _;
    let (mut secret, source) = ([0; SECRET_BYTES], Path::new("/dev/urandom"));
    let read = std::fs::File::open(source).and_then(|mut f| f.read_exact(&mut secret));
    read.map_err(io("drawing a secret from", source))?;
    Ok(Door { place: Place::Socket(at.socket.clone()), user: DRIVER.into(), password: hex(&secret) })
}

/// The driver's door to an attached server: its replication account must be allowed everything there.
pub(super) fn attached_door(spec: &Spec, at: &Layout) -> Door {
    Door {
        place: Place::Socket(at.socket.clone()),
        user: spec.replication.user.to_string(),
        password: spec.replication.password.clone(),
    }
}

/// The account file of a managed server.
pub(super) fn file(spec: &Spec, door: &Door) -> Result<String, Error> {
    let mut lines = vec![format!("user {} on #{} ~* &* +@all", door.user, digest(&door.password))];
    if !spec.users.iter().any(|u| u.account.user.as_str() == "default") {
        lines.push("user default off resetpass nocommands".into());
    }
    for user in &spec.users {
        let rules = rules(user)?.join(" ");
        lines.push(format!("user {} {rules}", user.account.user));
    }
    Ok(lines.iter().map(|line| format!("{line}\n")).collect())
}

/// What makes a client's account.
fn rules(user: &UserAccount) -> Result<Vec<String>, Error> {
    let name = &user.account.user;
    let mut rules = vec!["reset".to_owned(), "on".to_owned(), format!("#{}", digest(&user.account.password))];
    for rule in user.grants.iter().flat_map(|g| g.split_ascii_whitespace()) {
        if !is_rule(rule) {
            return Err(Error::BadSpec(format!(
                "{rule:?} is not a rule of {name} such as \"~shop:*\" or \"+@all\""
            )));
        }
        rules.push(rule.to_owned());
    }
    if !user.grants.is_empty() && !rules.iter().any(|rule| rule == "-role") {
        rules.push(GIVEN.to_owned());
    }
    rules.extend(TAKEN.split_ascii_whitespace().map(str::to_owned));
    Ok(rules)
}

/// Whether a word is a rule of an access list about keys, channels or commands. Passwords, and whether an account is on,
/// are no user's to say here.
pub fn is_rule(rule: &str) -> bool {
    let word = || rule.chars().all(|c| c.is_ascii_lowercase());
    let begins = rule.starts_with(['~', '%', '&', '+', '-', '(', ')']);
    !rule.chars().any(char::is_control)
        && (begins || word())
        && !matches!(rule, "" | "on" | "off" | "nopass" | "reset" | "resetpass")
}

fn digest(password: &str) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(password.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl RedisEngine {
    /// Gives an attached server the topology's users.
    pub(super) async fn set_users(&self) -> Result<(), Error> {
        let mut batch = Batch::default();
        for user in &self.spec.users {
            let rules = rules(user)?;
            let words = ["ACL", "SETUSER", user.account.user.as_str()].into_iter();
            batch = batch.and(&words.chain(rules.iter().map(String::as_str)).collect::<Vec<_>>());
        }
        self.act("making accounts", batch).await.map(|_| ())
    }

    /// See [`crate::Engine::admit`].
    pub(super) async fn admit_only(&self, nodes: &BTreeSet<NodeName>) -> Result<(), Error> {
        let users = self.act("looking for replicas' accounts", Batch::new(&["ACL", "USERS"])).await?;
        let users: Vec<String> = users.iter().flat_map(|a| a.items()).filter_map(|u| u.text()).collect();
        let there = admitted(&self.spec, users.iter().map(String::as_str));
        let secret = format!(">{}", self.spec.replication.password);
        let account = |name: &str, rules: &[&str]| {
            Batch::new(&[&["ACL", "SETUSER", name, "reset", "on", &secret], rules].concat())
        };
        let mut batch = account(&reader_name(&self.spec), READER);
        for node in nodes.difference(&there) {
            batch = batch.followed_by(&account(&replica_name(&self.spec, node), REPLICA));
        }
        for node in there.difference(nodes) {
            // Ends its connections as well.
            batch = batch.and(&["ACL", "DELUSER", &replica_name(&self.spec, node)]);
        }
        self.act("admitting replicas", batch).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Account;
    use holdfast_core::UserName;

    fn user(grants: &[&str]) -> UserAccount {
        let account = Account { user: UserName::new("app").unwrap(), password: "secret".into() };
        UserAccount { account, grants: grants.iter().map(|g| (*g).to_owned()).collect() }
    }

    #[test]
    fn rules_are_the_engines_own_words_and_no_more() {
        let made = rules(&user(&["~shop:* &*", "+@all -@dangerous", "(%R~x +get)"])).unwrap().join(" ");
        assert!(
            made.starts_with(
                "reset on #2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b ~shop:* &* +@all"
            ),
            "{made}"
        );
        assert!(made.ends_with("-client|unpause"));
        for bad in ["nopass", ">other", "#00", "!00", "<secret", "off", "reset", "a\"b", "sanitize-payload"] {
            assert!(rules(&user(&[bad])).is_err(), "{bad}");
        }
        assert!(rules(&user(&["allkeys allcommands"])).is_ok());
    }
}
