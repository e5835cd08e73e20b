//! `queue.stream_position`: streams that begin while their request waits.

use std::time::Duration;

use crate::support::{
    Call, Desk, Driver, End, RawClient, ResponseHead, Router, RouterConfig, ask, event,
    eventually_within, fixed, on_both_drivers, sse_head,
};
use crate::{expect_served, send, send_to_wait};

const FIRST_COMMENT: &[u8] = b": queue position=1 wait=1\n\n";
const EVENTS: &str = "data: {\"n\":1}\n\nevent: x\ndata: 2\n\ndata: [DONE]\n\n";

fn config(driver: Driver) -> RouterConfig {
    RouterConfig::new(driver).set("queue.stream_position", true)
}

/// A desk with one slot that is taken by `holder`.
struct Scene {
    desk: Desk,
    router: Router,
    holder: RawClient,
}

impl Scene {
    /// Every request but the holder is answered by `answer` and nothing else.
    fn new(config: RouterConfig, answer: impl Fn(&mut Call) + Send + Sync + 'static) -> Self {
        let desk = Desk::answering(move |call, tag| {
            if tag == "holder" {
                call.send(&fixed(br#"{"tag":"holder"}"#));
                // So that nobody else uses this connection.
                call.close();
            } else {
                answer(call);
            }
        });
        let router = config.node_with("n", desk.node(), "m", 1, "").start();
        let holder = send(&router, &ask("holder"));
        desk.expect("holder");
        Self {
            desk,
            router,
            holder,
        }
    }

    /// A stream that waits, its head and first comment read.
    #[track_caller]
    fn begin(&self, tag: &str) -> (RawClient, ResponseHead) {
        let mut client = send_to_wait(&self.router, &ask(tag).stream(), 1);
        let head = client.head();
        assert_eq!(head.status, 200);
        assert_eq!(client.chunk().unwrap(), FIRST_COMMENT);
        (client, head)
    }

    /// Everything is served from now on.
    #[track_caller]
    fn go_on(&mut self) {
        self.desk.open();
        expect_served(&mut self.holder, "holder");
    }
}

/// The payload up to the last chunk.
#[track_caller]
fn rest(client: &mut RawClient) -> String {
    let chunks = std::iter::from_fn(|| client.chunk());
    String::from_utf8(chunks.flatten().collect()).unwrap()
}

#[test]
fn a_waiting_stream_begins_at_once() {
    on_both_drivers(|driver| {
        let mut scene = Scene::new(config(driver), |call| {
            call.send(sse_head());
            call.send(&event("1"));
            call.send(b"0\r\n\r\n");
        });
        let (mut client, head) = scene.begin("a");
        assert_eq!(head.status_line, "HTTP/1.1 200 OK");
        let mut fields: Vec<(&str, &str)> = head
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| *name != "X-Request-Id")
            .collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                ("Cache-Control", "no-cache"),
                ("Content-Type", "text/event-stream; charset=utf-8"),
                ("Transfer-Encoding", "chunked"),
                ("X-Backpressure", "normal"),
                ("X-Estimated-Wait", "1"),
                ("X-Queue-Position", "1"),
            ]
        );
        assert!(head.field("x-request-id").is_some());
        assert_eq!(
            scene.desk.arrived(),
            ["holder"],
            "the node has not heard of it"
        );
        scene.go_on();
        assert_eq!(rest(&mut client), "data: 1\n\n");
        drop((client, scene.holder));
        scene.router.settles();
        let metrics = scene.router.metrics();
        assert_eq!(metrics.value("llm_router_queue_wait_seconds_count"), 1.0);
    });
}

#[test]
fn the_nodes_events_follow_byte_for_byte_whatever_its_framing() {
    on_both_drivers(|driver| {
        let chunked = |call: &mut Call| {
            call.send(sse_head());
            let (first, second) = EVENTS.split_at(9);
            for part in [first, second] {
                call.send(format!("{:x};ext=1\r\n{part}\r\n", part.len()).as_bytes());
            }
            call.send(b"0\r\nX-Trailer: 1\r\n\r\n");
        };
        let known = |call: &mut Call| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Own: 1";
            call.send(format!("{head}\r\nContent-Length: {}\r\n\r\n", EVENTS.len()).as_bytes());
            call.send(&EVENTS.as_bytes()[..5]);
            call.send(&EVENTS.as_bytes()[5..]);
        };
        let until_close = |call: &mut Call| {
            call.send(b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n\r\n");
            call.send(EVENTS.as_bytes());
            call.close();
        };
        let answers: [fn(&mut Call); 3] = [chunked, known, until_close];
        for answer in answers {
            let mut scene = Scene::new(config(driver), answer);
            let (mut client, _) = scene.begin("a");
            scene.go_on();
            assert_eq!(rest(&mut client), EVENTS);
            // The connection goes on, and this one need not wait.
            client.send(&ask("b").stream().bytes());
            let response = client.response();
            assert_eq!((response.status, response.text()), (200, EVENTS));
            assert_eq!(response.head.field("x-queue-position"), None);
            drop((client, scene.holder));
            scene.router.settles();
        }
    });
}

