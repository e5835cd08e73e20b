//! `GET /api/history`, its export and its facets: past requests, a page at a time or all of them.
//!
//! An export is read in pieces, each when the client has taken the one before, so that a slow client and
//! a long history cost no memory. Requests that come in meanwhile are not in it.

mod csv;

use serde::Serialize;

use crate::auth::key::KeyId;
use crate::openai::ApiError;
use crate::runtime::clock;
use crate::store::{HistoryEntry, HistoryFilter, StatusFilter, Store, StoreError};

use super::query::Query;
use super::{Call, Context, Reply};

/// A request, as it is shown and exported.
#[derive(Serialize)]
struct RecordBody {
    id: String,
    request_id: String,
    started_at_ms: u64,
    endpoint: String,
    model: String,
    node: String,
    status: u16,
    duration_ms: f64,
    phases: PhasesBody,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    attempts: u32,
    ended_by: String,
    ended_in: String,
    request_bytes: u64,
    response_bytes: u64,
    is_stream: bool,
    key_id: Option<String>,
}

#[derive(Serialize)]
struct PhasesBody {
    read_ms: f64,
    auth_ms: f64,
    admit_ms: f64,
    queue_ms: f64,
    connect_ms: f64,
    first_byte_ms: f64,
    stream_ms: f64,
}

#[derive(Serialize)]
struct PageBody {
    records: Vec<RecordBody>,
    page: u64,
    per_page: u64,
    total: u64,
    /// Always false: counting is exact.
    total_capped: bool,
}

#[derive(Serialize)]
struct FacetsBody {
    models: Vec<String>,
    nodes: Vec<String>,
}

/// An export under way.
struct Export {
    store: Store,
    filter: HistoryFilter,
    form: Form,
    /// The last request that was written; `None` at the beginning.
    last: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Csv,
    Json,
}

/// `GET /api/history`.
pub(super) fn page(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    let mut query = call.query()?;
    let page = query.take_number("page", 1..=PAGE_MAX)?.unwrap_or(1);
    let per_page = query.take_number("per_page", 1..=PER_PAGE_MAX)?;
    let per_page = per_page.unwrap_or(PER_PAGE);
    let filter = filter(&mut query)?;
    query.finish()?;
    let offset = (page - 1) * per_page;
    let limit = u32::try_from(per_page).unwrap_or(u32::MAX);
    let found = context.store.history_page(filter, offset, limit);
    let found = found.map_err(unavailable)?;
    Reply::json(&PageBody {
        records: found.entries.into_iter().map(RecordBody::of).collect(),
        page,
        per_page,
        total: found.total,
        total_capped: false,
    })
}

/// `GET /api/history/facets`.
pub(super) fn facets(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    call.query()?.finish()?;
    let found = context.store.history_facets().map_err(unavailable)?;
    Reply::json(&FacetsBody {
        models: found.models,
        nodes: found.nodes,
    })
}

/// `GET /api/history/export`.
pub(super) fn export(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    let mut query = call.query()?;
    let form = match query.take("format").as_deref() {
        Some("csv") => Form::Csv,
        Some("json") => Form::Json,
        _ => return Err(ApiError::invalid_field("format", "must be csv or json")),
    };
    let filter = filter(&mut query)?;
    query.finish()?;
    let export = Export {
        store: context.store.clone(),
        filter,
        form,
        last: None,
    };
    let name = format!(
        "llm-router-history-{}.{}",
        clock::unix_secs(),
        form.suffix()
    );
    let disposition = format!("attachment; filename=\"{name}\"");
    Ok(export.piece()?.field("Content-Disposition", disposition))
}

impl Form {
    fn suffix(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::Json => "application/json",
        }
    }
}

