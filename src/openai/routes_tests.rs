//! Routes: exact paths, no normalising (reliability case L19).

use http::Method;

use super::{BodyKind, Endpoint, Route, RouteError, route};

fn found(method: &Method, path: &str) -> (Endpoint, BodyKind) {
    let Route { endpoint, body, .. } = route(method, path).unwrap();
    (endpoint, body)
}

#[test]
fn every_address_of_the_contract_has_its_endpoint_and_body() {
    let posts = [
        (
            "/v1/chat/completions",
            Endpoint::ChatCompletions,
            BodyKind::Json,
        ),
        ("/v1/completions", Endpoint::Completions, BodyKind::Json),
        ("/v1/embeddings", Endpoint::Embeddings, BodyKind::Json),
        ("/v1/responses", Endpoint::Responses, BodyKind::Json),
        ("/v1/rerank", Endpoint::Rerank, BodyKind::Json),
        ("/v1/messages", Endpoint::Messages, BodyKind::Json),
        (
            "/v1/audio/transcriptions",
            Endpoint::Audio,
            BodyKind::Multipart,
        ),
        (
            "/v1/audio/translations",
            Endpoint::Audio,
            BodyKind::Multipart,
        ),
        ("/v1/audio/speech", Endpoint::Audio, BodyKind::Json),
        ("/v1/images/generations", Endpoint::Images, BodyKind::Json),
        ("/v1/images/edits", Endpoint::Images, BodyKind::Multipart),
        (
            "/v1/images/variations",
            Endpoint::Images,
            BodyKind::Multipart,
        ),
    ];
    for (path, endpoint, body) in posts {
        assert_eq!(found(&Method::POST, path), (endpoint, body), "{path}");
        assert!(endpoint.is_inference());
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::OPTIONS] {
            let refused = RouteError::MethodNotAllowed { allow: "POST" };
            assert_eq!(route(&method, path), Err(refused), "{path}");
        }
    }
    let gets = [
        ("/v1/models", Endpoint::Models),
        ("/v1/models/a", Endpoint::Model),
        ("/health", Endpoint::Health),
        ("/ready", Endpoint::Ready),
        ("/metrics", Endpoint::Metrics),
        ("/", Endpoint::Dashboard),
        ("/assets/app.js", Endpoint::Dashboard),
    ];
    for (path, endpoint) in gets {
        assert_eq!(
            found(&Method::GET, path),
            (endpoint, BodyKind::None),
            "{path}"
        );
        assert_eq!(
            found(&Method::HEAD, path),
            (endpoint, BodyKind::None),
            "{path}"
        );
        assert!(!endpoint.is_inference());
        for method in [Method::POST, Method::DELETE, Method::OPTIONS] {
            let refused = RouteError::MethodNotAllowed { allow: "GET, HEAD" };
            assert_eq!(route(&method, path), Err(refused), "{path}");
        }
    }
}

#[test]
fn the_control_api_takes_every_method() {
    for method in [Method::GET, Method::POST, Method::DELETE, Method::PATCH] {
        for path in ["/api/nodes", "/api/", "/api/nodes/x/drain"] {
            let (endpoint, _) = found(&method, path);
            assert_eq!(endpoint, Endpoint::Api);
            assert!(!endpoint.is_inference());
        }
    }
}

#[test]
fn no_other_spelling_of_a_path_is_the_path() {
    for path in [
        "",
        "//",
        "*",
        "/v1",
        "/v1/",
        "/v1/models/",
        "/v1//models",
        "//v1/models",
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/./models",
        "/V1/models",
        "/v1/Models",
        "/v1/model%73",
        "v1/models",
        "/v1/chat/completions/",
        "/v1/chat",
        "/v1/chat//completions",
        "/v1/audio",
        "/v1/audio/",
        "/v1/audio/speech/",
        "/v1/audio/other",
        "/v1/images",
        "/v1/images/other",
        "/health/",
        "/v1/health",
        "/v1/models\0",
        " /v1/models",
        "/v1/chat%2fcompletions",
        "/v1/responses/x",
        "/v1/completions;x",
        "/api",
        "/Api/nodes",
        "//api/nodes",
        "/assets",
        "/v1/audio/../models",
    ] {
        assert_eq!(
            route(&Method::GET, path),
            Err(RouteError::NotFound),
            "{path}"
        );
        assert_eq!(
            route(&Method::POST, path),
            Err(RouteError::NotFound),
            "{path}"
        );
    }
}

#[test]
fn a_model_id_is_all_the_rest_of_the_path_decoded() {
    for (raw, id) in [
        ("llama-3.2-1b", "llama-3.2-1b"),
        ("org/model:tag", "org/model:tag"),
        ("org%2Fmodel%3atag", "org/model:tag"),
        ("%E3%83%A2", "モ"),
        ("%2e%2e", ".."),
        ("../admin", "../admin"),
        ("/x", "/x"),
        ("a+b", "a+b"),
        ("a%252F", "a%2F"),
    ] {
        let path = format!("/v1/models/{raw}");
        assert_eq!(
            route(&Method::GET, &path).unwrap().model_id.as_deref(),
            Some(id)
        );
    }
}

#[test]
fn a_model_id_that_does_not_decode_is_not_found() {
    for raw in [
        "%",
        "a%2",
        "%zz",
        "%2g",
        "%+1",
        "%ff",
        "%c0%af",
        "%ed%a0%80",
        "a%",
    ] {
        let path = format!("/v1/models/{raw}");
        assert_eq!(
            route(&Method::GET, &path),
            Err(RouteError::NotFound),
            "{raw}"
        );
    }
}

#[test]
fn indexes_count_up_and_labels_differ() {
    for (index, endpoint) in Endpoint::ALL.into_iter().enumerate() {
        assert_eq!(endpoint.index(), index);
        let same_label = Endpoint::ALL
            .iter()
            .filter(|other| other.label() == endpoint.label());
        assert_eq!(same_label.count(), 1);
    }
}

#[test]
fn body_limits_follow_the_configured_one() {
    const MIB: usize = 1024 * 1024;
    for (endpoint, expected) in [
        (Endpoint::ChatCompletions, 32 * MIB),
        (Endpoint::Messages, 32 * MIB),
        (Endpoint::Embeddings, 16 * MIB),
        (Endpoint::Audio, 64 * MIB),
        (Endpoint::Images, 64 * MIB),
        (Endpoint::Api, 64 * 1024),
        (Endpoint::Models, 0),
        (Endpoint::Other, 0),
    ] {
        assert_eq!(endpoint.body_bytes_max(32 * MIB), expected, "{endpoint:?}");
    }
    assert_eq!(Endpoint::Audio.body_bytes_max(usize::MAX), usize::MAX);
}
