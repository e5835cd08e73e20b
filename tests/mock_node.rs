//! What the mock node promises, over real sockets and on both drivers: shapes, order, delays, slots,
//! faults as told, and a true account of what became of every request.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use llm_router::mock::{self, MockNode, MockOptions, Stats};
use llm_router::runtime::{self, Driver, Preference};
use serde_json::{Value, json};

/// Runs `scenario` on io_uring with the best flags and on epoll.
fn on_both_drivers(scenario: impl Fn(Driver)) {
    let ring = runtime::choose(Preference::IoUring)
        .expect("these tests need io_uring")
        .driver;
    for driver in [ring, Driver::Epoll] {
        scenario(driver);
    }
}

/// Waits until the node's figures satisfy `condition`; fails after five seconds.
fn eventually(node: &MockNode, what: &str, condition: impl Fn(&Stats) -> bool) -> Stats {
    let began = Instant::now();
    loop {
        let stats = node.stats();
        if condition(&stats) {
            return stats;
        }
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "never happened: {what}: {stats:?}"
        );
        std::thread::yield_now();
    }
}

/// An answer as received.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// The payload of each chunk, if it came in chunks.
    chunks: Vec<Vec<u8>>,
    /// Whether the body came to the end its framing announced.
    is_whole: bool,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// The name and the data of each event; asserts that each came in a chunk of its own.
    fn events(&self) -> Vec<(String, String)> {
        let event = |chunk: &Vec<u8>| {
            let text = std::str::from_utf8(chunk).unwrap();
            let text = text.strip_suffix("\n\n").expect("a whole event");
            assert!(!text.contains("\n\n"), "one event per chunk: {text}");
            let (name, data) = match text.strip_prefix("event: ") {
                Some(named) => named.split_once('\n').unwrap(),
                None => ("", text),
            };
            let data = data.strip_prefix("data: ").unwrap();
            (name.to_owned(), data.to_owned())
        };
        self.chunks.iter().map(event).collect()
    }
}

/// A client connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.send(&post(path, "", &body.to_string()));
        self.receive()
    }

    fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: mock\r\n\r\n").as_bytes());
        self.receive()
    }

    fn receive_head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "no head: {head:?}");
        }
        head
    }

    fn receive(&mut self) -> Answer {
        let head = self.receive_head();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
            chunks: Vec::new(),
            is_whole: false,
        };
        if answer.field("Transfer-Encoding") == Some("chunked") {
            answer.is_whole = self.receive_chunks(&mut answer.chunks);
            answer.body = answer.chunks.concat();
        } else {
            let length = answer.field("Content-Length").unwrap().parse().unwrap();
            let taken = self.0.by_ref().take(length).read_to_end(&mut answer.body);
            answer.is_whole = taken.unwrap() as u64 == length;
        }
        answer
    }

    /// Whether the last chunk came.
    fn receive_chunks(&mut self, chunks: &mut Vec<Vec<u8>>) -> bool {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 || !line.ends_with("\r\n") {
                return false;
            }
            let length = u64::from_str_radix(line.trim_end(), 16).unwrap();
            let mut chunk = Vec::new();
            let taken = self.0.by_ref().take(length + 2).read_to_end(&mut chunk);
            if (taken.unwrap() as u64) < length + 2 {
                return false;
            }
            assert_eq!(chunk.split_off(length as usize), b"\r\n");
            if length == 0 {
                return true;
            }
            chunks.push(chunk);
        }
    }

    fn is_closed(&mut self) -> bool {
        self.0.read(&mut [0]).is_ok_and(|count| count == 0)
    }
}

