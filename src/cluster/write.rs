//! The only way to write to the API server: checked against the lease, ended before it does, and judged by its outcome.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::metrics::Metrics;

/// Why a write did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// We may not write (any more): another leads.
    #[error("the lease is not held")]
    Fenced,
    /// The object changed since we read it.
    #[error("conflict: {0}")]
    Conflict(String),
    #[error("it exists already")]
    AlreadyExists,
    #[error("not found: {0}")]
    NotFound(String),
    /// It is not allowed or not valid; the same request would fail again.
    #[error("refused: {0}")]
    Refused(String),
    /// It was not done, and may be tried again.
    #[error("try again: {0}")]
    Busy(String),
    /// The answer is no such object as we know.
    #[error("unreadable: {0}")]
    Unreadable(String),
    /// It may or may not have been done.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// The messages with which etcd and its client refuse an object that is too large. The same request would fail again.
const TOO_LARGE: [&str; 2] = ["request is too large", "trying to send message larger than max"];

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let message = status.message.clone();
                match (status.code, status.reason.as_str()) {
                    (409, "AlreadyExists") => Self::AlreadyExists,
                    (409, _) => Self::Conflict(message),
                    (404, _) => Self::NotFound(message),
                    (429, _) => Self::Busy(message),
                    (413, _) => Self::Refused(message),
                    // etcd refuses an object for its size, which the API server passes on as an error of its own.
                    (500, _) if TOO_LARGE.iter().any(|words| message.contains(words)) => Self::Refused(message),
                    (code, _) if code >= 500 => Self::Unknown(message),
                    _ => Self::Refused(message),
                }
            }
            kube::Error::SerdeError(error) => Self::Unreadable(error.to_string()),
            other => Self::Unknown(other.to_string()),
        }
    }
}

/// Until when we may write, by a clock that runs on while the machine is suspended. Zero: not at all.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<AtomicU64>);

/// Milliseconds since boot, suspended or not.
pub fn boot_millis() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000)
}

impl Fence {
    /// Writing is allowed until this many milliseconds since boot.
    pub fn open_until(&self, boot_millis: u64) {
        self.0.store(boot_millis, Ordering::SeqCst);
    }

    pub fn close(&self) {
        self.open_until(0);
    }

    /// How long writing is still allowed.
    pub fn remaining(&self) -> Option<Duration> {
        let left = self.0.load(Ordering::SeqCst).saturating_sub(boot_millis());
        (left > 0).then(|| Duration::from_millis(left))
    }
}

/// Carries out writes.
#[derive(Clone)]
pub struct Writer {
    pub client: kube::Client,
    fence: Fence,
    timeout: Duration,
    pub metrics: Metrics,
}

impl Writer {
    pub fn new(client: kube::Client, fence: Fence, timeout: Duration, metrics: Metrics) -> Self {
        Self { client, fence, timeout, metrics }
    }

    /// Runs one write: not at all without the lease, and never longer than the lease lasts.
    /// `what` names it in the metrics.
    pub async fn write<T>(&self, what: &'static str, request: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
        let remaining = self.fence.remaining().ok_or(WriteError::Fenced)?;
        self.metrics.wrote(what);
        match tokio::time::timeout(remaining.min(self.timeout), request).await {
            Ok(done) => done.map_err(WriteError::from),
            Err(_) => Err(WriteError::Unknown("no answer in time".into())),
        }
    }

    /// Reads one object, with the same limit of time.
    pub async fn read<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
        match tokio::time::timeout(self.timeout, request).await {
            Ok(done) => done.map_err(WriteError::from),
            Err(_) => Err(WriteError::Unknown("no answer in time".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_too_large_is_refused_and_any_other_error_of_the_server_leaves_the_outcome_open() {
        let answered = |code: u16, message: &str| {
            let status = kube::core::Status { code, message: message.into(), ..Default::default() };
            WriteError::from(kube::Error::Api(Box::new(status)))
        };
        assert!(matches!(answered(500, "etcdserver: request is too large"), WriteError::Refused(_)));
        let by_grpc = "rpc error: trying to send message larger than max (2400000 vs. 2097152)";
        assert!(matches!(answered(500, by_grpc), WriteError::Refused(_)));
        assert!(matches!(answered(413, "too large"), WriteError::Refused(_)));
        assert!(matches!(answered(500, "etcdserver: request timed out"), WriteError::Unknown(_)));
    }

    #[test]
    fn a_fence_is_open_only_until_its_deadline() {
        let fence = Fence::default();
        assert!(fence.remaining().is_none());
        fence.open_until(boot_millis() + 60_000);
        assert!(fence.remaining().is_some_and(|left| left <= Duration::from_secs(60)));
        fence.open_until(boot_millis().saturating_sub(1));
        assert!(fence.remaining().is_none());
        fence.open_until(boot_millis() + 60_000);
        fence.close();
        assert!(fence.remaining().is_none());
    }
}
