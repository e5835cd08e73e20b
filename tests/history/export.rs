//! Exports: all that fits, in pieces, as spreadsheets and programs can read it.

use std::time::Duration;

use serde_json::Value;

use crate::support::{RawClient, Router, ScriptedNode, ask, eventually, fixed};
use crate::{DataDir, call, get, records};

const COUNT: usize = 1203;

/// A router with more requests than one piece holds.
fn filled(data: &DataDir) -> (Router, ScriptedNode) {
    let node = ScriptedNode::answering(fixed(b"{}"));
    let router = data.config().node("gpu-1", &node).start();
    let mut client = router.connect();
    for number in 0..COUNT {
        let model = if number % 3 == 0 {
            "=HYPERLINK(\\\"x\\\"),a"
        } else {
            "m"
        };
        client.send(
            &ask("x")
                .model(model)
                .field("X-Request-Id", &number.to_string())
                .bytes(),
        );
        client.response();
    }
    records_are_there(&router, data);
    (router, node)
}

fn records_are_there(router: &Router, data: &DataDir) {
    eventually("all are written", || {
        get(router, data, "/api/history?per_page=1")["total"] == COUNT
    });
}

/// Cells of a file in the form of RFC 4180, read by the book.
fn parse_csv(text: &str) -> Vec<Vec<String>> {
    let mut rows = vec![vec![String::new()]];
    let mut is_quoted = false;
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        let row = rows.last_mut().unwrap();
        match character {
            '"' if is_quoted && rest.peek() == Some(&'"') => {
                rest.next();
                row.last_mut().unwrap().push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => row.push(String::new()),
            '\r' if !is_quoted => {
                assert_eq!(rest.next(), Some('\n'));
                rows.push(vec![String::new()]);
            }
            other => row.last_mut().unwrap().push(other),
        }
    }
    assert_eq!(
        rows.pop(),
        Some(vec![String::new()]),
        "the last line has no end"
    );
    rows
}

#[test]
fn json_and_csv_hold_every_request_once_the_latest_first() {
    let data = DataDir::new();
    let (router, _node) = filled(&data);
    let json = call(&router, &data, "GET", "/api/history/export?format=json");
    assert_eq!(json.status, 200);
    assert_eq!(json.head.field("transfer-encoding"), Some("chunked"));
    assert_eq!(json.head.field("content-type"), Some("application/json"));
    let disposition = json.head.field("content-disposition").unwrap();
    assert!(
        disposition.starts_with("attachment; filename=\"llm-router-history-"),
        "{disposition}"
    );
    assert!(disposition.ends_with(".json\""), "{disposition}");
    let exported: Vec<Value> = serde_json::from_slice(&json.body).unwrap();
    let ids: Vec<_> = exported
        .iter()
        .map(|record| record["request_id"].as_str().unwrap())
        .collect();
    let expected: Vec<_> = (0..COUNT).rev().map(|number| number.to_string()).collect();
    assert_eq!(ids, expected);
    assert_eq!(exported[..200], records(&router, &data, COUNT)[..]);

    let csv = call(&router, &data, "GET", "/api/history/export?format=csv");
    assert_eq!(
        csv.head.field("content-type"),
        Some("text/csv; charset=utf-8")
    );
    let rows = parse_csv(csv.text());
    let column = |name: &str| rows[0].iter().position(|column| column == name).unwrap();
    let (id, model, tokens) = (
        column("request_id"),
        column("model"),
        column("total_tokens"),
    );
    assert_eq!(rows.len(), COUNT + 1);
    for (row, record) in rows[1..].iter().zip(&exported) {
        assert_eq!(row.len(), rows[0].len());
        assert_eq!(row[id], record["request_id"].as_str().unwrap());
        assert_eq!(row[tokens], "");
        let expected = match record["model"].as_str().unwrap() {
            "m" => "m",
            formula => &format!("'{formula}"),
        };
        assert_eq!(row[model], expected);
    }
}

#[test]
fn an_export_is_filtered_like_a_page_and_may_be_empty() {
    let data = DataDir::new();
    let (router, _node) = filled(&data);
    let json = |query: &str| -> Vec<Value> {
        let path = format!("/api/history/export?format=json&{query}");
        serde_json::from_slice(&call(&router, &data, "GET", &path).body).unwrap()
    };
    assert_eq!(json("status=404").len(), COUNT.div_ceil(3));
    assert_eq!(
        json("model=m&status=success").len(),
        COUNT - COUNT.div_ceil(3)
    );
    assert_eq!(json("node=nowhere"), Vec::<Value>::new());
    let csv = call(
        &router,
        &data,
        "GET",
        "/api/history/export?format=csv&node=nowhere",
    );
    assert_eq!(parse_csv(csv.text()).len(), 1, "{}", csv.text());
}

#[test]
fn an_export_goes_on_after_the_database_has_failed_for_a_while() {
    let data = DataDir::new();
    let (router, _node) = filled(&data);
    let database = data.open();
    // More than the kernel holds for a client that does not read.
    let lengthened = "UPDATE history SET request_id = hex(zeroblob(2000))";
    database.execute_batch(lengthened).unwrap();
    let mut client = RawClient::connect_with_small_window(router.address());
    let request = format!(
        "GET /api/history/export?format=json HTTP/1.1\r\nHost: router\r\nX-API-Key: {}\r\n\
         Connection: close\r\n\r\n",
        data.key
    );
    client.send(request.as_bytes());
    assert_eq!(client.head().status, 200);
    let errors = || router.metrics().value("llm_router_store_errors_total");
    let before = errors();
    database
        .execute_batch("ALTER TABLE history RENAME TO away")
        .unwrap();
    let receiving = std::thread::spawn(move || client.read_to_end_within(Duration::from_secs(20)));
    eventually("two reads have failed", || errors() >= before + 2.0);
    database
        .execute_batch("ALTER TABLE away RENAME TO history")
        .unwrap();
    let (exported, _) = receiving.join().unwrap();
    assert!(exported.ends_with(b"\n]\n\r\n0\r\n\r\n"), "it is not whole");
    let count = memchr::memmem::find_iter(&exported, b"\"request_id\"").count();
    assert_eq!(count, COUNT, "no request is there twice");
}
