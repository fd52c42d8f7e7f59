//! What requests bring.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use super::refusal::{Code, Refusal};

/// How long a body may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much above the limit is read and thrown away: who still sends does not hear the answer.
const SURPLUS: usize = 64 << 20;

/// The whole body, of at most `limit` bytes.
pub async fn bytes(headers: &HeaderMap, mut body: Body, limit: usize) -> Result<Vec<u8>, Refusal> {
    let too_large = || Refusal::new(Code::TooLarge, format!("the body is larger than {limit} bytes (--max-body)"));
    let told = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if told.is_some_and(|told| told > limit.saturating_add(SURPLUS)) {
        return Err(too_large());
    }
    let reading = async {
        let (mut all, mut length) = (Vec::with_capacity(told.unwrap_or(0).min(limit)), 0usize);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Refusal::new(Code::BadRequest, format!("the body cannot be read: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            length += data.len();
            if length > limit.saturating_add(SURPLUS) {
                break;
            }
            if length <= limit {
                all.extend_from_slice(&data);
            }
        }
        if length > limit { Err(too_large()) } else { Ok(all) }
    };
    let late = || Refusal::new(Code::TimedOut, format!("the body did not come within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| Err(late()))
}

/// The body as a JSON object of a known form.
pub async fn json<T: DeserializeOwned>(request: Request, limit: usize) -> Result<T, Refusal> {
    let (parts, body) = request.into_parts();
    let bytes = bytes(&parts.headers, body, limit).await?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Refusal::new(Code::UnsupportedMediaType, "the body must be of Content-Type: application/json"));
    }
    let refusal = |e: serde_json::Error| match e.classify() {
        Category::Data => Refusal::new(Code::Unprocessable, e.to_string()),
        _ => Refusal::new(Code::BadRequest, format!("the body is no JSON: {e}")),
    };
    // An array of the fields' values would pass for an object.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice::<IgnoredAny>(&bytes).map_err(refusal)?;
        return Err(Refusal::new(Code::Unprocessable, "the body must be a JSON object"));
    }
    serde_json::from_slice(&bytes).map_err(refusal)
}
