//! Which statements are plain reads: they change nothing and any server with the same data answers them alike.
//!
//! Guarantees: errs on one side only. A text is a plain read if every token of it is on a list; what is on no list (a
//! function that neither engine brings along, a variable, a hint …) makes it anything else.
//!
//! The decision is made over the tokens of a tokenizer crate, which costs microseconds. So it is made once per *shape*:
//! the text without its comments, the contents of its strings and the digits of its numbers. Making the shape stops at
//! everything about which lexers, SQL modes or character sets could disagree (a backslash, a version comment, a dollar
//! sign, text beyond ASCII outside strings), so that the tokenizer and the server see the same tokens.
//! Not visible here: what a view does inside; readers' transactions are read-only for that reason.

use sqlparser::dialect::MySqlDialect;
use sqlparser::tokenizer::{Token, Tokenizer, Whitespace, Word};
use std::cell::RefCell;
use std::collections::HashMap;

/// What a statement is, as far as it matters where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// See the file's contract.
    Read,
    /// A plain read about the statement before it (its warnings, its number of rows): where that one went.
    OfLast,
    /// Sets variables of the session, or its schema, to constants: doing it again comes to the same.
    Setting,
    #[default]
    Other,
}

/// Bytes of a shape; a text that comes to more is taken for anything.
const SHAPE_BYTES_MAX: usize = 16 << 10;
/// What one thread remembers.
const CACHE_BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
struct Cache {
    known: HashMap<Box<[u8]>, Kind>,
    bytes: usize,
    shape: Vec<u8>,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// Reads a statement's text.
pub fn kind(sql: &[u8]) -> Kind {
    CACHE.with_borrow_mut(|cache| {
        if !shape(sql, &mut cache.shape) {
            return Kind::Other;
        }
        if let Some(kind) = cache.known.get(&*cache.shape) {
            return *kind;
        }
        let kind = std::str::from_utf8(&cache.shape).map_or(Kind::Other, judge);
        if cache.bytes + cache.shape.len() > CACHE_BYTES_MAX {
            cache.known.clear();
            cache.bytes = 0;
        }
        cache.bytes += cache.shape.len();
        cache.known.insert(cache.shape.as_slice().into(), kind);
        kind
    })
}

/// Writes the shape of `sql`; false if it has something that lexers could read in two ways.
fn shape(sql: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    // Behind the last literal: one that follows in a list adds nothing.
    let mut literal_end = usize::MAX;
    let mut at = 0;
    while let Some(b) = sql.get(at).copied() {
        if out.len() > SHAPE_BYTES_MAX {
            return false;
        }
        let rest = &sql[at..];
        let len = match b {
            b'a'..=b'z' | b'_' => {
                out.push(b);
                1
            }
            b'A'..=b'Z' => {
                out.push(b.to_ascii_lowercase());
                1
            }
            b' ' | b'\t' | b'\n' | b'\r' => space(out, 1),
            b'0'..=b'9' => number(rest, out, &mut literal_end),
            b'\'' => match string(rest) {
                Some(len) => literal(b"''", len, out, &mut literal_end),
                None => return false,
            },
            b'"' | b'`' => match quoted(rest) {
                Some(len) => {
                    out.extend_from_slice(&rest[..len]);
                    len
                }
                None => return false,
            },
            b'#' => match line_comment(rest, 1) {
                Some(len) => space(out, len),
                None => return false,
            },
            b'-' if rest.get(1) == Some(&b'-') => match (rest.get(2), line_comment(rest, 2)) {
                (Some(b' ' | b'\t' | b'\n'), Some(len)) => space(out, len),
                _ => return false,
            },
            b'/' if rest.get(1) == Some(&b'*') => match comment(rest) {
                Some(len) => space(out, len),
                None => return false,
            },
            b'*' if rest.get(1) == Some(&b'/') => return false,
            b'(' | b')' | b',' | b'.' | b';' | b'?' | b'=' | b'<' | b'>' | b'!' | b'+' | b'-' | b'*'
            | b'/' | b'%' | b'&' | b'|' | b'^' | b'~' => {
                out.push(b);
                1
            }
            _ => return false,
        };
        at += len;
    }
    true
}

/// One space stands for any run of space and comments.
fn space(out: &mut Vec<u8>, len: usize) -> usize {
    if out.last() != Some(&b' ') {
        out.push(b' ');
    }
    len
}

/// A literal of `len` bytes, which stands as `as_`; behind another one, or that and a comma, it is left out.
fn literal(as_: &[u8], len: usize, out: &mut Vec<u8>, literal_end: &mut usize) -> usize {
    match out.get(*literal_end..) {
        Some(b"" | b"," | b", " | b" ," | b" , ") => out.truncate(*literal_end),
        _ => out.extend_from_slice(as_),
    }
    *literal_end = out.len();
    len
}

/// Digits: a number's stand as one, those of a name as they are.
fn number(rest: &[u8], out: &mut Vec<u8>, literal_end: &mut usize) -> usize {
    let in_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.') || *b >= 0x80;
    let digits = |from: usize| rest[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let whole = digits(0);
    let fraction = if rest.get(whole) == Some(&b'.') { digits(whole + 1) } else { 0 };
    let len = if fraction > 0 { whole + 1 + fraction } else { whole };
    if !out.last().is_some_and(in_word) && !rest.get(len).is_some_and(in_word) {
        return literal(b"0", len, out, literal_end);
    }
    out.extend_from_slice(&rest[..whole]);
    whole
}

/// The length of a string in single quotes. A doubled quote begins the next one, which comes to the same. No character
/// set that a client can use has a quote as the second byte of a character.
fn string(rest: &[u8]) -> Option<usize> {
    let len = 2 + rest[1..].iter().position(|b| *b == b'\'')?;
    let plain = |b: &u8| match b {
        b'\\' | 0x7F => false,
        b'\t' | b'\n' | b'\r' => true,
        0..0x20 => false,
        _ => true,
    };
    rest[1..len - 1].iter().all(plain).then_some(len)
}

/// The length of what may be a name in quotes. It stands in the shape as it is.
fn quoted(rest: &[u8]) -> Option<usize> {
    let len = 2 + rest[1..].iter().position(|b| *b == rest[0])?;
    rest[1..len - 1].iter().all(|b| matches!(b, b' '..=b'~') && *b != b'\\').then_some(len)
}

/// The length of a comment to the end of the line, which begins behind `from`; the line's end is not part of it.
fn line_comment(rest: &[u8], from: usize) -> Option<usize> {
    let len = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    rest[from.min(len)..len].iter().all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7F)).then_some(len)
}

