//! One request as its handler sees it, and reading its body.

use serde::de::DeserializeOwned;
use simd_json::ErrorType;

use crate::openai::ApiError;
use crate::proxy::api::ApiRequest;

use super::query::Query;
use super::rights::Who;

/// A request whose route and rights have been checked.
pub(super) struct Call<'c> {
    /// As it came.
    pub(super) request: &'c ApiRequest,
    /// Who asks.
    pub(super) who: Who,
    /// What stands for `{id}` in the path; empty if there is none.
    pub(super) id: &'c str,
}

impl Call<'_> {
    /// The body as a `T`, which denies unknown fields.
    ///
    /// # Errors
    /// 400, naming the field and the rule it breaks but never its value.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        read_json(&self.request.body)
    }

    /// The parameters behind the `?`.
    ///
    /// # Errors
    /// 400 for what does not decode, and for a name given twice.
    pub(super) fn query(&self) -> Result<Query, ApiError> {
        Query::parse(self.request.query.as_deref().unwrap_or_default())
    }
}

fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // A list would be read as the fields of a struct in order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::invalid_body(
            "The body must be a JSON object".into(),
        ));
    }
    // The parser writes into what it reads.
    let mut copy = zeroize::Zeroizing::new(body.to_vec());
    let mut document = simd_json::Deserializer::from_slice(&mut copy)
        .map_err(|_| ApiError::invalid_body("The body is not valid JSON".into()))?;
    serde_path_to_error::deserialize(&mut document)
        .map_err(|error| invalid_field(&error.path().to_string(), error.inner().error()))
}

/// What is wrong with a field. The words of the libraries name the value that was sent, which may be a
/// secret in the wrong place: only what was expected is told.
fn invalid_field(path: &str, error: &ErrorType) -> ApiError {
    let rule = match error {
        ErrorType::Serde(words) => return of_words(path, words),
        ErrorType::ExpectedString => "must be a string",
        ErrorType::ExpectedBoolean => "must be true or false",
        ErrorType::ExpectedArray => "must be a list",
        ErrorType::ExpectedMap => "must be an object",
        ErrorType::ExpectedUnsigned => "must be a whole number of at least 0",
        ErrorType::ExpectedInteger | ErrorType::ExpectedSigned => "must be a whole number",
        ErrorType::ExpectedNumber | ErrorType::ExpectedFloat => "must be a number",
        _ => "has the wrong type",
    };
    ApiError::invalid_field(path, rule)
}

fn of_words(path: &str, words: &str) -> ApiError {
    let quoted = words.split('`').nth(1).unwrap_or_default();
    if words.starts_with("missing field") {
        ApiError::invalid_field(quoted, "is missing")
    } else if words.starts_with("duplicate field") {
        ApiError::invalid_field(quoted, "is there twice")
    } else if words.starts_with("unknown field") {
        ApiError::unknown_field(quoted)
    } else if let Some((_, expected)) = words.rsplit_once(", expected ") {
        ApiError::invalid_field(path, &format!("is not valid: expected {expected}"))
    } else {
        ApiError::invalid_field(path, "is not valid")
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Body {
        name: String,
        #[serde(default)]
        count: u32,
        #[serde(default)]
        scopes: Vec<Kind>,
        inner: Option<Inner>,
    }

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        ready: bool,
    }

    #[derive(Deserialize, Debug)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Good,
    }

    fn refusal(body: &str) -> (String, String) {
        let error = read_json::<Body>(body.as_bytes()).unwrap_err();
        assert_eq!(error.status.as_u16(), 400);
        (error.code.to_owned(), error.message.into_owned())
    }

    #[test]
    fn a_whole_body_is_read() {
        let body = br#" {"name":"a","count":3,"scopes":["good"],"inner":{"ready":true}}"#;
        let body: Body = read_json(body).unwrap();
        assert_eq!((body.name.as_str(), body.count), ("a", 3));
        assert!(matches!(body.scopes[..], [Kind::Good]));
        assert!(body.inner.unwrap().ready);
    }

    #[test]
    fn what_is_not_json_is_told_apart_from_a_wrong_field() {
        for body in [
            "",
            " ",
            "[]",
            "null",
            "\"x\"",
            "{",
            "{\"name\":}",
            "{\"name\":\"a\"} x",
        ] {
            assert_eq!(refusal(body).0, "invalid_json", "{body}");
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (body, words) in [
            (r#"{}"#, "`name` is missing"),
            (r#"{"name":5}"#, "`name` must be a string"),
            (r#"{"name":null}"#, "`name` must be a string"),
            (
                r#"{"name":"a","nmae":1}"#,
                "`nmae` is not a field of this request",
            ),
            (r#"{"name":"a","name":"b"}"#, "`name` is there twice"),
            (r#"{"name":"a","scopes":"good"}"#, "`scopes` must be a list"),
            (
                r#"{"name":"a","inner":{"ready":1}}"#,
                "`inner.ready` must be true or false",
            ),
        ] {
            assert_eq!(
                refusal(body),
                ("invalid_field".to_owned(), words.to_owned())
            );
        }
        for (body, field) in [
            (r#"{"name":"a","count":-1}"#, "`count`"),
            (r#"{"name":"a","count":4294967296}"#, "`count`"),
            (r#"{"name":"a","count":1.5}"#, "`count`"),
            (r#"{"name":"a","count":"1"}"#, "`count`"),
            (r#"{"name":"a","scopes":["good","bad"]}"#, "`scopes[1]`"),
        ] {
            let (code, message) = refusal(body);
            assert_eq!(code, "invalid_field");
            assert!(message.starts_with(field), "{body}: {message}");
        }
    }

    #[test]
    fn no_value_is_ever_repeated() {
        for body in [
            r#"{"name":"a","count":"hunter2"}"#,
            r#"{"name":"a","scopes":["hunter2"]}"#,
            r#"{"name":"a","inner":"hunter2"}"#,
            r#"{"name":"a","scopes":"hunter2"}"#,
            r#"{"name":{"hunter2":1}}"#,
        ] {
            let (_, message) = refusal(body);
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_field_name_from_a_client_is_made_harmless() {
        let body = format!(r#"{{"name":"a","{}\u001b[2J":1}}"#, "x".repeat(1000));
        let (_, message) = refusal(&body);
        assert!(
            message.len() < 400 && !message.contains('\u{1b}'),
            "{message}"
        );
    }
}
