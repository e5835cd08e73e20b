//! What the old process does with what it has, and how the next one comes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::Site;
use crate::support::{
    Driver, End, Gate, RawClient, RouterConfig, ScriptedNode, chat, event, eventually, fixed,
    on_both_drivers, sse_head,
};

/// A node whose streams send one event, wait at the gate, and send nine more.
fn gated_node() -> (ScriptedNode, Gate) {
    let gate = Gate::default();
    let passing = gate.clone();
    let node = ScriptedNode::start(move |call| {
        if call.field("x-plain").is_some() {
            call.send(&fixed(b"plain"));
            return;
        }
        call.send(sse_head());
        call.send(&event("0"));
        passing.pass();
        for number in 1..10 {
            call.send(&event(&number.to_string()));
        }
        call.send(b"0\r\n\r\n");
    });
    (node, gate)
}

fn plain() -> Vec<u8> {
    crate::support::ask("x").field("X-Plain", "1").bytes()
}

#[test]
fn streams_run_on_in_the_old_process_and_idle_connections_end_politely() {
    on_both_drivers(|driver| {
        let (node, gate) = gated_node();
        let config = RouterConfig::new(driver).node("n", &node);
        let site = Site::new();
        let (mut old, address) = site.start(&config);
        let mut streams: Vec<RawClient> = (0..20)
            .map(|_| {
                let mut client = RawClient::connect(address);
                client.send(&chat());
                assert_eq!(client.head().status, 200);
                assert_eq!(client.chunk().unwrap(), b"data: 0\n\n");
                client
            })
            .collect();
        let mut idle = RawClient::connect(address);
        idle.send(&plain());
        assert!(!idle.response().head.closes());
        let new = site.upgrade(&config);
        new.wait_until_serving();
        assert_eq!(idle.expect_closed(), End::Fin);
        // The new process serves while the old one finishes.
        for _ in 0..20 {
            let mut client = RawClient::connect(address);
            client.send(&plain());
            assert_eq!(client.response().text(), "plain");
        }
        assert!(old.is_running());
        gate.open();
        for stream in &mut streams {
            for number in 1..10 {
                let expected = format!("data: {number}\n\n");
                assert_eq!(stream.chunk().unwrap(), expected.as_bytes());
            }
            assert_eq!(stream.chunk(), None);
            assert_eq!(stream.expect_closed(), End::Fin);
        }
        drop(streams);
        assert_eq!(old.wait_exit(), 0);
        old.wait_for_line("has taken over");
    });
}

#[test]
fn what_does_not_end_within_the_grace_time_is_cut_in_the_old_process_only() {
    on_both_drivers(|driver| {
        let (node, _gate) = gated_node();
        let config = RouterConfig::new(driver)
            .set("server.drain_grace_secs", 1)
            .node("n", &node);
        let site = Site::new();
        let (mut old, address) = site.start(&config);
        let mut stream = RawClient::connect(address);
        stream.send(&chat());
        assert_eq!(stream.head().status, 200);
        let new = site.upgrade(&config);
        new.wait_until_serving();
        assert_eq!(old.wait_exit(), 3);
        let mut client = RawClient::connect(address);
        client.send(&plain());
        assert_eq!(client.response().status, 200);
    });
}

#[test]
fn the_first_signal_after_the_handover_changes_nothing_and_the_second_ends_it() {
    let (node, _gate) = gated_node();
    let config = RouterConfig::new(Driver::IoUring).node("n", &node);
    let site = Site::new();
    let (mut old, address) = site.start(&config);
    let mut stream = RawClient::connect(address);
    stream.send(&chat());
    assert_eq!(stream.head().status, 200);
    assert_eq!(stream.chunk().unwrap(), b"data: 0\n\n");
    let new = site.upgrade(&config);
    new.wait_until_serving();
    old.wait_for_line("has taken over");
    old.signal(Signal::SIGTERM);
    assert!(stream.is_silent_for(Duration::from_millis(300)));
    assert!(old.is_running());
    old.signal(Signal::SIGTERM);
    assert_eq!(old.wait_exit(), 3);
}