impl Export {
    /// The next piece, and how it goes on.
    fn piece(&self) -> Result<Reply, ApiError> {
        let filter = self.filter.clone();
        let entries = self.store.history_before(filter, self.last, PIECE_RECORDS);
        let entries = entries.map_err(unavailable)?;
        let is_first = self.last.is_none();
        let is_last = entries.len() < PIECE_RECORDS as usize;
        let rest = Self {
            store: self.store.clone(),
            filter: self.filter.clone(),
            form: self.form,
            last: entries.last().map(|entry| entry.id),
        };
        let records = entries.into_iter().map(RecordBody::of);
        let body = match self.form {
            Form::Csv => csv_piece(records, is_first),
            Form::Json => json_piece(records, is_first, is_last)?,
        };
        let reply = Reply::of(http::StatusCode::OK, self.form.content_type(), body);
        Ok(match is_last {
            true => reply,
            false => reply.then(move || rest.piece()),
        })
    }
}

fn csv_piece(records: impl Iterator<Item = RecordBody>, is_first: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if is_first {
        csv::write_row(&mut out, &COLUMNS.map(csv::Cell::Text));
    }
    for record in records {
        csv::write_row(&mut out, &record.cells());
    }
    out
}

/// One array over all pieces, an object a line.
fn json_piece(
    records: impl Iterator<Item = RecordBody>,
    is_first: bool,
    is_last: bool,
) -> Result<Vec<u8>, ApiError> {
    let mut out = Vec::new();
    for (index, record) in records.enumerate() {
        let is_very_first = is_first && index == 0;
        out.extend_from_slice(if is_very_first { b"[\n" } else { b",\n" });
        out.extend(simd_json::to_vec(&record).map_err(|_| ApiError::internal())?);
    }
    if is_last {
        out.extend_from_slice(if is_first && out.is_empty() {
            b"[]\n"
        } else {
            b"\n]\n"
        });
    }
    Ok(out)
}

impl RecordBody {
    fn of(entry: HistoryEntry) -> Self {
        let [read, auth, admit, queue, connect, first_byte, stream] = entry.phase_us.map(millis);
        let tokens = entry.prompt_tokens.zip(entry.completion_tokens);
        Self {
            id: format!("{:016x}", entry.id),
            started_at_ms: entry.started_unix_ms(),
            request_id: entry.request_id,
            endpoint: entry.endpoint,
            model: entry.model,
            node: entry.node,
            status: entry.status,
            duration_ms: millis(entry.duration_us),
            phases: PhasesBody {
                read_ms: read,
                auth_ms: auth,
                admit_ms: admit,
                queue_ms: queue,
                connect_ms: connect,
                first_byte_ms: first_byte,
                stream_ms: stream,
            },
            prompt_tokens: entry.prompt_tokens,
            completion_tokens: entry.completion_tokens,
            total_tokens: tokens.map(|(prompt, completion)| prompt.saturating_add(completion)),
            attempts: entry.attempts,
            ended_by: entry.ended_by,
            ended_in: entry.ended_in,
            request_bytes: entry.request_bytes,
            response_bytes: entry.response_bytes,
            is_stream: entry.is_stream,
            key_id: KeyId::of_number(entry.key).map(|id| id.to_string()),
        }
    }

    /// In the order of [`COLUMNS`].
    fn cells(&self) -> [csv::Cell<'_>; COLUMNS.len()] {
        use csv::Cell::{Millis, Number, Text};
        let optional = |number: Option<u64>| number.map_or(Text(""), Number);
        let phases = &self.phases;
        [
            Text(&self.id),
            Text(&self.request_id),
            Number(self.started_at_ms),
            Text(&self.endpoint),
            Text(&self.model),
            Text(&self.node),
            Number(u64::from(self.status)),
            Millis(self.duration_ms),
            Millis(phases.read_ms),
            Millis(phases.auth_ms),
            Millis(phases.admit_ms),
            Millis(phases.queue_ms),
            Millis(phases.connect_ms),
            Millis(phases.first_byte_ms),
            Millis(phases.stream_ms),
            optional(self.prompt_tokens),
            optional(self.completion_tokens),
            optional(self.total_tokens),
            Number(u64::from(self.attempts)),
            Text(&self.ended_by),
            Text(&self.ended_in),
            Number(self.request_bytes),
            Number(self.response_bytes),
            Text(if self.is_stream { "true" } else { "false" }),
            Text(self.key_id.as_deref().unwrap_or_default()),
        ]
    }
}

