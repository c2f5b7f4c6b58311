//! Health and metrics over HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::task::JoinSet;

use crate::cluster::world::World;
use crate::metrics::Metrics;

/// Serves /healthz, /readyz and /metrics for as long as the set lives. Ready is who knows the world, leading or not.
pub async fn serve(listen: Option<SocketAddr>, world: Arc<World>, metrics: Metrics) -> std::io::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let Some(address) = listen else { return Ok(tasks) };
    let ready = move || {
        let synced = world.is_synced();
        async move { if synced { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "caches not synced") } }
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
