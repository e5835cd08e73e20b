//! Any bytes as a response body in any slices: usage tap and event scanner see the same in all.
//!
//! The first byte chooses the slice size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_router::openai::{Usage, UsageTap};
use llm_router::sse::EventScanner;

const EVENT_BYTES_MAX: usize = 512;

fuzz_target!(|input: &[u8]| {
    let Some((&size, body)) = input.split_first() else {
        return;
    };
    let size = usize::from(size).max(1);
    assert_eq!(usage(body.chunks(size)), usage([body]));
    assert_eq!(usage(body.chunks(1)), usage([body]));
    assert_eq!(events(body.chunks(size)), events([body]));
    assert_eq!(events(body.chunks(1)), events([body]));
});

fn usage<'b>(slices: impl IntoIterator<Item = &'b [u8]>) -> Option<Usage> {
    let mut tap = UsageTap::new();
    slices.into_iter().for_each(|slice| tap.feed(slice));
    tap.usage()
}

/// The events up to the first error, and whether there was one.
fn events<'b>(slices: impl IntoIterator<Item = &'b [u8]>) -> (Vec<[Vec<u8>; 3]>, bool) {
    let mut scanner = EventScanner::new(EVENT_BYTES_MAX);
    let mut seen = Vec::new();
    let mut failed = false;
    for slice in slices {
        let verdict = scanner.feed(slice, |event| {
            assert!(event.data.len() < EVENT_BYTES_MAX);
            seen.push([event.name, event.data, event.last_id].map(<[u8]>::to_vec));
        });
        failed |= verdict.is_err();
    }
    assert_eq!(seen.len() as u64, scanner.event_count());
    (seen, failed)
}
