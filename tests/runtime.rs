//! What the runtime boundary promises, on both drivers: deadlines, mailboxes, panic isolation, drain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use llm_router::runtime::{
    self, Buf, Driver, Listener, NextTick, Preference, Stream, clock, mailbox,
};

/// Runs `scenario` on io_uring with the best flags and on epoll.
fn on_both_drivers(scenario: impl Fn(Driver)) {
    let ring = runtime::choose(Preference::IoUring)
        .expect("these tests need io_uring")
        .driver;
    for driver in [ring, Driver::Epoll] {
        scenario(driver);
    }
}

/// Waits until `condition` holds; fails after twenty seconds.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "never happened: {what}"
        );
        runtime::sleep(Duration::from_millis(5)).await;
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn every_flag_set_the_kernel_takes_runs_a_future() {
    for driver in [
        Driver::IoUringDeferred,
        Driver::IoUringCooperative,
        Driver::IoUringPlain,
        Driver::Epoll,
    ] {
        let value = std::thread::spawn(move || runtime::block_on(driver, async { 7 }))
            .join()
            .unwrap()
            .unwrap_or_else(|error| panic!("{driver}: {error}"));
        assert_eq!(value, 7);
    }
}

#[test]
fn asking_for_epoll_gives_epoll() {
    let choice = runtime::choose(Preference::Epoll).unwrap();
    assert_eq!(choice.driver, Driver::Epoll);
    assert_eq!(choice.reason, "asked for");
}

#[test]
fn a_deadline_ends_a_parked_read_without_cancelling_it() {
    on_both_drivers(|driver| {
        let (listener, address) = listener();
        runtime::block_on(driver, async move {
            let mut stream = Stream::connect(address).await.unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            let began = Instant::now();
            stream.deadline.set(Duration::from_millis(100));
            let (read, _) = stream.reader.read(Buf::small()).await;
            assert_eq!(read.unwrap(), 0);
            assert!(stream.deadline.expired());
            assert!(began.elapsed() >= Duration::from_millis(100), "never early");
            assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "the peer sees the end");
        })
        .unwrap();
    });
}

#[test]
fn after_a_receiving_deadline_an_answer_can_still_be_sent() {
    on_both_drivers(|driver| {
        let (listener, address) = listener();
        runtime::block_on(driver, async move {
            let mut stream = Stream::connect(address).await.unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            stream.deadline.set_receiving(Duration::from_millis(50));
            let (read, _) = stream.reader.read(Buf::small()).await;
            assert_eq!(read.unwrap(), 0);
            let mut answer = Buf::small();
            answer.append(b"408");
            let (written, _) = stream.writer.write_all(answer).await;
            written.unwrap();
            let mut seen = [0; 3];
            peer.read_exact(&mut seen).unwrap();
            assert_eq!(&seen, b"408");
        })
        .unwrap();
    });
}

#[test]
fn closing_idle_connections_leaves_busy_ones_and_loses_no_request_that_has_arrived() {
    on_both_drivers(|driver| {
        let (listener, address) = listener();
        runtime::block_on(driver, async move {
            let mut idle = Stream::connect(address).await.unwrap();
            let (_idle_peer, _) = listener.accept().unwrap();
            let mut busy = Stream::connect(address).await.unwrap();
            let (mut busy_peer, _) = listener.accept().unwrap();
            let mut arrived = Stream::connect(address).await.unwrap();
            let (mut arrived_peer, _) = listener.accept().unwrap();
            idle.deadline.set_idle(Duration::from_secs(60));
            busy.deadline.set(Duration::from_secs(60));
            arrived.deadline.set_idle(Duration::from_secs(60));
            arrived_peer.write_all(b"request").unwrap();

            assert_eq!(runtime::close_idle(), 2);

            assert_eq!(idle.reader.read(Buf::small()).await.0.unwrap(), 0);
            assert_eq!(arrived.reader.read(Buf::small()).await.0.unwrap(), 7);
            busy_peer.write_all(b"still open").unwrap();
            assert_eq!(busy.reader.read(Buf::small()).await.0.unwrap(), 10);
        })
        .unwrap();
    });
}

#[test]
fn a_deadline_ends_a_write_that_makes_no_progress() {
    on_both_drivers(|driver| {
        let (listener, address) = listener();
        runtime::block_on(driver, async move {
            let mut stream = Stream::connect(address).await.unwrap();
            let (_peer, _) = listener.accept().unwrap();
            stream.deadline.set(Duration::from_millis(100));
            let mut big = Buf::with_room(64 << 20);
            big.append(&vec![b'x'; 64 << 20]);
            let (written, _) = stream.writer.write_all(big).await;
            written.unwrap_err();
            assert!(stream.deadline.expired());
        })
        .unwrap();
    });
}

