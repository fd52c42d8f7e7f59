//! Requests that cannot be answered.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use reelgrad::Error;
use serde_json::json;

/// What is wrong, by HTTP's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BadRequest,
    Unauthorized,
    NotFound,
    TimedOut,
    TooLarge,
    UnsupportedMediaType,
    Unprocessable,
    Busy,
    Internal,
    Unavailable,
}

impl Code {
    fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::TimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Why a request is not answered.
#[derive(Debug)]
pub struct Refusal {
    code: Code,
    message: String,
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What was given is wrong, whatever the error.
    pub fn of_input(error: &Error) -> Self {
        Self::new(Code::BadRequest, error.to_string())
    }
}

/// Errors of what was asked are the asker's; all others are the server's own, and are logged.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match &error {
            Error::Argument { .. } => Self::new(Code::BadRequest, error.to_string()),
            Error::IndexOutOfRange { index, len, .. } => {
                Self::new(Code::NotFound, format!("there is no clip {index}: the index holds {len}, from 0"))
            }
            Error::Missing { kind: "video", id, .. } => {
                Self::new(Code::NotFound, format!("the index holds no video {id:?}"))
            }
            _ => {
                log::error!("{error}");
                Self::new(Code::Internal, "the server failed; its log says why")
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = told(self.code.status(), &self.message);
        if self.code == Code::Busy {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.code == Code::Unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

fn told(status: StatusCode, message: &str) -> Response {
    let code = match status {
        StatusCode::UNAUTHORIZED => "unauthorized",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
        StatusCode::UNPROCESSABLE_ENTITY => "unprocessable",
        StatusCode::TOO_MANY_REQUESTS => "busy",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        status if status.is_server_error() => "internal",
        _ => "bad_request",
    };
    let body = json!({ "error": { "code": code, "message": message } });
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// The response, or for an error that the library around it made the same in JSON.
pub fn in_json(response: Response) -> Response {
    let status = response.status();
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !(status.is_client_error() || status.is_server_error()) || is_json {
        return response;
    }
    let message = match status {
        StatusCode::NOT_FOUND => "there is nothing at this path; GET /openapi.json lists what there is",
        StatusCode::METHOD_NOT_ALLOWED => "this path is asked with another method; the header Allow names it",
        StatusCode::RANGE_NOT_SATISFIABLE => "the range is not within the file",
        other => other.canonical_reason().unwrap_or("the request cannot be answered"),
    };
    let mut answer = told(status, message);
    for name in [header::ALLOW, header::CONTENT_RANGE] {
        if let Some(value) = response.headers().get(&name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer
}
