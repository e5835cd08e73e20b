//! What exactly reaches a node of an accepted request, and which fields of a response come back.

use super::forwarded;
use super::support::corpus::{SMALL_BODY, with_chunks, with_fields};
use super::support::{Prng, RouterConfig, ScriptedNode, fixed, on_both_drivers, post};

#[test]
fn a_node_receives_end_to_end_fields_one_by_one_and_no_others() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("auth.required", true)
            .set("auth.api_keys", "[\"sk-client\"]")
            .node_with("n", &node, "m", 10, "api_key = \"sk-node\"")
            .start();
        let request = with_fields(
            "aUTHORIZATION: bearer sk-client\r\nCookie: session=1\r\nX-Stainless-Lang: python\r\n\
             Content-Type: application/json\r\nAccept:  text/event-stream \r\nX_Forwarded_For: 6.6.6.6\r\n\
             X-Forwarded-For: 127.0.0.1, 9.9.9.9\r\nX-Forwarded-Proto: https\r\nForwarded: for=1.1.1.1\r\n\
             Connection: keep-alive, x-private, x-request-id\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Authorization: Basic eA==\r\nTE: trailers\r\nTrailer: X-T\r\nUpgrade: h2c\r\n\
             X-Request-Id: request-1\r\nX-Empty:\r\nX-Twice: 1\r\nX-Twice: 2\r\nContent-Length: 13",
            SMALL_BODY,
        );
        let received = forwarded(&router, &node, &request);
        let expected = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer sk-node\r\n\
             X-Request-Id: request-1\r\nX-Forwarded-For: 127.0.0.1\r\nContent-Length: 13\r\n\
             Content-Type: application/json\r\nAccept: text/event-stream\r\nX-Empty: \r\n\
             X-Twice: 1\r\nX-Twice: 2\r\n\r\n{SMALL_BODY}",
            node.address()
        );
        assert_eq!(received, expected);
    });
}

#[test]
fn the_query_travels_on_and_the_key_may_come_as_x_api_key() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(fixed(b"{}"));
        let router = RouterConfig::new(driver)
            .set("auth.required", true)
            .set("auth.api_keys", "[\"sk-client\"]")
            .node("n", &node)
            .start();
        let request = "POST /v1/chat/completions?api-version=1&a=%20 HTTP/1.1\r\nHost: router\r\n\
                       X-API-Key: sk-client\r\nContent-Length: 13\r\n\r\n{\"model\":\"m\"}";
        let received = forwarded(&router, &node, request.as_bytes());
        let (line, rest) = received.split_once("\r\n").unwrap();
        assert_eq!(
            line,
            "POST /v1/chat/completions?api-version=1&a=%20 HTTP/1.1"
        );
        assert!(!rest.to_lowercase().contains("sk-client"), "{rest}");
        assert!(!rest.to_lowercase().contains("api-key"), "{rest}");
    });
}

#[test]
fn bodies_reach_the_node_byte_for_byte() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(&fixed(&call.body));
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut random = Prng::new(7);
        let mut client = router.connect();
        for size in [
            100,
            800,
            1023,
            1024,
            4000,
            16_000,
            16_384,
            20_000,
            65_536,
            300_000,
            2 << 20,
        ] {
            let filling: String = (0..size - 40)
                .map(|_| char::from(b'a' + random.below(26) as u8))
                .collect();
            let mut body = format!(" {{ \"model\" :\"m\",\n\"a\":\"{filling}\" }} ").into_bytes();
            body.resize(size.max(body.len()), b' ');
            client.send(&post("/v1/chat/completions", &body));
            assert!(client.response().body == body, "fixed length, {size} bytes");

            let mut chunked = Vec::new();
            let mut rest = body.as_slice();
            while !rest.is_empty() {
                let count = (1 + random.below(size as u64 / 3) as usize).min(rest.len());
                chunked.extend_from_slice(format!("{count:x};ext=\"v\"\r\n").as_bytes());
                chunked.extend_from_slice(&rest[..count]);
                chunked.extend_from_slice(b"\r\n");
                rest = &rest[count..];
            }
            chunked.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
            client.send(&with_chunks(&chunked));
            assert!(client.response().body == body, "chunked, {size} bytes");
        }
    });
}

