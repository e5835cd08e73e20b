//! Which fields travel on in either direction, and those a gateway adds: the rules of the product on
//! the field maps that hyper and reqwest use.

use std::cell::Cell;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::gateway::{ApiError, Target};

/// The fields for the node: end-to-end ones of the client, without its credentials, and ours.
#[must_use]
pub fn toward_node(
    fields: HeaderMap,
    node: &Target,
    request_id: &HeaderValue,
    peer: &HeaderValue,
) -> HeaderMap {
    let listed = listed_in_connection(&fields);
    let mut out = HeaderMap::with_capacity(fields.len() + 4);
    let mut kept = None;
    for (name, value) in fields {
        // A repeated field comes without its name.
        if let Some(name) = name {
            kept = Some(name).filter(|name| {
                is_for_node(name.as_str()) && !listed.iter().any(|other| other == name)
            });
        }
        if let Some(name) = &kept {
            out.append(name, value);
        }
    }
    if let Some(authorization) = node.authorization() {
        out.insert(header::AUTHORIZATION, authorization);
    }
    out.insert(REQUEST_ID, request_id.clone());
    out.insert(FORWARDED_FOR, peer.clone());
    out
}

/// Leaves the fields of a node's answer that are for the client, and adds ours.
pub fn toward_client(fields: &mut HeaderMap, request_id: HeaderValue) {
    for name in listed_in_connection(fields) {
        fields.remove(name);
    }
    for name in HOP_BY_HOP {
        // Most answers have none of them; removing costs more than looking.
        if fields.contains_key(&name) {
            fields.remove(&name);
        }
    }
    add_own(fields, request_id);
}

/// The fields of an error answer.
pub fn of_error(fields: &mut HeaderMap, error: &ApiError, request_id: HeaderValue) {
    fields.insert(header::CONTENT_TYPE, JSON);
    if let Some(seconds) = error.retry_after_secs {
        fields.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    let allow = error.allow.as_deref().map(HeaderValue::from_str);
    if let Some(Ok(allow)) = allow {
        fields.insert(header::ALLOW, allow);
    }
    add_own(fields, request_id);
}

/// The client's request id, or a new one.
#[must_use]
pub fn request_id(fields: &HeaderMap) -> HeaderValue {
    fields.get(REQUEST_ID).cloned().unwrap_or_else(new_id)
}

/// A value for `X-Forwarded-For`.
#[must_use]
pub fn peer_value(peer: std::net::IpAddr) -> HeaderValue {
    HeaderValue::try_from(peer.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// The media type of everything the gateway says itself.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn add_own(fields: &mut HeaderMap, request_id: HeaderValue) {
    fields.insert(REQUEST_ID, request_id);
    // There is no queue here.
    fields.insert(BACKPRESSURE, HeaderValue::from_static("normal"));
}

fn is_for_node(name: &str) -> bool {
    !matches!(
        name,
        "authorization"
            | "x-api-key"
            | "cookie"
            | "host"
            | "content-length"
            | "transfer-encoding"
            | "expect"
            | "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "upgrade"
    ) && !name.starts_with("x-stainless-")
        && !name.starts_with("x-forwarded-")
}

/// Fields that `Connection` declares to be hop-by-hop (RFC 9110 section 7.6.1).
fn listed_in_connection(fields: &HeaderMap) -> Vec<HeaderName> {
    let values = fields.get_all(header::CONNECTION);
    let options = values.iter().filter_map(|value| value.to_str().ok());
    options
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|option| !matches!(*option, "" | "close" | "keep-alive"))
        .filter_map(|option| HeaderName::try_from(option).ok())
        .collect()
}

/// 16 hexadecimal digits that do not repeat within a process (splitmix64 of a counter per thread).
fn new_id() -> HeaderValue {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(seed());
    }
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let mut text = [0; 16];
    for (place, digit) in text.iter_mut().enumerate() {
        let nibble = (mixed >> (60 - 4 * place)) & 15;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
}

/// Differs between threads and processes.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const BACKPRESSURE: HeaderName = HeaderName::from_static("x-backpressure");
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