/// The length of a comment that is one to every server: not a hint, not for a version, none within.
fn comment(rest: &[u8]) -> Option<usize> {
    let body = &rest[2..];
    let end = body.windows(2).position(|w| w == b"*/")?;
    let body = &body[..end];
    let acts = matches!(body.first(), Some(b'!' | b'+')) || body.starts_with(b"M!");
    let nests = body.windows(2).any(|w| w == b"/*") || body.last() == Some(&b'/');
    (!acts && !nests && !body.contains(&0)).then_some(2 + end + 2)
}

/// A token and whether space stands before it.
struct Spaced {
    token: Token,
    space: bool,
}

/// Judges a shape.
fn judge(shape: &str) -> Kind {
    let Ok(tokens) = Tokenizer::new(&MySqlDialect {}, shape).with_unescape(false).tokenize() else {
        return Kind::Other;
    };
    let mut space = false;
    let mut spaced = Vec::with_capacity(tokens.len());
    for token in tokens {
        match token {
            Token::Whitespace(Whitespace::Space) => space = true,
            token => spaced.push(Spaced { token, space: std::mem::take(&mut space) }),
        }
    }
    if spaced.last().is_some_and(|last| last.token == Token::SemiColon) {
        spaced.pop();
    }
    let first = spaced.iter().find_map(|s| match &s.token {
        Token::LParen => None,
        Token::Word(word) => Some(plain_word(word).unwrap_or_default()),
        _ => Some(""),
    });
    match first {
        Some("select" | "with") => judge_query(&spaced),
        Some("show") if shows_diagnostics(&spaced) => Kind::OfLast,
        Some("set" | "use") if is_setting(&spaced) => Kind::Setting,
        _ => Kind::Other,
    }
}