#[test]
fn a_cleared_deadline_never_fires() {
    on_both_drivers(|driver| {
        let (listener, address) = listener();
        runtime::block_on(driver, async move {
            let mut stream = Stream::connect(address).await.unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            stream.deadline.set(Duration::from_millis(50));
            stream.deadline.clear();
            stream.reader.arm(Buf::small());
            runtime::sleep(Duration::from_millis(300)).await;
            assert!(!stream.deadline.expired());
            peer.write_all(b"still here").unwrap();
            let (count, buf) = stream.reader.finish().await;
            assert_eq!(&buf.filled()[..count.unwrap()], b"still here");
        })
        .unwrap();
    });
}

#[test]
fn a_task_is_woken_at_the_next_tick_and_again_at_the_one_after() {
    on_both_drivers(|driver| {
        let turns = async {
            let mut next_tick = NextTick::new();
            let began = Instant::now();
            for _ in 0..3 {
                poll_fn(|context| next_tick.poll(context)).await;
            }
            began.elapsed()
        };
        let took = runtime::block_on(driver, turns).unwrap();
        // The first tick may be nearly over at the beginning. Timers are a millisecond coarse.
        assert!(
            took >= 2 * clock::TICK - Duration::from_millis(4),
            "{took:?}"
        );
    });
}

#[test]
fn who_no_longer_waits_for_the_next_tick_is_not_woken() {
    struct Count(AtomicU32);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    on_both_drivers(|driver| {
        let counts = [(); 3].map(|()| Arc::new(Count(AtomicU32::new(0))));
        let scene = async {
            let mut places = [(); 3].map(|()| Some(NextTick::new()));
            for (place, count) in places.iter_mut().zip(&counts) {
                let waker = Waker::from(Arc::clone(count));
                let place = place.as_mut().unwrap();
                for _ in 0..2 {
                    assert!(place.poll(&Context::from_waker(&waker)).is_pending());
                }
            }
            places[1].as_mut().unwrap().reset();
            places[2] = None;
            runtime::sleep(3 * clock::TICK).await;
        };
        runtime::block_on(driver, scene).unwrap();
        let woken = counts.map(|count| count.0.load(Ordering::Relaxed));
        assert_eq!(woken, [1, 0, 0]);
    });
}

#[test]
fn a_mailbox_delivers_every_message_from_every_thread() {
    const SENDERS: usize = 4;
    const MESSAGES: usize = 2000;
    on_both_drivers(|driver| {
        let (sender, receiver) = mailbox::new::<usize>(64).unwrap();
        let threads: Vec<_> = (0..SENDERS)
            .map(|thread| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for message in 0..MESSAGES {
                        let mut message = thread * MESSAGES + message;
                        while let Err(back) = sender.send(message) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut seen = runtime::block_on(driver, async move {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let collect = Rc::clone(&seen);
            runtime::spawn(async move {
                receiver
                    .run(|message| collect.borrow_mut().push(message))
                    .await
                    .unwrap();
            });
            eventually("all messages", || seen.borrow().len() == SENDERS * MESSAGES).await;
            seen.take()
        })
        .unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        seen.sort_unstable();
        assert!(
            seen.into_iter().eq(0..SENDERS * MESSAGES),
            "each exactly once"
        );
    });
}

#[test]
fn a_full_mailbox_gives_the_message_back() {
    let (sender, _receiver) = mailbox::new::<u8>(1).unwrap();
    sender.send(1).unwrap();
    assert_eq!(sender.send(2), Err(2));
}

#[test]
fn a_panic_ends_its_task_drops_its_guards_and_leaves_the_worker_running() {
    struct Guard(Rc<RefCell<u32>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            *self.0.borrow_mut() -= 1;
        }
    }
    on_both_drivers(|driver| {
        let before = runtime::panic_count();
        runtime::block_on(driver, async {
            let count = Rc::new(RefCell::new(1));
            let guard = Guard(Rc::clone(&count));
            runtime::spawn(async move {
                let _guard = guard;
                runtime::sleep(Duration::from_millis(5)).await;
                panic!("one bad exchange");
            });
            eventually("the guard's drop", || *count.borrow() == 0).await;
            let alive = Rc::new(RefCell::new(false));
            let flag = Rc::clone(&alive);
            runtime::spawn(async move { *flag.borrow_mut() = true });
            eventually("the next task", || *alive.borrow()).await;
        })
        .unwrap();
        assert_eq!(runtime::panic_count(), before + 1);
    });
}

#[test]
fn closing_a_listener_hands_over_its_backlog_and_ends_its_accepts() {
    on_both_drivers(|driver| {
        let bound = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.local_addr().unwrap();
        runtime::block_on(driver, async move {
            let listener = Rc::new(Listener::new(bound).unwrap());
            // Nobody accepts yet: these three stand in the backlog.
            let mut clients: Vec<_> = (0..3)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect();
            let mut accepted = listener.close();
            assert_eq!(accepted.len(), 3);
            let accepting = Rc::clone(&listener);
            let ended = Rc::new(RefCell::new(false));
            let flag = Rc::clone(&ended);
            runtime::spawn(async move {
                assert!(accepting.accept().await.is_err());
                *flag.borrow_mut() = true;
            });
            eventually("the end of accept", || *ended.borrow()).await;
            let mut hello = Buf::small();
            hello.append(b"hello");
            let (written, _) = accepted[0].0.writer.write_all(hello).await;
            written.unwrap();
            let mut answer = [0; 5];
            clients[0].read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"hello");
            TcpStream::connect(address).expect_err("nothing listens any more");
        })
        .unwrap();
    });
}

