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
pub(super) const MIGRATIONS: &[&str] = &[CONTROL_PLANE];

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
