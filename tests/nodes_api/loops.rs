//! A node that is this router itself, behind a forwarded port (reliability B10).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::support::{Driver, ask, on_both_drivers};
use crate::{Api, config, refusal};

/// A port that leads elsewhere, as soon as it is said where.
struct Forwarder {
    address: SocketAddr,
    way: Arc<Way>,
}

#[derive(Default)]
struct Way {
    target: Mutex<Option<SocketAddr>>,
    /// What was sent on each connection first.
    sent: Mutex<Vec<String>>,
}

impl Forwarder {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let way = Arc::new(Way::default());
        let own = Arc::clone(&way);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let way = Arc::clone(&own);
                std::thread::spawn(move || way.forward(socket));
            }
        });
        Self { address, way }
    }

    fn leads_to(&self, target: SocketAddr) {
        *self.way.target.lock().unwrap() = Some(target);
    }

    /// The first head that asks for this path.
    fn question(&self, path: &str) -> String {
        let sent = self.way.sent.lock().unwrap();
        let start = format!("GET {path} HTTP/1.1\r\n");
        sent.iter()
            .find(|head| head.starts_with(&start))
            .unwrap()
            .clone()
    }
}

impl Way {
    /// Without a target the connection is closed.
    fn forward(&self, mut from: TcpStream) -> Option<()> {
        let target = (*self.target.lock().unwrap())?;
        let mut to = TcpStream::connect(target).ok()?;
        let (mut back_from, mut back_to) = (to.try_clone().ok()?, from.try_clone().ok()?);
        let back = std::thread::spawn(move || {
            let _ = std::io::copy(&mut back_from, &mut back_to);
            let _ = back_to.shutdown(Shutdown::Both);
        });
        // A probe's head is small and sent at once.
        let mut first = [0; 4096];
        let count = from.read(&mut first).ok()?;
        let text = String::from_utf8_lossy(&first[..count]).into_owned();
        self.sent.lock().unwrap().push(text);
        to.write_all(&first[..count]).ok()?;
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
        back.join().ok()
    }
}

const REASON: &str = "it is this router itself";

#[test]
fn the_router_behind_a_forwarded_port_is_no_node_of_its_own() {
    on_both_drivers(|driver| {
        let forwarder = Forwarder::start();
        let here = format!("http://{}", forwarder.address);
        // What a node of the file with models answers need not be a list: 401 and 404 would do.
        let config = config(driver)
            .set("auth.required", true)
            .node_at("root", &here, "m", 4, "")
            .node_at("below", &format!("{here}/base"), "m", 4, "")
            .without_waiting_for_nodes();
        let api = Api::start(config);
        forwarder.leads_to(api.router.address());
        let registered = ["with-models", "asked"].map(|name| {
            let mut body = json!({"name": name, "base_url": here, "max_concurrency": 4});
            if name == "with-models" {
                body["models"] = json!(["m"]);
            }
            api.registered(&body).id
        });
        let own = ["config-root".to_owned(), "config-below".to_owned()];
        for id in own.iter().chain(&registered) {
            api.until_state(id, "offline");
            crate::support::eventually(&format!("{id} is known"), || {
                api.node(id)["last_error"] == REASON
            });
            assert_eq!(api.node(id)["selections_total"], 0);
        }
        let key = api.router.make_key("inference");
        let mut client = api.router.connect();
        client.send(&ask("one").key(&key).bytes());
        refusal(&client.response(), 503, "no_nodes");
    });
}

#[test]
fn only_the_router_that_asks_is_told_of_a_loop_and_whatever_key_it_has() {
    let forwarder = Forwarder::start();
    let here = format!("http://{}", forwarder.address);
    let config = config(Driver::Epoll)
        .set("auth.required", true)
        .node_at("own", &here, "m", 4, "")
        .without_waiting_for_nodes();
    let api = Api::start(config);
    forwarder.leads_to(api.router.address());
    crate::support::eventually("it is known", || {
        api.node("config-own")["last_error"] == REASON
    });
    let answer = |question: &str| {
        let mut client = api.router.connect();
        client.send(question.as_bytes());
        client.response()
    };
    let probe = forwarder.question("/v1/models");
    let key = api.router.make_key("inference");
    let with_key = probe.replace("\r\n\r\n", &format!("\r\nX-API-Key: {key}\r\n\r\n"));
    let lower = probe.replace("X-LLM-Router-Probe", "x-llm-router-probe");
    for question in [&probe, &with_key, &lower] {
        let message = refusal(&answer(question), 508, "loop_detected");
        assert_eq!(message, "This router is asked by itself");
    }
    // Another router's token, or the own one where it says nothing.
    let start = probe.find("X-LLM-Router-Probe: ").unwrap() + "X-LLM-Router-Probe: ".len();
    let mut other = probe.clone();
    let last = other.as_bytes()[start];
    other.replace_range(start..=start, if last == b'a' { "b" } else { "a" });
    refusal(&answer(&other), 401, "invalid_api_key");
    let health = probe.replace("GET /v1/models ", "GET /health ");
    assert_eq!(answer(&health).status, 200);
    let model = probe.replace("GET /v1/models ", "GET /v1/models/m ");
    refusal(&answer(&model), 401, "invalid_api_key");
}
