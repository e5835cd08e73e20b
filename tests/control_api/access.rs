//! Who may ask what: every endpoint with every kind of credential.

use super::support::{Driver, Response, Router, on_both_drivers};
use super::{answer, ask, bearer, expect_error, json, login, make_key, request, router};

/// What each kind of credential comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The handler was reached, whatever it said.
    Reached,
    Refused(u16, &'static str),
}

type Fields = Vec<(String, String)>;

const NOBODY: Verdict = Verdict::Refused(401, "not_authenticated");
const NO_SCOPE: Verdict = Verdict::Refused(403, "insufficient_scope");

#[track_caller]
fn expect(response: &Response, verdict: Verdict, case: &str) {
    match verdict {
        Verdict::Reached => assert!(
            response.status < 500
                && (!matches!(response.status, 401 | 403)
                    || response.error_code() == "invalid_credentials"),
            "{case}: {} {}",
            response.status,
            response.text()
        ),
        Verdict::Refused(status, code) => {
            assert_eq!(response.status, status, "{case}");
            assert!(
                response.text().is_empty() || response.error_code() == code,
                "{case}"
            );
        }
    }
}

/// Everything the OpenAPI document describes, with who may ask: unit tests hold the document to the routes.
fn endpoints(router: &Router) -> Vec<(String, String, Audience)> {
    let document = json(&ask(router, "GET", "/api/openapi.json", &[], None));
    let paths = document["paths"].as_object().unwrap().clone();
    let operations = paths.into_iter().flat_map(|(path, operations)| {
        let operations = operations.as_object().unwrap().clone();
        operations.into_iter().map(move |(method, operation)| {
            let audience = match operation.get("security") {
                None if method == "post" && path == "/api/nodes" => Audience::Nodes,
                None => Audience::Admins,
                Some(security) if security == &serde_json::json!([]) => Audience::Everybody,
                Some(_) => Audience::TheNode,
            };
            (
                method.to_uppercase(),
                path.replace("{id}", "0123456789abcdef"),
                audience,
            )
        })
    });
    operations.collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    Everybody,
    Admins,
    /// And keys of the scope nodes.
    Nodes,
    TheNode,
}

#[test]
fn each_endpoint_is_open_to_those_it_is_for_and_nobody_else() {
    let router = router(Driver::Epoll);
    let maker = bearer(&login(&router).token);
    let key = |scopes: &[&str]| bearer(&make_key(&router, &maker, scopes).1);
    let (admin_key, inference_key, nodes_key) =
        (key(&["admin"]), key(&["inference"]), key(&["nodes"]));
    let endpoints = endpoints(&router);
    assert!(endpoints.len() >= 22, "{endpoints:?}");
    for (method, path, audience) in endpoints {
        // A logout ends it.
        let session = login(&router);
        let token = bearer(&session.token);
        let bare_key = admin_key.strip_prefix("Bearer ").unwrap();
        let is_safe = method == "GET";
        let without_proof = if is_safe {
            Verdict::Reached
        } else {
            Verdict::Refused(403, "csrf")
        };
        let nodes = match audience {
            Audience::Nodes => Verdict::Reached,
            _ => NO_SCOPE,
        };
        let cookie = ("Cookie", session.cookie.as_str());
        for (fields, verdict) in [
            (vec![], NOBODY),
            (vec![("Authorization", "Bearer sk-unknown")], NOBODY),
            (vec![("Authorization", "Bearer st-unknown")], NOBODY),
            (vec![("Authorization", "Basic YWRtaW46dGVzdA==")], NOBODY),
            (vec![("X-Node-Token", "nt-unknown")], NOBODY),
            (vec![("Authorization", inference_key.as_str())], NO_SCOPE),
            (vec![("Authorization", nodes_key.as_str())], nodes),
            (
                vec![("Authorization", admin_key.as_str())],
                Verdict::Reached,
            ),
            (vec![("X-API-Key", bare_key)], Verdict::Reached),
            (vec![cookie], without_proof),
            (
                vec![cookie, ("X-Requested-With", "llm-router")],
                Verdict::Reached,
            ),
            (vec![("Authorization", token.as_str())], Verdict::Reached),
        ] {
            let verdict = match audience {
                Audience::Everybody => Verdict::Reached,
                // Whoever administers the router is still no node.
                Audience::TheNode => NOBODY,
                Audience::Admins | Audience::Nodes => verdict,
            };
            // Which token a node needs is tested with the nodes.
            if audience == Audience::TheNode
                && fields.iter().any(|(name, _)| *name == "X-Node-Token")
            {
                continue;
            }
            // Ended by the request before.
            if path.ends_with("/logout") && fields.iter().any(|(_, value)| *value == token) {
                continue;
            }
            let response = first_of(&router, &method, &path, &fields);
            expect(&response, verdict, &format!("{method} {path} {fields:?}"));
        }
    }
    for (method, path) in [
        ("GET", "/api/openapi"),
        ("GET", "/api/"),
        ("POST", "/api/nothing"),
    ] {
        let response = ask(&router, method, path, &[("Authorization", &maker)], None);
        expect_error(&response, 404, "not_found");
    }
}

