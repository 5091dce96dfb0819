//! The grants of a user: `PRIVILEGES ON object [WITH GRANT OPTION]`. They become part of an SQL statement, so
//! anything that could end or comment it is refused; a privilege that is only unknown gets a warning, because
//! servers learn new ones.

use super::report::{Finding, Findings, nearest, quoted};
use super::shape::At;

/// Static privileges of MariaDB 10.11.
const PRIVILEGES: [&str; 45] = [
    "ALL",
    "ALL PRIVILEGES",
    "ALTER",
    "ALTER ROUTINE",
    "BINLOG ADMIN",
    "BINLOG MONITOR",
    "BINLOG REPLAY",
    "CONNECTION ADMIN",
    "CREATE",
    "CREATE ROUTINE",
    "CREATE TABLESPACE",
    "CREATE TEMPORARY TABLES",
    "CREATE USER",
    "CREATE VIEW",
    "DELETE",
    "DELETE HISTORY",
    "DROP",
    "EVENT",
    "EXECUTE",
    "FEDERATED ADMIN",
    "FILE",
    "GRANT OPTION",
    "INDEX",
    "INSERT",
    "LOCK TABLES",
    "PROCESS",
    "READ_ONLY ADMIN",
    "REFERENCES",
    "RELOAD",
    "REPLICATION CLIENT",
    "REPLICATION MASTER ADMIN",
    "REPLICATION REPLICA",
    "REPLICATION SLAVE",
    "REPLICATION SLAVE ADMIN",
    "SELECT",
    "SET USER",
    "SHOW DATABASES",
    "SHOW VIEW",
    "SHUTDOWN",
    "SLAVE MONITOR",
    "SUPER",
    "TRIGGER",
    "UPDATE",
    "USAGE",
    "REPLICA MONITOR",
];

const HINT: &str =
    "write it as in SQL, without the user: `SELECT, INSERT ON shop.*` or `ALL PRIVILEGES ON shop.*`";

pub(super) fn check(grant: &At<String>, out: &mut Findings) {
    let privileges = match parse(&grant.value) {
        Ok(privileges) => privileges,
        Err(why) => {
            let message = format!("{} is not a grant", quoted(&grant.value));
            out.push(Finding::error("bad-grant", message).at(&grant.span, why).hint(HINT));
            return;
        }
    };
    for privilege in &privileges.names {
        if !PRIVILEGES.contains(&privilege.as_str()) {
            let finding =
                Finding::warning("unknown-privilege", format!("unknown privilege {}", quoted(privilege)))
                    .at(&grant.span, "the server may refuse this");
            out.push(match nearest(privilege, PRIVILEGES) {
                Some(near) => finding.hint(format!("did you mean `{near}`?")),
                None => finding,
            });
        }
    }
    let passes_read_only =
        |p: &String| matches!(p.as_str(), "ALL" | "ALL PRIVILEGES" | "SUPER" | "READ_ONLY ADMIN");
    if privileges.everywhere && privileges.names.iter().any(passes_read_only) {
        out.push(
            Finding::warning("passes-read-only", "this user can write to a read-only server")
                .at(&grant.span, "includes READ_ONLY ADMIN or SUPER")
                .hint(
                    "a replica changed by accident must be recloned: grant what the application needs on its own \
                     databases",
                ),
        );
    }
}

/// The one database that a grant is about, as SQL would name it without quotes; `None` for all, or a pattern.
pub fn database(grant: &str) -> Option<String> {
    parse(grant).ok()?;
    let mut words = grant.split_ascii_whitespace().skip_while(|w| !w.eq_ignore_ascii_case("ON")).skip(1);
    let (database, _) = words.next()?.split_once('.')?;
    let bare = database.trim_matches('`').replace("\\_", "_");
    (!bare.contains(['*', '%', '\\'])).then_some(bare)
}

