//! Lamps: a small subject for the engine's own tests. A lamp is switched on, warms up and burns, until it is broken.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use kube::{CustomResource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use super::*;
use crate::api::{HistoryResult, Progress, has_progress};

#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "test.sokovan.dev", version = "v1", kind = "Lamp", status = "LampStatus", derive = "PartialEq")]
pub struct LampSpec {
    pub watts: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LampStatus {
    #[serde(flatten)]
    pub progress: Progress<LampPhase>,
    /// How often it was switched off to begin again.
    pub restarts: i32,
}

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, Display, IntoStaticStr,
)]
pub enum LampPhase {
    #[default]
    Off,
    Plugged,
    Warm,
    Lit,
    Fading,
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, IntoStaticStr)]
pub enum LampHandler {
    Plug,
    Warm,
    Light,
    Break,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LampLock {
    Socket,
    Bulb,
}

/// What tests ask an effect to do.
#[derive(Clone, Debug, PartialEq)]
pub enum LampEffect {
    Plug,
    Turn,
}

#[derive(Clone, Debug)]
pub struct LampItem {
    pub lamp: Arc<Lamp>,
    pub stored: Arc<Lamp>,
}

#[derive(Clone, Debug)]
pub struct Room {
    pub now: DateTime<Utc>,
    pub timing: Arc<Timing>,
}

/// Lamps.
#[derive(Clone, Copy, Debug)]
pub struct Lamps;

/// A lamp of so many watts panics its handler.
pub const EXPLODES: i64 = 666;
/// A lamp of so many watts makes its handler panic when it is to break.
pub const SHATTERS: i64 = 667;
/// A lamp of so many watts waits.
pub const NO_POWER: i64 = 9000;

fn plug(_: &Room, item: &LampItem) -> Verdict<Lamps> {
    match item.lamp.spec.watts {
        EXPLODES => panic!("as planned"),
        NO_POWER => Verdict::failure(Failure::new(Cause::Capacity, Reason::NoAvailableNode, "no power")),
        _ => Verdict::success().effects(vec![LampEffect::Plug, LampEffect::Turn]),
    }
}

fn warm(_: &Room, _: &LampItem) -> Verdict<Lamps> {
    Verdict::success()
}

fn smash(_: &Room, item: &LampItem) -> Verdict<Lamps> {
    assert_ne!(item.lamp.spec.watts, SHATTERS, "as planned");
    Verdict::idle()
}

fn light(_: &Room, items: &mut i64, lamps: &[LampItem]) -> Vec<Verdict<Lamps>> {
    *items -= 1;
    lamps.iter().map(|_| Verdict::success()).collect()
}

const NONE: Handler<Lamps> = Handler { mode: Mode::Acts, ..Handler::base(LampHandler::Plug) };

pub static PLUG: Handler<Lamps> = Handler {
    targets: &[LampPhase::Off],
    transitions: Transitions {
        success: To::phase(LampPhase::Plugged),
        give_up: To::phase(LampPhase::Fading),
        ..Transitions::NONE
    },
    commit: CommitMode::Deferred,
    wakes_on: &[Trigger::CapacityFreed],
    lock: Some(LampLock::Socket),
    decide: Decide::Each(plug),
    ..NONE
};

pub static WARM: Handler<Lamps> = Handler {
    name: LampHandler::Warm,
    targets: &[LampPhase::Plugged],
    transitions: Transitions { success: To::phase(LampPhase::Warm), ..Transitions::NONE },
    mode: Mode::Waits,
    decide: Decide::Each(warm),
    ..NONE
};

pub static LIGHT: Handler<Lamps> = Handler {
    name: LampHandler::Light,
    targets: &[LampPhase::Warm],
    transitions: Transitions { success: To::phase(LampPhase::Lit), ..Transitions::NONE },
    lock: Some(LampLock::Bulb),
    decide: Decide::All(light),
    ..NONE
};

pub static BREAK: Handler<Lamps> = Handler {
    name: LampHandler::Break,
    targets: &[LampPhase::Lit, LampPhase::Fading],
    transitions: Transitions { success: To::phase(LampPhase::Broken), ..Transitions::NONE },
    mode: Mode::Waits,
    follows: &[After::Reaching(LampPhase::Fading)],
    decide: Decide::Each(smash),
    ..NONE
};

impl Subject for Lamps {
    const NAME: &'static str = "lamp";
    type Phase = LampPhase;
    type HandlerName = LampHandler;
    type Lock = LampLock;
    type Uid = String;
    type Object = Lamp;
    type Status = LampStatus;
    type Item = LampItem;
    type Snapshot = Room;
    type Shared = i64;
    type Effect = LampEffect;
    type Change = ();
    type Settings = ();

