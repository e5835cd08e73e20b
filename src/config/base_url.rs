//! The address of a node, parsed once into parts that cannot be ambiguous.
//!
//! Everything that could make two readers of one URL disagree about the host is rejected here
//! (reliability B10). This file must never resolve a name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A node's address.
///
/// Invariant: `authority` is the canonical `Host` text of `host` and `port`, and `path_prefix` is
/// empty or starts with `/`, ends without one and contains neither `.` nor `..` segments.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    host: Host,
    port: u16,
    path_prefix: String,
    authority: String,
}

/// The host part of a [`BaseUrl`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A lower-case DNS name that has to be resolved, off the workers.
    Name(String),
    /// An address literal.
    Ip(IpAddr),
}

/// Why a text is not a usable node address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseUrlError {
    /// Longer than [`BASE_URL_BYTES_MAX`].
    TooLong,
    /// Does not start with `http://`.
    Scheme,
    /// `https://`, which this version does not speak to nodes.
    Https,
    /// Contains `user:password@`.
    UserInfo,
    /// Contains `?`.
    Query,
    /// Contains `#`.
    Fragment,
    /// Nothing between the scheme and the port or path.
    EmptyHost,
    /// Not a DNS name: labels of 1–63 letters, digits, `-` and `_`, at most 253 in all.
    HostName,
    /// Digits that are not a canonical dotted IPv4 address.
    NumericHost,
    /// Brackets without a valid IPv6 address, or an IPv6 address without brackets.
    Ipv6,
    /// An IPv6 address with a zone.
    Zone,
    /// Not a decimal number from 1 to 65535 without leading zero.
    Port,
    /// A path with characters, empty or dot segments that servers read differently.
    Path,
    /// An address that no node can have, with its kind.
    Forbidden(&'static str),
}

impl BaseUrl {
    /// Parses `http://HOST[:PORT][/PREFIX][/v1][/]`; the port defaults to 80.
    ///
    /// A trailing `/v1` is dropped, because request targets bring it: `http://h:8000` and
    /// `http://h:8000/v1` are the same node.
    ///
    /// # Errors
    /// The first rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        if text.len() > BASE_URL_BYTES_MAX {
            return Err(BaseUrlError::TooLong);
        }
        let rest = strip_scheme(text)?;
        if rest.contains('?') {
            return Err(BaseUrlError::Query);
        }
        if rest.contains('#') {
            return Err(BaseUrlError::Fragment);
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(BaseUrlError::UserInfo);
        }
        let (host_text, port_text) = split_port(authority)?;
        let host = Host::parse(host_text)?;
        let port = port_text.map_or(Ok(80), parse_port)?;
        let path_prefix = parse_prefix(path)?;
        let authority = match port {
            80 => host.to_string(),
            _ => format!("{host}:{port}"),
        };
        Ok(Self {
            host,
            port,
            path_prefix,
            authority,
        })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, 1–65535.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `""` or `"/base"`: what stands before `/v1` in an upstream target.
    #[must_use]
    pub fn path_prefix(&self) -> &str {
        &self.path_prefix
    }

    /// The value of the `Host` field (RFC 9110 section 7.2); a port of 80 is left out.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path_prefix)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({self})")
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, BaseUrlError> {
        if text.is_empty() {
            return Err(BaseUrlError::EmptyHost);
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(BaseUrlError::Ipv6)?;
            if inner.contains('%') {
                return Err(BaseUrlError::Zone);
            }
            let ip: Ipv6Addr = inner.parse().map_err(|_| BaseUrlError::Ipv6)?;
            return Self::checked_ip(IpAddr::V6(ip));
        }
        if looks_numeric(text) {
            // The standard parser takes exactly four decimal parts without leading zeros.
            let ip: Ipv4Addr = text.parse().map_err(|_| BaseUrlError::NumericHost)?;
            return Self::checked_ip(IpAddr::V4(ip));
        }
        if !is_dns_name(text) {
            return Err(BaseUrlError::HostName);
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }

    fn checked_ip(ip: IpAddr) -> Result<Self, BaseUrlError> {
        match forbidden_address(ip) {
            Some(kind) => Err(BaseUrlError::Forbidden(kind)),
            None => Ok(Self::Ip(ip)),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

impl fmt::Display for BaseUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "must be at most 1024 bytes long",
            Self::Scheme => "must look like http://HOST:PORT or http://HOST:PORT/v1",
            Self::Https => "https nodes are not supported yet; use http://",
            Self::UserInfo => {
                "must not contain a user name or password; use api_key for credentials"
            }
            Self::Query => "must not contain a query (?)",
            Self::Fragment => "must not contain a fragment (#)",
            Self::EmptyHost => "has no host",
            Self::HostName => {
                "has an invalid host name; labels of 1-63 letters, digits, - and _, 253 in all"
            }
            Self::NumericHost => {
                "has a number as host that is not a plain IPv4 address such as 192.168.1.20"
            }
            Self::Ipv6 => "has an invalid IPv6 address; write it in brackets: http://[::1]:8000",
            Self::Zone => "must not contain an IPv6 zone (%)",
            Self::Port => "has an invalid port; a whole number from 1 to 65535",
            Self::Path => {
                "has an invalid path; segments of letters, digits, -, ., _ and ~, no . or .."
            }
            Self::Forbidden(kind) => return write!(f, "points at {kind}, which no node can be"),
        })
    }
}

