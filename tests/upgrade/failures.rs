//! Upgrades that come to nothing: the process that runs goes on as if nothing had happened.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::{
    Driver, RawClient, RouterConfig, ScriptedNode, chat, eventually, fixed, note, on_both_drivers,
};
use crate::support::{Process, Site, is_ready};

#[test]
fn a_new_process_that_cannot_start_leaves_the_old_one_alone() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let config = RouterConfig::new(driver).node("n", &node);
        let site = Site::new();
        let (mut old, address) = site.start(&config);
        let mut client = RawClient::connect(address);
        // Before it asks, because of its configuration; after it was given the sockets, because of a log
        // that cannot be opened; and where it is to listen elsewhere.
        for (key, value, code, words) in [
            ("queue.max_size", "0", 2, "queue.max_size"),
            (
                "log.access",
                "\"./no/such/directory/log\"",
                1,
                "open the access log",
            ),
            ("server.port", "1", 2, "server.port need a restart"),
            (
                "server.data_dir",
                "\"elsewhere\"",
                2,
                "no router that could be upgraded",
            ),
        ] {
            let mut new = match key {
                "server.data_dir" => {
                    fs::create_dir_all(site.directory.join("elsewhere")).unwrap();
                    site.upgrade(&config.clone().data_dir("elsewhere".as_ref()))
                }
                _ => site.upgrade(&config.clone().set(key, value)),
            };
            assert_eq!(new.wait_exit(), code, "{}", new.stderr());
            new.wait_for_line(words);
            client.send(&chat());
            assert_eq!(client.response().status, 200);
        }
        assert!(old.is_running());
        assert!(is_ready(address));
        let new = site.upgrade(&config);
        new.wait_until_serving();
        assert_eq!(old.wait_exit(), 0);
    });
}

#[test]
fn a_new_process_that_is_killed_before_it_is_ready_leaves_the_old_one_alone() {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let slow = ScriptedNode::answering(fixed(b"{}"));
    let config = RouterConfig::new(Driver::IoUring).node("n", &node);
    let site = Site::new();
    let (mut old, address) = site.start(&config);
    let (_silent, base_url) = silent_node();
    let waiting = config.clone().node_at("silent", &base_url, "other", 1, "");
    let new = site.upgrade(&waiting);
    old.wait_for_line("takes over");
    // While it gets ready, another one is refused.
    let mut second = site.upgrade(&config);
    assert_eq!(second.wait_exit(), 2);
    second.wait_for_line("another upgrade is under way");
    drop(new);
    old.wait_for_line("this one goes on");
    let mut client = RawClient::connect(address);
    client.send(&chat());
    assert_eq!(client.response().status, 200);
    let new = site.upgrade(&config.node("m", &slow));
    new.wait_until_serving();
    assert_eq!(old.wait_exit(), 0);
}

#[test]
fn more_workers_have_no_connection_before_they_accept() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let config = RouterConfig::new(driver)
            .set("server.workers", 1)
            .node("n", &node);
        let site = Site::new();
        let (mut old, address) = site.start(&config);
        let (_silent, base_url) = silent_node();
        let waiting = config
            .clone()
            .set("server.workers", 4)
            .set("health.probe_timeout_secs", 30)
            .node_at("silent", &base_url, "other", 1, "");
        let new = site.upgrade(&waiting);
        old.wait_for_line("takes over");
        // It is as far as it comes while the node is silent.
        eventually("the new one waits", || has_thread(new.pid(), "control"));
        // Each has to be answered while the new one waits, and none may be left with it when it dies.
        let mut begun = Vec::new();
        for _ in 0..40 {
            let mut client = RawClient::connect(address);
            client.send(&chat());
            begun.push(client);
        }
        for client in &mut begun {
            assert_eq!(client.response().status, 200);
        }
        let mut unused: Vec<_> = (0..40).map(|_| RawClient::connect(address)).collect();
        drop(new);
        old.wait_for_line("this one goes on");
        for client in &mut unused {
            client.send(&chat());
            assert_eq!(client.response().status, 200);
        }
        let new = site.upgrade(&config.set("server.workers", 4));
        new.wait_until_serving();
        assert_eq!(old.wait_exit(), 0);
        eventually("all of them listen", || listener_count(address) == 4);
        for _ in 0..40 {
            let mut client = RawClient::connect(address);
            client.send(&chat());
            assert_eq!(client.response().status, 200);
        }
    });
}

