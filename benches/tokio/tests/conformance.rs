//! What all contenders of the comparison must do alike, over both builds and the product itself: who
//! answers faster by doing less is no rival. Each test asserts one outcome on real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_chat_is_passed_on_byte_for_byte_over_one_kept_connection() {
    over_all(|gateway| {
        let mut client = gateway.connect();
        let mut connections = Vec::new();
        for text in ["first", "second"] {
            let body = format!(r#"{{ "messages":[ "{text}" ],"model" : "m"}}"#);
            client.post(KEY, &body);
            let mut call = gateway.node.call();
            assert!(
                call.head
                    .starts_with("POST /v1/chat/completions HTTP/1.1\r\n")
            );
            let head = call.head.to_ascii_lowercase();
            assert!(!head.contains(KEY), "the client's key went on: {head}");
            assert!(!head.contains("stainless"), "{head}");
            assert!(head.contains("x-custom: kept"), "{head}");
            assert_eq!(call.body, body.as_bytes());
            connections.push(call.connection);
            let answer = format!(r#"{{"answer" : "{text}"}}"#);
            call.send(&fixed("200 OK", &answer));
            let (status, received) = client.answer();
            assert_eq!((status, received.as_str()), (200, answer.as_str()));
        }
        assert_eq!(connections[0], connections[1], "a fresh connection");
    });
}

#[test]
fn a_body_of_one_mebibyte_arrives_whole() {
    over_all(|gateway| {
        let body = format!(r#"{{"text":"{}","model":"m"}}"#, "x".repeat(1 << 20));
        let mut client = gateway.connect();
        client.post(KEY, &body);
        let mut call = gateway.node.call();
        assert!(
            call.body == body.as_bytes(),
            "{} bytes came",
            call.body.len()
        );
        let answer = "y".repeat(1 << 20);
        call.send(&fixed("200 OK", &answer));
        let (status, received) = client.answer();
        assert!((status, received.as_str()) == (200, answer.as_str()));
    });
}

#[test]
fn an_event_arrives_before_the_next_one_is_sent() {
    over_all(|gateway| {
        let mut client = gateway.connect();
        client.post(KEY, r#"{"model":"m","stream":true}"#);
        let mut call = gateway.node.call();
        call.send(STREAM_HEAD);
        for number in 0..5 {
            let event = format!("data: {{\"event\":{number}}}\n\n");
            call.send(&chunk(&event));
            client.read_until(&event);
        }
        call.send("0\r\n\r\n");
        client.read_until("\r\n0\r\n\r\n");
    });
}

#[test]
fn a_stream_that_breaks_off_has_no_end() {
    over_all(|gateway| {
        let mut client = gateway.connect();
        client.post(KEY, r#"{"model":"m","stream":true}"#);
        let mut call = gateway.node.call();
        call.send(STREAM_HEAD);
        call.send(&chunk("data: 1\n\n"));
        client.read_until("data: 1\n\n");
        call.close();
        let rest = client.read_to_end();
        assert!(!rest.contains("0\r\n\r\n"), "an end was made up: {rest:?}");
    });
}

#[test]
fn an_error_of_the_node_passes_through() {
    over_all(|gateway| {
        let mut client = gateway.connect();
        client.post(KEY, r#"{"model":"m"}"#);
        gateway
            .node
            .call()
            .send(&fixed("418 Teapot", "short and stout"));
        assert_eq!(client.answer(), (418, "short and stout".to_owned()));
    });
}

#[test]
fn a_wrong_key_is_401_and_reaches_no_node() {
    over_all(|gateway| {
        let mut client = gateway.connect();
        client.post("sk-wrong", r#"{"model":"m"}"#);
        let (status, body) = client.answer();
        assert_eq!(status, 401);
        assert!(body.contains(r#""code":"invalid_api_key""#), "{body}");
        // What comes next at the node is the next good request.
        let mut client = gateway.connect();
        client.post(KEY, r#"{"model":"m","good":1}"#);
        assert_eq!(gateway.node.call().body, br#"{"model":"m","good":1}"#);
    });
}

#[test]
fn an_unknown_model_is_404() {
    over_all(|gateway| {
        let mut client = gateway.connect();
        client.post(KEY, r#"{"model":"another"}"#);
        let (status, body) = client.answer();
        assert_eq!(status, 404);
        assert!(body.contains(r#""code":"model_not_found""#), "{body}");
    });
}

#[test]
fn an_alias_becomes_the_name_the_node_knows() {
    over_all(|gateway| {
        let mut client = gateway.connect();
        client.post(KEY, r#"{ "model" : "other-name", "n":1e0}"#);
        let mut call = gateway.node.call();
        assert_eq!(call.body, br#"{ "model" : "m", "n":1e0}"#);
        call.send(&fixed("200 OK", "{}"));
        assert_eq!(client.answer().0, 200);
    });
}

#[test]
fn a_client_that_leaves_before_the_answer_frees_node_and_slot() {
    over_all(|gateway| {
        let mut client = gateway.connect();
        client.post(KEY, r#"{"model":"m"}"#);
        let call = gateway.node.call();
        drop(client);
        gateway.node.closed(call.connection);
        gateway.serves_another();
    });
}

#[test]
fn a_client_that_leaves_amid_a_stream_frees_node_and_slot() {
    over_all(|gateway| {
        let mut client = gateway.connect();
        client.post(KEY, r#"{"model":"m","stream":true}"#);
        let mut call = gateway.node.call();
        call.send(STREAM_HEAD);
        call.send(&chunk("data: 1\n\n"));
        client.read_until("data: 1\n\n");
        drop(client);
        // The node is silent: only the client's leaving can end this.
        gateway.node.closed(call.connection);
        gateway.serves_another();
    });
}

/// Runs a test against each contender, with a node of its own that has one slot.
fn over_all(test: impl Fn(&Gateway)) {
    for (name, program, arguments) in [
        (
            "axum-reqwest",
            env!("CARGO_BIN_EXE_axum-reqwest").into(),
            &[][..],
        ),
        (
            "hyper-per-core",
            env!("CARGO_BIN_EXE_hyper-per-core").into(),
            &[],
        ),
        ("llm-router", product(), &["serve"]),
    ] {
        eprintln!("--- {name}");
        test(&Gateway::start(name, &program, arguments));
    }
}

/// The product's binary, built beside the contenders'.
fn product() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_axum-reqwest"))
            .parent()
            .unwrap();
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "--locked", "--bin", "llm-router"])
            .arg("--manifest-path")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml"))
            .arg("--target-dir")
            .arg(folder.parent().unwrap());
        if folder.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
        folder.join("llm-router")
    });
    built.clone()
}

/// A contender in front of one node.
struct Gateway {
    address: SocketAddr,
    node: Node,
    process: Child,
    folder: PathBuf,
}

impl Gateway {
    fn start(name: &str, program: &Path, arguments: &[&str]) -> Self {
        let node = Node::start();
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .unwrap();
        let port = address.port();
        let folder = std::env::temp_dir().join(format!("llm-router-rival-{name}-{port}"));
        fs::create_dir_all(&folder).unwrap();
        let config = folder.join("config.toml");
        let node_address = node.address;
        let data = folder.join("data");
        let text = format!(
            r#"
server = {{ host = "127.0.0.1", port = {port}, workers = 1, data_dir = "{}" }}
auth = {{ api_keys = ["{KEY}"] }}
[[nodes]]
name = "node"
base_url = "http://{node_address}"
models = ["m"]
max_concurrency = 1
[[aliases]]
model = "other-name"
to = "m"
"#,
            data.display()
        );
        fs::write(&config, text).unwrap();
        let process = Command::new(program)
            .args(arguments)
            .arg("--config")
            .arg(&config)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let gateway = Self {
            address,
            node,
            process,
            folder,
        };
        gateway.wait_until_ready();
        gateway
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a listener that is not there yet cannot be waited for"
    )]
    fn wait_until_ready(&self) {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Ok(stream) = TcpStream::connect(self.address) {
                let mut client = Client::new(stream);
                client.send("GET /ready HTTP/1.1\r\nHost: test\r\n\r\n");
                if client.answer().0 == 200 {
                    return;
                }
            }
            assert!(Instant::now() < until, "it did not become ready");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    /// The node's only slot is free again: another request gets through. A slot comes free a moment
    /// after the node's connection closes, so a refusal may be asked again.
    fn serves_another(&self) {
        let until = Instant::now() + DEADLINE;
        loop {
            let mut client = self.connect();
            client.post(KEY, r#"{"model":"m"}"#);
            match self.node.try_call(Duration::from_millis(200)) {
                Some(mut call) => {
                    call.send(&fixed("200 OK", "{}"));
                    assert_eq!(client.answer().0, 200);
                    return;
                }
                None => assert_eq!(client.answer().0, 503),
            }
            assert!(Instant::now() < until, "the slot did not come free");
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A client that sees every byte.
struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    fn post(&mut self, key: &str, body: &str) {
        self.send(&format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {key}\r\n\
             X-Stainless-Lang: python\r\nX-Custom: kept\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }

    /// Status and body of one answer of known length.
    fn answer(&mut self) -> (u16, String) {
        let message = read_message(&mut self.stream, &mut self.received).unwrap();
        let status = message.head.get(9..12).unwrap().parse().unwrap();
        (status, String::from_utf8(message.body).unwrap())
    }

    /// Reads until `text` has come; what came before it is gone then.
    fn read_until(&mut self, text: &str) {
        loop {
            if let Some(at) = find(&self.received, text.as_bytes()) {
                self.received.drain(..at + text.len());
                return;
            }
            let seen = String::from_utf8_lossy(&self.received).into_owned();
            assert!(
                read_more(&mut self.stream, &mut self.received),
                "{text:?} did not come, but {seen:?}"
            );
        }
    }

    fn read_to_end(&mut self) -> String {
        while read_more(&mut self.stream, &mut self.received) {}
        String::from_utf8(std::mem::take(&mut self.received)).unwrap()
    }
}

/// A node that does what the test says, except for probes, which it answers by itself.
struct Node {
    address: SocketAddr,
    events: Receiver<Event>,
}

enum Event {
    Called(Call),
    Closed(usize),
}

/// A request at the node, to be answered.
struct Call {
    connection: usize,
    head: String,
    body: Vec<u8>,
    stream: TcpStream,
}

impl Node {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, events) = channel();
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (stream, sender) = (stream.unwrap(), sender.clone());
                thread::spawn(move || receive_calls(connection, stream, &sender));
            }
        });
        Self { address, events }
    }

    fn call(&self) -> Call {
        self.try_call(DEADLINE).expect("no request came")
    }

    fn try_call(&self, limit: Duration) -> Option<Call> {
        loop {
            match self.events.recv_timeout(limit) {
                Ok(Event::Called(call)) => return Some(call),
                Ok(Event::Closed(_)) => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits until the gateway closes this connection.
    fn closed(&self, connection: usize) {
        loop {
            match self.events.recv_timeout(DEADLINE) {
                Ok(Event::Closed(closed)) if closed == connection => return,
                Ok(Event::Closed(_)) => {}
                Ok(Event::Called(_)) => panic!("another request came"),
                Err(_) => panic!("the node's connection stays open"),
            }
        }
    }
}

impl Call {
    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    fn close(&self) {
        self.stream.shutdown(Shutdown::Both).unwrap();
    }
}

fn receive_calls(connection: usize, mut stream: TcpStream, events: &Sender<Event>) {
    stream.set_nodelay(true).unwrap();
    let mut received = Vec::new();
    while let Some(message) = read_message(&mut stream, &mut received) {
        if message.head.starts_with("GET ") {
            let models = r#"{"object":"list","data":[{"id":"m","object":"model"}]}"#;
            if stream
                .write_all(fixed("200 OK", models).as_bytes())
                .is_err()
            {
                return;
            }
            continue;
        }
        let call = Call {
            connection,
            head: message.head,
            body: message.body,
            stream: stream.try_clone().unwrap(),
        };
        if events.send(Event::Called(call)).is_err() {
            return;
        }
    }
    // The test may be over.
    let _ = events.send(Event::Closed(connection));
}

struct Message {
    head: String,
    body: Vec<u8>,
}

/// One message of known length; `None` when the connection ends or stays silent.
fn read_message(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<Message> {
    let head_end = loop {
        match find(received, b"\r\n\r\n") {
            Some(at) => break at + 4,
            None if read_more(stream, received) => {}
            None => return None,
        }
    };
    let head: Vec<u8> = received.drain(..head_end).collect();
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().unwrap())
    });
    let length = length.unwrap_or(0);
    while received.len() < length {
        if !read_more(stream, received) {
            return None;
        }
    }
    let body = received.drain(..length).collect();
    Some(Message { head, body })
}

/// Whether more came.
fn read_more(stream: &mut TcpStream, received: &mut Vec<u8>) -> bool {
    let mut room = [0; 64 * 1024];
    match stream.read(&mut room) {
        Ok(count) => {
            received.extend_from_slice(&room[..count]);
            count > 0
        }
        Err(_) => false,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn fixed(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                           Transfer-Encoding: chunked\r\n\r\n";
const KEY: &str = "sk-test-0123456789";
const DEADLINE: Duration = Duration::from_secs(30);
