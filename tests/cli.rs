//! The command as a shell meets it: arguments, output, exit codes.

#![expect(clippy::unwrap_used, reason = "a test stops at its first surprise")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A working directory that goes away with the test.
struct WorkDir(PathBuf);

impl WorkDir {
    fn new(name: &str) -> Self {
        let name = format!("llm-router-cli-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The command in this directory with an empty environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llm-router"));
        command.args(arguments).current_dir(&self.0).env_clear();
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&self.command(arguments).output().unwrap())
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

#[test]
fn help_and_version_are_no_mistakes() {
    let dir = WorkDir::new("help");
    let help = dir.run(&["--help"]);
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    for command in ["serve", "demo", "mock-node", "check", "keys"] {
        assert!(help.out.contains(command), "{command}");
        assert_eq!(dir.run(&[command, "--help"]).code, Some(0), "{command}");
    }
    let version = dir.run(&["--version"]);
    assert_eq!(
        version.out,
        format!("llm-router {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_mistake_in_the_arguments_is_exit_code_2_on_standard_error() {
    let dir = WorkDir::new("usage");
    let mistakes: [&[&str]; 9] = [
        &[],
        &["fly"],
        &["serve", "--colour"],
        &["serve", "--set", "queue.max_size"],
        &["demo", "--port", "65536"],
        &["mock-node", "--error-rate", "1.5"],
        &["mock-node", "--slots", "0"],
        &["keys"],
        &["keys", "create", "--name", "a", "--scopes", "everything"],
    ];
    for arguments in mistakes {
        let run = dir.run(arguments);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(!run.err.is_empty(), "{arguments:?}");
    }
}

#[test]
fn check_accepts_no_file_and_the_documented_file_alike() {
    let dir = WorkDir::new("check-good");
    let none = dir.run(&["check", "--host", "127.0.0.1"]);
    assert_eq!((none.code, none.err.as_str()), (Some(0), ""));
    let expected = "configuration is valid (no file, defaults): listens on 127.0.0.1:8080, \
                    0 nodes, 0 aliases\n";
    assert_eq!(none.out, expected);
    let documented = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    fs::copy(documented, dir.0.join("config.toml")).unwrap();
    let found = dir.run(&["check", "--host", "127.0.0.1"]);
    assert_eq!(found.code, Some(0));
    assert_eq!(
        found.out,
        none.out.replace("no file, defaults", "config.toml")
    );
}

#[test]
fn check_prints_every_problem_and_exits_with_2() {
    let dir = WorkDir::new("check-bad");
    fs::write(dir.0.join("my.toml"), "[server]\nprot = 1\nworkers = -1\n").unwrap();
    let run = Run::of(
        &dir.command(&[
            "check",
            "--config",
            "my.toml",
            "--port",
            "http",
            "--set",
            "log.level=loud",
        ])
        .env("LLMLB_QUEUE_MAX_SIZE", "0")
        .output()
        .unwrap(),
    );
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""));
    let expected = "\
llm-router: 5 problems in the configuration:
  my.toml:2: server.prot: unknown key; did you mean server.port?
  my.toml:3: server.workers = -1: must be a whole number from 0 to 1024
  LLMLB_QUEUE_MAX_SIZE: queue.max_size = \"0\": must be a whole number from 1 to 10000
  --port: server.port = \"http\": must be a whole number from 0 to 65535
  --set log.level: log.level = \"loud\": must be one of: error, warn, info, debug
";
    assert_eq!(run.err, expected);
}

#[test]
fn a_named_file_must_exist() {
    let dir = WorkDir::new("missing");
    for command in ["serve", "check"] {
        let run = dir.run(&[command, "--config", "none.toml"]);
        assert_eq!(run.code, Some(2));
        assert!(run.err.contains("none.toml: cannot be read"), "{}", run.err);
    }
}

#[test]
fn serve_refuses_a_reachable_listener_without_keys_and_check_warns_of_it() {
    let dir = WorkDir::new("fail-closed");
    let serve = dir.run(&["serve", "--port", "0"]);
    assert_eq!((serve.code, serve.out.as_str()), (Some(2), ""));
    assert!(serve.err.contains("there is no API key"), "{}", serve.err);
    let check = dir.run(&["check"]);
    assert_eq!(check.code, Some(0));
    assert!(check.err.contains("warning: ") && check.err.contains("there is no API key"));
}

#[test]
fn serve_refuses_a_damaged_key_file() {
    let dir = WorkDir::new("damaged");
    fs::create_dir(dir.0.join("data")).unwrap();
    fs::write(dir.0.join("data/api-keys.json"), "{").unwrap();
    let run = dir.run(&["serve", "--port", "0", "--host", "127.0.0.1"]);
    assert_eq!(run.code, Some(2));
    assert!(
        run.err.contains("data/api-keys.json is damaged"),
        "{}",
        run.err
    );
}