fn post(path: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: mock\r\nContent-Type: application/json\r\n\
         {fields}Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn chat(extra: Value) -> Value {
    let mut body = json!({
        "model": "mock-model",
        "messages": [{"role": "user", "content": "say \"model\": {}"}],
    });
    body.as_object_mut()
        .unwrap()
        .append(&mut extra.as_object().unwrap().clone());
    body
}

#[test]
fn a_chat_answer_carries_model_nonce_node_and_usage() {
    on_both_drivers(|driver| {
        let node = mock::start(
            MockOptions {
                name: "a \"quoted\" node".into(),
                token_count: 3,
                ..MockOptions::default()
            },
            driver,
        )
        .unwrap();
        let mut client = Client::connect(node.address);
        for number in 0..3 {
            let nonce = format!("n\u{e4}chste-{number}-\"\\");
            let answer = client.post("/v1/chat/completions", &chat(json!({"user": nonce})));
            assert_eq!(answer.status, 200);
            let body = answer.json();
            assert_eq!(body["object"], "chat.completion");
            assert_eq!(body["model"], "mock-model");
            assert_eq!(body["mock"]["nonce"], nonce);
            assert_eq!(body["mock"]["node"], "a \"quoted\" node");
            assert_eq!(body["mock"]["request"], number);
            let message = &body["choices"][0]["message"];
            assert_eq!(message["role"], "assistant");
            let content = message["content"].as_str().unwrap();
            assert!(content.starts_with(&format!("{nonce} ")), "{content}");
            let usage = json!({"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11});
            assert_eq!(body["usage"], usage);
        }
        let stats = eventually(&node, "all done", |stats| stats.completed == 3);
        assert_eq!((stats.requests, stats.in_flight, stats.aborted), (3, 0, 0));
        assert_eq!((stats.connections, stats.peak_in_flight), (1, 1));
    });
}

#[test]
fn a_nonce_may_come_in_a_field_and_never_leaves_its_string() {
    on_both_drivers(|driver| {
        let node = mock::start(MockOptions::default(), driver).unwrap();
        let mut client = Client::connect(node.address);
        let body = chat(json!({})).to_string();
        client.send(&post(
            "/v1/chat/completions",
            "X-Nonce: a\"},{\\\r\n",
            &body,
        ));
        assert_eq!(client.receive().json()["mock"]["nonce"], "a\"},{\\");
    });
}

#[test]
fn every_endpoint_answers_in_its_own_shape() {
    let cases = [
        ("/v1/completions", json!({"prompt": "p"}), "/choices/0/text"),
        (
            "/v1/responses",
            json!({"input": "i"}),
            "/output/0/content/0/text",
        ),
        ("/v1/messages", json!({"max_tokens": 9}), "/content/0/text"),
        (
            "/v1/images/generations",
            json!({"prompt": "p"}),
            "/data/0/b64_json",
        ),
        (
            "/v1/rerank",
            json!({"query": "q", "documents": ["a", "b", "c"], "top_n": 2}),
            "/results/1/relevance_score",
        ),
    ];
    on_both_drivers(|driver| {
        let node = mock::start(MockOptions::default(), driver).unwrap();
        let mut client = Client::connect(node.address);
        for (path, mut body, pointer) in cases.clone() {
            body["model"] = "mock-model".into();
            body["user"] = "nonce-7".into();
            let answer = client.post(path, &body);
            assert_eq!(answer.status, 200, "{path}");
            let answer = answer.json();
            assert!(answer.pointer(pointer).is_some(), "{path}: {answer}");
            assert_eq!(answer["mock"]["nonce"], "nonce-7", "{path}");
        }
        let speech = client.post("/v1/audio/speech", &json!({"model": "mock-model"}));
        assert_eq!(speech.field("Content-Type"), Some("audio/wav"));
        assert!(speech.body.starts_with(b"RIFF"));
    });
}

#[test]
fn results_are_ranked_best_first_and_no_more_than_asked_for() {
    on_both_drivers(|driver| {
        let node = mock::start(MockOptions::default(), driver).unwrap();
        let documents: Vec<String> = (0..30).map(|at| format!("[{at}]")).collect();
        let body = json!({"model": "mock-model", "query": "q", "documents": documents});
        let answer = Client::connect(node.address)
            .post("/v1/rerank", &body)
            .json();
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), 30);
        let scores: Vec<f64> = results
            .iter()
            .map(|result| result["relevance_score"].as_f64().unwrap())
            .collect();
        assert!(
            scores.is_sorted_by(|left, right| left > right),
            "{scores:?}"
        );
        assert!(scores.iter().all(|score| (0.0..1.0).contains(score)));
    });
}

#[test]
fn a_form_is_read_for_its_model() {
    on_both_drivers(|driver| {
        let node = mock::start(MockOptions::default(), driver).unwrap();
        let mut client = Client::connect(node.address);
        for (model, status) in [("mock-model", 200), ("other", 404)] {
            let body = format!(
                "--edge\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n\
                 --edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
                 \r\n\0\u{1}\r\n--edge--\r\n"
            );
            let head = format!(
                "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: mock\r\nX-Nonce: form-1\r\n\
                 Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            client.send((head + &body).as_bytes());
            let answer = client.receive();
            assert_eq!(answer.status, status, "{model}");
            if status == 200 {
                let text = answer.json()["text"].as_str().unwrap().to_owned();
                assert!(text.starts_with("form-1 "), "{text}");
            }
        }
    });
}

#[test]
fn base64_vectors_are_the_same_numbers_as_plain_ones() {
    on_both_drivers(|driver| {
        let node = mock::start(MockOptions::default(), driver).unwrap();
        let mut client = Client::connect(node.address);
        for (input, count) in [(json!("a"), 1), (json!([1, 2]), 1), (json!(["a", "[b"]), 2)] {
            for dimensions in [1, 2, 3, 100] {
                let body = json!({
                    "model": "mock-model", "input": input, "dimensions": dimensions,
                });
                let plain = client.post("/v1/embeddings", &body).json();
                let mut body = body;
                body["encoding_format"] = "base64".into();
                let coded = client.post("/v1/embeddings", &body).json();
                assert_eq!(plain["data"].as_array().unwrap().len(), count);
                assert_eq!(coded["data"].as_array().unwrap().len(), count);
                for index in 0..count {
                    let floats: Vec<f32> = plain["data"][index]["embedding"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|value| value.as_f64().unwrap() as f32)
                        .collect();
                    assert_eq!(floats.len(), dimensions);
                    let text = coded["data"][index]["embedding"].as_str().unwrap();
                    assert_eq!(from_base64(text), floats);
                }
            }
        }
    });
}

/// Reads little-endian floats from base64 text, one digit at a time.
fn from_base64(text: &str) -> Vec<f32> {
    let digits = text.trim_end_matches('=');
    assert_eq!(text.len() % 4, 0, "padded to whole groups");
    let bits: Vec<u8> = digits
        .bytes()
        .flat_map(|digit| {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => panic!("not base64: {text}"),
            };
            (0..6).rev().map(move |bit| value >> bit & 1)
        })
        .collect();
    let bytes: Vec<u8> = bits
        .chunks_exact(8)
        .map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit))
        .collect();
    bytes
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect()
}

