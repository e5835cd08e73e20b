//! Waiting for conditions with a deadline. Nothing here may wait for a fixed time, except [`pause`],
//! which is for tests in which silence itself is the subject.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// The longest any single expectation may take before its test fails.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Waits until `condition` holds; fails after [`DEADLINE`].
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_within(DEADLINE, what, condition);
}

/// Waits until `condition` holds and returns how long that took; fails after `limit`.
#[track_caller]
pub fn eventually_within(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Duration {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        pause(Duration::from_millis(5));
    }
    began.elapsed()
}

/// Lets time pass.
pub fn pause(duration: Duration) {
    let until = Instant::now() + duration;
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        std::thread::park_timeout(left);
    }
}

/// Holds everyone who passes until it is opened, at most [`DEADLINE`].
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        let _ = self
            .0
            .1
            .wait_timeout_while(open, DEADLINE, |open| !*open)
            .unwrap();
    }
}

/// Occupies `address` with a listener that never accepts and has no room left, so that connecting to
/// it neither succeeds nor fails.
pub fn blackhole(address: SocketAddr) -> Vec<Socket> {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let listener = socket();
    listener.set_reuse_address(true).unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let mut held = vec![listener];
    loop {
        let filling = socket();
        let connected = filling.connect_timeout(&address.into(), Duration::from_millis(100));
        held.push(filling);
        if connected.is_err() {
            return held;
        }
    }
}

/// Says something that is worth reading when a test fails, or with `--no-capture`.
pub fn note(text: &str) {
    eprintln!("{text}");
}
