//! A store of one kind that only ever goes forward: what we wrote ourselves is in it before the watch tells of it,
//! and an older word from the watch does not undo it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Namespace and name.
pub type Key = (String, String);

struct Row<V> {
    version: u64,
    value: V,
    touched: Instant,
}

/// Objects of one kind by key, each at the newest version that was heard of.
pub struct Table<V> {
    rows: HashMap<Key, Row<V>>,
    listing: Option<(Instant, HashSet<Key>)>,
    /// What is gone, and as of which version: the answer to a write of ours may come after the news of the end.
    tombstones: HashMap<Key, (u64, Instant)>,
    /// Those that cannot be read as they are now.
    unreadable: HashSet<Key>,
    synced: bool,
}

/// Beyond so many graves, those older than [`TOMBSTONE_AGE`] are levelled; an answer comes sooner than that or never.
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

    /// How many there are that cannot be read.
    pub fn unreadable(&self) -> usize {
        self.unreadable.len()
    }

    /// An object is there and cannot be read: what was known of it holds on.
    pub fn cannot_read(&mut self, key: Key) {
        self.list_seen(&key);
        self.unreadable.insert(key);
    }

    /// Takes an object in, unless a newer version of it is here; true if it was taken.
    pub fn upsert(&mut self, key: Key, version: u64, value: V) -> bool {
        self.list_seen(&key);
        self.unreadable.remove(&key);
        let newer = self.rows.get(&key).is_some_and(|row| row.version >= version);
        let gone = self.tombstones.get(&key).is_some_and(|(tombstone, _)| *tombstone >= version);
        if version != 0 && (newer || gone) {
            return false;
        }
        self.rows.insert(key, Row { version, value, touched: Instant::now() });
        true
    }

    /// Changes what is kept of an object that is here, at the same version.
    pub fn replace(&mut self, key: &Key, value: V) {
        if let Some(row) = self.rows.get_mut(key) {
            row.value = value;
        }
    }

    /// Takes an object out, unless a newer one has taken its place.
    pub fn remove(&mut self, key: &Key, version: u64) -> Option<V> {
        self.unreadable.remove(key);
        if self.rows.get(key).is_some_and(|row| row.version > version && version != 0) {
            return None;
        }
        let row = self.rows.remove(key)?;
        if self.tombstones.len() >= MAX_TOMBSTONES {
            self.tombstones.retain(|_, (_, buried_at)| buried_at.elapsed() < TOMBSTONE_AGE);
        }
        self.tombstones.insert(key.clone(), (row.version.max(version), Instant::now()));
        Some(row.value)
    }

    /// Tells the list under way that an object was in it, though it is not kept.
    pub fn list_seen(&mut self, key: &Key) {
        if let Some((_, seen)) = &mut self.listing {
            seen.insert(key.clone());
        }
    }
}

/// The list that begins a watch.
pub trait Listing {
    fn list_begins(&mut self);

    /// Ends the list. Returns the keys of objects that were not in it and not touched since it began: they are gone.
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
    fn what_cannot_be_read_keeps_what_was_known_of_it_and_is_counted_until_it_can_be_or_is_gone() {
        let mut table = Table::default();
        table.upsert(key("known"), 1, "old");
        table.list_begins();
        ["known", "new"].into_iter().for_each(|name| table.cannot_read(key(name)));
        assert!(table.list_ends().is_empty());
        assert_eq!((table.get(&key("known")), table.get(&key("new")), table.unreadable()), (Some(&"old"), None, 2));
        table.upsert(key("known"), 2, "mended");
        assert_eq!(table.unreadable(), 1);
        table.remove(&key("new"), 0);
        assert_eq!(table.unreadable(), 0);
        table.cannot_read(key("new"));
        table.list_begins();
        table.list_ends();
        assert_eq!(table.unreadable(), 0, "it was not in the list");
    }

    #[test]
    fn an_older_word_does_not_undo_a_newer_one() {
        let mut table = Table::default();
        assert!(table.upsert(key("a"), 5, "new"));
        assert!(!table.upsert(key("a"), 4, "old"));
        assert!(!table.upsert(key("a"), 5, "again"));
        assert_eq!(table.remove(&key("a"), 4), None);
        assert_eq!(table.get(&key("a")), Some(&"new"));
        assert_eq!(table.remove(&key("a"), 6), Some("new"));
    }

    #[test]
    fn what_is_gone_does_not_come_back_by_a_late_answer() {
        let mut table = Table::default();
        table.upsert(key("a"), 5, "there");
        table.remove(&key("a"), 7);
        assert!(!table.upsert(key("a"), 6, "late answer"));
        assert_eq!(table.get(&key("a")), None);
        assert!(table.upsert(key("a"), 8, "made anew"));
    }

    #[test]
    fn a_relist_drops_what_is_gone_but_not_what_came_meanwhile() {
        let mut table = Table::default();
        table.upsert(key("gone"), 1, ());
        table.upsert(key("stays"), 2, ());
        table.list_begins();
        table.upsert(key("stays"), 2, ());
        table.listing.as_mut().expect("listing").1.remove(&key("made-here"));
        table.upsert(key("made-here"), 9, ());
        table.listing.as_mut().expect("listing").1.remove(&key("made-here"));
        assert_eq!(table.list_ends(), [key("gone")]);
        assert!(table.is_synced());
    }
}
