//! The rules of the code base, each a pure function from sources to violations. A violation is one
//! line: where, what, and what to do instead.

use std::collections::{BTreeMap, BTreeSet};

use super::lexer::{Kind, Token};
use super::source::{Named, Source};

/// A module directly below the crate root and the modules it may use.
pub(crate) struct Layer {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it may name besides itself. Whatever is not here needs a reason to be added.
    pub(crate) uses: &'static [&'static str],
}

/// Who may use whom: from the leaves up. No row may name a row below it, so there are no cycles.
pub(crate) const LAYERS: &[Layer] = &[
    // Plain data in, plain data out.
    layer("sse", &[]),
    layer("http1", &[]),
    layer("openai", &[]),
    layer("admission", &[]),
    layer("auth", &[]),
    layer("dashboard", &[]),
    // The boundary to monoio and the kernel; knows nothing of what it carries.
    layer("runtime", &[]),
    // The typed configuration: reads keys into digests, builds nothing.
    layer("config", &["auth"]),
    // The shared table and the counters beside it.
    layer("nodes", &["admission"]),
    // Shows what admission and nodes count; measures for everyone above.
    layer("telemetry", &["admission", "nodes"]),
    // Connections to nodes.
    layer("upstream", &["nodes", "runtime", "telemetry"]),
    // The data plane. Never `server`, `control`, `mock` or `cli`.
    layer(
        "proxy",
        &[
            "admission",
            "auth",
            "config",
            "dashboard",
            "http1",
            "nodes",
            "openai",
            "runtime",
            "telemetry",
            "upstream",
        ],
    ),
    // The database: keeps digests and sealed credentials, shows its state. Workers never see it.
    layer("store", &["auth", "runtime", "telemetry"]),
    // One mock node: stands beside the data plane and shares only its leaves.
    layer("mock", &["http1", "openai", "runtime", "sse"]),
    // Probes, key file, snapshots: publishes to what the workers read, never runs on their hot path.
    layer(
        "control",
        &[
            "admission",
            "auth",
            "config",
            "http1",
            "nodes",
            "openai",
            "proxy",
            "runtime",
            "store",
            "telemetry",
        ],
    ),
    // Threads, listeners, signals, drain. Whoever composes the process hands it the control thread.
    layer(
        "server",
        &[
            "admission",
            "auth",
            "config",
            "nodes",
            "proxy",
            "runtime",
            "telemetry",
        ],
    ),
    // The commands.
    layer(
        "cli",
        &[
            "auth", "config", "control", "mock", "runtime", "server", "store",
        ],
    ),
    layer("main", &["cli"]),
];

/// Modules that take plain data and return plain data: no I/O, no clock, no runtime.
const SANS_IO: &[&str] = &[
    "http1",
    "sse",
    "openai",
    "admission",
    "auth::key",
    "dashboard",
    "nodes::policy",
    "nodes::health",
];

/// What a sans-I/O module must not name, and what to do instead.
const OUTSIDE_WORLD: &[(&str, &str)] = &[
    ("std::fs", "take the content as bytes"),
    (
        "std::io",
        "take and return slices; the caller reads and writes",
    ),
    (
        "std::process",
        "return an error; only the command decides the exit code",
    ),
    ("std::thread", "threads belong to server/"),
    (
        "std::env",
        "take the value as a parameter; config/ reads the environment",
    ),
    ("std::net::TcpStream", "sockets belong to runtime/"),
    ("std::net::TcpListener", "sockets belong to runtime/"),
    ("std::net::UdpSocket", "sockets belong to runtime/"),
    ("std::net::ToSocketAddrs", "names are resolved by control/"),
    ("std::os", "file descriptors belong to runtime/"),
    ("Instant::now", "pass the time in"),
    ("SystemTime::now", "pass the time in"),
    ("libc", "the kernel belongs to runtime/"),
    ("nix", "the kernel belongs to runtime/"),
    ("socket2", "the kernel belongs to runtime/"),
    ("monoio", "the runtime belongs to runtime/"),
];

/// Functions that may be longer than [`FUNCTION_LINES_MAX`]: `(path, name, reason)`.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

/// Test files that may sleep: `(path, reason)`. Waiting for a condition is no reason: poll it with
/// a deadline through a helper named `until…` or `wait…`, where sleeping is always allowed.
const SLEEPING_TESTS: &[(&str, &str)] = &[
    (
        "tests/cancel_unsafe.rs",
        "lets the kernel complete a read nobody awaits: there is no condition to observe",
    ),
    (
        "tests/runtime.rs",
        "the sleeping task is the subject: it must be cut off while it sleeps",
    ),
];

