//! A node that does exactly what a script says, and writes down what it received and when it was left.
//!
//! A connection whose first request is a GET is a probe's and is answered with the model list; every
//! other connection counts as inference. A reader thread takes in what arrives at all times, so a hang-up is
//! noticed whatever the script is doing.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::MODEL;
use super::client::{find, is_timeout};
use super::wait::{DEADLINE, pause};

type Script = dyn Fn(&mut Call) + Send + Sync;

/// A listening node.
pub struct ScriptedNode {
    shared: Arc<Shared>,
    listener: Mutex<Option<Listening>>,
}

struct Listening {
    socket: TcpListener,
    thread: JoinHandle<()>,
}

struct Shared {
    address: SocketAddr,
    script: Box<Script>,
    /// Read the whole body before the script runs.
    reads_bodies: bool,
    /// Bytes after which a connection is read no further.
    read_limit: AtomicUsize,
    probe_count: AtomicUsize,
    /// What `/props` reports as `total_slots`, as llama.cpp does; 0 is an engine that does not know it.
    slots_reported: AtomicUsize,
    running: AtomicUsize,
    running_max: AtomicUsize,
    connections: Mutex<Vec<Arc<Connection>>>,
}

/// One inference connection.
struct Connection {
    log: Mutex<Log>,
    changed: Condvar,
}

#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    consumed: usize,
    left: Option<Leaving>,
}

/// When and how the router left a connection.
#[derive(Debug, Clone, Copy)]
pub struct Leaving {
    pub at: Instant,
    pub by_reset: bool,
}

/// One request as the script sees it.
pub struct Call {
    stream: Arc<TcpStream>,
    connection: Arc<Connection>,
    reader: Option<JoinHandle<()>>,
    is_open: bool,
    /// The head with its empty line.
    pub head: Vec<u8>,
    /// The body as sent, as far as it was read.
    pub body: Vec<u8>,
    /// Which inference connection of the node this is, from 0.
    pub connection_index: usize,
    /// Which request of its connection this is, from 0.
    pub request_index: usize,
}

impl ScriptedNode {
    /// A node that runs `script` for each request, head and body read.
    pub fn start(script: impl Fn(&mut Call) + Send + Sync + 'static) -> Self {
        Self::listen(Box::new(script), true, usize::MAX)
    }

    /// A node that runs `script` as soon as a head is read, and reads at most `read_limit` bytes.
    pub fn start_eager(
        read_limit: usize,
        script: impl Fn(&mut Call) + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Box::new(script), false, read_limit)
    }

    /// A node that answers every request with these bytes.
    pub fn answering(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start(move |call| {
            call.send(&response);
        })
    }

    fn listen(script: Box<Script>, reads_bodies: bool, read_limit: usize) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared {
            address: socket.local_addr().unwrap(),
            script,
            reads_bodies,
            read_limit: AtomicUsize::new(read_limit),
            probe_count: AtomicUsize::new(0),
            slots_reported: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            running_max: AtomicUsize::new(0),
            connections: Mutex::default(),
        });
        let listening = Listening::on(socket, &shared);
        Self {
            shared,
            listener: Mutex::new(Some(listening)),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Refuses connections from now on; those that exist live on.
    pub fn stop_listening(&self) {
        if let Some(Listening { socket, thread }) = self.listener.lock().unwrap().take() {
            // On Linux this ends a parked accept and refuses what comes.
            socket2::SockRef::from(&socket)
                .shutdown(Shutdown::Both)
                .unwrap();
            thread.join().unwrap();
        }
    }

    /// Accepts connections at the same address again.
    pub fn listen_again(&self) {
        let socket = TcpListener::bind(self.shared.address).unwrap();
        *self.listener.lock().unwrap() = Some(Listening::on(socket, &self.shared));
    }

    /// Reads connections on beyond the limit the node was started with.
    pub fn lift_read_limit(&self) {
        self.shared.read_limit.store(usize::MAX, Ordering::SeqCst);
    }

    /// Everything received on inference connections, by connection.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let connections = self.shared.connections.lock().unwrap();
        connections
            .iter()
            .map(|connection| connection.log.lock().unwrap().bytes.clone())
            .collect()
    }

    /// How many bytes came in on inference connections.
    pub fn received_bytes(&self) -> usize {
        self.received().iter().map(Vec::len).sum()
    }

    /// How many inference connections there were.
    pub fn connection_count(&self) -> usize {
        self.shared.connections.lock().unwrap().len()
    }

    /// How many requests came in.
    pub fn request_count(&self) -> usize {
        self.received()
            .iter()
            .map(|bytes| memchr::memmem::find_iter(bytes, b"POST /").count())
            .sum()
    }

    /// Reports this many slots to whoever asks from now on, as llama.cpp does.
    pub fn report_slots(&self, count: usize) {
        self.shared.slots_reported.store(count, Ordering::SeqCst);
    }

    pub fn probe_count(&self) -> usize {
        self.shared.probe_count.load(Ordering::SeqCst)
    }

    /// The most scripts that ran at the same time.
    pub fn running_max(&self) -> usize {
        self.shared.running_max.load(Ordering::SeqCst)
    }

    /// How the router left inference connection `index`; fails if it does not within the deadline.
    #[track_caller]
    pub fn leaving(&self, index: usize) -> Leaving {
        let connection = Arc::clone(&self.shared.connections.lock().unwrap()[index]);
        connection
            .wait_left(DEADLINE)
            .expect("the router left the node's connection")
    }
}

