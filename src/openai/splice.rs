//! Replaces the model name in a request body in place, for aliases and cloud prefixes. Must never
//! touch a byte outside the range that the peek found.

use std::ops::Range;

use super::json::write_string;
use super::routes::BodyKind;

/// A body with another model name, as three pieces to be written one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice<'b> {
    prefix: &'b [u8],
    replacement: Vec<u8>,
    suffix: &'b [u8],
}

impl<'b> Splice<'b> {
    /// Puts `model` where `model_range` of a [`Peek`](super::Peek) of this `body` points.
    ///
    /// In a JSON body the name is written as a JSON string, in a multipart body as it is; there it
    /// comes from the configuration, which admits no control characters, so it cannot end its part.
    ///
    /// `None` if the range does not lie within the body, that is if it belongs to another body.
    pub fn new(
        body: &'b [u8],
        model_range: Range<usize>,
        kind: BodyKind,
        model: &str,
    ) -> Option<Self> {
        if model_range.start > model_range.end {
            return None;
        }
        let prefix = body.get(..model_range.start)?;
        let suffix = body.get(model_range.end..)?;
        let mut replacement = Vec::with_capacity(model.len().saturating_add(2));
        match kind {
            BodyKind::Json | BodyKind::None => write_string(&mut replacement, model),
            BodyKind::Multipart => replacement.extend_from_slice(model.as_bytes()),
        }
        Some(Self {
            prefix,
            replacement,
            suffix,
        })
    }

    /// The three pieces in their order; the first and last are slices of the original body.
    pub fn pieces(&self) -> [&[u8]; 3] {
        [self.prefix, &self.replacement, self.suffix]
    }

    /// The length of the new body in bytes.
    pub fn body_bytes(&self) -> usize {
        self.pieces()
            .iter()
            .fold(0, |sum, piece| sum.saturating_add(piece.len()))
    }

    /// The new body in one piece, for where a second buffer is cheaper than three writes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().concat()
    }
}

#[cfg(test)]
mod tests {
    use super::Splice;
    use crate::openai::{BodyKind, multipart, peek};
    use proptest::prelude::*;

    #[test]
    fn only_the_value_of_a_json_model_changes() {
        let body = br#"{ "model" : "alias" , "n":1e3,"x":"\u00e9" }"#;
        let range = peek::peek(body).unwrap().model_range;
        let splice = Splice::new(body, range, BodyKind::Json, "a\"b").unwrap();
        assert_eq!(
            splice.to_vec(),
            br#"{ "model" : "a\"b" , "n":1e3,"x":"\u00e9" }"#
        );
        assert_eq!(splice.body_bytes(), splice.to_vec().len());
    }

    #[test]
    fn only_the_value_of_a_multipart_model_changes() {
        let body = b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nw\r\n--b--\r\n";
        let range = multipart::peek("multipart/form-data; boundary=b", body)
            .unwrap()
            .model_range;
        let splice = Splice::new(body, range, BodyKind::Multipart, "whisper-1").unwrap();
        let expected =
            b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b--\r\n";
        assert_eq!(splice.to_vec(), expected);
    }

    #[test]
    fn a_range_of_another_body_is_refused() {
        assert_eq!(Splice::new(b"ab", 1..3, BodyKind::Json, "m"), None);
        let backwards = std::ops::Range { start: 2, end: 1 };
        assert_eq!(Splice::new(b"ab", backwards, BodyKind::Json, "m"), None);
    }

    proptest! {
        #[test]
        fn bytes_outside_the_range_are_identical(
            old in "[a-z\u{e9}\"\\\\]{1,20}",
            new in "\\PC{1,40}",
            before in "\\PC{0,40}",
            after in "\\PC{0,40}",
        ) {
            let text = |value: &str| serde_json::to_string(value).unwrap();
            let head = format!("{{\"a\": {} ,\"model\": ", text(&before));
            let tail = format!(" , \"z\":[{}]}} ", text(&after));
            let body = format!("{head}{}{tail}", text(&old));
            let seen = peek::peek(body.as_bytes()).unwrap();
            prop_assert_eq!(seen.model.as_ref(), old.as_str());
            let splice =
                Splice::new(body.as_bytes(), seen.model_range, BodyKind::Json, &new).unwrap();
            let [prefix, _, suffix] = splice.pieces();
            prop_assert_eq!(prefix, head.as_bytes());
            prop_assert_eq!(suffix, tail.as_bytes());
            let rebuilt = splice.to_vec();
            let again = peek::peek(&rebuilt).unwrap();
            prop_assert_eq!(again.model.as_ref(), new.as_str());
        }
    }
}
