//! Plans: which path is taken, and what harm is done at which write of it.

use std::fmt;

/// One write of the operator, named so that it can be found in another run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub verb: String,
    /// With its subresource.
    pub kind: String,
    /// The phase that was last written to the session before it.
    pub phase: String,
    /// From 1, among equal ones.
    pub occurrence: usize,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = if self.phase.is_empty() { "new" } else { &self.phase };
        write!(f, "{} {} @{phase} #{}", self.verb, self.kind, self.occurrence)
    }
}

/// What harm is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The operator is killed before the request goes out.
    KillBefore,
    /// It is carried out, and the answer is lost.
    LoseAnswer,
    /// The operator is killed when it is carried out.
    KillAfter,
    /// It is not carried out, and the connection breaks.
    Reset,
    /// It is not carried out, and answered with this code.
    Refuse(u16),
    /// It is carried out, and answered with 504.
    LateTimeout,
    /// The watch of this kind says nothing for a while from then on, and catches up.
    HoldWatch(String),
    /// All watches break, and may not go on from where they stood.
    Compact,
    /// Nothing is answered for a while, as if the API server were out of reach.
    Outage,
    /// The operators' API server is killed and started again while it is on its way, for all plans that run at that time.
    Restart,
    /// It is slow, and while it is on its way somebody else changes the sessions.
    Overtaken,
    /// It and all that its operator asks for, watches aside, are held until another leads; then they land, late.
    Pause,
    /// Its operator stops once it is carried out, and another goes on at once, whose watch of this kind says nothing from a
    /// few writes before until it has led for a while.
    Handover(String),
}

impl Fault {
    /// All that harm only the plan they are for.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::KillBefore, Self::LoseAnswer, Self::KillAfter, Self::Reset, Self::LateTimeout];
        all.extend([409, 429, 500, 504].map(Self::Refuse));
        all.extend(["sessions", "kernels", "pods", "nodes", "endpointslices"].map(|kind| Self::HoldWatch(kind.into())));
        all.extend([Self::Compact, Self::Outage, Self::Overtaken, Self::Pause]);
        all.extend(["sessions", "kernels", "pods"].map(|kind| Self::Handover(kind.into())));
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

/// One plan; its number stays the same as long as the paths and their writes do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub path: &'static str,
    pub fault: Fault,
    /// At which write, from 1.
    pub at: usize,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.path, self.fault, self.at)
    }
}
