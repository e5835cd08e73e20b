//! Proves on small fake sources that each rule fails when it should and only then.

use super::lexer::{Kind, tokens};
use super::rules::{self, Layer};
use super::source::{Source, mark_test_files};

const LAYERS: &[Layer] = &[
    Layer {
        name: "low",
        uses: &[],
    },
    Layer {
        name: "high",
        uses: &["low"],
    },
];

fn one(path: &str, text: &str) -> Vec<Source> {
    vec![Source::new(path, text)]
}

/// The words of the text, to show what the lexer dropped.
fn words(text: &str) -> Vec<String> {
    let words = tokens(text)
        .into_iter()
        .filter_map(|token| match token.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        });
    words.collect()
}

#[test]
fn comments_strings_characters_and_lifetimes_are_not_words() {
    let text = r##"a /* b /* c */ d */ "e \" f" r#"g " h"# b"i" '\'' 'j' b'\n' &'k l // m"##;
    assert_eq!(words(text), ["a", "l"]);
}

#[test]
fn a_token_knows_its_line_after_strings_and_comments_of_many_lines() {
    let last = tokens("\"1\n2\"\n/* 3\n4 */\nfive").pop().unwrap();
    assert_eq!((last.word(), last.line), (Some("five"), 5));
}

#[test]
fn a_use_upwards_is_reported_with_its_line_and_what_is_allowed() {
    let found = rules::layering(
        &one("src/low/mod.rs", "//! x\n\nuse crate::high::Thing;"),
        LAYERS,
    );
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("src/low/mod.rs:3: `low` uses `high`"),
        "{}",
        found[0]
    );
}

#[test]
fn every_spelling_of_a_use_upwards_is_seen() {
    let spellings = [
        "use crate::{low::{A, C as D}, high::B};",
        "fn f() { crate::high::g(); }",
        "pub(crate) use crate::high;",
        "use super::high::B;",
        "mod inner { use super::super::high::B; }",
        "fn f(x: &crate::high::B) {}",
        "use llm_router::high::B;",
    ];
    for text in spellings {
        let found = rules::layering(&one("src/low/mod.rs", text), LAYERS);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
    let deeper = one("src/low/a/b.rs", "use super::super::super::high::B;");
    assert_eq!(rules::layering(&deeper, LAYERS).len(), 1);
}

#[test]
fn downward_uses_own_parts_and_words_in_comments_pass() {
    let passing = [
        (
            "src/high/mod.rs",
            "use crate::low::A; use crate::high::part::B;",
        ),
        (
            "src/low/mod.rs",
            "// crate::high\nconst X: &str = \"crate::high::B\";",
        ),
        ("src/low/part.rs", "use super::high::B;"),
        ("src/low/mod.rs", "mod inner { use super::high::B; }"),
        (
            "src/lib.rs",
            "pub mod low; pub mod high; use crate::high::A;",
        ),
    ];
    for (path, text) in passing {
        assert_eq!(rules::layering(&one(path, text), LAYERS), [""; 0], "{text}");
    }
}

#[test]
fn a_module_without_a_row_is_reported() {
    assert_eq!(
        rules::layering(&one("src/new.rs", "//! x"), LAYERS).len(),
        1
    );
}

#[test]
fn tests_may_use_what_their_module_may_not() {
    let inline = "#[cfg(test)]\nmod tests { use crate::high::A; }";
    assert_eq!(
        rules::layering(&one("src/low/mod.rs", inline), LAYERS),
        [""; 0]
    );

    let mut sources = vec![
        Source::new(
            "src/low/mod.rs",
            "#[cfg(test)] #[path = \"x_tests.rs\"] mod tests;",
        ),
        Source::new("src/low/x_tests.rs", "mod deeper; use crate::high::A;"),
        Source::new("src/low/x_tests/deeper.rs", "use crate::high::A;"),
    ];
    mark_test_files(&mut sources);
    assert_eq!(rules::layering(&sources, LAYERS), [""; 0]);
}

#[test]
fn code_after_a_test_module_is_not_test_code() {
    let text = "#[cfg(test)] mod tests { fn f() {} }\nuse crate::high::A;";
    assert_eq!(
        rules::layering(&one("src/low/mod.rs", text), LAYERS).len(),
        1
    );
    let not = "#[cfg(not(test))] use crate::high::A;";
    assert_eq!(
        rules::layering(&one("src/low/mod.rs", not), LAYERS).len(),
        1
    );
}

#[test]
fn a_cycle_is_shown_as_a_path() {
    let sources = [
        Source::new("src/low.rs", "use crate::high::A;"),
        Source::new("src/high.rs", "use crate::low::B;"),
    ];
    let found = rules::cycles(&sources, LAYERS);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("cycle: high → low → high"),
        "{}",
        found[0]
    );
    assert_eq!(rules::cycles(&sources[1..], LAYERS), [""; 0]);
}

#[test]
fn a_table_row_that_looks_up_is_reported() {
    let wrong = [
        Layer {
            name: "low",
            uses: &["high"],
        },
        Layer {
            name: "high",
            uses: &[],
        },
    ];
    assert_eq!(rules::table_order(&wrong).len(), 1);
    assert_eq!(rules::table_order(LAYERS), [""; 0]);
}

