//! What is wrong with a topology file, all of it, each with its place in the text and what to do about it.
//! Knows how to draw that for a terminal; does not print.

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity, SourceCode,
};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Findings kept; a file with more mistakes is not read to the end by anybody.
const FINDINGS_MAX: usize = 100;
/// Places labelled in one finding.
const LABELS_MAX: usize = 8;
/// Characters of the user's text repeated in a message.
const QUOTED_CHARS_MAX: usize = 60;

/// One mistake (error) or doubt (warning).
#[derive(Debug, Clone)]
pub struct Finding {
    pub is_error: bool,
    /// Stable, for scripts: `unknown-field`.
    pub code: &'static str,
    pub message: String,
    /// Byte ranges of the file and what is wrong there, the most important first.
    pub labels: Vec<(Range<usize>, String)>,
    pub hint: Option<String>,
    source: Option<Arc<NamedSource<String>>>,
}

impl Finding {
    pub fn error(code: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            is_error: true,
            code,
            message: message.into(),
            labels: Vec::new(),
            hint: None,
            source: None,
        }
    }
    pub fn warning(code: &'static str, message: impl Into<String>) -> Finding {
        Finding { is_error: false, ..Finding::error(code, message) }
    }
    /// Points at a place of the file.
    pub fn at(mut self, span: &Range<usize>, label: impl Into<String>) -> Finding {
        if self.labels.len() < LABELS_MAX {
            self.labels.push((span.clone(), label.into()));
        }
        self
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Finding {
        self.hint = Some(hint.into());
        self
    }
    /// 1-based line of the most important place.
    pub fn line(&self) -> Option<usize> {
        let (source, (span, _)) = (self.source.as_ref()?, self.labels.first()?);
        let before = source.inner().as_bytes().get(..span.start)?;
        Some(before.iter().filter(|b| **b == b'\n').count() + 1)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Finding {}

impl Diagnostic for Finding {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }
    fn severity(&self) -> Option<Severity> {
        Some(if self.is_error { Severity::Error } else { Severity::Warning })
    }
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_deref().filter(|_| !self.labels.is_empty()).map(|s| s as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let labels = self.labels.iter().enumerate().map(|(i, (span, text))| {
            let text = (!text.is_empty()).then(|| text.clone());
            let span = (span.start, span.len());
            if i == 0 {
                LabeledSpan::new_primary_with_span(text, span)
            } else {
                LabeledSpan::new_with_span(text, span)
            }
        });
        Some(Box::new(labels))
    }
}

/// All findings about one file, in the order of the file. May be empty.
#[derive(Debug, Clone)]
pub struct Report {
    /// The file as the user named it.
    pub name: String,
    pub findings: Vec<Finding>,
    /// Findings beyond the limit.
    pub left_out: usize,
}

impl Report {
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|f| f.is_error).count()
    }
    pub fn warnings(&self) -> usize {
        self.findings.len() - self.errors()
    }

    /// Draws every finding and a closing line; empty if there is nothing to say. `width` in columns.
    pub fn render(&self, colours: bool, width: usize) -> String {
        let theme = if colours { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(width).with_links(false);
        let mut out = String::new();
        for finding in &self.findings {
            if handler.render_report(&mut out, finding).is_err() {
                out.push_str(&finding.message);
            }
            out.push('\n');
        }
        if !self.findings.is_empty() {
            out.push_str(&self.to_string());
            out.push('\n');
        }
        out
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |n: usize, what: &str| match n {
            0 => format!("no {what}s"),
            1 => format!("1 {what}"),
            _ => format!("{n} {what}s"),
        };
        write!(f, "{}: {}", self.name, count(self.errors(), "error"))?;
        write!(f, ", {}", count(self.warnings(), "warning"))?;
        if self.left_out > 0 {
            write!(f, " ({} more not shown)", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// Collects findings while a file is read.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<Finding>,
    left_out: usize,
    errors: usize,
    hidden: Vec<Range<usize>>,
}

impl Findings {
    pub fn push(&mut self, finding: Finding) {
        self.errors += usize::from(finding.is_error);
        if self.found.len() < FINDINGS_MAX {
            self.found.push(finding);
        } else {
            self.left_out += 1;
        }
    }
    /// No report shows what stands here.
    pub fn hide(&mut self, span: Range<usize>) {
        self.hidden.push(span);
    }
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }
    /// Orders by place: errors and warnings in the order a reader of the file meets them.
    pub fn into_report(mut self, name: &str, text: Option<&str>) -> Report {
        let source = text.map(|t| Arc::new(NamedSource::new(name, without(t, &self.hidden))));
        self.found.sort_by_key(|f| f.labels.first().map_or(0, |(span, _)| span.start));
        for finding in &mut self.found {
            finding.source = source.clone();
        }
        Report { name: name.to_owned(), findings: self.found, left_out: self.left_out }
    }
}

/// `text` with stars, byte for byte so that all places stay where they are, instead of what stands in `hidden`.
fn without(text: &str, hidden: &[Range<usize>]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for span in hidden {
        let inner = bytes.get_mut(span.clone()).unwrap_or_default();
        inner.iter_mut().filter(|b| !matches!(b, b'"' | b'\'' | b'\n')).for_each(|b| *b = b'*');
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// The user's text inside a message: quoted, without control characters, cut to a line's length.
pub(super) fn quoted(text: &str) -> String {
    let mut out: String =
        text.chars().take(QUOTED_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        out.push('…');
    }
    format!("`{out}`")
}

/// The nearest of `known` if it is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are never near; comparing them would take quadratic time.
    if word.chars().nth(QUOTED_CHARS_MAX).is_some() {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&word, &k.to_lowercase().replace('-', "_")), k))
        .filter(|(distance, k)| *distance <= 1 + k.chars().count() / 5 && *distance < k.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// `did you mean …?`, or what there is.
pub(super) fn suggestion<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
    what: &str,
) -> String {
    match nearest(word, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let all: Vec<String> = known.into_iter().map(|k| format!("`{k}`")).collect();
            format!("{what}: {}", all.join(", "))
        }
    }
}