/// Reads the filters that a page and an export have in common.
fn filter(query: &mut Query) -> Result<HistoryFilter, ApiError> {
    let from = query.take_number("from", 0..=TIME_MAX)?;
    let to = query.take_number("to", 0..=TIME_MAX)?;
    let status = query.take("status").map(|text| status(&text)).transpose()?;
    Ok(HistoryFilter {
        model: query.take("model"),
        node: query.take("node"),
        status,
        from_unix_ms: from.map(|secs| secs * 1000),
        // The whole second that is named.
        before_unix_ms: to.map(|secs| (secs + 1) * 1000),
    })
}

fn status(text: &str) -> Result<StatusFilter, ApiError> {
    let refused = || {
        let rule = "must be a status from 100 to 599, one of 1xx to 5xx, success or error";
        ApiError::invalid_field("status", rule)
    };
    match text.as_bytes() {
        b"success" => Ok(StatusFilter::Success),
        b"error" => Ok(StatusFilter::Error),
        [class @ b'1'..=b'5', b'x', b'x'] => Ok(StatusFilter::Class(class - b'0')),
        [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
            let code = text.parse().map_err(|_| refused())?;
            Ok(StatusFilter::Exactly(code))
        }
        _ => Err(refused()),
    }
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

fn unavailable(_: StoreError) -> ApiError {
    ApiError::store_unavailable()
}

const COLUMNS: [&str; 25] = [
    "id",
    "request_id",
    "started_at_ms",
    "endpoint",
    "model",
    "node",
    "status",
    "duration_ms",
    "read_ms",
    "auth_ms",
    "admit_ms",
    "queue_ms",
    "connect_ms",
    "first_byte_ms",
    "stream_ms",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "attempts",
    "ended_by",
    "ended_in",
    "request_bytes",
    "response_bytes",
    "is_stream",
    "key_id",
];
const PER_PAGE: u64 = 50;
const PER_PAGE_MAX: u64 = 200;
/// More pages than the longest history has.
const PAGE_MAX: u64 = 100_000_000;
/// The end of the year 9999: what lies behind it is a mistake, mostly milliseconds.
const TIME_MAX: u64 = 253_402_300_799;
/// Requests in one piece of an export: some hundred kilobytes.
const PIECE_RECORDS: u32 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_code_a_class_or_an_outcome() {
        assert_eq!(status("200"), Ok(StatusFilter::Exactly(200)));
        assert_eq!(status("499"), Ok(StatusFilter::Exactly(499)));
        assert_eq!(status("4xx"), Ok(StatusFilter::Class(4)));
        assert_eq!(status("success"), Ok(StatusFilter::Success));
        assert_eq!(status("error"), Ok(StatusFilter::Error));
        for wrong in [
            "0", "99", "600", "6xx", "4x", "4xxx", "2XX", "ok", "+20", "2 0",
        ] {
            assert!(status(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_filter_includes_both_of_its_seconds() {
        let mut query = Query::parse("from=100&to=100&model=a%2Fb&status=").unwrap();
        let filter = filter(&mut query).unwrap();
        assert_eq!(filter.from_unix_ms, Some(100_000));
        assert_eq!(filter.before_unix_ms, Some(101_000));
        assert_eq!(filter.model.as_deref(), Some("a/b"));
        assert_eq!((filter.status, filter.node), (None, None));
    }

    #[test]
    fn pieces_of_json_make_one_array() {
        let piece = |is_first, is_last| {
            let piece = json_piece(std::iter::empty(), is_first, is_last).unwrap();
            String::from_utf8(piece).unwrap()
        };
        assert_eq!(piece(true, true), "[]\n");
        assert_eq!(piece(false, true), "\n]\n");
    }
}