#[test]
fn a_chat_stream_has_numbered_events_in_order_and_ends_with_done() {
    on_both_drivers(|driver| {
        let node = mock::start(
            MockOptions {
                token_count: 5,
                ..MockOptions::default()
            },
            driver,
        )
        .unwrap();
        let mut client = Client::connect(node.address);
        let options = json!({"include_usage": true});
        let body = chat(json!({"stream": true, "stream_options": options, "user": "s-1"}));
        // Twice: the connection goes on behind a stream.
        for _ in 0..2 {
            let answer = client.post("/v1/chat/completions", &body);
            let media_type = answer.field("Content-Type");
            assert_eq!(media_type, Some("text/event-stream; charset=utf-8"));
            assert!(answer.is_whole);
            let mut events = answer.events();
            assert_eq!(events.pop().unwrap().1, "[DONE]");
            let events: Vec<Value> = events
                .iter()
                .map(|(_, data)| serde_json::from_str(data).unwrap())
                .collect();
            assert_eq!(events.len(), 1 + 5 + 1 + 1);
            for (index, event) in events.iter().enumerate() {
                assert_eq!(event["object"], "chat.completion.chunk");
                assert_eq!(event["mock"]["event"], index);
                assert_eq!(event["mock"]["nonce"], "s-1");
            }
            assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
            for (index, event) in events.iter().enumerate().take(6).skip(1) {
                let content = event["choices"][0]["delta"]["content"].as_str().unwrap();
                assert!(content.starts_with(&format!("s-1#{index} ")), "{content}");
                assert_eq!(event["usage"], Value::Null);
            }
            assert_eq!(events[6]["choices"][0]["finish_reason"], "stop");
            assert_eq!(events[7]["choices"], json!([]));
            assert_eq!(events[7]["usage"]["completion_tokens"], 5);
        }
        let stats = eventually(&node, "both done", |stats| stats.completed == 2);
        assert_eq!((stats.streams, stats.events), (2, 18));
    });
}

