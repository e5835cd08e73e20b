//! Instructions of each step of the hot path, counted by valgrind: they show a change of one per cent on a
//! machine where times differ by twenty.
//!
//! `cargo bench --bench instructions` compares with `benches/instructions.csv` and fails when a step takes
//! over 3 % more; `-- --save` makes what was counted the new baseline. The counts belong to one toolchain and
//! to one processor, because what is chosen at run time by the vector instructions there are differs from one
//! to another. So a baseline says in its first line which processor it was counted on; on any other, and where
//! it does not say, the comparison is shown but fails nothing. To judge a change there, save a baseline
//! without it first.
//!
//! Each step runs a number of times and twice that number; the difference is what it costs without the
//! start of the program.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark talks to a terminal"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use llm_router::admission::AdmissionLimits;
use llm_router::auth::key::{self, KeyEntry, KeyHash, KeySet};
use llm_router::http1::{
    ChunkedDecoder, HeadLimits, HeadScan, HeadWriter, Method, PieceKind, parse_request,
    parse_response,
};
use llm_router::nodes::{
    Admission, CandidateLimits, Candidates, LocalAdmission, NodeDirectory, NodeSpec, NodeState,
    Selection,
};
use llm_router::openai::{UsageTap, peek::peek};
use llm_router::telemetry::{
    EndedBy, EndpointLabel, History, HistoryLimits, HistoryNames, HistoryRecord, Latency, Phase,
    WorkerMetrics,
};

type Failure = Box<dyn Error + Send + Sync>;

/// A step: its name, and what does it so many times and says how often it went as meant.
type Step = (&'static str, fn(u32) -> u32);

const STEPS: [Step; 14] = [
    ("request head", request_head),
    ("response head", response_head),
    ("head write", head_write),
    ("chunk framing", chunk_framing),
    ("peek 94 B", peek_small),
    ("peek 16 KiB", peek_large),
    ("key check", key_check),
    ("admission", admission),
    ("selection of 3", |times| selection(times, 3)),
    ("selection of 100", |times| selection(times, 100)),
    ("1000 busy nodes", busy_selection),
    ("usage of an event", usage),
    ("latency record", latency),
    ("history record", history),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--step", name, times] = words.as_slice() {
        return play(name, times);
    }
    // Test runners ask every target for its tests; there are none here.
    if words
        .iter()
        .any(|word| *word == "--list" || *word == "--test")
    {
        return ExitCode::SUCCESS;
    }
    match compare(words.contains(&"--save")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(name: &str, times: &str) -> ExitCode {
    let step = STEPS.iter().find(|(known, _)| *known == name);
    match (step, times.parse::<u32>()) {
        (Some((_, act)), Ok(times)) if act(times) == times => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// What was counted before, and where.
struct Baseline {
    /// `None` if it does not say.
    processor: Option<String>,
    counts: BTreeMap<String, f64>,
}

/// Counts every step and tells how it compares; `false` if one has become dearer on the same processor.
fn compare(saves: bool) -> Result<bool, Failure> {
    let processor = processor()?;
    let baseline = Baseline::parse(&fs::read_to_string(BASELINE).unwrap_or_default());
    let is_like = baseline.processor.as_deref() == Some(&*processor);
    let mut csv = format!("{PROCESSOR}{processor}\n{COLUMNS}\n");
    let mut is_good = true;
    println!(
        "{:<20}{:>14}{:>14}{:>10}",
        "", "instructions", "baseline", "change"
    );
    for (name, _) in STEPS {
        let count = per_turn(name)?;
        writeln!(csv, "{name},{count:.1}")?;
        match baseline.counts.get(name) {
            Some(before) => {
                let change = count / before - 1.0;
                is_good &= change <= TOLERANCE;
                println!(
                    "{name:<20}{count:>14.1}{before:>14.1}{:>+9.1}%",
                    change * 100.0
                );
            }
            None => println!("{name:<20}{count:>14.1}{:>14}", "none"),
        }
    }
    if saves {
        fs::write(BASELINE, csv)?;
        println!("saved as {BASELINE}");
        return Ok(true);
    }
    if !is_like {
        let other = baseline.processor.as_deref();
        println!(
            "another processor: only informative (baseline: {}, here: {processor})",
            other.unwrap_or("it does not say")
        );
    }
    Ok(is_good || !is_like)
}

impl Baseline {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines().peekable();
        let named = lines.next_if(|line| line.starts_with(PROCESSOR));
        let rows = lines.filter_map(|line| line.split_once(','));
        Self {
            processor: named
                .and_then(|line| line.strip_prefix(PROCESSOR))
                .map(str::to_owned),
            counts: rows
                .filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?)))
                .collect(),
        }
    }
}