#[test]
fn each_event_arrives_before_the_node_sends_the_next() {
    on_both_drivers(|driver| {
        let desk = Desk::answering(|call, tag| {
            if tag == "stream" {
                call.send(sse_head());
                call.send(&event("1"));
                // Only the test's having read it ends this connection.
                call.wait_left();
            } else {
                call.send(&fixed(b"{}"));
            }
        });
        let router = config(driver)
            .node_with("n", desk.node(), "m", 1, "")
            .start();
        let holder = send(&router, &ask("holder"));
        desk.expect("holder");
        let mut client = send_to_wait(&router, &ask("stream").stream(), 1);
        desk.open();
        client.head();
        assert_eq!(client.chunk().unwrap(), FIRST_COMMENT);
        assert_eq!(client.chunk().unwrap(), b"data: 1\n\n");
        assert_eq!(router.metrics().value("llm_router_streams_active"), 1.0);
        drop((client, holder));
        router.settles();
        assert_eq!(router.metrics().cancelled("stream"), 1.0);
    });
}

#[test]
fn comments_tell_each_change_of_place() {
    on_both_drivers(|driver| {
        let mut scene = Scene::new(config(driver), |call| {
            call.send(sse_head());
            call.send(b"0\r\n\r\n");
        });
        let (mut first, _) = scene.begin("a");
        let mut second = send_to_wait(&scene.router, &ask("b").stream(), 2);
        let head = second.head();
        assert_eq!(head.field("x-queue-position"), Some("2"));
        assert_eq!(head.field("x-estimated-wait"), Some("2"));
        assert_eq!(second.chunk().unwrap(), b": queue position=2 wait=2\n\n");
        scene.desk.release("holder");
        expect_served(&mut scene.holder, "holder");
        scene.desk.expect("a");
        // By now a service was measured, and it took less than ten seconds.
        let comment = String::from_utf8(second.chunk().unwrap()).unwrap();
        let wait = comment
            .strip_prefix(": queue position=1 wait=")
            .and_then(|rest| rest.strip_suffix("\n\n"));
        assert!(
            wait.is_some_and(|secs| (1..10).contains(&secs.parse::<u32>().unwrap())),
            "{comment:?}"
        );
        scene.desk.open();
        assert_eq!(rest(&mut first), "");
        assert_eq!(rest(&mut second), "");
    });
}

#[test]
fn a_place_that_stays_is_told_again_every_ten_seconds() {
    on_both_drivers(|driver| {
        let scene = Scene::new(config(driver), |_| {});
        let (mut client, _) = scene.begin("a");
        assert!(client.is_silent_for(Duration::from_secs(9)));
        assert_eq!(client.chunk().unwrap(), FIRST_COMMENT);
    });
}

