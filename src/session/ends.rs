//! How a kernel ended, by one rule: the same whether the operator saw the end live or finds it later (docs/lifecycle.md).

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
    /// The pod vanished without telling how it ended.
    PodGone,
    OutOfMemory,
    ContainerNotStarted,
    /// The kubelet lost track of the container.
    ContainerStatusUnknown,
    ImagePullFailed,
    /// The program exited of its own accord.
    ExitCode,
}

impl EndCause {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The cause that a kernel's record names, if it is one of these.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    /// Whether it lies outside the session: neither its program nor its spec is to blame.
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
            | Self::ContainerNotStarted
            | Self::ContainerStatusUnknown
            | Self::ImagePullFailed
            | Self::ExitCode => false,
        }
    }

    /// The reason that its session gives for the end.
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

/// How a pod ended, or why it is ending. None while nothing ends it.
///
/// A disruption outranks the exit code: a program that saves its state and exits with 0 when it is evicted has not done
/// its work. A pod that had ended before somebody deleted it keeps its own end.
pub fn end_of(pod: &PodView) -> Option<End> {
    let exit_code = match &pod.main {
        MainState::Ended { exit_code, .. } => Some(*exit_code),
        MainState::Unknown | MainState::Waiting { .. } | MainState::Running { .. } => None,
    };
    let disrupted = if pod.ended || pod.deleting { disruption(pod) } else { None };
    // A deletion changes nothing about an end that was reported before it.
    let disrupted = disrupted.filter(|_| !(is_deletion_alone(pod) && ended_before_deletion(pod)));
    let (cause, message) = match disrupted {
        Some(disrupted) => disrupted,
        None if pod.ended || pod.main_end().is_some() => own_end(pod),
        None => return None,
    };
    Some(End { cause, message, exit_code })
}

/// Why the operator itself deletes the pods of a session that is ending.
pub fn own_deletion(session: &Session) -> Option<(String, String)> {
    let status = session.status.as_ref().filter(|_| session.phase().is_ending())?;
    let message = status.message.as_deref().unwrap_or_default();
    let own = status.reason.filter(|reason| !is_of_a_kernel(*reason)).unwrap_or(Reason::SessionEnded);
    Some((own.as_str().to_owned(), format!("its session ended: {message}")))
}

/// Whether the end of a kernel gave the session this reason.
fn is_of_a_kernel(reason: Reason) -> bool {
    let is_cause = EndCause::iter().any(|cause| cause.reason() == reason);
    is_cause || matches!(reason, Reason::BatchFinished | Reason::ExitCode | Reason::Unknown)
}

/// Whether a session with this reason was disrupted from outside.
pub fn is_disruption(reason: Reason) -> bool {
    EndCause::iter().any(|cause| cause.is_disruption() && cause.reason() == reason)
}

/// Whether the kubelet reported the end before it knew of a deletion: then it has stopped nothing. No clock decides.
fn ended_before_deletion(pod: &PodView) -> bool {
    pod.ended && pod.deleting && pod.reported_before_deletion && matches!(pod.main, MainState::Ended { .. })
}

/// Whether nothing but a deletion disrupted the pod: no kubelet that evicted it, and no loss of its node.
fn is_deletion_alone(pod: &PodView) -> bool {
    const BY_DELETION: [&str; 3] = ["PreemptionByScheduler", "EvictionByEvictionAPI", "DeletionByTaintManager"];
    let deleted = pod.disruption.as_ref().is_none_or(|disruption| BY_DELETION.contains(&disruption.reason.as_str()));
    deleted && pod.reason.is_none()
}

