//! Owns every metric name with its type and help text (spec section 8). The only file that spells
//! them; never a value.

/// The type of a metric family in the Prometheus text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, except that a restart begins again at zero.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Quantiles, sum and count.
    Summary,
    /// Cumulative buckets, sum and count.
    Histogram,
}

/// A metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name, without the suffixes of summaries and histograms.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// One line for people.
    pub help: &'static str,
}

impl Kind {
    /// The word in a `# TYPE` line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Summary => "summary",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! metrics {
    ($($constant:ident = $name:literal $kind:ident $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, help: $help };
        )+

        /// Every family, for checks over all of them.
        pub const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    QUEUE_SIZE = "llm_router_queue_size" Gauge
        "Requests waiting, over all models.";
    MODEL_QUEUE_SIZE = "llm_router_model_queue_size" Gauge
        "Requests waiting for a slot, by model.";
    BACKPRESSURE_STATE = "llm_router_backpressure_state" Gauge
        "Load of the router: 0 normal, 1 warning, 2 overloaded.";
    BACKPRESSURE_REJECTIONS = "llm_router_backpressure_rejections_total" Counter
        "Requests refused because the router was overloaded.";
    REJECTIONS = "llm_router_rejections_total" Counter
        "Requests the router refused or gave up, by reason.";
    REQUEST_DURATION = "llm_router_request_duration_seconds" Summary
        "Time from a request's whole head to its response's last byte, since start.";
    REQUEST_LATENCY = "llm_router_request_latency_seconds" Histogram
        "The request durations again, in buckets that add up over routers.";
    TIME_TO_FIRST_BYTE = "llm_router_time_to_first_byte_seconds" Summary
        "Time from a request's whole head to its response's first byte, since start.";
    QUEUE_WAIT = "llm_router_queue_wait_seconds" Summary
        "Time requests waited for a slot, since start.";
    OVERHEAD = "llm_router_overhead_seconds" Summary
        "Time spent in the router itself: total less queue less node, since start.";
    REQUESTS = "llm_router_requests_total" Counter
        "Requests answered, by endpoint and status.";
    REQUESTS_IN_FLIGHT = "llm_router_requests_in_flight" Gauge
        "Requests whose response has not ended.";
    STREAMS_ACTIVE = "llm_router_streams_active" Gauge
        "Streamed responses that have not ended.";
    CACHE_HITS = "llm_router_cache_hits_total" Counter
        "Candidate lists found in a worker's cache.";
    CACHE_MISSES = "llm_router_cache_misses_total" Counter
        "Candidate lists looked up in the node table.";
    CONNECTIONS_ACTIVE = "llm_router_connections_active" Gauge
        "Client connections.";
    POOL_CONNECTIONS = "llm_router_pool_connections" Gauge
        "Connections to nodes, by node and state.";
    BODY_BYTES = "llm_router_body_bytes_total" Counter
        "Body bytes moved, by direction.";
    BUFFERED_BYTES = "llm_router_buffered_body_bytes" Gauge
        "Bytes of request bodies held in memory.";
    NODE_IN_FLIGHT = "llm_router_node_in_flight" Gauge
        "Slots of a node that are taken.";
    NODE_SLOTS = "llm_router_node_slots" Gauge
        "Slots of a node.";
    NODE_STATE = "llm_router_node_state" Gauge
        "1 for the state a node is in, 0 for the others.";
    NODE_SELECTIONS = "llm_router_node_selections_total" Counter
        "Times a node was chosen.";
    NODE_FAILURES = "llm_router_node_failures_total" Counter
        "Failures of a node, by reason.";
    TOKENS = "llm_router_tokens_total" Counter
        "Tokens that responses reported, by model and kind.";
    CANCELLED = "llm_router_cancelled_total" Counter
        "Requests whose client went away, by the phase they were in.";
    RETRIES = "llm_router_retries_total" Counter
        "Further attempts, by the reason the one before failed.";
    ACCEPT_ERRORS = "llm_router_accept_errors_total" Counter
        "Failures to accept a connection, such as exhausted file descriptors.";
    PANICS = "llm_router_panics_total" Counter
        "Exchanges that ended in a panic; each is a bug.";
    ACCESS_RECORDS_DROPPED = "llm_router_access_records_dropped_total" Counter
        "Access records lost to a full queue or a failing log.";
    STORE_UP = "llm_router_store_up" Gauge
        "1 while the database can be written, else 0.";
    STORE_ERRORS = "llm_router_store_errors_total" Counter
        "Operations on the database that failed.";
    HISTORY_RECORDS = "llm_router_history_records_total" Counter
        "Requests written to the history.";
    HISTORY_DROPPED = "llm_router_history_dropped_total" Counter
        "Requests missing in the history: a queue was full, or they could not be written.";
    CONFIG_RELOADS = "llm_router_config_reloads_total" Counter
        "Reloads of the configuration, by outcome.";
    CONFIG_RELOAD_SUCCESSFUL = "llm_router_config_last_reload_successful" Gauge
        "1 if the configuration could be used when it was read last, 0 if the one before still holds.";
    CONFIG_RELOAD_TIME = "llm_router_config_last_reload_success_timestamp_seconds" Gauge
        "When the configuration in force was read, in seconds since the Unix epoch.";
    BUILD_INFO = "llm_router_build_info" Gauge
        "1, labelled with the version and the I/O driver in use.";
    PROCESS_CPU = "process_cpu_seconds_total" Counter
        "User and system CPU time.";
    PROCESS_RESIDENT = "process_resident_memory_bytes" Gauge
        "Resident memory.";
    PROCESS_OPEN_FDS = "process_open_fds" Gauge
        "Open file descriptors.";
    PROCESS_MAX_FDS = "process_max_fds" Gauge
        "File descriptors that may be open.";
    PROCESS_START = "process_start_time_seconds" Gauge
        "Start of the process, in seconds since the Unix epoch.";
}