impl Drop for ScriptedNode {
    fn drop(&mut self) {
        self.stop_listening();
    }
}

impl Listening {
    fn on(socket: TcpListener, shared: &Arc<Shared>) -> Self {
        let accepting = socket.try_clone().unwrap();
        let shared = Arc::clone(shared);
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&shared, stream));
            }
        });
        Self { socket, thread }
    }
}

/// Serves one accepted connection: probes here, inference by the script.
fn serve(shared: &Arc<Shared>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut first = [0; 4];
    match peek_exact(&stream, &mut first) {
        Some(()) if first == *b"GET " => return answer_probes(shared, stream),
        Some(()) => {}
        // Opened and left without a request.
        None => return,
    }
    let connection = Arc::new(Connection {
        log: Mutex::default(),
        changed: Condvar::new(),
    });
    let connection_index = {
        let mut connections = shared.connections.lock().unwrap();
        connections.push(Arc::clone(&connection));
        connections.len() - 1
    };
    let stream = Arc::new(stream);
    let reader = {
        let (shared, stream, connection) = (
            Arc::clone(shared),
            Arc::clone(&stream),
            Arc::clone(&connection),
        );
        std::thread::spawn(move || connection.read_from(&stream, &shared.read_limit))
    };
    let mut call = Call {
        stream,
        connection,
        reader: Some(reader),
        is_open: true,
        head: Vec::new(),
        body: Vec::new(),
        connection_index,
        request_index: 0,
    };
    while call.is_open && call.read_request(shared.reads_bodies) {
        let running = shared.running.fetch_add(1, Ordering::SeqCst) + 1;
        shared.running_max.fetch_max(running, Ordering::SeqCst);
        (shared.script)(&mut call);
        shared.running.fetch_sub(1, Ordering::SeqCst);
        call.request_index += 1;
    }
}

fn peek_exact(stream: &TcpStream, wanted: &mut [u8; 4]) -> Option<()> {
    loop {
        match stream.peek(wanted) {
            Ok(4) => return Some(()),
            Ok(0) | Err(_) => return None,
            Ok(_) => std::thread::yield_now(),
        }
    }
}

