//! Who asks, and whether they may.

use std::net::IpAddr;

use crate::auth::Scope;
use crate::auth::key::{KeyIdentity, KeySet, authenticate};
use crate::config::is_loopback;
use crate::control::nodes::NodeRef;
use crate::http1::Method;
use crate::openai::ApiError;
use crate::proxy::api::{ApiHead, ApiRequest, Credentials, Guest, NodeTokens};
use crate::runtime::clock;

use super::Context;
use super::auth::{COOKIE, is_session_token};

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// Nothing.
    Public,
    /// Whoever may administer the router.
    Admin,
    /// The same, or an API key for registering nodes.
    Nodes,
    /// The token of the node in the path: workers look at it first, its handler checks it.
    NodeToken,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// Nobody was asked for.
    Anybody,
    /// Someone who has logged in.
    Session {
        /// Under this name.
        user: String,
        /// Unix seconds until which the login is valid.
        expires_at: u64,
    },
    /// The owner of an API key.
    Key(KeyIdentity),
}

/// The credential a request stands on: what it says itself comes before the cookie a browser adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presented<'c> {
    /// None, or several that contradict one another.
    Nothing,
    /// An API key.
    Key,
    /// The token of a session.
    Session {
        /// It.
        token: &'c [u8],
        /// A browser has added it, whoever made it ask.
        is_cookie: bool,
    },
}

/// Whether a request has the right it needs.
///
/// # Errors
/// 401 without a valid credential, always the same; 403 where the credential is not for this, and where a
/// page of another origin may be behind it.
pub(super) fn check(
    context: &Context,
    right: Right,
    method: Method,
    head: &ApiHead,
) -> Result<Who, ApiError> {
    let Some(scopes) = right.scopes() else {
        return Ok(Who::Anybody);
    };
    match Presented::of(&head.credentials) {
        Presented::Nothing => Err(ApiError::not_authenticated()),
        Presented::Key => {
            let keys = context.shared.keys.load();
            of_key(&keys, &head.credentials, scopes, clock::unix_secs()).map(Who::Key)
        }
        Presented::Session { token, is_cookie } => {
            let who = of_session(context, token)?;
            let is_safe = matches!(method, Method::Get | Method::Head);
            if is_cookie && !is_safe && !is_asked_by_our_page(head) {
                return Err(ApiError::csrf());
            }
            Ok(who)
        }
    }
}

/// What [`check`] can tell from the valid keys alone: a session passes here.
///
/// # Errors
/// As [`check`].
pub(super) fn check_at_once(
    keys: &KeySet,
    right: Right,
    head: &ApiHead,
    unix_secs: u64,
) -> Result<(), ApiError> {
    let Some(scopes) = right.scopes() else {
        return Ok(());
    };
    match Presented::of(&head.credentials) {
        Presented::Nothing => Err(ApiError::not_authenticated()),
        Presented::Key => of_key(keys, &head.credentials, scopes, unix_secs).map(drop),
        Presented::Session { .. } => Ok(()),
    }
}

/// Whether the node with this id reports itself. As long as there may be nodes that are not known yet, it can be
/// anybody.
///
/// # Errors
/// 401, always the same.
pub(super) fn check_node_at_once(
    tokens: &NodeTokens,
    id: &str,
    head: &ApiHead,
) -> Result<Guest, ApiError> {
    let token = head.credentials.x_node_token.as_ref();
    let token = token.ok_or_else(ApiError::not_authenticated)?;
    let Some(NodeRef::Registered(id)) = NodeRef::parse(id) else {
        return Err(ApiError::not_authenticated());
    };
    match tokens.is_of(id, token) {
        Some(true) => Ok(Guest::Node),
        Some(false) => Err(ApiError::not_authenticated()),
        None => Ok(Guest::Anybody),
    }
}

impl Who {
    /// Whether everything is open to whoever asks.
    pub(super) fn is_admin(&self) -> bool {
        match self {
            Self::Anybody => false,
            Self::Session { .. } => true,
            Self::Key(identity) => identity.scopes.contains(Scope::Admin),
        }
    }
}

impl Right {
    /// What an API key must be for, one of these; none where no login and no key is asked for.
    fn scopes(self) -> Option<&'static [Scope]> {
        match self {
            Self::Public | Self::NodeToken => None,
            Self::Admin => Some(&[Scope::Admin]),
            Self::Nodes => Some(&[Scope::Nodes, Scope::Admin]),
        }
    }
}

fn of_session(context: &Context, token: &[u8]) -> Result<Who, ApiError> {
    let config = context.shared.config.current();
    let auth = &config.auth;
    let sessions = &context.logins.sessions;
    sessions.follow(auth);
    let session = sessions.find(token, auth, clock::unix_secs())?;
    let session = session.ok_or_else(ApiError::not_authenticated)?;
    Ok(Who::Session {
        user: session.user,
        expires_at: session.expires_at,
    })
}

fn of_key(
    keys: &KeySet,
    credentials: &Credentials,
    scopes: &[Scope],
    unix_secs: u64,
) -> Result<KeyIdentity, ApiError> {
    let authorization = credentials.authorization.as_ref();
    let x_api_key = credentials.x_api_key.as_ref();
    let identity = authenticate(
        keys,
        authorization.map(|value| value.as_slice()),
        x_api_key.map(|value| value.as_slice()),
        unix_secs,
    )
    .map_err(|_| ApiError::not_authenticated())?;
    if scopes.iter().any(|scope| identity.scopes.contains(*scope)) {
        Ok(identity)
    } else {
        Err(ApiError::insufficient_scope())
    }
}

