//! The request target and the Host field (RFC 9112 section 3.2, RFC 9110 section 7.2).
//!
//! Owns their grammar. It must never normalise: `/v1/../x` and `//v1` are different paths that no
//! route matches.

use std::net::Ipv6Addr;

use super::grammar::{IPV_FUTURE, PATH_AND_QUERY, REG_NAME, parse_decimal};
use super::request::Method;
use super::verdict::{self, Reject};

/// A request target, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// Begins with `/`, or is `*` for `OPTIONS *`.
    pub(super) path: &'a str,
    /// What follows the first `?`.
    pub(super) query: Option<&'a str>,
    /// The authority of an absolute-form target.
    pub(super) authority: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads origin-form, absolute-form with `http` or `https`, and `*` for OPTIONS.
    pub(super) fn parse(method: Method, target: &'a str) -> Result<Self, Reject> {
        if target.starts_with('/') {
            return Self::from_path(target, None);
        }
        if target == "*" && method == Method::Options {
            return Ok(Self {
                path: "*",
                query: None,
                authority: None,
            });
        }
        let (scheme, rest) = target.split_once("://").ok_or(verdict::TARGET)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(verdict::TARGET);
        }
        let path_start = memchr::memchr2(b'/', b'?', rest.as_bytes()).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(path_start).ok_or(verdict::TARGET)?;
        if !is_valid_host(authority.as_bytes()) {
            return Err(verdict::TARGET);
        }
        Self::from_path(path, Some(authority))
    }

    fn from_path(path_and_query: &'a str, authority: Option<&'a str>) -> Result<Self, Reject> {
        let bytes = path_and_query.as_bytes();
        let marks = PATH_AND_QUERY.marks(bytes);
        if !marks.are_percent_encoded(bytes) {
            return Err(verdict::TARGET);
        }
        let (path, query) = if marks.has_question() {
            path_and_query
                .split_once('?')
                .map_or((path_and_query, None), |(path, query)| (path, Some(query)))
        } else {
            (path_and_query, None)
        };
        // Only an absolute-form target can lack a path; it then means "/" (RFC 9112 3.2.1).
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            path,
            query,
            authority,
        })
    }
}

/// `uri-host [ ":" port ]` (RFC 9110 section 7.2) with a host that is not empty, which http URIs
/// require (section 4.2.1), and a port that exists.
pub(super) fn is_valid_host(host_and_port: &[u8]) -> bool {
    let port = if let [b'[', literal @ ..] = host_and_port {
        let Some((address, port)) = split_at_byte(literal, b']') else {
            return false;
        };
        // What is not ASCII is no address.
        if !std::str::from_utf8(address).is_ok_and(is_valid_ip_literal) {
            return false;
        }
        match port {
            [b']', port @ ..] => port,
            _ => return false,
        }
    } else {
        let (host, port) = split_at_byte(host_and_port, b':').unwrap_or((host_and_port, b""));
        if host.is_empty() || !REG_NAME.marks(host).are_percent_encoded(host) {
            return false;
        }
        port
    };
    match port {
        // RFC 3986 allows the empty port.
        [] | [b':'] => true,
        [b':', digits @ ..] => parse_decimal(digits).is_some_and(|port| port <= 65_535),
        _ => false,
    }
}

/// What stands before the first `byte`, and the rest with it. Hosts are too short for a vectorised search
/// to pay.
fn split_at_byte(bytes: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|found| *found == byte)?;
    bytes.split_at_checked(at)
}

/// `IPv6address / IPvFuture` (RFC 3986 section 3.2.2); zone identifiers are not part of it.
fn is_valid_ip_literal(address: &str) -> bool {
    match address.strip_prefix(['v', 'V']) {
        None => address.parse::<Ipv6Addr>().is_ok(),
        Some(future) => future.split_once('.').is_some_and(|(version, rest)| {
            !version.is_empty()
                && version.bytes().all(|byte| byte.is_ascii_hexdigit())
                && !rest.is_empty()
                && IPV_FUTURE.contains_all(rest.as_bytes())
        }),
    }
}
