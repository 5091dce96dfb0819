//! What the text of a statement says about the session it leaves behind.
//!
//! One pass over the words outside strings, comments and quoted names. Not a parser: where it must err, it says
//! that more state was made than there is, so that a session is told of a loss rather than moved with part of its
//! state missing. What a stored routine does inside is not visible here.

/// The first word of a statement, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verb {
    /// Changes data or definitions in one statement: refused as a whole by a read-only server.
    Write,
    /// Reads.
    Select,
    With,
    Show,
    /// Runs statements that are not in this text.
    Opaque,
    /// `ROLLBACK` of the whole transaction, alone.
    Rollback,
    Set,
    Kill,
    #[default]
    Other,
}

/// What one pass over a text found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scan {
    /// Of the first statement.
    pub verb: Verb,
    /// A statement follows the first.
    pub several: bool,
    /// The first statement commits what is open, even if it then fails.
    pub commits: bool,
    /// Begins or ends a transaction, alone: outside of one, doing it again comes to the same.
    pub bounds: bool,
    pub user_variable: bool,
    pub user_lock: bool,
    pub table_lock: bool,
    pub unlock: bool,
    pub temporary_table: bool,
    pub sql_prepare: bool,
    pub handler: bool,
    pub role: bool,
    /// `SET TRANSACTION …`: holds for the next transaction only.
    pub next_transaction: bool,
    /// The client sets how its session is tracked.
    pub tracking: bool,
    /// `LOAD DATA LOCAL`.
    pub local_file: bool,
    /// The session's clock is set back to the real one.
    pub clock_reset: bool,
    /// Where a name after `COLLATE` stands in the text.
    pub collate: Option<(usize, usize)>,
    /// `KILL` of this number.
    pub kill: Option<Kill>,
}

/// A `KILL` with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    pub id: u64,
    /// Only the statement, not the connection.
    pub query: bool,
}

/// Words kept of a statement's beginning.
const WORDS: usize = 5;

#[derive(Default)]
struct Statement<'a> {
    words: [&'a [u8]; WORDS],
    count: usize,
}

impl<'a> Statement<'a> {
    fn word(&self, i: usize) -> &'a [u8] {
        self.words.get(i).copied().unwrap_or_default()
    }
    fn starts(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, w)| is(self.word(i), w))
    }
}

#[inline]
fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

fn any(word: &[u8], keywords: &[&str]) -> bool {
    keywords.iter().any(|k| is(word, k))
}

#[inline]
fn in_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80
}

impl Scan {
    /// Reads a statement's text.
    pub fn of(sql: &[u8]) -> Scan {
        let mut scan = Scan::default();
        let mut statement = Statement::default();
        let mut first = true;
        let mut at = 0;
        while let Some(b) = sql.get(at).copied() {
            match b {
                b'\'' | b'"' | b'`' => at = skip_quoted(sql, at),
                b'#' => at = skip_line(sql, at),
                b'-' if sql[at..].starts_with(b"--") && sql.get(at + 2).is_none_or(|c| *c <= b' ') => {
                    at = skip_line(sql, at);
                }
                b'/' if sql[at..].starts_with(b"/*") => at = skip_comment(sql, at),
                b';' => {
                    scan.close(&statement, first);
                    first &= statement.count == 0;
                    statement = Statement::default();
                    at += 1;
                }
                b'@' => at = scan.at_sign(sql, at),
                b if in_word(b) => {
                    let end = at + sql[at..].iter().position(|b| !in_word(*b)).unwrap_or(sql.len() - at);
                    if statement.count == 0 && !first {
                        scan.several = true;
                    }
                    scan.word(sql, at, end, &statement);
                    if let Some(slot) = statement.words.get_mut(statement.count) {
                        *slot = &sql[at..end];
                    }
                    statement.count += 1;
                    at = end;
                }
                _ => at += 1,
            }
        }
        scan.close(&statement, first);
        scan
    }

    /// `@@x` is a system variable and tracked by the server; `'u'@'h'` is an account.
    fn at_sign(&mut self, sql: &[u8], at: usize) -> usize {
        if sql.get(at + 1) == Some(&b'@') {
            return at + 2;
        }
        let account = at > 0 && (in_word(sql[at - 1]) || matches!(sql[at - 1], b'\'' | b'"' | b'`'));
        self.user_variable |= !account;
        at + 1
    }

    fn word(&mut self, sql: &[u8], at: usize, end: usize, statement: &Statement<'_>) {
        let word = &sql[at..end];
        match word.len() {
            5 if is(word, "LOCAL") && is(statement.word(0), "LOAD") => self.local_file = true,
            7 if is(word, "COLLATE") && is(statement.word(0), "SET") => self.collate = name_after(sql, end),
            8 if is(word, "GET_LOCK") => self.user_lock = true,
            9 if is(word, "TIMESTAMP") && is(statement.word(0), "SET") => {
                self.clock_reset = clock_is_reset(&sql[end..]);
            }
            14.. if word[..14].eq_ignore_ascii_case(b"session_track_") => self.tracking = true,
            _ => {}
        }
    }