#[test]
fn a_signal_starts_the_same_program_again_and_that_one_can_be_upgraded_too() {
    on_both_drivers(|driver| {
        let (node, _gate) = gated_node();
        let config = RouterConfig::new(driver).node("n", &node);
        let site = Site::new();
        let (mut first, address) = site.start(&config);
        // Held open by the first process: the second must not have it as well.
        let mut idle = RawClient::connect(address);
        idle.send(&plain());
        assert_eq!(idle.response().status, 200);
        first.signal(Signal::SIGUSR2);
        let second: i32 = first
            .wait_for_line("info: upgrade: process ")
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let began = Instant::now();
        assert_eq!(first.wait_exit(), 0, "{}", first.stderr());
        assert_eq!(idle.expect_closed(), End::Fin);
        assert!(began.elapsed() < Duration::from_secs(8));
        let mut client = RawClient::connect(address);
        client.send(&plain());
        assert_eq!(client.response().status, 200);
        // The third takes over from the second, whatever the second was started by.
        let mut third = site.upgrade(&config);
        third.wait_until_serving();
        eventually("the second has ended", || has_ended(second));
        let mut client = RawClient::connect(address);
        client.send(&plain());
        assert_eq!(client.response().status, 200);
        third.signal(Signal::SIGTERM);
        assert_eq!(third.wait_exit(), 0);
        assert!(RawClient::try_connect(address).is_none(), "nobody listens");
    });
}

/// Whether a process that is not a child of this one has ended; whoever has to may not have noticed yet.
fn has_ended(process: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    state.is_empty() || state.starts_with('Z')
}

#[test]
fn the_new_process_reads_the_new_configuration() {
    let (node, _gate) = gated_node();
    let site = Site::new();
    let base = RouterConfig::new(Driver::IoUring).node("n", &node);
    let (mut old, address) = site.start(&base);
    let changed = base
        .set("server.workers", 3)
        .set("auth.required", true)
        .set("auth.api_keys", "[\"sk-new\"]");
    let new = site.upgrade(&changed);
    new.wait_until_serving();
    assert_eq!(old.wait_exit(), 0);
    let mut client = RawClient::connect(address);
    client.send(&plain());
    assert_eq!(client.response().status, 401);
    new.wait_for_line("with 3 workers");
}

#[test]
fn the_new_process_has_the_listening_sockets_of_the_old_one_and_nothing_else_of_it() {
    on_both_drivers(|driver| {
        let (node, gate) = gated_node();
        let config = RouterConfig::new(driver).node("n", &node);
        let site = Site::new();
        let (mut old, address) = site.start(&config);
        let mut stream = RawClient::connect(address);
        stream.send(&chat());
        assert_eq!(stream.head().status, 200);
        old.signal(Signal::SIGUSR2);
        old.wait_for_line("has taken over");
        let new: i32 = old
            .wait_for_line("info: upgrade: process ")
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let (of_old, of_new) = (sockets(old.pid()), sockets(new));
        assert!(of_new.len() > 2, "{of_new:?}");
        let listening = listening_sockets();
        let shared = of_new.intersection(&of_old);
        let more: Vec<_> = shared
            .filter(|socket| !listening.contains(*socket))
            .collect();
        assert!(more.is_empty(), "{more:?}");
        gate.open();
        while stream.chunk().is_some() {}
        assert_eq!(old.wait_exit(), 0);
        kill(Pid::from_raw(new), Signal::SIGTERM).unwrap();
        eventually("the new process has ended", || has_ended(new));
    });
}

/// The sockets a process has open, by their numbers.
fn sockets(process: i32) -> BTreeSet<String> {
    std::fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| {
            let link = link.to_str()?.strip_prefix("socket:[")?;
            Some(link.trim_end_matches(']').to_owned())
        })
        .collect()
}

/// The sockets that listen on this machine.
fn listening_sockets() -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1);
    let rows = rows.map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == "0A")
        .map(|row| row[9].to_owned())
        .collect()
}
