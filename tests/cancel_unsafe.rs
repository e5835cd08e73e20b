//! Pins the fact the whole data plane is built around: **dropping an in-flight read loses bytes**.
//!
//! io_uring may already have moved bytes out of the socket when the future of a read is dropped; the
//! buffer goes back to the driver and with it what it held. That is why a pending read lives in
//! `runtime::Reader`, why deadlines shut sockets down instead of cancelling, and why no `select!` in
//! this code base drops a read of a connection that lives on.
//!
//! Never delete this test. If it fails because the bytes survive, the runtime has changed: then, and
//! only then, may those rules be looked at again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::future::{Future, poll_fn};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use llm_router::runtime::{self, Buf, Driver, Preference, Stream};
use monoio::io::AsyncReadRent;

/// A connected pair: the accepted side as a plain socket, the other on the runtime.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

#[test]
fn a_dropped_read_loses_the_bytes_it_had_already_received() {
    let choice = runtime::choose(Preference::IoUring).expect("this test needs io_uring");
    let (near, mut far) = pair();
    let received = runtime::block_on(choice.driver, async move {
        let mut socket = monoio::net::TcpStream::from_std(near).unwrap();
        {
            let mut read = pin!(socket.read(vec![0_u8; 16]));
            // Hand the read to the kernel, let bytes arrive into it, then drop it unseen.
            let first = poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
            assert!(first.is_pending());
            far.write_all(b"lost").unwrap();
            runtime::sleep(Duration::from_millis(50)).await;
        }
        far.write_all(b"kept").unwrap();
        let (count, buf) = socket.read(vec![0_u8; 16]).await;
        buf[..count.unwrap()].to_vec()
    })
    .unwrap();
    assert_eq!(
        received, b"kept",
        "the driver gave the bytes of the dropped read to nobody"
    );
}

fn a_reader_keeps_the_bytes_when_its_waiter_is_dropped(driver: Driver) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let received = runtime::block_on(driver, async move {
        let mut stream = Stream::connect(address).await.unwrap();
        let (mut far, _) = listener.accept().unwrap();
        stream.reader.arm(Buf::small());
        {
            let mut waiter = pin!(stream.reader.finish());
            let first = poll_fn(|context| Poll::Ready(waiter.as_mut().poll(context))).await;
            assert!(first.is_pending());
            far.write_all(b"kept").unwrap();
            runtime::sleep(Duration::from_millis(50)).await;
        }
        let (count, buf) = stream.reader.finish().await;
        assert_eq!(count.unwrap(), 4);
        buf.filled().to_vec()
    })
    .unwrap();
    assert_eq!(received, b"kept");
}

#[test]
fn a_reader_on_io_uring_keeps_the_bytes_when_its_waiter_is_dropped() {
    let choice = runtime::choose(Preference::IoUring).expect("this test needs io_uring");
    a_reader_keeps_the_bytes_when_its_waiter_is_dropped(choice.driver);
}

#[test]
fn a_reader_on_epoll_keeps_the_bytes_when_its_waiter_is_dropped() {
    a_reader_keeps_the_bytes_when_its_waiter_is_dropped(Driver::Epoll);
}
