//! Where a node may not be, however its address is written (reliability B10).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Driver, eventually, on_both_drivers};
use crate::{Api, config, refusal, value};

fn at(base_url: &str) -> Value {
    json!({"name": "n", "base_url": base_url, "api_key": "node-secret"})
}

#[test]
fn no_way_of_writing_a_forbidden_address_gets_a_node_there() {
    // Even if the operator allows every network.
    let api = Api::start(
        config(Driver::Epoll).set("registration.allowed_networks", "[\"0.0.0.0/0\", \"::/0\"]"),
    );
    for base_url in [
        "http://169.254.169.254",
        "http://169.254.169.254:80/latest",
        "http://[::ffff:169.254.169.254]",
        "http://[::ffff:a9fe:a9fe]",
        "http://169.254.1.1:8000",
        "http://[fe80::1]",
        "http://[fe80::1%25eth0]",
        "http://[fe80::1%eth0]",
        "http://100.100.100.200",
        "http://[fd00:ec2::254]",
        "http://0.0.0.0:8000",
        "http://[::]:8000",
        "http://224.0.0.1",
        "http://255.255.255.255",
        "http://[ff02::1]",
        // Read by some as 127.0.0.1 or the metadata service, refused as ambiguous.
        "http://0177.0.0.1",
        "http://0x7f.0.0.1",
        "http://0x7f000001",
        "http://2130706433",
        "http://127.1",
        "http://127.0.0.1.",
        "http://169.254.43518",
        "http://user@10.0.0.1",
        "http://user:hunter2@10.0.0.1",
        "http://10.0.0.1?x",
        "http://10.0.0.1#x",
        "http://10.0.0.1/a/../b",
        "http://",
        "http://:8000",
        "http://10.0.0.1:0",
        "http://10.0.0.1:65536",
        "http://10.0.0.1:+80",
        "ftp://10.0.0.1",
        "file:///etc/passwd",
        "10.0.0.1:8000",
        "http://10.0.0.1\r\nX: y",
        "http://10.0.0.1 ",
    ] {
        let response = api.register(&at(base_url));
        let message = refusal(&response, 400, "invalid_field");
        assert!(message.starts_with("`base_url`"), "{base_url}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    assert_eq!(
        value(&api.as_admin("GET", "/api/nodes", None)),
        json!({"nodes": []})
    );
}

#[test]
fn a_node_outside_the_allowed_networks_is_refused_and_never_connected_to() {
    on_both_drivers(|driver| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let allowed = config(driver).set("registration.allowed_networks", "[\"10.0.0.0/8\"]");
        let api = Api::start(allowed);
        for base_url in [
            format!("http://127.0.0.1:{port}"),
            format!("http://[::ffff:127.0.0.1]:{port}"),
            // A name is judged by what it resolves to.
            format!("http://localhost:{port}"),
            "http://8.8.8.8".to_owned(),
            "http://[2001:db8::1]".to_owned(),
        ] {
            let message = refusal(&api.register(&at(&base_url)), 400, "invalid_field");
            assert!(
                message.contains("registration.allowed_networks"),
                "{message}"
            );
        }
        let message = refusal(
            &api.register(&at("http://no-such-name.invalid:8000")),
            400,
            "invalid_field",
        );
        assert!(message.contains("cannot be resolved"), "{message}");
        // Nor can a node move there.
        let inside = json!({"name": "inside", "base_url": "http://10.255.255.1:9"});
        let joined = api.registered(&inside);
        let path = format!("/api/nodes/{}", joined.id);
        let change = json!({"base_url": format!("http://127.0.0.1:{port}"), "weight": 9});
        let response = api.as_admin("PUT", &path, Some(&change));
        refusal(&response, 400, "invalid_field");
        assert_eq!(api.node(&joined.id)["weight"], 1);
        let knocked = listener.accept().map(|(_, peer)| peer);
        assert!(knocked.is_err(), "{knocked:?}");
    });
}

#[test]
fn the_router_is_no_node_of_its_own() {
    on_both_drivers(|driver| {
        for host in ["127.0.0.1", "0.0.0.0"] {
            let config = config(driver).set("server.host", format!("{host:?}"));
            let api = Api::start(config);
            let port = api.router.address().port();
            let mut own = vec![
                format!("http://127.0.0.1:{port}"),
                format!("http://localhost:{port}"),
            ];
            if host == "0.0.0.0" {
                own.push(format!("http://127.0.0.7:{port}"));
            }
            for base_url in own {
                let message = refusal(&api.register(&at(&base_url)), 400, "invalid_field");
                assert!(message.contains("the router itself"), "{message}");
            }
        }
    });
}

/// Some service of the network: answers every GET with a page, until it is told to list models.
struct Service {
    address: SocketAddr,
    lists_models: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Self {
            address: listener.local_addr().unwrap(),
            lists_models: Arc::default(),
            answered: Arc::default(),
        };
        let lists_models = Arc::clone(&service.lists_models);
        let answered = Arc::clone(&service.answered);
        std::thread::spawn(move || {
            for mut socket in listener.incoming().map_while(Result::ok) {
                let body = match lists_models.load(Ordering::SeqCst) {
                    true => r#"{"object":"list","data":[{"id":"m"}]}"#,
                    false => r#"{"status":"ok"}"#,
                };
                let length = body.len();
                let _ = socket.read(&mut [0; 4096]);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let _ = socket.write_all(format!("{head}{body}").as_bytes());
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
        service
    }

    fn until_asked_again(&self) {
        let before = self.answered.load(Ordering::SeqCst);
        eventually("it was asked again", || {
            self.answered.load(Ordering::SeqCst) >= before + 3
        });
    }
}

#[test]
fn what_does_not_list_models_is_put_into_service_for_the_operator_of_the_file_only() {
    on_both_drivers(|driver| {
        let service = Service::start();
        let here = format!("http://{}", service.address);
        let api = Api::start(config(driver).node_at("file", &here, "of-file", 4, ""));
        let body = json!({"name": "n", "base_url": here, "models": ["m"], "max_concurrency": 4});
        let joined = api.registered(&body);
        api.until_state(&joined.id, "offline");
        service.until_asked_again();
        let view = api.node(&joined.id);
        assert_eq!(
            (&view["state"], &view["last_error"]),
            (
                &json!("offline"),
                &json!("the node does not list its models")
            )
        );
        refusal(&api.chat(), 503, "no_nodes");
        assert_eq!(api.node("config-file")["state"], "online");
        // Once is enough.
        service.lists_models.store(true, Ordering::SeqCst);
        api.until_state(&joined.id, "online");
        service.lists_models.store(false, Ordering::SeqCst);
        service.until_asked_again();
        service.until_asked_again();
        assert_eq!(api.node(&joined.id)["state"], "online");
    });
}