/// A node that takes connections and never answers: it keeps a new process from being ready.
pub(crate) fn silent_node() -> (TcpListener, String) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}", socket.local_addr().unwrap());
    (socket, base_url)
}

fn has_thread(process: i32, name: &str) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
        return false;
    };
    let names = tasks.flatten();
    let mut names = names.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.any(|comm| comm.trim() == name)
}

/// The sockets that listen on a port of this machine.
fn listener_count(address: SocketAddr) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", address.port());
    let rows = table.lines().map(|line| line.split_whitespace());
    rows.filter(|row| {
        let mut row = row.clone();
        row.nth(1).is_some_and(|local| local.ends_with(&port)) && row.nth(1) == Some("0A")
    })
    .count()
}

#[test]
fn a_program_that_fails_when_it_is_started_by_signal_is_reported() {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let config = RouterConfig::new(Driver::Epoll).node("n", &node);
    let site = Site::new();
    let (mut old, address) = site.start(&config);
    site.write(&config.clone().set("queue.max_size", 0));
    old.signal(Signal::SIGUSR2);
    old.wait_for_line("has ended (exit status: 2)");
    assert!(is_ready(address));
    site.write(&config);
    old.signal(Signal::SIGTERM);
    assert_eq!(old.wait_exit(), 0);
}

#[test]
fn a_socket_file_that_was_left_behind_is_in_nobodys_way() {
    let config = RouterConfig::new(Driver::IoUring).without_waiting_for_nodes();
    let site = Site::new();
    site.write(&config);
    let mut nobody = site.upgrade(&config);
    assert_eq!(nobody.wait_exit(), 2);
    nobody.wait_for_line("no router");
    let killed = {
        let process = site.start_alone(&config);
        process.wait_until_serving();
        process.wait_until_meeting(&site);
        process
    };
    // Killed: nothing is cleared away.
    drop(killed);
    assert!(site.directory.join("handover.sock").exists());
    let mut nobody = site.upgrade(&config);
    assert_eq!(nobody.wait_exit(), 2);
    let mut first = site.start_alone(&config);
    first.wait_until_serving();
    first.wait_until_meeting(&site);
    let new = site.upgrade(&config);
    new.wait_until_serving();
    assert_eq!(first.wait_exit(), 0);
}

#[test]
fn another_user_is_turned_away() {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let config = RouterConfig::new(Driver::IoUring).node("n", &node);
    let site = Site::new();
    let (mut old, address) = site.start(&config);
    let meeting = site.directory.join("handover.sock");
    assert_eq!(fs::metadata(&meeting).unwrap().mode() & 0o777, 0o600);
    if !nix::unistd::Uid::effective().is_root() {
        note("without the right to become somebody else only the mode of the file is checked");
        return;
    }
    let as_nobody = |directory: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llm-router"));
        command
            .args(["serve", "--upgrade", "--host", "127.0.0.1", "--port", "0"])
            .args(["--data-dir", directory, "--set", "auth.required=false"])
            .env_clear()
            .current_dir("/")
            .uid(65_534)
            .gid(65_534);
        Process::start(command)
    };
    let directory = site.directory.to_str().unwrap();
    // By the file first, then by what the kernel says of whoever connects.
    for (mode, words) in [(0o600, "cannot reach"), (0o666, "did not hand over")] {
        fs::set_permissions(&meeting, fs::Permissions::from_mode(mode)).unwrap();
        let mut stranger = as_nobody(directory);
        assert_eq!(stranger.wait_exit(), 2, "{}", stranger.stderr());
        stranger.wait_for_line(words);
    }
    old.wait_for_line("a process of another user was turned away");
    assert!(is_ready(address));
    let new = site.upgrade(&config);
    new.wait_until_serving();
    assert_eq!(old.wait_exit(), 0);
}
