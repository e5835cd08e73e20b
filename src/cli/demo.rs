//! `llm-router demo`: the router in front of three mock nodes, all in this process.

use std::fs::DirBuilder;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use llm_router::auth::key::KeyHash;
use llm_router::config::{BaseUrl, Config, NodeConfig};
use llm_router::mock::{self, MockOptions};
use llm_router::runtime::{self, Preference};
use llm_router::server;

use super::options::DemoOptions;
use super::output::{fail, say};
use super::serve::{self, Running};

/// Runs the router on 127.0.0.1 with three mock nodes until it is told to stop.
pub(crate) fn demo(options: &DemoOptions) -> ExitCode {
    let data_dir = match TemporaryDirectory::new() {
        Ok(directory) => directory,
        Err(error) => return fail(format!("cannot make a temporary directory: {error}")),
    };
    match start(options, &data_dir) {
        Ok(running) => {
            say(welcome(running.server.address()));
            running.run()
        }
        Err(reason) => fail(reason),
    }
}

/// Where a demo keeps what a router keeps; removed with everything in it.
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new() -> io::Result<Self> {
        let tag = getrandom::u64().map_err(io::Error::other)?;
        let name = format!("llm-router-demo-{tag:016x}");
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // The system clears what is left of it sooner or later.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(options: &DemoOptions, data_dir: &TemporaryDirectory) -> Result<Running, String> {
    // Before the nodes' threads exist: signals are for the router to receive.
    server::block_signals().map_err(|error| error.to_string())?;
    let nodes = NAMES
        .into_iter()
        .map(start_node)
        .collect::<Result<_, _>>()?;
    let mut config = Config {
        nodes,
        ..Config::default()
    };
    config.server.host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    config.server.port = options.port;
    // Nobody balances over a demo.
    config.server.drain_announce = Duration::ZERO;
    config.auth.api_keys = vec![KeyHash::of(KEY.as_bytes())];
    config.server.data_dir.clone_from(&data_dir.0);
    let running = serve::start(config, None, None).map_err(|failure| failure.to_string())?;
    if running.server.wait_until_ready(READY_TIMEOUT) {
        Ok(running)
    } else {
        Err("the mock nodes did not come up".to_owned())
    }
}

fn start_node(name: &str) -> Result<NodeConfig, String> {
    let explain = |error: io::Error| format!("cannot start the mock node {name}: {error}");
    let options = MockOptions {
        name: name.to_owned(),
        models: vec![CHAT_MODEL.to_owned(), EMBEDDING_MODEL.to_owned()],
        first_token_delay: Duration::from_millis(80),
        token_interval: Duration::from_millis(40),
        ..MockOptions::default()
    };
    let driver = runtime::choose(Preference::Auto).map_err(explain)?.driver;
    let node = mock::start(options, driver).map_err(explain)?;
    let base_url =
        BaseUrl::parse(&format!("http://{}", node.address)).map_err(|error| error.to_string())?;
    Ok(NodeConfig {
        name: name.to_owned(),
        base_url,
        models: Vec::new(),
        api_key: None,
        max_concurrency: Some(SLOTS),
        weight: 1,
    })
}

fn welcome(address: SocketAddr) -> String {
    format!(
        r#"
llm-router demo: http://{address} in front of the mock nodes {names}.
The dashboard is at http://{address}/: log in as admin with the password test.
The API key is {KEY}. Try, in another terminal:

  curl http://{address}/v1/chat/completions -H "Authorization: Bearer {KEY}" \
    -H "Content-Type: application/json" \
    -d '{{"model":"{CHAT_MODEL}","messages":[{{"role":"user","content":"Hello"}}]}}'

  curl -N http://{address}/v1/chat/completions -H "Authorization: Bearer {KEY}" \
    -H "Content-Type: application/json" \
    -d '{{"model":"{CHAT_MODEL}","stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}'

  curl http://{address}/v1/embeddings -H "Authorization: Bearer {KEY}" \
    -H "Content-Type: application/json" -d '{{"model":"{EMBEDDING_MODEL}","input":"Hello"}}'

  curl http://{address}/v1/models -H "Authorization: Bearer {KEY}"
  curl http://{address}/metrics

Press Ctrl-C to stop."#,
        names = NAMES.join(", "),
    )
}

const NAMES: [&str; 3] = ["mock-1", "mock-2", "mock-3"];
const KEY: &str = "sk-demo";
const CHAT_MODEL: &str = "llama-3.2-1b";
const EMBEDDING_MODEL: &str = "all-minilm-l6-v2";
/// Requests each mock node works on at once.
const SLOTS: u32 = 8;
const READY_TIMEOUT: Duration = Duration::from_secs(10);
