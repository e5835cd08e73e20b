//! The dashboard's files as bytes on a socket: what a browser is told with them, and that nobody needs a
//! key for them. The pages themselves are tested in a real browser by `tests/browser`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::disallowed_types,
    reason = "the threads of a test wait for each other"
)]

mod support;

use support::{Router, RouterConfig, on_both_drivers};

fn request(method: &str, path: &str, fields: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: router\r\n{fields}\r\n").into_bytes()
}

fn start(driver: support::Driver) -> Router {
    RouterConfig::new(driver)
        .without_waiting_for_nodes()
        .start()
}

#[test]
fn the_page_and_its_files_come_to_anyone_with_the_fields_that_tie_a_browsers_hands() {
    on_both_drivers(|driver| {
        let router = start(driver);
        let mut client = router.connect();
        for (path, content_type) in [
            ("/", "text/html; charset=utf-8"),
            ("/?from=a-bookmark", "text/html; charset=utf-8"),
            ("/assets/main.js", "text/javascript; charset=utf-8"),
            ("/assets/style.css", "text/css; charset=utf-8"),
            ("/assets/favicon.svg", "image/svg+xml"),
        ] {
            client.send(&request("GET", path, ""));
            let response = client.response();
            assert_eq!(response.status, 200, "{path}");
            let head = &response.head;
            assert_eq!(head.field("content-type"), Some(content_type), "{path}");
            assert_eq!(
                head.field("content-security-policy"),
                Some(
                    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
                )
            );
            assert_eq!(head.field("x-content-type-options"), Some("nosniff"));
            assert_eq!(head.field("referrer-policy"), Some("no-referrer"));
            assert_eq!(head.field("x-frame-options"), Some("DENY"));
            assert_eq!(head.field("cache-control"), Some("no-cache"));
            assert!(!response.body.is_empty());
            assert!(head.field("set-cookie").is_none());
        }
    });
}

#[test]
fn who_has_a_file_is_told_so_and_not_sent_it_again() {
    on_both_drivers(|driver| {
        let router = start(driver);
        let mut client = router.connect();
        client.send(&request("GET", "/", ""));
        let etag = client.response().head.field("etag").unwrap().to_owned();
        for (known, status) in [
            (etag.clone(), 304),
            (format!("W/{etag}"), 304),
            (format!("\"another\", {etag}"), 304),
            ("*".to_owned(), 304),
            ("\"another\"".to_owned(), 200),
        ] {
            let fields = format!("If-None-Match: {known}\r\n");
            client.send(&request("GET", "/", &fields));
            let response = client.response();
            assert_eq!(response.status, status, "{known}");
            assert_eq!(response.head.field("etag"), Some(&*etag));
            assert_eq!(response.body.is_empty(), status == 304);
        }
    });
}

#[test]
fn head_tells_the_length_and_sends_nothing_and_the_connection_goes_on() {
    on_both_drivers(|driver| {
        let router = start(driver);
        let mut client = router.connect();
        client.send(&request("GET", "/assets/style.css", ""));
        let whole = client.response();
        client.send(&request("HEAD", "/assets/style.css", ""));
        let head = client.head();
        assert_eq!(head.status, 200);
        assert_eq!(
            head.field("content-length"),
            Some(&*whole.body.len().to_string())
        );
        client.send(&request("GET", "/", ""));
        assert_eq!(client.response().status, 200);
    });
}

#[test]
fn other_paths_and_methods_are_refused() {
    on_both_drivers(|driver| {
        let router = start(driver);
        let mut client = router.connect();
        for path in [
            "/assets/",
            "/assets/none.js",
            "/assets/../mod.rs",
            "/assets/%6dain.js",
            "/index.html",
        ] {
            client.send(&request("GET", path, ""));
            let response = client.response();
            assert_eq!(response.status, 404, "{path}");
            assert_eq!(response.error_code(), "not_found", "{path}");
        }
        client.send(&request("POST", "/", "Content-Length: 0\r\n"));
        let response = client.response();
        assert_eq!(response.status, 405);
        assert_eq!(response.head.field("allow"), Some("GET, HEAD"));
    });
}
