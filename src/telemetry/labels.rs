//! Owns the fixed label values: what is counted is one of these or a configured name, so series are
//! bounded. Never takes text from a client.

macro_rules! labels {
    (
        $(#[$about:meta])*
        $name:ident { $($(#[$meaning:meta])* $variant:ident => $text:literal,)+ }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$meaning])* $variant,)+
        }

        impl $name {
            /// All values, by discriminant.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The label value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

labels! {
    /// What a request asked for.
    EndpointLabel {
        /// `POST /v1/chat/completions`
        ChatCompletions => "chat_completions",
        /// `POST /v1/completions`
        Completions => "completions",
        /// `POST /v1/embeddings`
        Embeddings => "embeddings",
        /// `POST /v1/responses`
        Responses => "responses",
        /// `POST /v1/rerank`
        Rerank => "rerank",
        /// `POST /v1/messages`
        Messages => "messages",
        /// `POST /v1/audio/*`
        Audio => "audio",
        /// `POST /v1/images/*`
        Images => "images",
        /// `GET /v1/models`, `/v1/models/{id}`
        Models => "models",
        /// `GET /health`
        Health => "health",
        /// `GET /ready`
        Ready => "ready",
        /// `GET /metrics`, `/metrics/llm`
        Metrics => "metrics",
        /// `/api/*`
        Api => "api",
        /// The dashboard and its assets.
        Dashboard => "dashboard",
        /// Anything else, malformed requests among them.
        Other => "other",
    }
}

impl EndpointLabel {
    /// Whether requests to it go to a node.
    #[must_use]
    pub const fn is_inference(self) -> bool {
        (self as usize) < Self::Models as usize
    }
}

labels! {
    /// How far an exchange had come.
    Phase {
        /// Reading the request.
        Read => "read",
        /// Checking the key.
        Auth => "auth",
        /// Being admitted at once.
        Admit => "admit",
        /// Waiting in the queue.
        Queue => "queue",
        /// Connecting to a node.
        Connect => "connect",
        /// Waiting for the first byte of the response.
        FirstByte => "first_byte",
        /// Relaying the response.
        Stream => "stream",
        /// The response has ended as it should.
        Done => "done",
    }
}

labels! {
    /// Who ended an exchange.
    EndedBy {
        /// The client, by leaving.
        Client => "client",
        /// The node: its response ended, or it failed.
        Node => "node",
        /// The router: it answered itself.
        Router => "router",
        /// A deadline.
        Timeout => "timeout",
    }
}

labels! {
    /// Why the router refused a request or gave it up (spec sections 5 and 7).
    RejectionReason {
        /// Overloaded: 503 `queue_full`.
        Overloaded => "overloaded",
        /// The model's queue is full: 429 `queue_full`.
        ModelQueueFull => "model_queue_full",
        /// The client would have left before its turn: 503 `wait_too_long`.
        WaitTooLong => "wait_too_long",
        /// 504 `wait_timeout`.
        WaitTimeout => "wait_timeout",
        /// 504 `queue_timeout`.
        QueueTimeout => "queue_timeout",
        /// 503 `no_nodes`.
        NoNodes => "no_nodes",
        /// 503 `draining`.
        Draining => "draining",
        /// The budget of buffered bytes is used up.
        BufferBudget => "buffer_budget",
        /// 401.
        InvalidKey => "invalid_key",
        /// 404 `model_not_found`.
        UnknownModel => "unknown_model",
        /// Any other 4xx of our own.
        BadRequest => "bad_request",
    }
}

labels! {
    /// Why a further attempt was made (spec section 6).
    RetryReason {
        /// The node could not be connected to.
        Connect => "connect",
        /// Connecting took too long.
        ConnectTimeout => "connect_timeout",
        /// A reused connection ended before a response byte.
        StaleConnection => "stale_connection",
    }
}

labels! {
    /// Which way body bytes moved.
    Direction {
        /// Request bodies as received.
        FromClient => "from_client",
        /// Request bodies as sent on.
        ToNode => "to_node",
        /// Response bodies as received.
        FromNode => "from_node",
        /// Response bodies as sent on.
        ToClient => "to_client",
    }
}

labels! {
    /// What a connection to a node is doing.
    PoolState {
        /// Waiting in the pool.
        Idle => "idle",
        /// Serving an exchange.
        Active => "active",
    }
}

/// The status codes that are counted one by one: those registered with IANA that a proxy can meet.
const STATUSES: [u16; 48] = [
    200, 201, 202, 203, 204, 205, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404,
    405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423, 425, 426, 428,
    429, 431, 451, 500, 501, 502, 503, 504, 505, 508,
];

/// A `status` label: a registered code, `499` for a client that left before a response, or `other`.
/// A node that invents codes cannot make new series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StatusLabel(usize);

impl StatusLabel {
    pub(super) const COUNT: usize = STATUSES.len() + 2;
    const NO_RESPONSE: usize = STATUSES.len();
    const OTHER: usize = STATUSES.len() + 1;

    /// The label of a status code; 0 and 499 mean that the client left before there was one.
    pub(super) fn of(status: u16) -> Self {
        match STATUSES.binary_search(&status) {
            Ok(index) => Self(index),
            Err(_) if status == 0 || status == 499 => Self(Self::NO_RESPONSE),
            Err(_) => Self(Self::OTHER),
        }
    }

    pub(super) fn index(self) -> usize {
        self.0
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    pub(super) fn text(self) -> String {
        match STATUSES.get(self.0) {
            Some(status) => status.to_string(),
            None if self.0 == Self::NO_RESPONSE => "499".to_owned(),
            None => "other".to_owned(),
        }
    }
}
