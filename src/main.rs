//! The `llm-router` command.

fn main() {}
