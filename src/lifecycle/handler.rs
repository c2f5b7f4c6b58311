//! A handler's row: everything the engine knows about a handler.

use std::fmt::Debug;

use super::{Class, Subject, Trace, Verdict};

/// The step that all objects of one run share.
pub type Overview<S> = fn(&<S as Subject>::Snapshot, &[<S as Subject>::Item]) -> Trace;
/// The sub-steps of a decision on one object.
pub type Tracer<S> = fn(&<S as Subject>::Item, &Verdict<S>) -> Vec<Trace>;
pub type DecideEach<S> = fn(&<S as Subject>::Snapshot, &<S as Subject>::Item) -> Verdict<S>;
pub type DecideAll<S> = fn(&<S as Subject>::Snapshot, &mut <S as Subject>::Shared, &[<S as Subject>::Item]) -> Vec<Verdict<S>>;

/// A handler's row in the table of its kind. No other place knows a handler by name.
#[derive(Debug)]
pub struct Handler<S: Subject> {
    pub name: S::HandlerName,
    /// The phases of the objects that it decides on.
    pub targets: &'static [S::Phase],
    pub transitions: Transitions<S>,
    pub mode: Mode<S>,
    /// When it may run within the commit of another handler.
    pub follows: &'static [After<S>],
    pub commit: CommitMode,
    /// What makes it evaluate all its objects again, besides changes of the objects themselves.
    pub wakes_on: &'static [Trigger],
    /// Two handlers with the same lock never run at once.
    pub lock: Option<S::Lock>,
    /// The step that all objects of one run share in their history.
    pub overview: Option<Overview<S>>,
    /// The steps that a decision leaves in the history besides its effects.
    pub trace: Option<Tracer<S>>,
    pub settings: S::Settings,
    pub decide: Decide<S>,
}

/// How attempts and time count for a handler.
#[derive(Debug)]
pub enum Mode<S: Subject> {
    /// It acts. Failed attempts count, and a fault pauses it.
    Acts,
    /// It decides in memory. Failed attempts count, but it evaluates on every mark: the object moves on as soon as the cause is
    /// fixed.
    Evaluates,
    /// It waits. Its clock is the phase's, and it never gives up.
    Waits,
    /// It sends objects back to their first phase. The function counts how often, since other steps succeed in between.
    Restarts(fn(&S::Snapshot, &S::Item) -> i32),
}

impl<S: Subject> Handler<S> {
    pub fn waits(&self) -> bool {
        matches!(self.mode, Mode::Waits)
    }

    pub fn evaluates(&self) -> bool {
        matches!(self.mode, Mode::Evaluates)
    }

    /// The handler that may run in the same commit, after `after` has led to `reached`, or has left the object in its phase.
    pub fn follower(after: S::HandlerName, reached: Option<S::Phase>) -> Option<&'static Self> {
        let is_next = |condition: &After<S>| match *condition {
            After::Reaching(phase) => reached == Some(phase),
            After::Staying(name) => reached.is_none() && after == name,
        };
        S::table().iter().find(|handler| handler.follows.iter().any(is_next)).copied()
    }
}

impl<S: Subject<Settings = ()>> Handler<S> {
    /// A row that waits and decides nothing. Rows of kinds without settings name only what differs.
    pub const fn base(name: S::HandlerName) -> Self {
        Self {
            name,
            targets: &[],
            transitions: Transitions::NONE,
            mode: Mode::Waits,
            follows: &[],
            commit: CommitMode::Now,
            wakes_on: &[],
            lock: None,
            overview: None,
            trace: None,
            settings: (),
            decide: Decide::Each(idle),
        }
    }
}

fn idle<S: Subject>(_: &S::Snapshot, _: &S::Item) -> Verdict<S> {
    Verdict::idle()
}

/// When a handler may follow another within one commit. Its effects must not need the earlier step committed.
#[derive(Debug)]
pub enum After<S: Subject> {
    /// A step led to this phase.
    Reaching(S::Phase),
    /// A step of this handler left the object in its phase.
    Staying(S::HandlerName),
}

/// When a step of a handler is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitMode {
    Now,
    /// With the next step, if that follows soon. Only for a success that changes no allocation and no result: after a crash the
    /// effects are done again.
    Deferred,
    /// As `Now`, except that a wait is written with the next step, if that follows soon. After a crash the effects are done again.
    WaitDeferred,
}

