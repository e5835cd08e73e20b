//! Tests of the quick choice against the policy itself.

use super::super::bank::Banks;
use super::super::policy;
use super::super::{EJECTION_FAILURES, NodeState};
use super::*;
use crate::admission::test_random::Random;

struct Case {
    lives: Vec<Arc<NodeLive>>,
    weights: Vec<u32>,
    contenders: Contenders,
    choices: u64,
}

impl Case {
    fn new(count: usize, random: &mut Random) -> Self {
        let mut banks = Banks::default();
        let lives: Vec<_> = (0..count)
            .map(|position| {
                let slots = 1 + random.below(4) as u32;
                let live = NodeLive::placed(Place::new(&mut banks, position, slots));
                live.publish_state(NodeState::Online);
                Arc::new(live)
            })
            .collect();
        let weights: Vec<u32> = (0..count).map(|_| 1 + random.below(3) as u32).collect();
        let nodes = lives.iter().zip(&weights).zip(0..);
        let contenders =
            Contenders::new(nodes.map(|((live, weight), at)| (Arc::clone(live), *weight, at)));
        Self {
            lives,
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