    fn table() -> &'static [&'static Handler<Self>] {
        static TABLE: [&Handler<Lamps>; 4] = [&PLUG, &WARM, &LIGHT, &BREAK];
        &TABLE
    }

    fn limits(_: &Room, _: &LampItem, _: &Handler<Self>) -> Limits {
        Limits { max_attempts: 2, timeout: Some(Duration::from_secs(60)), counts_capacity: false }
    }

    fn is_news(_: &Room, _: &LampItem, (): &(), _: HistoryResult) -> bool {
        false
    }

    fn is_queued(phase: LampPhase) -> bool {
        phase == LampPhase::Off
    }

    fn apply(status: &mut LampStatus, step: &Step<'_, Self>, _: &Room, _: &LampItem) -> Option<Duration> {
        status.restarts += i32::from(step.restarts());
        None
    }

    fn conditions(status: &LampStatus) -> Vec<ConditionState> {
        let holds = (status.progress.phase != LampPhase::Broken).then_some(status.progress.phase == LampPhase::Lit);
        vec![ConditionState { type_: "Bright", holds, shows_delay: false, is_explained: true }]
    }

    fn bytes_beside_progress(_: &LampStatus) -> usize {
        0
    }

    fn has_ended_badly(status: &LampStatus) -> bool {
        status.progress.phase == LampPhase::Broken
    }

    fn is_leaving(lamp: &Lamp) -> bool {
        lamp.metadata.deletion_timestamp.is_some()
    }

    fn takes_more(_: Option<&LampStatus>, next: &LampStatus) -> bool {
        next.progress.phase == LampPhase::Lit
    }
}

impl Phase for LampPhase {
    fn is_terminal(self) -> bool {
        self == Self::Broken
    }

    fn is_ending(self) -> bool {
        matches!(self, Self::Fading | Self::Broken)
    }
}

impl HandlerName for LampHandler {}

has_progress!(LampStatus, LampPhase);

impl Item<Lamps> for LampItem {
    fn object(&self) -> &Arc<Lamp> {
        &self.lamp
    }

    fn set_object(&mut self, lamp: Arc<Lamp>) {
        self.lamp = lamp;
    }

    fn stored(&self) -> &Arc<Lamp> {
        &self.stored
    }

    fn uid(&self) -> String {
        self.lamp.uid().unwrap_or_default()
    }

    fn may_restart(&self) -> bool {
        true
    }
}

impl Snapshot for Room {
    fn now(&self) -> DateTime<Utc> {
        self.now
    }

    fn timing(&self) -> &Timing {
        &self.timing
    }

    fn partition(&self) -> &str {
        "room"
    }
}

impl Effect for LampEffect {
    fn name(&self) -> &'static str {
        match self {
            Self::Plug => "plug",
            Self::Turn => "turn",
        }
    }

    fn target(&self) -> String {
        "socket".into()
    }

    fn may_run_with(&self, _: &Self) -> bool {
        false
    }

    fn may_fail_alone(&self) -> bool {
        false
    }

    fn changes_object(&self) -> bool {
        false
    }
}

/// A lamp in a phase that began a second ago.
pub fn lamp(name: &str, watts: i64, phase: LampPhase) -> Lamp {
    let mut lamp = Lamp::new(name, LampSpec { watts });
    lamp.metadata.uid = Some(name.into());
    lamp.metadata.generation = Some(1);
    let since = Some(now() - TimeDelta::seconds(1));
    let progress = Progress { phase, phase_started_at: since, observed_generation: 1, ..Progress::default() };
    lamp.status = Some(LampStatus { progress, restarts: 0 });
    lamp
}

pub fn item(lamp: Lamp) -> LampItem {
    let lamp = Arc::new(lamp);
    LampItem { stored: lamp.clone(), lamp }
}

pub fn room() -> Room {
    Room { now: now(), timing: Arc::default() }
}

pub fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::hours(1)
}