#[test]
fn streams_of_the_other_apis_follow_their_own_order() {
    let cases: [(&str, &[&str]); 3] = [
        ("/v1/completions", &["", "", "", ""]),
        (
            "/v1/responses",
            &[
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added",
                "response.output_text.delta",
                "response.output_text.delta",
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.completed",
            ],
        ),
        (
            "/v1/messages",
            &[
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop",
            ],
        ),
    ];
    on_both_drivers(|driver| {
        let node = mock::start(
            MockOptions {
                token_count: 2,
                ..MockOptions::default()
            },
            driver,
        )
        .unwrap();
        let mut client = Client::connect(node.address);
        for (path, names) in cases {
            let body = json!({"model": "mock-model", "stream": true, "user": "s-2"});
            let answer = client.post(path, &body);
            assert!(answer.is_whole, "{path}");
            let mut events = answer.events();
            let seen: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(seen, names, "{path}");
            if path == "/v1/completions" {
                assert_eq!(events.pop().unwrap().1, "[DONE]");
            }
            for (index, (name, data)) in events.iter().enumerate() {
                let event: Value = serde_json::from_str(data).unwrap();
                assert_eq!(event["mock"]["event"], index, "{path}");
                assert_eq!(event["mock"]["nonce"], "s-2", "{path}");
                if !name.is_empty() {
                    assert_eq!(event["type"], name.as_str(), "{path}");
                }
                if path == "/v1/responses" {
                    assert_eq!(event["sequence_number"], index);
                }
            }
        }
    });
}

#[test]
fn no_token_comes_before_it_is_due() {
    on_both_drivers(|driver| {
        let node = mock::start(
            MockOptions {
                first_token_delay: Duration::from_millis(60),
                token_interval: Duration::from_millis(20),
                token_count: 4,
                ..MockOptions::default()
            },
            driver,
        )
        .unwrap();
        let mut client = Client::connect(node.address);
        let began = Instant::now();
        client.send(&post(
            "/v1/chat/completions",
            "",
            &chat(json!({"stream": true})).to_string(),
        ));
        client.receive_head();
        assert!(began.elapsed() >= Duration::from_millis(60));
        let mut chunks = Vec::new();
        assert!(client.receive_chunks(&mut chunks));
        assert_eq!(chunks.len(), 1 + 4 + 2);
        let stream_took = began.elapsed();
        assert!(stream_took >= Duration::from_millis(60 + 3 * 20));
        assert!(stream_took < Duration::from_secs(5), "{stream_took:?}");

        let began = Instant::now();
        client.post("/v1/chat/completions", &chat(json!({})));
        assert!(began.elapsed() >= Duration::from_millis(60 + 3 * 20));
    });
}

#[test]
fn an_answer_has_as_many_bytes_of_text_as_it_was_told() {
    on_both_drivers(|driver| {
        for body_bytes in [10, 1003, 300_000] {
            let node = mock::start(
                MockOptions {
                    body_bytes: Some(body_bytes),
                    token_count: 10,
                    ..MockOptions::default()
                },
                driver,
            )
            .unwrap();
            let mut client = Client::connect(node.address);
            let answer = client.post("/v1/chat/completions", &chat(json!({"user": "u"})));
            let content = answer.json()["choices"][0]["message"]["content"].clone();
            assert_eq!(content.as_str().unwrap().len(), body_bytes);
            let answer = client.post("/v1/chat/completions", &chat(json!({"stream": true})));
            let text: usize = answer
                .events()
                .iter()
                .filter_map(|(_, data)| serde_json::from_str::<Value>(data).ok())
                .filter_map(|event| Some(event["choices"][0]["delta"]["content"].as_str()?.len()))
                .sum();
            assert_eq!(text, body_bytes);
        }
    });
}