#[test]
fn accepted_sockets_inherit_nodelay_from_the_listener() {
    let bound = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let _client = TcpStream::connect(bound.local_addr().unwrap()).unwrap();
    let (accepted, _) = bound.accept().unwrap();
    assert!(accepted.nodelay().unwrap());
}

/// Accepts on `listener` until it is released; how many connections it got.
async fn accept_until_released(listener: Rc<Listener>, accepted: Rc<RefCell<Vec<Stream>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        accepted.borrow_mut().push(stream);
    }
    assert!(listener.is_closed());
}

#[test]
fn a_released_listener_ends_its_accepts_and_leaves_the_socket_listening() {
    on_both_drivers(|driver| {
        let bound = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = bound.local_addr().unwrap();
        // As another process would hold it.
        let elsewhere = bound.try_clone().unwrap();
        runtime::block_on(driver, async move {
            let listener = Rc::new(Listener::new(bound).unwrap());
            let accepted = Rc::new(RefCell::new(Vec::new()));
            let ended = Rc::new(RefCell::new(0));
            for _ in 0..listener.accept_tasks() {
                let (listener, accepted) = (Rc::clone(&listener), Rc::clone(&accepted));
                let ended = Rc::clone(&ended);
                runtime::spawn(async move {
                    accept_until_released(listener, accepted).await;
                    *ended.borrow_mut() += 1;
                });
            }
            let _first = TcpStream::connect(address).unwrap();
            eventually("the first is accepted", || accepted.borrow().len() == 1).await;
            listener.release();
            eventually("all accepts end", || {
                *ended.borrow() == listener.accept_tasks()
            })
            .await;
            let second = TcpStream::connect(address).unwrap();
            // Nobody accepts here any more; who holds the socket elsewhere does.
            let (accepted_elsewhere, peer) = elsewhere.accept().unwrap();
            assert_eq!(peer, second.local_addr().unwrap());
            drop((listener, accepted_elsewhere));
            let _third = TcpStream::connect(address).unwrap();
            assert!(elsewhere.accept().is_ok());
            assert_eq!(accepted.borrow().len(), 1);
        })
        .unwrap();
    });
}

#[test]
fn two_drivers_share_a_listening_socket_and_neither_stalls_or_loses_a_connection() {
    const CONNECTIONS: usize = 400;
    on_both_drivers(|driver| {
        let bound = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = bound.local_addr().unwrap();
        let ring = runtime::choose(Preference::IoUring).unwrap().driver;
        let threads: Vec<_> = [driver, ring, Driver::Epoll]
            .into_iter()
            .map(|driver| {
                let bound = bound.try_clone().unwrap();
                let (stop, stopped) = mailbox::new::<()>(1).unwrap();
                let thread = std::thread::spawn(move || {
                    runtime::block_on(driver, accept_and_greet(bound, stopped)).unwrap()
                });
                (stop, thread)
            })
            .collect();
        drop(bound);
        for number in 0..CONNECTIONS {
            // In the middle of it one of the three leaves.
            if number == CONNECTIONS / 2 {
                assert!(threads[0].0.send(()).is_ok());
            }
            let mut client = TcpStream::connect(address).unwrap();
            client
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let mut greeting = [0; 2];
            client.read_exact(&mut greeting).unwrap();
            assert_eq!(&greeting, b"hi");
        }
        let mut greeted = 0;
        for (index, (stop, thread)) in threads.into_iter().enumerate() {
            assert!(index == 0 || stop.send(()).is_ok());
            greeted += thread.join().unwrap();
        }
        assert_eq!(greeted, CONNECTIONS);
    });
}

/// Greets whoever connects until `stopped` says so; how many there were.
async fn accept_and_greet(bound: TcpListener, stopped: mailbox::Receiver<()>) -> usize {
    let listener = Rc::new(Listener::new(bound).unwrap());
    let releasing = Rc::clone(&listener);
    runtime::spawn(async move {
        let _ = stopped.run(move |()| releasing.release()).await;
    });
    let mut greeted = 0;
    while let Ok((mut stream, _)) = listener.accept().await {
        let (written, _) = stream.writer.write_all(Buf::of(b"hi")).await;
        written.unwrap();
        greeted += 1;
    }
    greeted
}