/// `SHOW [COUNT(*)] {WARNINGS | ERRORS} [LIMIT …]`.
fn shows_diagnostics(tokens: &[Spaced]) -> bool {
    let words: Vec<&str> = tokens
        .iter()
        .map(|s| match &s.token {
            Token::Word(word) => plain_word(word).unwrap_or_default(),
            Token::LParen => "(",
            Token::RParen => ")",
            Token::Mul => "*",
            Token::Comma => ",",
            Token::Number(..) => "0",
            _ => "",
        })
        .collect();
    let rest = match &words[..] {
        ["show", "warnings" | "errors", rest @ ..] => rest,
        ["show", "count", "(", "*", ")", "warnings" | "errors"] => return true,
        _ => return false,
    };
    matches!(rest, [] | ["limit", "0"] | ["limit", "0", ",", "0"])
}

/// `SET [SESSION] name = constant, …`, `SET NAMES …`, `USE schema`.
fn is_setting(tokens: &[Spaced]) -> bool {
    tokens.iter().all(|s| match &s.token {
        Token::Word(word) => {
            plain_word(word).map_or(word.quote_style == Some('`'), |w| !is_listed(NO_SETTING, w))
        }
        Token::Comma | Token::Eq | Token::Minus | Token::Plus => true,
        Token::Number(..) | Token::SingleQuotedString(_) | Token::DoubleQuotedString(_) => true,
        _ => false,
    })
}

/// Words of a SET that reach beyond the session, hold for the next transaction only, or change accounts.
const NO_SETTING: &str = "for global password persist persist_only resource role statement";

/// A word that is no quoted name: lower case letters, digits and `_`, as the shape leaves them.
fn plain_word(word: &Word) -> Option<&str> {
    let plain = word.quote_style.is_none()
        && word.value.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    plain.then_some(&word.value)
}

fn judge_query(tokens: &[Spaced]) -> Kind {
    let mut of_last = false;
    for (i, Spaced { token, space }) in tokens.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| &tokens[i].token);
        let after = tokens.get(i + 1);
        let calls = after.is_some_and(|a| a.token == Token::LParen);
        let fine = match token {
            Token::Word(word) => match plain_word(word) {
                Some(name) => {
                    let qualified = before == Some(&Token::Period);
                    let call = calls.then(|| !after.is_some_and(|a| a.space));
                    of_last |= call == Some(true) && OF_LAST.contains(&name);
                    stands_alone(before, *space) && word_is_fine(name, qualified, call, after)
                }
                None => word.quote_style == Some('`') && !calls,
            },
            Token::DoubleQuotedString(_) => !calls,
            Token::Period => !before.is_some_and(names_system_schema),
            Token::Number(..) | Token::HexStringLiteral(_) | Token::SingleQuotedByteStringLiteral(_) => {
                stands_alone(before, *space)
            }
            Token::Placeholder(mark) => mark == "?" && stands_alone(before, *space),
            Token::SingleQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::Comma
            | Token::LParen
            | Token::RParen
            | Token::Eq
            | Token::Neq
            | Token::Lt
            | Token::Gt
            | Token::LtEq
            | Token::GtEq
            | Token::Spaceship
            | Token::Plus
            | Token::Minus
            | Token::Mul
            | Token::Div
            | Token::Mod
            | Token::Ampersand
            | Token::Pipe
            | Token::Caret
            | Token::Tilde
            | Token::ExclamationMark
            | Token::ShiftLeft
            | Token::ShiftRight
            | Token::Arrow
            | Token::LongArrow
            | Token::StringConcat => true,
            _ => false,
        };
        if !fine {
            return Kind::Other;
        }
    }
    if of_last { Kind::OfLast } else { Kind::Read }
}

/// A word or number that follows another token without space could be one with it to the server.
fn stands_alone(before: Option<&Token>, space: bool) -> bool {
    space
        || !matches!(
            before,
            Some(
                Token::Word(_)
                    | Token::Number(..)
                    | Token::HexStringLiteral(_)
                    | Token::SingleQuotedString(_)
                    | Token::NationalStringLiteral(_)
                    | Token::SingleQuotedByteStringLiteral(_)
                    | Token::DoubleQuotedString(_)
                    | Token::Placeholder(_)
            )
        )
}

