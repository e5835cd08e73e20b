//! Tests of building snapshots.

use super::*;
use crate::nodes::{FailureReason, NodeState};

pub(crate) fn spec(name: &str, models: &[&str], max_concurrency: u32) -> NodeSpec {
    NodeSpec {
        name: name.into(),
        addresses: vec!["192.0.2.1:8000".parse().unwrap()],
        host_header: "node.example".into(),
        path_prefix: "".into(),
        authorization: None,
        models: models.iter().map(|&model| model.into()).collect(),
        max_concurrency,
        weight: 1,
    }
}

pub(crate) fn alias(model: &str, to: &str) -> AliasSpec {
    AliasSpec {
        model: model.into(),
        to: to.into(),
    }
}

fn node_names(model: &Model) -> Vec<&str> {
    model.nodes.iter().map(|node| &*node.name).collect()
}

#[test]
fn models_list_the_nodes_that_serve_them_in_order() {
    let directory = NodeDirectory::default();
    let specs = [spec("b", &["m", "n", "m"], 1), spec("a", &["m"], 1)];
    let table = directory.publish(&specs, &[]).unwrap();
    assert_eq!(node_names(table.resolve("m").unwrap()), ["b", "a"]);
    assert_eq!(node_names(table.resolve("n").unwrap()), ["b"]);
    assert!(table.resolve("o").is_none());
    let names: Vec<_> = table.models().map(|model| &*model.name).collect();
    assert_eq!(names, ["m", "n"]);
}

#[test]
fn counters_outlive_a_rebuild_and_belong_to_the_name() {
    let directory = NodeDirectory::default();
    let before = directory
        .publish(&[spec("a", &["m"], 2), spec("b", &["m"], 1)], &[])
        .unwrap();
    let a = before.node("a").unwrap();
    a.live.publish_state(NodeState::Online);
    assert!(a.live.try_take_slot());
    assert!(!a.live.record_failure(FailureReason::Connect));
    before.resolve("m").unwrap().stats.add_tokens(3, 4);

    let after = directory
        .publish(&[spec("c", &["m"], 1), spec("a", &["m"], 5)], &[])
        .unwrap();
    let a = after.node("a").unwrap();
    assert_eq!(a.live.state(), NodeState::Online);
    assert_eq!((a.live.slots().count, a.live.slots().limit), (1, 5));
    assert_eq!(a.live.failures_total(FailureReason::Connect), 1);
    assert_eq!(after.resolve("m").unwrap().stats.completion_tokens(), 4);
    assert_eq!(after.node("c").unwrap().live.state(), NodeState::Pending);
    assert!(after.node("b").is_none());
    assert_eq!(after.generation(), before.generation() + 1);
}

#[test]
fn an_id_is_kept_while_the_addresses_are_and_never_used_again() {
    let directory = NodeDirectory::default();
    let mut a = spec("a", &["m"], 1);
    a.addresses = vec![
        "192.0.2.1:80".parse().unwrap(),
        "192.0.2.2:80".parse().unwrap(),
    ];
    let id = |table: &NodeTable, name: &str| table.node(name).unwrap().id;
    let first = directory.publish(std::slice::from_ref(&a), &[]).unwrap();
    a.addresses.reverse();
    let reordered = directory
        .publish(&[spec("z", &[], 1), a.clone()], &[])
        .unwrap();
    assert_eq!(id(&first, "a"), id(&reordered, "a"));
    a.addresses.pop();
    let moved = directory.publish(&[a], &[]).unwrap();
    assert_ne!(id(&moved, "a"), id(&first, "a"));
    assert_ne!(id(&moved, "a"), id(&reordered, "z"));
    assert!(moved.node_by_id(id(&first, "a")).is_none());
    assert!(Arc::ptr_eq(&moved.nodes()[0].live, &first.nodes()[0].live));
}

#[test]
fn aliases_lead_through_aliases_to_the_model_and_hide_one_of_their_name() {
    let directory = NodeDirectory::default();
    let aliases = [alias("fast", "small"), alias("small", "m"), alias("n", "m")];
    let table = directory
        .publish(&[spec("a", &["m", "n"], 1)], &aliases)
        .unwrap();
    for name in ["fast", "small", "n", "m"] {
        assert_eq!(&*table.resolve(name).unwrap().name, "m", "{name}");
    }
}

#[test]
fn an_alias_of_a_model_nobody_serves_yet_is_known() {
    let directory = NodeDirectory::default();
    let table = directory.publish(&[], &[alias("fast", "m")]).unwrap();
    assert_eq!(node_names(table.resolve("fast").unwrap()), [""; 0]);
    assert_eq!(&*table.resolve("m").unwrap().name, "m");
}

#[test]
fn contradicting_names_are_refused_and_nothing_changes() {
    let directory = NodeDirectory::default();
    let a = spec("a", &["m"], 1);
    let before = directory.publish(std::slice::from_ref(&a), &[]).unwrap();
    let raised = NodeSpec {
        max_concurrency: 9,
        ..a.clone()
    };
    let refusals = [
        (
            vec![raised.clone(), a],
            vec![],
            TableError::DuplicateNode("a".into()),
        ),
        (
            vec![raised.clone()],
            vec![alias("x", "m"), alias("x", "n")],
            TableError::DuplicateAlias("x".into()),
        ),
        (
            vec![raised.clone()],
            vec![alias("p", "q"), alias("q", "p")],
            TableError::AliasLoop("p".into()),
        ),
        (
            vec![raised],
            vec![alias("m", "m")],
            TableError::AliasLoop("m".into()),
        ),
    ];
    for (specs, aliases, error) in refusals {
        assert_eq!(directory.publish(&specs, &aliases).unwrap_err(), error);
    }
    assert!(Arc::ptr_eq(&before, &directory.snapshot()));
    assert_eq!(before.nodes()[0].live.slots().limit, 1);
}

#[test]
fn a_credential_is_never_printed() {
    let mut a = spec("a", &["m"], 1);
    a.authorization = Some(Authorization::new(*b"Bearer sk-canary"));
    let directory = NodeDirectory::default();
    let table = directory.publish(std::slice::from_ref(&a), &[]).unwrap();
    let printed = format!("{a:?} {table:?} {directory:?}");
    assert!(printed.contains("***"));
    assert!(
        !printed.contains("canary") && !printed.contains("115, 107, 45"),
        "{printed}"
    );
    let credential = table.nodes()[0].authorization.as_ref().unwrap();
    assert_eq!(credential.field_value(), b"Bearer sk-canary");
}

#[test]
fn the_mean_service_time_is_known_once_one_has_ended() {
    let stats = ModelStats::default();
    assert_eq!(stats.mean_service(), None);
    stats.add_service(Duration::from_millis(100));
    stats.add_service(Duration::from_millis(300));
    assert_eq!(stats.mean_service(), Some(Duration::from_millis(200)));
}

#[test]
fn the_threshold_is_reported_exactly_once_per_run_of_failures() {
    let live = NodeLive::new(&mut Banks::default(), 0, 1);
    let run = |count: u32| -> Vec<bool> {
        (0..count)
            .map(|_| live.record_failure(FailureReason::BadResponse))
            .collect()
    };
    assert_eq!(run(7), [false, false, false, false, true, false, false]);
    live.record_success();
    assert_eq!(run(4), [false; 4]);
    live.record_success();
    assert_eq!(run(5), [false, false, false, false, true]);
    assert_eq!(live.failures_total(FailureReason::BadResponse), 16);
}
