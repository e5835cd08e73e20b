//! What systemd hears of a reload and of an upgrade, as `sd_notify(3)` and `Type=notify-reload` want it.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::Site;
use crate::support::{Driver, RouterConfig, ScriptedNode, fixed};

/// The supervisor's end of the conversation.
struct Supervisor(UnixDatagram);

impl Supervisor {
    fn of(site: &Site) -> Self {
        let socket = UnixDatagram::bind(site.directory.join("notify")).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self(socket)
    }

    /// The next message, by its lines.
    fn hears(&self) -> Vec<String> {
        let mut message = [0; 512];
        let bytes = self.0.recv(&mut message).unwrap();
        let text = std::str::from_utf8(&message[..bytes]).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_supervisor_follows_reloads_and_learns_which_process_has_taken_over() {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let config = RouterConfig::new(Driver::IoUring).node("n", &node);
    let site = Site::new();
    let supervisor = Supervisor::of(&site);
    let (mut old, address) = site.start(&config);
    assert_eq!(
        supervisor.hears(),
        ["READY=1", &format!("STATUS=listening on {address}")]
    );
    site.write(&config.clone().set("queue.max_size", 7));
    old.signal(Signal::SIGHUP);
    let reloading = supervisor.hears();
    assert_eq!(reloading[0], "RELOADING=1");
    let at = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap();
    assert!(at.parse::<u64>().unwrap() > 0);
    assert_eq!(
        supervisor.hears(),
        ["READY=1", "STATUS=applied queue.max_size"]
    );
    site.write(&config.clone().set("queue.max_size", 0));
    old.signal(Signal::SIGHUP);
    assert_eq!(supervisor.hears()[0], "RELOADING=1");
    let refused = supervisor.hears();
    assert_eq!(refused[0], "READY=1", "it serves, with what it had");
    assert!(refused[1].contains("refused"), "{refused:?}");
    let mut new = site.upgrade(&config);
    new.wait_until_serving();
    // By the old process, which is the one that is listened to; then the new one speaks for itself.
    assert_eq!(
        supervisor.hears(),
        [&format!("MAINPID={}", new.pid()), "STATUS=handing over"]
    );
    assert_eq!(supervisor.hears()[0], "READY=1");
    assert_eq!(old.wait_exit(), 0);
    new.signal(Signal::SIGTERM);
    assert_eq!(supervisor.hears()[0], "STOPPING=1", "and not from the old");
    assert_eq!(new.wait_exit(), 0);
}
