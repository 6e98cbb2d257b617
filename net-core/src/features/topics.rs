//! `Topics`: which connections of one loop have subscribed to which topics.
//!
//! Two ordered sets hold the pairs, one by topic and one by slot. A walk over a topic continues from the slot
//! where it stopped, even if members came and went in between. The topics of a connection that leaves are
//! found without a look at other members. Nothing is stored in a connection, so a connection without topics
//! costs nothing.

use bytes::Bytes;
use slab::Slab;
use std::collections::{BTreeSet, HashMap};
use std::fmt;

/// The longest topic name in bytes. Longer names are refused.
pub const TOPIC_NAME_MAX: usize = 255;

#[derive(Debug)]
pub(crate) struct Topics {
    numbers: HashMap<Bytes, u32>,
    named: Slab<Named>,
    /// Pairs of (topic, slot of a member).
    by_topic: BTreeSet<(u32, u32)>,
    /// The same pairs as (slot, topic).
    by_slot: BTreeSet<(u32, u32)>,
    topics_max: usize,
    per_connection_max: usize,
    /// Broadcasts are under way, so `unsubscribe` is noted in `left`.
    pub(crate) notes_leaves: bool,
    /// (slot, topic) of each `unsubscribe` since `take_left` was last called, except pairs that have
    /// subscribed again.
    left: BTreeSet<(u32, Bytes)>,
}

/// A topic. It exists exactly as long as it has a member.
#[derive(Debug)]
struct Named {
    name: Bytes,
    members: usize,
}

/// Why a connection could not subscribe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TopicError {
    /// The name has this many bytes, more than [`TOPIC_NAME_MAX`].
    NameTooLong(usize),
    /// The connection already has
    /// [`topics_per_connection_max`](crate::Limits::topics_per_connection_max) topics.
    TooManyOfThisConnection,
    /// The loop already has [`topics_max`](crate::Limits::topics_max) topics, and this would be a new topic.
    TooManyOfThisLoop,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopicError::NameTooLong(len) => {
                write!(f, "a topic's name of {len} bytes: at most {TOPIC_NAME_MAX} are allowed")
            }
            TopicError::TooManyOfThisConnection => {
                f.write_str("the connection has as many topics as it may")
            }
            TopicError::TooManyOfThisLoop => f.write_str("the loop has as many topics as it may"),
        }
    }
}

impl std::error::Error for TopicError {}

impl Topics {
    pub(crate) fn new(topics_max: usize, per_connection_max: usize) -> Self {
        Self {
            numbers: HashMap::new(),
            named: Slab::new(),
            by_topic: BTreeSet::new(),
            by_slot: BTreeSet::new(),
            topics_max,
            per_connection_max,
            notes_leaves: false,
            left: BTreeSet::new(),
        }
    }

    /// Subscribes the connection in `slot`. Returns false if it had already subscribed to the topic.
    pub(crate) fn subscribe(&mut self, slot: u32, name: &[u8]) -> Result<bool, TopicError> {
        if name.len() > TOPIC_NAME_MAX {
            return Err(TopicError::NameTooLong(name.len()));
        }
        let known = self.numbers.get(name).copied();
        if known.is_some_and(|topic| self.by_topic.contains(&(topic, slot))) {
            return Ok(false);
        }
        if self.of(slot).count() >= self.per_connection_max {
            return Err(TopicError::TooManyOfThisConnection);
        }
        let topic = match known {
            Some(topic) => topic,
            None if self.named.len() >= self.topics_max => {
                return Err(TopicError::TooManyOfThisLoop);
            }
            None => self.add(name),
        };
        self.named[topic as usize].members += 1;
        self.by_topic.insert((topic, slot));
        self.by_slot.insert((slot, topic));
        if self.notes_leaves {
            self.left.remove(&(slot, self.named[topic as usize].name.clone()));
        }
        Ok(true)
    }

    fn add(&mut self, name: &[u8]) -> u32 {
        let name = Bytes::copy_from_slice(name);
        let topic = self.named.insert(Named { name: name.clone(), members: 0 }) as u32;
        self.numbers.insert(name, topic);
        topic
    }

    /// Unsubscribes the connection in `slot`. Returns false if it had not subscribed to the topic.
    pub(crate) fn unsubscribe(&mut self, slot: u32, name: &[u8]) -> bool {
        let Some(&topic) = self.numbers.get(name) else { return false };
        let was_there = self.by_slot.remove(&(slot, topic));
        if was_there {
            if self.notes_leaves {
                self.left.insert((slot, self.named[topic as usize].name.clone()));
            }
            self.leave(slot, topic);
        }
        was_there
    }

    /// The connection in `slot` is over: removes it from all topics. Also removes its entries from `left`:
    /// the connection was already counted as gone.
    pub(crate) fn leave_all(&mut self, slot: u32) {
        let noted = self.left.range((slot, Bytes::new())..);
        let noted: Vec<_> = noted.take_while(|(of, _)| *of == slot).cloned().collect();
        noted.iter().for_each(|leave| _ = self.left.remove(leave));
        let topics: Vec<u32> = self.of(slot).collect();
        for topic in topics {
            self.by_slot.remove(&(slot, topic));
            self.leave(slot, topic);
        }
    }

