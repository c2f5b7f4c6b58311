//! A store of one kind whose versions never go back. It contains our own writes before the watch reports them, and an older
//! version from the watch does not replace them.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Namespace and name.
pub type Key = (String, String);

struct Row<V> {
    version: u64,
    value: V,
    touched: Instant,
}

/// Objects of one kind by key, each at its newest known version.
pub struct Table<V> {
    rows: HashMap<Key, Row<V>>,
    listing: Option<(Instant, HashSet<Key>)>,
    /// The last version of removed objects, and when they were removed. The answer to our own write may come after the
    /// removal.
    tombstones: HashMap<Key, (u64, Instant)>,
    /// Objects that cannot be read in their present version.
    unreadable: HashSet<Key>,
    synced: bool,
}

/// Beyond this number, tombstones older than [`TOMBSTONE_AGE`] are dropped. No answer comes later than that.
const MAX_TOMBSTONES: usize = 4096;
const TOMBSTONE_AGE: Duration = Duration::from_secs(60);

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { rows: HashMap::new(), listing: None, tombstones: HashMap::new(), unreadable: HashSet::new(), synced: false }
    }
}

impl<V> Table<V> {
    pub fn get(&self, key: &Key) -> Option<&V> {
        self.rows.get(key).map(|row| &row.value)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.values().map(|row| &row.value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &V)> {
        self.rows.iter().map(|(key, row)| (key, &row.value))
    }

    /// Whether the first list is complete.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Returns the number of objects that cannot be read.
    pub fn unreadable(&self) -> usize {
        self.unreadable.len()
    }

    /// Records that an object exists and cannot be read. Its last readable version stays stored.
    pub fn cannot_read(&mut self, key: Key) {
        self.list_seen(&key);
        self.unreadable.insert(key);
    }

    /// Stores an object, unless a version as new is stored or was removed. Returns whether it was stored.
    pub fn upsert(&mut self, key: Key, version: u64, value: V) -> bool {
        self.list_seen(&key);
        self.unreadable.remove(&key);
        let is_known = self.rows.get(&key).is_some_and(|row| row.version >= version);
        let is_removed = self.tombstones.get(&key).is_some_and(|(tombstone, _)| *tombstone >= version);
        if version != 0 && (is_known || is_removed) {
            return false;
        }
        self.rows.insert(key, Row { version, value, touched: Instant::now() });
        true
    }

    /// Replaces the value of a stored object, at the same version.
    pub fn replace(&mut self, key: &Key, value: V) {
        if let Some(row) = self.rows.get_mut(key) {
            row.value = value;
        }
    }

    /// Removes an object, unless a newer version is stored.
    pub fn remove(&mut self, key: &Key, version: u64) -> Option<V> {
        self.unreadable.remove(key);
        if self.rows.get(key).is_some_and(|row| row.version > version && version != 0) {
            return None;
        }
        let row = self.rows.remove(key)?;
        if self.tombstones.len() >= MAX_TOMBSTONES {
            self.tombstones.retain(|_, (_, removed_at)| removed_at.elapsed() < TOMBSTONE_AGE);
        }
        self.tombstones.insert(key.clone(), (row.version.max(version), Instant::now()));
        Some(row.value)
    }

    /// Records that the current list contains an object, even if the object is not stored.
    pub fn list_seen(&mut self, key: &Key) {
        if let Some((_, seen)) = &mut self.listing {
            seen.insert(key.clone());
        }
    }
}

/// The list that begins a watch.
pub trait Listing {
    fn list_begins(&mut self);

    /// Ends the list. Returns the keys of the objects that are gone: the list did not contain them, and they have not been
    /// stored since it began.
    fn list_ends(&mut self) -> Vec<Key>;
}

impl<V> Listing for Table<V> {
    fn list_begins(&mut self) {
        self.unreadable.clear();
        self.listing = Some((Instant::now(), HashSet::new()));
    }

    fn list_ends(&mut self) -> Vec<Key> {
        self.synced = true;
        let Some((began, seen)) = self.listing.take() else { return vec![] };
        let gone = self.rows.iter().filter(|(key, row)| !seen.contains(*key) && row.touched < began);
        gone.map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("ns".into(), name.into())
    }

    #[test]
    fn an_unreadable_object_keeps_its_last_value_and_counts_until_it_is_readable_or_gone() {
        let mut table = Table::default();
        table.upsert(key("known"), 1, "old");
        table.list_begins();
        ["known", "new"].into_iter().for_each(|name| table.cannot_read(key(name)));
        assert!(table.list_ends().is_empty());
        assert_eq!((table.get(&key("known")), table.get(&key("new")), table.unreadable()), (Some(&"old"), None, 2));
        table.upsert(key("known"), 2, "readable");
        assert_eq!(table.unreadable(), 1);
        table.remove(&key("new"), 0);
        assert_eq!(table.unreadable(), 0);
        table.cannot_read(key("new"));
        table.list_begins();
        table.list_ends();
        assert_eq!(table.unreadable(), 0, "it was not in the list");
    }

    #[test]
    fn an_older_version_does_not_replace_a_newer_one() {
        let mut table = Table::default();
        assert!(table.upsert(key("a"), 5, "new"));
        assert!(!table.upsert(key("a"), 4, "old"));
        assert!(!table.upsert(key("a"), 5, "again"));
        assert_eq!(table.remove(&key("a"), 4), None);
        assert_eq!(table.get(&key("a")), Some(&"new"));
        assert_eq!(table.remove(&key("a"), 6), Some("new"));
    }

    #[test]
    fn a_late_answer_does_not_bring_back_a_removed_object() {
        let mut table = Table::default();
        table.upsert(key("a"), 5, "stored");
        table.remove(&key("a"), 7);
        assert!(!table.upsert(key("a"), 6, "late answer"));
        assert_eq!(table.get(&key("a")), None);
        assert!(table.upsert(key("a"), 8, "created again"));
    }

    #[test]
    fn a_relist_drops_objects_that_are_gone_but_not_objects_stored_meanwhile() {
        let mut table = Table::default();
        table.upsert(key("gone"), 1, ());
        table.upsert(key("stays"), 2, ());
        table.list_begins();
        table.upsert(key("stays"), 2, ());
        table.listing.as_mut().expect("listing").1.remove(&key("created-here"));
        table.upsert(key("created-here"), 9, ());
        table.listing.as_mut().expect("listing").1.remove(&key("created-here"));
        assert_eq!(table.list_ends(), [key("gone")]);
        assert!(table.is_synced());
    }
}