/// The disruption that ended or is ending a pod, if there is one.
fn disruption(pod: &PodView) -> Option<(EndCause, String)> {
    let kubelet = after_colon(pod.message.as_deref().unwrap_or_default());
    if let Some(disruption) = &pod.disruption {
        let told = after_colon(&disruption.message);
        return Some(match (disruption.reason.as_str(), pod.reason.as_deref()) {
            ("PreemptionByScheduler", _) => (EndCause::Preempted, format!("preempted{told}")),
            ("EvictionByEvictionAPI", _) => {
                (EndCause::Drained, format!("evicted through the Eviction API, as a drain does{told}"))
            }
            ("DeletionByTaintManager", _) => (EndCause::Evicted, format!("evicted because of a taint of its node{told}")),
            ("DeletionByPodGC", _) => (EndCause::NodeLost, format!("removed with its node{told}")),
            ("TerminationByKubelet", Some("Preempting")) => (EndCause::Preempted, format!("preempted by the kubelet{kubelet}")),
            ("TerminationByKubelet", Some("Terminated" | "NodeShutdown")) => {
                (EndCause::Drained, format!("stopped because its node shuts down{kubelet}"))
            }
            _ => (EndCause::Evicted, format!("evicted{}", if kubelet.is_empty() { told } else { kubelet })),
        });
    }
    match pod.reason.as_deref() {
        Some("Evicted") => return Some((EndCause::Evicted, format!("evicted{kubelet}"))),
        Some("NodeLost") => return Some((EndCause::NodeLost, format!("its node is lost{kubelet}"))),
        Some("DeadlineExceeded") => {
            return Some((EndCause::DeadlineExceeded, format!("ran for longer than its pod may{kubelet}")));
        }
        // A kubelet that refuses a pod reports its end without ever having started a container.
        Some(reason) if pod.ended && !pod.has_started() => {
            return Some((EndCause::AdmissionRefused, format!("the kubelet refused its pod: {reason}{kubelet}")));
        }
        Some(_) | None => {}
    }
    pod.deleting.then(|| (EndCause::PodDeleted, "its pod was deleted by somebody other than the operator".to_owned()))
}

/// `: text`, or nothing.
fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// How a pod ended that nothing outside ended.
fn own_end(pod: &PodView) -> (EndCause, String) {
    let MainState::Ended { exit_code, reason, message, .. } = &pod.main else {
        let words = [pod.reason.as_deref(), pod.message.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(": ");
        return (EndCause::ContainerStatusUnknown, format!("its pod ended without telling how: {words}"));
    };
    let told = after_colon(message);
    match reason.as_str() {
        "OOMKilled" => (EndCause::OutOfMemory, format!("OOMKilled: the kernel ran out of memory (exit code {exit_code}){told}")),
        "ContainerStatusUnknown" => (EndCause::ContainerStatusUnknown, format!("ContainerStatusUnknown{told}")),
        "StartError" | "ContainerCannotRun" => (EndCause::ContainerNotStarted, format!("{reason}{told}")),
        _ => (EndCause::ExitCode, format!("exited with {exit_code}{told}")),
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
    fn a_program_that_exits_of_its_own_accord_is_judged_by_its_exit_code() {
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
        let evicted = PodView { reason: Some("Evicted".into()), message: Some("low on memory".into()), ..exited(0, "Completed") };
        assert_eq!(end_of(&evicted).map(|end| end.message).as_deref(), Some("evicted: low on memory"));
        let deleted = PodView { deleting: true, ..exited(0, "Completed") };
        assert_eq!(cause(&deleted), Some(EndCause::PodDeleted));
    }

    #[test]
    fn an_end_before_the_deletion_stays_what_it_was() {
        let deleted = |reported_before_deletion| {
            let disruption = disrupted_by("EvictionByEvictionAPI");
            cause(&PodView { deleting: true, disruption, reported_before_deletion, ..exited(0, "Completed") })
        };
        assert_eq!(deleted(true), Some(EndCause::ExitCode));
        assert_eq!(deleted(false), Some(EndCause::Drained), "its end followed the deletion");
        let reason = Some("Evicted".to_owned());
        let by_kubelet = PodView { deleting: true, reported_before_deletion: true, reason, ..exited(0, "Completed") };
        assert_eq!(cause(&by_kubelet), Some(EndCause::Evicted), "the eviction was before either");
    }

    #[test]
    fn a_pod_that_no_container_of_started_in_was_refused_by_the_kubelet() {
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
