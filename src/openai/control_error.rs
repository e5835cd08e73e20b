//! The errors of the control API, in the same shape as all others. A message names fields and rules, never
//! a value that was sent: it may be a secret in the wrong place.

use std::borrow::Cow;

use http::StatusCode;

use super::error::{ApiError, INVALID_REQUEST, push_shown};

impl ApiError {
    /// 400: the body is not JSON, or there is none.
    pub const fn invalid_body(message: Cow<'static, str>) -> Self {
        Self::bad_request("invalid_json", message)
    }

    /// 400: a field of the body or the query breaks a rule. `field` may come from a client.
    pub fn invalid_field(field: &str, rule: &str) -> Self {
        let mut message = String::from("`");
        push_shown(&mut message, field);
        message.push_str("` ");
        message.push_str(rule);
        Self::bad_request("invalid_field", message.into())
    }

    /// 400: a field of the body or the query that does not exist.
    pub fn unknown_field(field: &str) -> Self {
        Self::invalid_field(field, "is not a field of this request")
    }

    /// 401, the same for every credential that is not, or no longer, valid, and for none.
    pub const fn not_authenticated() -> Self {
        Self::fixed(
            StatusCode::UNAUTHORIZED,
            AUTHENTICATION_ERROR,
            "not_authenticated",
            "This needs a valid session, API key or node token",
        )
    }

    /// 401: the name or the password is wrong; which one is not told.
    pub const fn invalid_credentials() -> Self {
        Self::fixed(
            StatusCode::UNAUTHORIZED,
            AUTHENTICATION_ERROR,
            "invalid_credentials",
            "Wrong username or password",
        )
    }

    /// 403: the credential is valid, but not for this.
    pub const fn insufficient_scope() -> Self {
        Self::forbidden(
            "insufficient_scope",
            "This API key does not have the scope that is needed here",
        )
    }

    /// 403: a browser may have been made to ask by a page that is not ours.
    pub const fn csrf() -> Self {
        Self::forbidden(
            "csrf",
            "A change with a session cookie needs the field X-Requested-With: llm-router and no foreign \
             Origin",
        )
    }

    /// 403: everybody knows the default password.
    pub const fn default_password() -> Self {
        Self::forbidden(
            "default_password",
            "The default password works from this machine only; set auth.admin_password",
        )
    }

    /// 403 for `code`.
    pub const fn forbidden(code: &'static str, message: &'static str) -> Self {
        Self::fixed(StatusCode::FORBIDDEN, "permission_error", code, message)
    }

    /// 404: no such node, key or record.
    pub const fn no_such(code: &'static str, message: &'static str) -> Self {
        Self::fixed(StatusCode::NOT_FOUND, INVALID_REQUEST, code, message)
    }

    /// 409: what is there stands in the way.
    pub const fn conflict(code: &'static str, message: &'static str) -> Self {
        Self::fixed(StatusCode::CONFLICT, INVALID_REQUEST, code, message)
    }

    /// 422: the configuration cannot be used, for these reasons; nothing has changed.
    pub fn invalid_configuration(problems: Vec<String>) -> Self {
        let mut error = Self::fixed(
            StatusCode::UNPROCESSABLE_ENTITY,
            INVALID_REQUEST,
            "invalid_configuration",
            "The configuration is not valid; nothing has changed",
        );
        error.problems = Some(problems.into());
        error
    }

    /// 429: too many wrong passwords from this address.
    pub fn too_many_attempts(retry_after_secs: u32) -> Self {
        Self::fixed(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_attempts",
            "too_many_attempts",
            "Too many failed logins. Please retry later.",
        )
        .retry_after(retry_after_secs)
    }

    /// 500: a bug of ours.
    pub const fn internal() -> Self {
        Self::fixed(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            "internal_error",
            "The router could not answer because of an internal error",
        )
    }

    /// 503: the threads behind the control API have more to do than they can.
    pub fn control_busy() -> Self {
        Self::unavailable("control_busy", "The control API is busy. Please retry.").retry_after(1)
    }

    /// 503: as many watch the live events as may.
    pub fn too_many_viewers() -> Self {
        Self::unavailable(
            "too_many_viewers",
            "Too many clients watch the live events. Please retry later.",
        )
        .retry_after(5)
    }

    /// 503: the data directory or the database does not answer, or not in time.
    pub fn store_unavailable() -> Self {
        Self::unavailable(
            "store_unavailable",
            "The data cannot be read or written now. Please retry later.",
        )
        .retry_after(5)
    }
}

const AUTHENTICATION_ERROR: &str = "authentication_error";
