//! The only way to write to the API server. A write needs the lease, ends before the lease does, and has a typed outcome.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::metrics::Metrics;

/// Why a write did not succeed.
#[derive(Debug, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum WriteError {
    /// We do not hold the lease, so we may not write.
    #[error("the lease is not held")]
    Fenced,
    /// The object changed since we read it.
    #[error("conflict: {0}")]
    Conflict(String),
    #[error("the object already exists")]
    AlreadyExists,
    #[error("not found: {0}")]
    NotFound(String),
    /// The request is forbidden or invalid. The same request would fail again.
    #[error("refused: {0}")]
    Refused(String),
    /// Nothing was written. The request may be retried.
    #[error("not written, to be retried: {0}")]
    Busy(String),
    /// The answer cannot be decoded.
    #[error("unreadable: {0}")]
    Unreadable(String),
    /// The write may or may not have happened.
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
                    // The API server reports etcd's refusal of a large object as an internal error.
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

/// The deadline for our writes, by a clock that includes suspend. Zero means that we may not write.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<AtomicU64>);

/// Returns the milliseconds since boot, including suspend.
pub fn boot_millis() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000)
}

impl Fence {
    /// Allows writes until this time, in milliseconds since boot.
    pub fn open_until(&self, boot_millis: u64) {
        self.0.store(boot_millis, Ordering::SeqCst);
    }

    pub fn close(&self) {
        self.open_until(0);
    }

    /// Returns how long writes are still allowed. None if they are not.
    pub fn remaining(&self) -> Option<Duration> {
        let left = self.0.load(Ordering::SeqCst).saturating_sub(boot_millis());
        (left > 0).then(|| Duration::from_millis(left))
    }
}

/// Sends writes and reads to the API server.
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

    /// Sends one write. Without the lease nothing is sent, and the write ends before the lease does.
    /// `operation` names it in the metrics.
    pub async fn write<T>(
        &self,
        operation: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, WriteError> {
        let remaining = self.fence.remaining().ok_or(WriteError::Fenced)?;
        self.metrics.wrote(operation);
        let written = answer(remaining.min(self.timeout), request).await;
        if let Err(error) = &written {
            self.metrics.write_failed(operation, error.into());
        }
        written
    }

    /// Sends one read with the same timeout. It needs no lease.
    pub async fn read<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
        answer(self.timeout, request).await
    }
}

async fn answer<T>(timeout: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
    match tokio::time::timeout(timeout, request).await {
        Ok(answer) => answer.map_err(WriteError::from),
        Err(_) => Err(WriteError::Unknown("no answer before the timeout".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_too_large_is_refused_and_any_other_server_error_leaves_the_outcome_unknown() {
        let error = |code: u16, message: &str| {
            let status = kube::core::Status { code, message: message.into(), ..Default::default() };
            WriteError::from(kube::Error::Api(Box::new(status)))
        };
        assert!(matches!(error(500, "etcdserver: request is too large"), WriteError::Refused(_)));
        let by_grpc = "rpc error: trying to send message larger than max (2400000 vs. 2097152)";
        assert!(matches!(error(500, by_grpc), WriteError::Refused(_)));
        assert!(matches!(error(413, "too large"), WriteError::Refused(_)));
        assert!(matches!(error(500, "etcdserver: request timed out"), WriteError::Unknown(_)));
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
