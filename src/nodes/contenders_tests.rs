//! Tests of the quick choice against the policy itself.

use super::super::bank::Banks;
use super::super::policy;
use super::super::{EJECTION_FAILURES, NodeState};
use super::*;
use crate::admission::test_random::Random;

struct Case {
    /// The nodes of the model.
    lives: Vec<Arc<NodeLive>>,
    /// Nodes of other models in between.
    others: Vec<Arc<NodeLive>>,
    weights: Vec<u32>,
    contenders: Contenders,
    choices: u64,
}

impl Case {
    fn new(count: usize, random: &mut Random) -> Self {
        Self::spread(count, 1, random)
    }

    /// The model has every `stride`th node of the table.
    fn spread(count: usize, stride: usize, random: &mut Random) -> Self {
        let mut banks = Banks::default();
        let all = (0..count * stride).map(|position| {
            let slots = 1 + random.below(4) as u32;
            let live = NodeLive::new(&mut banks, position, slots);
            live.publish_state(NodeState::Online);
            (position, Arc::new(live))
        });
        let (own, others): (Vec<_>, Vec<_>) =
            all.partition(|(position, _)| position.is_multiple_of(stride));
        let lives: Vec<_> = own.into_iter().map(|(_, live)| live).collect();
        let weights: Vec<u32> = (0..count).map(|_| 1 + random.below(3) as u32).collect();
        let nodes = lives.iter().zip(&weights).zip(0..);
        let contenders =
            Contenders::new(nodes.map(|((live, weight), at)| (Arc::clone(live), *weight, at)));
        Self {
            lives,
            others: others.into_iter().map(|(_, live)| live).collect(),
            weights,
            contenders,
            choices: count as u64,
        }
    }

    /// What comparing all of them one by one says.
    fn expected(&self, excluded: &[usize]) -> Found {
        let loads = (0..self.lives.len()).filter_map(|position| {
            let live = &self.lives[position];
            let chosen_at = self.contenders.chosen_at[position].get();
            let load = Load::of(live.slots(), self.weights[position], chosen_at);
            let may = live.state() == NodeState::Online && !excluded.contains(&position);
            may.then_some((position, load))
        });
        let any_online = self
            .lives
            .iter()
            .any(|live| live.state() == NodeState::Online);
        match policy::choose(loads) {
            Some(position) => Found::Node(position),
            None if any_online => Found::AllFull,
            None => Found::NoneOnline,
        }
    }

    fn choose(&mut self, excluded: &[usize]) -> Option<usize> {
        let found = self
            .contenders
            .find(|position| excluded.contains(&position));
        assert_eq!(found, self.expected(excluded));
        let Found::Node(position) = found else {
            return None;
        };
        assert!(self.lives[position].try_take_slot());
        self.choices += 1;
        self.contenders.chosen(position, self.choices);
        Some(position)
    }
}

#[test]
fn whatever_the_loads_the_quick_choice_is_the_policys() {
    for (seed, count) in [(1, 1), (2, 3), (3, 16), (4, 17), (5, 40), (6, 600)] {
        let mut random = Random(seed);
        let mut case = Case::new(count, &mut random);
        let mut held: Vec<usize> = Vec::new();
        for step in 0..4000 {
            // Phases of emptying, of filling up and of being full.
            let arriving = [30, 50, 80, 95][step / 1000];
            if random.chance(arriving) {
                let excluded: Vec<usize> =
                    (0..random.below(3)).map(|_| random.below(count)).collect();
                held.extend(case.choose(&excluded));
            } else if !held.is_empty() {
                let position = held.swap_remove(random.below(held.len()));
                assert!(!case.lives[position].release_slot());
            }
            if random.chance(2) {
                let states = [NodeState::Online, NodeState::Online, NodeState::Draining];
                let live = &case.lives[random.below(count)];
                live.publish_state(states[random.below(3)]);
            }
        }
    }
}

