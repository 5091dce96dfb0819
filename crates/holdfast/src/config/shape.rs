//! From a TOML tree to records that have the shape of their [`Section`]: known fields, right kinds, defaults filled
//! in. What does not fit is reported and left out, and reading goes on, so that one run shows every mistake.
//! Knows nothing of what the fields mean.

use super::fields::{Default, Field, Kind, Need, Section};
use super::report::{Finding, Findings, quoted, suggestion};
use holdfast_core::{NodeName, UserName};
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it stands. For a default: where it would have been expected.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Range<usize>,
    /// False for a default.
    pub given: bool,
}

impl<T> At<T> {
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> At<U> {
        At { value: f(self.value), span: self.span, given: self.given }
    }
}

/// What a value turned out to be.
#[derive(Debug)]
enum Data {
    Text(String),
    Flag(bool),
    Number(u64),
    Address(IpAddr),
    Path(PathBuf),
    List(Vec<At<Data>>),
    Options(Vec<(At<String>, String)>),
    Record(Record),
}

/// A section as it was read: only fields whose values fit.
#[derive(Debug)]
pub(super) struct Record {
    /// The header, or the whole of an inline table.
    pub span: Range<usize>,
    values: Vec<(&'static str, At<Data>)>,
    /// Fields that were written but did not fit.
    spoilt: Vec<&'static str>,
}

/// Getters: `None` if the field is absent or did not fit. The kind asked for is the kind of the field table, which
/// `config::tests` proves for every field by reading a file that has them all.
impl Record {
    fn find(&mut self, name: &str) -> Option<At<Data>> {
        let at = self.values.iter().position(|(n, _)| *n == name)?;
        Some(self.values.swap_remove(at).1)
    }
    /// True if the file has the field, well written or not.
    pub fn mentions(&self, name: &str) -> bool {
        self.spoilt.contains(&name) || self.values.iter().any(|(n, v)| *n == name && v.given)
    }
    pub fn text(&mut self, name: &str) -> Option<At<String>> {
        let at = self.find(name)?;
        match at.value {
            Data::Text(value) => Some(At { value, span: at.span, given: at.given }),
            _ => None,
        }
    }
    pub fn flag(&mut self, name: &str) -> Option<At<bool>> {
        let at = self.find(name)?;
        match at.value {
            Data::Flag(value) => Some(At { value, span: at.span, given: at.given }),
            _ => None,
        }
    }
    pub fn number(&mut self, name: &str) -> Option<At<u64>> {
        let at = self.find(name)?;
        match at.value {
            Data::Number(value) => Some(At { value, span: at.span, given: at.given }),
            _ => None,
        }
    }
    /// A number whose kind is within a port's range.
    pub fn port(&mut self, name: &str) -> Option<At<u16>> {
        let at = self.number(name)?;
        let value = u16::try_from(at.value).ok()?;
        Some(at.map(|_| value))
    }
    pub fn address(&mut self, name: &str) -> Option<At<IpAddr>> {
        let at = self.find(name)?;
        match at.value {
            Data::Address(value) => Some(At { value, span: at.span, given: at.given }),
            _ => None,
        }
    }
    pub fn path(&mut self, name: &str) -> Option<At<PathBuf>> {
        let at = self.find(name)?;
        match at.value {
            Data::Path(value) => Some(At { value, span: at.span, given: at.given }),
            _ => None,
        }
    }
    /// The texts of a list; those that did not fit are missing.
    pub fn texts(&mut self, name: &str) -> Option<At<Vec<At<String>>>> {
        let at = self.find(name)?;
        let Data::List(items) = at.value else { return None };
        let texts = items.into_iter().filter_map(|item| match item.value {
            Data::Text(value) => Some(At { value, span: item.span, given: true }),
            _ => None,
        });
        Some(At { value: texts.collect(), span: at.span, given: at.given })
    }
    pub fn options(&mut self, name: &str) -> Vec<(At<String>, String)> {
        match self.find(name).map(|at| at.value) {
            Some(Data::Options(options)) => options,
            _ => Vec::new(),
        }
    }
    pub fn one(&mut self, name: &str) -> Option<Record> {
        match self.find(name)?.value {
            Data::Record(record) => Some(record),
            _ => None,
        }
    }
    pub fn many(&mut self, name: &str) -> Vec<Record> {
        let Some(Data::List(items)) = self.find(name).map(|at| at.value) else { return Vec::new() };
        items
            .into_iter()
            .filter_map(|item| match item.value {
                Data::Record(record) => Some(record),
                _ => None,
            })
            .collect()
    }
}

/// Reads one table as a section.
pub(super) fn record(
    section: &'static Section,
    table: &DeTable<'_>,
    span: Range<usize>,
    out: &mut Findings,
) -> Record {
    let mut record = Record { span, values: Vec::new(), spoilt: Vec::new() };
    for (key, value) in table {
        let Some(field) = section.fields.iter().find(|f| f.name == key.get_ref().as_ref()) else {
            unknown_field(section, key, table, out);
            continue;
        };
        if matches!(field.kind, Kind::Secret { .. }) {
            out.hide(value.span());
        }
        match read(field.name, &field.kind, value, out) {
            Some(data) => {
                // A table's own span may be empty or its whole body; its key is what a reader would point at.
                let span = match value.get_ref() {
                    DeValue::Table(_) | DeValue::Array(_) => key.span(),
                    _ => value.span(),
                };
                record.values.push((field.name, At { value: data, span, given: true }));
            }
            None => record.spoilt.push(field.name),
        }
    }
    for field in section.fields.iter().filter(|f| !table.contains_key(f.name)) {
        match field.need {
            Need::Required => out.push(missing(section, field, &record.span)),
            Need::Default(default) => {
                let value = default_value(&field.kind, default);
                record.values.push((field.name, At { value, span: record.span.clone(), given: false }));
            }
            Need::Optional(_) => {}
        }
    }
    record
}

fn unknown_field(
    section: &'static Section,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    table: &DeTable<'_>,
    out: &mut Findings,
) {
    let absent = section.fields.iter().map(|f| f.name).filter(|n| !table.contains_key(*n));
    let hint = suggestion(key.get_ref(), absent, "other fields of this section");
    out.push(
        Finding::error(
            "unknown-field",
            format!("unknown field {} in {}", quoted(key.get_ref()), section.title),
        )
        .at(&key.span(), "not a field of this section")
        .hint(hint),
    );
}

fn missing(section: &Section, field: &Field, span: &Range<usize>) -> Finding {
    let example = match field.kind {
        Kind::One(inner) | Kind::Many { of: inner, .. } => format!("add a {} section", inner.title),
        Kind::List { .. } => format!("add `{} = [\"…\"]`", field.name),
        Kind::Number { .. } => format!("add `{} = …`, {}", field.name, expected(&field.kind)),
        Kind::Choice(choices) => match choices.first() {
            Some(first) => format!("add `{} = \"{}\"`", field.name, first.value),
            None => format!("add `{}`", field.name),
        },
        _ => format!("add `{} = \"…\"`", field.name),
    };
    Finding::error("missing-field", format!("`{}` is missing in {}", field.name, section.title))
        .at(span, format!("needs `{}`", field.name))
        .hint(format!("{example}. {}", field.doc))
}

fn default_value(kind: &Kind, default: Default) -> Data {
    match (default, kind) {
        (Default::Text(text), Kind::Path) => Data::Path(text.into()),
        (Default::Text(text), _) => Data::Text(text.into()),
        (Default::Flag(flag), _) => Data::Flag(flag),
        (Default::Number(number), _) => Data::Number(number),
    }
}

/// The kind in words, as the object of "expected".
pub(super) fn expected(kind: &Kind) -> String {
    match kind {
        Kind::Name | Kind::User | Kind::Text { .. } | Kind::Secret { .. } => "a text in quotes".into(),
        Kind::Flag => "`true` or `false`".into(),
        Kind::Number { min, max } => format!("a whole number from {min} to {max}"),
        Kind::Address => "an IP address in quotes".into(),
        Kind::Path => "an absolute path in quotes".into(),
        Kind::Choice(choices) => {
            let all: Vec<String> = choices.iter().map(|c| format!("\"{}\"", c.value)).collect();
            format!("one of {}", all.join(", "))
        }
        Kind::List { of, .. } => format!("a list in brackets, each {}", expected(of)),
        Kind::Options { .. } => "a section of options".into(),
        Kind::One(_) => "a section or `{ … }`".into(),
        Kind::Many { of, .. } => format!("sections, each headed `{}`", of.title),
    }
}

fn found(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

type Item<'a, 'i> = &'a Spanned<DeValue<'i>>;

fn read(name: &str, kind: &'static Kind, item: Item<'_, '_>, out: &mut Findings) -> Option<Data> {
    match (kind, item.get_ref()) {
        (Kind::Flag, DeValue::Boolean(flag)) => Some(Data::Flag(*flag)),
        (Kind::Number { min, max }, DeValue::Integer(number)) => {
            let value = u64::from_str_radix(number.as_str(), number.radix()).ok();
            match value.filter(|n| min <= n && n <= max) {
                Some(value) => Some(Data::Number(value)),
                None => {
                    let message = format!("`{name}` is out of range");
                    let label = format!("expected {}", expected(kind));
                    out.push(Finding::error("out-of-range", message).at(&item.span(), label));
                    None
                }
            }
        }
        (Kind::List { of, min, max }, DeValue::Array(items)) => {
            count(name, items.len(), *min, *max, &item.span(), out)?;
            let read = |item: Item<'_, '_>, out: &mut Findings| {
                let data = read(name, of, item, out)?;
                Some(At { value: data, span: item.span(), given: true })
            };
            Some(Data::List(items.iter().filter_map(|item| read(item, out)).collect()))
        }
        (Kind::Options { max }, DeValue::Table(table)) => {
            count(name, table.len(), 0, *max, &item.span(), out)?;
            Some(Data::Options(table.iter().filter_map(|(k, v)| option(k, v, out)).collect()))
        }
        (Kind::One(section), DeValue::Table(table)) => {
            Some(Data::Record(record(section, table, item.span(), out)))
        }
        (Kind::Many { of, min, max }, DeValue::Array(items)) => {
            count(name, items.len(), *min, *max, &item.span(), out)?;
            let read = |item: Item<'_, '_>, out: &mut Findings| match item.get_ref() {
                DeValue::Table(table) => {
                    let data = Data::Record(record(of, table, item.span(), out));
                    Some(At { value: data, span: item.span(), given: true })
                }
                _ => {
                    wrong_type(name, kind, item, out);
                    None
                }
            };
            Some(Data::List(items.iter().filter_map(|item| read(item, out)).collect()))
        }
        (
            Kind::Name
            | Kind::User
            | Kind::Text { .. }
            | Kind::Secret { .. }
            | Kind::Address
            | Kind::Path
            | Kind::Choice(_),
            DeValue::String(text),
        ) => match scalar(name, kind, text) {
            Ok(data) => Some(data),
            Err(finding) => {
                let label = format!("expected {}", expected(kind));
                let finding = finding.at(&item.span(), label);
                out.push(finding);
                None
            }
        },
        _ => {
            wrong_type(name, kind, item, out);
            None
        }
    }
}

fn wrong_type(name: &str, kind: &Kind, item: Item<'_, '_>, out: &mut Findings) {
    let message = format!("`{name}` is {}, expected {}", found(item.get_ref()), expected(kind));
    let mut finding = Finding::error("wrong-type", message).at(&item.span(), "of the wrong type");
    match (kind, item.get_ref()) {
        (Kind::Number { .. } | Kind::Flag, DeValue::String(_)) => finding = finding.hint("remove the quotes"),
        (
            Kind::Name | Kind::User | Kind::Text { .. } | Kind::Secret { .. } | Kind::Choice(_),
            DeValue::Integer(_) | DeValue::Boolean(_),
        ) => finding = finding.hint("put it in quotes"),
        (Kind::Many { of, .. }, DeValue::Table(_)) => {
            finding = finding.hint(format!("write the header with double brackets: `{}`", of.title));
        }
        (Kind::List { .. }, DeValue::String(_)) => finding = finding.hint("put it in brackets: `[\"…\"]`"),
        _ => {}
    }
    out.push(finding);
}

fn count(
    name: &str,
    len: usize,
    min: usize,
    max: usize,
    span: &Range<usize>,
    out: &mut Findings,
) -> Option<()> {
    if len < min {
        let message = format!("`{name}` is empty");
        out.push(Finding::error("too-few", message).at(span, format!("at least {min} needed")));
        return None;
    }
    if len > max {
        let message = format!("`{name}` has {len} entries, at most {max} are allowed");
        out.push(Finding::error("too-many", message).at(span, "too many"));
        return None;
    }
    Some(())
}

/// A value that is written as a text.
fn scalar(name: &str, kind: &Kind, text: &str) -> Result<Data, Finding> {
    match kind {
        Kind::Name => match NodeName::new(text) {
            Ok(_) => Ok(Data::Text(text.into())),
            Err(why) => Err(Finding::error("invalid-name", format!("{} is not a name", quoted(text)))
                .hint(why.to_string())),
        },
        Kind::User => match UserName::new(text) {
            Ok(_) => Ok(Data::Text(text.into())),
            Err(why) => Err(Finding::error("invalid-name", format!("{} is not a user name", quoted(text)))
                .hint(why.to_string())),
        },
        Kind::Text { chars_max } | Kind::Secret { chars_max } => {
            if text.chars().any(char::is_control) {
                return Err(Finding::error("control-character", format!("`{name}` has a control character"))
                    .hint("line breaks, tabs and the like are not allowed here"));
            }
            if text.chars().count() > *chars_max {
                let message = format!("`{name}` has more than {chars_max} characters");
                return Err(Finding::error("too-long", message));
            }
            Ok(Data::Text(text.into()))
        }
        Kind::Address => address(name, text),
        Kind::Path => path(name, text),
        Kind::Choice(choices) => {
            if choices.iter().any(|c| c.value == text) {
                return Ok(Data::Text(text.into()));
            }
            let message = format!("`{name}` cannot be {}", quoted(text));
            let hint = suggestion(text, choices.iter().map(|c| c.value), "possible values");
            Err(Finding::error("unknown-value", message).hint(hint))
        }
        _ => Err(Finding::error("wrong-type", format!("`{name}` is a text, expected {}", expected(kind)))),
    }
}

fn address(name: &str, text: &str) -> Result<Data, Finding> {
    let Ok(address) = text.parse::<IpAddr>() else {
        let hint = if text.parse::<std::net::SocketAddr>().is_ok() {
            "leave out the port: `api_port`, `port` and `engine_port` have fields of their own"
        } else {
            "write the address itself, such as \"10.0.0.11\": a failover must not wait for DNS"
        };
        let message = format!("`{name}` is {}, which is not an IP address", quoted(text));
        return Err(Finding::error("invalid-address", message).hint(hint));
    };
    let address = address.to_canonical();
    let why = match address {
        _ if address.is_unspecified() => "stands for every address of a host, not for a host",
        _ if address.is_multicast() => "is a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "is a broadcast address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "means a different host on every network interface",
        _ => return Ok(Data::Address(address)),
    };
    Err(Finding::error("unusable-address", format!("{} {why}", quoted(text)))
        .hint("use the address under which the other hosts reach this one"))
}

fn path(name: &str, text: &str) -> Result<Data, Finding> {
    let path = Path::new(text);
    let why = if text.contains('\0') || text.chars().any(char::is_control) {
        "has a control character"
    } else if text.len() > 4_096 {
        "is too long"
    } else if !path.is_absolute() {
        "is a relative path"
    } else if path.components().any(|c| c == Component::ParentDir) {
        "has `..` in it"
    } else {
        return Ok(Data::Path(path.components().collect()));
    };
    Err(Finding::error("unsafe-path", format!("`{name}` {why}")).hint(
        "the file is the same on every host and read from any directory: write the whole path, from `/` on",
    ))
}

fn option(
    key: &Spanned<std::borrow::Cow<'_, str>>,
    item: Item<'_, '_>,
    out: &mut Findings,
) -> Option<(At<String>, String)> {
    let text = match item.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => if *flag { "ON" } else { "OFF" }.to_owned(),
        other => {
            let message = format!("option {} is {}", quoted(key.get_ref()), found(other));
            let label = "expected a text, a number, true or false";
            out.push(Finding::error("wrong-type", message).at(&item.span(), label));
            return None;
        }
    };
    if text.chars().any(char::is_control) || text.len() > 1_024 {
        let message = format!("the value of option {} cannot stand on a command line", quoted(key.get_ref()));
        let label = "has control characters or is too long";
        out.push(Finding::error("control-character", message).at(&item.span(), label));
        return None;
    }
    let name = At { value: key.get_ref().to_string(), span: key.span(), given: true };
    Some((name, text))
}
