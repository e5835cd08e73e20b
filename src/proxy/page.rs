//! Sends the dashboard's files. Anyone may have them: they hold no data.

use http::StatusCode;

use crate::dashboard::{self, Asset};
use crate::http1::{HeadWriter, Method};
use crate::openai::ApiError;
use crate::runtime::Scratch;

use super::Worker;
use super::downstream::Downstream;
use super::exchange::{After, Stop};
use super::request::Request;
use super::respond::{self, OwnFields, Response, Scope};
use super::trace::Trace;

/// Answers a request for a file; with its tag alone, if the client has it.
///
/// # Errors
/// 404.
pub(super) async fn answer(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    trace: &mut Trace<'_>,
) -> Result<After, Stop> {
    let asset = find(request.target()).ok_or_else(ApiError::not_found)?;
    let is_known = if_none_match(request.field_lines()).any(|value| asset.is_known_by(value));
    let status = if is_known {
        StatusCode::NOT_MODIFIED
    } else {
        StatusCode::OK
    };
    let keep_alive = respond::go_on_after(worker, client, request);
    let mut head = Scratch::new();
    let mut writer = HeadWriter::new(&mut head);
    writer.status_line(status);
    if !is_known {
        writer.field("Content-Type", asset.content_type.as_bytes());
        writer.content_length(asset.body.len() as u64);
    }
    writer.field("ETag", asset.etag.as_bytes());
    for (name, value) in dashboard::FIELDS {
        writer.field(name, value.as_bytes());
    }
    let own = OwnFields::of(request, Scope::Local, keep_alive);
    respond::write_own_fields(worker, &mut writer, &own);
    writer.end();
    let body: &[u8] = if is_known || request.method == Method::Head {
        &[]
    } else {
        asset.body
    };
    let response = Response::of(&head, body, keep_alive);
    Ok(respond::deliver(worker, client, response, status, trace).await)
}

fn find(target: &[u8]) -> Option<&'static Asset> {
    let path = target.split(|byte| *byte == b'?').next()?;
    dashboard::asset(std::str::from_utf8(path).ok()?)
}

/// The values of `If-None-Match` among canonical field lines.
fn if_none_match(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        line[..colon]
            .eq_ignore_ascii_case(b"if-none-match")
            .then(|| line[colon + 1..].trim_ascii())
    })
}