/// What other workers, the queues and the control thread do to a node between two choices.
fn disturb(live: &NodeLive, held_elsewhere: &mut u32, random: &mut Random) {
    match random.below(100) {
        0..45 => *held_elsewhere += u32::from(live.try_take_slot()),
        45..90 if *held_elsewhere > 0 => {
            live.release_slot();
            *held_elsewhere -= 1;
        }
        90..94 => live.set_max_concurrency(random.below(5) as u32),
        94..96 => live.contend(),
        96..98 => live.settle(),
        98 => live.publish_state(NodeState::Offline),
        99 => live.publish_state(NodeState::Online),
        _ => {}
    }
}

#[test]
fn whatever_others_do_meanwhile_the_quick_choice_is_the_policys() {
    // Every node of the table, every third one, so that others lie in between, and such far apart; and in
    // the last two more nodes than a bank holds.
    for (seed, count, stride) in [
        (1, 17, 1),
        (2, 90, 3),
        (3, 40, 12),
        (4, 700, 1),
        (5, 300, 2),
    ] {
        let mut random = Random(seed);
        let mut case = Case::spread(count, stride, &mut random);
        let lives: Vec<_> = case.lives.iter().chain(&case.others).cloned().collect();
        let mut elsewhere = vec![0; lives.len()];
        let mut held: Vec<usize> = Vec::new();
        let mut chosen = 0;
        for _ in 0..3000 {
            // A few changes, or so many that it is all decided anew.
            let changes = if random.chance(90) { 3 } else { lives.len() };
            for _ in 0..random.below(changes) {
                let node = random.below(lives.len());
                disturb(&lives[node], &mut elsewhere[node], &mut random);
            }
            if random.chance(60) {
                let excluded: Vec<usize> =
                    (0..random.below(2)).map(|_| random.below(count)).collect();
                let position = case.choose(&excluded);
                chosen += usize::from(position.is_some());
                held.extend(position);
            } else if !held.is_empty() {
                let position = held.swap_remove(random.below(held.len()));
                case.lives[position].release_slot();
            }
            if random.chance(1) {
                let (change, lives) = (random.below(2), &lives);
                lives.iter().for_each(|live| match change {
                    0 => live.contend(),
                    _ => live.settle(),
                });
            }
        }
        assert!(chosen > 500, "only {chosen} were chosen among {count}");
    }
}

#[test]
fn a_node_that_was_given_back_at_once_goes_behind_its_equals() {
    let mut case = Case::new(40, &mut Random(9));
    // Something is in flight at each, as much as at any other.
    for live in &case.lives {
        live.set_max_concurrency(4);
        assert!(live.try_take_slot());
    }
    case.weights.fill(1);
    let nodes = case.lives.iter().zip(0..);
    case.contenders = Contenders::new(nodes.map(|(live, at)| (Arc::clone(live), 1, at)));
    let turns: Vec<usize> = (0..80)
        .map(|_| {
            let position = case.choose(&[]).unwrap();
            case.lives[position].release_slot();
            position
        })
        .collect();
    assert!(turns.iter().copied().eq((0..40).chain(0..40)));
}

#[test]
fn a_thousand_idle_nodes_take_strict_turns() {
    let mut case = Case::new(1000, &mut Random(1));
    let turns: Vec<usize> = (0..2000)
        .map(|_| {
            let position = case.choose(&[]).unwrap();
            case.lives[position].release_slot();
            position
        })
        .collect();
    assert!(turns.iter().copied().eq((0..1000).chain(0..1000)));
}

#[test]
fn nothing_online_and_everything_full_are_told_apart() {
    let mut case = Case::new(50, &mut Random(3));
    while case.choose(&[]).is_some() {}
    assert_eq!(case.contenders.find(|_| false), Found::AllFull);
    for live in &case.lives {
        live.publish_state(NodeState::Offline);
        // A failing node is none of its business.
        assert!(live.consecutive_failures() < EJECTION_FAILURES);
    }
    assert_eq!(case.contenders.find(|_| false), Found::NoneOnline);
}
