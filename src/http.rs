//! Health and metrics over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::task::JoinSet;

use crate::metrics::Metrics;

/// Serves /healthz, /readyz and /metrics for as long as the set lives. Ready is who could lead, leading or not.
pub async fn serve(listen: Option<SocketAddr>, ready: Arc<AtomicBool>, metrics: Metrics) -> std::io::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let Some(address) = listen else { return Ok(tasks) };
    let ready = move || {
        let ready = ready.load(Ordering::Relaxed);
        async move { if ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not every kind can be listed") } }
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(move || async move { metrics.text() }));
    let listener = tokio::net::TcpListener::bind(address).await?;
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("health and metrics are not served any more: {error}");
        }
    });
    Ok(tasks)
}