/// Rules of an access list, separated by blanks: `~shop:* +@all -@dangerous`.
pub(super) fn check_rules(grant: &At<String>, out: &mut Findings) {
    let wrong = |rule: &&str| !holdfast_engine::redis::is_rule(rule);
    if let Some(rule) = grant.value.split_ascii_whitespace().find(wrong) {
        out.push(
            Finding::error("bad-grant", format!("{} is not a rule of an access list", quoted(rule)))
                .at(&grant.span, "not a rule")
                .hint("write keys, channels and commands: `~shop:* &* +@all -@dangerous`; the password is given elsewhere"),
        );
    }
}

struct Parsed {
    /// Upper case, single spaces.
    names: Vec<String>,
    /// On `*.*`.
    everywhere: bool,
}

fn parse(grant: &str) -> Result<Parsed, &'static str> {
    let words: Vec<&str> = grant.split_ascii_whitespace().collect();
    let is = |word: &str, keyword: &str| word.eq_ignore_ascii_case(keyword);
    let on = words.iter().position(|w| is(w, "ON")).ok_or("has no `ON`")?;
    let (privileges, rest) = (&words[..on], &words[on + 1..]);
    match rest {
        [_] => {}
        [_, w, g, o] if is(w, "WITH") && is(g, "GRANT") && is(o, "OPTION") => {}
        [] => return Err("has nothing after `ON`"),
        [_, to, ..] if is(to, "TO") => return Err("names the user, which Holdfast adds itself"),
        _ => return Err("only `WITH GRANT OPTION` may follow the object"),
    }
    let object = rest.first().ok_or("has nothing after `ON`")?;
    let (database, table) = object.split_once('.').ok_or("the object is `database.table` or `database.*`")?;
    if !(identifier(database) || database == "*") || !(identifier(table) || table == "*") {
        return Err("the object is `database.table` or `database.*`");
    }
    if database == "*" && table != "*" {
        return Err("the object is `database.table` or `database.*`");
    }
    let mut names = Vec::new();
    for name in privileges.join(" ").split(',') {
        // Column lists stay out of the comparison with known privileges.
        let name = name.trim();
        if name.is_empty() {
            return Err("a privilege is missing before `ON`");
        }
        if !name.chars().all(|c| c.is_ascii_alphabetic() || c == ' ' || c == '_') {
            return Err("a privilege consists of letters; grants on columns are not supported here");
        }
        names.push(name.to_ascii_uppercase());
    }
    Ok(Parsed { names, everywhere: database == "*" })
}

/// A bare identifier (with the wildcards `%` that MariaDB allows in a database), or one in backquotes without any
/// inside.
fn identifier(text: &str) -> bool {
    match text.strip_prefix('`').and_then(|t| t.strip_suffix('`')) {
        Some(inner) => {
            !inner.is_empty() && inner.chars().all(|c| c.is_alphanumeric() || "_$%- \\".contains(c))
        }
        None => !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_$%".contains(c)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_may_name_one_database() {
        assert_eq!(database("ALL PRIVILEGES ON shop.*").as_deref(), Some("shop"));
        assert_eq!(database("select on `my\\_shop`.orders with grant option").as_deref(), Some("my_shop"));
        for none in ["SELECT ON *.*", "ALL ON `shop%`.*", "ALL ON shop"] {
            assert_eq!(database(none), None, "{none}");
        }
    }

    #[test]
    fn grants_have_one_shape() {
        for good in [
            "ALL PRIVILEGES ON shop.*",
            "select, insert on shop.orders",
            "SELECT ON *.* WITH GRANT OPTION",
            "USAGE ON `my-shop`.*",
            "LOCK TABLES,SELECT ON shop\u{2003}.*",
        ] {
            let fits = parse(good).is_ok();
            assert_eq!(fits, !good.contains('\u{2003}'), "{good}");
        }
        for bad in [
            "",
            "ALL",
            "ON shop.*",
            "ALL ON",
            "ALL ON shop",
            "ALL ON *.orders",
            "ALL ON shop.* TO app",
            "ALL ON shop.*; DROP DATABASE shop",
            "ALL ON shop.*;DROP",
            "ALL ON shop.* -- x",
            "SELECT (a) ON shop.orders",
            "SELECT,,INSERT ON shop.*",
            "ALL ON `a``b`.*",
            "ALL ON 'a'.*",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