#[test]
fn io_in_a_sans_io_module_is_reported_and_address_types_are_not() {
    let forbidden = [
        "use std::{fs, mem};",
        "use std::io::Write;",
        "fn f() { let t = std::time::Instant::now(); }",
        "fn f() { Instant::now(); }",
        "use std::net::{IpAddr, TcpStream};",
        "use monoio::net::TcpStream;",
    ];
    for text in forbidden {
        let found = rules::sans_io(&one("src/http1/scan.rs", text));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
    let fine = "use std::net::Ipv6Addr; use std::time::{Duration, Instant}; fn f(io: u8) {}";
    assert_eq!(rules::sans_io(&one("src/http1/scan.rs", fine)), [""; 0]);
    assert_eq!(
        rules::sans_io(&one("src/nodes/table.rs", forbidden[0])),
        [""; 0]
    );
    assert_eq!(
        rules::sans_io(&one("src/nodes/policy.rs", forbidden[0])).len(),
        1
    );
    assert_eq!(
        rules::sans_io(&one("src/auth/key.rs", forbidden[0])).len(),
        1
    );
}

#[test]
fn monoio_and_unsafe_are_reported_outside_their_folders() {
    let text = "fn f() { unsafe { monoio::spawn(x) } }";
    assert_eq!(rules::boundary(&one("src/proxy/relay.rs", text)).len(), 2);
    assert_eq!(rules::boundary(&one("src/server/mod.rs", text)).len(), 1);
    assert_eq!(rules::boundary(&one("src/runtime/task.rs", text)), [""; 0]);
}

#[test]
fn an_error_body_outside_respond_is_reported_and_other_writing_is_not() {
    let bodies = [
        "fn f() { error.write_body(&mut out); }",
        "fn f() { ApiError::write_body(e, o); }",
    ];
    for text in bodies {
        assert_eq!(
            rules::error_responses(&one("src/control/mod.rs", text)).len(),
            1,
            "{text}"
        );
        assert_eq!(
            rules::error_responses(&one("src/proxy/respond.rs", text)),
            [""; 0]
        );
    }
    let event = "fn write_body() {} fn f() { sse::write_event(out, name, data); }";
    assert_eq!(
        rules::error_responses(&one("src/control/mod.rs", event)),
        [""; 0]
    );
}

#[test]
fn a_metric_name_elsewhere_is_reported_and_in_a_comment_it_is_not() {
    let text = "/// `llm_router_x`\nconst A: &str = \"llm_router_x\";";
    let found = rules::metric_names(&one("src/proxy/trace.rs", text));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("src/proxy/trace.rs:2:"),
        "{}",
        found[0]
    );
    assert_eq!(
        rules::metric_names(&one("src/telemetry/names.rs", text)),
        [""; 0]
    );
}

#[test]
fn sizes_are_reported_beyond_the_limit_and_not_at_it() {
    let function = |lines: usize| {
        format!(
            "//! x\nfn f(a: [u8; 2]) -> u8 {{\n{}}}\n",
            "1;\n".repeat(lines - 2)
        )
    };
    assert_eq!(rules::size(&one("src/a.rs", &function(70))), [""; 0]);
    assert_eq!(rules::size(&one("src/a.rs", &function(71))).len(), 1);
    assert_eq!(rules::size(&one("src/a.rs", "fn f();")).len(), 1);
    assert_eq!(rules::size(&one("tests/a.rs", &function(200))), [""; 0]);
    assert_eq!(rules::size(&one("tests/a.rs", &function(201))).len(), 1);
    let line = |columns: usize| format!("//!{}", "é".repeat(columns - 3));
    assert_eq!(rules::size(&one("src/a.rs", &line(120))), [""; 0]);
    assert_eq!(rules::size(&one("src/a.rs", &line(121))).len(), 1);
    let row = format!("//!\n/// | {} |", "x".repeat(120));
    assert_eq!(rules::size(&one("src/a.rs", &row)), [""; 0]);
    let literal = format!("//!\nconst X: &str = \"{}\";", "x".repeat(120));
    assert_eq!(rules::size(&one("src/a.rs", &literal)), [""; 0]);
    let file = |lines: usize| "//!\n".repeat(lines);
    assert_eq!(rules::size(&one("src/a.rs", &file(800))), [""; 0]);
    assert_eq!(rules::size(&one("src/a.rs", &file(801))).len(), 1);
}

#[test]
fn leftovers_are_reported() {
    let wrong = [
        concat!("// TO", "DO: later"),
        concat!("// FIX", "ME"),
        concat!("fn f() { to", "do!() }"),
        "#[ignore] fn f() {}",
    ];
    for text in wrong {
        assert_eq!(rules::leftovers(&one("src/a.rs", text)).len(), 1, "{text}");
    }
    let fine = "#[ignore = \"needs a GPU\"] fn f() { let ignore = [ignored]; }";
    assert_eq!(rules::leftovers(&one("src/a.rs", fine)), [""; 0]);
}

#[test]
fn a_sleeping_test_is_reported_and_a_waiting_helper_is_not() {
    let test = "fn works() { std::thread::sleep(x); }";
    assert_eq!(rules::sleeps(&one("tests/a.rs", test)).len(), 1);
    let helper = "fn until(ready: F) { while !ready() { std::thread::sleep(x); } }";
    assert_eq!(rules::sleeps(&one("tests/a.rs", helper)), [""; 0]);
    let product = "async fn tick() { runtime::sleep(x).await }";
    assert_eq!(rules::sleeps(&one("src/server/mod.rs", product)), [""; 0]);
}
