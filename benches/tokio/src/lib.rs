//! The router's work on tokio, twice, so that a comparison shows the runtime and the HTTP stack and
//! nothing else. For benchmarks only: no queue, no probes, no metrics, no drain; all of that would
//! only add to what these builds cost.
//!
//! * `axum-reqwest`: the way most gateways are built, on tokio's work-stealing runtime.
//! * `hyper-per-core`: the strongest form of the same stack: a pinned `current_thread` runtime per
//!   core with its own listener and connections, hyper on both sides, bodies passed on frame by frame.
//!
//! Each is a binary that takes `--config FILE` like `llm-router serve`. What they share:
//!
//! | module | owns |
//! |---|---|
//! | [`gateway`] | the only file that knows the product: configuration, keys, peek, admission, nodes |
//! | [`fields`] | which fields travel on, and those a gateway adds |
//! | [`start`] | command line, listeners, cores |

pub mod fields;
pub mod gateway;
pub mod start;
