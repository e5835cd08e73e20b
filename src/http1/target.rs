//! The request target and the Host field (RFC 9112 section 3.2, RFC 9110 section 7.2).
//!
//! Owns their grammar. It must never normalise: `/v1/../x` and `//v1` are different paths that no
//! route matches.

use std::net::Ipv6Addr;

use super::grammar::{IPV_FUTURE, PATH_AND_QUERY, REG_NAME, is_percent_encoded, parse_decimal};
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
        if !is_valid_host(authority) {
            return Err(verdict::TARGET);
        }
        Self::from_path(path, Some(authority))
    }

    fn from_path(path_and_query: &'a str, authority: Option<&'a str>) -> Result<Self, Reject> {
        let bytes = path_and_query.as_bytes();
        if !is_percent_encoded(bytes, &PATH_AND_QUERY) {
            return Err(verdict::TARGET);
        }
        let mark = memchr::memchr(b'?', bytes).unwrap_or(bytes.len());
        let (path, rest) = path_and_query
            .split_at_checked(mark)
            .unwrap_or((path_and_query, ""));
        let query = rest.strip_prefix('?');
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
pub(super) fn is_valid_host(host_and_port: &str) -> bool {
    let (host, port) = match host_and_port.strip_prefix('[') {
        Some(literal) => match literal.split_once(']') {
            Some((address, port)) if is_valid_ip_literal(address) => (address, port),
            _ => return false,
        },
        None => match memchr::memchr(b':', host_and_port.as_bytes())
            .and_then(|at| host_and_port.split_at_checked(at))
        {
            Some(host_and_port) => host_and_port,
            None => (host_and_port, ""),
        },
    };
    let is_ip_literal = host_and_port.starts_with('[');
    if host.is_empty() || (!is_ip_literal && !is_valid_reg_name(host)) {
        return false;
    }
    match port.strip_prefix(':') {
        // RFC 3986 allows the empty port.
        Some("") => true,
        Some(digits) => parse_decimal(digits.as_bytes()).is_some_and(|port| port <= 65_535),
        None => port.is_empty(),
    }
}

fn is_valid_reg_name(host: &str) -> bool {
    is_percent_encoded(host.as_bytes(), &REG_NAME)
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