/// What looks like the name of a metric and is none.
const NOT_METRICS: &[&str] = &[
    // The cookie of the control API.
    "llm_router_session",
];

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
/// Tests are read one at a time, and many are a table with an entry per case.
const TEST_FILE_LINES_MAX: usize = 1000;
const TEST_FUNCTION_LINES_MAX: usize = 200;
const LINE_COLUMNS_MAX: usize = 120;

const fn layer(name: &'static str, uses: &'static [&'static str]) -> Layer {
    Layer { name, uses }
}

/// Uses between top-level modules that [`LAYERS`] does not allow, and modules it does not know.
pub(crate) fn layering(sources: &[Source], layers: &[Layer]) -> Vec<String> {
    let mut out = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test) {
        let own = source.top_module();
        if own == "lib" {
            continue;
        }
        let Some(row) = layers.iter().find(|layer| layer.name == own) else {
            out.push(format!(
                "{}: module `{own}` has no row in LAYERS: add one that says what it may use and why",
                source.path
            ));
            continue;
        };
        for (used, line) in uses(source, layers) {
            if used != own && !row.uses.contains(&used) {
                let allowed = match row.uses {
                    [] => "nothing of this crate".to_owned(),
                    uses => uses.join(", "),
                };
                out.push(format!(
                    "{}:{line}: `{own}` uses `{used}`; it may use {allowed}. Pass the data in, or \
                     move the code to the module that may know both",
                    source.path
                ));
            }
        }
    }
    out
}

/// Cycles between top-level modules as the code has them, tests aside.
pub(crate) fn cycles(sources: &[Source], layers: &[Layer]) -> Vec<String> {
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.is_test) {
        let own = source.top_module();
        let used = uses(source, layers).into_iter().map(|(used, _)| used);
        graph
            .entry(own)
            .or_default()
            .extend(used.filter(|used| *used != own));
    }
    find_cycle(&graph).map_or_else(Vec::new, |cycle| {
        vec![format!(
            "cycle: {}. Move what both need into the lower one",
            cycle.join(" → ")
        )]
    })
}

/// Rows of the table that name a later row, or one that does not exist.
pub(crate) fn table_order(layers: &[Layer]) -> Vec<String> {
    let mut out = Vec::new();
    for (index, row) in layers.iter().enumerate() {
        for used in row.uses {
            if !layers[..index].iter().any(|earlier| earlier.name == *used) {
                out.push(format!(
                    "LAYERS: `{}` names `{used}`, which no earlier row has",
                    row.name
                ));
            }
        }
    }
    out
}

/// Names of I/O, clocks or the runtime in modules that take and return plain data.
pub(crate) fn sans_io(sources: &[Source]) -> Vec<String> {
    let mut out = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test) {
        let module = source.module().join("::");
        let is_pure = |pure: &&&str| module == **pure || module.starts_with(&format!("{pure}::"));
        let Some(pure) = SANS_IO.iter().find(is_pure) else {
            continue;
        };
        for named in source.paths() {
            let found = OUTSIDE_WORLD
                .iter()
                .find(|(name, _)| contains_path(&named, name));
            if let (Some((name, instead)), false) = (found, source.is_test_code(named.token)) {
                out.push(format!(
                    "{}:{}: `{pure}` is sans-I/O but names `{name}`: {instead}",
                    source.path, named.line
                ));
            }
        }
    }
    out
}

/// `monoio` outside `runtime/` and `server/`, `unsafe` outside `runtime/`.
pub(crate) fn boundary(sources: &[Source]) -> Vec<String> {
    let mut out = Vec::new();
    for source in sources {
        let top = source.top_module();
        for (index, token) in source.tokens.iter().enumerate() {
            let is_test = source.is_test_code(index);
            let at = format!("{}:{}", source.path, token.line);
            if token.is_word("monoio") && !is_test && !matches!(top, "runtime" | "server") {
                out.push(format!(
                    "{at}: only runtime/ and server/ name `monoio`: use or extend crate::runtime"
                ));
            }
            if token.is_word("unsafe") && !source.path.starts_with("src/runtime/") && !is_test {
                out.push(format!(
                    "{at}: only runtime/ contains `unsafe`: put a safe function there"
                ));
            }
        }
    }
    out
}