impl std::error::Error for BaseUrlError {}

/// Says why the router must never connect to this address, or `None` if it may.
///
/// Applies to literals in the configuration and to every address a node's name resolves to.
/// Loopback and private ranges are where nodes live and therefore allowed (reliability B10).
#[must_use]
pub fn forbidden_address(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => forbidden_ipv4(ip),
        IpAddr::V6(ip) => {
            if let Some(mapped) = ip.to_ipv4_mapped() {
                return forbidden_ipv4(mapped);
            }
            if ip.is_unspecified() {
                Some("the unspecified address")
            } else if ip.is_multicast() {
                Some("a multicast address")
            } else if ip.segments()[0] & 0xffc0 == 0xfe80 {
                Some("a link-local address")
            } else if ip == CLOUD_METADATA_V6 {
                Some("a cloud metadata address")
            } else {
                None
            }
        }
    }
}

fn forbidden_ipv4(ip: Ipv4Addr) -> Option<&'static str> {
    if ip.octets()[0] == 0 {
        // All of 0.0.0.0/8 is "this host" (RFC 1122 section 3.2.1.3).
        Some("the unspecified address")
    } else if ip.is_broadcast() {
        Some("the broadcast address")
    } else if ip.is_multicast() {
        Some("a multicast address")
    } else if ip.is_link_local() {
        Some("a link-local address")
    } else if ip == CLOUD_METADATA_V4 {
        Some("a cloud metadata address")
    } else {
        None
    }
}

fn strip_scheme(text: &str) -> Result<&str, BaseUrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(BaseUrlError::Scheme)?;
    if scheme.eq_ignore_ascii_case("https") {
        return Err(BaseUrlError::Https);
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(BaseUrlError::Scheme);
    }
    Ok(rest)
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), BaseUrlError> {
    if authority.starts_with('[') {
        let Some((host, rest)) = authority.split_once(']') else {
            return Err(BaseUrlError::Ipv6);
        };
        let host = &authority[..=host.len()];
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(BaseUrlError::Ipv6),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(BaseUrlError::Ipv6),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

/// Decimal digits only: the standard parser would take a leading plus.
fn parse_port(text: &str) -> Result<u16, BaseUrlError> {
    if text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BaseUrlError::Port);
    }
    text.parse().map_err(|_| BaseUrlError::Port)
}

fn parse_prefix(path: &str) -> Result<String, BaseUrlError> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if !path.is_empty() && !path[1..].split('/').all(is_plain_segment) {
        return Err(BaseUrlError::Path);
    }
    Ok(path.strip_suffix("/v1").unwrap_or(path).to_owned())
}

fn is_plain_segment(segment: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain)
}

/// Whether some resolver would read the text as a number: `127.1`, `0x7f000001`, `2130706433`.
///
/// The WHATWG URL rule: the last label is all digits or starts with `0x`.
fn looks_numeric(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host).as_bytes();
    let hexadecimal = last.len() >= 2 && last[0] == b'0' && last[1].eq_ignore_ascii_case(&b'x');
    hexadecimal || (!last.is_empty() && last.iter().all(u8::is_ascii_digit))
}

fn is_dns_name(host: &str) -> bool {
    host.len() <= 253 && host.split('.').all(is_dns_label)
}

/// Underscores are allowed because container platforms use them in service names.
fn is_dns_label(label: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len())
        && label.bytes().all(allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Longest accepted base URL.
pub const BASE_URL_BYTES_MAX: usize = 1024;

/// The metadata service of one large cloud; the common 169.254.169.254 is link-local anyway.
const CLOUD_METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
const CLOUD_METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

#[cfg(test)]
mod tests;
