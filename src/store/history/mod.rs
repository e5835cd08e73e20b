//! The request history: written in batches, read in pages, deleted in small steps.
//!
//! `schema` says how it lies in the file. Whatever is asked for is one of a few statements, each of
//! which looks up an index; a test shows their plans.

mod collect;
mod keep;
mod query;
mod write;

use crate::telemetry::Phase;

use super::{Store, StoreError};

pub(super) use collect::Collector;

/// Which requests are meant: all that fit every part that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    /// As the client named it.
    pub model: Option<String>,
    /// The node of the last attempt.
    pub node: Option<String>,
    /// How it ended.
    pub status: Option<StatusFilter>,
    /// Not begun before this, in milliseconds since the Unix epoch.
    pub from_unix_ms: Option<u64>,
    /// Begun before this.
    pub before_unix_ms: Option<u64>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFilter {
    /// With this status; 499 if the client left before there was one.
    Exactly(u16),
    /// With a status of this hundred.
    Class(u8),
    /// Answered below 400, to the end.
    Success,
    /// In any other way: also a stream that broke off.
    Error,
}

/// A request as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Unique; greater for one that began later.
    pub id: u64,
    /// `X-Request-Id`.
    pub request_id: String,
    /// The word of its endpoint.
    pub endpoint: String,
    /// As the client named it; empty if it was not read.
    pub model: String,
    /// Of the last attempt; empty if there was none.
    pub node: String,
    /// 499 if the client left before there was one.
    pub status: u16,
    /// The word for who ended it.
    pub ended_by: String,
    /// The word for the phase it was in then.
    pub ended_in: String,
    /// Whether the response was a stream of events.
    pub is_stream: bool,
    /// From the whole head to the end.
    pub duration_us: u64,
    /// In each phase but the last.
    pub phase_us: [u64; PHASES],
    /// If the response reported them.
    pub prompt_tokens: Option<u64>,
    /// If the response reported them.
    pub completion_tokens: Option<u64>,
    /// Nodes tried.
    pub attempts: u32,
    /// Body bytes from the client.
    pub request_bytes: u64,
    /// Body bytes to the client.
    pub response_bytes: u64,
    /// The number of the API key; 0 if none was needed or shown.
    pub key: u64,
}

/// A page of requests, those that began last first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryPage {
    /// At most as many as were asked for.
    pub entries: Vec<HistoryEntry>,
    /// How many there are on all pages.
    pub total: u64,
}

/// What requests can be filtered by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryFacets {
    /// Models, in order.
    pub models: Vec<String>,
    /// Nodes, in order.
    pub nodes: Vec<String>,
}

impl HistoryEntry {
    /// When it began, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn started_unix_ms(&self) -> u64 {
        self.id >> ID_LOW_BITS
    }
}

impl Store {
    /// A page of the requests that fit, without the first `offset` of them.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or [`StoreError::Unavailable`].
    pub fn history_page(
        &self,
        filter: HistoryFilter,
        offset: u64,
        limit: u32,
    ) -> Result<HistoryPage, StoreError> {
        self.call(move |keeper, until| {
            keeper.read(until, |connection| {
                query::page(connection, &filter, offset, limit, query::EFFORT_MAX)
            })
        })
    }

    /// The requests that fit and began before the one of this id, those that began last first.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or [`StoreError::Unavailable`].
    pub fn history_before(
        &self,
        filter: HistoryFilter,
        id: Option<u64>,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        self.call(move |keeper, until| {
            keeper.read(until, |connection| {
                query::before(connection, &filter, id, limit, query::EFFORT_MAX)
            })
        })
    }

    /// What requests can be filtered by; of very many models, those asked for most.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or [`StoreError::Unavailable`].
    pub fn history_facets(&self) -> Result<HistoryFacets, StoreError> {
        self.call(|keeper, until| keeper.read(until, query::facets))
    }
}

/// Phases with a time of their own.
pub const PHASES: usize = Phase::COUNT - 1;
/// Bits of an id below the time.
const ID_LOW_BITS: u32 = 20;
/// Bits of an id below the number of its block: 2^13 ms, about eight seconds.
const BLOCK_BITS: u32 = ID_LOW_BITS + 13;
/// Bits of an id below the number of its span: 2^22 ms, about seventy minutes.
const SPAN_BITS: u32 = ID_LOW_BITS + 22;

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
