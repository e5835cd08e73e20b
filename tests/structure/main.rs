//! Holds the code to its own rules: who may use whom, where `unsafe`, `monoio`, error bodies and
//! metric names may stand, and how long things may get. Reads the sources as text; a convention that
//! is not checked here is only a habit.
//!
//! `rules` has the tables to edit when the design changes, `self_tests` proves on small fake sources
//! that each rule can fail.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod lexer;
mod rules;
mod self_tests;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::{Source, mark_test_files};

/// All Rust files under the given folders of the repository.
fn read(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in folders {
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    let mut sources: Vec<Source> = files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(root).unwrap().to_string_lossy();
            Source::new(&path, &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(
        sources.len() > 50,
        "the sources are not where this test looks"
    );
    mark_test_files(&mut sources);
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{} violation(s):\n{}",
        violations.len(),
        violations.join("\n")
    );
}

#[test]
fn modules_use_only_what_lies_below_them() {
    assert_none(&rules::layering(&read(&["src"]), rules::LAYERS));
}

#[test]
fn the_table_of_layers_runs_from_the_leaves_up() {
    assert_none(&rules::table_order(rules::LAYERS));
}

#[test]
fn no_two_modules_need_each_other() {
    assert_none(&rules::cycles(&read(&["src"]), rules::LAYERS));
}

#[test]
fn sans_io_modules_name_no_io_clock_or_runtime() {
    assert_none(&rules::sans_io(&read(&["src"])));
}

#[test]
fn monoio_and_unsafe_stay_behind_their_boundary() {
    assert_none(&rules::boundary(&read(&["src"])));
}

#[test]
fn only_proxy_respond_builds_error_responses() {
    assert_none(&rules::error_responses(&read(&["src"])));
}

#[test]
fn only_telemetry_names_spells_metric_names() {
    assert_none(&rules::metric_names(&read(&["src"])));
}

#[test]
fn files_functions_and_lines_stay_readable() {
    assert_none(&rules::size(&read(&["src", "tests"])));
}

#[test]
fn nothing_is_left_unfinished_or_silently_ignored() {
    assert_none(&rules::leftovers(&read(&["src", "tests"])));
}

#[test]
fn tests_wait_for_conditions_instead_of_sleeping() {
    assert_none(&rules::sleeps(&read(&["src", "tests"])));
}

#[test]
fn every_exception_still_excuses_something() {
    assert_none(&rules::stale_exceptions(&read(&["src", "tests"])));
}