#[test]
fn an_alias_replaces_the_model_name_and_nothing_else() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(&fixed(&call.body));
        });
        let router = RouterConfig::new(driver)
            .node("n", &node)
            .alias("a-much-longer-name-than-that", "m")
            .start();
        for filling in [0, 900, 20_000] {
            let around = |model: &str| {
                format!(
                    r#"{{ "metadata":{{"model":"x"}},"a":"{}","mod\u0065l" : "{model}" , "stream":false}}"#,
                    "é".repeat(filling)
                )
            };
            let mut client = router.connect();
            client.send(&post(
                "/v1/chat/completions",
                around("a-much-longer-name-than-that").as_bytes(),
            ));
            assert!(client.response().text() == around("m"), "{filling}");
        }
    });
}

#[test]
fn the_model_of_a_multipart_form_is_found_and_aliased() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            call.send(&fixed(&call.body));
        });
        let router = RouterConfig::new(driver)
            .node("n", &node)
            .alias("whisper-1", "m")
            .start();
        let form = |model: &str| {
            format!(
                "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
                 Content-Type: audio/wav\r\n\r\nRIFF\0\r\n--xy\r\n\r\n--xyz\r\n\
                 Content-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--xyz--\r\n"
            )
        };
        for (name, reaches) in [("m", "m"), ("whisper-1", "m")] {
            let body = form(name);
            let mut client = router.connect();
            client.send(
                format!(
                    "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: router\r\n\
                     Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .as_bytes(),
            );
            assert_eq!(client.response().text(), form(reaches));
        }
    });
}

#[test]
fn repeated_response_fields_keep_their_order_and_hop_by_hop_ones_end_here() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::answering(
            b"HTTP/1.1 200 Fine\r\nSet-Cookie: a=1\r\nContent-Type: text/plain\r\nset-cookie: b=2\r\n\
              Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\
              Set-Cookie: c=3\r\nX-Request-Id: of-the-node\r\nX-Backpressure: overloaded\r\nServer: s\r\n\r\nok"
                .to_vec(),
        );
        let router = RouterConfig::new(driver).node("n", &node).start();
        let mut client = router.connect();
        client.send(&with_fields(
            "X-Request-Id: mine-1\r\nContent-Length: 13",
            SMALL_BODY,
        ));
        let response = client.response();
        let fields: Vec<(&str, &str)> = response
            .head
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            fields,
            [
                ("Set-Cookie", "a=1"),
                ("Content-Type", "text/plain"),
                ("set-cookie", "b=2"),
                ("Set-Cookie", "c=3"),
                ("Server", "s"),
                ("Content-Length", "2"),
                ("X-Request-Id", "mine-1"),
                ("X-Backpressure", "normal"),
            ]
        );
        assert_eq!(response.text(), "ok");
    });
}

#[test]
fn a_request_id_is_kept_if_valid_and_made_if_not() {
    on_both_drivers(|driver| {
        let node = ScriptedNode::start(|call| {
            let id = call.field("x-request-id").unwrap();
            call.send(&fixed(id.as_bytes()));
        });
        let router = RouterConfig::new(driver).node("n", &node).start();
        let ask = |fields: &str| {
            let mut client = router.connect();
            client.send(&with_fields(
                format!("{fields}Content-Length: 13"),
                SMALL_BODY,
            ));
            let response = client.response();
            let id = response.head.field("x-request-id").unwrap().to_owned();
            assert_eq!(response.text(), id, "the node and the client see one id");
            id
        };
        assert_eq!(
            ask("X-Request-Id: 0f8fad5b-d9cb-469f\r\n"),
            "0f8fad5b-d9cb-469f"
        );
        let made = [
            ask(""),
            ask("X-Request-Id: a\r\nX-Request-Id: b\r\n"),
            ask("X-Request-Id: has blanks\r\n"),
            ask(&format!("X-Request-Id: {}\r\n", "a".repeat(1000))),
        ];
        for (index, id) in made.iter().enumerate() {
            assert!(
                !id.is_empty() && !id.contains(' ') && id.len() < 128,
                "{id}"
            );
            assert!(!made[..index].contains(id), "ids are unique");
        }
    });
}
