//! The database locked, damaged, out of reach; the process killed in the middle of writing.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Prng, RawClient, Router, ScriptedNode, chat, eventually, eventually_within, fixed, note, pause,
};
use crate::{DataDir, call, get, total};

fn store_of(router: &Router) -> String {
    let ready = router.get("/ready").unwrap();
    assert_eq!(ready.status, 200, "{}", ready.text());
    let body: serde_json::Value = serde_json::from_slice(&ready.body).unwrap();
    body["store"].as_str().unwrap().to_owned()
}

/// How long one request takes.
fn time_of_one(client: &mut RawClient) -> Duration {
    let began = Instant::now();
    client.send(&chat());
    assert_eq!(client.response().status, 200);
    began.elapsed()
}

#[test]
fn requests_do_not_notice_a_locked_database_and_are_written_afterwards() {
    let data = DataDir::new();
    let node = ScriptedNode::answering(fixed(b"{}"));
    let router = data.config().node("gpu-1", &node).start();
    assert_eq!(store_of(&router), "ok");
    let mut client = router.connect();
    time_of_one(&mut client);
    eventually("the first is written", || total(&router, &data, "") == 1);

    let stranger = data.open();
    stranger.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut slowest = Duration::ZERO;
    let mut count = 1;
    eventually("the router says that its store fails", || {
        slowest = slowest.max(time_of_one(&mut client));
        count += 1;
        store_of(&router) == "failing"
    });
    let metrics = router.metrics();
    assert_eq!(metrics.value("llm_router_store_up"), 0.0);
    assert!(metrics.value("llm_router_store_errors_total") > 0.0);
    // Reads still work: in this journal a writer does not hold up a reader.
    assert_eq!(total(&router, &data, ""), 1);
    assert_eq!(register(&router, &data, "new"), Some(503));
    for _ in 0..200 {
        slowest = slowest.max(time_of_one(&mut client));
        count += 1;
    }
    stranger.execute_batch("COMMIT").unwrap();
    eventually("the store works again", || store_of(&router) == "ok");
    eventually("all are written", || total(&router, &data, "") == count);
    note(&format!("slowest of {count} requests: {slowest:?}"));
    assert!(
        slowest < Duration::from_secs(1),
        "a request waited for the store: {slowest:?}"
    );
    assert_eq!(
        router.metrics().value("llm_router_history_dropped_total"),
        0.0
    );
    let log = router.stderr();
    assert_eq!(log.matches("the store fails").count(), 1, "{log}");
    assert_eq!(log.matches("the store works again").count(), 1, "{log}");
}

#[test]
fn a_damaged_database_is_kept_aside_and_the_router_serves() {
    let data = DataDir::new();
    fs::write(
        data.database(),
        "this is no database, but somebody may want it".repeat(100),
    )
    .unwrap();
    let node = ScriptedNode::answering(fixed(b"{}"));
    let router = data.config().node("gpu-1", &node).start();
    time_of_one(&mut router.connect());
    eventually("it is written", || total(&router, &data, "") == 1);
    let names = fs::read_dir(&data.path).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let aside = names.filter(|name| name.contains(".damaged-"));
    assert_eq!(aside.count(), 1);
    assert_eq!(store_of(&router), "ok");
}

#[test]
fn the_router_serves_without_a_database_and_takes_it_up_when_it_can() {
    let data = DataDir::new();
    // A directory where the file should be: neither opened nor made.
    fs::create_dir(data.database()).unwrap();
    let node = ScriptedNode::answering(fixed(b"{}"));
    let router = data.config().node("gpu-1", &node).start();
    assert_eq!(store_of(&router), "failing");
    time_of_one(&mut router.connect());
    let page = call(&router, &data, "GET", "/api/history");
    assert_eq!(
        (page.status, page.error_code()),
        (503, "store_unavailable".into())
    );
    fs::remove_dir(data.database()).unwrap();
    eventually("the store works", || store_of(&router) == "ok");
    eventually("the request is written", || total(&router, &data, "") == 1);
}

