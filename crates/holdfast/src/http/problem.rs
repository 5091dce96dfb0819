//! The one shape of an error answer: `application/problem+json` with a code for programs, a title and details for
//! people, and a hint what to do next.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::fmt;

/// [`Problem::code`] of a session that this controller has not committed.
pub const UNKNOWN_SESSION: &str = "unknown-session";
/// [`Problem::code`] of a node that is not the controller.
pub const NOT_LEADER: &str = "not-leader";

/// An error as the API answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// Stable, for programs.
    #[serde(default)]
    pub code: String,
    /// What kind of thing happened.
    #[serde(default)]
    pub title: String,
    /// What happened here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// With `not-leader`: the number of the node that leads, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<u64>,
    /// HTTP status; not part of the body.
    #[serde(skip, default = "internal_error")]
    pub status: u16,
}

fn internal_error() -> u16 {
    500
}

impl Problem {
    pub fn new(
        status: StatusCode,
        code: &str,
        title: impl Into<String>,
        detail: impl Into<String>,
    ) -> Problem {
        Problem {
            code: code.into(),
            title: title.into(),
            detail: Some(detail.into()),
            hint: None,
            leader: None,
            status: status.as_u16(),
        }
    }
    /// Says what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }
    /// This node does not lead; nothing was done. Ask `leader`.
    pub fn not_leader(leader: Option<u64>) -> Problem {
        let detail = match leader {
            Some(id) => format!("the controller is on node {id}"),
            None => "no node leads right now".into(),
        };
        let status = StatusCode::MISDIRECTED_REQUEST;
        let problem = Problem::new(status, NOT_LEADER, "not the controller", detail);
        Problem { leader, ..problem }
    }
    /// The session is not committed; register it, then repeat the request.
    pub fn unknown_session(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, UNKNOWN_SESSION, "unknown session", detail)
    }
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not-found", "not found", detail)
    }
    /// The request is understood and cannot be done as things are; nothing was done.
    pub fn refused(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", "refused", detail)
    }
    /// Something else happened first; look and decide again.
    pub fn conflict(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, "conflict", "conflict", detail)
    }
    /// It may work later; whether something was done is unknown.
    pub fn unavailable(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "unavailable", detail)
    }
    pub fn internal(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error", detail)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail.as_deref().unwrap_or(&self.title))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("strings and a number");
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}
