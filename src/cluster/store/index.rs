//! Indexes over the stores: sessions by scaling group and phase, and the objects of each session.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::table::Key;
use crate::api::{GroupName, SessionPhase, SessionUid};
use crate::provisioner::{EquivalenceClass, EquivalenceClasses};

/// The scaling group of a session, if one accepts it, and its phase.
pub type Place = (Option<GroupName>, SessionPhase);

/// The indexes.
#[derive(Default)]
pub struct Index {
    pub key_of: HashMap<SessionUid, Key>,
    by_place: BTreeMap<Option<GroupName>, HashMap<SessionPhase, BTreeSet<SessionUid>>>,
    place_of: HashMap<SessionUid, Place>,
    /// Pending sessions that name no scaling group. Changes of scaling groups and projects may assign them to another one.
    pub unassigned: HashSet<SessionUid>,
    /// Sessions with a template that they have not recorded yet. A change of the template changes their kernels.
    pub templated: HashSet<SessionUid>,
    pub kernels_of: Keys<SessionUid>,
    pub pods_of: Keys<SessionUid>,
    pub slices_of: Keys<SessionUid>,
    classes: EquivalenceClasses,
    pub class_of: HashMap<SessionUid, Arc<EquivalenceClass>>,
    /// The sessions that depend on the session of this namespace and name, which may not exist.
    pub dependents_of: HashMap<Key, BTreeSet<SessionUid>>,
}

/// The keys of objects by the uid of the object that they belong to.
pub struct Keys<U>(HashMap<U, BTreeSet<Key>>);

impl<U> Default for Keys<U> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<U: Eq + std::hash::Hash> Keys<U> {
    pub fn of(&self, uid: &U) -> impl Iterator<Item = &Key> {
        self.0.get(uid).into_iter().flatten()
    }

    pub fn count(&self, uid: &U) -> usize {
        self.0.get(uid).map_or(0, BTreeSet::len)
    }

    pub fn owners(&self) -> impl Iterator<Item = &U> {
        self.0.keys()
    }

    pub fn insert(&mut self, uid: U, key: Key) {
        self.0.entry(uid).or_default().insert(key);
    }

    pub fn remove(&mut self, uid: &U, key: &Key) {
        if let Some(keys) = self.0.get_mut(uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.0.remove(uid);
            }
        }
    }
}

impl Index {
    pub fn place(&self, uid: &SessionUid) -> Option<&Place> {
        self.place_of.get(uid)
    }

    pub fn phase(&self, uid: &SessionUid) -> Option<SessionPhase> {
        self.place(uid).map(|(_, phase)| *phase)
    }

    /// Moves a session to a place. Returns the place that it left, if any.
    pub fn put(&mut self, uid: &SessionUid, place: Place) -> Option<Place> {
        if self.place_of.get(uid) == Some(&place) {
            return None;
        }
        let old = self.take_out(uid);
        self.by_place.entry(place.0.clone()).or_default().entry(place.1).or_default().insert(uid.clone());
        self.place_of.insert(uid.clone(), place);
        old
    }

    /// Removes a session from its place. Returns that place.
    pub fn take_out(&mut self, uid: &SessionUid) -> Option<Place> {
        let (group, phase) = self.place_of.remove(uid)?;
        if let Some(uids) = self.by_place.get_mut(&group).and_then(|phases| phases.get_mut(&phase)) {
            uids.remove(uid);
        }
        Some((group, phase))
    }

    /// Returns the sessions of a scaling group in a phase.
    pub fn sessions(&self, group: &Option<GroupName>, phase: SessionPhase) -> impl Iterator<Item = &SessionUid> {
        self.by_place.get(group).and_then(|phases| phases.get(&phase)).into_iter().flatten()
    }

    /// Returns all sessions in a phase, with their scaling groups.
    pub fn in_phase(&self, phase: SessionPhase) -> impl Iterator<Item = (&Option<GroupName>, &SessionUid)> {
        self.by_place
            .iter()
            .flat_map(move |(group, phases)| phases.get(&phase).into_iter().flatten().map(move |uid| (group, uid)))
    }

    /// Returns the scaling groups that have sessions, by name. A group of this name may not exist.
    pub fn populated_groups(&self) -> impl Iterator<Item = &Option<GroupName>> {
        let is_populated = |phases: &HashMap<_, BTreeSet<_>>| phases.values().any(|sessions| !sessions.is_empty());
        self.by_place.iter().filter(move |(_, phases)| is_populated(phases)).map(|(group, _)| group)
    }

    /// Returns the sessions that hold resources.
    pub fn holding(&self) -> Vec<SessionUid> {
        self.place_of.iter().filter(|(_, (_, phase))| phase.holds_resources()).map(|(uid, _)| uid.clone()).collect()
    }

    /// Finds the equivalence class of a new session.
    pub fn classify(&mut self, uid: &SessionUid, session: &crate::api::Session) {
        let classes = &mut self.classes;
        self.class_of.entry(uid.clone()).or_insert_with(|| classes.of(session));
    }
}