#[test]
fn a_key_is_created_shown_once_listed_and_revoked() {
    let dir = WorkDir::new("keys");
    assert!(dir.run(&["keys", "list"]).err.contains("no keys"));
    let created = dir.run(&[
        "keys",
        "create",
        "--name",
        "alice",
        "--scopes",
        "inference,nodes",
    ]);
    assert_eq!(created.code, Some(0), "{}", created.err);
    let key = created.out.trim_end();
    assert!(
        key.starts_with("sk-") && key.len() == 46,
        "only the key is on standard output"
    );
    assert!(!created.err.contains(key));

    let list = dir.run(&["keys", "list"]);
    assert!(!list.out.contains(key));
    let row: Vec<&str> = list
        .out
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(row[1], &key[key.len() - 4..]);
    assert_eq!(row[3..], ["never", "inference,nodes", "alice"]);

    let revoked = dir.run(&["keys", "revoke", row[0]]);
    assert_eq!(revoked.out, format!("revoked key {} \"alice\"\n", row[0]));
    for id in [row[0], "config-1", "all", "../x"] {
        let again = dir.run(&["keys", "revoke", id]);
        assert_eq!((again.code, again.out.as_str()), (Some(2), ""), "{id}");
    }
    assert!(dir.run(&["keys", "list"]).out.is_empty());
}

#[test]
fn an_expiry_is_listed() {
    let dir = WorkDir::new("expiry");
    let create = [
        "keys",
        "create",
        "--name",
        "guest",
        "--expires-in-days",
        "365",
    ];
    assert_eq!(dir.run(&create).code, Some(0));
    let list = dir.run(&["keys", "list"]).out;
    let row: Vec<&str> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert!(row[3] > row[2] && row[3].len() == 10, "{list}");
}

#[test]
fn keys_go_to_the_data_directory_of_the_configuration() {
    let dir = WorkDir::new("data-dir");
    fs::write(
        dir.0.join("config.toml"),
        "[server]\ndata_dir = 'from-file'\n",
    )
    .unwrap();
    let create = ["keys", "create", "--name", "a"];
    assert_eq!(dir.run(&create).code, Some(0));
    assert!(dir.0.join("from-file/api-keys.json").exists());
    let environment = dir
        .command(&create)
        .env("LLM_ROUTER_DATA_DIR", "from-env")
        .output()
        .unwrap();
    assert!(environment.status.success() && dir.0.join("from-env/api-keys.json").exists());
    let option = dir.run(&["keys", "create", "--name", "a", "--data-dir", "from-option"]);
    assert!(option.code == Some(0) && dir.0.join("from-option/api-keys.json").exists());
}

#[test]
fn processes_that_create_keys_at_the_same_time_lose_none() {
    let dir = WorkDir::new("concurrent");
    thread::scope(|scope| {
        for number in 0..8 {
            let dir = &dir;
            scope.spawn(move || {
                let run = dir.run(&["keys", "create", "--name", &format!("n{number}")]);
                assert_eq!(run.code, Some(0), "{}", run.err);
            });
        }
    });
    assert_eq!(dir.run(&["keys", "list"]).out.lines().count(), 9);
}

#[test]
fn an_invalid_name_is_refused() {
    let dir = WorkDir::new("name");
    let run = dir.run(&["keys", "create", "--name", ""]);
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""));
    assert_eq!(
        run.err,
        "llm-router: the name must be 1 to 64 bytes without control characters\n"
    );
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let dir = WorkDir::new("pipe");
    dir.run(&["keys", "create", "--name", "a"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let list = dir
        .command(&["keys", "list"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output();
    let list = Run::of(&list.unwrap());
    assert_eq!((list.code, list.err.as_str()), (Some(0), ""));
}

/// Serves with so many open files at most; returns the exit code and the messages, or no code, the process
/// ended from here, once it listens.
fn serve_with_open_files(dir: &WorkDir, count: u32, driver: &str) -> (Option<i32>, String) {
    // The time limit is for a process that neither listens nor ends.
    let script = format!("ulimit -n {count}; exec timeout -s KILL 10 \"$0\" \"$@\"");
    let mut serving = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_llm-router"), "serve"])
        .args(["--host", "127.0.0.1", "--port", "0"])
        .args(["--set", "server.drain_announce_secs=0"])
        .args(["--set", "server.workers=2", "--set"])
        .arg(format!("server.io_driver={driver}"))
        .current_dir(&dir.0)
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    for line in BufReader::new(serving.stderr.take().unwrap()).lines() {
        said.push_str(&line.unwrap());
        said.push('\n');
        if said.contains("listening on ") {
            // What it runs under passes the signal on.
            let pid = Pid::from_raw(i32::try_from(serving.id()).unwrap());
            kill(pid, Signal::SIGTERM).unwrap();
            serving.wait().unwrap();
            return (None, said);
        }
    }
    (serving.wait().unwrap().code(), said)
}

#[test]
fn serve_with_too_few_open_files_for_its_workers_is_a_start_up_error() {
    let dir = WorkDir::new("open-files");
    for driver in ["io_uring", "epoll"] {
        // Whatever the files run out for: listeners, rings, mailboxes, threads.
        let mut refused = 0;
        let listened = (8..64).any(|count| {
            let (code, said) = serve_with_open_files(&dir, count, driver);
            if code.is_some() {
                assert_eq!(code, Some(1), "{driver}, {count} open files: {said}");
                assert!(said.contains("llm-router: "), "{driver}, {count}: {said}");
                assert!(!said.contains("panicked"), "{driver}, {count}: {said}");
                refused += 1;
            }
            code.is_none()
        });
        assert!(
            listened,
            "{driver}: 63 open files are enough for two workers"
        );
        assert!(
            refused >= 5,
            "{driver}: only {refused} limits were too small"
        );
    }
}
