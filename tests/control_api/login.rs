//! Logging in and out: the password, the lock-out, the limits of a session, and what a restart leaves.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::support::{Driver, RawClient, Router, on_both_drivers};
use super::{answer, ask, bearer, config, expect_error, json, login, request, router, try_login};

#[test]
fn a_login_opens_the_api_until_the_logout() {
    on_both_drivers(|driver| {
        let router = router(driver);
        let response = try_login(&router, "admin", "test");
        assert_eq!(response.status, 200);
        assert_eq!(response.head.field("cache-control"), Some("no-store"));
        let body = json(&response);
        let token = body["token"].as_str().unwrap();
        assert_eq!(body["expires_in"], 12 * 3600);
        assert_eq!(body["user"]["username"], "admin");
        assert_eq!(
            response.head.field("set-cookie"),
            Some(format!("llm_router_session={token}; HttpOnly; SameSite=Strict; Path=/").as_str())
        );
        let bearer = bearer(token);
        let fields = [("Authorization", bearer.as_str())];
        let me = json(&ask(&router, "GET", "/api/auth/me", &fields, None));
        assert_eq!(
            (&me["user"]["username"], &me["via"]),
            (&"admin".into(), &"session".into())
        );
        assert!(me["expires_at"].as_u64().unwrap() > 1_700_000_000);
        assert_eq!(
            ask(&router, "POST", "/api/auth/logout", &fields, None).status,
            204
        );
        expect_error(
            &ask(&router, "GET", "/api/auth/me", &fields, None),
            401,
            "not_authenticated",
        );
        let again = ask(&router, "POST", "/api/auth/logout", &fields, None);
        expect_error(&again, 401, "not_authenticated");
    });
}

#[test]
fn a_restart_logs_nobody_out() {
    let router = router(Driver::Epoll);
    let (kept, ended) = (login(&router), login(&router));
    let fields = [("Authorization", &*bearer(&ended.token))];
    assert_eq!(
        ask(&router, "POST", "/api/auth/logout", &fields, None).status,
        204
    );
    let router = router.killed_and_started_again();
    let me = |token: &str| {
        ask(
            &router,
            "GET",
            "/api/auth/me",
            &[("Authorization", &bearer(token))],
            None,
        )
    };
    assert_eq!(me(&kept.token).status, 200);
    expect_error(&me(&ended.token), 401, "not_authenticated");
}

#[test]
fn a_restart_with_another_password_ends_what_the_old_one_began() {
    let name = format!("llm-router-password-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    let with_password = |password: &str| {
        config(Driver::Epoll)
            .data_dir(&directory)
            .set("auth.admin_password", format!("{password:?}"))
            .start()
    };
    let before = with_password("leaked by mistake");
    let response = try_login(&before, "admin", "leaked by mistake");
    let token = json(&response)["token"].as_str().unwrap().to_owned();
    let fields = [("Authorization", &*bearer(&token))];
    let me = |router: &Router| ask(router, "GET", "/api/auth/me", &fields, None);
    assert_eq!(me(&before).status, 200);
    drop(before);
    let after = with_password("another one");
    expect_error(&me(&after), 401, "not_authenticated");
    drop(after);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_reload_with_another_password_ends_what_the_old_one_began() {
    let router = config(Driver::Epoll)
        .set("auth.admin_password", "\"correct horse\"")
        .start();
    let token = |password: &str| {
        let response = try_login(&router, "admin", password);
        assert_eq!(response.status, 200, "{}", response.text());
        bearer(json(&response)["token"].as_str().unwrap())
    };
    let old = token("correct horse");
    let reload = |admin: &str| {
        let fields = [("Authorization", admin)];
        json(&ask(&router, "POST", "/api/reload", &fields, None))["applied"].clone()
    };
    assert_eq!(
        reload(&old),
        serde_json::json!([]),
        "the same password is no change"
    );
    let file = router.path("config.toml");
    let changed = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, changed.replace("correct horse", "battery staple")).unwrap();
    assert_eq!(reload(&old), serde_json::json!(["auth.admin_password"]));
    let fields = [("Authorization", old.as_str())];
    expect_error(
        &ask(&router, "GET", "/api/auth/me", &fields, None),
        401,
        "not_authenticated",
    );
    expect_error(
        &try_login(&router, "admin", "correct horse"),
        401,
        "invalid_credentials",
    );
    let new = token("battery staple");
    let fields = [("Authorization", new.as_str())];
    assert_eq!(
        ask(&router, "GET", "/api/auth/me", &fields, None).status,
        200
    );
}

