//! Who is next, how many run at once, and how fast a freed slot is handed over.

use std::time::{Duration, Instant};

use crate::support::{Ask, Desk, RawClient, RouterConfig, ask, note, on_both_drivers};
use crate::{expect_served, routed, send, send_to_wait};

/// A configuration that knows the keys `sk-a` and `sk-b`.
fn with_keys(config: RouterConfig) -> RouterConfig {
    config
        .set("auth.required", true)
        .set("auth.api_keys", r#"["sk-a", "sk-b"]"#)
}

/// Lets five requests of one key and then two of another wait for one slot; returns the order in which
/// the node sees them.
fn order_of_two_keys(config: RouterConfig) -> Vec<String> {
    let desk = Desk::start();
    let router = with_keys(config)
        .node_with("n", desk.node(), "m", 1, "")
        .start();
    let first = send(&router, &ask("holder").key("sk-a"));
    desk.expect("holder");
    let keys = [("a", 5), ("b", 2)];
    let asks = keys
        .into_iter()
        .flat_map(|(key, count)| (1..=count).map(move |n| (key, format!("{key}{n}"))));
    let mut waiting: Vec<(String, RawClient)> = Vec::new();
    for (key, tag) in asks {
        let request = ask(&tag).key(&format!("sk-{key}"));
        let client = send_to_wait(&router, &request, waiting.len() + 1);
        waiting.push((tag, client));
    }
    desk.open();
    for (tag, client) in &mut waiting {
        expect_served(client, tag);
    }
    drop((first, waiting));
    router.settles();
    desk.arrived()
}

#[test]
fn keys_take_turns() {
    on_both_drivers(|driver| {
        assert_eq!(
            order_of_two_keys(RouterConfig::new(driver)),
            ["holder", "a1", "b1", "a2", "b2", "a3", "a4", "a5"]
        );
    });
}

#[test]
fn without_fairness_it_is_first_come_first_served() {
    on_both_drivers(|driver| {
        let config = RouterConfig::new(driver).set("queue.enable_fairness", false);
        assert_eq!(
            order_of_two_keys(config),
            ["holder", "a1", "a2", "a3", "a4", "a5", "b1", "b2"]
        );
    });
}

#[test]
fn a_place_is_the_turn_it_will_be_served_in() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let router = with_keys(RouterConfig::new(driver))
            .node_with("n", desk.node(), "m", 1, "")
            .start();
        let _first = send(&router, &ask("holder").key("sk-a"));
        desk.expect("holder");
        let asks = [
            ("a1", "sk-a", "1"),
            ("a2", "sk-a", "2"),
            ("b1", "sk-b", "2"),
            ("b2", "sk-b", "4"),
        ];
        let mut waiting: Vec<RawClient> = asks
            .iter()
            .enumerate()
            .map(|(index, (tag, key, _))| send_to_wait(&router, &ask(tag).key(key), index + 1))
            .collect();
        desk.open();
        for (client, (tag, _, place)) in waiting.iter_mut().zip(asks) {
            let response = expect_served(client, tag);
            assert_eq!(
                response.head.field("x-queue-position"),
                Some(place),
                "{tag}"
            );
        }
        assert_eq!(desk.arrived(), ["holder", "a1", "b1", "a2", "b2"]);
    });
}

#[test]
fn the_oldest_of_all_models_of_a_node_is_next() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let router = RouterConfig::new(driver)
            .node_serving("n", desk.node(), &["p", "q", "r"], 1)
            .start();
        let _first = send(&router, &ask("holder").model("p"));
        desk.expect("holder");
        let asks = [
            ("1", "q"),
            ("2", "p"),
            ("3", "r"),
            ("4", "r"),
            ("5", "p"),
            ("6", "q"),
        ];
        let mut waiting: Vec<RawClient> = asks
            .iter()
            .enumerate()
            .map(|(index, (tag, model))| send_to_wait(&router, &ask(tag).model(model), index + 1))
            .collect();
        let metrics = router.metrics();
        assert_eq!(
            ["p", "q", "r"].map(|model| metrics.waiting_for(model)),
            [2.0; 3]
        );
        desk.open();
        for (client, (tag, _)) in waiting.iter_mut().zip(asks) {
            expect_served(client, tag);
        }
        assert_eq!(desk.arrived(), ["holder", "1", "2", "3", "4", "5", "6"]);
    });
}

#[test]
fn aliases_wait_in_the_queue_of_their_model() {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let router = RouterConfig::new(driver)
            .node_with("n", desk.node(), "m", 1, "")
            .alias("other-name", "m")
            .start();
        let _first = send(&router, &ask("holder"));
        desk.expect("holder");
        let mut waiting = [
            send_to_wait(&router, &ask("1").model("other-name"), 1),
            send_to_wait(&router, &ask("2"), 2),
        ];
        assert_eq!(router.metrics().waiting_for("m"), 2.0);
        desk.open();
        for (client, tag) in waiting.iter_mut().zip(["1", "2"]) {
            expect_served(client, tag);
        }
        assert_eq!(desk.arrived(), ["holder", "1", "2"]);
    });
}