#[test]
fn a_wait_that_ends_in_vain_is_an_error_event_and_a_clean_end() {
    on_both_drivers(|driver| {
        let config = config(driver).set("load_manager.default_timeout_secs", 1);
        let mut scene = Scene::new(config, |call| {
            call.send(&fixed(br#"{"tag":"b"}"#));
        });
        let (mut client, _) = scene.begin("a");
        assert_eq!(
            rest(&mut client),
            "data: {\"error\":{\"message\":\"Request timeout after 1 second\",\"type\":\"gateway_timeout\",\"code\":\"wait_timeout\"}}\n\n"
        );
        assert_eq!(scene.router.metrics().rejections("wait_timeout"), 1.0);
        scene.go_on();
        client.send(&ask("b").bytes());
        expect_served(&mut client, "b");
        assert_eq!(scene.desk.arrived(), ["holder", "b"]);
        drop((client, scene.holder));
        scene.router.settles();
    });
}

#[test]
fn a_node_that_cannot_be_reached_is_an_error_event() {
    on_both_drivers(|driver| {
        let mut scene = Scene::new(config(driver), |_| {});
        let (mut client, _) = scene.begin("a");
        scene.desk.node().stop_listening();
        scene.desk.release("holder");
        expect_served(&mut scene.holder, "holder");
        let text = rest(&mut client);
        assert!(
            text == "data: {\"error\":{\"message\":\"The node could not be reached\",\"type\":\"bad_gateway\",\"code\":\"node_unreachable\"}}\n\n",
            "{text:?}"
        );
    });
}

/// What the client sees when the node answers with this status line, content type and body.
fn error_event(driver: Driver, status: &str, media_type: &str, body: &str) -> String {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\n");
    let (first, second) = body.split_at(body.len() / 2);
    let length = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let chunks = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    let events = [length, chunks].map(|response| error_event_of(driver, response));
    assert_eq!(events[0], events[1], "the framing makes no difference");
    let [event, _] = events;
    event
}

fn error_event_of(driver: Driver, response: String) -> String {
    let mut scene = Scene::new(config(driver), move |call| {
        call.send(response.as_bytes());
    });
    let (mut client, _) = scene.begin("a");
    scene.go_on();
    let text = rest(&mut client);
    // The connection to the client goes on.
    client.send(b"GET /health HTTP/1.1\r\nHost: router\r\n\r\n");
    assert_eq!(client.response().status, 200);
    drop((client, scene.holder));
    scene.router.settles();
    text
}

#[test]
fn a_nodes_own_error_is_an_error_event_in_whichever_form_it_came() {
    let event = |kind: &str, message: &str| {
        format!(
            "data: {{\"error\":{{\"message\":\"{message}\",\"type\":\"{kind}\",\"code\":\"node_error\"}}}}\n\n"
        )
    };
    let json = "application/json";
    let rows = [
        (
            "400 Bad Request",
            json,
            r#"{"error":{"message":"Too many tokens","type":"invalid_request_error","code":null}}"#,
            event(
                "invalid_request_error",
                "The node answered with status 400: Too many tokens",
            ),
        ),
        (
            "404 Not Found",
            json,
            r#"{"object":"error","message":"No such model","type":"NotFoundError","code":404}"#,
            event(
                "invalid_request_error",
                "The node answered with status 404: No such model",
            ),
        ),
        (
            "422 Unprocessable Entity",
            json,
            r#"{"detail":"Not \"valid\""}"#,
            event(
                "invalid_request_error",
                r#"The node answered with status 422: Not \"valid\""#,
            ),
        ),
        (
            "503 Service Unavailable",
            "text/html",
            "<h1>Loading</h1>",
            event("bad_gateway", "The node answered with status 503"),
        ),
        (
            "500 Internal Server Error",
            "text/event-stream",
            r#"{"error":"CUDA"}"#,
            event("bad_gateway", "The node answered with status 500: CUDA"),
        ),
        (
            "422 Unprocessable Entity",
            json,
            r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#,
            event("invalid_request_error", "The node answered with status 422"),
        ),
        (
            "200 OK",
            json,
            r#"{"choices":[]}"#,
            event("bad_gateway", "The node answered with status 200"),
        ),
    ];
    on_both_drivers(|driver| {
        for (status, media_type, body, expected) in &rows {
            assert_eq!(
                error_event(driver, status, media_type, body),
                *expected,
                "{status}"
            );
        }
    });
}

#[test]
fn the_node_of_a_stream_that_has_begun_is_not_asked_for_a_content_coding() {
    on_both_drivers(|driver| {
        let mut scene = Scene::new(config(driver), |call| {
            assert_eq!(call.field("Accept-Encoding"), None);
            assert_eq!(call.field("Accept").as_deref(), Some("text/event-stream"));
            call.send(sse_head());
            call.send(&event("1"));
            call.send(b"0\r\n\r\n");
        });
        let request = ask("a")
            .stream()
            .field("Accept-Encoding", "gzip, br")
            .field("Accept", "text/event-stream")
            .field("accept-encoding", "deflate");
        let mut client = send_to_wait(&scene.router, &request, 1);
        assert_eq!(client.head().status, 200);
        assert_eq!(client.chunk().unwrap(), FIRST_COMMENT);
        scene.go_on();
        assert_eq!(rest(&mut client), "data: 1\n\n");
    });
}

#[test]
fn only_streams_of_openai_events_begin_early() {
    on_both_drivers(|driver| {
        for path in ["/v1/embeddings", "/v1/rerank", "/v1/messages"] {
            let mut scene = Scene::new(config(driver), |call| {
                call.send(&fixed(b"{}"));
            });
            let request = String::from_utf8(ask("a").stream().bytes()).unwrap();
            let request = request.replace("/v1/chat/completions", path);
            let mut client = RawClient::connect(scene.router.address());
            client.send(request.as_bytes());
            scene.router.until_waiting(1);
            scene.go_on();
            let response = client.response();
            assert_eq!(response.body, b"{}", "{path}");
        }
    });
}

#[test]
fn a_node_that_dies_within_the_stream_truncates_it() {
    on_both_drivers(|driver| {
        let deaths: [fn(&mut Call); 2] = [Call::close, Call::reset];
        for die in deaths {
            let mut scene = Scene::new(config(driver), move |call| {
                call.send(sse_head());
                call.send(&event("1"));
                die(call);
            });
            let (mut client, _) = scene.begin("a");
            scene.go_on();
            let (bytes, _) = client.read_to_end();
            let text = String::from_utf8(bytes).unwrap();
            assert!(
                text == "9\r\ndata: 1\n\n\r\n" || text.is_empty(),
                "no last chunk and no invented event: {text:?}"
            );
        }
    });
}

#[test]
fn a_node_that_closes_without_a_word_is_an_error_event() {
    on_both_drivers(|driver| {
        let mut scene = Scene::new(config(driver), Call::close);
        let (mut client, _) = scene.begin("a");
        scene.go_on();
        assert_eq!(
            rest(&mut client),
            "data: {\"error\":{\"message\":\"The node sent an invalid response\",\"type\":\"bad_gateway\",\"code\":\"bad_node_response\"}}\n\n"
        );
    });
}

#[test]
fn only_streams_of_http_1_1_begin_early_and_only_when_asked_for() {
    on_both_drivers(|driver| {
        let answer = |call: &mut Call| {
            call.send(&fixed(br#"{"tag":"a"}"#));
        };
        for (config, request) in [
            (RouterConfig::new(driver), ask("a").stream()),
            (config(driver), ask("a")),
            (config(driver), ask("a").stream().http10()),
        ] {
            let mut scene = Scene::new(config, answer);
            let mut client = send_to_wait(&scene.router, &request, 1);
            assert!(client.is_silent_for(Duration::from_millis(300)));
            scene.go_on();
            let response = expect_served(&mut client, "a");
            assert_eq!(
                response.head.field("content-type"),
                Some("application/json")
            );
            assert_eq!(response.head.field("x-queue-position"), Some("1"));
        }
    });
}

#[test]
fn a_stream_that_may_not_wait_is_refused_with_a_status() {
    on_both_drivers(|driver| {
        let scene = Scene::new(config(driver).set("queue.max_size", 1), |_| {});
        let _waiting = scene.begin("a");
        let response = send(&scene.router, &ask("b").stream()).response();
        assert_eq!(
            (response.status, response.error_code().as_str()),
            (429, "queue_full")
        );
        assert_eq!(response.head.field("retry-after"), Some("2"));
    });
}

#[test]
fn a_client_that_leaves_a_stream_that_began_early_leaves_the_queue() {
    on_both_drivers(|driver| {
        let scene = Scene::new(config(driver), |_| {});
        let (client, _) = scene.begin("a");
        drop(client);
        eventually_within(Duration::from_secs(1), "it has left the queue", || {
            let metrics = scene.router.metrics();
            metrics.value("llm_router_queue_size") == 0.0 && metrics.cancelled("queue") == 1.0
        });
        assert_eq!(scene.desk.arrived(), ["holder"]);
    });
}

#[test]
fn a_client_that_wants_the_connection_closed_has_it_closed_after_the_stream() {
    on_both_drivers(|driver| {
        let mut scene = Scene::new(config(driver), |call| {
            call.send(sse_head());
            call.send(&event("1"));
            call.send(b"0\r\n\r\n");
        });
        let request = ask("a").stream().field("Connection", "close");
        let mut client = send_to_wait(&scene.router, &request, 1);
        let head = client.head();
        assert!(head.closes());
        scene.go_on();
        assert!(rest(&mut client).ends_with("data: 1\n\n"));
        assert_eq!(client.expect_closed(), End::Fin);
    });
}