fn answer_probes(shared: &Shared, mut stream: TcpStream) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while let Some(end) = find(&bytes, b"\r\n\r\n") {
            let head: Vec<u8> = bytes.drain(..end + 4).collect();
            let is_list = find(&head, b"/models ").is_some();
            let slots = shared.slots_reported.load(Ordering::SeqCst);
            let tells_slots = slots > 0 && find(&head, b"/props ").is_some();
            let body = if tells_slots {
                format!(r#"{{"total_slots":{slots}}}"#)
            } else if is_list {
                shared.probe_count.fetch_add(1, Ordering::SeqCst);
                format!(r#"{{"object":"list","data":[{{"id":"{MODEL}","object":"model"}}]}}"#)
            } else {
                "{}".to_owned()
            };
            let status = if is_list || tells_slots {
                "200 OK"
            } else {
                "404 Not Found"
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

impl Connection {
    fn read_from(&self, mut stream: &TcpStream, limit: &AtomicUsize) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let held = self.log.lock().unwrap().bytes.len();
            let room = limit
                .load(Ordering::SeqCst)
                .saturating_sub(held)
                .min(buffer.len());
            if room == 0 {
                // Until the limit is lifted.
                pause(Duration::from_millis(5));
                continue;
            }
            let received = stream.read(&mut buffer[..room]);
            let mut log = self.log.lock().unwrap();
            match received {
                Ok(count @ 1..) => log.bytes.extend_from_slice(&buffer[..count]),
                ended => {
                    log.left = Some(Leaving {
                        at: Instant::now(),
                        by_reset: ended.is_err(),
                    });
                }
            }
            self.changed.notify_all();
            if log.left.is_some() {
                return;
            }
        }
    }

    fn wait_left(&self, limit: Duration) -> Option<Leaving> {
        self.wait(limit, |log| log.left.is_some()).left
    }

    fn wait(
        &self,
        limit: Duration,
        mut condition: impl FnMut(&mut Log) -> bool,
    ) -> std::sync::MutexGuard<'_, Log> {
        self.changed
            .wait_timeout_while(self.log.lock().unwrap(), limit, |log| !condition(log))
            .unwrap()
            .0
    }
}

/// A look at one connection of the router's.
#[derive(Clone)]
pub struct Presence(Weak<TcpStream>);

impl Presence {
    /// Whether the kernel knows that the router has left, whoever has read it meanwhile.
    pub fn has_left(&self) -> bool {
        let Some(stream) = self.0.upgrade() else {
            return true;
        };
        let mut byte = [MaybeUninit::uninit()];
        let peeked = socket2::SockRef::from(&*stream)
            .recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT);
        match peeked {
            Ok(count) => count == 0,
            Err(error) => !is_timeout(error.kind()),
        }
    }
}

impl Call {
    /// Sends bytes; false when the router has left.
    pub fn send(&self, bytes: &[u8]) -> bool {
        (&*self.stream).write_all(bytes).is_ok()
    }

    /// Sends as much of `bytes` as is taken before `limit` of silence; returns how much.
    pub fn send_until_blocked(&self, bytes: &[u8], limit: Duration) -> usize {
        self.stream.set_write_timeout(Some(limit)).unwrap();
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match (&*self.stream).write(rest) {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        self.stream.set_write_timeout(None).unwrap();
        sent
    }

    /// Says that nothing more will be sent; still receives.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        self.is_open = false;
    }

    /// Closes the connection.
    pub fn close(&mut self) {
        self.is_open = false;
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Closes the connection with a reset.
    pub fn reset(&mut self) {
        self.is_open = false;
        let socket = socket2::SockRef::from(&*self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        // Ends the reader, so that dropping this call closes the socket for good.
        let _ = self.stream.shutdown(Shutdown::Read);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        // Nothing else holds the socket now but `self`.
        debug_assert_eq!(Arc::strong_count(&self.stream), 1);
        let unconnected = TcpStream::from(
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap(),
        );
        self.stream = Arc::new(unconnected);
    }

    /// Whether the router has left this connection, seen from outside the script.
    pub fn presence(&self) -> Presence {
        Presence(Arc::downgrade(&self.stream))
    }

    /// Waits until the router leaves this connection.
    pub fn wait_left(&self) -> Option<Leaving> {
        self.connection.wait_left(DEADLINE)
    }

    /// The value of a request field that occurs at most once.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<String> {
        let mut values = self.values(name);
        assert!(values.len() <= 1, "{name} is repeated: {values:?}");
        values.pop()
    }

    pub fn values(&self, name: &str) -> Vec<String> {
        let head = String::from_utf8(self.head.clone()).unwrap();
        head.split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_owned())
            .collect()
    }

    /// Reads the next request's head, and its body if asked to; false when there is none.
    fn read_request(&mut self, with_body: bool) -> bool {
        let mut end = None;
        let mut log = self.connection.wait(Duration::from_secs(3600), |log| {
            end = find(&log.bytes[log.consumed..], b"\r\n\r\n");
            end.is_some() || log.left.is_some()
        });
        let Some(end) = end else {
            return false;
        };
        let start = log.consumed;
        log.consumed += end + 4;
        self.head = log.bytes[start..log.consumed].to_vec();
        self.body.clear();
        drop(log);
        !with_body || self.read_body()
    }

    /// Reads the body that the head announces; false if it does not come whole.
    pub fn read_body(&mut self) -> bool {
        let length: usize = self
            .field("content-length")
            .expect("a request to a node has a length")
            .parse()
            .unwrap();
        let mut log = self.connection.wait(DEADLINE, |log| {
            log.bytes.len() - log.consumed >= length || log.left.is_some()
        });
        let available = (log.bytes.len() - log.consumed).min(length);
        let start = log.consumed;
        log.consumed += available;
        self.body = log.bytes[start..log.consumed].to_vec();
        available == length
    }
}
