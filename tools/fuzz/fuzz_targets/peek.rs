//! Any bytes as a JSON request body: the verdict is serde_json's, and a spliced body reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_router::openai::peek::{PeekError, peek};
use llm_router::openai::{BodyKind, Splice};
use serde_json::Value;

fuzz_target!(|body: &[u8]| {
    let judged = serde_json::from_slice::<Value>(body);
    // The grammar has no limit on numbers, serde_json's types have.
    let too_large = judged
        .as_ref()
        .is_err_and(|error| error.to_string().contains("number out of range"));
    match peek(body) {
        Ok(seen) => {
            assert!(!seen.model.is_empty() && seen.model.len() <= 256);
            if let Ok(value) = &judged {
                assert_eq!(value["model"], seen.model.as_ref());
                assert_eq!(value["stream"].as_bool().unwrap_or(false), seen.stream);
            } else {
                assert!(too_large);
            }
            let stream = seen.stream;
            let splice = Splice::new(body, seen.model_range, BodyKind::Json, "a\"b").unwrap();
            let spliced = splice.to_vec();
            let again = peek(&spliced).unwrap();
            assert_eq!((again.model.as_ref(), again.stream), ("a\"b", stream));
        }
        Err(PeekError::InvalidJson { reason, at }) => {
            assert!(at <= body.len());
            let not_an_object = judged.as_ref().is_ok_and(|value| !value.is_object());
            assert!(judged.is_err() || not_an_object || reason == "nested too deeply");
        }
        Err(error) => {
            assert!(
                too_large || judged.is_ok_and(|value| value.is_object()),
                "{error:?}"
            );
        }
    }
});
