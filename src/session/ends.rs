//! Finds how a kernel ended, from its pod alone. The answer is the same whether the operator saw the end live or finds it
//! later (docs/lifecycle.md#how-a-kernel-ended).

use strum::{EnumIter, EnumString, IntoEnumIterator, IntoStaticStr};

use crate::api::{Reason, Session};

use crate::views::{MainState, PodView};

/// The cause of a kernel's end. The variant's name is the reason in the kernel's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumString, EnumIter)]
pub enum EndCause {
    NodeLost,
    StaleKernel,
    Preempted,
    Drained,
    Evicted,
    AdmissionRefused,
    DeadlineExceeded,
    /// Somebody other than the operator deleted the pod.
    PodDeleted,
    /// The pod vanished without a report of its end.
    PodGone,
    OutOfMemory,
    /// The pod wrote more to the node's disk than it may.
    DiskLimitExceeded,
    ContainerNotStarted,
    /// The kubelet lost track of the container.
    ContainerStatusUnknown,
    ImagePullFailed,
    /// The program exited by itself.
    ExitCode,
}

impl EndCause {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Returns the cause that a kernel's record names, if it names one.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    /// Whether the cause lies outside the session: neither its program nor its spec is at fault.
    pub fn is_disruption(self) -> bool {
        match self {
            Self::NodeLost
            | Self::StaleKernel
            | Self::Preempted
            | Self::Drained
            | Self::Evicted
            | Self::AdmissionRefused
            | Self::PodDeleted => true,
            Self::DeadlineExceeded
            | Self::PodGone
            | Self::OutOfMemory
            | Self::DiskLimitExceeded
            | Self::ContainerNotStarted
            | Self::ContainerStatusUnknown
            | Self::ImagePullFailed
            | Self::ExitCode => false,
        }
    }

    /// Returns the reason that the session reports for this end.
    pub fn reason(self) -> Reason {
        match self {
            Self::NodeLost => Reason::NodeLost,
            Self::StaleKernel => Reason::StaleKernel,
            Self::Preempted => Reason::Preempted,
            Self::Drained => Reason::Drained,
            Self::Evicted => Reason::Evicted,
            Self::AdmissionRefused => Reason::AdmissionRefused,
            Self::DeadlineExceeded => Reason::DeadlineExceeded,
            Self::PodDeleted => Reason::PodDeleted,
            Self::PodGone => Reason::PodGone,
            Self::OutOfMemory => Reason::OutOfMemory,
            Self::DiskLimitExceeded => Reason::DiskLimitExceeded,
            Self::ContainerNotStarted => Reason::ContainerNotStarted,
            Self::ContainerStatusUnknown | Self::ExitCode => Reason::AbnormalTermination,
            Self::ImagePullFailed => Reason::ImagePullFailed,
        }
    }
}

/// How a kernel's pod ended, or is ending.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub cause: EndCause,
    pub message: String,
    /// The main container's exit code, if it exited.
    pub exit_code: Option<i32>,
}

/// Returns how a pod ended, or why it is ending. None while it is not ending.
///
/// A disruption outranks the exit code: an evicted program that saves its state and exits with 0 has not done its work.
/// A pod that ended before it was deleted keeps its own end.
pub fn end_of(pod: &PodView) -> Option<End> {
    let exit_code = match &pod.main {
        MainState::Ended { exit_code, .. } => Some(*exit_code),
        MainState::Unknown | MainState::Waiting { .. } | MainState::Running { .. } => None,
    };
    let disruption = if pod.ended || pod.deleting { disruption(pod) } else { None };
    // A deletion does not change an end that was reported before it.
    let disruption = disruption.filter(|_| !(is_deletion_alone(pod) && ended_before_deletion(pod)));
    let (cause, message) = match disruption {
        Some(disruption) => disruption,
        None if pod.ended || pod.main_end().is_some() => own_end(pod),
        None => return None,
    };
    Some(End { cause, message, exit_code })
}

/// Returns the reason and message for pods that the operator itself deletes because their session is ending.
pub fn own_deletion(session: &Session) -> Option<(String, String)> {
    let status = session.status.as_ref().filter(|_| session.phase().is_ending())?;
    let message = status.message.as_deref().unwrap_or_default();
    let reason = status.reason.filter(|reason| !comes_from_a_kernel(*reason)).unwrap_or(Reason::SessionEnded);
    Some((reason.as_str().to_owned(), format!("its session ended: {message}")))
}