/// The model of this processor. The name alone is given to quite different ones.
fn processor() -> Result<String, Failure> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let field = |wanted: &str| {
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = fields.find(|(name, _)| name.trim() == wanted)?;
        Some(value.trim().to_owned())
    };
    let name = field("model name").ok_or("/proc/cpuinfo names no processor")?;
    let [family, model] =
        ["cpu family", "model"].map(|number| field(number).unwrap_or_else(|| "?".to_owned()));
    Ok(format!("{name}, family {family}, model {model}"))
}

/// Instructions of one turn of a step.
fn per_turn(name: &str) -> Result<f64, Failure> {
    let once = instructions(name, TURNS)?;
    let twice = instructions(name, 2 * TURNS)?;
    Ok((twice - once) / f64::from(TURNS))
}

fn instructions(name: &str, times: u32) -> Result<f64, Failure> {
    let output = Command::new("valgrind")
        .args([
            "--tool=cachegrind",
            "--cache-sim=no",
            "--cachegrind-out-file=/dev/null",
        ])
        .arg(std::env::current_exe()?)
        .args(["--step", name, &times.to_string()])
        .output()
        .map_err(|error| format!("this benchmark needs valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the step {name} fails:\n{said}").into());
    }
    let line = said
        .lines()
        .find(|line| line.contains("I   refs:") || line.contains("I refs:"));
    let count = line
        .and_then(|line| line.rsplit(' ').next())
        .ok_or("valgrind said no count")?;
    Ok(count.replace(',', "").parse()?)
}

/// Does `act` so many times; how often it went as meant.
fn repeat(times: u32, mut act: impl FnMut() -> bool) -> u32 {
    (0..times).map(|_| u32::from(act())).sum()
}

fn request_head(times: u32) -> u32 {
    repeat(times, || {
        let parsed = parse_request(
            black_box(REQUEST),
            &mut HeadScan::new(),
            &HeadLimits::DEFAULT,
        );
        parsed.is_ok()
    })
}

fn response_head(times: u32) -> u32 {
    repeat(times, || {
        let mut scan = HeadScan::new();
        parse_response(
            black_box(RESPONSE),
            Method::Post,
            &mut scan,
            &HeadLimits::DEFAULT,
        )
        .is_ok()
    })
}

fn head_write(times: u32) -> u32 {
    let mut head = Vec::with_capacity(1024);
    repeat(times, || {
        head.clear();
        let mut writer = HeadWriter::new(&mut head);
        writer.request_line(Method::Post, "", "/v1/chat/completions", None);
        writer
            .field("Host", black_box(b"10.0.0.7:8000"))
            .field(
                "X-Request-Id",
                black_box(b"req_0123456789abcdef0123456789abcdef"),
            )
            .field("X-Forwarded-For", black_box(b"192.168.10.20"))
            .content_length(black_box(94))
            .field("Content-Type", b"application/json")
            .field("Accept", b"application/json")
            .field("User-Agent", b"OpenAI/Python 3.52.0");
        writer.end();
        !head.is_empty()
    })
}