/// `call`: a parenthesis follows, and directly.
fn word_is_fine(name: &str, qualified: bool, call: Option<bool>, after: Option<&Spaced>) -> bool {
    match call {
        // A function of a schema is a stored one.
        Some(_) if qualified => false,
        // With a space between, a name is a stored function's under most SQL modes.
        Some(direct) => {
            is_listed(BEFORE_PARENTHESIS, name)
                || (direct && (is_listed(FUNCTIONS, name) || OF_LAST.contains(&name)))
        }
        None if name == "for" => after.is_some_and(|a| match &a.token {
            // Index hints and history; else it locks, or takes a sequence's next value.
            Token::Word(w) => matches!(&*w.value, "system_time" | "join" | "order" | "group"),
            _ => false,
        }),
        None => !is_listed(REFUSED, name),
    }
}

fn names_system_schema(token: &Token) -> bool {
    let name = match token {
        Token::Word(word) => &word.value,
        Token::DoubleQuotedString(name) => name,
        _ => return false,
    };
    is_system_schema(name.as_bytes())
}

/// Schemas that tell about a server rather than hold data.
pub fn is_system_schema(name: &[u8]) -> bool {
    ["information_schema", "performance_schema", "mysql", "sys"]
        .iter()
        .any(|s| name.eq_ignore_ascii_case(s.as_bytes()))
}

/// Functions about the statement before.
const OF_LAST: [&str; 2] = ["found_rows", "row_count"];

/// Words that make something else of a query: it writes, locks, or is about this session.
const REFUSED: &str = "call current_role current_user currval delete dumpfile insert into lock nextval outfile procedure \
     replace session_user sql_calc_found_rows update";

/// Words that neither engine takes for a stored function's name when a parenthesis follows.
const BEFORE_PARENTHESIS: &str = "against all and any as between binary by case char datetime decimal distinct div else \
     except exists from having in index intersect interval join key like match not on or over partition regexp rlike \
     select some then union using when where xor";

/// Functions that both engines bring along, whose answer depends on their arguments, the data, the clock and the
/// session's variables, and that do nothing else. Only texts of a new shape are compared with it.
const FUNCTIONS: &str = include_str!("functions.txt");