#[test]
fn five_wrong_passwords_lock_their_source_out() {
    let router = config(Driver::Epoll)
        .set("auth.admin_password", "\"correct horse\"")
        .start();
    for (user, password) in [
        ("admin", "wrong"),
        ("admin", "test"),
        ("admin", ""),
        ("root", "correct horse"),
    ] {
        expect_error(
            &try_login(&router, user, password),
            401,
            "invalid_credentials",
        );
    }
    let ok = try_login(&router, "admin", "correct horse");
    assert_eq!(ok.status, 200, "a success forgets what came before");
    for _ in 0..5 {
        expect_error(
            &try_login(&router, "admin", "wrong"),
            401,
            "invalid_credentials",
        );
    }
    let locked = try_login(&router, "admin", "correct horse");
    expect_error(&locked, 429, "too_many_attempts");
    let wait: u64 = locked.head.field("retry-after").unwrap().parse().unwrap();
    assert!((890..=900).contains(&wait), "{wait}");
    // Another loopback address is another source.
    let mut other = from_address([127, 0, 0, 9], router.address());
    let body = r#"{"username":"admin","password":"correct horse"}"#;
    other.send(&request("POST", "/api/auth/login", &[], Some(body)));
    assert_eq!(answer(&mut other, "POST").status, 200);
    let token = bearer(json(&ok)["token"].as_str().unwrap());
    let me = ask(
        &router,
        "GET",
        "/api/auth/me",
        &[("Authorization", &token)],
        None,
    );
    assert_eq!(me.status, 200, "whoever is in stays in");
}

#[test]
fn many_guesses_at_the_same_time_gain_nothing() {
    let router = config(Driver::IoUring)
        .set("auth.admin_password", "\"correct horse\"")
        .start();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let guesses: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| try_login(&router, "admin", "wrong").status))
            .collect();
        guesses
            .into_iter()
            .map(|guess| guess.join().unwrap())
            .collect()
    });
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert!(count(401) <= 5, "{statuses:?}");
    assert_eq!(count(401) + count(429) + count(503), 16, "{statuses:?}");
}