impl<'c> Presented<'c> {
    pub(super) fn of(credentials: &'c Credentials) -> Self {
        let bearer = credentials
            .authorization
            .as_ref()
            .map(|value| bearer(value));
        match (bearer, &credentials.x_api_key) {
            (Some(Some(token)), None) if is_session_token(token) => Self::Session {
                token,
                is_cookie: false,
            },
            (Some(_), _) | (None, Some(_)) => Self::Key,
            (None, None) => match credentials.cookie.as_ref().and_then(|line| cookie(line)) {
                Some(token) => Self::Session {
                    token,
                    is_cookie: true,
                },
                None => Self::Nothing,
            },
        }
    }
}

/// What follows `Bearer`, in any case (RFC 9110 section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(BEARER.len())?;
    scheme
        .eq_ignore_ascii_case(BEARER)
        .then(|| token.trim_ascii())
}

/// The session cookie of a `Cookie` field; none if it is there twice.
fn cookie(line: &[u8]) -> Option<&[u8]> {
    let mut ours = line.split(|byte| *byte == b';').filter_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(COOKIE.as_bytes())?;
        value.strip_prefix(b"=")
    });
    let token = ours.next()?;
    ours.next().is_none().then_some(token)
}

/// Whether a page of ours made the browser ask: a page of another origin cannot set this field.
fn is_asked_by_our_page(head: &ApiHead) -> bool {
    head.x_requested_with.as_deref() == Some(b"llm-router") && is_own_origin(head)
}

/// Whether a request comes from no page at all, or from one that we have served.
pub(super) fn is_own_origin(head: &ApiHead) -> bool {
    let Some(origin) = head.origin.as_deref() else {
        return true;
    };
    let authority = (origin.strip_prefix(b"http://")).or_else(|| origin.strip_prefix(b"https://"));
    match (authority, head.host.as_deref()) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
        _ => false,
    }
}

/// Whether somebody at this machine asks. A loopback peer alone does not say so: a proxy on this machine
/// passes on what comes from elsewhere, and a page of anywhere may have its name resolve to loopback; but then
/// the browser sends that name.
pub(super) fn is_of_this_machine(request: &ApiRequest) -> bool {
    let head = &request.head;
    is_loopback(request.peer)
        && !head.is_relayed
        && head.host.as_deref().is_some_and(names_loopback)
}

/// Whether a `Host` is `localhost` or a loopback address, at any port.
fn names_loopback(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let end = match host.starts_with('[') {
        true => host.find(']').map_or(0, |end| end + 1),
        false => host.find(':').unwrap_or(host.len()),
    };
    let (name, port) = host.split_at_checked(end).unwrap_or_default();
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let address = name.trim_start_matches('[').trim_end_matches(']');
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        && (name.eq_ignore_ascii_case("localhost")
            || address.parse::<IpAddr>().is_ok_and(is_loopback))
}

const BEARER: &[u8] = b"Bearer ";

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn credentials(
        authorization: Option<&str>,
        key: Option<&str>,
        line: Option<&str>,
    ) -> Credentials {
        let secret = |text: Option<&str>| text.map(|text| Zeroizing::new(text.as_bytes().to_vec()));
        Credentials {
            authorization: secret(authorization),
            x_api_key: secret(key),
            cookie: secret(line),
            x_node_token: None,
        }
    }

    #[test]
    fn what_a_request_says_itself_comes_before_its_cookie() {
        let session = |token: &'static str, is_cookie| Presented::Session {
            token: token.as_bytes(),
            is_cookie,
        };
        let line = Some("a=b; llm_router_session=st-1;c=d");
        for (authorization, key, line, expected) in [
            (None, None, None, Presented::Nothing),
            (None, None, line, session("st-1", true)),
            (Some("bearer  st-2"), None, line, session("st-2", false)),
            (Some("Bearer sk-1"), None, line, Presented::Key),
            (Some("Basic x"), None, line, Presented::Key),
            (None, Some("sk-1"), line, Presented::Key),
            (Some("Bearer st-2"), Some("sk-1"), None, Presented::Key),
            (None, None, Some("llm_router_session"), Presented::Nothing),
            (
                None,
                None,
                Some("xllm_router_session=st-1"),
                Presented::Nothing,
            ),
            (
                None,
                None,
                Some("llm_router_session=st-1; llm_router_session=st-2"),
                Presented::Nothing,
            ),
        ] {
            let credentials = credentials(authorization, key, line);
            assert_eq!(
                Presented::of(&credentials),
                expected,
                "{authorization:?} {key:?} {line:?}"
            );
        }
    }

    #[test]
    fn only_our_own_pages_are_our_origin() {
        let head = |origin: Option<&str>| ApiHead {
            origin: origin.map(|origin| origin.as_bytes().into()),
            host: Some(b"router.example:8080".as_slice().into()),
            ..ApiHead::default()
        };
        for origin in [
            None,
            Some("http://router.example:8080"),
            Some("https://Router.example:8080"),
        ] {
            assert!(is_own_origin(&head(origin)), "{origin:?}");
        }
        for origin in [
            "null",
            "",
            "http://router.example",
            "http://evil.example",
            "http://router.example:8080.evil.example",
            "router.example:8080",
        ] {
            assert!(!is_own_origin(&head(Some(origin))), "{origin}");
        }
    }

    #[test]
    fn only_names_of_loopback_are_this_machine() {
        for host in [
            "localhost",
            "LocalHost:8080",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(names_loopback(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            "router",
            "router.example:8080",
            "localhost.evil.example",
            "evil.example.localhost",
            "127.0.0.1.evil.example",
            "127.1",
            "10.0.0.1:8080",
            "[2001:db8::1]:80",
            "[::1",
            "[::1].evil.example",
            "localhost:80:evil.example",
        ] {
            assert!(!names_loopback(host.as_bytes()), "{host}");
        }
    }
}