/// A response; of one that does not end, its head.
fn first_of(router: &Router, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
    let mut client = router.connect();
    client.send(&request(method, path, fields, None));
    let is_endless = path == "/api/events" && client.has_bytes_to_read();
    let seen_as = if is_endless { "HEAD" } else { method };
    answer(&mut client, seen_as)
}

#[test]
fn every_401_is_the_same_whatever_is_wrong() {
    on_both_drivers(|driver| {
        let router = router(driver);
        let session = login(&router);
        let admin = bearer(&session.token);
        let (id, key) = make_key(&router, &admin, &["admin"]);
        let revoked = ask(
            &router,
            "DELETE",
            &format!("/api/keys/{id}"),
            &[("Authorization", &admin)],
            None,
        );
        assert_eq!(revoked.status, 204);
        let ended = login(&router);
        let out = ask(
            &router,
            "POST",
            "/api/auth/logout",
            &[("Authorization", &bearer(&ended.token))],
            None,
        );
        assert_eq!(out.status, 204);
        let answers: Vec<(Vec<u8>, Fields)> = [
            vec![],
            vec![("Authorization", "Bearer".to_owned())],
            vec![("Authorization", "Bearer sk-unknown".to_owned())],
            vec![("Authorization", bearer(&key))],
            vec![("Authorization", bearer(&ended.token))],
            vec![("Authorization", admin), ("X-API-Key", key.clone())],
            vec![("X-API-Key", session.token.clone())],
            vec![("Cookie", ended.cookie.clone())],
            vec![("Cookie", format!("{0}; {0}", session.cookie))],
        ]
        .into_iter()
        .map(|fields| {
            let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let response = ask(&router, "GET", "/api/keys", &fields, None);
            expect_error(&response, 401, "not_authenticated");
            let fields = response.head.fields.into_iter();
            let fields = fields.filter(|(name, _)| name != "X-Request-Id").collect();
            (response.body, fields)
        })
        .collect();
        assert!(
            answers.windows(2).all(|pair| pair[0] == pair[1]),
            "{answers:?}"
        );
        assert!(
            answers[0]
                .1
                .iter()
                .any(|(name, value)| name == "WWW-Authenticate" && value == "Bearer")
        );
    });
}

#[test]
fn a_change_with_a_cookie_needs_a_page_of_ours() {
    let router = router(Driver::Epoll);
    let session = login(&router);
    let cookie = ("Cookie", session.cookie.as_str());
    let ours = ("X-Requested-With", "llm-router");
    let body = Some(r#"{"name":"k"}"#);
    let read = ask(&router, "GET", "/api/keys", &[cookie], None);
    assert_eq!(read.status, 200, "reading needs no proof");
    for (fields, status) in [
        (vec![cookie], 403),
        (vec![cookie, ("X-Requested-With", "XMLHttpRequest")], 403),
        (vec![cookie, ours, ("Origin", "http://evil.example")], 403),
        (vec![cookie, ours, ("Origin", "null")], 403),
        (vec![cookie, ours, ("Origin", "http://localhost")], 201),
        (vec![cookie, ours], 201),
    ] {
        let response = ask(&router, "POST", "/api/keys", &fields, body);
        assert_eq!(response.status, status, "{fields:?}");
        if status == 403 {
            expect_error(&response, 403, "csrf");
        }
    }
    let out = ask(&router, "POST", "/api/auth/logout", &[cookie], None);
    expect_error(&out, 403, "csrf");
    let out = ask(&router, "POST", "/api/auth/logout", &[cookie, ours], None);
    assert_eq!(out.status, 204);
    assert_eq!(
        out.head.field("set-cookie"),
        Some("llm_router_session=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0")
    );
    let after = ask(&router, "GET", "/api/keys", &[cookie], None);
    expect_error(&after, 401, "not_authenticated");
}
