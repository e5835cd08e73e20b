//! Error bodies as the seeds and the contract (section 7) spell them.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Value, json};

use super::ApiError;
use crate::openai::{PeekError, RouteError};

fn body(error: &ApiError) -> String {
    let mut out = Vec::new();
    error.write_body(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn bodies_are_those_of_the_seeds() {
    let cases = [
        (
            ApiError::overloaded(5),
            503,
            "Service overloaded. Please retry later.",
            "service_unavailable",
            "queue_full",
        ),
        (
            ApiError::timeout(Duration::from_secs(60)),
            504,
            "Request timeout after 60 seconds",
            "gateway_timeout",
            "timeout",
        ),
        (
            ApiError::no_nodes(),
            503,
            "No available nodes",
            "service_unavailable",
            "no_nodes",
        ),
        (
            ApiError::invalid_api_key(),
            401,
            "Invalid API key",
            "authentication_error",
            "invalid_api_key",
        ),
        (
            ApiError::model_not_found("m"),
            404,
            "The model `m` does not exist",
            "invalid_request_error",
            "model_not_found",
        ),
    ];
    for (error, status, message, kind, code) in cases {
        assert_eq!(error.status.as_u16(), status);
        assert_eq!(
            body(&error),
            format!(r#"{{"error":{{"message":"{message}","type":"{kind}","code":"{code}"}}}}"#)
        );
    }
}

#[test]
fn every_constructor_has_the_status_type_and_code_of_the_contract() {
    let rows = [
        (
            ApiError::loop_detected(),
            508,
            "loop_detected",
            "loop_detected",
        ),
        (
            ApiError::not_found(),
            404,
            "invalid_request_error",
            "not_found",
        ),
        (
            ApiError::method_not_allowed("GET"),
            405,
            "invalid_request_error",
            "method_not_allowed",
        ),
        (
            ApiError::request_timeout(),
            408,
            "invalid_request_error",
            "request_timeout",
        ),
        (
            ApiError::length_required(),
            411,
            "invalid_request_error",
            "length_required",
        ),
        (
            ApiError::payload_too_large(1),
            413,
            "invalid_request_error",
            "payload_too_large",
        ),
        (
            ApiError::unsupported_media_type(),
            415,
            "invalid_request_error",
            "unsupported_media_type",
        ),
        (
            ApiError::node_unreachable(),
            502,
            "bad_gateway",
            "node_unreachable",
        ),
        (
            ApiError::bad_node_response(),
            502,
            "bad_gateway",
            "bad_node_response",
        ),
        (ApiError::draining(), 503, "service_unavailable", "draining"),
    ];
    for (error, status, kind, code) in rows {
        assert_eq!(
            (error.status.as_u16(), error.kind, error.code),
            (status, kind, code)
        );
        let read: Value = serde_json::from_str(&body(&error)).unwrap();
        let expected = json!({"error": {"message": error.message, "type": kind, "code": code}});
        assert_eq!(read, expected);
    }
}

#[test]
fn retry_after_is_at_least_one_second() {
    assert_eq!(ApiError::overloaded(0).retry_after_secs, Some(1));
    assert_eq!(ApiError::overloaded(7).retry_after_secs, Some(7));
    assert_eq!(ApiError::no_nodes().retry_after_secs, None);
}

#[test]
fn durations_are_spoken_as_configured() {
    let message = |millis| ApiError::timeout(Duration::from_millis(millis)).message;
    assert_eq!(message(1000), "Request timeout after 1 second");
    assert_eq!(message(500), "Request timeout after 0.5 seconds");
    assert_eq!(message(2000), "Request timeout after 2 seconds");
}

#[test]
fn a_hostile_model_name_is_made_visible_and_cut() {
    let name = "a\"b\\\r\n\u{1b}[31m\u{202e}\u{2028}";
    let error = ApiError::model_not_found(name);
    let expected = "The model `a\"b\\\\u{d}\\u{a}\\u{1b}[31m\\u{202e}\\u{2028}` does not exist";
    assert_eq!(error.message, expected);
    let read: Value = serde_json::from_str(&body(&error)).unwrap();
    assert_eq!(read["error"]["message"], expected);

    let long = ApiError::model_not_found(&"é".repeat(10_000));
    assert_eq!(
        long.message,
        format!("The model `{}…` does not exist", "é".repeat(256))
    );
    let exact = ApiError::model_not_found(&"é".repeat(256));
    assert_eq!(
        exact.message,
        format!("The model `{}` does not exist", "é".repeat(256))
    );
}

#[test]
fn route_and_body_errors_become_answers() {
    let refused = ApiError::from(RouteError::MethodNotAllowed { allow: "POST" });
    assert_eq!(
        (refused.status.as_u16(), refused.allow.as_deref()),
        (405, Some("POST"))
    );
    assert_eq!(ApiError::from(RouteError::NotFound), ApiError::not_found());
    let missing = ApiError::from(PeekError::MissingModel);
    assert_eq!(
        (missing.status.as_u16(), missing.code),
        (400, "missing_model")
    );
    assert!(matches!(missing.message, Cow::Borrowed(_)));
    let errors = [
        (
            PeekError::InvalidJson { reason: "x", at: 1 },
            "invalid_json",
        ),
        (
            PeekError::InvalidMultipart { reason: "x" },
            "invalid_multipart",
        ),
        (PeekError::DuplicateModel, "duplicate_model"),
        (PeekError::DuplicateStream, "duplicate_stream"),
        (PeekError::InvalidModel, "invalid_model"),
        (PeekError::ModelTooLong, "invalid_model"),
        (PeekError::InvalidStream, "invalid_stream"),
    ];
    for (error, code) in errors {
        assert_eq!(ApiError::from(error).code, code);
        assert_eq!(ApiError::from(error).kind, "invalid_request_error");
    }
}
