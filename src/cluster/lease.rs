//! Leader election by one Lease. A standby takes over when the lease has not changed for its duration, by the standby's own
//! clock. The leader's permission to write ends before its lease does, by a clock that includes suspend.

use std::time::Duration;

use chrono::Utc;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::Client;
use kube::api::PostParams;
use serde_json::json;
use tokio::sync::watch;

use super::write::{Fence, boot_millis};
use crate::lifecycle::LeaseTiming;
use crate::metrics::Metrics;

/// Whether we lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    Standby,
    Leading,
    /// We led and lost the lease. This process must end.
    Lost,
}

/// One candidate for a lease.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    namespace: String,
    identity: String,
    timing: LeaseTiming,
    fence: Fence,
    metrics: Metrics,
}

/// The version of another holder's lease, and since when we have observed it.
struct Observation {
    version: Option<String>,
    since: u64,
}

/// Returns the duration that a lease states.
pub(super) fn stated_duration(lease: &Lease) -> Option<Duration> {
    let seconds = lease.spec.as_ref()?.lease_duration_seconds?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

impl Candidate {
    /// Returns a candidate. It needs a client of its own, with a hard timeout and without retries.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        timing: LeaseTiming,
        fence: Fence,
        metrics: Metrics,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.into(),
            namespace: namespace.into(),
            identity: identity.into(),
            timing,
            fence,
            metrics,
        }
    }

    /// Acquires and renews the lease. Returns when the lease is lost, or on `stop`, after it has released the lease.
    pub async fn run(self, leadership: watch::Sender<Leadership>, mut stop: watch::Receiver<bool>) {
        let mut observation = Observation { version: None, since: boot_millis() };
        let mut held: Option<Lease> = None;
        loop {
            let asked_at = boot_millis();
            let answer = tokio::time::timeout(self.timing.request, self.step(held.as_ref(), &mut observation)).await;
            match answer {
                Ok(Ok(Some(lease))) => {
                    held = Some(lease);
                    self.fence.open_until(asked_at + millis(self.timing.duration) - millis(self.timing.margin));
                    leadership.send_if_modified(|now| std::mem::replace(now, Leadership::Leading) != Leadership::Leading);
                }
                Ok(Ok(None)) if held.is_some() => break, // somebody else holds it
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::warn!(lease = %self.name, "the lease could not be acquired or renewed: {error}"),
                Err(_) => tracing::warn!(lease = %self.name, "no answer about the lease before the timeout"),
            }
            if held.is_some() && self.fence.remaining().is_none() {
                break;
            }
            let pause = if held.is_some() { self.timing.renew } else { self.timing.retry };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = asked(&mut stop) => {
                    self.fence.close();
                    if let Some(lease) = held {
                        self.release(lease).await;
                    }
                    return;
                }
            }
        }
        self.fence.close();
        leadership.send_replace(Leadership::Lost);
    }

    /// Tries once to renew or acquire the lease. Returns our lease, or None while another holds it.
    async fn step(&self, held: Option<&Lease>, observation: &mut Observation) -> kube::Result<Option<Lease>> {
        if let Some(lease) = held {
            match self.write(lease, false).await {
                Ok(renewed) => return Ok(Some(renewed)),
                // Either our last renewal succeeded without an answer, or another took the lease. A read shows which.
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let current = self.api.get(&self.name).await?;
                    return if self.is_ours(&current) { self.write(&current, false).await.map(Some) } else { Ok(None) };
                }
                Err(error) => return Err(error),
            }
        }
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let created = self.api.create(&PostParams::default(), &self.new_lease()?).await?;
            self.metrics.lease_transitions(1);
            return Ok(Some(created));
        };
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
        self.metrics.lease_transitions(transitions);
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let changed = observation.version != lease.metadata.resource_version;
        if changed {
            *observation = Observation { version: lease.metadata.resource_version.clone(), since: boot_millis() };
        }
        let has_expired = boot_millis().saturating_sub(observation.since) > millis(self.duration_of(&lease));
        if !holder.is_empty() && !has_expired {
            return Ok(None);
        }
        let acquired = self.write(&lease, true).await?;
        self.metrics.lease_transitions(transitions + 1);
        let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
        // The renewal was timed by another machine's clock, which may be ahead of ours.
        let gap = renewed.and_then(|renewed| Duration::try_from(Timestamp::now() - renewed.0).ok());
        self.metrics.took_over(gap.unwrap_or_default());
        Ok(Some(acquired))
    }

    fn duration_of(&self, lease: &Lease) -> Duration {
        stated_duration(lease).unwrap_or_default().max(self.timing.duration)
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.identity)
    }

    fn new_lease(&self) -> kube::Result<Lease> {
        let empty = json!({"metadata": {"name": self.name, "namespace": self.namespace}, "spec": {}});
        let lease = serde_json::from_value(empty).map_err(kube::Error::SerdeError)?;
        self.filled(&lease, true)
    }

    fn filled(&self, lease: &Lease, acquires: bool) -> kube::Result<Lease> {
        let mut value = serde_json::to_value(lease).map_err(kube::Error::SerdeError)?;
        let now = Utc::now().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
        let spec = lease.spec.clone().unwrap_or_default();
        let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(acquires);
        value["spec"]["holderIdentity"] = json!(self.identity);
        value["spec"]["leaseDurationSeconds"] = json!(self.timing.duration.as_secs().max(1));
        value["spec"]["renewTime"] = json!(now);
        value["spec"]["leaseTransitions"] = json!(transitions);
        if acquires {
            value["spec"]["acquireTime"] = json!(now);
        }
        serde_json::from_value(value).map_err(kube::Error::SerdeError)
    }

    async fn write(&self, lease: &Lease, acquires: bool) -> kube::Result<Lease> {
        self.api.replace(&self.name, &PostParams::default(), &self.filled(lease, acquires)?).await
    }

    /// Clears the holder, so that the next leader need not wait for the lease to expire.
    async fn release(&self, mut lease: Lease) {
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        let params = PostParams::default();
        let request = self.api.replace(&self.name, &params, &lease);
        if !matches!(tokio::time::timeout(self.timing.request, request).await, Ok(Ok(_))) {
            tracing::warn!(lease = %self.name, "the lease could not be released; it will expire");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Waits until the operator is asked to stop, or until the sender of the signal is gone.
pub async fn asked(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
