//! Clients that ask one request after the other and remember every answer they saw.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::{RawClient, ask, eventually};

/// Clients at work.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    key: String,
    /// Distinguishes their request ids from those of other clients.
    name: String,
    begun: AtomicUsize,
    is_over: AtomicBool,
    answers: Mutex<Vec<Answer>>,
    /// Requests that were refused a connection or an answer.
    lost: AtomicUsize,
}

/// An answer that was read whole.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) request_id: String,
    pub(crate) status: u16,
    at: Instant,
}

/// What they saw.
pub(crate) struct Seen {
    pub(crate) answers: Vec<Answer>,
    lost: usize,
}

impl Clients {
    pub(crate) fn start(address: SocketAddr, key: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let shared = Arc::new(Shared {
            address,
            key: key.to_owned(),
            name: format!("clients-{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
            begun: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            answers: Mutex::default(),
            lost: AtomicUsize::new(0),
        });
        let threads = (0..CLIENTS).map(|_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                while !shared.is_over.load(Ordering::Relaxed) {
                    shared.ask_once();
                }
            })
        });
        Self {
            threads: threads.collect(),
            shared,
        }
    }

    /// Waits until so many more requests have been answered.
    #[track_caller]
    pub(crate) fn until_more(&self, count: usize) {
        let answered = || self.shared.answers.lock().unwrap().len();
        let before = answered();
        eventually(&format!("{count} more answers"), || {
            answered() >= before + count
        });
    }

    /// Waits until they have been at work for so long.
    #[track_caller]
    pub(crate) fn until_later(&self, time: Duration) {
        let answers = || self.shared.answers.lock().unwrap();
        eventually("they have worked for a while", || {
            let first = answers().first().map(|answer| answer.at);
            first.is_some_and(|first| first.elapsed() >= time)
        });
    }

    pub(crate) fn stop(self) -> Seen {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let answers = self.shared.answers.lock().unwrap().clone();
        Seen {
            answers,
            lost: self.shared.lost.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    fn ask_once(&self) {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let request_id = format!("{}-{number}", self.name);
        let Some(mut client) = RawClient::try_connect(self.address) else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            // Nobody listens: not at full speed.
            thread::park_timeout(Duration::from_millis(5));
            return;
        };
        let request = ask(&request_id)
            .key(&self.key)
            .field("X-Request-Id", &request_id)
            .field("Connection", "close");
        client.send(&request.bytes());
        let Some(response) = client.try_response() else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.text(), format!("answer to {request_id}"));
        self.answers.lock().unwrap().push(Answer {
            request_id,
            status: response.status,
            at: Instant::now(),
        });
    }
}

impl Seen {
    /// Asserts that nobody was left without an answer.
    #[track_caller]
    pub(crate) fn are_all_answered(&self) {
        assert_eq!(self.lost, 0, "of {} requests", self.answers.len());
    }

    /// Only what was answered before `time`, at which the process was about to be killed.
    pub(crate) fn before(mut self, time: Instant) -> Self {
        assert!(self.lost > 0, "the process was killed under load");
        self.answers.retain(|answer| answer.at < time);
        self
    }
}

const CLIENTS: usize = 4;