/// Lets the files of a process grow no further than this.
fn limit_file_size(pid: i32, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the limit lives through the call, and nothing is written to it.
    #[expect(unsafe_code, reason = "nix limits only its own process")]
    let outcome = unsafe {
        libc::prlimit(
            pid,
            libc::RLIMIT_FSIZE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn requests_do_not_notice_a_full_disk_and_are_written_when_there_is_room() {
    let data = DataDir::new();
    let node = ScriptedNode::answering(fixed(b"{}"));
    let router = data.config().node("gpu-1", &node).start();
    let mut client = router.connect();
    time_of_one(&mut client);
    eventually("the first is written", || total(&router, &data, "") == 1);
    // To the database it is the same whether the disk is full or the file may not grow.
    limit_file_size(router.pid(), 0);
    let mut count = 1;
    eventually("the router says that its store fails", || {
        time_of_one(&mut client);
        count += 1;
        store_of(&router) == "failing"
    });
    assert_eq!(register(&router, &data, "new"), Some(503));
    for _ in 0..200 {
        time_of_one(&mut client);
        count += 1;
    }
    limit_file_size(router.pid(), libc::RLIM_INFINITY);
    eventually("the store works again", || store_of(&router) == "ok");
    eventually("all are written", || total(&router, &data, "") == count);
    assert_eq!(register(&router, &data, "new"), Some(201));
    assert_eq!(
        router.metrics().value("llm_router_history_dropped_total"),
        0.0
    );
    drop(router);
    let verdict = data
        .open()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0));
    assert_eq!(verdict, Ok("ok".to_owned()));
}

/// Writes through every door until the router is gone; the nodes whose registration it acknowledged.
fn write_until_killed(router: &Router, data: &DataDir, round: u64) -> Vec<String> {
    let is_over = AtomicBool::new(false);
    let served = AtomicU64::new(0);
    let mut acknowledged = Vec::new();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = router.connect();
                while !is_over.load(Ordering::Relaxed) {
                    client.send(&chat());
                    if client.try_response().is_none() {
                        break;
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for number in 0.. {
            let name = format!("round-{round}-{number}");
            match register(router, data, &name) {
                Some(201) => acknowledged.push(name),
                Some(status) => panic!("{status}"),
                None => break,
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    note(&format!(
        "round {round}: {} requests served, {} nodes acknowledged",
        served.load(Ordering::Relaxed),
        acknowledged.len()
    ));
    acknowledged
}

/// Registers a node; the status, unless the router died before it could tell.
fn register(router: &Router, data: &DataDir, name: &str) -> Option<u16> {
    let mut client = RawClient::try_connect(router.address())?;
    let body = format!(
        r#"{{"name":"{name}","base_url":"http://127.0.0.1:9","api_key":"sk-{name}","models":["x"]}}"#
    );
    let key = &data.key;
    client.send(
        format!(
            "POST /api/nodes HTTP/1.1\r\nHost: router\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    client.try_response().map(|response| response.status)
}

#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_acknowledged() {
    let seed = std::env::var("KILL_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    note(&format!("KILL_SEED={seed}"));
    let mut random = Prng::new(seed);
    let data = DataDir::new();
    let node = ScriptedNode::answering(fixed(b"{}"));
    let mut acknowledged: Vec<String> = Vec::new();
    let mut kept_before = 0;
    for round in 0..6 {
        let router = data.config().node("gpu-1", &node).start();
        eventually("the store is open", || store_of(&router) == "ok");
        let after = Duration::from_micros(random.below(400_000));
        thread::scope(|scope| {
            let writing = scope.spawn(|| write_until_killed(&router, &data, round));
            pause(after);
            router.signal(nix::sys::signal::Signal::SIGKILL);
            acknowledged.extend(writing.join().unwrap());
        });
        drop(router);
        let database = data.open();
        let verdict: String = database
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(verdict, "ok", "after {after:?} of round {round}");
        let mut select = database.prepare("SELECT name FROM node").unwrap();
        let names = select.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let names: Vec<_> = names.map(Result::unwrap).collect();
        for name in &acknowledged {
            assert!(
                names.contains(name),
                "{name} is lost after {after:?} of round {round}"
            );
        }
        // The counts agree with the rows, and no row of an earlier round is gone.
        let count = |sql: &str| -> i64 { database.query_row(sql, [], |row| row.get(0)).unwrap() };
        let kept = count("SELECT count(*) FROM history");
        assert_eq!(
            count("SELECT ifnull(sum(requests), 0) FROM history_kind"),
            kept
        );
        assert_eq!(
            count("SELECT ifnull(sum(requests), 0) FROM history_block"),
            kept
        );
        assert!(kept >= kept_before);
        kept_before = kept;
    }
    note(&format!(
        "{} nodes acknowledged, {kept_before} requests kept",
        acknowledged.len()
    ));
    let router = data
        .config()
        .node("gpu-1", &node)
        .without_waiting_for_nodes()
        .start();
    let limit = Duration::from_secs(20);
    eventually_within(limit, "all nodes are there again", || {
        let nodes = get(&router, &data, "/api/nodes");
        nodes["nodes"].as_array().unwrap().len() > acknowledged.len()
    });
    assert_eq!(total(&router, &data, ""), kept_before.cast_unsigned());
}