/// Whether the session has this reason because one of its kernels ended.
fn comes_from_a_kernel(reason: Reason) -> bool {
    let is_cause = EndCause::iter().any(|cause| cause.reason() == reason);
    is_cause || matches!(reason, Reason::BatchFinished | Reason::ExitCode | Reason::Unknown)
}

/// Whether this reason of a session is a disruption from outside.
pub fn is_disruption(reason: Reason) -> bool {
    EndCause::iter().any(|cause| cause.is_disruption() && cause.reason() == reason)
}

/// Whether the kubelet reported the end before it knew of the deletion, so that the deletion did not cause it. The answer
/// comes from generations, not from clocks.
fn ended_before_deletion(pod: &PodView) -> bool {
    pod.ended && pod.deleting && pod.reported_before_deletion && matches!(pod.main, MainState::Ended { .. })
}

/// Whether only a deletion disrupted the pod: no kubelet evicted it, and its node was not lost.
fn is_deletion_alone(pod: &PodView) -> bool {
    const BY_DELETION: [&str; 3] = ["PreemptionByScheduler", "EvictionByEvictionAPI", "DeletionByTaintManager"];
    let deleted = pod.disruption.as_ref().is_none_or(|disruption| BY_DELETION.contains(&disruption.reason.as_str()));
    deleted && pod.reason.is_none()
}

/// Returns the disruption that ended or is ending a pod, if there is one.
fn disruption(pod: &PodView) -> Option<(EndCause, String)> {
    let kubelet = after_colon(pod.message.as_deref().unwrap_or_default());
    if let Some(disruption) = &pod.disruption {
        let details = after_colon(&disruption.message);
        return Some(match (disruption.reason.as_str(), pod.reason.as_deref()) {
            ("PreemptionByScheduler", _) => (EndCause::Preempted, format!("preempted{details}")),
            ("EvictionByEvictionAPI", _) => {
                (EndCause::Drained, format!("evicted through the Eviction API, as a drain does{details}"))
            }
            ("DeletionByTaintManager", _) => (EndCause::Evicted, format!("evicted because of a taint on its node{details}")),
            ("DeletionByPodGC", _) => (EndCause::NodeLost, format!("removed with its node{details}")),
            ("TerminationByKubelet", Some("Preempting")) => (EndCause::Preempted, format!("preempted by the kubelet{kubelet}")),
            ("TerminationByKubelet", Some("Terminated" | "NodeShutdown")) => {
                (EndCause::Drained, format!("stopped because its node shuts down{kubelet}"))
            }
            _ => (EndCause::Evicted, format!("evicted{}", if kubelet.is_empty() { details } else { kubelet })),
        });
    }
    match pod.reason.as_deref() {
        // A kubelet that evicts a pod for the node's sake sets a condition. It sets none for a pod that exceeds its own limit.
        Some("Evicted") => return Some((EndCause::DiskLimitExceeded, format!("evicted{kubelet}"))),
        Some("NodeLost") => return Some((EndCause::NodeLost, format!("its node is lost{kubelet}"))),
        Some("DeadlineExceeded") => {
            return Some((EndCause::DeadlineExceeded, format!("its pod ran for longer than activeDeadlineSeconds{kubelet}")));
        }
        // A kubelet that refuses a pod reports its end without having started a container.
        Some(reason) if pod.ended && !pod.has_started() => {
            return Some((EndCause::AdmissionRefused, format!("the kubelet refused its pod: {reason}{kubelet}")));
        }
        Some(_) | None => {}
    }
    pod.deleting.then(|| (EndCause::PodDeleted, "its pod was deleted by somebody other than the operator".to_owned()))
}

