//! Both sides in one process.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_channel::{Receiver, bounded};

use super::give::is_allowed;
use super::*;
use crate::runtime::Listener;

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!(
            "llm-router-handover-{}-{number}{name}",
            std::process::id()
        ));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that can be taken over, with so many sockets on one port.
fn running(directory: &Directory, count: usize) -> (Giver, Receiver<u32>) {
    let first = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = first.local_addr().unwrap();
    let mut listeners = vec![first];
    listeners.extend((1..count).map(|_| Listener::bind(address).unwrap()));
    let offer = Offer {
        directory: directory.0.clone(),
        host: address.ip(),
        port: 0,
        address,
        listeners,
    };
    let (sender, released) = bounded(1);
    let told = move |process| sender.send(process).unwrap();
    let giver = Giver::start(offer, Arrival::First, Arc::default(), |_| {}, told).unwrap();
    (giver, released)
}

fn ask(directory: &Directory) -> Result<Taken, String> {
    take(&directory.0, "127.0.0.1".parse().unwrap(), 0)
}

#[test]
fn the_sockets_arrive_and_the_other_side_leaves_when_it_is_told() {
    // More than one packet holds, at a path longer than the address of a socket.
    let directory = Directory::new(&"-long".repeat(30));
    let (_giver, released) = running(&directory, 130);
    let mode = fs::metadata(directory.0.join(FILE_NAME)).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    let taken = ask(&directory).unwrap();
    assert_eq!(taken.listeners.len(), 130);
    assert!(
        released.try_recv().is_err(),
        "not before the other is ready"
    );
    taken.ready().unwrap();
    assert_eq!(released.recv_timeout(PATIENCE), Ok(std::process::id()));
}

#[test]
fn a_new_process_that_fails_leaves_everything_as_it_was() {
    let directory = Directory::new("");
    let (_giver, released) = running(&directory, 2);
    for _ in 0..3 {
        drop(ask(&directory).unwrap());
    }
    assert!(released.try_recv().is_err());
    ask(&directory).unwrap().ready().unwrap();
    assert!(released.recv_timeout(PATIENCE).is_ok());
}

#[test]
fn a_new_process_that_dies_as_it_is_told_leaves_the_service_to_the_old_one() {
    let directory = Directory::new("");
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let offer = Offer {
        directory: directory.0.clone(),
        host: address.ip(),
        port: 0,
        address,
        listeners: vec![listener],
    };
    let (sender, announced) = bounded(8);
    let (told, released) = bounded(1);
    let _giver = Giver::start(
        offer,
        Arrival::First,
        Arc::default(),
        move |process| sender.send(process).unwrap(),
        move |process| told.send(process).unwrap(),
    )
    .unwrap();
    let taken = ask(&directory).unwrap();
    // Says that it is ready, and cannot be told anything any more.
    taken.stop_listening();
    assert!(taken.ready().is_err());
    let own = std::process::id();
    // Its own number twice: this test is both processes.
    for _ in 0..2 {
        assert_eq!(announced.recv_timeout(PATIENCE), Ok(own));
    }
    assert!(released.try_recv().is_err());
    ask(&directory).unwrap().ready().unwrap();
    assert_eq!(released.recv_timeout(PATIENCE), Ok(own));
}

#[test]
fn of_two_at_once_the_second_is_refused() {
    let directory = Directory::new("");
    let (_giver, _released) = running(&directory, 1);
    let first = ask(&directory).unwrap();
    let refusal = ask(&directory).err().unwrap();
    assert!(
        refusal.contains("another upgrade is under way"),
        "{refusal}"
    );
    first.ready().unwrap();
}

#[test]
fn who_is_to_listen_elsewhere_or_comes_too_late_is_refused() {
    let directory = Directory::new("");
    let (giver, _released) = running(&directory, 1);
    let refusal = take(&directory.0, "127.0.0.1".parse().unwrap(), 81).err();
    let refusal = refusal.unwrap();
    assert!(refusal.contains("127.0.0.1:81"), "{refusal}");
    giver.stop();
    let refusal = ask(&directory).err().unwrap();
    assert!(refusal.contains("shutting down"), "{refusal}");
}

#[test]
fn a_socket_file_that_nobody_answers_at_is_replaced() {
    let directory = Directory::new("");
    assert!(ask(&directory).err().unwrap().contains("no router"));
    drop(listen(&directory.0, Arrival::First).unwrap());
    assert!(directory.0.join(FILE_NAME).exists());
    assert!(ask(&directory).err().unwrap().contains("no router"));
    let (_giver, _released) = running(&directory, 1);
    assert!(ask(&directory).is_ok());
    let taken = listen(&directory.0, Arrival::First).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn one_that_speaks_another_version_is_turned_away() {
    let directory = Directory::new("");
    let (_giver, _released) = running(&directory, 1);
    let channel = Channel::connect(&directory.0).unwrap();
    runtime::send_descriptors(channel.0.as_fd(), b"llm-router-handover/9 ask", &[]).unwrap();
    let lost = channel.receive(PATIENCE).unwrap_err();
    assert_eq!(lost.kind(), io::ErrorKind::UnexpectedEof);
    assert!(ask(&directory).is_ok());
}

#[test]
fn only_the_same_user_may_take_over() {
    let own = nix::unistd::Uid::effective().as_raw();
    assert!(is_allowed(own));
    assert!(!is_allowed(own + 1));
}
