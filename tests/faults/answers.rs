//! Responses that the proxy gives to an operator when a fault strikes.

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use serde_json::json;

/// Waits for the whole response, after which the write is committed.
pub async fn complete(answer: Response) {
    let _ = answer.into_body().into_data_stream().try_collect::<Vec<_>>().await;
}

/// A response that breaks off, so that the operator cannot know whether the request was carried out.
pub fn broken() -> Response {
    let nothing = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("connection broken")) });
    Body::from_stream(nothing).into_response()
}

pub fn refusal(code: u16) -> Response {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        504 => "Timeout",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "injected", "reason": reason, "code": code,
    });
    let code = StatusCode::from_u16(code).expect("a status code");
    (code, [("content-type", "application/json")], status.to_string()).into_response()
}