    /// A statement is complete.
    fn close(&mut self, s: &Statement<'_>, first: bool) {
        let w = s.word(0);
        self.table_lock |= is(w, "LOCK")
            || is(w, "BACKUP")
            || (is(w, "FLUSH") && s.words.iter().any(|w| any(w, &["WITH", "FOR"])));
        self.unlock |= is(w, "UNLOCK");
        self.temporary_table |= is(w, "CREATE") && s.words.iter().any(|w| is(w, "TEMPORARY"));
        self.sql_prepare |= is(w, "PREPARE");
        self.handler |= is(w, "HANDLER") && !any(s.word(2), &["READ", "CLOSE"]);
        self.role |= s.starts(&["SET", "ROLE"]);
        self.next_transaction |= s.starts(&["SET", "TRANSACTION"]);
        if !first || s.count == 0 {
            return;
        }
        self.commits = any(
            w,
            &[
                "CREATE",
                "ALTER",
                "DROP",
                "TRUNCATE",
                "RENAME",
                "GRANT",
                "REVOKE",
                "LOCK",
                "BEGIN",
                "START",
                "COMMIT",
                "ANALYZE",
                "OPTIMIZE",
                "REPAIR",
                "FLUSH",
                "INSTALL",
                "UNINSTALL",
                "CALL",
                "EXECUTE",
                "XA",
            ],
        );
        self.bounds = match s.count {
            1 => any(w, &["BEGIN", "COMMIT", "ROLLBACK"]),
            2 => any(w, &["BEGIN", "COMMIT", "ROLLBACK"]) && is(s.word(1), "WORK"),
            _ => false,
        } || s.starts(&["START", "TRANSACTION"]);
        self.verb = if any(
            w,
            &[
                "INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD", "CREATE", "ALTER", "DROP", "TRUNCATE",
                "RENAME", "GRANT", "REVOKE",
            ],
        ) {
            Verb::Write
        } else if is(w, "SELECT") {
            Verb::Select
        } else if is(w, "WITH") {
            Verb::With
        } else if is(w, "SHOW") {
            Verb::Show
        } else if any(w, &["CALL", "EXECUTE", "BEGIN", "IF", "FOR", "WHILE", "LOOP", "REPEAT", "CASE"]) {
            if is(w, "BEGIN") && !is(s.word(1), "NOT") { Verb::Other } else { Verb::Opaque }
        } else if is(w, "ROLLBACK") && (s.count == 1 || (s.count == 2 && is(s.word(1), "WORK"))) {
            Verb::Rollback
        } else if is(w, "SET") {
            Verb::Set
        } else if is(w, "KILL") {
            self.kill = kill_of(s);
            Verb::Kill
        } else {
            Verb::Other
        };
    }
}

/// `KILL [HARD|SOFT] [CONNECTION|QUERY [ID]] number`.
fn kill_of(s: &Statement<'_>) -> Option<Kill> {
    let mut i = 1;
    i += usize::from(any(s.word(i), &["HARD", "SOFT"]));
    let query = is(s.word(i), "QUERY");
    i += usize::from(query || is(s.word(i), "CONNECTION"));
    // `KILL QUERY ID n` names a statement by its query id, which the proxy knows nothing about.
    let id = std::str::from_utf8(s.word(i)).ok()?.parse().ok()?;
    (s.count == i + 1).then_some(Kill { id, query })
}

/// After `SET … timestamp`: is the value DEFAULT or 0?
fn clock_is_reset(rest: &[u8]) -> bool {
    let value = rest.trim_ascii_start();
    let value = value.strip_prefix(b":").unwrap_or(value);
    let value = value.strip_prefix(b"=").unwrap_or(value).trim_ascii_start();
    let end = value.iter().position(|b| !in_word(*b) && *b != b'.').unwrap_or(value.len());
    is(&value[..end], "DEFAULT") || std::str::from_utf8(&value[..end]).is_ok_and(|v| v.parse() == Ok(0.0))
}

/// The bounds of the name, bare or quoted, that follows `at`.
fn name_after(sql: &[u8], at: usize) -> Option<(usize, usize)> {
    let start = at + sql[at..].iter().position(|b| in_word(*b))?;
    let end = start + sql[start..].iter().position(|b| !in_word(*b)).unwrap_or(sql.len() - start);
    Some((start, end))
}

fn skip_line(sql: &[u8], at: usize) -> usize {
    sql[at..].iter().position(|b| *b == b'\n').map_or(sql.len(), |n| at + n + 1)
}

