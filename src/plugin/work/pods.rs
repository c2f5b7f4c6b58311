//! Finds the pods of a session's kernels.

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::api::{LABEL_GENERATION, LABEL_KERNEL, MAIN_ROLE, Session, SessionPhase};
use crate::lifecycle::printable;
use crate::plugin::fetch::Reader;
use crate::plugin::target::arguments;

/// The kernel's hostname, for example `main1`.
pub fn hostname(pod: &Pod) -> &str {
    pod.labels().get(LABEL_KERNEL).map_or("", String::as_str)
}

/// The attempt that a pod was created for.
pub fn attempt(pod: &Pod) -> i64 {
    pod.labels().get(LABEL_GENERATION).and_then(|label| label.parse().ok()).unwrap_or(0)
}

/// Returns the pods of one attempt, or of the last, ordered by kernel.
pub fn of_attempt(mut pods: Vec<Pod>, wanted: Option<i64>) -> Vec<Pod> {
    let wanted = wanted.or_else(|| pods.iter().map(attempt).max());
    pods.retain(|pod| Some(attempt(pod)) == wanted);
    pods.sort_by_key(|pod| natural(hostname(pod)));
    pods
}

/// The role in a kernel's hostname.
pub fn role_of(hostname: &str) -> &str {
    hostname.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// Orders main before others, and sub2 before sub10.
fn natural(hostname: &str) -> (bool, String, u32) {
    let role = role_of(hostname);
    (role != MAIN_ROLE, role.to_owned(), hostname[role.len()..].parse().unwrap_or(0))
}

/// Returns the running pod of a kernel, or an error that says why there is none and what to do.
pub async fn running(reader: &Reader, session: &str, kernel: &str) -> anyhow::Result<Pod> {
    let session = reader.session(session).await?;
    let pods = reader.pods(&session).await?.ok_or_else(|| anyhow!("you may not list pods in this namespace"))?;
    let pods = of_attempt(pods, None);
    if let Some(pod) = pods.iter().find(|pod| hostname(pod) == kernel && runs(pod)) {
        return Ok(pod.clone());
    }
    let known: Vec<&str> = pods.iter().map(hostname).collect();
    if !known.is_empty() && !known.contains(&kernel) {
        bail!("session {} has no kernel {kernel}; its kernels are: {}", session.name_any(), known.join(", "));
    }
    bail!("{}", why_not(&session, kernel))
}

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Says why a kernel of a session cannot be worked in.
fn why_not(session: &Session, kernel: &str) -> String {
    let name = arguments(session);
    let message = session.status.as_ref().and_then(|status| status.message.as_ref()).map(|message| printable(message));
    let message = message.filter(|message| !message.is_empty()).map(|message| format!(": {message}")).unwrap_or_default();
    match session.phase() {
        SessionPhase::Running => format!("kernel {kernel} of session {} is no longer running", session.name_any()),
        phase if phase.is_ending() => format!("session {} is {phase}{message}", session.name_any()),
        phase => format!(
            "session {} is {phase}{message}. Wait for it with: kubectl sokovan wait {name} --for running",
            session.name_any()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::handlers::testing::session_in;
    use serde_json::json;

    fn pod(kernel: &str, attempt: i64) -> Pod {
        let labels = json!({LABEL_KERNEL: kernel, LABEL_GENERATION: attempt.to_string()});
        serde_json::from_value(json!({"metadata": {"name": kernel, "labels": labels}})).expect("a pod")
    }

    #[test]
    fn the_pods_of_the_last_attempt_come_in_the_order_of_their_kernels() {
        let pods = || vec![pod("sub10", 2), pod("main1", 1), pod("sub2", 2), pod("main1", 2)];
        let names = |pods: Vec<Pod>| pods.iter().map(|pod| hostname(pod).to_owned()).collect::<Vec<_>>();
        assert_eq!(names(of_attempt(pods(), None)), ["main1", "sub2", "sub10"]);
        assert_eq!(names(of_attempt(pods(), Some(1))), ["main1"]);
        assert!(of_attempt(pods(), Some(3)).is_empty());
    }

    #[test]
    fn a_session_that_cannot_be_worked_in_says_what_to_do() {
        let waiting = why_not(&session_in(SessionPhase::Pending), "main1");
        assert!(waiting.contains("kubectl sokovan wait s -n ns --for running"), "{waiting}");
        let ended = why_not(&session_in(SessionPhase::Terminated), "main1");
        assert!(ended.contains("is Terminated") && !ended.contains("wait"), "{ended}");
    }
}
