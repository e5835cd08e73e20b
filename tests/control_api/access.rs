//! Who may ask what: every endpoint with every kind of credential.

use super::support::{Driver, Response, on_both_drivers};
use super::{ask, bearer, expect_error, login, make_key, router};

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
            !matches!(response.status, 401 | 403),
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

#[test]
fn each_endpoint_is_open_to_those_it_is_for_and_nobody_else() {
    let router = router(Driver::Epoll);
    let session = login(&router);
    let admin = bearer(&session.token);
    let key = |scopes: &[&str]| bearer(&make_key(&router, &admin, scopes).1);
    let admin_key = key(&["admin"]);
    let inference_key = key(&["inference"]);
    let nodes_key = key(&["nodes"]);
    let endpoints = [
        ("GET", "/api/auth/me"),
        ("HEAD", "/api/auth/me"),
        ("GET", "/api/load-status"),
        ("GET", "/api/queue/stats"),
        ("GET", "/api/keys"),
        ("POST", "/api/keys"),
        ("DELETE", "/api/keys/8000000000000001"),
    ];
    for (method, path) in endpoints {
        for (credential, verdict) in [
            (None, NOBODY),
            (Some("Bearer sk-unknown"), NOBODY),
            (Some("Bearer st-unknown"), NOBODY),
            (Some("Basic YWRtaW46dGVzdA=="), NOBODY),
            (Some(inference_key.as_str()), NO_SCOPE),
            (Some(nodes_key.as_str()), NO_SCOPE),
            (Some(admin_key.as_str()), Verdict::Reached),
            (Some(admin.as_str()), Verdict::Reached),
        ] {
            let field = credential.map(|value| ("Authorization", value));
            let response = ask(&router, method, path, field.as_slice(), None);
            expect(
                &response,
                verdict,
                &format!("{method} {path} {credential:?}"),
            );
        }
        let key_itself = admin_key.strip_prefix("Bearer ").unwrap();
        let response = ask(&router, method, path, &[("X-API-Key", key_itself)], None);
        expect(
            &response,
            Verdict::Reached,
            &format!("{method} {path} X-API-Key"),
        );
    }
    for (method, path) in [
        ("GET", "/api/openapi"),
        ("GET", "/api/"),
        ("POST", "/api/nothing"),
    ] {
        let response = ask(&router, method, path, &[("Authorization", &admin)], None);
        expect_error(&response, 404, "not_found");
    }
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
        (vec![cookie, ours, ("Origin", "http://router")], 201),
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