#[test]
fn one_request_too_many_is_refused_and_remembered() {
    on_both_drivers(|driver| {
        let node = mock::start(
            MockOptions {
                slots: Some(2),
                first_token_delay: Duration::from_secs(60),
                ..MockOptions::default()
            },
            driver,
        )
        .unwrap();
        let body = chat(json!({})).to_string();
        let mut waiting: Vec<Client> = (0..2)
            .map(|_| {
                let mut client = Client::connect(node.address);
                client.send(&post("/v1/chat/completions", "", &body));
                client
            })
            .collect();
        eventually(&node, "two in flight", |stats| stats.in_flight == 2);
        let mut client = Client::connect(node.address);
        let refused = client.post("/v1/chat/completions", &chat(json!({})));
        assert_eq!(refused.status, 503);
        assert_eq!(refused.field("Retry-After"), Some("1"));
        assert_eq!(refused.json()["error"]["code"], "no_free_slot");
        assert_eq!(client.get("/props").json()["total_slots"], 2);
        let stats = node.stats();
        assert_eq!((stats.peak_in_flight, stats.refused), (3, 1));

        // A client that leaves gives its slot back.
        waiting.pop();
        let stats = eventually(&node, "the abort", |stats| stats.aborted == 1);
        assert_eq!(stats.in_flight, 1);
        assert_eq!(stats.requests, 3);
    });
}

#[test]
fn a_client_that_leaves_a_stream_is_noticed_between_two_events() {
    on_both_drivers(|driver| {
        let node = mock::start(
            MockOptions {
                token_interval: Duration::from_secs(60),
                ..MockOptions::default()
            },
            driver,
        )
        .unwrap();
        let mut client = Client::connect(node.address);
        let body = chat(json!({"stream": true})).to_string();
        client.send(&post("/v1/chat/completions", "", &body));
        client.receive_head();
        eventually(&node, "the first token", |stats| stats.events == 2);
        assert_eq!(node.stats().in_flight, 1);
        drop(client);
        let stats = eventually(&node, "the abort", |stats| stats.aborted == 1);
        assert_eq!((stats.in_flight, stats.completed, stats.events), (0, 0, 2));
        eventually(&node, "the close", |stats| stats.connections_open == 0);
    });
}

#[test]
fn failures_follow_their_rate_and_repeat_with_their_seed() {
    on_both_drivers(|driver| {
        let statuses = |seed| -> Vec<u16> {
            let node = mock::start(
                MockOptions {
                    error_rate: 0.5,
                    seed,
                    ..MockOptions::default()
                },
                driver,
            )
            .unwrap();
            let mut client = Client::connect(node.address);
            let statuses: Vec<u16> = (0..100)
                .map(|_| client.post("/v1/chat/completions", &chat(json!({}))).status)
                .collect();
            let failures = statuses.iter().filter(|status| **status == 500).count();
            let stats = eventually(&node, "all done", |stats| stats.in_flight == 0);
            assert_eq!(stats.failed, failures as u64);
            statuses
        };
        let first = statuses(7);
        assert!(first.iter().all(|status| matches!(status, 200 | 500)));
        let failures = first.iter().filter(|status| **status == 500).count();
        assert!((25..75).contains(&failures), "{failures}");
        assert_eq!(first, statuses(7));
        assert_ne!(first, statuses(8));
    });
}

