//! Tests of the order of one queue.