/// Error bodies written anywhere but in `proxy::respond`.
pub(crate) fn error_responses(sources: &[Source]) -> Vec<String> {
    // The mock node is another server, with answers of its own.
    const HOMES: &[&str] = &[
        "src/proxy/respond.rs",
        "src/openai/error.rs",
        "src/mock/message.rs",
    ];
    let elsewhere = sources
        .iter()
        .filter(|source| !HOMES.contains(&source.path.as_str()));
    let mut out = Vec::new();
    for source in elsewhere {
        for (index, pair) in source.tokens.windows(2).enumerate() {
            let is_use = pair[0].is_mark('.') || is_separator(&pair[0]);
            let writes = is_use && pair[1].is_word("write_body");
            if writes && !source.is_test_code(index) {
                out.push(format!(
                    "{}:{}: only proxy::respond builds error responses: hand the ApiError to it",
                    source.path, pair[1].line
                ));
            }
        }
    }
    out
}

/// Metric names spelt outside `telemetry::names`.
pub(crate) fn metric_names(sources: &[Source]) -> Vec<String> {
    let mut out = Vec::new();
    for source in sources {
        if source.path == "src/telemetry/names.rs" {
            continue;
        }
        for (index, token) in source.tokens.iter().enumerate() {
            if let Kind::Text(text) = &token.kind
                && text.contains("llm_router_")
                && !NOT_METRICS.contains(&text.as_str())
                && !source.is_test_code(index)
            {
                out.push(format!(
                    "{}:{}: metric names stand in telemetry::names only: use its constant",
                    source.path, token.line
                ));
            }
        }
    }
    out
}

/// Too long files, functions and lines; files that do not say what they own.
pub(crate) fn size(sources: &[Source]) -> Vec<String> {
    let mut out = Vec::new();
    for source in sources {
        let path = &source.path;
        if !source.text.starts_with("//!") {
            out.push(format!(
                "{path}:1: begins without `//!`: say what the file owns and what it must never do"
            ));
        }
        let lines = source.text.lines().count();
        let lines_max = match source.is_test {
            true => TEST_FILE_LINES_MAX,
            false => FILE_LINES_MAX,
        };
        if lines > lines_max {
            out.push(format!(
                "{path}: {lines} lines, at most {lines_max}: split it by subject"
            ));
        }
        for (number, line) in source.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > LINE_COLUMNS_MAX && !cannot_be_broken(line) {
                let number = number + 1;
                out.push(format!(
                    "{path}:{number}: {columns} columns, at most {LINE_COLUMNS_MAX}"
                ));
            }
        }
        for function in source.functions() {
            let name = function.name.as_str();
            let is_listed = LONG_FUNCTIONS
                .iter()
                .any(|(p, n, _)| *p == path && *n == name);
            let lines_max = match source.is_test_code(function.token) {
                true => TEST_FUNCTION_LINES_MAX,
                false => FUNCTION_LINES_MAX,
            };
            if function.lines > lines_max && !is_listed {
                out.push(format!(
                    "{path}:{}: fn {name} has {} lines, at most {lines_max}: keep the \
                     decisions, move the work into leaves",
                    function.line, function.lines
                ));
            }
        }
    }
    out
}

/// Notes to self, unfinished code, ignored tests without a reason.
pub(crate) fn leftovers(sources: &[Source]) -> Vec<String> {
    // Spelt in halves so that this file does not accuse itself.
    let notes = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let mut out = Vec::new();
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            let words = line.split(|c: char| !c.is_alphanumeric());
            for note in words.filter(|word| notes.contains(word)) {
                out.push(format!(
                    "{}:{}: {note}: do it, or open an issue",
                    source.path,
                    number + 1
                ));
            }
        }
        for three in source.tokens.windows(3) {
            let at = format!("{}:{}", source.path, three[0].line);
            if matches!(three[0].word(), Some("todo" | "unimplemented")) && three[1].is_mark('!') {
                out.push(format!("{at}: unfinished code"));
            }
            if three[0].is_mark('[') && three[1].is_word("ignore") && three[2].is_mark(']') {
                out.push(format!(
                    "{at}: #[ignore] without a reason: write #[ignore = \"why\"]"
                ));
            }
        }
    }
    out
}

/// Tests that sleep instead of waiting for a condition.
pub(crate) fn sleeps(sources: &[Source]) -> Vec<String> {
    let mut out = Vec::new();
    for source in sources {
        let is_listed = SLEEPING_TESTS.iter().any(|(path, _)| *path == source.path);
        for named in source.paths() {
            let is_call = named.segments.last().is_some_and(|last| last == "sleep");
            if is_call
                && source.is_test_code(named.token)
                && !is_listed
                && !in_waiting_helper(source, named.line)
            {
                out.push(format!(
                    "{}:{}: a test sleeps: wait for the condition, with a deadline",
                    source.path, named.line
                ));
            }
        }
    }
    out
}