#[test]
fn a_dropped_connection_leaves_half_an_answer_and_no_end() {
    on_both_drivers(|driver| {
        let node = mock::start(
            MockOptions {
                disconnect_rate: 1.0,
                ..MockOptions::default()
            },
            driver,
        )
        .unwrap();
        let mut client = Client::connect(node.address);
        let answer = client.post("/v1/chat/completions", &chat(json!({})));
        assert!(!answer.is_whole && !answer.body.is_empty());
        assert!(client.is_closed());

        let mut client = Client::connect(node.address);
        let answer = client.post("/v1/chat/completions", &chat(json!({"stream": true})));
        assert!(!answer.is_whole);
        // Role, 16 tokens, finish reason, [DONE]: the middle one is the tenth.
        assert_eq!(answer.events().len(), 9);
        let stats = eventually(&node, "both dropped", |stats| stats.disconnected == 2);
        assert_eq!((stats.in_flight, stats.aborted, stats.completed), (0, 0, 0));
    });
}

#[test]
fn an_idle_connection_is_closed_when_its_time_is_up_and_a_busy_one_is_not() {
    on_both_drivers(|driver| {
        let keep_alive = Duration::from_millis(150);
        let node = mock::start(
            MockOptions {
                keep_alive,
                first_token_delay: 3 * keep_alive,
                ..MockOptions::default()
            },
            driver,
        )
        .unwrap();
        let mut client = Client::connect(node.address);
        let answer = client.post("/v1/chat/completions", &chat(json!({})));
        assert_eq!(answer.status, 200);
        let began = Instant::now();
        assert!(client.is_closed());
        // The node's clock began a little earlier: when it had sent the answer.
        assert!(began.elapsed() >= keep_alive / 2, "{:?}", began.elapsed());
        let stats = eventually(&node, "the close", |stats| stats.connections_open == 0);
        assert_eq!((stats.completed, stats.aborted), (1, 0));
    });
}

#[test]
fn requests_in_any_pieces_are_answered_in_order() {
    on_both_drivers(|driver| {
        let node = mock::start(MockOptions::default(), driver).unwrap();
        let request = |nonce: &str| {
            let body = chat(json!({"user": nonce})).to_string();
            post("/v1/chat/completions", "", &body)
        };
        // Three at once, the last one cut.
        let mut client = Client::connect(node.address);
        let last = request("p-2");
        let mut bytes = [request("p-0"), request("p-1")].concat();
        bytes.extend_from_slice(&last[..last.len() - 9]);
        client.send(&bytes);
        assert_eq!(client.receive().json()["mock"]["nonce"], "p-0");
        assert_eq!(client.receive().json()["mock"]["nonce"], "p-1");
        client.send(&last[last.len() - 9..]);
        assert_eq!(client.receive().json()["mock"]["nonce"], "p-2");
        // Byte by byte.
        for byte in request("p-3") {
            client.send(&[byte]);
        }
        assert_eq!(client.receive().json()["mock"]["nonce"], "p-3");
        // A body larger than any pooled buffer.
        let large = chat(json!({"padding": "x".repeat(200_000), "user": "p-4"})).to_string();
        client.send(&post("/v1/chat/completions", "", &large));
        assert_eq!(client.receive().json()["mock"]["nonce"], "p-4");
    });
}