/// A slot is freed in the very moment in which a newcomer asks for it, again and again: whoever waited
/// has it.
fn newcomers_queue_up(newcomer: fn(&str) -> Ask) {
    on_both_drivers(|driver| {
        let desk = Desk::start();
        let router = RouterConfig::new(driver)
            .node_serving("n", desk.node(), &["m", "other"], 1)
            .start();
        let mut holder = (send(&router, &ask("holder")), "holder".to_owned());
        // Several of each, so that they sit on both workers.
        let mut waiting: Vec<RawClient> = (0..4).map(|_| router.connect()).collect();
        let mut newcomers: Vec<RawClient> = (0..4).map(|_| router.connect()).collect();
        desk.expect("holder");
        for round in 0..40 {
            let (first, second) = (format!("w{round}"), format!("n{round}"));
            let mut waiter = waiting.remove(0);
            waiter.send(&ask(&first).bytes());
            router.until_waiting(1);
            let mut late = newcomers.remove(0);
            std::thread::scope(|scope| {
                scope.spawn(|| late.send(&newcomer(&second).bytes()));
                desk.release(&holder.1);
            });
            expect_served(&mut holder.0, &holder.1);
            desk.serve(&first);
            expect_served(&mut waiter, &first);
            desk.expect(&second);
            let arrived = desk.arrived();
            assert_eq!(arrived[arrived.len() - 2..], [first, second.clone()]);
            waiting.push(waiter);
            newcomers.push(std::mem::replace(&mut holder.0, late));
            holder.1 = second;
        }
        assert_eq!(desk.present_max(), 1);
    });
}

#[test]
fn a_newcomer_does_not_overtake() {
    newcomers_queue_up(ask);
}

#[test]
fn a_newcomer_for_another_model_of_the_node_does_not_overtake() {
    newcomers_queue_up(|tag| ask(tag).model("other"));
}

#[test]
fn no_node_ever_works_on_more_than_it_has_slots_for() {
    on_both_drivers(|driver| {
        let desks = [Desk::start(), Desk::start()];
        desks.iter().for_each(Desk::open);
        let router = RouterConfig::new(driver)
            .node_with("three", desks[0].node(), "m", 3, "")
            .node_with("one", desks[1].node(), "m", 1, "")
            .start();
        std::thread::scope(|scope| {
            for number in 0..24 {
                let router = &router;
                scope.spawn(move || {
                    let mut client = router.connect();
                    for round in 0..20 {
                        let tag = format!("{number}-{round}");
                        client.send(&ask(&tag).bytes());
                        expect_served(&mut client, &tag);
                    }
                });
            }
        });
        assert!(desks[0].present_max() <= 3, "{}", desks[0].present_max());
        assert_eq!(desks[1].present_max(), 1);
        let seen = desks[0].arrived().len() + desks[1].arrived().len();
        assert_eq!(seen, 24 * 20, "each exactly once");
        router.settles();
        let metrics = router.metrics();
        assert!(metrics.value("llm_router_queue_wait_seconds_count") > 0.0);
        assert_eq!(metrics.sum("llm_router_rejections_total"), 0.0);
    });
}

#[test]
fn a_freed_slot_reaches_the_next_without_delay_whichever_worker_it_is_on() {
    on_both_drivers(|driver| {
        let (desk, router) = routed(driver, 1);
        let mut holder = send(&router, &ask("holder"));
        desk.expect("holder");
        // The kernel spreads the connections over both workers: of 40 hand-overs about every second one
        // goes to the other.
        let tags: Vec<String> = (0..40).map(|index| index.to_string()).collect();
        let mut waiting: Vec<RawClient> = tags
            .iter()
            .enumerate()
            .map(|(index, tag)| send_to_wait(&router, &ask(tag), index + 1))
            .collect();
        let mut took = Vec::new();
        let mut before = "holder".to_owned();
        for tag in &tags {
            let began = Instant::now();
            desk.release(&before);
            desk.expect(tag);
            took.push(began.elapsed());
            before.clone_from(tag);
        }
        desk.open();
        expect_served(&mut holder, "holder");
        for (client, tag) in waiting.iter_mut().zip(&tags) {
            expect_served(client, tag);
        }
        took.sort_unstable();
        note(&format!(
            "{driver:?}: median {:?}, max {:?}",
            took[20], took[39]
        ));
        // Whoever looks only now and then would make every second one late.
        // A word that got lost would be found by the look each worker takes once a second: half a second late
        // on average.
        assert!(took[34] < Duration::from_millis(250), "{took:?}");
    });
}

#[test]
fn waiting_costs_no_processor_time() {
    on_both_drivers(|driver| {
        let (desk, router) = routed(driver, 1);
        let _holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let tags: Vec<String> = (0..60).map(|index| index.to_string()).collect();
        let _waiting: Vec<RawClient> = tags
            .iter()
            .enumerate()
            .map(|(index, tag)| send_to_wait(&router, &ask(tag), index + 1))
            .collect();
        let before = router.cpu_time();
        crate::pause(Duration::from_secs(2));
        let used = router.cpu_time().saturating_sub(before);
        assert!(used < Duration::from_millis(150), "{used:?} in 2 s");
    });
}
