//! Subject: what a kind of object must say of itself so that the engine can drive it through its phases.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use kube::Resource;
use kube::core::object::HasStatus;

use super::{Handler, Limits, Step, Timing};
use crate::api::{HistoryResult, Progress};

/// A kind of object that lives through phases. Implemented by zero-sized types.
pub trait Subject: Copy + Debug + Send + Sync + Sized + 'static {
    /// The kind, as logs name it.
    const NAME: &'static str;
    type Phase: Phase;
    type HandlerName: HandlerName;
    /// What two handlers must not do at once.
    type Lock: Copy + Debug + Ord + Send + Sync;
    type Uid: Clone + Debug + Eq + From<String> + Hash + Ord + Send + Sync;
    type Object: Resource<DynamicType = ()> + HasStatus<Status = Self::Status> + Clone + Debug + Send + Sync;
    type Status: HasProgress<Phase = Self::Phase>;
    /// One object as a decision sees it.
    type Item: Item<Self>;
    /// What else a decision sees.
    type Snapshot: Snapshot;
    /// What the decisions of one cycle share and use up, or `()`.
    type Shared: Debug + Send;
    type Effect: Effect;
    /// What a verdict changes in the status, besides progress.
    type Change: Clone + Debug + Default + Send + Sync;
    /// What a handler's row says besides what the engine needs.
    type Settings: Debug + Send + Sync;

    /// Every handler of this kind.
    fn table() -> &'static [&'static Handler<Self>];

    fn row(name: Self::HandlerName) -> Option<&'static Handler<Self>> {
        Self::table().iter().find(|handler| handler.name == name).copied()
    }

    /// The limits by which a failure of this handler is classified.
    fn limits(snapshot: &Self::Snapshot, item: &Self::Item, handler: &Handler<Self>) -> Limits;

    /// Whether a change that leads to no other phase says something that the status does not say yet.
    fn is_news(snapshot: &Self::Snapshot, item: &Self::Item, change: &Self::Change, result: HistoryResult) -> bool;

    /// Whether the object waits for a decision over many. The handler that decides writes the observed generation itself.
    fn is_queued(phase: Self::Phase) -> bool;

    /// Applies a step to the fields that are not progress. Returns the pause after a restart.
    fn apply(status: &mut Self::Status, step: &Step<'_, Self>, snapshot: &Self::Snapshot, item: &Self::Item) -> Option<Duration>;

    /// The conditions as the phase implies them. Conditions not listed stay as they are.
    fn conditions(status: &Self::Status) -> Vec<ConditionState>;

    /// About how many bytes of JSON the status takes besides its progress.
    fn bytes_beside_progress(status: &Self::Status) -> usize;

    /// Whether the object has ended in a way that deserves a warning.
    fn has_ended_badly(status: &Self::Status) -> bool;

    /// Whether the object is removed as soon as it has ended, so that its last statuses are written only if that takes long.
    fn is_leaving(_: &Self::Object) -> bool {
        false
    }

    /// Whether a commit takes something that later cycles do not know to be taken.
    fn takes_more(before: Option<&Self::Status>, next: &Self::Status) -> bool;
}

/// A phase of a kind.
pub trait Phase: Copy + Debug + Display + Default + Eq + Ord + Hash + Into<&'static str> + Send + Sync + 'static {
    fn as_str(self) -> &'static str {
        self.into()
    }
    /// A terminal phase is never left.
    fn is_terminal(self) -> bool;
    /// Whether the object is ending or has ended. It then keeps the reason of its end.
    fn is_ending(self) -> bool;
}

/// The name of a handler: what history entries, metrics and marks carry.
pub trait HandlerName: Copy + Debug + Display + Eq + Ord + Hash + Into<&'static str> + Send + Sync + 'static {
    fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A status that contains progress.
pub trait HasProgress: Clone + Debug + Default + PartialEq + Send + Sync {
    type Phase;
    fn progress(&self) -> &Progress<Self::Phase>;
    fn progress_mut(&mut self) -> &mut Progress<Self::Phase>;
}

impl<P, S> HasProgress for S
where
    S: DerefMut<Target = Progress<P>> + Clone + Debug + Default + PartialEq + Send + Sync,
{
    type Phase = P;

    fn progress(&self) -> &Progress<P> {
        self
    }

    fn progress_mut(&mut self) -> &mut Progress<P> {
        self
    }
}

/// One object as a decision sees it.
pub trait Item<S: Subject>: Clone + Debug + Send + Sync {
    /// The object, with deferred commits.
    fn object(&self) -> &Arc<S::Object>;
    fn set_object(&mut self, object: Arc<S::Object>);
    /// The object as the API server has it.
    fn stored(&self) -> &Arc<S::Object>;
    fn uid(&self) -> S::Uid;
    /// Whether it may begin again from its first phase. Returns false while something of it may still run unseen.
    fn may_restart(&self) -> bool;
}

/// What a decision sees besides the objects it decides on.
pub trait Snapshot: Clone + Debug + Send + Sync {
    fn now(&self) -> DateTime<Utc>;
    fn timing(&self) -> &Timing;
    /// What the objects of one cycle have in common, as metrics name it.
    fn partition(&self) -> &str;
}

/// Something to be done at the API server, as data.
pub trait Effect: Clone + Debug + Send + Sync {
    /// The name of the step in the history.
    fn name(&self) -> &'static str;
    /// The object that it is about.
    fn target(&self) -> String;
    /// Whether it may run at the same time as the next one.
    fn may_run_with(&self, next: &Self) -> bool;
    /// Whether the effects after it run although it failed.
    fn may_fail_alone(&self) -> bool;
    /// Whether it changes the version of the object that is decided on.
    fn changes_object(&self) -> bool;
}

/// One condition as the phase implies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConditionState {
    pub type_: &'static str,
    /// None removes the condition.
    pub holds: Option<bool>,
    /// Whether it says what delays the end of an object that is ending.
    pub shows_delay: bool,
    /// Whether the reason of the status is the condition's. Otherwise its reason is the phase.
    pub is_explained: bool,
}

/// The phase of an object; the first one if it was never written.
pub fn phase_of<S: Subject>(object: &S::Object) -> S::Phase {
    object.status().map(|status| status.progress().phase).unwrap_or_default()
}

/// When the current phase of an object began; for one never written, when it was created.
pub fn phase_started_at<S: Subject>(object: &S::Object) -> Option<DateTime<Utc>> {
    let started = object.status().and_then(|status| status.progress().phase_started_at);
    started.or_else(|| created_at(object))
}

/// When an object was created.
pub fn created_at<K: Resource>(object: &K) -> Option<DateTime<Utc>> {
    let time = object.meta().creation_timestamp.as_ref()?;
    DateTime::from_timestamp_millis(time.0.as_millisecond())
}

/// Whether the status of an object was written for an older spec.
pub fn is_outdated<S: Subject>(object: &S::Object) -> bool {
    // A status that is a default of the CRD was never written.
    let written = object.status().map(HasProgress::progress).filter(|progress| progress.observed_generation > 0);
    written.is_some_and(|progress| progress.is_outdated(object.meta().generation))
}