fn chunk_framing(times: u32) -> u32 {
    let mut chunk = b"c4\r\n".to_vec();
    chunk.extend_from_slice(&[b'x'; 0xc4]);
    chunk.extend_from_slice(b"\r\n");
    let mut decoder = ChunkedDecoder::new();
    repeat(times, || {
        let mut rest = black_box(&*chunk);
        let mut data = 0;
        while let Ok(piece) = decoder.decode(rest) {
            if piece.kind == PieceKind::Data {
                data += piece.len;
            }
            rest = rest.get(piece.len..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
        }
        data == 0xc4
    })
}

fn peek_small(times: u32) -> u32 {
    repeat(times, || peek(black_box(BODY)).is_ok())
}

fn peek_large(times: u32) -> u32 {
    let words = "the quick brown fox jumps over the lazy dog \\u00e9 \\n ".repeat(300);
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{words}"}}],"model":"m"}}"#);
    repeat(times, || peek(black_box(body.as_bytes())).is_ok())
}

fn key_check(times: u32) -> u32 {
    let entries = (1..=100_u32)
        .map(|number| KeyEntry::of_config(number, KeyHash::of(format!("sk-{number}").as_bytes())));
    let keys = KeySet::new(entries.collect());
    repeat(times, || {
        key::authenticate(&keys, black_box(Some(b"Bearer sk-57")), None, 0).is_ok()
    })
}

fn admission(times: u32) -> u32 {
    let (admission, mut candidates) = worker(3);
    repeat(times, || {
        let permit = admission.try_enter();
        let model = candidates.resolve(black_box("m"), NOW);
        let selection = model.map(|model| model.select(&[]));
        permit.is_some() && matches!(selection, Some(Selection::Slot(..)))
    })
}

fn selection(times: u32, node_count: usize) -> u32 {
    let (_, mut candidates) = worker(node_count);
    let Some(model) = candidates.resolve("m", NOW) else {
        return 0;
    };
    repeat(times, || {
        matches!(black_box(&model).clone().select(&[]), Selection::Slot(..))
    })
}

/// Every node has as much in flight as any other.
fn busy_selection(times: u32) -> u32 {
    let (_, mut candidates) = worker(1000);
    let Some(model) = candidates.resolve("m", NOW) else {
        return 0;
    };
    let held: Vec<Selection> = (0..1000).map(|_| model.clone().select(&[])).collect();
    let chosen = repeat(times, || {
        matches!(black_box(&model).clone().select(&[]), Selection::Slot(..))
    });
    drop(held);
    chosen
}

fn usage(times: u32) -> u32 {
    let mut tap = UsageTap::new();
    repeat(times, || {
        tap.feed(black_box(EVENT));
        tap.usage().is_none()
    })
}

fn latency(times: u32) -> u32 {
    let metrics = WorkerMetrics::new();
    let Some(recorder) = metrics.recorder() else {
        return 0;
    };
    repeat(times, || {
        recorder.latency(Latency::Request, black_box(Duration::from_micros(1234)));
        true
    })
}

/// Made and handed over by the worker, and taken by the thread that writes it.
fn history(times: u32) -> u32 {
    let limits = HistoryLimits {
        is_on: true,
        retention_secs: 1,
        rows_max: 1,
    };
    let history = History::new(1, limits);
    let mut taken = Vec::new();
    repeat(times, || {
        let id = black_box(b"req_0123456789abcdef0123456789abcdef");
        let mut names = HistoryNames::new(black_box(1_800_000_000_000), id, black_box(7));
        names.set_model(black_box(b"llama-3.2-1b-instruct"));
        names.set_node(black_box(b"gpu-1"));
        let record = HistoryRecord {
            names,
            endpoint: EndpointLabel::ChatCompletions,
            status: black_box(200),
            duration_us: black_box(1234),
            phase_us: black_box([100; Phase::COUNT]),
            tokens: black_box(Some((30, 4))),
            request_bytes: black_box(94),
            response_bytes: black_box(512),
            attempts: 1,
            ended_by: EndedBy::Node,
            ended_in: Phase::Done,
            is_stream: false,
        };
        taken.clear();
        let is_offered = history.offer(0, record).is_ok();
        history.take(&mut taken, 1);
        is_offered && taken.len() == 1
    })
}

/// One worker in front of so many nodes that serve `m`.
fn worker(node_count: usize) -> (LocalAdmission, Candidates) {
    let limits = AdmissionLimits {
        max_concurrent: 1000,
        max_waiting: 100,
        warning_threshold: 0.5,
        overload_threshold: 0.8,
    };
    let admission = LocalAdmission::new(Arc::new(Admission::new(limits, |_| {})), 0);
    let directory = Arc::new(NodeDirectory::default());
    let specs: Vec<NodeSpec> = (0..node_count)
        .map(|number| NodeSpec {
            name: number.to_string().into(),
            addresses: Vec::new(),
            host_header: "h".into(),
            path_prefix: "".into(),
            authorization: None,
            models: vec!["m".into()],
            max_concurrency: 100,
            weight: 1,
        })
        .collect();
    if let Ok(table) = directory.publish(&specs, &[]) {
        let nodes = table.nodes().iter();
        nodes.for_each(|node| node.live.publish_state(NodeState::Online));
    }
    let limits = CandidateLimits {
        max_capacity: 100,
        ttl: Duration::from_secs(5),
    };
    let candidates = Candidates::new(directory, limits, 0, admission.clone());
    (admission, candidates)
}

/// As OpenAI's Python SDK sends it.
const REQUEST: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\n\
    Host: router.example:8080\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Connection: keep-alive\r\n\
    Accept: application/json\r\n\
    Content-Type: application/json\r\n\
    User-Agent: OpenAI/Python 3.52.0\r\n\
    X-Stainless-Lang: python\r\n\
    X-Stainless-Package-Version: 3.52.0\r\n\
    X-Stainless-OS: Linux\r\n\
    X-Stainless-Arch: x64\r\n\
    X-Stainless-Runtime: CPython\r\n\
    X-Stainless-Runtime-Version: 3.11.7\r\n\
    Authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\n\
    X-Stainless-Async: false\r\n\
    x-stainless-retry-count: 0\r\n\
    x-stainless-read-timeout: 600\r\n\
    Content-Length: 94\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    date: Sat, 21 Nov 2026 10:00:00 GMT\r\n\
    server: uvicorn\r\n\
    content-length: 512\r\n\
    content-type: application/json\r\n\r\n";
const BODY: &[u8] =
    br#"{"model":"llama-3.2-1b","messages":[{"role":"user","content":"Tell me a joke"}],"stream":true}"#;
const EVENT: &[u8] = br#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"llama-3.2-1b","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"usage":null}

"#;
const NOW: Duration = Duration::from_secs(1000);
const TURNS: u32 = 2000;
const TOLERANCE: f64 = 0.03;
const BASELINE: &str = "benches/instructions.csv";
/// Begins the first line of a baseline.
const PROCESSOR: &str = "# processor: ";
const COLUMNS: &str = "step,instructions";