/// Returns `: text`, or an empty string for an empty text.
fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// Returns how a pod ended by itself.
fn own_end(pod: &PodView) -> (EndCause, String) {
    let MainState::Ended { exit_code, reason, message, .. } = &pod.main else {
        let words = [pod.reason.as_deref(), pod.message.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(": ");
        return (EndCause::ContainerStatusUnknown, format!("its pod ended without a report of its container: {words}"));
    };
    let details = after_colon(message);
    match reason.as_str() {
        "OOMKilled" => {
            (EndCause::OutOfMemory, format!("OOMKilled: the kernel ran out of memory (exit code {exit_code}){details}"))
        }
        "ContainerStatusUnknown" => (EndCause::ContainerStatusUnknown, format!("ContainerStatusUnknown{details}")),
        "StartError" | "ContainerCannotRun" => (EndCause::ContainerNotStarted, format!("{reason}{details}")),
        _ => (EndCause::ExitCode, format!("exited with {exit_code}{details}")),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;
    use crate::views::Disruption;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    /// A pod whose program ran from second 10 to second 20.
    fn exited(exit_code: i32, reason: &str) -> PodView {
        let main = MainState::Ended {
            exit_code,
            reason: reason.into(),
            message: String::new(),
            started_at: Some(at(10)),
            finished_at: Some(at(20)),
        };
        PodView { ended: true, main, ..PodView::default() }
    }

    fn disrupted_by(reason: &str) -> Option<Disruption> {
        Some(Disruption { reason: reason.into(), message: "words".into() })
    }

    fn cause(pod: &PodView) -> Option<EndCause> {
        end_of(pod).map(|end| end.cause)
    }

    #[test]
    fn a_program_that_exits_by_itself_ends_with_its_exit_code() {
        let end = end_of(&exited(0, "Completed")).expect("an end");
        assert_eq!((end.cause, end.exit_code, end.message.as_str()), (EndCause::ExitCode, Some(0), "exited with 0"));
        assert_eq!(cause(&PodView::default()), None);
        assert_eq!(cause(&exited(137, "OOMKilled")), Some(EndCause::OutOfMemory));
        assert_eq!(cause(&exited(128, "StartError")), Some(EndCause::ContainerNotStarted));
    }

    #[test]
    fn a_disruption_outranks_an_exit_code_of_0() {
        for (by, reason, expected) in [
            ("PreemptionByScheduler", None, EndCause::Preempted),
            ("EvictionByEvictionAPI", None, EndCause::Drained),
            ("DeletionByTaintManager", None, EndCause::Evicted),
            ("DeletionByPodGC", None, EndCause::NodeLost),
            ("TerminationByKubelet", Some("Preempting"), EndCause::Preempted),
            ("TerminationByKubelet", Some("Terminated"), EndCause::Drained),
            ("TerminationByKubelet", Some("Evicted"), EndCause::Evicted),
        ] {
            let pod = PodView { disruption: disrupted_by(by), reason: reason.map(str::to_owned), ..exited(0, "Completed") };
            let end = end_of(&pod).expect("an end");
            assert_eq!((end.cause, end.exit_code), (expected, Some(0)), "{by}");
            assert!(end.cause.is_disruption(), "{by}");
        }
        let limit = Some("Usage of EmptyDir volume \"scratch-0\" exceeds the limit".into());
        let evicted =
            end_of(&PodView { reason: Some("Evicted".into()), message: limit, ..exited(137, "Error") }).expect("an end");
        assert!(evicted.cause == EndCause::DiskLimitExceeded && !evicted.cause.is_disruption(), "its own fault");
        assert_eq!(evicted.message, "evicted: Usage of EmptyDir volume \"scratch-0\" exceeds the limit");
        let deleted = PodView { deleting: true, ..exited(0, "Completed") };
        assert_eq!(cause(&deleted), Some(EndCause::PodDeleted));
    }

    #[test]
    fn an_end_reported_before_the_deletion_is_kept() {
        let deleted = |reported_before_deletion| {
            let disruption = disrupted_by("EvictionByEvictionAPI");
            cause(&PodView { deleting: true, disruption, reported_before_deletion, ..exited(0, "Completed") })
        };
        assert_eq!(deleted(true), Some(EndCause::ExitCode));
        assert_eq!(deleted(false), Some(EndCause::Drained), "the deletion caused the end");
        let (reason, disruption) = (Some("Evicted".to_owned()), disrupted_by("TerminationByKubelet"));
        let by_kubelet = PodView { deleting: true, reported_before_deletion: true, reason, disruption, ..exited(0, "Completed") };
        assert_eq!(cause(&by_kubelet), Some(EndCause::Evicted), "the kubelet's eviction came first");
    }

    #[test]
    fn a_pod_that_ended_before_any_container_started_was_refused_by_the_kubelet() {
        let refused = PodView {
            ended: true,
            reason: Some("OutOfcpu".into()),
            message: Some("Node didn't have enough resource".into()),
            ..PodView::default()
        };
        let end = end_of(&refused).expect("an end");
        assert_eq!(end.cause, EndCause::AdmissionRefused);
        assert_eq!(end.message, "the kubelet refused its pod: OutOfcpu: Node didn't have enough resource");
    }

    #[test]
    fn every_cause_can_be_read_back_from_a_record() {
        for cause in [EndCause::NodeLost, EndCause::Drained, EndCause::OutOfMemory, EndCause::ExitCode] {
            assert_eq!(EndCause::parse(cause.as_str()), Some(cause));
        }
        assert_eq!(EndCause::parse("Error"), None);
    }
}
