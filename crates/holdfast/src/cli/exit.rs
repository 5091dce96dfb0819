//! How commands end. The codes are part of the interface; scripts rely on them.

use crate::api::people::Finding;
use crate::config;
use miette::Report;
use std::io::IsTerminal;
use std::process::ExitCode;

/// Shown below `holdfast --help`.
pub const HELP: &str = "Exit codes:
  0  done; for status and explain: all is well
  1  failed, or a drill's promise or a backup is broken; the message says what happened, what is safe and what to do
  2  wrong arguments
  3  the topology file has mistakes
  4  the deployment cannot be reached, or no controller is in office
  5  refused: it would not be safe, or not now
  6  status or explain: something needs attention";

/// A command that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok,
    PromiseBroken,
    Attention,
}

impl Exit {
    /// [`Exit::Attention`] if a finding is worse than a notice.
    pub fn of(findings: &[Finding]) -> Exit {
        if findings.iter().any(|f| f.severity != "notice") { Exit::Attention } else { Exit::Ok }
    }
    pub fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Exit::Ok => 0,
            Exit::PromiseBroken => 1,
            Exit::Attention => 6,
        })
    }
}

/// A command that failed: its code, and its message drawn for a terminal.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    pub fn failed(report: Report) -> Failure {
        Failure { code: 1, text: format!("{report:?}") }
    }
    pub fn config(report: &config::Report) -> Failure {
        Failure { code: 3, text: report.render(std::io::stderr().is_terminal(), TEXT_COLUMNS) }
    }
    pub fn unreachable(report: Report) -> Failure {
        Failure { code: 4, ..Failure::failed(report) }
    }
    pub fn refused(report: Report) -> Failure {
        Failure { code: 5, ..Failure::failed(report) }
    }
    /// The same with another code, if there is one.
    pub fn with_code(self, code: Option<u8>) -> Failure {
        Failure { code: code.unwrap_or(self.code), ..self }
    }
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Failure {
        Failure::failed(report)
    }
}

/// How wide drawn messages are.
pub const TEXT_COLUMNS: usize = 110;
