//! Tests of the order of one queue, against a model that serves it to the end to learn the order.

use proptest::prelude::*;

use super::*;

/// What a queue is, said as simply as possible: entries in the order of arrival, and the keys in the
/// order of their turns.
#[derive(Clone, Debug, Default)]
struct Reference {
    entries: Vec<(TurnKey, Ticket)>,
    turns: Vec<TurnKey>,
}

impl Reference {
    fn push(&mut self, key: TurnKey, ticket: Ticket) {
        if !self.turns.contains(&key) {
            self.turns.push(key);
        }
        self.entries.push((key, ticket));
    }

    fn pop(&mut self) -> Option<Ticket> {
        let key = *self.turns.first()?;
        self.turns.rotate_left(1);
        let position = self.entries.iter().position(|entry| entry.0 == key)?;
        let (_, ticket) = self.entries.remove(position);
        self.forget_empty_keys();
        Some(ticket)
    }

    fn remove(&mut self, ticket: Ticket) {
        self.entries.retain(|entry| entry.1 != ticket);
        self.forget_empty_keys();
    }

    fn forget_empty_keys(&mut self) {
        let entries = &self.entries;
        self.turns
            .retain(|key| entries.iter().any(|entry| entry.0 == *key));
    }

    /// All tickets in the order in which they would be served.
    fn order(&self) -> Vec<Ticket> {
        let mut copy = self.clone();
        std::iter::from_fn(|| copy.pop()).collect()
    }
}

fn queue_of(keys: &[TurnKey]) -> TurnQueue<()> {
    let mut queue = TurnQueue::default();
    for (ticket, key) in keys.iter().enumerate() {
        queue.push(*key, ticket as Ticket, ());
    }
    queue
}

fn served<T>(queue: &mut TurnQueue<T>) -> Vec<Ticket> {
    std::iter::from_fn(|| queue.pop().map(|(ticket, _)| ticket)).collect()
}

const A: TurnKey = 11;
const B: TurnKey = 22;
const C: TurnKey = 33;

#[test]
fn two_keys_take_turns_and_the_longer_one_has_the_rest() {
    let keys = [A, A, A, A, A, B, B];
    let order: Vec<_> = served(&mut queue_of(&keys))
        .into_iter()
        .map(|ticket| keys[ticket as usize])
        .collect();
    assert_eq!(order, [A, B, A, B, A, A, A]);
}

#[test]
fn a_single_key_is_served_in_the_order_of_arrival() {
    assert_eq!(served(&mut queue_of(&[A; 6])), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_key_that_comes_back_goes_behind_the_others() {
    let mut queue = queue_of(&[A, B, C]);
    assert_eq!(queue.pop().unwrap().0, 0);
    // A had nobody left: its next request begins behind B and C.
    queue.push(A, 3, ());
    assert_eq!(queue.place(A, 3), Some(3));
    assert_eq!(served(&mut queue), [1, 2, 3]);
}

#[test]
fn a_key_that_left_and_came_back_has_lost_its_turn() {
    let mut queue = queue_of(&[A, B, B]);
    assert_eq!(queue.remove(A, 0), Some(()));
    queue.push(A, 3, ());
    assert_eq!(served(&mut queue), [1, 3, 2]);
}

#[test]
fn leaving_from_the_middle_moves_only_those_behind_forward() {
    let mut queue = queue_of(&[A, B, A, B, A]);
    let places = |queue: &TurnQueue<()>| {
        [(A, 0), (B, 1), (A, 2), (B, 3), (A, 4)].map(|(key, ticket)| queue.place(key, ticket))
    };
    assert_eq!(places(&queue), [1, 2, 3, 4, 5].map(Some));
    assert_eq!(queue.remove(A, 2), Some(()));
    assert_eq!(
        places(&queue),
        [Some(1), Some(2), None, Some(4), Some(3)],
        "the last of A is its second now"
    );
    assert_eq!(served(&mut queue), [0, 1, 4, 3]);
}

#[test]
fn who_does_not_wait_has_no_place_and_cannot_leave() {
    let mut queue = queue_of(&[A, B]);
    assert_eq!(queue.place(B, 0), None);
    assert_eq!(queue.place(C, 1), None);
    assert_eq!(queue.remove(B, 0), None);
    assert_eq!(queue.remove(A, 7), None);
    assert_eq!(queue.len(), 2);
}

#[test]
fn an_empty_queue_keeps_nothing_of_the_keys_it_has_seen() {
    let mut queue = queue_of(&[A, B, C, A, B, C]);
    assert_eq!(queue.remove(B, 1), Some(()));
    assert_eq!(queue.remove(B, 4), Some(()));
    assert_eq!(served(&mut queue).len(), 4);
    assert!(queue.is_empty());
    assert!(queue.turns.is_empty() && queue.lanes.is_empty());
    assert_eq!(queue.next_ticket(), None);
    assert!(queue.pop().is_none());
    assert_eq!(queue.place_of_next(A), 1);
}

proptest! {
    #[test]
    fn every_place_is_the_number_of_turns_until_it_is_served(
        acts in prop::collection::vec((0_u8..10, 0_u64..5, any::<prop::sample::Index>()), 1..120),
    ) {
        let (mut queue, mut reference) = (TurnQueue::default(), Reference::default());
        for (next_ticket, (act, key, which)) in (0_u64..).zip(acts) {
            match act {
                0..6 => {
                    let foretold = queue.place_of_next(key);
                    queue.push(key, next_ticket, next_ticket);
                    reference.push(key, next_ticket);
                    prop_assert_eq!(queue.place(key, next_ticket), Some(foretold));
                }
                6..8 => {
                    let next = queue.next_ticket();
                    let popped = queue.pop();
                    prop_assert_eq!(popped.map(|(ticket, _)| ticket), next);
                    prop_assert_eq!(next, reference.pop());
                    prop_assert!(popped.is_none_or(|(ticket, entry)| ticket == entry));
                }
                _ if reference.entries.is_empty() => {}
                _ => {
                    let (key, ticket) = *which.get(&reference.entries);
                    prop_assert_eq!(queue.remove(key, ticket), Some(ticket));
                    prop_assert_eq!(queue.remove(key, ticket), None);
                    reference.remove(ticket);
                }
            }
            let order = reference.order();
            prop_assert_eq!(queue.len(), order.len());
            prop_assert_eq!(queue.lanes.len(), queue.turns.len());
            for (key, ticket) in &reference.entries {
                let turn = order.iter().position(|other| other == ticket).unwrap();
                prop_assert_eq!(queue.place(*key, *ticket), Some(turn + 1));
            }
        }
        prop_assert_eq!(served(&mut queue), reference.order());
    }
}
