//! Reads `/metrics` as the two-line parser of the user's guide does: a line that is not a comment is
//! a name, one space, a number.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::RawClient;

/// All samples of one scrape, by name with labels as written.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub text: String,
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    pub fn fetch(address: SocketAddr) -> Self {
        let mut client = RawClient::connect(address);
        client.send(b"GET /metrics HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n");
        let response = client.response();
        assert_eq!(response.status, 200);
        let text = String::from_utf8(response.body).unwrap();
        let samples = text
            .split('\n')
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                let parts: Vec<&str> = line.split(' ').collect();
                assert_eq!(parts.len(), 2, "a sample is a name and a number: {line:?}");
                (parts[0].to_owned(), parts[1].parse().unwrap())
            })
            .collect();
        Self { text, samples }
    }

    /// The sample of exactly this name and labels.
    #[track_caller]
    pub fn value(&self, name: &str) -> f64 {
        self.get(name).unwrap_or_else(|| panic!("no sample {name}"))
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.samples.get(name).copied()
    }

    /// The sum over all samples of a family.
    pub fn sum(&self, family: &str) -> f64 {
        self.samples
            .iter()
            .filter(|(name, _)| {
                name.strip_prefix(family)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
            })
            .map(|(_, value)| value)
            .sum()
    }

    /// How many requests were refused or given up for `reason`.
    pub fn rejections(&self, reason: &str) -> f64 {
        self.value(&format!(
            r#"llm_router_rejections_total{{reason="{reason}"}}"#
        ))
    }

    /// How many clients left in `phase`.
    pub fn cancelled(&self, phase: &str) -> f64 {
        self.value(&format!(r#"llm_router_cancelled_total{{phase="{phase}"}}"#))
    }

    /// How many requests wait for `model`.
    pub fn waiting_for(&self, model: &str) -> f64 {
        self.value(&format!(
            r#"llm_router_model_queue_size{{model="{model}"}}"#
        ))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.samples.keys().map(String::as_str)
    }

    /// Whether nothing is under way but this scrape, which is itself one connection.
    pub fn is_quiet(&self) -> bool {
        self.value("llm_router_requests_in_flight") == 0.0
            && self.value("llm_router_connections_active") == 1.0
            && self.value("llm_router_streams_active") == 0.0
            && self.value("llm_router_queue_size") == 0.0
            && self.sum("llm_router_model_queue_size") == 0.0
            && self.value("llm_router_backpressure_state") == 0.0
            && self.value("llm_router_buffered_body_bytes") == 0.0
            && self.sum("llm_router_node_in_flight") == 0.0
    }

    /// The gauges that [`Metrics::is_quiet`] looks at, for the message of a failure.
    pub fn gauges(&self) -> String {
        const SHOWN: [&str; 9] = [
            "llm_router_requests_in_flight",
            "llm_router_connections_active",
            "llm_router_streams_active",
            "llm_router_queue_size",
            "llm_router_model_queue_size",
            "llm_router_backpressure_state",
            "llm_router_buffered_body_bytes",
            "llm_router_node_in_flight",
            "llm_router_pool_connections",
        ];
        self.samples
            .iter()
            .filter(|(name, _)| SHOWN.iter().any(|shown| name.starts_with(shown)))
            .map(|(name, value)| format!("{name} {value}\n"))
            .collect()
    }
}
