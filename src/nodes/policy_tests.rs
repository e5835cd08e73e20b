//! Tests of the policy: against an exact oracle, and for the shares it produces.

use proptest::prelude::*;

use super::*;

fn load(in_flight: u32, max_concurrency: u32, weight: u32, chosen_at: u64) -> Load {
    Load {
        in_flight,
        max_concurrency,
        is_contended: false,
        weight,
        chosen_at,
    }
}

fn chosen(loads: &[Load]) -> Option<usize> {
    choose(loads.iter().copied().enumerate())
}

#[test]
fn the_node_with_the_smallest_share_of_its_slots_in_use_is_chosen() {
    assert_eq!(
        chosen(&[load(1, 2, 1, 0), load(3, 8, 1, 0), load(1, 1, 1, 0)]),
        Some(1)
    );
}

#[test]
fn a_weight_scales_the_slots_without_adding_any() {
    assert_eq!(chosen(&[load(2, 4, 1, 0), load(3, 4, 2, 0)]), Some(1));
    assert_eq!(chosen(&[load(2, 4, 1, 0), load(4, 4, 9, 0)]), Some(0));
    assert_eq!(chosen(&[load(1, 4, 0, 1), load(1, 4, 1, 2)]), Some(0));
}

#[test]
fn no_node_is_chosen_when_all_are_full_or_none_is_there() {
    assert_eq!(
        chosen(&[load(2, 2, 1, 0), load(5, 4, 1, 0), load(0, 0, 1, 0)]),
        None
    );
    assert_eq!(chosen(&[]), None);
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let almost = load(u32::MAX - 1, u32::MAX, u32::MAX, 1);
    let less = load(u32::MAX - 2, u32::MAX, u32::MAX, 2);
    assert_eq!(chosen(&[almost, less]), Some(1));
}

#[test]
fn equal_nodes_take_turns_even_when_the_number_of_equals_keeps_changing() {
    // At every other choice node 2 is full. An index modulo the number of equals would give node 0
    // four times what node 1 gets.
    let mut loads = [load(0, 4, 1, 0), load(0, 4, 1, 0), load(0, 4, 1, 0)];
    let mut choices = [0; 3];
    for now in 1..=4000 {
        loads[2].in_flight = if now % 2 == 0 { 4 } else { 0 };
        let choice = chosen(&loads).unwrap();
        loads[choice].chosen_at = now;
        choices[choice] += 1;
    }
    assert_eq!(choices, [1500, 1500, 1000]);
}

fn any_load() -> impl Strategy<Value = Load> {
    (0..12_u32, 0..9_u32, 0..4_u32, 0..6_u64)
        .prop_map(|(in_flight, slots, weight, chosen_at)| load(in_flight, slots, weight, chosen_at))
}

proptest! {
    #[test]
    fn the_choice_is_the_least_by_ratio_then_age_then_order(
        loads in prop::collection::vec(any_load(), 0..20),
    ) {
        // 9 slots × 3 at most: 2520 × 27 × 8 makes every ratio a whole number.
        let ratio = |load: &Load| {
            let capacity = u64::from(load.max_concurrency * load.weight.max(1));
            u64::from(load.in_flight) * (2520 * 27 * 8) / capacity
        };
        let is_free = |load: &Load| load.in_flight < load.max_concurrency;
        let oracle = (0..loads.len())
            .filter(|&index| is_free(&loads[index]))
            .min_by_key(|&index| (ratio(&loads[index]), loads[index].chosen_at));
        prop_assert_eq!(chosen(&loads), oracle);
    }
}
