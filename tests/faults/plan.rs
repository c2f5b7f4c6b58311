//! Plans: a path, a fault, and the write at which the fault strikes.

use std::fmt;

/// One write of the operator, with a name that identifies it in other runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub verb: String,
    /// The resource with its subresource.
    pub kind: String,
    /// The last phase that was written before this write, to a session, a route or a deployment.
    pub phase: String,
    /// The position among equal writes, from 1.
    pub occurrence: usize,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = if self.phase.is_empty() { "new" } else { &self.phase };
        write!(f, "{} {} @{phase} #{}", self.verb, self.kind, self.occurrence)
    }
}

/// A fault that strikes at one write.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The operator is killed before the request is sent.
    KillBefore,
    /// The write is carried out, and its response is lost.
    LoseAnswer,
    /// The operator is killed once the write is carried out.
    KillAfter,
    /// The write is not carried out, and the connection breaks.
    Reset,
    /// The write is refused with this code.
    Refuse(u16),
    /// The write is carried out, but answered with 504.
    LateTimeout,
    /// The watch of this kind is silent for a while from then on, and then catches up.
    HoldWatch(String),
    /// All watches break, and cannot resume from their last version.
    Compact,
    /// No request is answered for a while, as if the API server were unreachable.
    Outage,
    /// The operators' API server is killed and restarted during the write, for all plans that run at that time.
    Restart,
    /// The write is slow, and someone else changes the sessions, routes and deployments meanwhile.
    Overtaken,
    /// This and all later requests of the operator, except watches, are held until another operator leads, and then sent.
    Pause,
    /// The operator stops once the write is carried out, and another takes over at once. The other's watch of this kind is
    /// silent from a few writes before until it has led for a while.
    Handover(String),
}

impl Fault {
    /// Returns the faults of a path that affect only their own plan. The kinds of deployments are watched in vain by a path
    /// without any.
    pub fn all(has_deployment: bool) -> Vec<Self> {
        let served: &[&str] = if has_deployment { &["deployments", "routes"] } else { &[] };
        let mut all = vec![Self::KillBefore, Self::LoseAnswer, Self::KillAfter, Self::Reset, Self::LateTimeout];
        all.extend([409, 429, 500, 504].map(Self::Refuse));
        let held = ["sessions", "kernels", "pods", "nodes", "endpointslices"];
        all.extend(held.iter().chain(served).map(|kind| Self::HoldWatch((*kind).into())));
        all.extend([Self::Compact, Self::Outage, Self::Overtaken, Self::Pause]);
        let handed_over = ["sessions", "kernels", "pods"];
        all.extend(handed_over.iter().chain(served).map(|kind| Self::Handover((*kind).into())));
        all
    }

    /// Whether a second operator waits for the lease.
    pub fn has_rival(&self) -> bool {
        matches!(self, Self::Pause | Self::Handover(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::KillBefore => f.write_str("kill-before"),
            Self::LoseAnswer => f.write_str("lose-answer"),
            Self::KillAfter => f.write_str("kill-after"),
            Self::Reset => f.write_str("reset"),
            Self::Refuse(code) => write!(f, "refuse-{code}"),
            Self::LateTimeout => f.write_str("late-timeout"),
            Self::HoldWatch(kind) => write!(f, "hold-{kind}"),
            Self::Compact => f.write_str("compact"),
            Self::Outage => f.write_str("outage"),
            Self::Restart => f.write_str("restart"),
            Self::Overtaken => f.write_str("overtaken"),
            Self::Pause => f.write_str("pause"),
            Self::Handover(kind) => write!(f, "handover-{kind}"),
        }
    }
}

/// One plan. Its name stays valid as long as the paths and their writes do not change.
#[derive(Clone, Debug)]
pub struct Plan {
    pub path: &'static str,
    pub fault: Fault,
    /// The write at which the fault strikes, from 1.
    pub at: usize,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.path, self.fault, self.at)
    }
}
