//! The tables, as the steps that lead from one version of the schema to the next.
//!
//! A step that has been released is never changed: what an installation has run is what it has.

/// Marks a database as ours: "LLMR".
pub(super) const APPLICATION_ID: i32 = 0x4C4C_4D52;

/// The version this program works with: the number of steps.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a handful of steps"
)]
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

/// The step from each version to the next, from an empty file on.
pub(super) const MIGRATIONS: &[&str] = &[CONTROL_PLANE, HISTORY, SESSION_PASSWORD];

const CONTROL_PLANE: &str = "
    -- What is written every few seconds, so that a file that cannot be written is noticed.
    CREATE TABLE beat (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        at INTEGER NOT NULL
    ) STRICT;
    INSERT INTO beat (id, at) VALUES (1, 0);

    CREATE TABLE node (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        base_url TEXT NOT NULL,
        -- One a line; empty when the node is to be asked.
        models TEXT NOT NULL,
        -- Sealed; NULL when the node needs none.
        api_key BLOB,
        -- NULL: what the engine reports.
        max_concurrency INTEGER,
        weight INTEGER NOT NULL,
        token_digest BLOB NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT;

    -- Nodes an operator wants drained, by name, since those of the file have no other.
    CREATE TABLE drain (
        node TEXT PRIMARY KEY
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE session (
        digest BLOB PRIMARY KEY,
        user TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        last_used_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// Requests lie in the order they began, since their number begins with the time: a page needs no sort,
/// and what is oldest lies together. What many of them have in common is their kind, of which there are
/// few; so one index, on the kind, serves every combination of filters, and writing stays cheap. Blocks
/// and spans count the requests of each kind in every few seconds and in every hour or so: totals and far
/// pages need not count them one by one.
const HISTORY: &str = "
    CREATE TABLE history_kind (
        id INTEGER PRIMARY KEY,
        endpoint TEXT NOT NULL,
        model TEXT NOT NULL,
        node TEXT NOT NULL,
        status INTEGER NOT NULL,
        ended_by TEXT NOT NULL,
        ended_in TEXT NOT NULL,
        is_stream INTEGER NOT NULL,
        -- How many requests are of this kind.
        requests INTEGER NOT NULL,
        UNIQUE (endpoint, model, node, status, ended_by, ended_in, is_stream)
    ) STRICT;

    CREATE TABLE history (
        -- Milliseconds since the Unix epoch when it began, and 20 bits that make it unique.
        id INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL,
        request_id TEXT NOT NULL,
        duration_us INTEGER NOT NULL,
        read_us INTEGER NOT NULL,
        auth_us INTEGER NOT NULL,
        admit_us INTEGER NOT NULL,
        queue_us INTEGER NOT NULL,
        connect_us INTEGER NOT NULL,
        first_byte_us INTEGER NOT NULL,
        stream_us INTEGER NOT NULL,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        attempts INTEGER NOT NULL,
        request_bytes INTEGER NOT NULL,
        response_bytes INTEGER NOT NULL,
        -- The number of the API key, top bit and all; 0 for none.
        api_key INTEGER NOT NULL
    ) STRICT;

    -- Its second column is the id, as of every index.
    CREATE INDEX history_by_kind ON history (kind);

    CREATE TABLE history_block (
        -- The upper bits of the ids in it.
        block INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        PRIMARY KEY (block, kind)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE history_span (
        -- As above, but fewer of them.
        span INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        PRIMARY KEY (span, kind)
    ) STRICT, WITHOUT ROWID;
";

/// A session is worth what the password is worth it was begun with. That of an earlier one is not known, so
/// it has ended.
const SESSION_PASSWORD: &str = "
    -- The Argon2id hash of the password it was begun with.
    ALTER TABLE session ADD COLUMN password TEXT NOT NULL DEFAULT '';
";