    fn leave(&mut self, slot: u32, topic: u32) {
        self.by_topic.remove(&(topic, slot));
        let named = &mut self.named[topic as usize];
        named.members -= 1;
        if named.members == 0 {
            let named = self.named.remove(topic as usize);
            self.numbers.remove(&named.name);
        }
    }

    /// The topics of the connection in `slot`.
    fn of(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        self.by_slot.range((slot, 0)..=(slot, u32::MAX)).map(|&(_, topic)| topic)
    }

    /// How many topics the connection in `slot` has.
    pub(crate) fn count_of(&self, slot: u32) -> usize {
        self.of(slot).count()
    }

    /// Whether the connection in `slot` has subscribed to the topic `name`.
    pub(crate) fn is_member(&self, slot: u32, name: &[u8]) -> bool {
        self.numbers.get(name).is_some_and(|&topic| self.by_slot.contains(&(slot, topic)))
    }

    /// Takes the (slot, topic) pairs that were unsubscribed since the last call. Empty while `notes_leaves`
    /// is false.
    pub(crate) fn take_left(&mut self) -> BTreeSet<(u32, Bytes)> {
        std::mem::take(&mut self.left)
    }

    /// No connection has subscribed to any topic.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_slot.is_empty()
    }

    /// Returns the first member of the topic `name` in slot `from` or a later slot.
    pub(crate) fn next_member(&self, name: &[u8], from: u32) -> Option<u32> {
        let topic = *self.numbers.get(name)?;
        let members = (topic, from)..=(topic, u32::MAX);
        self.by_topic.range(members).next().map(|&(_, slot)| slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn members(topics: &Topics, name: &[u8]) -> Vec<u32> {
        let mut from = Some(0);
        std::iter::from_fn(|| {
            let slot = topics.next_member(name, from?)?;
            from = slot.checked_add(1);
            Some(slot)
        })
        .collect()
    }

    #[test]
    fn each_limit_holds_at_its_edge() {
        let mut topics = Topics::new(2, 2);
        let name = [b'n'; TOPIC_NAME_MAX + 1];
        assert_eq!(topics.subscribe(0, &name), Err(TopicError::NameTooLong(256)));
        assert_eq!(topics.subscribe(0, &name[1..]), Ok(true));
        assert_eq!(topics.subscribe(0, b"second"), Ok(true));
        assert_eq!(topics.subscribe(0, b"second"), Ok(false), "which is no third");
        assert_eq!(topics.subscribe(0, b"third"), Err(TopicError::TooManyOfThisConnection));
        assert_eq!(topics.subscribe(1, b"third"), Err(TopicError::TooManyOfThisLoop));
        assert_eq!(topics.subscribe(1, b"second"), Ok(true));
        assert!(topics.unsubscribe(0, &name[1..]));
        assert_eq!(topics.subscribe(1, b"third"), Ok(true), "in the place of the first");
    }

    #[test]
    fn a_walk_goes_on_whatever_comes_and_goes() {
        let mut topics = Topics::new(10, 10);
        for slot in [3, 5, u32::MAX] {
            topics.subscribe(slot, b"news").unwrap();
        }
        assert_eq!(topics.next_member(b"news", 0), Some(3));
        topics.leave_all(3);
        topics.leave_all(5);
        topics.subscribe(7, b"news").unwrap();
        assert_eq!(topics.next_member(b"news", 4), Some(7));
        assert_eq!(topics.next_member(b"news", 8), Some(u32::MAX));
        topics.leave_all(7);
        topics.leave_all(u32::MAX);
        assert_eq!(topics.next_member(b"news", 0), None);
        assert!(topics.is_empty() && topics.named.is_empty() && topics.numbers.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Subscribe(u32, u8),
        Unsubscribe(u32, u8),
        LeaveAll(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..6_u32, 0..5_u8).prop_map(|(slot, name)| Step::Subscribe(slot, name)),
            1 => (0..6_u32, 0..5_u8).prop_map(|(slot, name)| Step::Unsubscribe(slot, name)),
            1 => (0..6_u32).prop_map(Step::LeaveAll),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_map_of_sets(steps in proptest::collection::vec(step(), 0..100)) {
            let mut topics = Topics::new(usize::MAX, usize::MAX);
            let mut model = BTreeMap::<u8, BTreeSet<u32>>::new();
            for step in steps {
                match step {
                    Step::Subscribe(slot, name) => {
                        let is_new = model.entry(name).or_default().insert(slot);
                        prop_assert_eq!(topics.subscribe(slot, &[name]), Ok(is_new));
                    }
                    Step::Unsubscribe(slot, name) => {
                        let was_there = model.entry(name).or_default().remove(&slot);
                        prop_assert_eq!(topics.unsubscribe(slot, &[name]), was_there);
                    }
                    Step::LeaveAll(slot) => {
                        topics.leave_all(slot);
                        for set in model.values_mut() {
                            set.remove(&slot);
                        }
                    }
                }
                for name in 0..5 {
                    let expected: Vec<u32> = model.get(&name).into_iter().flatten().copied().collect();
                    prop_assert_eq!(members(&topics, &[name]), expected);
                }
                for slot in 0..6 {
                    let expected = model.values().filter(|set| set.contains(&slot)).count();
                    prop_assert_eq!(topics.count_of(slot), expected);
                }
            }
        }
    }
}
