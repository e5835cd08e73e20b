//! The options of every command, with the help texts.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::builder::RangedI64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use llm_router::auth::Scope;
use llm_router::config::{Environment, Loaded, Override, Problems, Sources};

/// One OpenAI-compatible address in front of many inference nodes.
#[derive(Debug, Parser)]
#[command(name = "llm-router", version, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the router
    Serve(ServeOptions),
    /// Run the router on this machine with three built-in mock nodes; nothing else is needed
    Demo(DemoOptions),
    /// Run one mock OpenAI-compatible inference node
    MockNode(MockNodeOptions),
    /// Validate the configuration and print everything that is wrong
    Check(ConfigOptions),
    /// Create, list and revoke API keys in the data directory
    Keys(KeysOptions),
}

/// Options of `serve`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeOptions {
    #[command(flatten)]
    pub(super) config: ConfigOptions,
    /// Take over the listening sockets of the router that runs on the same data directory; it finishes
    /// what it has begun and ends
    #[arg(long)]
    pub(super) upgrade: bool,
}

/// Where the configuration comes from. Secrets are taken from the file and the environment only.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ConfigOptions {
    /// Configuration file; without it, config.toml of the working directory if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// IP address to listen on
    #[arg(long, value_name = "IP")]
    host: Option<String>,
    /// Port to listen on; 0 lets the system pick one
    #[arg(long)]
    port: Option<String>,
    /// Worker threads; 0 is one per available core
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// auto, io_uring or epoll
    #[arg(long, value_name = "DRIVER")]
    io_driver: Option<String>,
    /// Directory of the key file, the database and the hand-over socket
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// off, stdout, stderr or a file
    #[arg(long, value_name = "WHERE")]
    access_log: Option<String>,
    /// error, warn, info or debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any other setting by its path in the file, for example
    /// load_manager.max_concurrent=200; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_setting)]
    settings: Vec<(String, String)>,
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// Port of the router on 127.0.0.1; 0 lets the system pick one
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
}

/// Options of `mock-node`.
#[derive(Clone, Debug, Args)]
pub(crate) struct MockNodeOptions {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 lets the system pick one
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Name the node gives itself in its answers
    #[arg(long, default_value = "mock")]
    pub(crate) name: String,
    /// Models it serves, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "llama-3.2-1b")]
    pub(crate) models: Vec<String>,
    /// Requests it works on at once; more are refused with 503
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count(1..=1_000_000))]
    pub(crate) slots: u32,
    /// Milliseconds until the first token
    #[arg(long, value_name = "MS", default_value_t = 20.0, value_parser = parse_milliseconds)]
    pub(crate) first_token_ms: f64,
    /// Milliseconds between two tokens
    #[arg(long, value_name = "MS", default_value_t = 5.0, value_parser = parse_milliseconds)]
    pub(crate) token_interval_ms: f64,
    /// Tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = count(0..=1_000_000))]
    pub(crate) tokens: u32,
    /// Pad unary answers to this many bytes; 0 leaves them as they are
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) body_bytes: u64,
    /// Share of requests answered with an error, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_share)]
    pub(crate) error_rate: f64,
    /// Share of answers cut off in the middle, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_share)]
    pub(crate) disconnect_rate: f64,
    /// Seconds until an idle connection is closed, as many inference servers do
    #[arg(long, value_name = "SECS", default_value_t = 5.0, value_parser = parse_seconds)]
    pub(crate) keep_alive_secs: f64,
    /// Worker threads; 0 is one per available core
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count(0..=1024))]
    pub(crate) workers: u32,
}

/// Options of `keys`.
#[derive(Debug, Args)]
pub(crate) struct KeysOptions {
    #[command(subcommand)]
    pub(super) action: KeysAction,
    /// Configuration file that names the data directory; without it, config.toml if there is one
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Data directory, whatever the configuration says
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<String>,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeysAction {
    /// Make a key and print it, once
    Create {
        /// What to call it, 1 to 64 bytes
        #[arg(long)]
        name: String,
        /// What it may be used for, separated by commas
        #[arg(long, value_enum, value_delimiter = ',', default_value = "inference")]
        scopes: Vec<ScopeName>,
        /// Days until it expires; without it, never
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=36_500))]
        expires_in_days: Option<u64>,
    },
    /// Show all keys; the keys themselves are not kept
    List,
    /// Take a key away; a running router refuses it within one second
    Revoke {
        /// The id that `list` shows
        id: String,
    },
}

/// A scope as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ScopeName {
    /// The /v1 API
    Inference,
    /// Registering nodes
    Nodes,
    /// The control API, all of it
    Admin,
}

impl ConfigOptions {
    /// The layers of the configuration, with the options as the strongest one.
    pub(crate) fn sources(&self) -> Sources {
        let named = [
            ("server.host", "--host", &self.host),
            ("server.port", "--port", &self.port),
            ("server.workers", "--workers", &self.workers),
            ("server.io_driver", "--io-driver", &self.io_driver),
            ("server.data_dir", "--data-dir", &self.data_dir),
            ("log.access", "--access-log", &self.access_log),
            ("log.level", "--log-level", &self.log_level),
        ];
        let named = named.into_iter().filter_map(|(key, option, value)| {
            let value = value.clone()?;
            Some(Override {
                key: key.to_owned(),
                value,
                option: option.to_owned(),
            })
        });
        let set = self.settings.iter().map(|(key, value)| Override {
            key: key.clone(),
            value: value.clone(),
            option: format!("--set {key}"),
        });
        Sources {
            file: self.config.clone(),
            environment: Environment::of_process(),
            overrides: named.chain(set).collect(),
        }
    }

    /// Reads and resolves the layers.
    pub(crate) fn load(&self) -> Result<Loaded, Problems> {
        self.sources().load()
    }
}

impl KeysOptions {
    /// The same options as `serve` would take them.
    pub(super) fn config_options(&self) -> ConfigOptions {
        ConfigOptions {
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
            ..ConfigOptions::default()
        }
    }
}

impl ScopeName {
    /// The scope that is meant.
    pub(super) fn scope(self) -> Scope {
        match self {
            Self::Inference => Scope::Inference,
            Self::Nodes => Scope::Nodes,
            Self::Admin => Scope::Admin,
        }
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err("write it as KEY=VALUE".to_owned()),
    }
}

fn count(range: RangeInclusive<i64>) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(range)
}

fn parse_milliseconds(text: &str) -> Result<f64, String> {
    parse_number(text, 3_600_000.0)
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    parse_number(text, 86_400.0)
}

fn parse_share(text: &str) -> Result<f64, String> {
    parse_number(text, 1.0)
}

fn parse_number(text: &str, max: f64) -> Result<f64, String> {
    let value = text
        .parse::<f64>()
        .ok()
        .filter(|value| (0.0..=max).contains(value));
    value.ok_or_else(|| format!("must be a number from 0 to {max}"))
}
