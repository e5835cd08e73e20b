//! Every route of the control API: method, path, the right it needs, its handler. Refusals come in the order
//! no such path, no such method, no right, wrong media type; only then does a handler look.

use crate::http1::Method;
use crate::openai::ApiError;
use crate::proxy::api::{ApiRequest, Guest, Known};

use super::rights::{self, Right};
use super::{Call, Context, Reply, auth, events, history, keys, load, nodes, openapi, reload};

/// Answers a request.
pub(super) type Handler = fn(&Context, &Call<'_>) -> Result<Reply, ApiError>;

/// One method of one path.
pub(super) struct Route {
    /// `HEAD` goes where `GET` goes.
    pub(super) method: Method,
    /// `{id}` stands for one segment that is not empty.
    pub(super) path: &'static str,
    /// Who may ask.
    pub(super) right: Right,
    handler: Handler,
}

#[rustfmt::skip]
pub(super) const ROUTES: &[Route] = &[
    route(Method::Post, "/api/auth/login", Right::Public, auth::login),
    route(Method::Post, "/api/auth/logout", Right::Admin, auth::logout),
    route(Method::Get, "/api/auth/me", Right::Admin, auth::me),
    route(Method::Get, "/api/events", Right::Admin, events::watch),
    route(Method::Get, "/api/history", Right::Admin, history::page),
    route(Method::Get, "/api/history/export", Right::Admin, history::export),
    route(Method::Get, "/api/history/facets", Right::Admin, history::facets),
    route(Method::Get, "/api/keys", Right::Admin, keys::list),
    route(Method::Post, "/api/keys", Right::Admin, keys::create),
    route(Method::Delete, "/api/keys/{id}", Right::Admin, keys::revoke),
    route(Method::Get, "/api/load-status", Right::Admin, load::status),
    route(Method::Get, "/api/openapi.json", Right::Public, openapi::document),
    route(Method::Get, "/api/queue/stats", Right::Admin, load::queue),
    route(Method::Post, "/api/reload", Right::Admin, reload::reload),
    route(Method::Get, "/api/nodes", Right::Admin, nodes::list),
    route(Method::Post, "/api/nodes", Right::Nodes, nodes::register),
    route(Method::Get, "/api/nodes/{id}", Right::Admin, nodes::get),
    route(Method::Put, "/api/nodes/{id}", Right::Admin, nodes::change),
    route(Method::Delete, "/api/nodes/{id}", Right::Admin, nodes::remove),
    route(Method::Post, "/api/nodes/{id}/drain", Right::Admin, nodes::drain),
    route(Method::Post, "/api/nodes/{id}/enable", Right::Admin, nodes::enable),
    route(Method::Post, "/api/nodes/{id}/heartbeat", Right::NodeToken, nodes::heartbeat),
];

const fn route(method: Method, path: &'static str, right: Right, handler: Handler) -> Route {
    Route {
        method,
        path,
        right,
        handler,
    }
}

/// Finds the route of a request and calls its handler.
///
/// # Errors
/// 401, 403, 404, 405, 415, and what the handler refuses.
pub(super) fn answer(context: &Context, request: ApiRequest) -> Result<Reply, ApiError> {
    let (route, id) = find(request.method, &request.path)?;
    let who = rights::check(context, route.right, request.method, &request.head)?;
    if !request.body.is_empty() && !is_json(request.head.content_type.as_deref()) {
        return Err(ApiError::unsupported_media_type());
    }
    let call = Call {
        request: &request,
        who,
        id,
    };
    (route.handler)(context, &call)
}

/// Refuses, on a worker, what needs neither a lock nor the database to be refused, as [`answer`] would: so that
/// whoever has no credential does not take the time of the threads, nor a place of those who have one.
///
/// # Errors
/// 401, 403, 404, 405.
pub(super) fn refuse_at_once(request: &ApiRequest, known: &Known<'_>) -> Result<Guest, ApiError> {
    let (route, id) = find(request.method, &request.path)?;
    let head = &request.head;
    match route.right {
        Right::NodeToken => rights::check_node_at_once(known.node_tokens, id, head),
        right => {
            rights::check_at_once(known.keys, right, head, known.unix_secs).map(|()| Guest::Anybody)
        }
    }
}

fn find(method: Method, path: &str) -> Result<(&'static Route, &str), ApiError> {
    let wanted = match method {
        Method::Head => Method::Get,
        other => other,
    };
    let mut allowed = Vec::new();
    for route in ROUTES {
        let Some(id) = matches(route.path, path) else {
            continue;
        };
        if route.method == wanted {
            return Ok((route, id));
        }
        allowed.push(route.method.as_str());
        if route.method == Method::Get {
            allowed.push(Method::Head.as_str());
        }
    }
    if allowed.is_empty() {
        Err(ApiError::not_found())
    } else {
        Err(ApiError::method_not_allowed(allowed.join(", ")))
    }
}

/// What stands for `{id}` in `path`, empty if the pattern has none; `None` if the path is another.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, behind)) = pattern.split_once("{id}") else {
        return (pattern == path).then_some("");
    };
    let id = path.strip_prefix(before)?.strip_suffix(behind)?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

/// `application/json`, with any parameters (RFC 9110 section 8.3.1).
fn is_json(content_type: Option<&[u8]>) -> bool {
    let Some(content_type) = content_type else {
        return false;
    };
    let media_type = content_type.split(|byte| *byte == b';').next();
    media_type.is_some_and(|media_type| {
        media_type
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/json")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_segment() {
        assert_eq!(matches("/api/nodes", "/api/nodes"), Some(""));
        assert_eq!(matches("/api/nodes/{id}", "/api/nodes/a-1"), Some("a-1"));
        let drain = "/api/nodes/{id}/drain";
        assert_eq!(
            matches(drain, "/api/nodes/config-a/drain"),
            Some("config-a")
        );
        for path in [
            "/api/nodes",
            "/api/nodes/",
            "/api/nodes/a/b",
            "/api/nodes//",
        ] {
            assert_eq!(matches("/api/nodes/{id}", path), None, "{path}");
        }
        for path in [
            "/api/nodes//drain",
            "/api/nodes/drain",
            "/api/nodes/a/drain/",
        ] {
            assert_eq!(matches(drain, path), None, "{path}");
        }
    }

    #[test]
    fn a_path_is_told_apart_from_a_method() {
        let refusal = |method, path| find(method, path).err().unwrap();
        assert!(find(Method::Head, "/api/load-status").is_ok());
        let refused = refusal(Method::Post, "/api/load-status");
        assert_eq!(refused.status.as_u16(), 405);
        assert_eq!(refused.allow.as_deref(), Some("GET, HEAD"));
        for path in [
            "/api/",
            "/api/load-status/",
            "/api/Load-status",
            "/api/load%2dstatus",
        ] {
            assert_eq!(refusal(Method::Get, path).status.as_u16(), 404, "{path}");
        }
    }

    #[test]
    fn no_route_is_there_twice() {
        for (index, route) in ROUTES.iter().enumerate() {
            let same = |other: &Route| other.method == route.method && other.path == route.path;
            assert!(!ROUTES[..index].iter().any(same), "{}", route.path);
        }
    }

    #[test]
    fn only_json_is_json() {
        assert!(is_json(Some(b"application/json")));
        assert!(is_json(Some(b"Application/JSON ; charset=utf-8")));
        for other in ["text/plain", "application/jsonp", "", "application/json5"] {
            assert!(!is_json(Some(other.as_bytes())), "{other}");
        }
        assert!(!is_json(None));
    }
}