/// A change outside an object that a handler may have waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Resources, a quota or a place in the queue became free.
    CapacityFreed,
    /// A tenant, a policy, a scaling group or a volume changed.
    TenancyChanged,
    NodeChanged,
    /// An object that this one depends on appeared, ended or was removed.
    DependencyChanged,
    /// An object that depends on this one changed.
    DependentChanged,
}

/// Declares the names of a kind's handlers and the table of their rows. To add a handler, add its file, its `mod` and a line.
macro_rules! handlers {
    ($kind:ty: $($module:ident => $name:ident,)+) => {
        /// The name of a handler, as history entries, metrics and marks use it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, strum::Display, strum::IntoStaticStr)]
        #[strum(serialize_all = "kebab-case")]
        pub enum HandlerName {
            $($name,)+
        }

        impl $crate::lifecycle::HandlerName for HandlerName {}

        /// The rows of all handlers.
        pub static HANDLERS: &[&$crate::lifecycle::Handler<$kind>] = &[$(&$module::ROW,)+];
    };
}
pub(crate) use handlers;

/// Declares the exits of a handler: an enum for its verdicts, and the list for its row.
macro_rules! exits {
    ($kind:ty: $($phase:ident),+) => {
        #[derive(Clone, Copy)]
        enum Exit {
            $($phase,)+
        }

        impl Exit {
            const PHASES: &[<$kind as $crate::lifecycle::Subject>::Phase] = {
                type Phase = <$kind as $crate::lifecycle::Subject>::Phase;
                &[$(Phase::$phase,)+]
            };
        }

        impl $crate::lifecycle::Exit<$kind> for Exit {
            fn phase(self) -> <$kind as $crate::lifecycle::Subject>::Phase {
                type Phase = <$kind as $crate::lifecycle::Subject>::Phase;
                match self {
                    $(Self::$phase => Phase::$phase,)+
                }
            }
        }
    };
}
pub(crate) use exits;

/// Where an object goes, and whether it begins again from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To<P> {
    pub phase: P,
    /// Whether what it was given is given back.
    pub restarts: bool,
}

impl<P> To<P> {
    pub const fn phase(phase: P) -> Option<Self> {
        Some(Self { phase, restarts: false })
    }

    pub const fn restart(phase: P) -> Option<Self> {
        Some(Self { phase, restarts: true })
    }
}

/// Where each result leads. None keeps the phase.
#[derive(Debug)]
pub struct Transitions<S: Subject> {
    pub success: Option<To<S::Phase>>,
    /// The phases of the handler's [`Exit`]: those that a success may name instead.
    pub exits: &'static [S::Phase],
    pub need_retry: Option<To<S::Phase>>,
    pub expired: Option<To<S::Phase>>,
    pub give_up: Option<To<S::Phase>>,
    /// When something the object needs is on hold, or a quota of the cluster rejects an effect.
    pub refused: Option<To<S::Phase>>,
}

impl<S: Subject> Transitions<S> {
    pub const NONE: Self = Self { success: None, exits: &[], need_retry: None, expired: None, give_up: None, refused: None };

    pub fn of(&self, class: Class) -> Option<To<S::Phase>> {
        match class {
            Class::GiveUp => self.give_up,
            Class::Expired => self.expired,
            Class::NeedRetry => self.need_retry,
        }
    }
}

/// The phases that a handler's success may name besides the row's own: an enum of the handler, so that no other compiles.
pub trait Exit<S: Subject>: Copy {
    fn phase(self) -> S::Phase;
}

/// How a handler decides.
#[derive(Debug)]
pub enum Decide<S: Subject> {
    /// On each object by itself.
    Each(DecideEach<S>),
    /// On all of them, with what they use up. Returns one verdict for each, in their order.
    All(DecideAll<S>),
}

// Derives would ask for the same of every type that the function pointers mention.
impl<S: Subject> Clone for Decide<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Subject> Copy for Decide<S> {}

impl<S: Subject> Clone for Mode<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Subject> Copy for Mode<S> {}

impl<S: Subject> Clone for After<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Subject> Copy for After<S> {}
