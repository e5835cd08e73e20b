//! A chunked body: the same outcome however split; what passes on is the same body without noise.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_router::http1::{ChunkError, ChunkedDecoder, Passing};
use llm_router_fuzz::partitions;

#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    passed: Vec<u8>,
    consumed: usize,
    finished: Result<bool, ChunkError>,
}

fuzz_target!(|input: &[u8]| {
    let data = decode(input, [input.len()], Passing::Data);
    let wire = decode(input, [input.len()], Passing::Chunks);
    for cuts in partitions(input) {
        assert_eq!(decode(input, cuts.iter().copied(), Passing::Data), data);
        assert_eq!(decode(input, cuts, Passing::Chunks), wire);
    }
    assert_eq!(
        (wire.consumed, wire.finished),
        (data.consumed, data.finished)
    );
    assert!(wire.passed.len() <= input.len());

    // The receiver of the raw relay reads the same data and the same end.
    let received = decode(&wire.passed, [wire.passed.len()], Passing::Data);
    assert_eq!(received.passed, data.passed);
    assert_eq!(
        received.finished,
        Ok(data.finished == Ok(true)),
        "no clean end is invented"
    );
    // Nothing is left to drop: relaying it once more changes nothing.
    let again = decode(&wire.passed, [wire.passed.len()], Passing::Chunks);
    assert_eq!(again.passed, wire.passed);
});

fn decode(input: &[u8], cuts: impl IntoIterator<Item = usize>, passing: Passing) -> Decoded {
    let mut decoder = ChunkedDecoder::new();
    let mut decoded = Decoded {
        passed: Vec::new(),
        consumed: 0,
        finished: Ok(false),
    };
    for end in cuts {
        while decoded.consumed < end && !decoder.is_finished() {
            let part = &input[decoded.consumed..end];
            match decoder.forward_range(part, passing) {
                Ok(step) => {
                    assert!(step.consumed > 0 && step.consumed >= step.forward.end);
                    decoded.passed.extend_from_slice(&part[step.forward]);
                    decoded.consumed += step.consumed;
                    assert_eq!(step.finished, decoder.is_finished());
                }
                Err(error) => {
                    decoded.finished = Err(error);
                    return decoded;
                }
            }
        }
    }
    decoded.finished = Ok(decoder.is_finished());
    decoded
}