#[test]
fn the_default_password_is_for_this_machine_only() {
    let Some(own) = own_address() else {
        // Nothing but loopback here: the rule cannot be seen from outside.
        return;
    };
    let router = config(Driver::Epoll)
        .set("server.host", "\"0.0.0.0\"")
        .set("auth.api_keys", "[\"sk-some\"]")
        .start();
    let remote = |password: &str| {
        let mut client = RawClient::connect(SocketAddr::new(own, router.address().port()));
        let body = format!(r#"{{"username":"admin","password":"{password}"}}"#);
        client.send(&request("POST", "/api/auth/login", &[], Some(&body)));
        answer(&mut client, "POST")
    };
    expect_error(&remote("test"), 403, "default_password");
    expect_error(&remote("wrong"), 403, "default_password");
    let mut local = RawClient::connect(SocketAddr::from(([127, 0, 0, 1], router.address().port())));
    let body = r#"{"username":"admin","password":"test"}"#;
    local.send(&request("POST", "/api/auth/login", &[], Some(body)));
    assert_eq!(answer(&mut local, "POST").status, 200);
    let told = router
        .stderr()
        .matches("auth.admin_password is the default:")
        .count();
    assert_eq!(told, 1, "{}", router.stderr());
}

#[test]
fn the_default_password_is_for_no_page_of_anywhere_and_no_proxy() {
    on_both_drivers(|driver| {
        let router = router(driver);
        let body = r#"{"username":"admin","password":"test"}"#;
        let login = |host: &str, fields: &[(&str, &str)]| {
            let asked = request("POST", "/api/auth/login", fields, Some(body));
            let asked = String::from_utf8(asked).unwrap();
            let asked = asked.replacen("Host: localhost", &format!("Host: {host}"), 1);
            let mut client = router.connect();
            client.send(asked.as_bytes());
            answer(&mut client, "POST")
        };
        // What a browser sends once a page has had its own name resolve to loopback.
        let rebound = [("Origin", "http://evil.example:8080")];
        expect_error(
            &login("evil.example:8080", &rebound),
            403,
            "default_password",
        );
        for field in [
            ("Forwarded", "for=192.0.2.1"),
            ("X-Forwarded-For", "192.0.2.1"),
            ("x-forwarded-proto", "https"),
            ("X-Real-IP", "192.0.2.1"),
            ("Via", "1.1 proxy"),
        ] {
            expect_error(&login("localhost", &[field]), 403, "default_password");
        }
        for host in ["localhost:8080", "127.0.0.1", "[::1]:8080"] {
            assert_eq!(login(host, &[]).status, 200, "{host}");
        }
    });
}

#[test]
fn a_hash_may_stand_for_the_password() {
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$kKqCnONyNEtwFSfTr14e1w\
                $U5wU/p/IZdJq8UGTz7lq+dkhkoF6GbrdIJyNGsiyfn4";
    let router = config(Driver::Epoll)
        .set("auth.admin_username", "\"root\"")
        .set("auth.admin_password", format!("{hash:?}"))
        .start();
    assert_eq!(try_login(&router, "root", "test").status, 200);
    expect_error(
        &try_login(&router, "root", hash),
        401,
        "invalid_credentials",
    );
    expect_error(
        &try_login(&router, "admin", "test"),
        401,
        "invalid_credentials",
    );
}

#[test]
fn a_login_that_is_malformed_is_told_what_is_wrong() {
    let router = router(Driver::Epoll);
    for (body, code) in [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        (r#"["admin","test"]"#, "invalid_json"),
        (r#"{"username":"admin"}"#, "invalid_field"),
        (r#"{"username":"admin","password":5}"#, "invalid_field"),
        (
            r#"{"username":"admin","password":"test","remember":true}"#,
            "invalid_field",
        ),
    ] {
        let response = ask(&router, "POST", "/api/auth/login", &[], Some(body));
        expect_error(&response, 400, code);
    }
    let fields = [("Origin", "http://evil.example")];
    let body = Some(r#"{"username":"admin","password":"test"}"#);
    expect_error(
        &ask(&router, "POST", "/api/auth/login", &fields, body),
        403,
        "csrf",
    );
    expect_error(
        &ask(&router, "GET", "/api/auth/login", &[], None),
        405,
        "method_not_allowed",
    );
}

#[test]
fn an_unknown_user_costs_the_same_time_as_a_wrong_password() {
    let router = config(Driver::Epoll)
        .set("auth.admin_password", "\"correct horse\"")
        .start();
    let time = |user: &str| {
        let began = std::time::Instant::now();
        let status = try_login(&router, user, "wrong").status;
        assert_eq!(status, 401);
        began.elapsed()
    };
    let fastest = |user: &str| time(user).min(time(user));
    let (known, unknown) = (fastest("admin"), fastest("nobody"));
    // A check takes tens of milliseconds, everything else a few.
    assert!(unknown > known / 3, "{unknown:?} against {known:?}");
    assert!(
        known > Duration::from_millis(5),
        "{known:?}: nothing was hashed"
    );
}

/// A client with an address of its own, which is another source than all others.
pub(crate) fn from_address(own: [u8; 4], router: SocketAddr) -> RawClient {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((own, 0)).into()).unwrap();
    socket.connect(&router.into()).unwrap();
    RawClient::over(socket.into())
}

/// An address of this machine that is not loopback.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: only asks which way it would go.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}
