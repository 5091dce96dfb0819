//! What is generated from the field table: the reference in docs/topology.md and the JSON Schema. Pure; `xtask
//! schemas` writes them and checks that the committed ones are current.

use super::fields::{Default, FILE, Field, Kind, Need, Section};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Lines in docs/topology.md between which the reference stands.
const BEGIN: &str = "<!-- begin generated: cargo xtask schemas -->";
const END: &str = "<!-- end generated -->";

/// docs/topology.md with the reference renewed. `None` if its two marks are missing.
pub fn renew(page: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", reference().trim_end()))
}

/// All fields as Markdown, a table for each section.
pub fn reference() -> String {
    let mut out = String::new();
    section(&FILE, &mut out);
    out
}

fn section(section_: &Section, out: &mut String) {
    let Section { title, doc, fields } = section_;
    let _ = writeln!(out, "### `{title}`\n");
    if !doc.is_empty() {
        let _ = writeln!(out, "{doc}\n");
    }
    let _ = writeln!(out, "| field | what | default | meaning |\n|---|---|---|---|");
    for field in *fields {
        let Field { name, kind, need, doc } = field;
        let _ = writeln!(out, "| `{name}` | {} | {} | {}{} |", what(kind), default(need), doc, choices(kind));
    }
    out.push('\n');
    for field in *fields {
        if let Kind::One(inner) | Kind::Many { of: inner, .. } = &field.kind {
            section(inner, out);
        }
    }
}

fn what(kind: &Kind) -> String {
    match kind {
        Kind::Name => "name".into(),
        Kind::User => "user name".into(),
        Kind::Text { .. } | Kind::Secret { .. } => "text".into(),
        Kind::Flag => "`true` or `false`".into(),
        Kind::Number { min, max } => format!("{min} to {max}"),
        Kind::Address => "IP address".into(),
        Kind::Path => "absolute path".into(),
        Kind::Choice(choices) => {
            choices.iter().map(|c| format!("`\"{}\"`", c.value)).collect::<Vec<_>>().join(", ")
        }
        Kind::List { of, .. } => format!("list, each {}", what(of)),
        Kind::Options { .. } => "section of free keys".into(),
        Kind::One(_) => "section".into(),
        Kind::Many { max, .. } => format!("sections, at most {max}"),
    }
}

fn choices(kind: &Kind) -> String {
    match kind {
        Kind::Choice(choices) => choices.iter().map(|c| format!(" `{}`: {}.", c.value, c.doc)).collect(),
        _ => String::new(),
    }
}

fn default(need: &Need) -> String {
    match need {
        Need::Required => "**required**".into(),
        Need::Default(Default::Text(text)) => format!("`\"{text}\"`"),
        Need::Default(Default::Flag(flag)) => format!("`{flag}`"),
        Need::Default(Default::Number(number)) => format!("`{number}`"),
        Need::Optional(meaning) => format!("absent: {meaning}"),
    }
}

/// JSON Schema (2020-12) for editors that check TOML. It knows the shape, not the rules between fields: `holdfast
/// config check` has the last word.
pub fn json_schema() -> String {
    let mut schema = object(&FILE);
    if let Some(map) = schema.as_object_mut() {
        map.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        map.insert("title".into(), "Holdfast topology".into());
    }
    let mut text = serde_json::to_string_pretty(&schema).expect("a value without odd keys");
    text.push('\n');
    text
}

fn object(section: &Section) -> Value {
    let mut properties = Map::new();
    for field in section.fields {
        let mut schema = value(&field.kind);
        if let Some(map) = schema.as_object_mut() {
            let doc = format!("{}{}", field.doc, choices(&field.kind));
            map.insert("description".into(), doc.into());
            if let Need::Default(default) = &field.need {
                let default = match default {
                    Default::Text(text) => json!(text),
                    Default::Flag(flag) => json!(flag),
                    Default::Number(number) => json!(number),
                };
                map.insert("default".into(), default);
            }
        }
        properties.insert(field.name.into(), schema);
    }
    let required: Vec<&str> =
        section.fields.iter().filter(|f| matches!(f.need, Need::Required)).map(|f| f.name).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn value(kind: &Kind) -> Value {
    match kind {
        Kind::Name => json!({ "type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$" }),
        Kind::User => json!({ "type": "string", "minLength": 1, "maxLength": 32 }),
        Kind::Text { chars_max } | Kind::Secret { chars_max } => {
            json!({ "type": "string", "maxLength": chars_max })
        }
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Number { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Address => {
            json!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] })
        }
        Kind::Path => json!({ "type": "string", "pattern": "^/" }),
        Kind::Choice(choices) => json!({ "enum": choices.iter().map(|c| c.value).collect::<Vec<_>>() }),
        Kind::List { of, min, max } => {
            json!({ "type": "array", "items": value(of), "minItems": min, "maxItems": max })
        }
        Kind::Options { max } => json!({
            "type": "object",
            "additionalProperties": { "type": ["string", "number", "boolean"] },
            "maxProperties": max,
        }),
        Kind::One(section) => object(section),
        Kind::Many { of, min, max } => {
            json!({ "type": "array", "items": object(of), "minItems": min, "maxItems": max })
        }
    }
}