/// Entries of the exception lists that excuse nothing any more.
pub(crate) fn stale_exceptions(sources: &[Source]) -> Vec<String> {
    let mut out = Vec::new();
    for (path, name, _) in LONG_FUNCTIONS {
        let still = sources
            .iter()
            .filter(|source| source.path == *path)
            .any(|s| {
                s.functions()
                    .iter()
                    .any(|f| f.name == *name && f.lines > FUNCTION_LINES_MAX)
            });
        if !still {
            out.push(format!(
                "LONG_FUNCTIONS: {path} {name} is short or gone: delete the entry"
            ));
        }
    }
    for (path, _) in SLEEPING_TESTS {
        let still = sources
            .iter()
            .filter(|source| source.path == *path)
            .any(|s| {
                s.paths()
                    .iter()
                    .any(|named| named.segments.last().is_some_and(|last| last == "sleep"))
            });
        if !still {
            out.push(format!(
                "SLEEPING_TESTS: {path} no longer sleeps: delete the entry"
            ));
        }
    }
    out
}

/// The top-level modules a file names outside its tests, with the line.
fn uses<'l>(source: &Source, layers: &'l [Layer]) -> Vec<(&'l str, usize)> {
    let depth = source.module().len();
    let mut out = Vec::new();
    for named in source.paths() {
        if source.is_test_code(named.token) {
            continue;
        }
        let supers = named.segments.iter().take_while(|s| *s == "super").count();
        let root = match named.segments[0].as_str() {
            "crate" | "llm_router" => 1,
            "super" if supers >= depth + source.inline_module_depth(named.token) => supers,
            _ => continue,
        };
        let known = named.segments.get(root).and_then(|used| {
            let row = layers.iter().find(|layer| layer.name == used)?;
            Some(row.name)
        });
        out.extend(known.map(|used| (used, named.line)));
    }
    out
}

/// Depth-first search; returns the modules along the first cycle, the first one repeated.
fn find_cycle<'g>(graph: &BTreeMap<&'g str, BTreeSet<&'g str>>) -> Option<Vec<&'g str>> {
    fn visit<'g>(
        node: &'g str,
        graph: &BTreeMap<&'g str, BTreeSet<&'g str>>,
        trail: &mut Vec<&'g str>,
        done: &mut BTreeSet<&'g str>,
    ) -> Option<Vec<&'g str>> {
        if let Some(at) = trail.iter().position(|seen| *seen == node) {
            let mut cycle = trail[at..].to_vec();
            cycle.push(node);
            return Some(cycle);
        }
        if done.contains(node) {
            return None;
        }
        trail.push(node);
        let next = graph.get(node).into_iter().flatten();
        let found = next.into_iter().find_map(|n| visit(n, graph, trail, done));
        trail.pop();
        done.insert(node);
        found
    }
    let mut done = BTreeSet::new();
    graph
        .keys()
        .find_map(|node| visit(node, graph, &mut Vec::new(), &mut done))
}

/// Whether `named` contains the segments of `path`, side by side. A `path` of one segment, a crate,
/// counts only at the beginning.
fn contains_path(named: &Named, path: &str) -> bool {
    let wanted: Vec<&str> = path.split("::").collect();
    match wanted.as_slice() {
        [single] => named.segments[0] == *single,
        several => named
            .segments
            .windows(several.len())
            .any(|window| window == several),
    }
}

/// A row of a table in documentation, or a line that is long because of one literal.
fn cannot_be_broken(line: &str) -> bool {
    let code = line.trim_start();
    let is_row = code.starts_with("//! |") || code.starts_with("/// |");
    let literal = code.find('"').zip(code.rfind('"'));
    let literal_columns = literal.map_or(0, |(start, end)| end - start);
    is_row || (!code.starts_with("//") && literal_columns > LINE_COLUMNS_MAX / 2)
}

fn is_separator(token: &Token) -> bool {
    token.kind == Kind::PathSeparator
}

/// Whether the line lies in a function whose name says that it waits for something.
fn in_waiting_helper(source: &Source, line: usize) -> bool {
    source.functions().iter().any(|function| {
        let waits = function.name.starts_with("until") || function.name.starts_with("wait");
        waits && (function.line..function.line + function.lines).contains(&line)
    })
}