/// Behind a comment; for `/*! … */` and `/*M! … */`, whose content is executed, only behind its opening.
fn skip_comment(sql: &[u8], at: usize) -> usize {
    let body = &sql[at + 2..];
    let code = if body.starts_with(b"!") {
        1
    } else if body.starts_with(b"M!") {
        2
    } else {
        return body.windows(2).position(|w| w == b"*/").map_or(sql.len(), |n| at + 2 + n + 2);
    };
    let digits = body[code..].iter().take_while(|b| b.is_ascii_digit()).count();
    at + 2 + code + digits
}

/// Behind a quoted text that opens at `at`. A doubled quote opens again at once, which comes to the same.
fn skip_quoted(sql: &[u8], at: usize) -> usize {
    let quote = sql[at];
    let mut i = at + 1;
    while let Some(b) = sql.get(i).copied() {
        i += 1;
        if b == quote {
            return i;
        }
        if b == b'\\' && quote != b'`' {
            i += 1;
        }
    }
    sql.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(sql: &str) -> Scan {
        Scan::of(sql.as_bytes())
    }

    #[test]
    fn state_is_found_where_it_is_made() {
        assert!(scan("SET @a = 1").user_variable && scan("select id into @x from t").user_variable);
        assert!(scan("select 1; select /* x */ get_lock('a', 1)").user_lock);
        assert!(scan("/*!40101 CREATE TEMPORARY TABLE t (a int) */").temporary_table);
        assert!(scan("create or replace temporary table t (a int)").temporary_table);
        assert!(scan("LOCK TABLES t WRITE").table_lock && scan("flush tables with read lock").table_lock);
        assert!(scan("prepare p from 'select 1'").sql_prepare && scan("handler t open").handler);
        assert!(scan("set role admin").role && scan("SET session_track_schema=0").tracking);
    }

    #[test]
    fn state_is_not_seen_where_there_is_none() {
        for sql in [
            "INSERT INTO u VALUES ('a@b.c', \"x\\\"@y\", 'it''s @z')",
            "GRANT ALL ON d.* TO 'a'@'%'",
            "CREATE DEFINER=`root`@`localhost` VIEW v AS SELECT 1",
            "SELECT @@session.autocommit -- @x",
            "SELECT 1 # get_lock('a', 1)",
            "SELECT 'get_lock', `lock` FROM t /* LOCK TABLES @x */",
        ] {
            let s = scan(sql);
            assert!(!s.user_variable && !s.user_lock && !s.table_lock && !s.several, "{sql}: {s:?}");
        }
    }

    #[test]
    fn verbs() {
        assert_eq!(scan("  insert into t values (1)").verb, Verb::Write);
        assert_eq!(scan("(select 1)").verb, Verb::Select);
        assert_eq!(scan("/* hint */ call p()").verb, Verb::Opaque);
        assert_eq!(scan("begin").verb, Verb::Other);
        assert_eq!(scan("begin not atomic select 1; end").verb, Verb::Opaque);
        assert_eq!(scan("rollback work ;").verb, Verb::Rollback);
        assert_eq!(scan("rollback to savepoint a").verb, Verb::Other);
        assert!(scan("select 1; select 2").several && !scan("select 1; -- done").several);
        assert!(scan("load data local infile 'x' into table t").local_file);
        assert!(
            scan("begin").bounds && scan("start transaction read only").bounds && scan("commit work;").bounds
        );
        assert!(!scan("begin not atomic select 1; end").bounds && !scan("commit and chain").bounds);
        assert!(scan("alter table t add b int").commits && !scan("update t set a=1").commits);
    }

    #[test]
    fn kills() {
        assert_eq!(scan("KILL 5").kill, Some(Kill { id: 5, query: false }));
        assert_eq!(scan("kill query 3000000000").kill, Some(Kill { id: 3_000_000_000, query: true }));
        assert_eq!(scan("kill hard connection 7;").kill, Some(Kill { id: 7, query: false }));
        assert_eq!(scan("kill query id 7").kill, None);
        assert_eq!(scan("kill user bob").kill, None);
    }

    #[test]
    fn names_and_clocks() {
        let sql = "SET NAMES utf8mb4 COLLATE 'utf8mb4_bin'";
        let (from, to) = scan(sql).collate.unwrap();
        assert_eq!(&sql[from..to], "utf8mb4_bin");
        assert!(scan("set timestamp=default").clock_reset && scan("SET @@timestamp := 0").clock_reset);
        assert!(!scan("set timestamp=12").clock_reset);
    }

    proptest! {
        #[test]
        fn any_bytes_are_scanned(bytes: Vec<u8>, text in "[@'\"`;/*!#\\- a-z0-9]{0,60}") {
            Scan::of(&bytes);
            Scan::of(text.as_bytes());
        }
    }
}