fn is_listed(list: &str, name: &str) -> bool {
    list.split_ascii_whitespace().any(|word| word == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind(sql: &str) -> Kind {
        super::kind(sql.as_bytes())
    }

    #[test]
    fn lists_are_in_order() {
        assert!(
            FUNCTIONS.split_ascii_whitespace().is_sorted()
                && BEFORE_PARENTHESIS.split_ascii_whitespace().is_sorted()
                && REFUSED.split_ascii_whitespace().is_sorted()
        );
    }

    #[test]
    fn plain_reads() {
        for sql in [
            "SELECT c FROM sbtest1 WHERE id=12345",
            "select distinct c from `sbtest1` where id between ? and ? order by c limit 10, 5;",
            "(SELECT 1) UNION ALL (SELECT 2) ORDER BY 1",
            "WITH x AS (SELECT 1 AS a) SELECT * FROM x",
            "SELECT COUNT(*), SUM(k), IF(a > 1.5e3, 'it''s', NULL) FROM t GROUP BY b HAVING MAX(c) IN (1,2,3)",
            "SELECT a FROM d.t AS x WHERE x.email = 'somebody@example.com#$ {}' -- name: GetUser :one",
            "/* app:shop,trace:4711 */ SELECT `a`, \"b\" FROM t WHERE d > NOW() - INTERVAL 1 DAY # why",
            "SELECT x->>'$.a', MATCH (a) AGAINST ('b' IN BOOLEAN MODE) FROM t USE INDEX FOR JOIN (i)",
            "SELECT ROW_NUMBER() OVER (PARTITION BY a ORDER BY b) FROM t WHERE a = 'größe'",
            "SELECT CAST(a AS DECIMAL(10,2)), X'00', N'x', 0x1F, -1, !a, a<=>b FROM t FOR SYSTEM_TIME ALL",
            "SELECT\r\n\t1",
        ] {
            assert_eq!(kind(sql), Kind::Read, "{sql}");
        }
    }

    #[test]
    fn what_is_not_surely_a_read_is_none() {
        for sql in [
            "INSERT INTO t VALUES (1)",
            "SELECT * FROM t FOR UPDATE",
            "SELECT * FROM t FOR SHARE SKIP LOCKED",
            "SELECT * FROM t LOCK IN SHARE MODE",
            "SELECT a INTO @x FROM t",
            "SELECT a INTO OUTFILE '/tmp/x' FROM t",
            "SELECT @x",
            "SELECT @@read_only",
            "SELECT @x := 1",
            "SELECT LAST_INSERT_ID()",
            "SELECT GET_LOCK('a', 1)",
            "SELECT SLEEP(1)",
            "SELECT CONNECTION_ID(), USER()",
            "SELECT CURRENT_USER",
            "SELECT f(1)",
            "SELECT d.lower(1)",
            "SELECT lower (1)",
            "SELECT lower/**/(1)",
            "SELECT `lower`(1)",
            "SELECT \"lower\"(1)",
            "SELECT 1lower(1)",
            "SELECT 1e5lower(1), 0xlower(1)",
            "SELECT NEXT VALUE FOR s",
            "SELECT s.nextval",
            "SELECT nextval(s)",
            "SELECT 1; SELECT 2",
            "SELECT 1 /*! INTO @x */",
            "SELECT /*M!100000 f(), */ 1",
            "SELECT /*+ SET_VAR(sort_buffer_size = 16M) */ 1",
            "SELECT /* a /* b */ f() */ 1",
            "SELECT /*/ 1 /*/ , f() -- */",
            "SELECT SQL_CALC_FOUND_ROWS * FROM t",
            "SELECT * FROM t PROCEDURE ANALYSE()",
            "SELECT * FROM information_schema.tables",
            "SELECT * FROM `mysql` . `user`",
            "SELECT {fn lower('a')}",
            "SELECT 'a\\', f() -- '",
            "SELECT \u{a0}lower(1)",
            "SELECT 1 --f()",
            "SELECT 1 # \r ' \n , f() # '",
            "SELECT $$f()$$",
            "WITH x AS (SELECT 1) DELETE FROM t",
            "WITH x AS (SELECT 1) UPDATE t SET a = 1",
            "SHOW TABLES",
            "EXPLAIN SELECT 1",
            "CALL p()",
            "SELECT 'never closed",
            "",
            "()",
        ] {
            assert_eq!(kind(sql), Kind::Other, "{sql}");
        }
        let long = format!("SELECT {} 1", "a + ".repeat(10_000));
        assert_eq!(kind(&long), Kind::Other);
    }

    #[test]
    fn what_is_about_the_last_statement_is_told_apart() {
        for sql in
            ["SHOW WARNINGS", "show count(*) errors", "SHOW WARNINGS LIMIT 5, 10;", "SELECT FOUND_ROWS()"]
        {
            assert_eq!(kind(sql), Kind::OfLast, "{sql}");
        }
        assert_eq!(kind("SELECT ROW_COUNT(), f()"), Kind::Other);
    }

    #[test]
    fn settings_are_told_apart() {
        for sql in [
            "SET NAMES utf8mb4 COLLATE 'utf8mb4_bin'",
            "set autocommit=0, SESSION wait_timeout = -1",
            "USE `d`",
        ] {
            assert_eq!(kind(sql), Kind::Setting, "{sql}");
        }
        for sql in [
            "SET GLOBAL x = 1",
            "SET a = 1, PERSIST b = 2",
            "SET a = f(1)",
            "SET a = (SELECT 1)",
            "SET @a = 1",
            "SET PASSWORD = 'x'",
            "SET ROLE x",
            "SET STATEMENT a = 1 FOR DELETE t",
        ] {
            assert_eq!(kind(sql), Kind::Other, "{sql}");
        }
    }

    #[test]
    fn a_shape_has_no_values() {
        let shape = |sql: &str| {
            let mut out = Vec::new();
            super::shape(sql.as_bytes(), &mut out).then(|| String::from_utf8(out).unwrap())
        };
        assert_eq!(
            shape("SELECT A1, 1.5 FROM t7 /* x */ WHERE\n b IN (12, 'a', 4) AND c='ü'").unwrap(),
            "select a1, 0 from t7 where b in (0) and c=''"
        );
        assert_eq!(shape("select 1,x10, 5.25 , 6,'a''b', t.1, 1e5").unwrap(), "select 0,x10, 0, t.1, 1e5");
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes: Vec<u8>, text in "[@'\"`;/*!#\\- (),.?a-z0-9\n]{0,60}") {
            super::kind(&bytes);
            super::kind(text.as_bytes());
            super::kind(format!("SELECT {text}").as_bytes());
        }
    }
}