#[test]
fn a_chunked_body_and_one_that_waits_to_be_asked_for_are_read() {
    on_both_drivers(|driver| {
        let node = mock::start(MockOptions::default(), driver).unwrap();
        let mut client = Client::connect(node.address);
        let body = chat(json!({"user": "c-1"})).to_string();
        let (left, right) = body.split_at(30);
        let chunked = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: mock\r\nTransfer-Encoding: chunked\r\n\r\n\
             {:x}\r\n{left}\r\n{:x}\r\n{right}\r\n0\r\n\r\n",
            left.len(),
            right.len()
        );
        client.send(chunked.as_bytes());
        assert_eq!(client.receive().json()["mock"]["nonce"], "c-1");
        let request = post("/v1/chat/completions", "Expect: 100-continue\r\n", &body);
        let head_bytes = request.len() - body.len();
        client.send(&request[..head_bytes]);
        assert_eq!(client.receive_head(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.send(&request[head_bytes..]);
        assert_eq!(client.receive().json()["mock"]["nonce"], "c-1");
    });
}

#[test]
fn a_stream_for_an_http_1_0_client_ends_with_the_connection() {
    on_both_drivers(|driver| {
        let node = mock::start(MockOptions::default(), driver).unwrap();
        let mut client = Client::connect(node.address);
        let body = chat(json!({"stream": true})).to_string();
        let request = post("/v1/chat/completions", "", &body);
        let request = String::from_utf8(request)
            .unwrap()
            .replacen("/1.1", "/1.0", 1);
        client.send(request.as_bytes());
        let head = client.receive_head();
        assert!(!head.contains("chunked"), "{head}");
        let mut stream = String::new();
        client.0.read_to_string(&mut stream).unwrap();
        assert!(stream.starts_with("data: {"), "{stream}");
        assert!(stream.ends_with("}\n\ndata: [DONE]\n\n"), "{stream}");
    });
}

#[test]
fn what_cannot_be_answered_is_rejected_and_counted() {
    on_both_drivers(|driver| {
        let node = mock::start(MockOptions::default(), driver).unwrap();
        let mut client = Client::connect(node.address);
        let unknown = client.post("/v1/chat/completions", &json!({"model": "other"}));
        assert_eq!(unknown.status, 404);
        assert_eq!(unknown.json()["error"]["code"], "model_not_found");
        client.send(&post(
            "/v1/chat/completions",
            "",
            "{\"model\":\"mock-model\"",
        ));
        assert_eq!(client.receive().json()["error"]["code"], "invalid_json");
        assert_eq!(client.post("/v1/chat/completions", &json!({})).status, 400);
        let stats = node.stats();
        assert_eq!((stats.requests, stats.rejected, stats.in_flight), (3, 3, 0));

        assert_eq!(client.get("/nowhere").status, 404);
        assert_eq!(client.get("/props").status, 404, "no slots, no figure");
        let wrong_method = client.get("/v1/chat/completions");
        assert_eq!(wrong_method.status, 405);
        assert_eq!(wrong_method.field("Allow"), Some("POST"));
        assert_eq!(node.stats().requests, 3);
        client.send(b"nonsense\r\n\r\n");
        assert_eq!(client.receive().status, 400);
        assert!(client.is_closed());
    });
}

#[test]
fn models_health_and_figures_can_be_read() {
    on_both_drivers(|driver| {
        let node = mock::start(
            MockOptions {
                models: vec!["a/b".into(), "c".into()],
                workers: 2,
                ..MockOptions::default()
            },
            driver,
        )
        .unwrap();
        let mut client = Client::connect(node.address);
        let list = client.get("/v1/models").json();
        assert_eq!(list["data"][0]["id"], "a/b");
        assert_eq!(list["data"][1]["id"], "c");
        assert_eq!(client.get("/v1/models/a/b").json()["object"], "model");
        assert_eq!(client.get("/v1/models/d").status, 404);
        assert_eq!(client.get("/health").status, 200);
        assert_eq!(client.get("/stats").json()["connections_open"], 1);
        client.send(b"HEAD /health HTTP/1.1\r\nHost: mock\r\n\r\n");
        let head = client.receive_head();
        assert!(head.contains("Content-Length: 15\r\n"), "{head}");
        assert_eq!(client.get("/health").body, b"{\"status\":\"ok\"}");
    });
}

#[test]
fn options_out_of_range_are_refused() {
    let refused = |options| mock::start(options, Driver::Epoll).unwrap_err().kind();
    let options = MockOptions::default;
    for options in [
        MockOptions {
            error_rate: 1.5,
            ..options()
        },
        MockOptions {
            disconnect_rate: f64::NAN,
            ..options()
        },
        MockOptions {
            workers: 0,
            ..options()
        },
        MockOptions {
            token_count: u32::MAX,
            ..options()
        },
    ] {
        assert_eq!(refused(options), std::io::ErrorKind::InvalidInput);
    }
}
