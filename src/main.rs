//! The `llm-router` command.
use llm_router::{config, control, server};
use std::process::ExitCode;

fn main() -> ExitCode {
    let file = std::env::args().nth(2).map(Into::into);
    let sources = config::Sources {
        file,
        environment: config::Environment::default(),
        overrides: Vec::new(),
    };
    let loaded = match sources.load() {
        Ok(l) => l,
        Err(p) => {
            eprintln!("{p}");
            return ExitCode::from(2);
        }
    };
    let (key_file, keys) = control::load_keys(&loaded.config).unwrap();
    match server::Server::start(loaded.config, keys, |shared, failing| {
        control::start(shared, key_file, failing)
    }) {
        Ok(server) => match server.run() {
            server::Ending::Clean => ExitCode::SUCCESS,
            _ => ExitCode::from(3),
        },
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(2)
        }
    }
}
