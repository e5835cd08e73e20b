//! Running `wrk` and reading what it says.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::series::Percentiles;
use super::{Failure, client};

/// What one run of `wrk` did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) request_count: u64,
    pub(crate) seconds: f64,
    pub(crate) latency: Percentiles,
}

/// `wrk` with a script for one request body.
#[derive(Debug)]
pub(crate) struct Wrk<'w> {
    pub(crate) program: &'w Path,
    pub(crate) script: PathBuf,
}

impl<'w> Wrk<'w> {
    /// Writes the script for chat requests of `body_bytes`, at least about 100.
    pub(crate) fn new(
        program: &'w Path,
        directory: &Path,
        body_bytes: usize,
    ) -> Result<Self, Failure> {
        let script = directory.join(format!("post-{body_bytes}.lua"));
        let (key, body) = (client::KEY, client::unary_body(body_bytes));
        // The body is JSON without backslashes or single quotes: a Lua string as it stands.
        fs::write(
            &script,
            format!(
                "wrk.method = 'POST'\n\
                 wrk.headers['Content-Type'] = 'application/json'\n\
                 wrk.headers['Authorization'] = 'Bearer {key}'\n\
                 wrk.body = '{body}'\n\
                 function done(_, latency, _)\n\
                 print(string.format('     95%% %.3fus', latency:percentile(95)))\n\
                 end\n"
            ),
        )?;
        Ok(Self { program, script })
    }

    /// Keeps so many connections busy for one second.
    ///
    /// # Errors
    /// When any answer was not a success or any connection failed.
    pub(crate) fn run(&self, address: SocketAddr, connection_count: usize) -> Result<Run, Failure> {
        let output = Command::new(self.program)
            .arg(format!("-c{connection_count}"))
            .args(["-t1", "-d1s", "--latency", "-s"])
            .arg(&self.script)
            .arg(format!("http://{address}{}", client::PATH))
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        read(&text).ok_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("wrk failed or was refused:\n{text}{errors}").into()
        })
    }
}

fn read(text: &str) -> Option<Run> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return None;
    }
    let totals = text.lines().find(|line| line.contains(" requests in "))?;
    let mut words = totals.split_ascii_whitespace();
    let request_count = words.next()?.parse().ok()?;
    let seconds = milliseconds(words.nth(2)?.trim_end_matches(','))? / 1000.0;
    let percentile = |name: &str| {
        let mut lines = text.lines();
        milliseconds(
            lines
                .find_map(|line| line.trim().strip_prefix(name))?
                .trim(),
        )
    };
    (request_count > 0).then_some(Run {
        request_count,
        seconds,
        latency: Percentiles {
            p50_ms: percentile("50%")?,
            p75_ms: percentile("75%")?,
            p90_ms: percentile("90%")?,
            // The script's own line.
            p95_ms: percentile("95%")?,
            p99_ms: percentile("99%")?,
        },
    })
}

/// A time as `wrk` writes it.
fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)];
    units
        .iter()
        .find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}
